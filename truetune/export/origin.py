"""What is exported: a run's result, an adapter, a model, or an adapter that mlx_lm made; and who computed it so far."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from truetune import engines
from truetune.engines import adapter
from truetune.errors import InputError, UsageError
from truetune.evaluate.subject import Subject, find_subject, resolve
from truetune.evaluate.voice import Voice
from truetune.models import gate
from truetune.models.source import STARTER, Source
from truetune.models.template import Template
from truetune.runs.run import Run

MLX_LM = "mlx_lm"
WEIGHTS = "adapters.safetensors"
"""Of an adapter in mlx_lm's layout."""


@dataclass(frozen=True)
class Side:
    """Who computes: `torch`, `mlx`, or `mlx_lm`; over which model, with an adapter in the layout that it reads."""

    engine: str
    model: Path
    adapter: Path | None = None
    bits: int = 0
    """Of the base, packed as it was for training."""


@dataclass(frozen=True)
class Origin:
    """What is exported. `side` is whose computation the export must equal."""

    name: str
    side: Side
    base: Source
    run: Run | None = None
    subject: Subject | None = None
    """How it is asked; None of an adapter that mlx_lm made, which mlx_lm itself asks."""
    planned: bool = False
    """Nothing is trained yet: it is only asked whether what is trained on this base could be exported."""

    @property
    def template(self) -> Template | None:
        """The chat template that goes with what is exported; None where it was trained on texts, or brings none."""
        found = self.subject.template if self.subject else None
        return found if found and (found.origin != "plain" or self.run) else None

    @property
    def title(self) -> str:
        """What the result is called in a run's folder: nothing for the run's result, `-best` for a checkpoint."""
        _, _, checkpoint = self.name.partition(":")
        return f"-{checkpoint}" if checkpoint else ""


def find(address: str, base: str | None = None) -> Origin:
    """What an address means. `base` is the model of an adapter that mlx_lm made, where its files do not say.

    Raises what `find_subject` and `models.source.resolve` raise, InputError `adapter.damaged`, UsageError
    `export.no_base`, `export.base`, `export.checkpoint`.
    """
    place = Path(address).expanduser()
    if (place / WEIGHTS).is_file() and not (place / adapter.WEIGHTS).is_file():
        return of_mlx_lm(place, base)
    if base:
        raise UsageError(
            "a base is named, and what is exported knows its own",
            code="export.base",
            where="base",
            hint="Leave it out; it is for the folder of an adapter that mlx_lm made.",
        )
    return of_subject(find_subject(address))


def of_subject(subject: Subject) -> Origin:
    refuse_scores(subject)
    if subject.weights:
        raise UsageError(
            "this is a checkpoint of full fine-tuning, and only its result is a whole model",
            code="export.checkpoint",
            where=subject.name,
            hint="Name the run when it has ended: ft export last.",
        )
    side = Side(Voice(subject).engine, subject.model or subject.base.folder, subject.adapter, bits=subject.bits)
    return Origin(subject.name, side, subject.base, subject.run, subject)


def refuse_scores(subject: Subject) -> None:
    """What is exported is for programs that write. Raises UsageError `export.scores`."""
    if not subject.scores:
        return
    if subject.adapter:
        hint = f"{subject.adapter} is PEFT's layout as it stands, head and classes included; its README.md loads it."
    else:
        hint = f"{subject.model} is what transformers loads as it stands; its README.md shows how."
    raise UsageError(
        "it gives scores and writes nothing, and exports are for programs that write",
        code="export.scores",
        where=subject.name,
        hint=hint,
    )


def of_mlx_lm(folder: Path, base: str | None) -> Origin:
    try:
        config = gate.parse(folder / adapter.CONFIG)
        names = base or named(config)
    except (ValueError, OSError, AttributeError) as error:
        raise InputError(
            f"the adapter's configuration cannot be read ({error})",
            code="adapter.damaged",
            where=str(folder / adapter.CONFIG),
            hint=adapter.COPY,
        ) from None
    if not names:
        raise UsageError(
            "this adapter of mlx_lm does not say what model it belongs to",
            code="export.no_base",
            where=str(folder),
            hint="Name it: --base MODEL.",
        )
    found = resolve(names, Path())
    return Origin(str(folder), Side(MLX_LM, found.folder, folder), found)


def named(config: Mapping[str, Any]) -> str:
    """The model that mlx_lm was told, or that PEFT's settings name."""
    peft = config.get("peft") or {}
    name = str(config.get("model") or peft.get("base_model_name_or_path") or "")
    return "starter" if name and Path(name) == STARTER else name


def loader() -> str:
    """The engine that reads PEFT's layout here."""
    return "torch" if engines.installed("torch") else "mlx"

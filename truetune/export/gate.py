"""The gate of an export: written aside, loaded by the program it is for, compared stage by stage, and put in place only
where all of it is what was trained."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from truetune import __version__
from truetune.errors import CheckFailed, InputError, UsageError
from truetune.evaluate.talk import out_of_memory
from truetune.export import bisect, card, probes, stages, toolarge
from truetune.export.bounds import TOLERANCE
from truetune.export.origin import Origin
from truetune.export.run_trained import Trained
from truetune.export.runtime import Logs, Options, Runtime, Target
from truetune.export.stages import Asked, Distance, Said, Stage
from truetune.models import facts
from truetune.runs import durable, jsonfile
from truetune.train import ancestry

TARGETS = {
    "mlx": "truetune.export.mlx",
    "peft": "truetune.export.peft",
    "merged": "truetune.export.merged",
    "gguf": "truetune.export.gguf.model",
    "gguf-lora": "truetune.export.gguf.adapter",
    "ollama": "truetune.export.ollama",
}
"""Format -> module of a `Target`, imported when it is wanted: PEFT takes seconds."""
ADAPTERS = ("mlx", "peft", "gguf-lora")
"""Formats that hold an adapter and no model; the others hold both in one."""
WHOLE = {"mlx": "truetune.export.mlx_model"}
"""Formats whose `--quant` asks for a whole model -> the module of that."""
ADAPTERS = ("mlx", "peft", "gguf-lora")
"""Formats that keep an adapter one, where `--quant` asks for no whole model."""
REPORT = "report.json"


def module(name: str, options: Options) -> str:
    """The module of a format. Raises UsageError `export.format`."""
    if name in TARGETS:
        return WHOLE[name] if options.quant and name in WHOLE else TARGETS[name]
    raise UsageError(
        f"there is no format {name!r}",
        code="export.format",
        where="format",
        hint=f"Formats: {', '.join(TARGETS)}.",
    )


def check(origin: Origin, how: Target, options: Options) -> None:
    """All that can be told before anything is loaded. Raises UsageError `export.quant`, and what the format refuses."""
    if options.quant is not None and options.quant not in how.QUANTS:
        kinds = ", ".join(how.QUANTS)
        raise UsageError(
            f"this format does not store {options.quant!r}",
            code="export.quant",
            where="quant",
            hint=f"Number types: {kinds}." if kinds else "Leave --quant out: it stores what was trained as it is.",
        )
    how.check(origin, options)


def place(origin: Origin, name: str, out: Path | None) -> Path:
    """Where an export goes. Raises UsageError `export.no_out`, `export.exists`."""
    if out is None and origin.run is None:
        raise UsageError(
            "what is no run has no folder for its exports",
            code="export.no_out",
            where="out",
            hint="Name one: --out DIR.",
        )
    target = out or Path(origin.run.folder if origin.run else "") / "exports" / f"{name}{origin.title}"
    if target.is_symlink() or (target.exists() and (not target.is_dir() or any(target.iterdir()))):
        raise UsageError(
            "there is something already, and nothing is written over",
            code="export.exists",
            where=str(target),
            hint="Name another place with --out, or remove it first.",
        )
    return target


@dataclass(frozen=True)
class Heard:
    """What the trained side said, and its base alone (None where there is no adapter, or it cannot be asked)."""

    asked: Asked
    said: Said
    base: Sequence[Logs] | None

    @cached_property
    def effect(self) -> Distance | None:
        """How far the adapter moves the base."""
        return stages.apart(self.said.logs, self.base) if self.said.logs and self.base else None


Opens = Callable[[Origin], Runtime]
"""Opens the program that computed so far."""


def write(
    origin: Origin,
    name: str,
    how: Target,
    target: Path,
    options: Options,
    *,
    force: bool = False,
    trained: Opens = Trained,
) -> dict[str, Any]:
    """Make the folder `target` as `how` does; returns its report, which stands in it as report.json, with a card.

    Raises CheckFailed `export.parity` where the export is not what was trained, with the stage that broke it (its
    JSON has `stage` and `stages`): then there is no folder, but with `force` there is one, and the report, card and
    receipt say so. InputError `adapter.no_effect`. Besides, what the format and the programs raise, and ResourceError.
    """
    reason = toolarge.why(origin, how)
    heard = Heard(Asked((), (), ()), toolarge.silent(), None) if reason else listen(origin, trained)
    reports: list[dict[str, Any]] = []

    def fill(folder: Path) -> None:
        if reason:
            stored, found = toolarge.made(origin, how, folder, options, reason)
            found, name_of = [base_stage(origin), *found], toolarge.NAME
        else:
            how.write(origin, folder, options)
            found, name_of = compared(origin, how, folder, heard)
            refuse_other(found, target, force)
            stored = how.reduce(origin, folder, options)
            if stored:
                found = [*found, *reduced(origin, how, folder, heard, stored)]
        refuse_other(found, target, force)
        whole = name not in ADAPTERS or bool(options.quant) or origin.side.adapter is None
        made = report(origin, name, heard, name_of, found, stored, whole)
        card.write(origin, folder, made, how.usage(origin, Path(target.name)))
        (folder / REPORT).write_bytes(jsonfile.dumps(made))
        reports.append(made)

    durable.place(target, fill)
    return reports[0]


def listen(origin: Origin, trained: Opens) -> Heard:
    """Ask the trained side. Raises InputError `adapter.no_effect` for an adapter that leaves its base as it was."""
    vocabulary = facts.read(origin.side.model).vocabulary
    with trained(origin) as runtime, out_of_memory():
        asked, said = stages.prepare(runtime, probes.talks(origin.subject), vocabulary)
        alone = runtime.base(asked.texts) if isinstance(runtime, Trained) and origin.side.adapter else None
    heard = Heard(asked, said, alone)
    if heard.effect and heard.effect.largest == 0:
        raise InputError(
            "the adapter changes nothing: with it the model computes exactly what its base does",
            code="adapter.no_effect",
            where=str(origin.side.adapter),
            hint="Nothing was written. Check that it is the adapter you mean, and that its training learned something.",
        )
    return heard


def compared(origin: Origin, how: Target, folder: Path, heard: Heard) -> tuple[list[Stage], str]:
    """The stages of what stands in float32, and who was asked; where it computes otherwise, with what broke it."""
    with how.runtime(origin, folder, True) as runtime, out_of_memory():
        said, called = stages.hear(runtime, heard.asked, heard.said.ends), runtime.name
    computed = stages.exact(heard.said, said, heard.asked)
    if computed.state == "failed":
        apart = stages.apart(said.logs, heard.base) if said.logs and heard.base else None
        rest = bisect.culprit(computed, apart, how.parts(origin, folder))
    else:
        rest = [base_stage(origin), Stage(stages.WEIGHTS, computed.state, "as the probabilities show"), computed]
    return [*stages.spoken(heard.said, said), *rest], called


def base_stage(origin: Origin) -> Stage:
    """That what was trained stands on the base it was trained on, by sha256: what opened it has compared them."""
    if origin.side.adapter is None:
        return Stage(stages.BASE, "not checked", "there is no adapter")
    card_names = ancestry.base_files(origin.side.adapter)
    known = "the run's receipt" if origin.run else "the adapter's card" if card_names else ""
    if not known:
        return Stage(stages.BASE, "not checked", "the adapter does not say by sha256 on which base it was trained")
    return Stage(stages.BASE, "ok", f"the base is the one that {known} names by sha256")


def reduced(origin: Origin, how: Target, folder: Path, heard: Heard, stored: str) -> list[Stage]:
    """What the stored number type costs; and the words again, where storing it wrote them anew and they are others."""
    with how.runtime(origin, folder, False) as runtime, out_of_memory():
        said = stages.hear(runtime, heard.asked, heard.said.ends)
    again = [one for one in stages.spoken(heard.said, said) if one.state == "failed"]
    return [*again, stages.rounded(heard.said, said, stored)]


def refuse_other(found: Sequence[Stage], target: Path, force: bool) -> None:
    failed = broken(found)
    if failed is None or force:
        return
    error = CheckFailed(
        f"the export is not what was trained; what broke is its {failed.name}: {failed.detail}",
        code="export.parity",
        where=str(target),
        hint=f"Nothing was written. {HINTS[failed.name]} --force puts it in place all the same, and records it.",
    )
    error.beside = {"stage": failed.name, "stages": [one.to_json() for one in found]}
    raise error


HINTS = {
    stages.TEMPLATE: "The other program reads another chat template; export the whole model: --format merged.",
    stages.TOKENIZER: "The other program cuts texts otherwise; use another format.",
    stages.ENDS: "Its answers would not end; use another format, or set eos_token_id in generation_config.json.",
    stages.BASE: "Export again from the base that the run names.",
    stages.WEIGHTS: "Export again; if it stays so, this is a bug, and report.json shows where.",
    stages.RUNTIME: "The two libraries read the settings of this model otherwise; use another format, or for MLX "
    "export the whole model: --quant bf16.",
    stages.QUANT: "Store more bits: --quant with a wider number type.",
}
"""Stage -> what to do."""


def broken(found: Sequence[Stage]) -> Stage | None:
    """The first stage that failed."""
    return next((one for one in found if one.state == "failed"), None)


def report(
    origin: Origin, name: str, heard: Heard, second: str, found: Sequence[Stage], stored: str | None, whole: bool
) -> dict[str, Any]:
    failed = broken(found)
    computed = next((dict(one.figures) for one in found if "tolerance" in one.figures), {})
    rounding = next((one for one in found if one.name == stages.QUANT), None)
    template = origin.template
    return {
        "schema": 1,
        "format": name,
        "of": origin.name,
        "base": {"name": origin.base.name, "revision": origin.base.revision},
        "adapter": origin.side.adapter is not None,
        "whole": whole,
        "template": template.digest if template else None,
        "effect": heard.effect.to_json() if heard.effect else None,
        "parity": {
            "first": heard.said.name,
            "second": second,
            "ok": failed is None,
            "stage": failed.name if failed else None,
            "stages": [one.to_json() for one in found],
            "tolerance": computed.get("tolerance", TOLERANCE),
            **{key: computed.get(key) for key in ("tokens", "largest", "mean", "kl", "top1")},
        },
        "stored": {"dtype": stored, **(rounding.figures if rounding else {})} if stored else None,
        "forced": failed.name if failed else None,
        "truetune": __version__,
    }

"""Runs that no training made: an adapter out of others, in a run folder of its own, with receipt, card and lineage.

train.yml      says so, in a comment      resolved.json  `made`: how and of what; `config`: what others read of a run
receipts/made.json, adapter/, status `finished`: from here on it is a run like any other, but for what needs rows
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from truetune import paths
from truetune.data import added
from truetune.data.turns import stop_ids
from truetune.engines import adapter as adapters
from truetune.errors import UsageError
from truetune.evaluate.subject import Subject
from truetune.registry import entry, madecard
from truetune.runs import durable, jsonfile, receipt
from truetune.runs.run import Run, new_id
from truetune.runs.status import Status
from truetune.train.reading import text_ends
from truetune.train.result import TOKENIZER
from truetune.train.session import LIBRARIES, described, version

TEMPLATE = "chat_template.jinja"
Body = dict[str, Any]


@dataclass(frozen=True)
class Recipe:
    """How an adapter is made of others."""

    how: str
    """`merged` or `compressed`."""
    parents: Sequence[Subject]
    addresses: Sequence[str]
    """The parents as they were named."""
    settings: Mapping[str, Any]
    """JSON-ready: method, weights, rank, …"""
    command: str
    """What makes it again."""


def make(recipe: Recipe, name: str, fill: Callable[[Path], Body]) -> Run:
    """A finished run under ./runs whose `adapter/` is what `fill` writes; `fill` returns figures, JSON-ready.

    Nothing of it is there when `fill` raises. Raises UsageError `made.other_bases`, `made.other_packing`, what `fill`
    raises, ResourceError.
    """
    base = refuse_other_bases(recipe.parents)
    folder = paths.runs() / new_id(name, now=datetime.now(UTC))
    figures: Body = {}

    def whole(aside: Path) -> None:
        result = aside / "adapter"
        result.mkdir(parents=True)
        figures.update(fill(result))
        beside(recipe.parents[0], result)
        write_beginning(recipe, name, base, aside)
        run = Run(aside)
        body = receipt_body(recipe, base, figures, run)
        digest = receipt.write(run, receipt.MADE, body)
        madecard.write(result, folder.name, body, recipe.parents[0], digest)
        Status.begin(aside)
        Status.update(run, state="finished")

    durable.place(folder, whole)
    return Run(folder)


def write_beginning(recipe: Recipe, name: str, base: Body, folder: Path) -> None:
    """train.yml, resolved.json and env.json."""
    (folder / "train.yml").write_text(f"# Nothing was trained here: {recipe.command}\n", encoding="utf-8")
    (folder / "resolved.json").write_bytes(jsonfile.dumps(resolved(recipe, name, folder / "adapter")))
    env = {
        "schema": 1,
        "versions": {name: found for name in LIBRARIES if (found := version(name))},
        "here": str(Path.cwd()),
        "command": recipe.command,
        "base": base,
    }
    (folder / "env.json").write_bytes(jsonfile.dumps(env))


def resolved(recipe: Recipe, name: str, result: Path) -> Body:
    """What other verbs read of a run: the base, how it was made, and the settings that mean something here."""
    first, body = recipe.parents[0], adapters.read_config(result)
    base = first.base
    method = "qlora" if first.bits else "dora" if body.get("use_dora") else "lora"
    return {
        "schema": 1,
        "made": {"how": recipe.how, "of": list(recipe.addresses), **recipe.settings},
        "folder": str(Path.cwd()),
        "model": {"folder": str(base.folder), "name": base.name, "kind": base.kind, "revision": base.revision},
        "config": {
            "model": {"adapter": None, "dtype": first.dtype, "revision": base.revision},
            "method": {
                "type": method,
                "r": body["r"],
                "alpha": body["lora_alpha"],
                "bits": first.bits,
                "target_modules": body["target_modules"],
            },
            "training": {"objective": first.objective},
            "generation": dict(first.generation),
            "resources": {"engine": "auto", "device": "auto"},
            "output": {"dir": None, "name": name},
        },
    }


def receipt_body(recipe: Recipe, base: Body, figures: Body, run: Run) -> Body:
    files = [path for path in sorted((run.folder / "adapter").iterdir()) if path.name != entry.CARD]
    own = [run.folder / name for name in ("train.yml", "resolved.json", "env.json")]
    return {
        "how": recipe.how,
        "settings": dict(recipe.settings),
        "base": base,
        "parents": [parent(*pair) for pair in zip(recipe.addresses, recipe.parents, strict=True)],
        "files": durable.digests([*own, *files], run.folder),
        "figures": figures,
    }


def parent(address: str, subject: Subject) -> Body:
    """One parent by its content, with the digests of what its adapter is made of."""
    place = adapter_of(subject)
    files = {name: durable.digest(place / name) for name in (adapters.CONFIG, adapters.WEIGHTS)}
    return {
        "address": address,
        "run": subject.run.id if subject.run else None,
        "step": subject.step,
        "folder": str(place.absolute()),
        "content": entry.content(place),
        "files": files,
    }


def beside(first: Subject, result: Path) -> None:
    """Tokenizer, template and settings of generation, so that it is asked as the first parent is."""
    own = adapter_of(first)
    whole = (own / "tokenizer.json").is_file()
    for name in TOKENIZER:
        if name != TEMPLATE and ((place := own if whole else first.base.folder) / name).is_file():
            shutil.copyfile(place / name, result / name)
    if first.run and not whole and (new := first.run.resolved.get("new_tokens")):
        added.write(result / "tokenizer.json", new)
    if first.template is not None:
        (result / TEMPLATE).write_text(first.template.source, encoding="utf-8")
    ends = stop_ids(first.template, first.tokenizer) if first.template else text_ends(first.tokenizer)
    drawn = {"do_sample": first.generation.get("temperature", 0) > 0, "eos_token_id": sorted(ends)}
    text = json.dumps(dict(first.generation) | drawn, indent=2, sort_keys=True)
    (result / "generation_config.json").write_text(text + "\n", encoding="utf-8")


def adapter_of(subject: Subject) -> Path:
    """Raises UsageError `made.no_adapter` for a whole model, `made.scores` for one that gives scores."""
    if subject.scores:
        raise UsageError(
            "it gives scores, and what reads its answers is part of it",
            code="made.scores",
            where=subject.name,
            hint="Merge and compress adapters of models that write.",
        )
    if subject.adapter is None:
        raise UsageError(
            "this is a whole model, and no adapter",
            code="made.no_adapter",
            where=subject.name,
            hint="Name adapters, runs that made one, or their checkpoints.",
        )
    return subject.adapter


def refuse_other_bases(parents: Sequence[Subject]) -> Body:
    """What a change is added to must be one and the same; returns the base as receipts describe it.

    Raises UsageError `made.other_bases`, `made.other_packing`.
    """
    bases = [based(subject) for subject in parents]
    for subject, base in zip(parents[1:], bases[1:], strict=True):
        differing = sorted(other_files(bases[0]["files"], base["files"]))
        if differing:
            raise UsageError(
                f"{parents[0].name} and {subject.name} were trained on different base models "
                f"({bases[0]['name']} and {base['name']}): {', '.join(differing[:3])} differ",
                code="made.other_bases",
                where=subject.name,
                hint="A change of one model means nothing in another: merge adapters of the same base.",
            )
        if subject.bits != parents[0].bits:
            raise UsageError(
                f"{parents[0].name} was trained beside {packed(parents[0].bits)}, {subject.name} beside "
                f"{packed(subject.bits)}",
                code="made.other_packing",
                where=subject.name,
                hint="The packed weights are another base: merge adapters that were trained in the same way.",
            )
    return bases[0]


def packed(bits: int) -> str:
    return f"the base packed to {bits} bits" if bits else "the base as it is stored"


def based(subject: Subject) -> Body:
    """{name, revision, folder, files} of a subject's base: as its run recorded it and `find_subject` has checked, else
    hashed now."""
    recorded = receipt.named_base(subject.run) if subject.run else {}
    return dict(recorded) if recorded.get("files") else described(subject.base)


def other_files(one: Mapping[str, str], other: Mapping[str, str]) -> Iterable[str]:
    """Weights and settings that differ; tokenizers and cards are not what a change is added to."""
    names = {name for name in (*one, *other) if name == "config.json" or name.endswith(".safetensors")}
    return (name for name in names if one.get(name) != other.get(name))

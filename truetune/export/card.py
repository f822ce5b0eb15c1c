"""The card of an export: what it is, how it was checked, how it is run, and what it was made from."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from truetune.export import toolarge
from truetune.export.origin import Origin
from truetune.runs import receipt
from truetune.train import ancestry
from truetune.train.card import licence
from truetune.train.markdown import code, inline, table

NAME = "README.md"
LIBRARIES = {"merged": "transformers", "gguf": "llama.cpp", "ollama": "llama.cpp"}
"""Format -> what the Hub calls the library that loads it, where that is not the format's own name."""
KINDS = {"merged": "merge"}
"""Format -> what the Hub calls a whole model of it."""
OWN = re.compile(r"^## Export\n.*", re.MULTILINE | re.DOTALL)


def write(origin: Origin, folder: Path, report: Mapping[str, Any], usage: str) -> None:
    """README.md of the folder. A card that came with an adapter is kept, and this is added to it."""
    path = folder / NAME
    brought = path.read_text("utf-8", "replace") if path.is_file() else ""
    parts = [OWN.sub("", brought).rstrip()] if brought else [front(origin, report), head(origin, report), base(origin)]
    parts += [exported(origin, report, usage)]
    path.write_bytes(("\n\n".join(filter(None, parts)) + "\n").encode("utf-8", "replace"))


def front(origin: Origin, report: Mapping[str, Any]) -> str:
    """The front matter. A base that is not on the hub has no name there."""
    fields: dict[str, Any] = {}
    if origin.base.kind == "hub":
        kind = KINDS.get(report["format"], "quantized") if report["whole"] else "adapter"
        fields |= {"base_model": origin.base.name, "base_model_relation": kind}
    fields["library_name"] = LIBRARIES.get(report["format"], report["format"])
    fields |= licence(origin.base.folder)
    fields |= {"pipeline_tag": "text-generation", "tags": ["truetune"]}
    lines = (f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in fields.items())
    return "\n".join(["---", *lines, "---"])


def head(origin: Origin, report: Mapping[str, Any]) -> str:
    title = origin.run.id if origin.run else Path(origin.name).name
    revision = f" at {code(origin.base.revision)}" if origin.base.revision else ""
    what = "A whole model, made from" if report["whole"] else "An adapter for"
    return f"# {inline(title)}, {inline(report['format'])}\n\n{what} {code(origin.base.name)}{revision}."


def base(origin: Origin) -> str:
    """The base's files by sha256, in the words of the training's card, which `ancestry` reads."""
    known = receipt.named_base(origin.run).get("files", {}) if origin.run else {}
    if not known and origin.side.adapter:
        known = ancestry.base_files(origin.side.adapter)
    revision = f" at {code(origin.base.revision)}" if origin.base.revision else ""
    rows = [
        (f"base {code(origin.base.name)}{revision}", code(file), f"`{each}`") for file, each in sorted(known.items())
    ]
    return "\n".join(["## Where it comes from", "", *table(("what", "file", "sha256"), rows)]) if rows else ""


def exported(origin: Origin, report: Mapping[str, Any], usage: str) -> str:
    """How it was checked, and how it is run."""
    parity = report["parity"]
    lines = ["## Export", ""]
    if report["forced"]:
        lines += [f"**Forced: this export is not what was trained. What broke is its {report['forced']}.**", ""]
    told = f"{parity['second']} was asked what {parity['first']}, which trained it, was asked."
    if parity["first"] == parity["second"] == toolarge.NAME:
        told = "The memory there did not hold the model, so that nothing was asked; its tensors were checked."
    lines += [f"Format {code(report['format'])}, written by TrueTune {report['truetune']}. {told}", ""]
    rows = [(one["name"], one["state"], inline(one["detail"])) for one in parity["stages"]]
    lines += [*table(("stage", "", ""), rows), ""]
    if report["template"]:
        lines += [f"Chat template: sha256 `{report['template']}`.", ""]
    if origin.run and (digest := receipt.digest(origin.run, "train")):
        lines += [f"Run {code(origin.run.id)}, training's receipt sha256 `{digest}`.", ""]
    return "\n".join([*lines, "```", usage, "```"])

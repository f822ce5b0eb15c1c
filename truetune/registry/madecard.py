"""The model card of an adapter that was made of others: what of, how, how near it is, and how to load it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from truetune.evaluate.subject import Subject
from truetune.runs import durable
from truetune.train import card
from truetune.train.markdown import code, inline, table

FIGURES = {
    "distance": "relative distance of its change from the weighted sum",
    "relative": "relative distance of its change from the original's",
    "energy": "share of the original's change kept, mean over layers",
    "energy_min": "the same in the layer that lost most",
    "kl": "KL divergence from the original after probes, mean, nats",
    "top1": "share of probes with the same likeliest token",
    "bytes": "bytes of its weights",
    "bytes_before": "bytes of the original's",
}
"""Figures of a receipt, as the card calls them."""


def write(result: Path, run: str, body: dict[str, Any], first: Subject, digest: str) -> None:
    """Into the adapter's folder; `digest` is that of the receipt `made`, which the last line names."""
    sections = [
        front(first),
        [f"# {inline(run)}", "", f"{about(body, first)}. Nothing was trained to make it."],
        ["## How it was made", "", *table(("", ""), settings(body))],
        ["## Use", "", f"```python\n{usage(first, result.name)}\n```"],
        ["## Where it comes from", "", *lineage(body)],
        [
            "## What it is for, and what it is not",
            "",
            "What its parents are for. It was measured on nothing but the figures above: measure it on rows of your "
            "own (`ft evaluate --data FILE`) before others rely on it. Whoever passes it on keeps to the licence of "
            "its base, and to the rights in the rows that its parents learned from.",
        ],
        ["## Receipt", "", "`ft receipt verify` recomputes it.", "", f"receipt: sha256:{digest}"],
    ]
    text = "\n\n".join("\n".join(lines) for lines in sections)
    durable.create(result / "README.md", (text + "\n").encode("utf-8", "replace"))


def front(first: Subject) -> list[str]:
    fields: dict[str, Any] = {}
    if first.base.kind == "hub":
        fields |= {"base_model": first.base.name, "base_model_relation": "adapter"}
    fields |= {"library_name": "peft"} | card.licence(first.base.folder)
    fields |= {"pipeline_tag": "text-generation", "tags": ["truetune", "lora"]}
    return ["---", *(f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in fields.items()), "---"]


def about(body: dict[str, Any], first: Subject) -> str:
    parents = " and ".join(code(parent["address"]) for parent in body["parents"])
    base = code(first.base.name) + (f" at {code(first.base.revision)}" if first.base.revision else "")
    return f"An adapter for {base}, {inline(body['how'])} from {parents} with TrueTune"


def settings(body: dict[str, Any]) -> list[tuple[str, str]]:
    chosen = [(inline(key.replace("_", " ")), inline(shown(value))) for key, value in body["settings"].items()]
    figures = [(FIGURES[key], inline(shown(value))) for key, value in body["figures"].items() if key in FIGURES]
    return [(label, value) for label, value in chosen + figures if value]


def shown(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(shown, value))
    return f"{value:.4g}" if isinstance(value, float) else "" if value is None else str(value)


def lineage(body: dict[str, Any]) -> list[str]:
    """Everything it was made from, by sha256."""
    base = body["base"]
    name = f"base {code(base['name'])}" + (f" at {code(base['revision'])}" if base["revision"] else "")
    rows = [(name, code(file), f"`{sha256}`") for file, sha256 in sorted(base["files"].items())]
    for parent in body["parents"]:
        known = f"{code(parent['address'])}" + (f" of run {code(parent['run'])}" if parent["run"] else "")
        rows += [(known, code(file), f"`{sha256}`") for file, sha256 in sorted(parent["files"].items())]
    return table(("what", "file", "sha256"), rows)


def usage(first: Subject, folder: str) -> str:
    base = {"name": first.base.name, "kind": first.base.kind, "revision": first.base.revision}
    objective = {"training": {"objective": first.objective}, "method": {"type": "lora", "bits": 4}}
    if first.bits:
        objective["method"] = {"type": "qlora", "bits": first.bits}
    return card.usage({"model": base | {"folder": str(first.base.folder)}, "config": objective}, folder)

"""The result of an evaluation: one JSON document, the same in the file, from Python and after `--json`.

    schema      1
    subject     name, run (id or null), step, base, kind ("adapter", "full" or "base")
    checkpoint  "step-200": the parameters that were measured; "result" where no step is known, null outside a run
    task        "chat", "instruction", "summarisation", "text" or "preference"
    data        held_out (the run's own rows), inputs [{path, resolved, sha256, bytes, rows}], format, rows,
                available (before `limit`), supervised, left_out {fate: rows}, contaminated (rows that the run was
                trained on; null = not known)
    settings    generate, temperature, top_p, top_k, seed, max_new_tokens, engine, device, dtype
    intervals   method, level, resamples, seed
    order       the metrics, the task's headline figures first
    figures     {metric: {title, better, headline, base, tuned, difference, verdict}}; base, tuned and difference are
                {value, low, high} or null; metrics and units in `metrics.py`, verdicts in `intervals.py`
    warnings    sentences
    rows        [{row, where, question, reference, base, tuned}]; a side is {metric: value, …} and, where an answer
                was asked for, {answer, reason, tokens}

Of a run it is saved as `eval/<name>.json`, where <name> is the checkpoint, for rows of another file
`<checkpoint>-<first 8 letters of their digest>`, and with 8 letters more where less or otherwise was measured than by
default (`special`): a quick look never replaces a full measurement. `receipts/evaluate-<name>.json` follows from the
training's receipt.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from truetune.engines.decoder import Sampling
from truetune.evaluate import intervals, sampling, tasks
from truetune.evaluate.material import Item, Material
from truetune.evaluate.measure import Side
from truetune.evaluate.metrics import METRICS
from truetune.evaluate.subject import Subject
from truetune.evaluate.voice import Voice
from truetune.runs import durable, jsonfile, receipt
from truetune.runs.run import Run

DRAWN = ("temperature", "top_p", "top_k", "seed", "max_new_tokens")
"""What decides how answers are drawn."""


def document(
    voice: Voice, material: Material, drawn: Sampling | None, found: Mapping[str, Side], warnings: list[str]
) -> dict[str, Any]:
    """The result, JSON-ready."""
    subject = voice.subject
    asked = drawn if material.task != "text" else None
    return {
        "schema": 1,
        "subject": described(subject),
        "checkpoint": checkpoint(subject),
        "task": material.task,
        "data": material.data,
        "settings": settings(asked) | {"engine": voice.engine, "device": voice.spec.device, "dtype": voice.spec.dtype},
        "intervals": intervals.METHOD,
        "order": tasks.order(material.task, list(found["base"].sums)),
        "figures": figures(material, found),
        "warnings": warnings,
        "rows": [row(item, place, found) for place, item in enumerate(material.items)],
    }


def described(subject: Subject) -> dict[str, Any]:
    return {
        "name": subject.name,
        "run": subject.run.id if subject.run else None,
        "step": subject.step,
        "base": subject.base.name,
        "kind": "adapter" if subject.adapter else "full" if subject.tuned else "base",
    }


def checkpoint(subject: Subject) -> str | None:
    if subject.run is None:
        return None
    return "result" if subject.step is None else f"step-{subject.step}"


def settings(drawn: Sampling | None) -> dict[str, Any]:
    if drawn is None:
        return {"generate": False}
    return {"generate": True} | {name: getattr(drawn, name) for name in DRAWN}


def figures(material: Material, found: Mapping[str, Side]) -> dict[str, Any]:
    base, tuned = found["base"].sums, found["tuned"].sums if "tuned" in found else {}
    return {
        name: {
            "title": METRICS[name].title,
            "better": METRICS[name].better or None,
            "headline": name in tasks.FIRST[material.task],
            **intervals.figure(METRICS[name], base[name], tuned.get(name)),
        }
        for name in tasks.order(material.task, list(base))
    }


def row(item: Item, place: int, found: Mapping[str, Side]) -> dict[str, Any]:
    body = {"row": item.row, "where": item.where, "question": item.question, "reference": item.reference}
    return body | {name: made(side, place) for name, side in found.items()}


def made(side: Side, place: int) -> dict[str, Any]:
    """What one side made of one row."""
    values = {name: float(METRICS[name].of(sums[place])) for name, sums in side.sums.items()}
    body: dict[str, Any] = {name: value if math.isfinite(value) else None for name, value in values.items()}
    reply = side.replies[place]
    return body | ({"answer": reply.text, "reason": reply.reason, "tokens": len(reply.ids)} if reply else {})


def save(subject: Subject, material: Material, result: dict[str, Any]) -> tuple[Path, str | None]:
    """Write a run's result and its receipt; returns the file, and the receipt's stage.

    A run that is not finished has no receipt of a training to follow from: the file alone is written.
    """
    assert subject.run is not None
    parts = (result["checkpoint"], (material.digest or "")[:8], special(subject, result))
    name = "-".join(filter(None, parts))
    path = subject.run.folder / "eval" / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    durable.write_json(path, result)
    if receipt.digest(subject.run, receipt.MADE if receipt.is_made(subject.run) else "train") is None:
        return path, None
    stage = f"{receipt.EVALUATE}{name}"
    receipt.write(subject.run, stage, proof(subject.run, subject, path, result))
    return path, stage


def special(subject: Subject, result: Mapping[str, Any]) -> str:
    """Eight letters for what was measured less or otherwise than by default; empty for all rows, with greedy answers
    as long as the subject's own settings allow."""
    data, chosen, told = result["data"], result["settings"], dict[str, Any]()
    if data["rows"] < data["available"]:
        told["rows"] = data["rows"]
    if result["task"] not in tasks.SILENT:
        usual = sampling.settled(subject.generation, {})["max_new_tokens"]
        if not chosen["generate"]:
            told["generate"] = False
        elif chosen["temperature"] > 0:
            told |= {name: chosen[name] for name in DRAWN}
        elif chosen["max_new_tokens"] != usual:
            told["max_new_tokens"] = chosen["max_new_tokens"]
    return hashlib.sha256(jsonfile.dumps(told)).hexdigest()[:8] if told else ""


def proof(run: Run, subject: Subject, path: Path, result: Mapping[str, Any]) -> dict[str, Any]:
    """The receipt's body: what was measured, on what, by sha256, and the headline figures."""
    data = result["data"]
    return {
        "checkpoint": result["checkpoint"],
        "files": durable.digests([path], run.folder),
        "weights": durable.digests(weights(subject), run.folder),
        "inputs": [] if data["held_out"] else data["inputs"],
        "held_out": data["held_out"],
        "rows": data["rows"],
        "contaminated": data["contaminated"],
        "figures": [
            {"title": figure["title"]} | {side: (figure[side] or {}).get("value") for side in ("base", "tuned")}
            for figure in result["figures"].values()
            if figure["headline"]
        ],
    }


def weights(subject: Subject) -> list[Path]:
    """The files with the trained parameters."""
    if subject.weights:
        return [subject.weights]
    folder = subject.adapter or subject.model
    return sorted(folder.glob("*.safetensors")) if folder else []


def write(path: Path, result: Mapping[str, Any]) -> None:
    """The document as a file that the user named."""
    durable.write_json(path, result)

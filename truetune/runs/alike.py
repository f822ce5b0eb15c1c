"""Are two runs the same training, to the last bit? Parameters, optimizer, random numbers, position in the data, log."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors import deserialize

from truetune.models import header
from truetune.runs import durable
from truetune.runs.checkpoints import Checkpoints
from truetune.runs.metrics import Metrics
from truetune.runs.run import Run

OPTIMIZER, RNG = "optimizer.safetensors", "rng.safetensors"
POSITION = ("step", "examples", "tokens", "supervised")
LOGGED = ("loss", "lr", "grad_norm", "tokens", "supervised")
PASSING = ("seconds", "resumes", *POSITION)
"""Parts of the state that are no part of the training, or are compared as the position."""


def compare(straight: Run, other: Run) -> dict[str, str | None]:
    """{part: the first thing that differs, or None} of the last checkpoints of two runs and of their logs.

    Raises InputError where a run has no whole checkpoint.
    """
    one, two = (Checkpoints(run).find("last") for run in (straight, other))
    states = [Checkpoints(run).load_state(each) for run, each in ((straight, one), (other, two))]
    counts = [{name: state.get(name) for name in POSITION} for state in states]
    rest = [{name: value for name, value in state.items() if name not in PASSING} for state in states]
    return {
        "parameters": parameters(one.folder, two.folder),
        "optimizer": tensors(one.folder / OPTIMIZER, two.folder / OPTIMIZER),
        "rng": tensors(one.folder / RNG, two.folder / RNG),
        "data": first(*counts),
        "state": first(*rest),
        "log": first(*(dict(log(run)) for run in (straight, other))),
    }


def parameters(one: Path, other: Path) -> str | None:
    names = {path.name for folder in (one, other) for path in folder.glob("*.safetensors")} - {OPTIMIZER, RNG}
    return next(filter(None, (tensors(one / name, other / name) for name in sorted(names))), None)


def tensors(one: Path, other: Path) -> str | None:
    """The first tensor, by name, that two safetensors files do not share; the file where one of them is missing."""
    if not (one.is_file() and other.is_file()):
        return one.name
    if durable.digest(one) == durable.digest(other):
        return None
    loaded = [
        {name: (each["dtype"], each["shape"], each["data"]) for name, each in entries(path)} for path in (one, other)
    ]
    texts = [header.parts(path)[1] for path in (one, other)]  # the same ones in another order are the same
    return first(*loaded) or first(*texts)


def entries(path: Path) -> list[tuple[str, dict[str, Any]]]:
    found: list[tuple[str, dict[str, Any]]] = deserialize(path.read_bytes())  # type: ignore[no-untyped-call]
    return found


def log(run: Run) -> Iterator[tuple[str, Any]]:
    """What the log says of each step and evaluation, without times and speeds."""
    for row in Metrics(run.folder / "metrics.jsonl").read():
        if row["kind"] in ("train", "eval"):
            yield f"{row['kind']} {row['step']}", [row.get(name) for name in LOGGED]


def first(one: dict[str, Any], other: dict[str, Any]) -> str | None:
    """The first key whose values differ, or that only one has."""
    return next(
        (key for key in sorted({*one, *other}) if (key in one, one.get(key)) != (key in other, other.get(key))), None
    )

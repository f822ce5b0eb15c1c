"""Recompute a run's receipts, offline: the chain, the sha256 of every file they name, and the arithmetic.

Four answers: `ok`; `changed` (the bytes or the sum differ); `absent` (nothing there to compare with); `not checked`
(the receipt does not say, or its stage has not happened). Changed items fail the verification, and so do absent ones
of the run's own (its adapter, its settings). Inputs outside the run (data, base model) that were moved or deleted are
shown as absent and fail nothing; `data` and `base` say where they are now.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from truetune.runs import durable, jsonfile, receipt
from truetune.runs.run import Run
from truetune.runs.status import Status

State = Literal["ok", "changed", "absent", "not checked"]
Watch = Callable[[str], None]
FATES = ("used", "rejected", "deduplicated", "contaminated", "too_long", "unsupervised", "sampled_out")
_CARD = re.compile(r"^receipt: sha256:([0-9a-f]{64})$", re.MULTILINE)


@dataclass(frozen=True)
class Item:
    """One thing that was checked. `own` = the run is incomplete without it."""

    stage: str
    name: str
    state: State
    detail: str = ""
    own: bool = True

    @property
    def failed(self) -> bool:
        return self.state == "changed" or (self.state == "absent" and self.own)


def verdict(items: list[Item]) -> Literal["ok", "changed"]:
    return "changed" if any(item.failed for item in items) else "ok"


def verify(
    run: Run, *, data: Path | None = None, base: Path | None = None, watch: Watch = lambda name: None
) -> list[Item]:
    """Every item of every receipt, in order.

    data   where the inputs are now: a folder, or the file itself where there is one input
    base   the folder of the base model now
    watch  is told the name of each file before it is hashed (base models are big)

    Raises InputError where the run has no receipt.
    """
    bodies = {stage: _body(run, stage) for stage in receipt.stages(run)}
    if not bodies:
        receipt.read(run)
    items = list(_expected(run, bodies))
    for stage, body in bodies.items():
        items.append(_link(run, stage, body))
        if body is None:
            continue
        items += _inputs(run, stage, body, data, watch)
        items += _base(run, stage, body, base, watch)
        items += _files(run, stage, body, watch)
        items += _weights(run, stage, body, watch)
        items += _parents(stage, body, watch)
        items += _export(run, stage, body, watch)
        items += _sums(stage, body)
    items += _card(run, bodies)
    return items


def _body(run: Run, stage: str) -> dict[str, Any] | None:
    try:
        return jsonfile.parse(receipt.path(run, stage).read_bytes())
    except OSError:
        return None


def _expected(run: Run, bodies: dict[str, Any]) -> Iterator[Item]:
    """Stages without a receipt: gone where the run is finished, not reached yet where it is not."""
    finished = Status.read(run).state == "finished"
    for stage in () if receipt.MADE in bodies else receipt.CHAIN:
        if stage in bodies:
            continue
        if finished and stage != "eval":
            yield Item(stage, "receipt", "absent", "the run is finished, its receipt is gone")
        else:
            yield Item(stage, "receipt", "not checked", "this run has none", own=False)


def _link(run: Run, stage: str, body: dict[str, Any] | None) -> Item:
    """Does the receipt name the parent that is there?"""
    if body is None:
        return Item(stage, "chain", "changed", "the receipt is no readable JSON")
    if body.get("stage") != stage:
        return Item(stage, "chain", "changed", f"the receipt says it is of stage {body.get('stage')}")
    before = receipt.parent(stage, receipt.is_made(run))
    if before is None:
        agrees = body.get("parent") is None
        return Item(stage, "chain", "ok" if agrees else "changed", "the first link")
    found = receipt.digest(run, before)
    if found is None:
        return Item(stage, "chain", "absent", f"receipts/{before}.json is gone")
    if found != body.get("parent"):
        return Item(stage, "chain", "changed", f"receipts/{before}.json is not the one this receipt was made from")
    return Item(stage, "chain", "ok", f"follows from {before}")


def _inputs(run: Run, stage: str, body: dict[str, Any], data: Path | None, watch: Watch) -> Iterator[Item]:
    inputs = [entry for entry in _list(body.get("inputs")) if isinstance(entry, dict)]
    for entry in inputs:
        name = str(entry.get("path", ""))
        place = Path(run.moved(str(entry.get("resolved") or name)))
        if data is not None:
            place = (
                data if data.is_file() and len(inputs) == 1 else (data if data.is_dir() else data.parent) / place.name
            )
        yield _compare(stage, name, place, entry.get("sha256"), watch, own=False, option="--data")


def _base(run: Run, stage: str, body: dict[str, Any], base: Path | None, watch: Watch) -> Iterator[Item]:
    described = _dict(body.get("base"))
    files = _dict(described.get("files"))
    folder = base or Path(run.moved(str(described.get("folder", ""))))
    for name, expected in files.items():
        yield _compare(stage, f"base/{name}", folder / name, expected, watch, own=False, option="--base")


def _files(run: Run, stage: str, body: dict[str, Any], watch: Watch) -> Iterator[Item]:
    for name, expected in _dict(body.get("files")).items():
        place = run.folder / name
        if not place.resolve().is_relative_to(run.folder.resolve()):
            yield Item(stage, name, "changed", "the receipt names a file outside the run")
            continue
        yield _compare(stage, name, place, expected, watch, own=True)


def _weights(run: Run, stage: str, body: dict[str, Any], watch: Watch) -> Iterator[Item]:
    """What was measured. Older checkpoints go as a run goes on: one that is gone fails nothing."""
    for name, expected in _dict(body.get("weights")).items():
        yield _compare(stage, name, run.folder / name, expected, watch, own=False)


def _parents(stage: str, body: dict[str, Any], watch: Watch) -> Iterator[Item]:
    """What it was made of: adapters of other runs, which may go."""
    for number, parent in enumerate(map(_dict, _list(body.get("parents"))), 1):
        for name, expected in _dict(parent.get("files")).items():
            place = Path(str(parent.get("folder", ""))) / name
            yield _compare(stage, f"parent {number}/{name}", place, expected, watch, own=False)


def _export(run: Run, stage: str, body: dict[str, Any], watch: Watch) -> Iterator[Item]:
    """The files of an export, in the run or elsewhere. One that was moved away or removed fails nothing; one that was
    forced through the parity gate says so."""
    described = _dict(body.get("export"))
    folder = run.folder / str(described.get("folder", ""))
    for name, expected in _dict(described.get("files")).items():
        yield _compare(stage, name, folder / name, expected, watch, own=False)
    if described and body.get("forced"):
        yield Item(
            stage, "parity", "not checked", f"forced although it is not what was trained: {body['forced']}", False
        )


def _compare(stage: str, name: str, place: Path, expected: Any, watch: Watch, *, own: bool, option: str = "") -> Item:
    watch(name)
    try:
        found = durable.digest(place)
    except FileNotFoundError:
        hint = f"not at {place}; {option} says where it is now" if option else "the file is gone"
        return Item(stage, name, "absent", hint, own)
    except OSError as error:
        return Item(stage, name, "absent", f"cannot be read: {error.strerror}", own)
    if found != expected:
        return Item(stage, name, "changed", f"sha256 was {str(expected)[:12]}…, is {found[:12]}…", own)
    return Item(stage, name, "ok", f"sha256 {found[:12]}…", own)


def _sums(stage: str, body: dict[str, Any]) -> list[Item]:
    """The arithmetic of a stage: what was read went somewhere, what was promised was counted, something was learned."""
    if stage == "data":
        rows = _dict(body.get("rows"))
        return [
            _equal(stage, "rows", rows, ("read",), FATES, "rows read = used + set aside"),
            _equal(stage, "split", rows, ("used",), ("train", "validation"), "rows used = train + validation"),
        ]
    if stage == "train":
        return [
            _equal(
                stage, "supervised", _dict(body.get("supervised")), ("promised",), ("counted",), "promised = counted"
            ),
            _equal(stage, "examples", _dict(body.get("examples")), ("promised",), ("counted",), "promised = counted"),
            _equal(stage, "tensors", _dict(body.get("changed_tensors")), ("of",), ("changed",), "every tensor changed"),
            _gradient(stage, _dict(body.get("grad_norm"))),
        ]
    return []


def _equal(
    stage: str, name: str, numbers: dict[str, Any], left: tuple[str, ...], right: tuple[str, ...], text: str
) -> Item:
    """Both sides' sums agree. A fate the receipt does not name counts as none, a side without numbers as unknown."""
    sides = [[numbers[key] for key in keys if isinstance(numbers.get(key), int)] for keys in (left, right)]
    if not all(sides):
        return Item(stage, name, "not checked", "the receipt does not say", own=False)
    first, second = map(sum, sides)
    if first != second:
        return Item(stage, name, "changed", f"{text}: {first:,} is not {second:,}")
    return Item(stage, name, "ok", f"{text}: {first:,}")


def _gradient(stage: str, norm: dict[str, Any]) -> Item:
    smallest = norm.get("min")
    if not isinstance(smallest, int | float):
        return Item(stage, "gradient", "not checked", "the receipt does not say", own=False)
    if smallest == 0 and norm.get("flat"):
        return Item(stage, "gradient", "ok", "zero in some step, as a hinge loss may be")
    if not smallest > 0:
        return Item(stage, "gradient", "changed", "the gradient was zero in some step")
    return Item(stage, "gradient", "ok", f"never zero, smallest norm {smallest:.3g}")


def _card(run: Run, bodies: dict[str, Any]) -> list[Item]:
    """The digest in the model card is that of the last receipt of the chain: it anchors all before it."""
    last = bodies.get("train") or bodies.get(receipt.MADE) or {}
    folder = next((name.split("/")[0] for name in _dict(last.get("files")) if "/" in name), None)
    if folder is None:
        return []
    name = f"{folder}/README.md"
    try:
        match = _CARD.search((run.folder / name).read_text(encoding="utf-8", errors="replace"))
    except OSError:
        match = None
    if match is None:
        return [Item("card", name, "absent", "no line `receipt: sha256:…` in the model card", own=False)]
    digests = {receipt.digest(run, stage): stage for stage in (*receipt.CHAIN[1:], receipt.MADE) if stage in bodies}
    stage = digests.get(match[1])
    if stage is None:
        return [Item("card", name, "changed", "the model card names another receipt")]
    return [Item("card", name, "ok", f"names the {stage} receipt, {match[1][:12]}…")]


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []

"""What many rows cost: parts of files that are read when they are wanted, and no object for each row."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from truetune.data.ledger import Ledger
from truetune.data.rows import Reject
from truetune.data.split import Traits, hold_out
from truetune.data.steps import Steps
from truetune.data.stored import Stored
from truetune.errors import ResourceError
from truetune.train.resolve import promised


def test_a_part_of_a_file_is_its_readers_own(tmp_path: Path) -> None:
    path, numbers = tmp_path / "ids.i32", np.arange(100, dtype=np.int32)
    numbers.tofile(path)
    stored = Stored(path, np.int32)
    part = stored[10:20]
    assert len(stored) == 100 and part.tolist() == [*range(10, 20)] and part.dtype == np.int32
    part[:] = 0
    assert stored[8:12].tolist() == [8, 9, 10, 11] and not len(stored[7:7])
    path.unlink()  # the cache may remove an entry that a training reads
    assert stored[98:].tolist() == [98, 99]


def test_a_file_that_becomes_shorter_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "ids.i32"
    np.arange(100, dtype=np.int32).tofile(path)
    stored = Stored(path, np.int32)
    with path.open("r+b") as stream:
        stream.truncate(80)
    with pytest.raises(ResourceError) as refused:
        stored[10:30]
    assert refused.value.finding.code == "data.cache" and stored[:20].tolist() == [*range(20)]


@pytest.mark.parametrize(("steps", "without"), [(3, ()), (7, (2, 6)), (8, (7, 8)), (31, (1, 30, 99))])
def test_what_is_promised_is_what_the_steps_take(steps: int, without: tuple[int, ...]) -> None:
    order, rng = Steps(examples=25, batch=4, seed=3), np.random.default_rng(0)
    lengths = rng.integers(1, 100, 25)
    train = SimpleNamespace(lengths=lengths, supervised_counts=lengths // 2)
    taken = [order.indices(step) for step in range(steps) if step + 1 not in without]
    found = promised(SimpleNamespace(order=order), SimpleNamespace(train=train), steps, without)  # type: ignore[arg-type]
    assert found["examples"] == sum(map(len, taken))
    assert found["tokens"] == sum(int(lengths[step].sum()) for step in taken)
    assert found["supervised"] == sum(int((lengths // 2)[step].sum()) for step in taken)


def test_choosing_rows_holds_no_object_for_each() -> None:
    """Traced bytes for each of the rows: arrays of their numbers, sorted."""
    count = 100_000
    keys = np.random.default_rng(0).integers(0, 2**63, count).astype(np.uint64)
    traits = Traits(keys, keys, np.arange(count), np.zeros(count, np.int64))
    tracemalloc.start()
    held = hold_out(traits, "auto", seed=1).held
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(held) == 500 and peak < 100 * count


def test_reasons_of_refused_rows_are_counted_and_not_kept() -> None:
    ledger = Ledger("sft")
    tracemalloc.start()
    for row in range(20_000):
        ledger.refuse(Reject(row, "a.jsonl", row, "data.duplicate", f"the row equals a.jsonl:{row}", "{}"))
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert ledger.rows["deduplicated"] == 20_000 and held < 200_000
    assert ledger._common() == [("the row equals a.jsonl:0", 20_000)]

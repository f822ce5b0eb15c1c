"""Work in threads: in order, as many as allowed, given up at the first error."""

from __future__ import annotations

import threading

import pytest

from truetune.augment.threads import together


def test_the_order_is_that_of_the_items() -> None:
    gate = threading.Barrier(3, timeout=120)

    def work(item: int) -> int:
        gate.wait()  # three at a time, or it breaks
        return item * item

    assert together(work, range(9), 3) == [0, 1, 4, 9, 16, 25, 36, 49, 64]
    assert together(work, [], 3) == []


def test_the_first_error_ends_it() -> None:
    begun: list[int] = []
    failed, left = threading.Event(), threading.Event()

    def work(item: int) -> None:
        begun.append(item)
        if item:
            failed.set()
            raise ValueError(item)
        failed.wait(120)
        left.wait(10)  # still at work when the other has failed

    with pytest.raises(ValueError, match="1"):
        together(work, range(100), 2)
    left.set()
    assert set(begun) <= {0, 1}

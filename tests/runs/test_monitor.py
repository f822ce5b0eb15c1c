"""The memory monitor names a planted leak, and accuses nobody of keeping what a training keeps."""

from __future__ import annotations

import gc
import re
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import truetune as ft
from truetune.engines.base import Usage
from truetune.runs.monitor import Report, cuda, held, theil_sen

STEPS = 24
BIG = 30_000
"""Numbers in an array: 240 kB."""


@pytest.fixture(autouse=True)
def few_objects() -> Iterator[None]:
    """What is there before the test is not looked at, which is ten times as fast."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def watched(work: Callable[[int], object], steps: int = STEPS, **options: Any) -> Report:
    with ft.MemoryMonitor(**options) as memory:
        for number in range(steps):
            work(number)
            memory.step(f"step {number}")
    return memory.report()


def line_of(text: str) -> str:
    """`file:line` of the line of this file that ends with a mark."""
    numbers = [number for number, line in enumerate(Path(__file__).read_text().splitlines(), 1) if line.endswith(text)]
    return f"{__file__}:{numbers[0]}"


def test_a_leak_of_arrays_is_named_by_its_line() -> None:
    kept = []

    def train(number: int) -> None:
        activations = np.ones(BIG)  # the leak
        kept.append(activations)

    report = watched(train, trace=True)
    assert report.verdict == "grows"
    assert report.traced_growth == pytest.approx(8 * BIG, rel=0.05)
    assert [suspect.what for suspect in report.suspects] == [line_of("# the leak")]
    told = re.search(r"memory grows by (\d+) kB per step", str(report))
    assert told and int(told[1]) == pytest.approx(8 * BIG / 1000, rel=0.05)
    assert f"{line_of('# the leak')}: 240 kB, " in str(report)


def test_without_tracing_the_container_is_named() -> None:
    kept = []
    report = watched(lambda number: kept.append(np.ones(BIG)))
    assert report.verdict == "grows"
    assert report.suspects[0].kind == "container"
    assert report.suspects[0].what.startswith("list kept in test_without_tracing_the_container_is_named (")
    assert report.suspects[0].count == pytest.approx(1)
    if held() is not None:
        assert report.growth == pytest.approx(8 * BIG, rel=0.2)


class Trainer:
    def __init__(self) -> None:
        self.history: dict[int, Any] = {}


def test_an_attribute_is_named_too() -> None:
    trainer = Trainer()
    report = watched(lambda number: trainer.history.update({number: bytearray(BIG)}))
    assert report.suspects[0].what == "dict Trainer.history"


class Node:
    def __init__(self, payload: int) -> None:
        self.payload = bytearray(payload)
        self.next: Node | None = None


def test_a_leak_that_no_container_holds_shows_as_a_type() -> None:
    chain = Node(0)

    def train(number: int) -> None:
        nonlocal chain
        node = Node(BIG)
        node.next, chain = chain, node

    report = watched(train)
    assert report.verdict == "grows"
    assert any(suspect.kind == "type" and suspect.what.endswith("Node") for suspect in report.suspects)


def loops() -> Iterator[tuple[str, Callable[[int], object]]]:
    """Trainings that keep nothing, or no more than their figures."""
    figures: list[float] = []
    window: deque[Any] = deque(maxlen=4)
    latest: dict[str, Any] = {}
    draw = np.random.default_rng(0)
    yield "arrays", lambda number: np.ones(BIG).sum()
    yield "sizes", lambda number: [np.ones(int(size)) for size in draw.integers(10, BIG, 8)]
    yield "figures", lambda number: figures.append(float(np.ones(BIG).sum()))
    yield "window", lambda number: window.append(np.ones(BIG))
    yield "latest", lambda number: latest.update(batch=np.ones(BIG))
    yield "cycles", lambda number: cycle(np.ones(BIG // 10))


def cycle(payload: Any) -> None:
    """Garbage that only the collector frees."""
    ring: list[Any] = [payload]
    ring.append(ring)


@pytest.mark.parametrize("trace", [False, True])
@pytest.mark.parametrize("work", [work for _, work in loops()], ids=[name for name, _ in loops()])
def test_a_training_without_a_leak_is_not_accused(work: Callable[[int], object], trace: bool) -> None:
    for _ in range(2):
        report = watched(work, trace=trace)
        assert (report.verdict, report.suspects) == ("steady", ()), str(report)


def test_few_steps_say_nothing() -> None:
    kept = []
    report = watched(lambda number: kept.append(np.ones(BIG)), steps=5)
    assert (report.verdict, report.suspects, report.growth) == ("unknown", (), 0)
    assert "too few steps" in str(report)


def test_the_peak_and_the_step_that_had_it() -> None:
    memory, limit = ft.MemoryMonitor(interval=0.001), time.monotonic() + 60
    with memory:
        for number in range(STEPS):
            if number == 7:
                held = np.ones(20_000_000)
                while memory._high < memory.start + 100_000_000 and time.monotonic() < limit:  # until a sample sees it
                    time.sleep(0.001)
                del held
            memory.step(f"step {number}")
    report = memory.report()
    assert report.peak > report.start + 100_000_000
    assert report.peak_at == "step 7"
    assert report.end < report.peak
    assert report.steps == STEPS


def test_the_memory_of_children_counts() -> None:
    code = "held = bytearray(80_000_000); print(flush=True); input()"
    alone = watched(lambda number: None, steps=1)
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout and child.stdout.readline()
        report = watched(lambda number: None, steps=1)
        child.communicate(b"\n")
    assert report.peak > alone.peak + 50_000_000


def test_the_device_is_asked_through_a_function() -> None:
    used = []
    report = watched(used.append, usage=lambda: len(used) * 10**6)
    assert (report.verdict, report.device_growth) == ("grows", 10**6)
    report = watched(lambda number: None, usage=lambda: Usage(now=5, peak=9, limit=10))
    assert (report.verdict, report.device_growth, report.device_peak) == ("steady", 0, 9)
    assert "device peak 9 B" in str(report)


def test_one_jump_is_no_growth_and_a_little_can_be_allowed() -> None:
    steps: list[int] = []
    jump = watched(steps.append, usage=lambda: 5 * 10**7 if len(steps) > 14 else 0)
    assert (jump.verdict, jump.device_peak) == ("steady", 5 * 10**7)
    steps.clear()
    assert watched(steps.append, usage=lambda: len(steps) * 10**5, allowed=10**5).verdict == "steady"
    steps.clear()
    assert watched(steps.append, usage=lambda: len(steps) * 10**5).verdict == "grows"


def test_a_cache_that_is_full_is_not_accused_beside_a_leak() -> None:
    kept, cache = [], []

    def train(number: int) -> None:
        kept.append(np.ones(BIG))
        if number < 9:
            cache.append(np.ones(2 * BIG))

    report = watched(train)
    assert [suspect.what.split(" in ")[0] for suspect in report.suspects] == ["list kept"]


def test_an_error_passes_through_and_the_thread_ends() -> None:
    memory = ft.MemoryMonitor(trace=True)
    with pytest.raises(ZeroDivisionError), memory:
        _ = 1 / 0
    assert not memory._thread.is_alive()
    assert memory.report().steps == 0


def test_a_report_on_the_way() -> None:
    with ft.MemoryMonitor() as memory:
        for _ in range(10):
            memory.step()
        assert memory.report().steps == 10
        memory.step()
    assert memory.report().steps == 11


@given(st.integers(-1000, 1000), st.integers(6, 60))
def test_the_slope_of_a_line_is_exact(slope: int, count: int) -> None:
    assert theil_sen([slope * number for number in range(count)]) == (slope, slope)


@given(st.permutations(range(24)))
def test_the_bound_is_below_the_slope(values: list[int]) -> None:
    slope, lowest = theil_sen(values)
    assert lowest <= slope


def test_jumps_have_no_hold_on_the_slope() -> None:
    jump = [0] * 12 + [10**6] * 12
    assert theil_sen(jump)[1] <= 0
    spikes = [10 * number + (10**6 if number % 7 == 3 else 0) for number in range(40)]
    assert theil_sen(spikes)[0] == pytest.approx(10, rel=0.5)
    assert theil_sen([1, 2, 3]) == (0, 0)
    assert theil_sen(list(range(10_000))) == (1, 1)


def test_it_loads_no_framework() -> None:
    code = "import truetune as ft, sys; ft.MemoryMonitor; sys.exit(not {'torch', 'numpy'}.isdisjoint(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2]).returncode == 0


@pytest.mark.slow
def test_tensors_are_named_and_our_own_training_keeps_none(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    kept = []

    def train(number: int) -> None:
        hidden = torch.ones(BIG * 2)  # the tensors
        kept.append(hidden)

    report = watched(train)
    assert any("torch" in suspect.what for suspect in report.suspects if suspect.kind == "type")
    traced = watched(train, trace=True)
    assert traced.suspects[0].what == line_of("# the tensors")
    rows = "".join(f'{{"text": "{number} bottles of beer on the wall, number {number}"}}\n' for number in range(40))
    Path("rows.jsonl").write_text(rows)
    with ft.MemoryMonitor() as memory:
        ft.train(
            model="starter",
            data="rows.jsonl",
            overrides=["training.batch_size=2", "training.gradient_accumulation_steps=1", "evaluation.samples=0"],
            listener=lambda kind, figures: memory.step() if kind == "train" else None,
        )
    assert memory.report().verdict == "steady", str(memory.report())


@pytest.mark.slow
def test_cuda_memory_is_seen_where_the_program_uses_it() -> None:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        assert cuda() is None
        pytest.skip("no CUDA device")
    kept = []
    report = watched(lambda number: kept.append(torch.ones(10**6, device="cuda")))
    assert report.verdict == "grows"
    assert report.device_growth == pytest.approx(4e6, rel=0.1)

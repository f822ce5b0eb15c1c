"""The course of a run: steps, order, learning rate, cadences."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from truetune.config import Amount, Cadence
from truetune.data.steps import Steps
from truetune.train.plan import FALLS, Due, course

SETTINGS = {"learning_rate": 1e-3, "scheduler": "cosine", "warmup": Amount(10, percent=True)}


def make(examples=100, batch=8, epochs=3.0, max_steps=None, **changes):
    return course(Steps(examples, batch, 7), epochs=epochs, max_steps=max_steps, **SETTINGS | changes)


@given(examples=st.integers(1, 500), batch=st.integers(1, 64), seed=st.integers(0, 2**31))
def test_an_epoch_takes_every_example_once(examples, batch, seed):
    steps = Steps(examples, batch, seed)
    for epoch in (0, 1):
        taken = [steps.indices(epoch * steps.per_epoch + k) for k in range(steps.per_epoch)]
        assert all(0 < len(part) <= batch for part in taken)
        assert sorted(np.concatenate(taken)) == list(range(examples))


def test_epochs_differ_and_seeds_differ():
    steps = Steps(50, 50, 7)
    orders = [tuple(steps.indices(0)), tuple(steps.indices(1)), tuple(Steps(50, 50, 8).indices(0))]
    assert len(set(orders)) == 3
    assert tuple(Steps(50, 50, 7).indices(1)) == orders[1]


@pytest.mark.parametrize(
    ("epochs", "max_steps", "total"), [(3, None, 39), (0.5, None, 7), (3, 10, 10), (3, 1000, 39), (0.001, None, 1)]
)
def test_total(epochs, max_steps, total):
    assert make(epochs=epochs, max_steps=max_steps).total == total


def rates(oracle, optimizer, steps):
    """The learning rates of a scheduler of torch, step by step."""
    found = []
    for _ in range(steps):
        found.append(oracle.get_last_lr()[0])
        optimizer.step()
        oracle.step()
    return found


@pytest.mark.parametrize("scheduler", ["cosine", "linear", "constant"])
@pytest.mark.parametrize("warmup", [Amount(0, percent=True), Amount(10, percent=True), Amount(5, percent=False)])
def test_learning_rate_is_that_of_transformers(scheduler, warmup):
    torch = pytest.importorskip("torch")
    from transformers import get_scheduler

    path = make(scheduler=scheduler, warmup=warmup)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1e-3)
    name = "constant_with_warmup" if scheduler == "constant" else scheduler
    oracle = get_scheduler(name, optimizer, num_warmup_steps=path.warmup, num_training_steps=path.total)
    theirs = rates(oracle, optimizer, path.total)
    assert [path.lr(step) for step in range(path.total)] == pytest.approx(theirs, rel=1e-12)


ORACLES = {
    "cosine": ("cosine_with_min_lr", lambda path: {"min_lr_rate": path.floor}),
    "polynomial": ("polynomial", lambda path: {"power": 2.0, "lr_end": path.floor * 1e-3}),
    "wsd": (
        "warmup_stable_decay",
        lambda path: {
            "num_decay_steps": round((path.total - path.warmup) * 0.2),
            "min_lr_ratio": path.floor,
            "decay_type": "1-sqrt",
        },
    ),
}


@pytest.mark.parametrize("floor", [0.0, 0.1])
@pytest.mark.parametrize("scheduler", ORACLES)
def test_learning_rate_with_a_floor_is_that_of_transformers(scheduler, floor):
    torch = pytest.importorskip("torch")
    from transformers import get_scheduler

    path = make(scheduler=scheduler, floor=floor)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1e-3)
    name, special = ORACLES[scheduler]
    oracle = get_scheduler(
        name,
        optimizer,
        num_warmup_steps=path.warmup,
        num_training_steps=path.total,
        scheduler_specific_kwargs=special(path),
    )
    theirs = rates(oracle, optimizer, path.total)
    # Their stable schedule begins its warm-up at the floor; ours, as all the others, at 0.
    begin = path.warmup if scheduler == "wsd" else 0
    assert [path.lr(step) for step in range(begin, path.total)] == pytest.approx(theirs[begin:], rel=1e-12)
    assert path.lr(path.total) == pytest.approx(floor * 1e-3)


@pytest.mark.parametrize("total", [7, 10, 39])
def test_one_cycle_is_that_of_torch(total):
    torch = pytest.importorskip("torch")
    path = make(scheduler="one_cycle", max_steps=total)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1e-3)
    oracle = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1e-3, total_steps=total, cycle_momentum=False)
    theirs = rates(oracle, optimizer, total)
    assert [path.lr(step) for step in range(total)] == pytest.approx(theirs, rel=1e-12)


@pytest.mark.parametrize("scheduler", sorted(FALLS.keys() | {"one_cycle"}))
@given(steps=st.integers(1, 60), warmup=st.integers(0, 10), floor=st.floats(0, 0.9))
def test_no_schedule_leaves_its_bounds(scheduler, steps, warmup, floor):
    path = make(scheduler=scheduler, epochs=100, max_steps=steps, warmup=Amount(warmup, percent=False), floor=floor)
    found = [path.lr(step) for step in range(path.total)]
    assert all(0 <= lr <= 1e-3 * (1 + 1e-9) for lr in found)
    after = found[path.warmup + (math.ceil(0.3 * steps) if scheduler == "one_cycle" else 0) :]
    assert after == sorted(after, reverse=True)


def test_a_floor_raises_the_end_and_a_schedule_changes_the_way():
    ends = {floor: make(floor=floor).lr(38) for floor in (0.0, 0.1, 0.5)}
    assert ends[0.0] < ends[0.1] < ends[0.5] < 1e-3
    halfway = {scheduler: round(make(scheduler=scheduler).lr(25), 9) for scheduler in (*FALLS, "one_cycle")}
    assert len({*halfway.values()}) == len(halfway) - 1  # constant and wsd part only later
    assert make(scheduler="wsd").lr(37) < make(scheduler="constant").lr(37)


@given(every=st.integers(1, 50), steps=st.integers(1, 200))
def test_due_by_steps(every, steps):
    due = Due(Cadence(every, "steps"), per_epoch=10)
    assert [step for step in range(1, steps + 1) if due(step, 0.0)] == list(range(every, steps + 1, every))


def test_due_by_epochs():
    whole, half = Due(Cadence(1, "epochs"), per_epoch=7), Due(Cadence(0.5, "epochs"), per_epoch=7)
    assert [step for step in range(1, 22) if whole(step, 0.0)] == [7, 14, 21]
    assert [step for step in range(1, 15) if half(step, 0.0)] == [4, 7, 11, 14]


def test_due_by_minutes():
    due = Due(Cadence(1, "minutes"), per_epoch=7, last=100.0)
    assert [now for now in (130.0, 160.0, 170.0, 219.0, 220.0) if due(1, now)] == [160.0, 220.0]


def test_never_due():
    assert not Due(None, per_epoch=7)(7, 1e9)

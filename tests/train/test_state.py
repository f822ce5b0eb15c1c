"""What the loop keeps: counts, the best, patience."""

from __future__ import annotations

import json

from truetune.engines.base import LossSum, StepResult
from truetune.train.state import State


def measured(loss):
    return LossSum(loss * 10, 10.0, 20, 10)


def test_counts_add_up_and_survive_json():
    state = State()
    state.count(4, StepResult(2.0, 0.5, 100, 40))
    state.count(3, StepResult(1.5, 0.9, 80, 30))
    assert (state.step, state.examples, state.tokens, state.supervised) == (2, 7, 180, 70)
    assert (state.first_loss, state.last_loss, state.min_grad_norm, state.max_grad_norm) == (2.0, 1.5, 0.5, 0.9)
    assert State.from_json(json.loads(json.dumps(state.to_json()))) == state


def test_the_first_measurement_is_the_base():
    state = State()
    assert not state.judge(measured(3.0), 0.0)
    assert (state.base_loss, state.best_loss) == (3.0, None)


def test_best_and_patience():
    state, history = State(), []
    for step, loss in enumerate([2.0, 1.5, 1.49, 1.6, 1.48, 1.2], start=1):
        state.step = step
        history.append((state.judge(measured(loss), 0.1), state.waiting))
    assert history == [(True, 0), (True, 0), (True, 1), (False, 2), (True, 3), (True, 0)]
    assert (state.best_step, state.best_loss) == (6, 1.2)


def test_patience_is_measured_against_the_last_clear_improvement():
    """Many small steps down that never reach min_delta each still count once their sum does."""
    state = State()
    for step, loss in enumerate([2.0, 1.95, 1.9, 1.85], start=1):
        state.step = step
        state.judge(measured(loss), 0.1)
    assert state.waiting == 0

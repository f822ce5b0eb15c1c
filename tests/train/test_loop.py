"""The loop on a real engine and a real run folder: stops, resumes, best, patience, memory, numbers that are none."""

from __future__ import annotations

import os
import signal
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("torch")

import torch

from truetune.config import Amount, Cadence
from truetune.data.example import Example
from truetune.data.steps import Steps
from truetune.engines.base import EngineSpec, LossSum, Method
from truetune.engines.torch import tiny
from truetune.engines.torch.engine import TorchEngine
from truetune.errors import Forced, ResourceError, TrainingError
from truetune.runs.checkpoints import Checkpoints
from truetune.runs.metrics import Metrics
from truetune.runs.run import Run
from truetune.runs.status import Status
from truetune.testing import examples
from truetune.train.loop import Loop
from truetune.train.plan import Rules, course
from truetune.train.state import State
from truetune.train.stops import Stops

TRAIN, HELD_OUT = examples(20, seed=1), examples(5, seed=2)
EVERY_TWO = Rules(evaluate=Cadence(2, "steps"), save=Cadence(2, "steps"), keep=2, best=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.make(tmp_path_factory.mktemp("model"), "llama")


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setenv("TRUETUNE_HOME", str(tmp_path / "home"))
    return Run.create(tmp_path / "run", train_yml=b"", resolved={}, env={})


def loop(run, folder, *, rules=EVERY_TWO, state=None, listener=None, train=TRAIN, lr=1e-2, steps=8):
    method = Method(r=4, alpha=8, dropout=0.1)
    engine = TorchEngine(EngineSpec(model=folder, method=method, token_budget=64))
    path = course(
        Steps(len(train), 5, 3),
        epochs=100,
        max_steps=steps,
        learning_rate=lr,
        scheduler="cosine",
        warmup=Amount(0, percent=True),
    )
    heard = listener or (lambda kind, figures: None)
    return Loop(run, engine, path, train, HELD_OUT, rules, state or State(token_budget=64), heard)


def losses(run):
    return {row["step"]: row["loss"] for row in Metrics(run.folder / "metrics.jsonl").read("train")}


def test_it_runs_to_the_end_and_counts(run, folder):
    state = State(token_budget=64)
    assert loop(run, folder, state=state).fit() == "done"
    assert state.step == 8
    assert state.supervised == sum(example.supervised for example in TRAIN) * 2
    assert [row["step"] for row in Metrics(run.folder / "metrics.jsonl").read("eval")] == [0, 2, 4, 6, 8]
    assert [checkpoint.step for checkpoint in Checkpoints(run).list()] == [6, 8]


@pytest.mark.parametrize("where", [2, 4, 5, 7])
def test_a_stopped_and_resumed_run_is_bit_identical(tmp_path, monkeypatch, folder, where):
    """Losses and the last checkpoint's tensors, with dropout."""
    monkeypatch.setenv("TRUETUNE_HOME", str(tmp_path / "home"))
    straight, broken = (Run.create(tmp_path / name, train_yml=b"", resolved={}, env={}) for name in ("a", "b"))
    loop(straight, folder).fit()

    def stop(kind, figures):
        if kind == "train" and figures["step"] == where:
            broken.request_stop()

    assert loop(broken, folder, listener=stop).fit() == "the stop file"
    broken.clear_stop()
    checkpoint = Checkpoints(broken).newest_good(pytest.fail)
    assert checkpoint.step == where
    again = loop(broken, folder, state=State.from_json(Checkpoints(broken).load_state(checkpoint)))
    again.engine.restore(checkpoint.folder)
    again.journal.log.resume(where)
    assert again.fit() == "done"
    assert losses(broken) == losses(straight)
    for name in ("adapter_model.safetensors", "optimizer.safetensors", "rng.safetensors"):
        one, other = (run.folder / "checkpoints/step-000008" / name for run in (straight, broken))
        assert one.read_bytes() == other.read_bytes(), name


def test_an_evaluation_cut_short_is_made_by_the_resume(tmp_path, monkeypatch, folder):
    """A stop does not wait for a long evaluation, and nothing of it is missing afterwards."""
    monkeypatch.setenv("TRUETUNE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("truetune.train.loop.EVAL_EXAMPLES", 2)
    rules = Rules(evaluate=Cadence(2, "steps"), save=None, best=True)
    straight, broken = (Run.create(tmp_path / name, train_yml=b"", resolved={}, env={}) for name in ("a", "b"))
    whole = loop(straight, folder, rules=rules)
    whole.fit()
    cut = loop(broken, folder, rules=rules)
    real = cut.engine.loss

    def stopping(plan):
        if cut.state.step == 4:
            broken.request_stop()
        return real(plan)

    monkeypatch.setattr(cut.engine, "loss", stopping)
    assert cut.fit() == "the stop file"
    evals = Metrics(broken.folder / "metrics.jsonl").read("eval")
    assert [row["step"] for row in evals] == [0, 2]
    broken.clear_stop()
    checkpoint = Checkpoints(broken).newest_good(pytest.fail)
    again = loop(broken, folder, rules=rules, state=State.from_json(Checkpoints(broken).load_state(checkpoint)))
    again.engine.restore(checkpoint.folder)
    again.journal.log.resume(checkpoint.step)
    again.fit()
    one, other = (Metrics(run.folder / "metrics.jsonl").read("eval") for run in (straight, broken))
    assert [(row["step"], row["loss"], row["best"]) for row in one] == [
        (row["step"], row["loss"], row["best"]) for row in other
    ]
    assert Checkpoints(straight).best() == Checkpoints(broken).best()
    assert losses(straight) == losses(broken)


def test_the_best_checkpoint_is_kept_and_marked(run, folder, monkeypatch):
    """Held-out losses that fall and rise again: the best is step 3, and it outlives `keep`."""
    rules = Rules(evaluate=Cadence(1, "steps"), save=Cadence(1, "steps"), keep=1, best=True)
    state = State(token_budget=64)
    each = loop(run, folder, rules=rules, state=state, steps=6)
    planted = {0: 9.0, 1: 5.0, 2: 4.0, 3: 3.0, 4: 3.5, 5: 4.0, 6: 4.5}
    monkeypatch.setattr(each, "measure", lambda examples: LossSum(planted[state.step], 1.0, 1, 1))
    each.fit()
    assert state.best_step == 3
    assert Checkpoints(run).best() == {"step": 3, "eval_loss": 3.0}
    assert [checkpoint.step for checkpoint in Checkpoints(run).list()] == [3, 6]


def test_early_stopping(run, folder):
    rules = Rules(evaluate=Cadence(1, "steps"), save=None, patience=2, min_delta=100.0)
    state = State(token_budget=64)
    assert loop(run, folder, rules=rules, state=state).fit() == "early"
    assert state.step == 3  # the first counts, two more do not improve
    assert Checkpoints(run).list()[-1].step == 3


def test_out_of_memory_halves_the_budget_and_changes_nothing(tmp_path, monkeypatch, folder):
    monkeypatch.setenv("TRUETUNE_HOME", str(tmp_path / "home"))
    calm, tight = (Run.create(tmp_path / name, train_yml=b"", resolved={}, env={}) for name in ("a", "b"))
    no_dropout = Method(r=4, alpha=8, dropout=0.0)
    loops = [loop(run, folder) for run in (calm, tight)]
    for each in loops:
        each.engine = TorchEngine(EngineSpec(model=folder, method=no_dropout, token_budget=64))
    real, calls = loops[1].engine.forward.loss, []

    def failing(batch):
        calls.append(1)
        if len(calls) in (5, 12):
            raise torch.OutOfMemoryError("planted")
        return real(batch)

    monkeypatch.setattr(loops[1].engine.forward, "loss", failing)
    for each in loops:
        each.fit()
    state = loops[1].state
    assert len(state.oom) == 2
    assert state.token_budget == loops[1].engine.token_budget < 64
    assert (state.supervised, state.examples) == (loops[0].state.supervised, loops[0].state.examples)
    one, other = losses(calm), losses(tight)
    assert np.allclose([one[step] for step in one], [other[step] for step in one], rtol=1e-5)


def test_an_example_that_never_fits_is_named(run, folder, monkeypatch):
    each = loop(run, folder)

    def never(batch):
        raise torch.OutOfMemoryError("planted")

    monkeypatch.setattr(each.engine.forward, "loss", never)
    each.fitting.where = lambda rows: [f"support.jsonl:{row + 2}" for row in rows]
    with pytest.raises(ResourceError) as error:
        each.fit()
    assert error.value.finding.code == "memory.example_too_long"
    longest = max(HELD_OUT, key=lambda example: example.tokens)
    assert f"support.jsonl:{longest.row + 2} ({longest.tokens} tokens)" in error.value.finding.message
    assert each.state.checkpointing  # that was tried before


def test_activations_are_computed_again_where_one_example_does_not_fit(tmp_path, monkeypatch, folder):
    """Single examples run out of memory, until their activations are no longer kept: the same losses without dropout,
    and a resume begins like that."""
    monkeypatch.setenv("TRUETUNE_HOME", str(tmp_path / "home"))
    calm, tight = (Run.create(tmp_path / name, train_yml=b"", resolved={}, env={}) for name in ("a", "b"))
    loops = [loop(run, folder, steps=4) for run in (calm, tight)]
    for each in loops:  # one example at a time
        method = Method(r=4, alpha=8, dropout=0.0)
        each.engine = TorchEngine(EngineSpec(model=folder, method=method, token_budget=1))
    engine, failed = loops[1].engine, []
    real = engine.forward.loss

    def tighter(batch):
        if torch.is_grad_enabled() and not engine.spec.gradient_checkpointing:
            failed.append(1)
            raise torch.OutOfMemoryError("planted")
        return real(batch)

    monkeypatch.setattr(engine.forward, "loss", tighter)
    for each in loops:
        each.fit()
    assert failed == [1] and loops[1].state.oom == [{"step": 0, "gradient_checkpointing": 1}]
    one, other = losses(calm), losses(tight)
    assert np.allclose([*one.values()], [*other.values()], rtol=1e-6)
    assert not engine.keep_less()
    state = State.from_json(Checkpoints(tight).load_state(Checkpoints(tight).find("last")))
    assert state.checkpointing


def broken(rows):
    """These of the examples give a loss that is no number."""
    return [Example(e.ids, np.where(e.weights > 0, np.float32("nan"), 0), e.row) if e.row in rows else e for e in TRAIN]


def test_a_step_that_is_no_number_is_left_out_and_counted(run, folder):
    """By `skip`: one step an epoch holds a row that gives no number. The others are taken, and the counts are exact."""
    state, said = State(token_budget=64), []
    rules = replace(EVERY_TWO, skip=True)
    heard = lambda kind, figures: said.append(figures["text"]) if kind == "warning" else None  # noqa: E731
    each = loop(run, folder, rules=rules, state=state, train=broken({7}), listener=heard)
    assert each.fit() == "done"
    steps = [number + 1 for number in range(8) if 7 in [TRAIN[i].row for i in each.course.order.indices(number)]]
    assert [skipped["step"] for skipped in state.skipped] == steps and len(steps) == 2
    assert all(7 in skipped["rows"] for skipped in state.skipped)
    taken = [i for number in range(8) if number + 1 not in steps for i in each.course.order.indices(number)]
    assert (state.step, state.examples) == (8, len(taken))
    assert state.supervised == sum(TRAIN[int(i)].supervised for i in taken)
    events = Metrics(run.folder / "metrics.jsonl").read("event")
    assert [(row["event"], row["step"]) for row in events] == [("not_finite", step) for step in steps]
    assert len(said) == 2 and "row 8" in " ".join(said)
    assert sorted(losses(run)) == [step for step in range(1, 9) if step not in steps]


def test_many_steps_in_a_row_that_are_no_number_stop_the_run(run, folder):
    rules, state = replace(EVERY_TWO, skip=True), State(token_budget=64)
    with pytest.raises(TrainingError, match="5th in a row") as error:
        loop(run, folder, rules=rules, state=state, train=broken(range(100))).fit()
    assert error.value.finding.code == "train.not_finite"
    assert [skipped["step"] for skipped in state.skipped] == [1, 2, 3, 4]
    assert Checkpoints(run).list()[-1].step == 4


def test_a_loss_that_is_not_a_number_stops_with_the_last_checkpoint_whole(run, folder):
    bad = [Example(e.ids, np.where(e.weights > 0, np.float32("nan"), 0), e.row) for e in TRAIN[:5]]
    train = TRAIN[:15] + bad
    with pytest.raises(TrainingError) as error:
        loop(run, folder, train=train).fit()
    assert error.value.finding.code == "train.not_finite"
    good = Checkpoints(run).newest_good(pytest.fail)
    assert good is None or f"step {good.step}" in error.value.finding.hint


def test_signals_stop_after_the_step_and_at_once_the_second_time(run):
    with Stops(run) as stops:
        assert not stops.reason()
        os.kill(os.getpid(), signal.SIGTERM)
        assert stops.reason() == "SIGTERM"
        with pytest.raises(Forced):
            os.kill(os.getpid(), signal.SIGINT)
    run.request_stop()
    assert Stops(run).reason() == "the stop file"


def test_status_follows(run, folder):
    loop(run, folder).fit()
    status = Status.read(run)
    assert (status.step, status.steps) == (8, 8)
    assert {"loss", "lr", "eval_loss", "tokens_per_second"} <= status.figures.keys()


def test_samples_are_the_same_prompts_each_time(run, folder):
    rules = Rules(evaluate=Cadence(4, "steps"), save=None, samples=2)
    loop(run, folder, rules=rules).fit()
    rows = Metrics(run.folder / "samples.jsonl").read("sample")
    assert [row["step"] for row in rows] == [0, 0, 4, 4, 8, 8]
    assert len({row["prompt"] for row in rows}) == 2
    assert {row["row"] for row in rows} == {HELD_OUT[0].row, HELD_OUT[1].row}

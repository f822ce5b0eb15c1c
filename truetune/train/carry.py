"""A session carried out: the engine opened, the loop, the result, its receipts and its card."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from truetune import engines
from truetune.data import objectives
from truetune.engines.base import TrainEngine
from truetune.errors import Forced, ResourceError, Stopped, TrainingError, TrueTuneError
from truetune.listener import Listener
from truetune.runs import durable, receipt
from truetune.runs.checkpoints import Checkpoint, Checkpoints
from truetune.runs.metrics import Metrics
from truetune.runs.run import Run
from truetune.runs.status import Status
from truetune.train import ancestry, binding, card, changes, receipts, result, room, surroundings, whereabouts
from truetune.train.loop import Loop
from truetune.train.reading import reader
from truetune.train.resolve import engine_spec, plan, promised, rules
from truetune.train.session import Session, described
from truetune.train.state import State


@dataclass(frozen=True)
class Outcome:
    """How a run ended: `finished` (or early, which is finished too), with its figures."""

    run: Run
    state: State
    reason: str
    result: Path
    result_step: int
    eval_loss: float | None


def start_state(session: Session, run: Run | None = None, checkpoint: Checkpoint | None = None) -> State:
    """The loop's state of a checkpoint, or of a run that has none yet. Raises InputError `model.changed`."""
    if run:
        receipt.refuse_changed_base(run, session.source.folder)
    if run and checkpoint:
        binding.refuse_other(run, checkpoint)
        return State.from_json(Checkpoints(run).load_state(checkpoint))
    return State(token_budget=session.resolved["memory"]["token_budget"])


def open_engine(session: Session, state: State) -> TrainEngine:
    """The engine with the model loaded. Before the run's folder is made: what cannot load leaves nothing behind."""
    adapter = adapter_of(session)
    if adapter:
        ancestry.refuse_unfit(adapter, session.source.folder)
    spec = engine_spec(session.resolved, adapter, state.token_budget)
    if state.checkpointing:
        spec = replace(spec, gradient_checkpointing=True)
    return engines.open_engine(session.resolved["config"]["resources"]["engine"], spec)


def adapter_of(session: Session) -> Path | None:
    """`model.adapter`: a relative folder is looked for beside train.yml, then from where you stand."""
    if session.config.model.adapter is None:
        return None
    path = Path(session.config.model.adapter).expanduser()
    candidates = [session.folder / path, path]
    return next((candidate for candidate in candidates if candidate.exists()), path)


def carry_out(
    session: Session,
    run: Run,
    engine: TrainEngine,
    state: State,
    listener: Listener,
    *,
    checkpoint: Checkpoint | None = None,
    resumed: bool = False,
) -> Outcome:
    """Train, keep the best, write the result and the receipts. The run's status tells of every way out.

    Raises Stopped (75) after a polite stop, Forced (130) after an impatient one.
    """
    with run.lock():
        run.clear_stop()
        Status.update(run, state="running", steps=session.resolved["plan"]["steps"])
        try:
            if checkpoint:
                engine.restore(checkpoint.folder)
            if resumed:
                take_up(run, state, partial(warn, listener))
            outcome = _train(session, run, engine, state, listener)
        except BaseException as error:
            _record_end(run, error)
            raise
        Status.update(run, state="finished", step=outcome.state.step)
    return outcome


def _record_end(run: Run, error: BaseException) -> None:
    if isinstance(error, Stopped | Forced | KeyboardInterrupt):
        with suppress(ResourceError):
            Status.update(run, state="stopped")
        return
    if not isinstance(error, TrueTuneError):
        error = TrainingError(f"{type(error).__name__}: {error}", code="bug", hint="Run again with --debug.")
    with suppress(ResourceError):  # of a disk that takes not even this; the run reads as interrupted then
        Status.update(run, state="failed", error=error.to_json())


def _train(session: Session, run: Run, engine: TrainEngine, state: State, listener: Listener) -> Outcome:
    facts = engine.describe()
    listener("start", {"step": state.step, "steps": session.resolved["plan"]["steps"]} | facts)
    # 1. The loop.
    loop = build(session, run, engine, state, listener)
    if text := surroundings.noted(state, surroundings.of(facts)):
        loop.journal.record("event", event="surroundings", fields=state.moves[-1]["fields"])
        loop.journal.warn(text)
    room.refuse_small(run, engine, loop.rules, loop.course, state.step)
    reason = loop.fit()
    if reason not in ("done", "early"):
        raise stopped(run, state, reason)
    # 2. The best checkpoint's parameters are the result.
    step, loss = settle(run, engine, state, session.config.checkpoints.best, loop.journal.warn)
    template = session.template.source if session.template else None
    target = result.write(run, engine, session.resolved, template, loop.samples.reader.stops)
    # 3. Receipts and card.
    finish(session, loop, target, step, loss)
    return Outcome(run, state, reason, target, step, loss)


def warn(listener: Listener, text: str) -> None:
    listener("warning", {"text": text})


def take_up(run: Run, state: State, warn: Callable[[str], None]) -> None:
    """Before a resume: the run's files go on from the state's step, and its best checkpoint, if it is whole, is marked
    again."""
    state.resumes.append(state.step)
    for path in (run.folder / "metrics.jsonl", run.folder / "samples.jsonl"):
        if path.exists():
            Metrics(path).resume(state.step)
    for change in changes.noted(run, state):
        Metrics(run.folder / "metrics.jsonl").append("event", state.step, event="settings", fields=change["fields"])
    best = Checkpoints(run).good(state.best_step, warn)
    if best:
        Checkpoints(run).mark_best(best.step, state.best_loss or 0.0)
    else:
        forget_best(run, state)


def forget_best(run: Run, state: State) -> None:
    state.best_step = state.best_loss = None
    Checkpoints(run).unmark_best()


def build(session: Session, run: Run, engine: TrainEngine, state: State, listener: Listener) -> Loop:
    prepared = session.prepared
    path = plan(session.config, len(prepared.train))
    learned = objectives.of(prepared.objective)
    return Loop(
        run,
        engine,
        path,
        prepared.train,
        prepared.validation,
        replace(rules(session.config), samples=0) if learned.scores else rules(session.config),
        state,
        listener,
        reader(session.tokenizer, session.template),
        learned.reference,
        whereabouts.of(prepared.report),
    )


def stopped(run: Run, state: State, reason: str) -> Stopped:
    return Stopped(
        f"stopped by {reason} after step {state.step}, saved",
        code="run.stopped",
        where=run.id,
        hint=f"Go on with: ft train --from {run.id}",
    )


def settle(
    run: Run, engine: TrainEngine, state: State, best: bool, warn: Callable[[str], None]
) -> tuple[int, float | None]:
    """Which step is the result, and its held-out loss; the engine stands there afterwards. Where the best checkpoint
    has been damaged, it is the last step."""
    kept = Checkpoints(run).good(state.best_step, warn) if best and state.best_step != state.step else None
    if kept is None or state.best_loss is None:
        if best and state.best_step != state.step:
            forget_best(run, state)
        return state.step, state.eval_loss if state.eval_step == state.step else None
    binding.refuse_other(run, kept)
    engine.restore(kept.folder)
    return kept.step, state.best_loss


def finish(session: Session, loop: Loop, target: Path, step: int, loss: float | None) -> None:
    """The receipts of the training, and the card that names the last of them."""
    run, state = loop.run, loop.state
    skipped = {each["step"] for each in state.skipped}
    promise = promised(loop.course, session.prepared, state.step, skipped)
    base = receipt.named_base(run) or described(session.source)  # a run of before bases were recorded names none
    receipts.write_train(run, state, loop.engine, promise, base, target, step)
    if loss is not None:
        receipts.write_eval(run, state, session.prepared, step, loss)
    last = "eval" if loss is not None else "train"
    digest = durable.digest(run.folder / "receipts" / f"{last}.json")
    card.write(run, target, session.resolved, digest, adapter_of(session))

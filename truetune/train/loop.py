"""The one training loop. It knows steps, cadences and files; the engine knows tensors."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial

from truetune.data.example import Example
from truetune.engines.base import LossSum, NotFinite, OutOfMemory, StepResult, TrainEngine
from truetune.errors import Forced, InputError, TrainingError
from truetune.listener import Listener, unheard
from truetune.runs.metrics import Metrics
from truetune.runs.run import Run
from truetune.train import reference
from truetune.train.fitting import Fitting
from truetune.train.guards import SKIPS, Guards
from truetune.train.journal import Journal
from truetune.train.keeper import Keeper
from truetune.train.plan import Course, Due, Rules
from truetune.train.reading import Reader
from truetune.train.samples import Samples, chosen
from truetune.train.state import State
from truetune.train.stops import Late, Stops
from truetune.train.whereabouts import Where, listed, numbers

EVAL_EXAMPLES = 64
"""Held-out examples that are measured between two looks at the stop flag."""


class Loop:
    """One run: `fit` takes it from `state.step` to its end, or to a stop."""

    def __init__(
        self,
        run: Run,
        engine: TrainEngine,
        course: Course,
        train: Sequence[Example],
        validation: Sequence[Example],
        rules: Rules,
        state: State,
        listener: Listener = unheard,
        reader: Reader | None = None,
        compares: bool = False,
        where: Where = numbers,
    ) -> None:
        """`compares`: whether the objective needs what the model before training thinks of the rows; `where` names rows
        for people."""
        self.where = where
        self.run, self.engine, self.course, self.rules, self.state = run, engine, course, rules, state
        self.train, self.validation, self.compares = train, validation, compares
        self.held_out_rows = len({validation[i].row for i in range(len(validation))})
        self.journal = Journal(run, state, course, listener)
        asked = chosen(validation, rules.samples)
        self.samples = Samples(Metrics(run.folder / "samples.jsonl"), asked, rules.sample_tokens, reader or Reader())
        self.keeper = Keeper(rules, self.journal, (self.journal.log, self.samples.file))
        self.fitting = Fitting(self.journal, where)
        self.signals = Stops(run)
        self.guards = Guards(run.id, self.journal.log.read("train"))
        self.owes_save = False
        per_epoch, now = course.order.per_epoch, time.monotonic()
        self.evaluation_due = Due(rules.evaluate, per_epoch, now)
        self.save_due = Due(rules.save, per_epoch, now)

    def fit(self) -> str:
        """Train. Returns why it ended: `done`, `early` (stopping), or the reason of a stop."""
        self.engine.between = self.signals.hurry
        with self.signals:
            try:
                reason = self.refer() if self.compares else ""
                while not reason:
                    if self.state.owes_evaluation:
                        self.evaluate()
                    reason = self.signals.reason() or self.ended()
                    if not reason:
                        self.step()
                self.save()
                self.keeper.settle()
            except (Forced, KeyboardInterrupt):
                self.keeper.saver.give_up()
                raise
            finally:
                self.keeper.saver.join()
        return reason

    def refer(self) -> str:
        """Give every example what the model before training thinks of it; returns the reason of a stop."""
        for name in ("train", "validation"):
            examples: Sequence[Example] = getattr(self, name)
            path = self.run.folder / reference.FOLDER / f"{name}.safetensors"
            try:
                found = reference.referenced(examples, path, self.opinion, partial(self.heard, len(examples)))
            except Late:
                found = None
            if found is None:
                return self.signals.reason()
            setattr(self, name, found)
        return ""

    def opinion(self, examples: Sequence[Example]) -> reference.Table:
        try:
            return self.fitting(self.engine, examples, partial(self.engine.scores, base=True))
        except ValueError as error:
            raise InputError(
                f"the run's folder lacks {reference.FOLDER}/, and {error}",
                code="checkpoint.damaged",
                where=self.run.id,
                hint="Put the folder back, or start the run anew.",
            ) from None

    def heard(self, total: int, done: int) -> bool:
        self.journal.listener("reference", {"done": done, "total": total})
        return bool(self.signals.reason())

    def ended(self) -> str:
        if self.rules.patience is not None and self.state.waiting >= self.rules.patience:
            return "early"
        return "done" if self.state.step >= self.course.total else ""

    def step(self) -> None:
        """One optimizer step, its figures and its line. One that a stop could not wait for has not happened."""
        state, started = self.state, time.monotonic()
        lr = self.course.lr(state.step)
        examples = [self.train[int(i)] for i in self.course.order.indices(state.step)]
        try:
            result = self.take(examples, lr)
        except Late:
            return
        except NotFinite as error:
            self.skip(examples, str(error))
            return
        state.count(len(examples), result)
        seconds = time.monotonic() - started
        state.seconds += seconds
        self.journal.record(
            "train",
            loss=result.loss,
            lr=lr,
            grad_norm=result.grad_norm,
            epoch=self.course.epoch(state.step),
            tokens=result.tokens,
            supervised=result.supervised,
            tokens_per_second=result.tokens / max(seconds, 1e-9),
            memory=self.engine.usage().now,
            **result.figures,
        )
        self.watch(examples, result)
        self.look_around()

    def take(self, examples: Sequence[Example], lr: float) -> StepResult:
        """The engine's step. Out of memory halves the token budget and replays the same step."""
        return self.fitting(self.engine, examples, lambda plan: self.engine.step(plan, lr))

    def watch(self, examples: Sequence[Example], result: StepResult) -> None:
        """Tell of a loss that jumps. Raises TrainingError where nothing is learned."""
        if usual := self.guards.jump(result.loss):
            rows = [example.row for example in examples]
            self.journal.record("event", event="loss_jump", loss=result.loss, usual=usual, rows=rows)
            said = f"the loss of step {self.state.step} is {result.loss:.4g}, and {usual:.4g} is usual"
            self.journal.warn(f"{said}; its rows: {listed(self.where(rows))}")
        self.guards.learning(self.state.step, result.grad_norm, self.engine)

    def skip(self, examples: Sequence[Example], what: str) -> None:
        """Leave out a step that is no number, where the rules say so and it is none of many. Raises TrainingError."""
        state, rows = self.state, [example.row for example in examples]
        if not self.rules.skip or state.skipped_in_a_row + 1 >= SKIPS:
            raise self.not_finite(what, rows)
        state.step += 1
        state.skipped.append({"step": state.step, "rows": rows})
        self.journal.record("event", event="not_finite", reason=what, rows=rows)
        said = f"step {state.step} is not a number ({what}) and was left out"
        self.journal.warn(f"{said}; its rows: {listed(self.where(rows))}")
        self.look_around()

    def look_around(self) -> None:
        """What is due after a step. A checkpoint that is due with an evaluation is saved after it."""
        if self.keeper.saver.ended():
            self.keeper.settle()
        now, last = time.monotonic(), self.state.step == self.course.total
        self.state.owes_evaluation = self.evaluation_due(self.state.step, now) or last
        self.owes_save = self.save_due(self.state.step, now)
        if self.owes_save and not self.state.owes_evaluation:
            self.save()

    def save(self) -> None:
        """Begin a checkpoint; training goes on while a thread writes it."""
        self.owes_save = False
        self.keeper.save(self.engine)

    def evaluate(self) -> None:
        """Measure the held-out loss. Cut short by a stop, it stays owed, and the resume begins with it."""
        started = time.monotonic()
        measured = self.measure(self.validation)
        if measured is None:
            return
        self.state.owes_evaluation = False
        best = bool(self.validation) and self.state.judge(measured, self.rules.min_delta)
        if self.validation:
            seconds = time.monotonic() - started
            about = {"rows": self.held_out_rows, "best": best, "seconds": seconds}
            self.journal.record("eval", loss=self.state.eval_loss, **about, **measured.means)
            self.sample()
        if self.owes_save or (best and self.rules.best):
            self.save()

    def measure(self, examples: Sequence[Example]) -> LossSum | None:
        """The summed loss of the examples; None where a stop was asked for on the way."""
        total = LossSum(0.0, 0.0, 0, 0)
        for start in range(0, len(examples), EVAL_EXAMPLES):
            if self.signals.reason():
                return None
            part = [examples[i] for i in range(start, min(start + EVAL_EXAMPLES, len(examples)))]
            try:
                total += self.fitting(self.engine, part, self.engine.loss)
            except Late:
                return None
        return total

    def sample(self) -> None:
        """Answer the sample prompts, unless the memory does not hold that, or a stop waits."""
        if self.signals.reason():
            return
        try:
            rows = self.samples.take(self.engine, self.state.step)
        except OutOfMemory:
            self.journal.record("event", event="samples_left_out", reason="out of memory")
            return
        for row in rows:
            self.journal.listener("sample", {"step": self.state.step} | row)

    def not_finite(self, what: str, rows: Sequence[int]) -> TrainingError:
        kept = self.keeper.newest()
        hint = "" if kept is None else f"The checkpoint of step {kept} is whole. "
        many = f"; it is the {SKIPS}th in a row" if self.rules.skip else ""
        return TrainingError(
            f"step {self.state.step + 1} is not a number ({what}){many}; its update was not applied",
            code="train.not_finite",
            where=self.run.id,
            hint=f"{hint}Lower training.learning_rate, or look at the rows of this step "
            f"({listed(self.where(rows))}); `training.not_finite: skip` leaves such steps out.",
        )

"""The one training loop. It knows steps, cadences and files; the engine knows tensors."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

from truetune.data.example import Example
from truetune.engines.base import (
    LossSum,
    NotFinite,
    OutOfMemory,
    Plan,
    Snapshot,
    StepResult,
    TrainEngine,
    keep_less,
    snapshot,
)
from truetune.errors import Forced, InputError, ResourceError, TrainingError
from truetune.listener import Listener
from truetune.runs import durable
from truetune.runs.checkpoints import Checkpoints
from truetune.runs.metrics import Metrics
from truetune.runs.run import Run
from truetune.runs.status import Status
from truetune.train import binding, reference, room
from truetune.train.guards import SKIPS, Guards
from truetune.train.plan import Course, Due, Rules
from truetune.train.reading import Reader
from truetune.train.samples import Samples, chosen
from truetune.train.saver import Saver
from truetune.train.state import State
from truetune.train.stops import Stops
from truetune.train.whereabouts import Where, listed, numbers

Sums = TypeVar("Sums")

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
        listener: Listener = lambda kind, figures: None,
        reader: Reader | None = None,
        compares: bool = False,
        where: Where = numbers,
    ) -> None:
        """`compares`: whether the objective needs what the model before training thinks of the rows; `where` names rows
        for people."""
        self.where = where
        self.run, self.engine, self.course, self.rules, self.state = run, engine, course, rules, state
        self.train, self.validation, self.compares = train, validation, compares
        self.listener = listener
        self.held_out_rows = len({validation[i].row for i in range(len(validation))})
        self.metrics = Metrics(run.folder / "metrics.jsonl")
        asked = chosen(validation, rules.samples)
        self.samples = Samples(Metrics(run.folder / "samples.jsonl"), asked, rules.sample_tokens, reader or Reader())
        self.checkpoints = Checkpoints(run)
        self.signals = Stops(run)
        self.guards = Guards(run.id)
        self.saver = Saver()
        self.bound = binding.of(run)
        self.saved: dict[str, Any] = {}
        """The state of the last checkpoint, which may still be on its way to the disk."""
        self.owes_save = self.warned = False
        self.figures: dict[str, float] = {}
        self.beat = 0.0
        per_epoch, now = course.order.per_epoch, time.monotonic()
        self.evaluation_due = Due(rules.evaluate, per_epoch, now)
        self.save_due = Due(rules.save, per_epoch, now)

    def fit(self) -> str:
        """Train. Returns why it ended: `done`, `early` (stopping), or the reason of a stop."""
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
                self.settle()
            except (Forced, KeyboardInterrupt):
                self.saver.give_up()
                raise
            finally:
                self.saver.join()
        return reason

    def refer(self) -> str:
        """Give every example what the model before training thinks of it; returns the reason of a stop."""
        for name in ("train", "validation"):
            examples: Sequence[Example] = getattr(self, name)
            path = self.run.folder / reference.FOLDER / f"{name}.safetensors"
            found = reference.referenced(examples, path, self.opinion, partial(self.heard, len(examples)))
            if found is None:
                return self.signals.reason()
            setattr(self, name, found)
        return ""

    def opinion(self, examples: Sequence[Example]) -> reference.Table:
        try:
            return self.fitting(examples, partial(self.engine.scores, base=True))
        except ValueError as error:
            raise InputError(
                f"the run's folder lacks {reference.FOLDER}/, and {error}",
                code="checkpoint.damaged",
                where=self.run.id,
                hint="Put the folder back, or start the run anew.",
            ) from None

    def heard(self, total: int, done: int) -> bool:
        self.listener("reference", {"done": done, "total": total})
        return bool(self.signals.reason())

    def ended(self) -> str:
        if self.rules.patience is not None and self.state.waiting >= self.rules.patience:
            return "early"
        return "done" if self.state.step >= self.course.total else ""

    def step(self) -> None:
        """One optimizer step, its figures and its line."""
        state, started = self.state, time.monotonic()
        lr = self.course.lr(state.step)
        examples = [self.train[int(i)] for i in self.course.order.indices(state.step)]
        try:
            result = self.take(examples, lr)
        except NotFinite as error:
            self.skip(examples, str(error))
            return
        state.count(len(examples), result)
        seconds = time.monotonic() - started
        state.seconds += seconds
        self.record(
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
        if usual := self.guards.jump(result.loss):
            rows = [example.row for example in examples]
            self.record("event", event="loss_jump", loss=result.loss, usual=usual, rows=rows)
            said = f"the loss of step {state.step} is {result.loss:.4g}, and {usual:.4g} is usual"
            self.listener("warning", {"text": f"{said}; its rows: {listed(self.where(rows))}"})
        self.guards.learning(state, self.engine)
        self.look_around()

    def skip(self, examples: Sequence[Example], what: str) -> None:
        """Leave out a step that is no number, where the rules say so and it is none of many. Raises TrainingError."""
        state, rows = self.state, [example.row for example in examples]
        if not self.rules.skip or state.skipped_in_a_row + 1 >= SKIPS:
            raise self.not_finite(what, rows)
        state.step += 1
        state.skipped.append({"step": state.step, "rows": rows})
        self.record("event", event="not_finite", reason=what, rows=rows)
        said = f"step {state.step} is not a number ({what}) and was left out"
        self.listener("warning", {"text": f"{said}; its rows: {listed(self.where(rows))}"})
        self.look_around()

    def take(self, examples: Sequence[Example], lr: float) -> StepResult:
        """The engine's step. Out of memory halves the token budget and replays the same step."""
        return self.fitting(examples, lambda plan: self.engine.step(plan, lr))

    def fitting(self, examples: Sequence[Example], work: Callable[[Plan], Sums]) -> Sums:
        """`work` over the plan of these examples, under a token budget that the memory holds."""
        while True:
            plan = self.engine.prepare(examples)
            try:
                return work(plan)
            except OutOfMemory:
                self.shrink(plan)

    def shrink(self, plan: Plan) -> None:
        """Halve the token budget; for single examples compute activations again instead of keeping them; or say which
        row does not fit even so."""
        sizes = [sum(plan.examples[i].tokens for i in part) for part in plan.micro_batches]
        if all(len(part) == 1 for part in plan.micro_batches):
            if not keep_less(self.engine):
                raise self.too_long(max(plan.examples, key=lambda example: example.tokens))
            self.state.checkpointing = True
            self.state.oom.append({"step": self.state.step, "gradient_checkpointing": 1})
            self.record("event", event="out_of_memory", gradient_checkpointing=True)
            return
        self.engine.token_budget = self.state.token_budget = min(self.engine.token_budget, max(sizes)) // 2
        event = {"step": self.state.step, "token_budget": self.engine.token_budget}
        self.state.oom.append(event)
        self.record("event", event="out_of_memory", token_budget=self.engine.token_budget)

    def look_around(self) -> None:
        """What is due after a step. A checkpoint that is due with an evaluation is saved after it."""
        if self.saver.ended():
            self.settle()
        now, last = time.monotonic(), self.state.step == self.course.total
        self.state.owes_evaluation = self.evaluation_due(self.state.step, now) or last
        self.owes_save = self.save_due(self.state.step, now)
        if self.owes_save and not self.state.owes_evaluation:
            self.save()

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
            self.record("eval", loss=self.state.eval_loss, **about, **measured.means)
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
            total += self.fitting(part, self.engine.loss)
        return total

    def sample(self) -> None:
        """Answer the sample prompts, unless the memory does not hold that."""
        try:
            rows = self.samples.take(self.engine, self.state.step)
        except OutOfMemory:
            self.record("event", event="samples_left_out", reason="out of memory")
            return
        for row in rows:
            self.listener("sample", {"step": self.state.step} | row)

    def save(self) -> None:
        """Begin a checkpoint of this state, once; training goes on while a thread writes it."""
        self.owes_save = False
        if self.saved == self.state.to_json():
            return
        self.settle()
        text = room.refuse_full(self.run.folder, next(iter(self.checkpoints.list()[-1:]), None))
        if text and not self.warned:
            self.listener("warning", {"text": text})
        self.warned = bool(text)
        taken = snapshot(self.engine)
        self.saved = self.state.to_json()
        self.saver.start(self.state.step, partial(self.write, taken, self.saved))
        if not taken.copied:
            self.settle()

    def settle(self) -> None:
        """Wait for the checkpoint that is being written, if there is one, and tell that it is saved."""
        step = self.saver.wait()
        if step is not None:
            self.tell("checkpoint", step, {})

    def write(self, taken: Snapshot, state: dict[str, Any]) -> None:
        """A checkpoint, on the disk when this returns; older ones beyond `keep` go."""
        for log in (self.metrics, self.samples.file):
            durable.settle(log.path)  # a checkpoint never stands without the lines of the steps before it
        kept = state | {binding.KEY: self.bound}
        self.checkpoints.save(state["step"], partial(taken.write, check=self.saver.check), kept)
        best = state["best_step"] if self.rules.best else None
        if best == state["step"] and state["best_loss"] is not None:
            self.checkpoints.mark_best(best, state["best_loss"])
        self.checkpoints.collect(self.rules.keep, best)

    def record(self, kind: str, **figures: Any) -> None:
        """`tell` of this step."""
        self.tell(kind, self.state.step, figures)

    def tell(self, kind: str, step: int, figures: dict[str, Any]) -> None:
        """One line in metrics.jsonl, one call of the listener, and at most once a second the status."""
        self.metrics.append(kind, step, **figures)
        self.listener(kind, {"step": step, "steps": self.course.total} | figures)
        names = {"train": ("loss", "lr", "tokens_per_second"), "eval": ("loss",)}.get(kind, ())
        prefix = "eval_" if kind == "eval" else ""
        self.figures |= {prefix + name: figures[name] for name in names}
        now = time.monotonic()
        if now - self.beat >= 1 or kind != "train":
            self.beat = now
            progress = {
                "step": self.state.step,
                "steps": self.course.total,
                "epoch": self.course.epoch(self.state.step),
            }
            Status.update(self.run, **progress, figures=self.figures)

    def too_long(self, longest: Example) -> ResourceError:
        (name,) = self.where([longest.row])
        return ResourceError(
            f"the device's memory does not hold {name} ({longest.tokens} tokens) even alone",
            code="memory.example_too_long",
            where=self.run.id,
            hint=f"Set data.max_length below {longest.tokens} (data.too_long says what becomes of longer rows), free "
            "memory on the device, or choose a smaller model.",
        )

    def not_finite(self, what: str, rows: Sequence[int]) -> TrainingError:
        self.saver.join()
        kept = self.checkpoints.list()
        hint = f"The checkpoint of step {kept[-1].step} is whole. " if kept else ""
        many = f"; it is the {SKIPS}th in a row" if self.rules.skip else ""
        return TrainingError(
            f"step {self.state.step + 1} is not a number ({what}){many}; its update was not applied",
            code="train.not_finite",
            where=self.run.id,
            hint=f"{hint}Lower training.learning_rate, or look at the rows of this step "
            f"({listed(self.where(rows))}); `training.not_finite: skip` leaves such steps out.",
        )

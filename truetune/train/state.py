"""What the loop knows besides the engine's tensors: position, counts, best, early stopping: `state.json`."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

from pydantic import TypeAdapter, ValidationError

from truetune.engines.base import LossSum, StepResult
from truetune.errors import InputError


@dataclass
class State:
    """Everything is counted over the run as a whole: a resume takes it up where the checkpoint left it."""

    step: int = 0
    examples: int = 0
    tokens: int = 0
    supervised: int = 0
    first_loss: float | None = None
    last_loss: float | None = None
    min_grad_norm: float | None = None
    max_grad_norm: float | None = None
    base_loss: float | None = None
    """Held-out loss before the first step."""
    owes_evaluation: bool = True
    """The evaluation that is due at this step (the first one before any step) has not been made yet."""
    eval_loss: float | None = None
    eval_step: int | None = None
    best_loss: float | None = None
    best_step: int | None = None
    reference_loss: float | None = None
    """Held-out loss of the last improvement that counts for early stopping."""
    waiting: int = 0
    """Evaluations since then."""
    token_budget: int = 0
    seconds: float = 0.0
    oom: list[dict[str, int]] = field(default_factory=list)
    checkpointing: bool = False
    """Whether gradient checkpointing was switched on on the way, because one example did not fit without."""
    skipped: list[dict[str, Any]] = field(default_factory=list)
    """{step, rows} of each step whose loss or gradient was no number; it changed nothing."""
    resumes: list[int] = field(default_factory=list)
    changes: list[dict[str, Any]] = field(default_factory=list)
    """{step, fields {key: [before, after]}} of each resume that changed settings."""
    surroundings: dict[str, str] = field(default_factory=dict)
    """Versions, device and threads with which it goes on."""
    moves: list[dict[str, Any]] = field(default_factory=list)
    """As `changes`, of the resumes that found other surroundings."""

    def count(self, examples: int, result: StepResult) -> None:
        """Take one step into account."""
        self.step += 1
        self.examples += examples
        self.tokens += result.tokens
        self.supervised += result.supervised
        self.first_loss = result.loss if self.first_loss is None else self.first_loss
        self.last_loss = result.loss
        self.min_grad_norm = lowest(self.min_grad_norm, result.grad_norm)
        self.max_grad_norm = max(self.max_grad_norm or 0.0, result.grad_norm)

    @property
    def skipped_in_a_row(self) -> int:
        """How many of the last steps were skipped."""
        steps = {each["step"] for each in self.skipped}
        count = 0
        while self.step - count in steps:
            count += 1
        return count

    def judge(self, measured: LossSum, min_delta: float) -> bool:
        """Take an evaluation into account; true where it is the best so far."""
        loss = measured.loss / measured.denominator
        self.eval_loss, self.eval_step = loss, self.step
        if self.step == 0:
            self.base_loss = loss
            return False
        if not math.isfinite(loss):
            self.waiting += 1
            return False
        clearly = self.reference_loss is None or loss < self.reference_loss - min_delta
        self.waiting = 0 if clearly else self.waiting + 1
        self.reference_loss = loss if clearly else self.reference_loss
        if self.best_loss is not None and loss >= self.best_loss:
            return False
        self.best_loss, self.best_step = loss, self.step
        return True

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, body: dict[str, Any]) -> State:
        """Undo `to_json`. Raises InputError `checkpoint.damaged` for what is no such state."""
        try:
            return TypeAdapter(cls).validate_python(body)
        except ValidationError as error:
            raise InputError(
                f"not the state of a training: {'.'.join(map(str, error.errors()[0]['loc']))[:60]!r} is wrong",
                code="checkpoint.damaged",
                where="state.json",
                hint="Go on from another checkpoint; `ft runs show` lists them.",
            ) from None


def lowest(a: float | None, b: float) -> float:
    return b if a is None else min(a, b)

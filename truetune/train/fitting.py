"""Work under a token budget that the memory holds: where it runs out, less is computed at once, and the same again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from truetune.data.example import Example
from truetune.engines.base import OutOfMemory, Plan, TrainEngine, keep_less
from truetune.errors import ResourceError
from truetune.train.journal import Journal
from truetune.train.whereabouts import Where

Found = TypeVar("Found")


class Fitting:
    """Of one run: a budget that had to be lowered stays so, and is kept in the run's state."""

    def __init__(self, journal: Journal, where: Where) -> None:
        """`where` names rows for people."""
        self.journal, self.state, self.where = journal, journal.state, where

    def __call__(self, engine: TrainEngine, examples: Sequence[Example], work: Callable[[Plan], Found]) -> Found:
        """`work` over the plan of these examples; after an `OutOfMemory` over that of a lower budget. Raises
        ResourceError `memory.example_too_long`."""
        while True:
            plan = engine.prepare(examples)
            try:
                return work(plan)
            except OutOfMemory:
                self.shrink(engine, plan)

    def shrink(self, engine: TrainEngine, plan: Plan) -> None:
        """Halve the token budget; for single examples compute activations again instead of keeping them; or say which
        row does not fit even so."""
        sizes = [sum(plan.examples[i].tokens for i in part) for part in plan.micro_batches]
        if any(len(part) > 1 for part in plan.micro_batches):
            engine.token_budget = self.state.token_budget = min(engine.token_budget, max(sizes)) // 2
            self.lowered(token_budget=engine.token_budget)
        elif keep_less(engine):
            self.state.checkpointing = True
            self.lowered(gradient_checkpointing=True)
        else:
            raise self.too_long(max(plan.examples, key=lambda example: example.tokens))

    def lowered(self, **what: int) -> None:
        self.state.oom.append({"step": self.state.step} | {name: int(value) for name, value in what.items()})
        self.journal.record("event", event="out_of_memory", **what)

    def too_long(self, longest: Example) -> ResourceError:
        (name,) = self.where([longest.row])
        return ResourceError(
            f"the device's memory does not hold {name} ({longest.tokens} tokens) even alone",
            code="memory.example_too_long",
            where=self.journal.run.id,
            hint=f"Set data.max_length below {longest.tokens} (data.too_long says what becomes of longer rows), free "
            "memory on the device, or choose a smaller model.",
        )

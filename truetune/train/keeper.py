"""A run's checkpoints while it trains: begun between two steps, written beside the next, told when they stand."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from truetune.engines.base import Snapshot, TrainEngine, snapshot
from truetune.runs import durable
from truetune.runs.checkpoints import Checkpoints
from truetune.runs.metrics import Metrics
from truetune.train import binding, room
from truetune.train.journal import Journal
from truetune.train.plan import Rules
from truetune.train.saver import Saver


class Keeper:
    """Of one run. One checkpoint is on its way to the disk at most: the next save, a stop and the end wait for it."""

    def __init__(self, rules: Rules, journal: Journal, logs: Sequence[Metrics]) -> None:
        """`logs` are on the disk before a checkpoint of their steps is."""
        self.run, self.state, self.rules, self.journal, self.logs = journal.run, journal.state, rules, journal, logs
        self.checkpoints, self.saver = Checkpoints(self.run), Saver()
        self.bound = binding.of(self.run)
        self.saved: dict[str, Any] = {}
        """The state of the last checkpoint, which may still be on its way."""
        self.warned = False

    def save(self, engine: TrainEngine) -> None:
        """Begin a checkpoint of this state, once. Raises ResourceError where the disk has no room for it, and what
        stopped the one before."""
        if self.saved == self.state.to_json():
            return
        self.settle()
        text = room.refuse_full(self.run.folder, next(iter(self.checkpoints.list()[-1:]), None))
        if text and not self.warned:
            self.journal.warn(text)
        self.warned = bool(text)
        taken = snapshot(engine)
        self.saved = self.state.to_json()
        self.saver.start(self.state.step, partial(self.write, taken, self.saved))
        if not taken.copied:
            self.settle()

    def settle(self) -> None:
        """Wait for the checkpoint that is being written, if there is one, and tell that it is saved."""
        step = self.saver.wait()
        if step is not None:
            self.journal.tell("checkpoint", step, {})

    def write(self, taken: Snapshot, state: dict[str, Any]) -> None:
        """A checkpoint, on the disk when this returns; older ones beyond `keep` go."""
        for log in self.logs:
            durable.settle(log.path)  # a checkpoint never stands without the lines of the steps before it
        kept = state | {binding.KEY: self.bound}
        self.checkpoints.save(state["step"], partial(taken.write, check=self.saver.check), kept)
        best = state["best_step"] if self.rules.best else None
        if best == state["step"] and state["best_loss"] is not None:
            self.checkpoints.mark_best(best, state["best_loss"])
        self.checkpoints.collect(self.rules.keep, best)

    def newest(self) -> int | None:
        """The step of the newest checkpoint, once nothing is on its way any more."""
        self.saver.join()
        return max((each.step for each in self.checkpoints.list()), default=None)

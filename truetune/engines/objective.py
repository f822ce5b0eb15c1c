"""What an objective is to an engine, whatever its arrays are: each engine has one file for each, found by name."""

from __future__ import annotations

from typing import Any

from truetune.engines import base


class Objective:
    """`settings` are those of the run."""

    def __init__(self, settings: base.Objective) -> None:
        self.settings = settings

    def collect(self, engine: base.TrainEngine, plan: base.Plan) -> Any:
        """What must be known of the whole step before any of its losses, without gradient; mostly nothing."""
        return None

    def loss(self, forward: Any, batch: Any, collected: Any) -> tuple[Any, dict[str, Any]]:
        """(the sum of the losses of a micro-batch, sums of what else is measured); both are divided by the step's
        denominator. `forward` and `batch` are the engine's own."""
        raise NotImplementedError

"""Objectives: what a micro-batch costs. One file each, found by name; the formulas stand with torch's."""

from __future__ import annotations

from typing import Any, Protocol

import mlx.core as mx

from truetune.engines import base
from truetune.engines.mlx.batch import Batch
from truetune.engines.mlx.forward import Forward
from truetune.engines.mlx.objectives import cpo, dpo, kto, language, orpo, simpo

Figures = dict[str, mx.array]


class Objective(Protocol):
    """`settings` are those of the run."""

    def __init__(self, settings: base.Objective) -> None: ...

    def collect(self, engine: base.TrainEngine, plan: base.Plan) -> Any:
        """What must be known of the whole step before any of its losses, without gradient."""
        ...

    def loss(self, forward: Forward, batch: Batch, collected: Any) -> tuple[mx.array, Figures]:
        """(the sum of the losses of a micro-batch, sums of what else is measured); both are divided by the step's
        denominator."""
        ...


TABLE: dict[str, type[Objective]] = {
    "sft": language.Language,
    "summarisation": language.Language,
    "pretrain": language.Language,
    "dpo": dpo.Dpo,
    "orpo": orpo.Orpo,
    "simpo": simpo.Simpo,
    "cpo": cpo.Cpo,
    "kto": kto.Kto,
}


def of(settings: base.Objective) -> Objective:
    return TABLE[settings.type](settings)

"""Which methods a memory holds for a model: the table of `ft models fit`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from truetune.models import fit
from truetune.models.facts import Facts
from truetune.models.fit import Case
from truetune.models.memory import Setup, estimate

GB = 1_000_000_000
SIZES = tuple(size * GB for size in (8, 12, 16, 24, 48, 80))
"""Memories of GPUs that people have, in bytes."""
METHODS = (("qlora", 4), ("qlora", 8), ("lora", 0), ("full", 0))
"""Method and bits of its base (0 = as it is), the most sparing first."""
CONTEXT = 131_072
"""Longest example that is looked for, where a model does not say how much it reads."""


@dataclass(frozen=True)
class Chance:
    """One method in one memory. Bytes are those of one example as long as asked for, with `checkpointing`, and with
    `offload` of the layers' inputs to the host's memory, where it fits only so; `longest` is the longest example that
    fits, in tokens, 0 where none does."""

    method: str
    bits: int
    checkpointing: bool
    offload: bool
    weights: int
    trained: int
    activations: int
    runtime: int
    total: int
    longest: int
    fits: bool

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def table(cases: Sequence[Case]) -> list[Chance]:
    """A line for every method."""
    return [chance(case) for case in cases]


def cases(known: Facts, setup: Setup, length: int, available: int) -> list[Case]:
    """The methods that a model can be trained by: one that is stored packed has no other weights."""
    ways = [("qlora", known.bits)] if known.bits else METHODS
    share = fit.PROMISED if setup.gpu else fit.SHARE
    return [Case(known, replace(setup, method=kind, bits=bits), length, available, share=share) for kind, bits in ways]


def chance(case: Case) -> Chance:
    saving = fit.sparing(case)
    found = estimate(case.facts, saving.setup, case.longest)
    return Chance(
        case.setup.method,
        case.setup.bits,
        saving.setup.checkpointing,
        saving.setup.offload,
        found.weights,
        found.trained + found.gradients + found.optimizer,
        found.activations + found.head,
        found.runtime,
        found.total,
        longest(case),
        saving.fits,
    )


def longest(case: Case) -> int:
    """The longest example that fits, in the most sparing way."""
    return fit.fitting(fit.alike(case)[-1], case.facts.positions or CONTEXT)

"""Does it fit, and what to change so that it does: the token budget of a training, and suggestions in order of harm.

How large a micro-batch is, whether activations are kept or computed again (gradient checkpointing) and where the
layers' inputs wait meanwhile is chosen here and changes nothing that is learned, so none of it is a suggestion:
suggestions begin where all of it has been used up.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from truetune.errors import ResourceError
from truetune.models.facts import Facts
from truetune.models.memory import Memory, Setup, estimate, host_bytes, readable
from truetune.models.smaller import counted, scaled
from truetune.models.virtual import LAYERED, METHODS

MOST, MOST_ON_CPU = 4096, 1024
"""More tokens than this in a micro-batch bring little speed on a GPU, and none on a CPU, where they cost memory."""
SHARE = 0.8
"""Part of the available memory that a plan may count on."""
PROMISED = 0.95
"""The same where a GPU's memory was named: its allocator is held to that, and nothing else takes any of it."""
ROUND = 64
"""A suggested length is a multiple of this, and not less."""
LEAST_RANK = 4
SIZES = 32
"""How finely smaller models are told apart."""


Lengths = Sequence[int] | NDArray[np.int64]


@dataclass(frozen=True)
class Case:
    """One training: a model, its settings, the longest example in tokens, and the bytes there are."""

    facts: Facts
    setup: Setup
    longest: int
    available: int
    alpha: float = 32
    """LoRA's alpha, which goes down with r."""
    lengths: Lengths = field(default=(), compare=False)
    """Tokens of every example, where they are known."""
    share: float = SHARE
    host: int | None = None
    """Bytes free in the memory beside a GPU's; None = as many as it takes."""

    @property
    def needs(self) -> int:
        """Bytes with micro-batches of the longest example alone."""
        return estimate(self.facts, self.setup, self.longest).total

    @property
    def room(self) -> int:
        return int(self.available * self.share)

    @property
    def fits(self) -> bool:
        return self.needs <= self.room and self.hosted

    @property
    def hosted(self) -> bool:
        """Whether the host's memory holds what waits there."""
        return self.host is None or host_bytes(self.facts, self.setup, self.longest) <= self.host * SHARE

    def checkpointing(self, wanted: bool = True) -> Case:
        return replace(self, setup=replace(self.setup, checkpointing=wanted, offload=False))

    def offloading(self) -> Case:
        return replace(self, setup=replace(self.setup, checkpointing=True, offload=True))


@dataclass(frozen=True)
class Budget:
    """Tokens of a micro-batch, and the estimate that belongs to them."""

    tokens: int
    checkpointing: bool
    offload: bool
    reason: str
    estimate: Memory


@dataclass(frozen=True)
class Suggestion:
    """One way to need less. `needs` is in bytes; `fits` is about the memory that there is."""

    settings: dict[str, Any]
    """Dotted key of train.yml -> value; empty where it is another model."""
    cost: str
    """What it costs."""
    needs: int
    fits: bool
    parameters: int | None = None
    """Of a smaller model: the most it may have."""

    @property
    def overrides(self) -> list[str]:
        """`["data.max_length=512"]`, as `train` takes them."""
        texts = {key: f"{value:g}" if isinstance(value, float) else value for key, value in self.settings.items()}
        return [f"{key}={text}" for key, text in texts.items()]

    @property
    def line(self) -> str:
        """`--set data.max_length=512`, ready to be typed."""
        return " ".join(f"--set {override}" for override in self.overrides)

    def to_json(self) -> dict[str, Any]:
        names = ("overrides", "line", "cost", "needs", "fits", "parameters")
        return {name: getattr(self, name) for name in names}

    def __str__(self) -> str:
        return f"{self.line or 'a smaller model'} ({readable(self.needs)}; {self.cost})"


def budget(case: Case) -> Budget:
    """The token budget of a micro-batch: as many as help, at least the longest example.

    Gradient checkpointing, and the layers' inputs in the host's memory, only where the longest example needs it. Raises
    ResourceError `memory.too_small` where it does not fit even then.
    """
    choice = sparing(case)
    if not choice.fits:
        raise _too_small(choice)
    tokens, setup = fitting(choice, max(case.longest, most(case))), choice.setup
    found = estimate(case.facts, setup, tokens)
    reason = _reason(replace(choice, longest=tokens), found) + instead(case, tokens)
    return Budget(tokens, setup.checkpointing, setup.offload, reason, found)


def most(case: Case) -> int:
    """Tokens of a micro-batch beyond which there is nothing to win."""
    return MOST if case.setup.gpu else MOST_ON_CPU


def sparing(case: Case) -> Case:
    """The fastest way that fits of those in which the same is learned; the most sparing one where none does."""
    found = alike(case)
    return next((way for way in found if way.fits), found[-1])


def alike(case: Case) -> list[Case]:
    """The case with all activations kept; with gradient checkpointing; and with the layers' inputs in the host's
    memory, where that is another one and holds them."""
    if case.setup.method in LAYERED:
        return [case.checkpointing(False)]
    found = [case.checkpointing(False), case.checkpointing()]
    offloading = case.offloading()
    return [*found, offloading] if case.setup.gpu and offloading.hosted else found


def instead(case: Case, tokens: int) -> str:
    """What small micro-batches are for where gradient checkpointing is no way."""
    if case.setup.method not in LAYERED or tokens >= most(case):
        return ""
    return f", in place of gradient checkpointing, which {case.setup.method} rules out"


def suggest(case: Case) -> list[Suggestion]:
    """What lowers the need, in order of harm: each way by itself, and where none of them is enough the first
    combination that is; a smaller model last. Nothing where the case fits."""
    if case.fits:
        return []
    found = [told for way in WAYS if (told := _tell(case, (way,))) and told.needs < case.needs]
    if not any(told.fits for told in found):
        several = (ways for size in range(2, len(WAYS) + 1) for ways in combinations(WAYS, size))
        together = (told for ways in several if (told := _tell(case, ways)) and told.fits)
        found += [told for told in [next(together, None)] if told]
    return [*found, *_smaller(case)]


Way = Callable[[Case], Case]


def shorter(case: Case) -> Case:
    """The longest examples that fit; half as long where none do."""
    fits = fitting(case, case.longest) // ROUND * ROUND
    length = fits or max(ROUND, case.longest // 2)
    return replace(case, longest=min(length, case.longest))


def lower(case: Case) -> Case:
    """LoRA of the highest rank that fits, halved and halved again; half the rank where none does."""
    if case.setup.method == "full" or case.setup.method in METHODS:
        return case
    halves = [rank for step in range(1, 12) if (rank := case.setup.r >> step) >= LEAST_RANK]
    scale = case.alpha / case.setup.r
    choices = [replace(case, setup=replace(case.setup, r=rank), alpha=scale * rank) for rank in halves]
    return next((choice for choice in choices if choice.fits), choices[0] if choices else case)


def adapter(case: Case) -> Case:
    """LoRA instead of full fine-tuning."""
    if case.setup.method != "full":
        return case
    return replace(case, setup=replace(case.setup, method="lora"))


def packing(case: Case) -> Case:
    """QLoRA: the frozen base in 4 bits."""
    if case.setup.bits:
        return case
    return replace(case, setup=replace(case.setup, method="qlora", bits=4))


def narrower(case: Case) -> Case:
    """Two bytes per number instead of four."""
    return replace(case, setup=replace(case.setup, dtype="bfloat16"))


WAYS: tuple[Way, ...] = (shorter, lower, adapter, packing, narrower)
"""In order of harm."""


def _tell(case: Case, ways: Sequence[Way]) -> Suggestion | None:
    """The ways together, the least harmful last: it makes up for what the others leave. None where one is idle."""
    now, costs = case, list[str]()
    for way in reversed(ways):
        after = way(now)
        if after == now:
            return None
        costs.insert(0, _cost(now, after))
        now = after
    return Suggestion(_settings(case, now), "; ".join(costs), now.needs, now.fits)


def _settings(before: Case, after: Case) -> dict[str, Any]:
    """The keys in which two cases differ, with the values of the second."""
    old, new = before.setup, after.setup
    values = {
        "data.max_length": (before.longest, after.longest),
        "method.type": (old.method, new.method),
        "method.r": (old.r, new.r),
        "method.alpha": (before.alpha, after.alpha),
        "model.dtype": (old.dtype, new.dtype),
    }
    return {key: now for key, (then, now) in values.items() if then != now}


def _cost(before: Case, after: Case) -> str:
    if after.longest != before.longest:
        longer = np.count_nonzero(np.asarray(before.lengths) > after.longest)
        return f"{longer:,} of {len(before.lengths):,} examples are longer" if longer else "leaves out longer examples"
    if after.setup.bits != before.setup.bits:
        return "an adapter beside the model packed into 4 bits, which rounds its weights"
    if after.setup.method != before.setup.method:
        return "trains an adapter in place of all weights"
    if after.setup.r != before.setup.r:
        return "the adapter holds less"
    return "fewer digits per number, and slow on a processor without bfloat16"


def _smaller(case: Case) -> list[Suggestion]:
    """The largest model that fits, of the same build but narrower and with fewer layers; none where none does."""
    for part in range(SIZES - 1, 0, -1):
        small = replace(case, facts=scaled(case.facts, part / SIZES))
        if small.fits:
            count = small.facts.parameters
            return [Suggestion({}, f"at most about {counted(count)} parameters", small.needs, True, count)]
    return []


def fitting(case: Case, most: int) -> int:
    """The largest number of tokens up to `most` that the memory holds; 0 where it holds none."""
    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        if replace(case, longest=middle).fits:
            low = middle
        else:
            high = middle - 1
    return low


def _reason(case: Case, found: Memory) -> str:
    """`case` with micro-batches of its `longest`."""
    why = "micro-batches as large as brings speed" if case.longest >= most(case) else "micro-batches as large as fit"
    host = readable(host_bytes(case.facts, case.setup, case.longest))
    inputs = f" and about {host} of activations in the host's memory" if case.setup.offload else ""
    more = f", with gradient checkpointing{inputs}, which the longest example needs" if case.setup.checkpointing else ""
    return f"{why}: about {readable(found.total)} of {readable(case.available)} available{more}"


def _too_small(case: Case) -> ResourceError:
    needed, fitting = int(case.needs / case.share), [told for told in suggest(case) if told.fits]
    ways = [str(told) for told in fitting[:1]]
    ways += ["a smaller model"] if fitting and fitting[0].settings else []
    return ResourceError(
        f"training needs about {readable(needed)}, and {readable(case.available)} are available "
        f"(the longest example has {case.longest} tokens)",
        code="memory.too_small",
        where="resources.memory",
        hint=f"what would fit: {', or '.join([*ways, 'more memory'])}",
    )

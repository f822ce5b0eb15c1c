"""The protocol between the loop and an engine. Numpy arrays, floats and paths cross it, nothing else.

A step is the list of its examples. Its loss is the sum of their losses, divided by the step's denominator (the sum of
the tokens' weights, or the number of rows), so how an engine cuts the step into micro-batches changes only its speed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from truetune.data import objectives
from truetune.data.example import Example


@dataclass(frozen=True)
class Method:
    """How the model is changed. `full` trains all weights, the LoRA family (Hu et al. 2021) a small addition to some
    layers, the others vectors in front of the text."""

    type: str = "lora"
    r: int = 16
    alpha: float = 32
    dropout: float = 0.0
    target_modules: str | tuple[str, ...] = "auto"
    bits: int = 0
    """Of the frozen base, which is packed while it is loaded: 4 or 8; 0 = as it is stored."""
    frozen_layers: int = 0
    """Of `full`: the lowest layers that stay as they are, and the embedding with them."""
    virtual_tokens: int = 20
    """Of the prompt methods: tokens before every text."""
    encoder_hidden: int | None = None
    """Of prefix and ptuning: width of the network that makes them, None for the model's own."""
    init: str = "default"
    """Where a fresh adapter starts: `default` (as nothing), `pissa` or `olora` (as a part of the weights), `loftq` (as
    what packing them rounds off)."""
    lora_plus: float | None = None
    """How many times the learning rate of A that of B is (Hayou et al. 2024, arXiv 2402.12354)."""
    modules_to_save: tuple[str, ...] = ()
    """Modules that are trained whole, beside the adapter."""

    @property
    def scale(self) -> float:
        """What LoRA's product is multiplied by; of `rslora` see Kalajdzievski 2023, arXiv 2312.03732."""
        return self.alpha / (math.sqrt(self.r) if self.type == "rslora" else self.r)


@dataclass(frozen=True)
class Objective:
    """What is learned; the fields down to `undesirable_weight` are the preference objectives' (see
    `truetune.config.Preference`), the others those of classification."""

    type: str = "sft"
    loss: str = "sigmoid"
    beta: float = 0.1
    label_smoothing: float = 0.0
    margin: float = 0.5
    sft_weight: float = 1.0
    desirable_weight: float = 1.0
    undesirable_weight: float = 1.0
    classes: tuple[str, ...] = ()
    """Names in the order of their numbers."""
    several: bool = False
    """Whether a text may be of any number of classes: each is then decided by itself."""
    class_weights: tuple[float, ...] = ()
    """By which the loss of a row of each class is multiplied; of `several`, that of the class where it holds."""
    threshold: float = 0.5


@dataclass(frozen=True)
class Optimizer:
    """How weights change, with decoupled weight decay and the gradient clipped by its global norm. The betas are those
    of the Adam family; the others keep their own."""

    type: str = "adamw"
    weight_decay: float = 0.01
    max_grad_norm: float | None = 1.0
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8


@dataclass(frozen=True)
class Choice:
    """A device and number type with the reasons, and a warning where the wish could not be met."""

    device: str
    dtype: str
    reason: str
    dtype_reason: str
    warning: str = ""


@dataclass(frozen=True)
class EngineSpec:
    """All an engine needs to open: a local model folder and plain values."""

    model: Path
    method: Method = field(default_factory=Method)
    optimizer: Optimizer = field(default_factory=Optimizer)
    objective: Objective = field(default_factory=Objective)
    adapter: Path | None = None
    """Adapter folder to start from (PEFT layout), else a fresh one."""
    new_tokens: tuple[int, ...] = ()
    """Ids whose rows of the embedding (and of the head) are trained; it grows where it has no such row."""
    device: str = "cpu"
    dtype: str = "float32"
    seed: int = 42
    token_budget: int = 2048
    """Most tokens of one micro-batch; an example longer than this goes alone."""
    gradient_checkpointing: bool = False
    offload: bool = False
    """With gradient checkpointing: whether the layers' inputs wait in the host's memory. For GPUs."""
    compiled: bool = False
    """Whether the decoder's layers are compiled, where a trial gives the same."""
    neftune_alpha: float | None = None
    """Noise on the embeddings in training; None = none."""
    ema: float | None = None
    """Decay of the running mean of the trained weights, which is measured and exported; None = they are themselves."""
    memory: int = 0
    """Most bytes of a GPU that may be used: beyond it memory has run out; 0 = what there is."""
    base: str = ""
    """What the user called the base (`starter`, a hub id): written into the adapter's config."""
    revision: str | None = None


@dataclass(frozen=True)
class Plan:
    """A step cut into micro-batches: a pure function of (examples, token budget)."""

    examples: Sequence[Example]
    micro_batches: Sequence[Sequence[int]]
    """Indices into `examples`."""
    denominator: float
    """What the step's loss is divided by."""

    @property
    def tokens(self) -> int:
        return sum(example.tokens for example in self.examples)


@dataclass(frozen=True)
class StepResult:
    """What one optimizer step did. `supervised` is counted where the loss is computed, not promised; `figures` are
    means of what else the objective measures, such as the share of pairs that are told apart."""

    loss: float
    grad_norm: float
    tokens: int
    supervised: int
    figures: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class LossSum:
    """Held-out loss and figures, as sums so that parts add up: mean = loss / denominator."""

    loss: float
    denominator: float
    tokens: int
    supervised: int
    figures: Mapping[str, float] = field(default_factory=dict)

    def __add__(self, other: LossSum) -> LossSum:
        return LossSum(
            self.loss + other.loss,
            self.denominator + other.denominator,
            self.tokens + other.tokens,
            self.supervised + other.supervised,
            summed(self.figures, other.figures),
        )

    @property
    def means(self) -> dict[str, float]:
        """The figures' means. One that is named `this/that` is divided by the figure `that`, a count, instead of the
        denominator; where that is 0 there is no mean."""
        counts = {name.partition("/")[2] for name in self.figures}
        found = {}
        for name, value in self.figures.items():
            title, _, count = name.partition("/")
            whole = self.figures[count] if count else self.denominator
            if whole and name not in counts:
                found[title] = value / whole
        return found


def summed(one: Mapping[str, float], other: Mapping[str, float]) -> dict[str, float]:
    return {name: one.get(name, 0.0) + other.get(name, 0.0) for name in {**one, **other}}


@dataclass(frozen=True)
class Usage:
    """Memory in bytes on the training device, and its peak since the engine opened."""

    now: int
    peak: int
    limit: int


Part = Callable[[Path], None]
"""Writes one or more files into a folder."""


@dataclass(frozen=True)
class Snapshot:
    """What a checkpoint holds of an engine, as it was when the snapshot was taken."""

    parts: tuple[Part, ...]
    copied: bool = True
    """Whether it is a copy, so that training may go on before it is written."""

    def write(self, folder: Path, check: Callable[[], None] = lambda: None) -> None:
        """Into an existing folder: the files of `TrainEngine.save`. `check` is called before each, and may raise."""
        for part in self.parts:
            check()
            part(folder)


def write(parts: Iterable[Part], folder: Path) -> None:
    """Every part into an existing folder."""
    for part in parts:
        part(folder)


def go_on() -> None:
    """What an engine calls between two micro-batches, where nobody wants it to stop there."""


def snapshot(engine: TrainEngine) -> Snapshot:
    """Of any engine: one that cannot copy itself is written before it goes on."""
    taken = getattr(engine, "snapshot", None)
    return taken() if taken else Snapshot((engine.save,), copied=False)


def keep_less(engine: TrainEngine) -> bool:
    """Have any engine keep less for the backward pass; False where it can keep no less."""
    wanted = getattr(engine, "keep_less", None)
    return bool(wanted and wanted())


class TrainEngine(Protocol):
    """One model on one device (or one share of them) that can take steps.

    Errors raised: `OutOfMemory` from step and loss, with the state as it was before the call; `NotFinite` from step,
    with the parameters untouched.
    """

    spec: EngineSpec
    token_budget: int
    between: Callable[[], None]
    """Called before each micro-batch of `step`, `loss` and `scores`; what it raises leaves the state as it was before
    the call. An engine that is brought in may leave it uncalled."""

    def prepare(self, examples: Sequence[Example]) -> Plan:
        """Cut a step into micro-batches. Pure; may run in a thread ahead of time."""
        ...

    def step(self, plan: Plan, lr: float) -> StepResult:
        """One optimizer step at learning rate `lr`."""
        ...

    def loss(self, plan: Plan) -> LossSum:
        """Loss of the plan's examples without dropout or gradient; leaves training state (RNG too) as it was."""
        ...

    def scores(self, plan: Plan, *, base: bool = False) -> NDArray[np.float32]:
        """[examples, texts]: Σ weight · log p of each example's texts, without dropout or gradient; with `base`, by
        the model before training. Of a model that gives scores these: [examples, texts · classes]. Raises OutOfMemory;
        ValueError where that model is gone: the method changes the weights themselves, and has."""
        ...

    def answer(self, prompts: Sequence[Sequence[int]], limit: int, stops: frozenset[int]) -> list[list[int]]:
        """Greedy continuations of token ids, at most `limit` tokens each, through the first of `stops`.

        For a handful of samples while training: it draws no random numbers. Raises OutOfMemory.
        """
        ...

    def rehearse(self, plan: Plan) -> StepResult:
        """The step's loss and gradient, thrown away: for measuring speed and memory. Changes nothing."""
        ...

    def save(self, folder: Path) -> None:
        """Parameters, optimizer and RNG into an existing folder: safetensors and JSON."""
        ...

    def snapshot(self) -> Snapshot:
        """What `save` writes, copied into the host's memory; a thread writes it while training goes on. Where that
        memory does not hold it, it is no copy. An engine that is brought in may lack this verb."""
        ...

    def keep_less(self) -> bool:
        """From now on compute each layer again in the backward pass, instead of keeping what is in it: the same
        gradient with less memory. False where it does so already, or cannot. An engine that is brought in may lack
        this verb."""
        ...

    def restore(self, folder: Path) -> None:
        """Undo `save`: what follows is bit-identical to what would have followed the save."""
        ...

    def export(self, folder: Path) -> None:
        """The trained result (PEFT adapter, or the whole model for full fine-tuning) into an existing folder."""
        ...

    def changed(self) -> tuple[int, int]:
        """(trained tensors that differ from their start, all trained tensors)."""
        ...

    def agree(self, flag: bool) -> bool:
        """One decision over all ranks: true if it is true on any."""
        ...

    def usage(self) -> Usage: ...

    def describe(self) -> dict[str, Any]:
        """JSON-ready facts for the receipt: trained parameters, matched modules, device, dtype, how it packs."""
        ...

    def close(self) -> None: ...


class OutOfMemory(Exception):
    """The device's memory did not hold a micro-batch; lower `token_budget` and replay the step."""


class NotFinite(Exception):
    """The loss or the gradient of a step is not a number."""


def cut(examples: Sequence[Example], budget: int, virtual: int = 0) -> list[list[int]]:
    """Length-sorted first-fit: micro-batches of at most `budget` tokens, a longer example alone. `virtual` tokens stand
    before every text besides.

    >>> cut of lengths [5, 3, 9, 2] at budget 8 -> [[2], [0, 1], [3]]
    """
    order = sorted(range(len(examples)), key=lambda i: (-examples[i].tokens, i))
    batches: list[list[int]] = []
    space: list[int] = []
    for index in order:
        size = examples[index].tokens + virtual * len(examples[index].texts)
        slot = next((k for k, left in enumerate(space) if left >= size), None)
        if slot is None:
            batches.append([index])
            space.append(budget - size)
        else:
            batches[slot].append(index)
            space[slot] -= size
    return batches


def plan(examples: Sequence[Example], budget: int, objective: str = "sft", virtual: int = 0) -> Plan:
    """A `Plan` for these examples under a token budget; `virtual` as in `cut`."""
    return Plan(tuple(examples), tuple(map(tuple, cut(examples, budget, virtual))), denominator(examples, objective))


def denominator(examples: Sequence[Example], objective: str) -> float:
    """What the loss of these examples is divided by."""
    if objectives.of(objective).unit == "rows":
        return float(len(examples))
    return float(sum(float(example.weights.sum()) for example in examples))


def drift(engine: TrainEngine, plan: Plan) -> float:
    """How much likelier than before training the model finds the rows' contrasts, on average, in nats; at least 0."""
    others = [example.contrast for example in plan.examples if example.contrast]
    before = np.array([value for other in others for value in other.reference], np.float32)
    return max(0.0, float(np.mean(engine.scores(engine.prepare(others))[:, 0] - before)))

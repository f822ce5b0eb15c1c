"""The torch engine: takes steps. How a step is cut changes speed and memory, never what is learned."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from truetune.data.example import Example
from truetune.engines import adapter, base, family, prompts
from truetune.engines.base import EngineSpec, LossSum, NotFinite, OutOfMemory, Plan, Snapshot, StepResult, Usage
from truetune.engines.torch import (
    answers,
    compiled,
    device,
    kernels,
    methods,
    model,
    objectives,
    offload,
    optimizers,
    pooled,
    quantised,
    reading,
    state,
)
from truetune.engines.torch.batch import Batch, pack, pad
from truetune.engines.torch.forward import Forward
from truetune.engines.torch.mean import Mean
from truetune.engines.torch.noise import Noise
from truetune.models import memory
from truetune.models.encoders import Pooling


def open_engine(spec: EngineSpec) -> TorchEngine:
    device.fit_threads()
    return TorchEngine(spec)


class TorchEngine:
    """One model on one device. See `truetune.engines.base.TrainEngine` for what each verb promises."""

    def __init__(self, spec: EngineSpec) -> None:
        self.spec = spec
        self.token_budget, self.between = spec.token_budget, base.go_on
        device.hold(spec.device, spec.memory)
        self.head = pooled.of_spec(spec)
        self.model = model.load(spec, self.head)
        self.kernels = kernels.install(self.model, spec)
        self.spec = spec = self.head.trained(self.model) if self.head else spec
        self.adapted = methods.adapt(self.model, spec)
        if spec.gradient_checkpointing:
            offload.checkpoint(self.model, offload=spec.offload)
        self.parameters = self.adapted.parameters
        self.start = state.fingerprints(self.parameters)
        self.optimizer = optimizers.of(self.adapted, spec)
        self.mean = Mean(self.parameters, spec.ema)
        self.noise = Noise(self.model, spec.neftune_alpha)
        self.forward = Forward(self.adapted.model, self.adapted.virtual)
        self.moved = False
        self.objective = objectives.of(spec.objective)
        if spec.compiled:
            self.kernels |= {"layers": self._compile()}
        state.seed(spec.seed)
        self.rng = state.rng()

    def _compile(self) -> str:
        """Have the decoder's layers compiled; returns how that went."""
        if self.head or not self.forward.packs:
            return "not compiled (only decoders that train packed are)"
        return compiled.install(self.model, self._attempt)

    def _attempt(self) -> list[torch.Tensor]:
        """The loss of a few made-up tokens, and the gradient of everything that is trained."""
        state.seed(self.spec.seed)
        self.model.train()
        rows = [Example(np.arange(size, dtype=np.int32), np.ones(size, dtype=np.float32), size) for size in (9, 24)]
        for row in rows:
            row.weights[0] = 0
        with self._autocast():
            loss = self.forward.loss(pack(rows, self.spec.device))
        wanted = [*self.parameters.values()]
        return [loss.detach(), *torch.autograd.grad(loss, wanted, allow_unused=True, materialize_grads=True)]

    def prepare(self, examples: Sequence[Example]) -> Plan:
        return base.plan(examples, self.token_budget, self.spec.objective.type, self.adapted.virtual)

    def step(self, plan: Plan, lr: float) -> StepResult:
        state.set_rng(self.rng)  # the engine's own stream: whoever else draws numbers does not change training
        try:
            with device.running_out():
                self.model.train()
                result = self._gradient(plan)
                if not (math.isfinite(result.loss) and math.isfinite(result.grad_norm)):
                    raise NotFinite(f"loss {result.loss}, gradient norm {result.grad_norm}")
                optimizers.set_rate(self.optimizer, lr)
                self.optimizer.step()
                self.mean.update()
                self.moved = True
        finally:
            self.optimizer.zero_grad(set_to_none=True)
        self.rng = state.rng()
        return result

    def loss(self, plan: Plan) -> LossSum:
        with self._measuring():
            collected = self.objective.collect(self, plan)
            parts = [(batch.supervised, *self._loss(batch, collected)) for batch in self._batches(plan)]
            return summed(plan, parts)[0]

    def scores(self, plan: Plan, *, base: bool = False) -> NDArray[np.float32]:
        undoes = self.adapted.undoes and self.spec.adapter is None  # else that model has the adapter it starts from
        if base and self.moved and not undoes:
            raise ValueError("the weights before training are gone")
        with self._measuring(), self.adapted.off() if base and undoes else nullcontext(), self._autocast():
            sums = [self._scores(batch).cpu().numpy() for batch in self._batches(plan)]
        rows = [values.reshape(len(part), -1) for part, values in zip(plan.micro_batches, sums, strict=True)]
        order = np.concatenate([np.array(part) for part in plan.micro_batches])
        found: NDArray[np.float32] = np.concatenate(rows)[np.argsort(order)]
        return found

    def embed(self, texts: Sequence[Sequence[int]], pooling: Pooling) -> NDArray[np.float32]:
        with self._measuring(), self._autocast():
            return reading.embedded(self.model, texts, pooling)

    def _scores(self, batch: Batch) -> torch.Tensor:
        return pooled.of(self.forward, batch) if self.head else self.forward.sums(batch)

    def answer(self, prompts: Sequence[Sequence[int]], limit: int, stops: frozenset[int]) -> list[list[int]]:
        with self._measuring(), self._autocast():
            front = self.adapted.front() if self.adapted.virtual and not self.fresh else None
            return answers.greedy(self.model, prompts, limit, stops, front)

    @contextmanager
    def _measuring(self) -> Iterator[None]:
        """Without dropout and gradient. Raises OutOfMemory."""
        training = self.model.training
        self.model.eval()
        try:
            with device.running_out(), torch.no_grad(), self.mean.shown(), self._known():
                yield
        finally:
            self.model.train(training)

    def _known(self) -> AbstractContextManager[None]:
        """Virtual tokens start as noise: until they have learned something, the model before training is measured."""
        return self.adapted.off() if self.adapted.virtual and self.fresh else nullcontext()

    @property
    def fresh(self) -> bool:
        """Whether the model is still the base alone, where what is trained starts as something else."""
        return self.spec.adapter is None and not self.moved

    def rehearse(self, plan: Plan) -> StepResult:
        state.set_rng(self.rng)
        try:
            self.model.train()
            return self._gradient(plan)
        finally:
            self.optimizer.zero_grad(set_to_none=True)

    def _gradient(self, plan: Plan) -> StepResult:
        """Loss and clipped gradient of the whole step; dividing by the step's denominator, not by micro-batch means."""
        parts: list[Part] = []
        with self.mean.hidden():
            collected = self.objective.collect(self, plan)
        for batch in self._batches(plan):
            with self.noise.on(batch):
                loss, figures = self._loss(batch, collected)
            (loss / plan.denominator).backward()
            parts.append((batch.supervised, loss.detach(), figures))
        limit = self.spec.optimizer.max_grad_norm
        norm = torch.nn.utils.clip_grad_norm_(self.parameters.values(), math.inf if limit is None else limit)
        total, (length,) = summed(plan, parts, norm)
        return StepResult(total.loss / plan.denominator, length, plan.tokens, total.supervised, total.means)

    def _loss(self, batch: Batch, collected: Any) -> tuple[torch.Tensor, objectives.Figures]:
        with self._autocast():
            return self.objective.loss(self.forward, batch, collected)

    def _batches(self, plan: Plan) -> Iterator[Batch]:
        cut = pack if self.forward.packs else pad
        for part in plan.micro_batches:
            self.between()
            yield cut([plan.examples[i] for i in part], self.spec.device)

    def _autocast(self) -> Any:
        """Weights that are trained whole are float32, and compute in `dtype`; adapters see the base as it is."""
        whole = self.spec.method.type == "full" or self.spec.method.modules_to_save
        if whole and self.spec.dtype != "float32":
            return torch.autocast(self.spec.device.partition(":")[0], getattr(torch, self.spec.dtype))
        return nullcontext()

    def save(self, folder: Path) -> None:
        state.save(folder, self.adapted, self.optimizer, self.rng, self.mean)

    def snapshot(self) -> Snapshot:
        size = state.size(self.adapted, self.optimizer, self.mean)
        if hasattr(self.adapted, "snapshot") and size <= memory.available() // 2:
            with suppress(OutOfMemory), device.running_out():
                return state.snapshot(self.adapted, self.optimizer, self.rng, self.mean)
        return Snapshot((self.save,), copied=False)

    def keep_less(self) -> bool:
        if self.spec.gradient_checkpointing or self.spec.method.type in prompts.LAYERED:
            return False  # it would drop the keys and values that prefixes train
        offload.checkpoint(self.model, offload=False)
        self.spec = replace(self.spec, gradient_checkpointing=True)
        return True

    def restore(self, folder: Path) -> None:
        self.rng = state.restore(folder, self.adapted, self.optimizer, self.mean)
        self.moved = bool(self.changed()[0])

    def export(self, folder: Path) -> None:
        with self.mean.shown():
            self.adapted.export(folder)
        if self.head and self.spec.method.type != "full":
            self.model.config.save_pretrained(folder)  # the names of the classes, for whoever loads the adapter

    def changed(self) -> tuple[int, int]:
        now = state.fingerprints(self.parameters)
        return sum(now[name] != self.start[name] for name in now), len(now)

    def agree(self, flag: bool) -> bool:
        return flag

    def usage(self) -> Usage:
        return device.usage(self.spec.device)

    def describe(self) -> dict[str, Any]:
        every = quantised.parameters(self.model)
        return {
            "engine": "torch",
            "device": self.spec.device,
            "dtype": self.spec.dtype,
            "threads": torch.get_num_threads(),
            "parameters": every,
            "trained_parameters": sum(p.numel() for p in self.parameters.values()),
            "target_modules": sorted({name.rpartition(".")[2] for name in self.adapted.layers}),
            "adapted_layers": len(self.adapted.layers),
            "modules_to_save": self._whole(),
            "new_tokens": len(self.spec.new_tokens),
            "micro_batches": "packed" if self.forward.packs else "padded",
            "gradient_checkpointing": self.spec.gradient_checkpointing,
            "offload": self.spec.offload,
            "ema": self.spec.ema,
            **({"kernels": self.kernels} if self.kernels else {}),
        }

    def _whole(self) -> list[str]:
        """Modules that are trained whole, both where a head is tied to its embedding."""
        whole = {id(parameter) for name, parameter in self.parameters.items() if family.whole(name)}
        every = self.model.named_parameters(remove_duplicate=False)
        return family.modules(adapter.PREFIX + name for name, parameter in every if id(parameter) in whole)

    def close(self) -> None:
        del self.model, self.forward, self.optimizer, self.parameters, self.adapted, self.mean, self.noise
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


Part = tuple[int, torch.Tensor, objectives.Figures]
"""Of a micro-batch: supervised tokens, loss, figures."""


def summed(plan: Plan, parts: Sequence[Part], *others: torch.Tensor) -> tuple[LossSum, list[float]]:
    """The losses and figures of micro-batches together, and other scalars, as numbers: all are asked for at once, so
    that a GPU is waited for once in a step and not in every micro-batch."""
    found = iter(numbers([one for _, loss, figures in parts for one in (loss, *figures.values())] + [*others]))
    total = LossSum(0.0, plan.denominator, plan.tokens, 0)
    for supervised, _, figures in parts:
        total += LossSum(next(found), 0.0, 0, supervised, {name: next(found) for name in figures})
    return total, [*found]


def numbers(scalars: Sequence[torch.Tensor]) -> list[float]:
    """Scalars read in one go, on the device of the first."""
    if not scalars:
        return []
    place = scalars[0].device
    wide = torch.float32 if place.type == "mps" else torch.float64
    return torch.stack([torch.as_tensor(one).detach().to(place, wide) for one in scalars]).tolist()

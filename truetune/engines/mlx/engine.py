"""The MLX engine: takes steps. How a step is cut changes speed and memory, never what is learned."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten
from numpy.typing import NDArray

from truetune.data.example import Example
from truetune.engines.base import (
    EngineSpec,
    LossSum,
    NotFinite,
    OutOfMemory,
    Plan,
    Snapshot,
    StepResult,
    Usage,
    denominator,
    go_on,
    write,
)
from truetune.engines.mlx import batch, blas, cores, device, head, lora, methods, model, objectives, optimizers, state
from truetune.engines.mlx.adamw import Arrays, clip
from truetune.engines.mlx.batch import Batch
from truetune.engines.mlx.family import refuse_unserved
from truetune.engines.mlx.forward import Forward
from truetune.engines.mlx.pooled import Pool
from truetune.engines.mlx.walk import Walk
from truetune.engines.optimizers import rates
from truetune.models import memory


def open_engine(spec: EngineSpec) -> MlxEngine:
    refuse_unserved(spec)
    device.use(spec.device)
    return MlxEngine(spec)


class MlxEngine:
    """One model on one device. See `truetune.engines.base.TrainEngine` for what each verb promises."""

    def __init__(self, spec: EngineSpec) -> None:
        self.spec = spec
        self.token_budget, self.between = spec.token_budget, go_on
        self.most, self.peak = device.most(spec.device, spec.memory), 0
        full = spec.method.type == "full"
        self.pool = Pool.of(spec)
        self.model, layout = model.load(spec.model, "float32" if full else spec.dtype, self.pool)
        self.spec = spec = self.pool.trained() if self.pool else spec
        self.adapted = methods.adapt(self.model, layout, spec)
        self.layout, self.layers = self.adapted.layout, self.adapted.layers
        self.parameters = self.adapted.parameters
        walk = Walk(self.model, layout, saving=spec.gradient_checkpointing, whole=self.adapted.looks_up)
        self.head = head.of(self.model, self.layout)
        self.forward = Forward(walk, self.head, self.layout.settings["hidden_size"])
        self.objective = objectives.of(spec.objective)
        self.slope = mx.value_and_grad(self._loss)
        self.start = state.fingerprints(self.parameters)
        self.optimizer = optimizers.of(spec.optimizer, self.parameters, rates(self.parameters, spec.method))
        self.key = mx.random.key(spec.seed)
        mx.reset_peak_memory()

    def prepare(self, examples: Sequence[Example]) -> Plan:
        pieces = batch.cut([batch.size(example) for example in examples], self.token_budget)
        return Plan(tuple(examples), tuple(pieces), denominator(examples, self.spec.objective.type))

    def step(self, plan: Plan, lr: float) -> StepResult:
        key, own = mx.random.split(self.key)
        result, gradients = self._gradient(plan, own)
        if not (math.isfinite(result.loss) and math.isfinite(result.grad_norm)):
            raise NotFinite(f"loss {result.loss}, gradient norm {result.grad_norm}")
        self.parameters, self.key = self.optimizer.step(self.parameters, gradients, lr), key
        mx.eval(self.parameters, self.optimizer.state(), self.key)
        self.adapted.put(self.parameters)
        return result

    def rehearse(self, plan: Plan) -> StepResult:
        return self._gradient(plan, mx.random.split(self.key)[1])[0]

    def loss(self, plan: Plan) -> LossSum:
        total, collected = LossSum(0.0, plan.denominator, plan.tokens, 0), self.objective.collect(self, plan)
        for examples in parts(plan):
            self.between()
            one = batch.batch(examples)
            total += told(one, self.objective.loss(self.forward, one, collected))
            self._refuse_overflow()
        return total

    def scores(self, plan: Plan, *, base: bool = False) -> NDArray[np.float32]:
        undoes = self.adapted.undoes and self.spec.adapter is None  # else that model has the adapter it starts from
        if base and self.optimizer.steps and not undoes:
            raise ValueError("the weights before training are gone")
        found: dict[int, NDArray[np.float32]] = {}
        with self.adapted.off() if base and undoes else nullcontext():
            for places, examples in zip(plan.micro_batches, parts(plan), strict=True):
                self.between()
                table = np.array(self._scores(batch.batch(examples))).reshape(len(places), -1)
                found |= zip(places, table, strict=True)
                self._refuse_overflow()
        return np.stack([found[place] for place in range(len(plan.examples))])

    def _scores(self, one: Batch) -> mx.array:
        return self.forward.scores(one) if self.pool else self.forward.sums(one)

    def answer(self, prompts: Sequence[Sequence[int]], limit: int, stops: frozenset[int]) -> list[list[int]]:
        core = cores.Core(self.model, Walk(self.model, self.layout), self.head)
        return [core.greedy(prompt, limit, stops) for prompt in prompts]

    def _gradient(self, plan: Plan, key: mx.array) -> tuple[StepResult, Arrays]:
        """Loss and clipped gradient of the whole step; dividing by the step's denominator, not by micro-batch means."""
        total, gradients = LossSum(0.0, plan.denominator, plan.tokens, 0), {}
        collected = self.objective.collect(self, plan)
        keys = mx.random.split(key, len(plan.micro_batches))
        try:
            for examples, own in zip(parts(plan), keys, strict=True):
                self.between()
                one = batch.batch(examples)
                lora.draw(self.layers, own if self.spec.method.dropout else None)
                loss, found = self.slope(self.parameters, one, collected, plan.denominator)
                gradients = {name: gradients[name] + found[name] for name in found} if gradients else found
                mx.eval(loss, gradients)
                total += told(one, loss[1:])
                self._refuse_overflow()
        finally:
            lora.draw(self.layers, None)
            self.adapted.put(self.parameters)
        gradients, norm = clip(gradients, self.spec.optimizer.max_grad_norm)
        loss = total.loss / plan.denominator
        return StepResult(loss, float(norm.item()), plan.tokens, total.supervised, total.means), gradients

    def _loss(
        self, parameters: Arrays, one: Batch, collected: Any, whole: float
    ) -> tuple[mx.array, mx.array, objectives.Figures]:
        """The micro-batch's part of the step's loss, its own sum, and the figures."""
        self.adapted.put(self._narrow(parameters))
        loss, figures = self.objective.loss(self.forward, one, collected)
        return loss / whole, loss, figures

    def _narrow(self, parameters: Arrays) -> Arrays:
        """Weights that are trained whole are float32, and compute in `dtype`; adapters see the base as it is."""
        dtype, wide = getattr(mx, self.spec.dtype), self.adapted.wide
        return {name: value.astype(dtype) if wide(name) else value for name, value in parameters.items()}

    def save(self, folder: Path) -> None:
        write(self.adapted.parts(self.parameters), folder)
        write(state.parts(self.optimizer, self.key), folder)

    def snapshot(self) -> Snapshot:
        size = sum(value.nbytes for part in (self.parameters, self.optimizer.state()) for value in part.values())
        if size > memory.available() // 2:
            return Snapshot((self.save,), copied=False)
        return Snapshot((*self.adapted.parts(self.parameters), *state.parts(self.optimizer, self.key)))

    def keep_less(self) -> bool:
        walk = self.forward.walk
        before, walk.saving = walk.saving, True
        self.spec = replace(self.spec, gradient_checkpointing=True)
        return not before

    def restore(self, folder: Path) -> None:
        self.parameters, self.key = state.restore(folder, self.optimizer, self.adapted.file, self.adapted.taken)
        self.adapted.put(self.parameters)

    def export(self, folder: Path) -> None:
        self.adapted.export(folder, self.parameters)
        if self.pool:
            self.pool.write_config(folder)

    def changed(self) -> tuple[int, int]:
        now = state.fingerprints(self.parameters)
        return sum(now[name] != self.start[name] for name in now), len(now)

    def agree(self, flag: bool) -> bool:
        return flag

    def usage(self) -> Usage:
        return device.usage(self.most, self.peak)

    def _refuse_overflow(self) -> None:
        """Raises OutOfMemory; the peak is then counted anew, so that smaller micro-batches may do."""
        try:
            device.refuse_overflow(self.most)
        except OutOfMemory:
            self.peak = self.usage().peak
            mx.reset_peak_memory()
            raise

    def describe(self) -> dict[str, Any]:
        trained = sum(value.size for value in self.parameters.values())
        every = sum(value.size for _, value in tree_flatten(self.model.parameters()))
        return {
            "engine": "mlx",
            "device": self.spec.device,
            "dtype": self.spec.dtype,
            "blas": blas.name(),
            "threads": blas.threads(),
            "parameters": every,
            "trained_parameters": trained,
            "target_modules": sorted({name.rpartition(".")[2] for name in self.layers}),
            "adapted_layers": len(self.layers),
            "modules_to_save": list(self.adapted.modules),
            "micro_batches": "padded, by length",
            "gradient_checkpointing": self.spec.gradient_checkpointing,
        }

    def close(self) -> None:
        del self.model, self.forward, self.head, self.optimizer, self.parameters, self.layers, self.adapted
        mx.clear_cache()


def told(one: Batch, made: tuple[mx.array, objectives.Figures]) -> LossSum:
    """A micro-batch's loss and figures as numbers."""
    loss, figures = made
    plain = {name: float(value.item()) for name, value in figures.items()}
    return LossSum(float(loss.item()), 0.0, 0, one.supervised, plain)


def parts(plan: Plan) -> list[list[Example]]:
    """The examples of each micro-batch."""
    return [[plan.examples[i] for i in part] for part in plan.micro_batches]

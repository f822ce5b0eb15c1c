"""The torch engine: takes steps. How a step is cut changes speed and memory, never what is learned."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

from truetune.data.example import Example
from truetune.engines import base
from truetune.engines.base import EngineSpec, LossSum, NotFinite, OutOfMemory, Plan, StepResult, Usage
from truetune.engines.torch import answers, device, model, state
from truetune.engines.torch.batch import Batch, pack, pad
from truetune.engines.torch.forward import Forward


def open_engine(spec: EngineSpec) -> TorchEngine:
    device.fit_threads()
    return TorchEngine(spec)


class TorchEngine:
    """One model on one device. See `truetune.engines.base.TrainEngine` for what each verb promises."""

    def __init__(self, spec: EngineSpec) -> None:
        self.spec = spec
        self.token_budget = spec.token_budget
        self.model = model.load(spec)
        self.targets = model.adapt(self.model, spec)
        if spec.gradient_checkpointing:
            self.model.activation_checkpointing_enable({"use_reentrant": False})
        self.parameters = state.trained(self.model)
        self.start = state.fingerprints(self.parameters)
        self.optimizer = adamw(self.parameters, spec.optimizer)
        self.forward = Forward(self.model)
        torch.manual_seed(spec.seed)
        self.rng = state.rng()

    def prepare(self, examples: Sequence[Example]) -> Plan:
        return base.plan(examples, self.token_budget)

    def step(self, plan: Plan, lr: float) -> StepResult:
        state.set_rng(self.rng)  # the engine's own stream: whoever else draws numbers does not change training
        try:
            self.model.train()
            result = self._gradient(plan)
            if not (math.isfinite(result.loss) and math.isfinite(result.grad_norm)):
                raise NotFinite(f"loss {result.loss}, gradient norm {result.grad_norm}")
            for group in self.optimizer.param_groups:
                group["lr"] = lr
            self.optimizer.step()
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
            raise OutOfMemory(str(error)) from None
        finally:
            self.optimizer.zero_grad(set_to_none=True)
        self.rng = state.rng()
        return result

    def loss(self, plan: Plan) -> LossSum:
        self.model.eval()
        try:
            with torch.no_grad():
                sums = [self._loss(batch) for batch in self._batches(plan, scale=1.0)]
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
            raise OutOfMemory(str(error)) from None
        supervised = sum(count for _, count in sums)
        return LossSum(sum(loss.item() for loss, _ in sums), plan.denominator, plan.tokens, supervised)

    def answer(self, prompts: Sequence[Sequence[int]], limit: int, stops: frozenset[int]) -> list[list[int]]:
        self.model.eval()
        try:
            return answers.greedy(self.model, prompts, limit, stops)
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
            raise OutOfMemory(str(error)) from None

    def rehearse(self, plan: Plan) -> StepResult:
        state.set_rng(self.rng)
        try:
            self.model.train()
            return self._gradient(plan)
        finally:
            self.optimizer.zero_grad(set_to_none=True)

    def _gradient(self, plan: Plan) -> StepResult:
        """Loss and clipped gradient of the whole step; dividing by the step's denominator, not by micro-batch means."""
        total, supervised = 0.0, 0
        for batch in self._batches(plan, scale=1 / plan.denominator):
            loss, count = self._loss(batch)
            loss.backward()
            total += loss.item()
            supervised += count
        limit = self.spec.optimizer.max_grad_norm
        norm = torch.nn.utils.clip_grad_norm_(self.parameters.values(), math.inf if limit is None else limit)
        return StepResult(total, float(norm), plan.tokens, supervised)

    def _loss(self, batch: Batch) -> tuple[torch.Tensor, int]:
        with self._autocast():
            return self.forward(batch), batch.supervised

    def _batches(self, plan: Plan, scale: float) -> list[Batch]:
        return [self._batch([plan.examples[i] for i in part], scale) for part in plan.micro_batches]

    def _batch(self, examples: Sequence[Example], scale: float) -> Batch:
        return (pack if self.forward.packs else pad)(examples, scale, self.spec.device)

    def _autocast(self) -> Any:
        """Full fine-tuning keeps float32 parameters and computes in `dtype`; adapters see the base as it is."""
        if self.spec.method.type == "full" and self.spec.dtype != "float32":
            return torch.autocast(self.spec.device.partition(":")[0], getattr(torch, self.spec.dtype))
        return nullcontext()

    def save(self, folder: Path) -> None:
        state.save(folder, self.parameters, self.optimizer, self.rng, self.adapter_config())

    def restore(self, folder: Path) -> None:
        self.rng = state.restore(folder, self.parameters, self.optimizer)

    def export(self, folder: Path) -> None:
        state.save_result(folder, self.model, self.parameters, self.adapter_config())

    def adapter_config(self) -> dict[str, Any] | None:
        """PEFT's configuration of what is trained; None for full fine-tuning."""
        return model.peft_config(self.model, self.spec, self.targets) if self.targets else None

    def changed(self) -> tuple[int, int]:
        now = state.fingerprints(self.parameters)
        return sum(now[name] != self.start[name] for name in now), len(now)

    def agree(self, flag: bool) -> bool:
        return flag

    def usage(self) -> Usage:
        return device.usage(self.spec.device)

    def describe(self) -> dict[str, Any]:
        every = sum(p.numel() for p in self.model.parameters())
        return {
            "engine": "torch",
            "device": self.spec.device,
            "dtype": self.spec.dtype,
            "threads": torch.get_num_threads(),
            "parameters": every,
            "trained_parameters": sum(p.numel() for p in self.parameters.values()),
            "target_modules": sorted({name.rpartition(".")[2] for name in self.targets}),
            "adapted_layers": len(self.targets),
            "micro_batches": "packed" if self.forward.packs else "padded",
            "gradient_checkpointing": self.spec.gradient_checkpointing,
        }

    def close(self) -> None:
        del self.model, self.forward, self.optimizer, self.parameters
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def adamw(parameters: dict[str, torch.nn.Parameter], settings: base.Optimizer) -> torch.optim.AdamW:
    """AdamW; weight decay on matrices only, as transformers' Trainer does (no decay on norms and biases)."""
    matrices = [p for p in parameters.values() if p.ndim >= 2]
    vectors = [p for p in parameters.values() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": settings.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=0.0,
        betas=(settings.beta1, settings.beta2),
        eps=settings.epsilon,
        fused=True,
    )


def out_of_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)

"""Prompt methods on real rows with the starter: how far below the base's held-out loss, and beside a loop of PEFT's.

    python benchmarks/prompt_methods.py              # prints
    python benchmarks/prompt_methods.py --write      # docs/evidence/prompt-methods.json too

The rows are the demo's, a quarter of the questions held out. Ours trains through the engine, theirs is a plain loop
over PEFT's model with its own loss, from the same start, on the same examples in the same order, with the same AdamW
and learning rate. Both held-out losses are means per answer token, each by the code that trained.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from truetune.config import Amount
from truetune.config.schema import Data
from truetune.data.example import Example
from truetune.data.prepare import prepare
from truetune.data.steps import Steps
from truetune.engines.base import EngineSpec, Method, Optimizer
from truetune.engines.torch.engine import TorchEngine
from truetune.models import source, tokenizer
from truetune.train.plan import Course, course

ROOT = Path(__file__).parents[1]
EVIDENCE = ROOT / "docs" / "evidence" / "prompt-methods.json"
ROWS = ROOT / "truetune" / "demo" / "support.jsonl"
RATES = {"prefix": 1e-2, "ptuning_v2": 3e-2, "ptuning": 1e-2, "prompt": 3e-2, "ia3": 3e-2}
VIRTUAL, SEED, BATCH = 20, 42, 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--methods", nargs="+", default=["prefix", "ptuning"], choices=RATES)
    parser.add_argument("--write", action="store_true")
    asked = parser.parse_args()
    folder = source.resolve("starter", folder=ROOT).folder
    train, held_out = rows(folder)
    order = Steps(len(train), BATCH, SEED)
    results = {kind: beside(folder, kind, train, held_out, order, asked.steps) for kind in asked.methods}
    body = about(asked.steps, len(train), len(held_out)) | {"methods": results}
    print(json.dumps(body, indent=2))
    if asked.write:
        EVIDENCE.write_text(json.dumps(body, indent=2) + "\n", encoding="utf-8")


def rows(folder: Path) -> tuple[list[Example], list[Example]]:
    """The demo's rows as examples: those to learn, and those held out."""
    options = Data(path=str(ROWS), validation=Amount(25, percent=True))
    found = prepare(options, objective="sft", seed=SEED, folder=ROOT, tokenizer=tokenizer.load(folder))
    return list(found.train), list(found.validation)


def beside(
    folder: Path, kind: str, train: Sequence[Example], held_out: Sequence[Example], order: Steps, steps: int
) -> dict[str, Any]:
    """Held-out losses of the base, of ours and of PEFT's loop, and the largest distance of their training losses."""
    path = course(
        order,
        epochs=1e4,
        max_steps=steps,
        learning_rate=RATES[kind],
        scheduler="cosine",
        warmup=Amount(5, percent=True),
    )
    base, mine, losses, seconds = ours(folder, kind, train, held_out, path)
    other, reference, theirs_seconds = theirs(folder, kind, train, held_out, path)
    apart = max(abs(a - b) / b for a, b in zip(losses, reference, strict=True))
    return {
        "learning_rate": RATES[kind],
        "held_out": {"base": base, "ours": mine, "peft": other},
        "below_base": 1 - mine / base,
        "from_peft": abs(mine - other) / other,
        "largest_relative_distance_of_training_losses": apart,
        "seconds": {"ours": seconds, "peft": theirs_seconds},
    }


def ours(
    folder: Path, kind: str, train: Sequence[Example], held_out: Sequence[Example], path: Course
) -> tuple[float, float, list[float], float]:
    """(held-out loss before, and after, the losses of the steps, seconds of the steps)."""
    method = Method(type=kind, virtual_tokens=VIRTUAL)
    engine = TorchEngine(EngineSpec(folder, method, Optimizer(), seed=SEED, token_budget=4096))
    plan = engine.prepare(held_out)
    before, start = engine.loss(plan).loss / plan.denominator, time.perf_counter()
    taken = (engine.prepare([train[i] for i in path.order.indices(step)]) for step in range(path.total))
    losses = [engine.step(one, path.lr(step)).loss for step, one in enumerate(taken)]
    seconds = time.perf_counter() - start
    return before, engine.loss(plan).loss / plan.denominator, losses, seconds


def theirs(
    folder: Path, kind: str, train: Sequence[Example], held_out: Sequence[Example], path: Course
) -> tuple[float, list[float], float]:
    """(held-out loss after, the losses of the steps, seconds of the steps)."""
    from peft import get_peft_model
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    torch.manual_seed(SEED)
    model = get_peft_model(base, configuration(kind, base.config.hidden_size)).train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": Optimizer().weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer, losses, start = torch.optim.AdamW(groups), list[float](), time.perf_counter()
    for step in range(path.total):
        loss = model(**padded([train[i] for i in path.order.indices(step)])).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        for group in optimizer.param_groups:
            group["lr"] = path.lr(step)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    seconds = time.perf_counter() - start
    with torch.no_grad():
        return model.eval()(**padded(held_out)).loss.item(), losses, seconds


def configuration(kind: str, hidden: int) -> Any:
    import peft

    if kind == "ia3":
        return peft.IA3Config(task_type="CAUSAL_LM")
    common: dict[str, Any] = {"task_type": "CAUSAL_LM", "num_virtual_tokens": VIRTUAL}
    if kind in ("prefix", "ptuning_v2"):
        return peft.PrefixTuningConfig(**common, prefix_projection=kind == "prefix", encoder_hidden_size=hidden)
    if kind == "ptuning":
        return peft.PromptEncoderConfig(**common, encoder_hidden_size=hidden)
    return peft.PromptTuningConfig(**common, prompt_tuning_init="SAMPLE_VOCAB")


def padded(examples: Sequence[Example]) -> dict[str, torch.Tensor]:
    """Ids, mask and labels, padded on the right."""
    size = max(example.tokens for example in examples)
    ids = np.zeros((len(examples), size), np.int64)
    mask, labels = np.zeros_like(ids), np.full_like(ids, -100)
    for row, example in enumerate(examples):
        ids[row, : example.tokens], mask[row, : example.tokens] = example.ids, 1
        labels[row, : example.tokens] = np.where(example.weights > 0, example.ids, -100)
    return {name: torch.from_numpy(value) for name, value in zip(NAMES, (ids, mask, labels), strict=True)}


NAMES = ("input_ids", "attention_mask", "labels")


def about(steps: int, train: int, held_out: int) -> dict[str, Any]:
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    return {
        "command": "python benchmarks/prompt_methods.py --write",
        "commit": commit.stdout.strip(),
        "versions": {name: version(name) for name in ("torch", "transformers", "peft")},
        "machine": {"processor": platform.machine(), "cores": os.cpu_count(), "load": os.getloadavg()},
        "model": "starter",
        "rows": {"file": ROWS.relative_to(ROOT).as_posix(), "train": train, "held_out": held_out},
        "steps": steps,
        "examples_per_step": BATCH,
        "virtual_tokens": VIRTUAL,
    }


if __name__ == "__main__":
    main()

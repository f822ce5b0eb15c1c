"""DPO beside TRL's DPOTrainer: the same model, rows, order, adapter and steps; and what it saves to compute the prompt
of a pair once.

    python benchmarks/preference.py --data dpo.json            both; prints
    python benchmarks/preference.py --data dpo.json --write    and writes docs/evidence/preference.json

Rows are ShareGPT pairs, the shortest `--rows` of them, each answer cut at `--longest` tokens with its prompt, a fifth
of them held out; the margins are those that each
trainer measures on these by itself. It fails where nothing is learned, or the margins differ by more than 2 %. Our
seconds include the reference, measured once before the steps; TRL measures it in every step.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

BETA, RANK, BATCH = 0.1, 16, 8
TOLERANCE = 0.02
LONG = (1200, 1600)
"""Tokens of the pairs that are called long: about the middle of the file."""


def examples(path: Path, count: int, longest: int) -> list[Any]:
    """The shortest pairs of a file, as the training has them."""
    from truetune.config import Config
    from truetune.models import source, tokenizer
    from truetune.train.session import rows

    data = {"path": str(path), "max_length": longest, "too_long": "truncate", "validation": None}
    found = source.resolve("starter", folder=Path())
    prepared = rows(Config.model_validate({"model": "starter", "data": data}), Path(), tokenizer.load(found.folder))
    order = sorted(range(len(prepared.train)), key=lambda place: int(prepared.train.lengths[place]))[:count]
    return [prepared.train[place] for place in sorted(order)]


def opened() -> Any:
    from truetune.engines.base import EngineSpec, Method, Objective, Optimizer
    from truetune.engines.torch.engine import TorchEngine
    from truetune.models.source import STARTER

    method, objective = Method(r=RANK, alpha=2 * RANK), Objective("dpo", beta=BETA)
    optimizer = Optimizer(weight_decay=0.0)
    return TorchEngine(EngineSpec(model=STARTER, method=method, objective=objective, optimizer=optimizer))


def ours(train: list[Any], held_out: list[Any], steps: int, lr: float) -> dict[str, Any]:
    from truetune.train import reference

    engine, started = opened(), time.perf_counter()

    def compared(rows: list[Any]) -> list[Any]:
        table = reference.opinions(rows, lambda part: engine.scores(engine.prepare(part), base=True))
        return list(reference.Referenced(rows, table))

    train = compared(train)
    measured = time.perf_counter() - started
    losses = []
    for step in range(steps):
        part = [train[at % len(train)] for at in range(step * BATCH, (step + 1) * BATCH)]
        losses.append(engine.step(engine.prepare(part), lr).loss)
    seconds = time.perf_counter() - started
    figures = engine.loss(engine.prepare(compared(held_out))).means
    return {
        "losses": losses,
        "seconds": seconds,
        "reference_seconds": measured,
        "margin": figures["reward_margin"],
        "accuracy": figures["reward_accuracy"],
    }


def columns(example: Any) -> dict[str, list[int]]:
    parts = []
    for part in example.texts:
        ids, begin = example.ids[part].tolist(), int(example.weights[part].argmax())
        parts.append((ids[:begin], ids[begin:]))
    return {"prompt_ids": parts[0][0], "chosen_ids": parts[0][1], "rejected_ids": parts[1][1]}


def theirs(train: list[Any], held_out: list[Any], steps: int, lr: float) -> dict[str, Any]:
    import torch
    from datasets import Dataset
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import DPOConfig, DPOTrainer

    from truetune.models.source import STARTER

    used = [train[at % len(train)] for at in range(steps * BATCH)]
    data, losses = Dataset.from_list([columns(example) for example in used]), []

    class Recorder(DPOTrainer):
        def _prepare_dataset(self, dataset: Any, *args: Any, **kwargs: Any) -> Any:
            return dataset

        def _get_train_sampler(self, *args: Any, **kwargs: Any) -> Any:
            return torch.utils.data.SequentialSampler(data)

        def training_step(self, *args: Any, **kwargs: Any) -> Any:
            loss = super().training_step(*args, **kwargs)
            losses.append(float(loss))
            return loss

    with tempfile.TemporaryDirectory() as folder:
        opened().export(Path(folder))
        base = AutoModelForCausalLM.from_pretrained(STARTER, dtype=torch.float32)
        model = PeftModel.from_pretrained(base, folder, is_trainable=True)
        settings = DPOConfig(
            output_dir=folder, per_device_train_batch_size=BATCH, per_device_eval_batch_size=BATCH, max_steps=steps,
            learning_rate=lr, lr_scheduler_type="constant", weight_decay=0.0, beta=BETA, max_grad_norm=1.0,
            optim="adamw_torch", max_length=None, use_cpu=True, bf16=False, gradient_checkpointing=False,
            save_strategy="no", report_to=[], disable_tqdm=True, logging_steps=10_000,
        )  # fmt: skip
        trainer = Recorder(
            model=model, args=settings, train_dataset=data, processing_class=AutoTokenizer.from_pretrained(STARTER),
            eval_dataset=Dataset.from_list([columns(example) for example in held_out]),
        )  # fmt: skip
        started = time.perf_counter()
        trainer.train()
        seconds = time.perf_counter() - started
        # A batch of one row each: the mean over batches is the mean over rows.
        trainer.args.per_device_eval_batch_size = 1
        found = trainer.evaluate()
    return {
        "losses": losses,
        "seconds": seconds,
        "margin": found["eval_rewards/margins"],
        "accuracy": found["eval_rewards/accuracies"],
    }


def shared(rows: list[Any], rounds: int) -> dict[str, Any]:
    """Processor seconds of a step's gradient with prompts computed once and twice, in turns."""
    from truetune.engines.torch import batch

    engine, usual = opened(), batch.SHARED
    plan = engine.prepare([replace(row, reference=(0.0, 0.0)) for row in rows[:BATCH]])
    found: dict[int, list[float]] = {usual: [], 10**9: []}
    for _ in range(rounds + 1):
        for least, times in found.items():
            batch.SHARED = least
            started = time.process_time()
            engine.rehearse(plan)
            times.append(time.process_time() - started)
    batch.SHARED = usual
    once, twice = (statistics.median(times[1:]) for times in found.values())
    prompts = sum(batch.beginning(row) for row in plan.examples)
    return {
        "pairs": len(plan.examples),
        "tokens": plan.tokens,
        "saved_tokens": prompts,
        "once_cpu_seconds": once,
        "twice_cpu_seconds": twice,
        "faster": twice / once,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=100)
    parser.add_argument("--longest", type=int, default=128)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--lr", type=float, default=1e-4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    rows = examples(options.data, options.rows, options.longest)
    held_out, train = rows[::5], [row for place, row in enumerate(rows) if place % 5]
    one = ours(train, held_out, options.steps, options.lr)
    print("ours", one, flush=True)
    other = theirs(train, held_out, options.steps, options.lr)
    print("trl", other, flush=True)
    prompts = [row for row in examples(options.data, 10**6, 2048) if LONG[0] < row.tokens < LONG[1]][:BATCH]
    found = {
        "ours": one,
        "trl": other,
        "margin_differs_by": abs(one["margin"] / other["margin"] - 1),
        "faster": other["seconds"] / one["seconds"],
        "shared_prompts": {"short_rows": shared(train, options.rounds), "long_rows": shared(prompts, options.rounds)},
    }
    print(json.dumps(found, indent=2))
    if not (one["margin"] > 0.05 and other["margin"] > 0.05):
        sys.exit("nothing was learned: the margins say nothing")
    if found["margin_differs_by"] > TOLERANCE:
        sys.exit("the margins differ")
    if options.write:
        write(found, options, len(train), len(held_out))


def write(found: dict[str, Any], options: argparse.Namespace, train: int, held_out: int) -> None:
    line = f"--rows {options.rows} --longest {options.longest} --steps {options.steps} --lr {options.lr:g}"
    body = {
        "command": f"python benchmarks/preference.py --data {options.data.name} {line} --write",
        "commit": subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip(),
        "versions": {name: version(name) for name in ("truetune", "torch", "trl", "peft", "transformers")},
        "machine": {"cores": os.cpu_count(), "load": os.getloadavg()},
        "rows": {"train": train, "held_out": held_out},
        "pairs_in_a_step": BATCH,
        **found,
    }
    path = Path("docs/evidence/preference.json")
    path.write_text(json.dumps(body, indent=2) + "\n")
    print(f"wrote {path}")


if __name__ == "__main__":
    main()

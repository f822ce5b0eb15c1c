"""Our MLX engine beside mlx_lm's LoRA trainer: the same model, adapter shape, rows, mask and BLAS, on the CPU.

    python benchmarks/mlx_engine.py                  both in turns, each in a process of its own; prints and writes
    python benchmarks/mlx_engine.py --model FOLDER   a model of yours instead of the random one

Rows are of mixed length, as answers are; the loss is on the answers alone, which both are told. mlx_lm sorts the rows
by length and pads to multiples of 32, as its trainer does. Real tokens are counted: padding is not. Peak memory is
MLX's own counter.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

BATCH, RANK, SCALE = 8, 8, 2.0
SIZES = {
    "vocab_size": 49152,
    "hidden_size": 384,
    "intermediate_size": 1024,
    "num_hidden_layers": 6,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "tie_word_embeddings": True,
    "max_position_embeddings": 2048,
}


def rows(count: int, vocabulary: int, seed: int = 0) -> list[tuple[np.ndarray, int]]:
    """(ids, where the answer begins): log-normal lengths around 90 tokens, about half of each an answer."""
    rng = np.random.default_rng(seed)
    lengths = np.clip(rng.lognormal(4.5, 0.6, count), 12, 512).astype(int)
    return [(rng.integers(4, vocabulary, size), int(size * rng.uniform(0.3, 0.7))) for size in lengths]


class Clock:
    """Wall and processor time since it was made: after the first step, which warms up."""

    def __init__(self) -> None:
        self.wall, self.processor = time.perf_counter(), time.process_time()

    def read(self) -> dict[str, float]:
        return {"seconds": time.perf_counter() - self.wall, "cpu_seconds": time.process_time() - self.processor}


def ours(folder: Path, data: list[tuple[np.ndarray, int]], steps: int) -> dict[str, float]:
    from truetune.data.example import Example
    from truetune.engines import open_engine
    from truetune.engines.base import EngineSpec, Method

    method = Method(r=RANK, alpha=SCALE * RANK)
    engine = open_engine("mlx", EngineSpec(model=folder, method=method, token_budget=4096))
    examples = [Example(ids.astype(np.int32), (np.arange(len(ids)) >= at).astype(np.float32), 0) for ids, at in data]
    order = np.random.default_rng(1).permutation(len(examples))
    clock, tokens, loss = Clock(), 0, 0.0
    for step in range(steps):
        result = engine.step(engine.prepare([examples[i] for i in order[step * BATCH : (step + 1) * BATCH]]), 1e-4)
        loss = result.loss
        if step:
            tokens += result.tokens
        else:
            clock = Clock()
    return {"tokens": tokens, **clock.read(), "peak": engine.usage().peak, "loss": loss}


def theirs(folder: Path, data: list[tuple[np.ndarray, int]], steps: int) -> dict[str, float]:
    from truetune.engines.mlx import blas  # isort: skip  (before MLX: the same BLAS for both)
    import mlx.core as mx
    import mlx.optimizers as optim
    from mlx_lm.tuner import trainer
    from mlx_lm.tuner.utils import linear_to_lora_layers
    from mlx_lm.utils import load_model

    model, config = load_model(folder)
    model.freeze()
    keys = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"]
    keys += ["mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"]
    settings = {"rank": RANK, "scale": SCALE, "dropout": 0.0, "keys": keys}
    linear_to_lora_layers(model, config["num_hidden_layers"], settings)
    found: dict[str, float] = {"tokens": 0, "blas": blas.name()}
    plain, clocks = trainer.iterate_batches, []

    class Stamp(trainer.TrainingCallback):
        def on_train_loss_report(self, info: dict[str, float]) -> None:
            clocks.append(Clock())
            found.update(clocks[0].read(), loss=info["train_loss"])

    def counted(*args: object, **kwargs: object) -> object:
        for number, batch in enumerate(plain(*args, **kwargs)):
            if number:
                found["tokens"] += int(batch[1][:, 1].sum().item())
            yield batch

    mx.reset_peak_memory()
    arguments = trainer.TrainingArgs(
        batch_size=BATCH, iters=steps, steps_per_report=1, steps_per_save=10**9, max_seq_length=2048,
        adapter_file=str(folder / "theirs.safetensors"),
    )  # fmt: skip
    trainer.train(
        model, optim.AdamW(learning_rate=1e-4, bias_correction=True), [(list(ids), at) for ids, at in data],
        args=arguments, iterate_batches=counted, training_callback=Stamp(),
    )  # fmt: skip
    return found | {"peak": mx.get_peak_memory()}


def make(folder: Path) -> Path:
    """A random Llama; its weights decide nothing about speed."""
    from truetune.engines.torch import tiny

    return tiny.make(folder, "llama", **SIZES)


def one(name: str, folder: Path, steps: int) -> None:
    config = json.loads((folder / "config.json").read_text())
    data = rows(steps * BATCH, config["vocab_size"])
    print(json.dumps((ours if name == "ours" else theirs)(folder, data, steps)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--steps", type=int, default=9)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("docs/evidence/mlx.json"))
    parser.add_argument("--work", type=Path, default=Path("build/bench-mlx"))
    parser.add_argument("--one", choices=["ours", "theirs"])
    options = parser.parse_args()
    folder = options.model or options.work
    if options.one:
        return one(options.one, folder, options.steps)
    if not (folder / "config.json").exists():
        make(folder)
    found: dict[str, list[dict[str, float]]] = {"ours": [], "theirs": []}
    for _ in range(options.rounds):
        for name in found:
            line = [sys.executable, __file__, "--one", name, "--model", str(folder), "--steps", str(options.steps)]
            done = subprocess.run(line, capture_output=True, text=True, check=True)
            found[name].append(json.loads(done.stdout.splitlines()[-1]))
            print(name, found[name][-1])
    write(options.out, found, options)
    return None


def write(path: Path, found: dict[str, list[dict[str, float]]], options: argparse.Namespace) -> None:
    from importlib.metadata import version

    speed, thrift = (
        {name: statistics.median(run["tokens"] / run[clock] for run in runs) for name, runs in found.items()}
        for clock in ("seconds", "cpu_seconds")
    )
    peak = {name: statistics.median(run["peak"] for run in runs) for name, runs in found.items()}
    body = {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "command": f"python benchmarks/mlx_engine.py --steps {options.steps} --rounds {options.rounds}",
        "machine": {"processor": platform.machine(), "cores": os.cpu_count(), "load": os.getloadavg()},
        "blas_threads": os.environ.get("OPENBLAS_NUM_THREADS", "all"),
        "commit": subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip(),
        "versions": {name: version(name) for name in ("mlx", "mlx-lm", "truetune")},
        "model": SIZES if options.model is None else options.model.name,
        "steps": options.steps,
        "examples_per_step": BATCH,
        "real_tokens_per_second": speed,
        "faster": speed["ours"] / speed["theirs"],
        "real_tokens_per_cpu_second": thrift,
        "faster_by_cpu_time": thrift["ours"] / thrift["theirs"],
        "peak_bytes": peak,
        "runs": found,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(body, indent=2) + "\n")
    told = f"{body['faster']:.2f} times mlx_lm's real tokens per second, {body['faster_by_cpu_time']:.2f} by CPU time"
    print(f"{told}; peak {peak['ours'] / peak['theirs']:.2f} of its")


if __name__ == "__main__":
    main()

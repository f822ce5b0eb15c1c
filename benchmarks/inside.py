"""Inside one process of our own engine, on a folder that `shapes.make` has written.

    python benchmarks/inside.py profile FOLDER            where the time of a step goes, in shares
    python benchmarks/inside.py budget FOLDER TOKENS      a step's speed and the peak of memory at a token budget
    python benchmarks/inside.py between FOLDER            what reading and packing the next step's rows takes of a step

A step takes rows until they have 4,096 tokens, `between` those of the folder; the first one warms up and does not
count.
"""

from __future__ import annotations

import json
import resource
import statistics
import sys
import time
from pathlib import Path
from typing import Any

STEP = 4096
"""Tokens of a step, whatever the budget of its micro-batches."""
PRODUCTS = {"aten::mm", "aten::addmm", "aten::addmm_", "aten::bmm", "mkldnn::_linear_pointwise"}
STEPS = 3
"""Steps that `between` takes."""


def opened(folder: Path, budget: int) -> tuple[Any, Any]:
    """The engine, and the plan of one step."""
    import numpy as np

    from truetune.data.example import Example
    from truetune.engines.base import EngineSpec, Method
    from truetune.engines.torch.engine import open_engine

    engine = open_engine(EngineSpec(model=folder / "model", method=Method(), token_budget=budget))
    rng, examples, tokens = np.random.default_rng(0), [], 0
    while tokens < STEP:
        size = min(int(np.clip(rng.lognormal(5.1, 0.5), 24, 256)), STEP - tokens)
        answer = (np.arange(size) >= size // 2).astype(np.float32)
        examples.append(Example(rng.integers(4, 4096, size).astype(np.int32), answer, len(examples)))
        tokens += size
    return engine, engine.prepare(examples)


def profile(folder: Path) -> dict[str, float]:
    """Share of a step's own time by kind of work."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as watched

    engine, plan = opened(folder, 1536)
    engine.step(plan, 1e-4)
    with watched(activities=[ProfilerActivity.CPU], record_shapes=True) as seen:
        engine.step(plan, 1e-4)
    found: dict[str, float] = {}
    for event in seen.key_averages(group_by_input_shape=True):
        name = kind(event.key, event.input_shapes, engine.spec.method.r)
        found[name] = found.get(name, 0.0) + event.self_cpu_time_total
    whole = sum(found.values())
    return {name: found[name] / whole for name in sorted(found, key=lambda name: -found[name])}


def kind(name: str, shapes: list[list[int]], r: int) -> str:
    if "attention" in name:
        return "attention"
    if name in PRODUCTS:
        sizes = {size for shape in shapes for size in shape}
        return "the adapter's products" if r in sizes else "products with frozen weights"
    copies = ("aten::copy_", "aten::cat", "aten::fill_", "aten::clone", "aten::index_select", "aten::embedding")
    return "copies" if name in copies else "element-wise work, norms, optimizer, Python"


def budget(folder: Path, tokens: int) -> dict[str, float]:
    """Speed of a step, and the peak of the process."""
    engine, plan = opened(folder, tokens)
    engine.step(plan, 1e-4)
    started = time.perf_counter()
    engine.step(plan, 1e-4)
    seconds = time.perf_counter() - started
    unit = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return {"budget": tokens, "tokens_per_second": plan.tokens / seconds, "peak_bytes": peak}


def between(folder: Path) -> dict[str, float]:
    """Processor seconds, of one step in the middle, that its rows take from the cache to tensors, and their share."""
    from truetune.config.schema import Data
    from truetune.data.prepare import prepare
    from truetune.data.steps import Steps
    from truetune.engines.torch.batch import pack
    from truetune.models import tokenizer

    settings = json.loads((folder / "train.yml").read_text())
    options = {"objective": "auto", "seed": 42, "folder": folder, "tokenizer": tokenizer.load(folder / "model")}
    rows = prepare(Data(**settings["data"]), **options).train
    order = Steps(len(rows), settings["training"]["batch_size"], 42)
    engine, plan = opened(folder, 1024)
    engine.step(plan, 1e-4)
    before, whole = [], []
    for step in range(min(STEPS, order.per_epoch)):
        started = time.process_time()
        plan = engine.prepare([rows[int(place)] for place in order.indices(step)])
        batches = [pack([plan.examples[place] for place in part], "cpu") for part in plan.micro_batches]
        before.append(time.process_time() - started)
        del batches
        engine.step(plan, 1e-4)
        whole.append(time.process_time() - started - before[-1])
    middle = statistics.median(before)
    return {"seconds_a_step": middle, "share": middle / statistics.median(whole)}


if __name__ == "__main__":
    what, place = sys.argv[1], Path(sys.argv[2])
    ways = {"profile": profile, "between": between, "budget": lambda folder: budget(folder, int(sys.argv[3]))}
    print(json.dumps(ways[what](place)))

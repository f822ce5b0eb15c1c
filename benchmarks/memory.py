"""The memory estimate beside the peaks of processes that train: several widths, each method, on this processor.

    python benchmarks/memory.py                        # prints
    python benchmarks/memory.py --cases qlora-512      # some of them
    python benchmarks/memory.py --write                # docs/evidence/memory.json too

Each case is a process of its own that takes two steps of two micro-batches of random tokens. Its peak is the system's
(VmHWM, Linux) from when the model stands: while weights are packed their files' pages are in memory too, which the
system takes back when it needs them. What Python and the libraries take before a model is read is measured there, too,
and stands in the estimate for the constant that `ft` counts with: it changes from version to version. `off` is how far
the estimate is from the peak; `off_beyond_libraries` the same for what comes on top of the libraries.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

from truetune.models import facts, memory

ROOT = Path(__file__).parents[1]
EVIDENCE = ROOT / "docs" / "evidence" / "memory.json"
MODELS: dict[str, dict[str, int]] = {
    "256": {"width": 256, "layers": 8, "heads": 4, "vocabulary": 8000},
    "512": {"width": 512, "layers": 8, "heads": 8, "vocabulary": 16000},
    "1024": {"width": 1024, "layers": 4, "heads": 16, "vocabulary": 16000},
    "1024-deep": {"width": 1024, "layers": 10, "heads": 16, "vocabulary": 16000},
}
CASES: dict[str, tuple[str, dict[str, Any], int]] = {
    "lora-256": ("256", {"method": "lora"}, 1024),
    "lora-512": ("512", {"method": "lora"}, 512),
    "lora-512-saving": ("512", {"method": "lora", "checkpointing": True}, 1024),
    "lora-1024": ("1024", {"method": "lora", "r": 64}, 256),
    "lora-1024-deep": ("1024-deep", {"method": "lora"}, 384),
    "qlora-512": ("512", {"method": "qlora", "bits": 4}, 512),
    "qlora-512-8": ("512", {"method": "qlora", "bits": 8}, 512),
    "qlora-1024-deep-saving": ("1024-deep", {"method": "qlora", "bits": 4, "checkpointing": True}, 768),
    "loftq-512": ("512", {"method": "qlora", "bits": 4, "init": "loftq"}, 512),
    "dora-512": ("512", {"method": "dora"}, 512),
    "full-512": ("512", {"method": "full"}, 512),
}
"""Model, set-up, tokens of a micro-batch."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=CASES)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--train", nargs=2, metavar=("CASE", "FOLDER"), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.train:
        print(json.dumps(train(CASES[asked.train[0]], Path(asked.train[1]))))
        return
    with tempfile.TemporaryDirectory() as folder:
        cases = {name: measured(name, Path(folder)) for name in asked.cases}
    body = about() | {"cases": cases}
    print(json.dumps(body, indent=2))
    if asked.write:
        EVIDENCE.write_text(json.dumps(body, indent=2) + "\n", encoding="utf-8")


def measured(name: str, folder: Path) -> dict[str, Any]:
    """One case in a process of its own, beside its estimate; bytes."""
    model, setup, tokens = CASES[name]
    place = folder / model
    if not place.is_dir():
        make(place, MODELS[model])
    found = memory.estimate(facts.read(place), planned(setup), tokens)
    line = [sys.executable, __file__, "--train", name, str(place)]
    done = subprocess.run(line, capture_output=True, text=True, timeout=900, check=True)
    before, peak = json.loads(done.stdout.splitlines()[-1])
    expected = found.total - found.runtime + before
    print(f"{name}: {peak / 1e6:,.0f} MB, estimated {expected / 1e6:,.0f} MB", file=sys.stderr)
    return {
        "tokens": tokens,
        "libraries": before,
        "counted_for_libraries": found.runtime,
        "peak": peak,
        "estimate": expected,
        "off": round(expected / peak - 1, 3),
        "off_beyond_libraries": round((expected - before) / (peak - before) - 1, 3),
    }


def make(folder: Path, shape: dict[str, int]) -> None:
    """A Llama of random weights."""
    from transformers import AutoModelForCausalLM, LlamaConfig

    config = LlamaConfig(
        hidden_size=shape["width"],
        intermediate_size=shape["width"] * 11 // 4,
        num_hidden_layers=shape["layers"],
        num_attention_heads=shape["heads"],
        num_key_value_heads=shape["heads"] // 2,
        vocab_size=shape["vocabulary"],
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)


def planned(setup: dict[str, Any]) -> memory.Setup:
    """A case as the estimate takes it."""
    known = {name: value for name, value in setup.items() if name != "init"}
    return memory.Setup(original=setup.get("init") == "loftq", **known)


def train(case: tuple[str, dict[str, Any], int], folder: Path) -> tuple[int, int]:
    """(memory once the libraries are there, peak of training), in bytes; for a process that does nothing else."""
    import numpy as np

    from truetune import engines
    from truetune.data.example import Example
    from truetune.engines.base import EngineSpec, Method

    _, setup, tokens = case
    torch = engines.module("torch")
    if setup.get("bits"):
        torch.quantised.library()
    before, saving = resident("VmRSS"), setup.get("checkpointing", False)
    settings = {name: value for name, value in setup.items() if name in ("r", "bits", "init")}
    method = Method(type=setup["method"], dropout=0.0 if setup["method"] == "full" else 0.05, **settings)
    spec = EngineSpec(folder, method, token_budget=tokens, gradient_checkpointing=saving)
    engine = engines.open_engine("torch", spec)
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    draw, weights = np.random.default_rng(0), np.r_[0, np.ones(127)].astype(np.float32)
    rows = [Example(draw.integers(0, 8000, 128).astype(np.int32), weights, i) for i in range(2 * tokens // 128)]
    for _ in range(2):
        engine.step(engine.prepare(rows), 1e-4)
    return before, resident("VmHWM")


def resident(line: str) -> int:
    """Bytes of this process's memory: now (VmRSS), or the most that it has had at once (VmHWM)."""
    found = re.search(rf"{line}:\s+(\d+)", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) * 1024


def about() -> dict[str, Any]:
    """Where and with what it was measured."""
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    return {
        "command": "python benchmarks/memory.py --write",
        "commit": commit,
        "versions": {name: version(name) for name in ("torch", "transformers", "bitsandbytes")},
        "machine": {"processor": platform.machine(), "cores": os.cpu_count(), "load": os.getloadavg()},
    }


if __name__ == "__main__":
    main()

"""Decoding side by side in one process: our decoder against transformers' `generate`, one prompt after another and as
one left-padded batch, on a random Llama; and what adapters cost, mixed in one batch.

    python benchmarks/decode.py                 # prints; exit 1 where greedy answers differ
    python benchmarks/decode.py --write         # docs/evidence/decode.json too

Every contender answers the same prompts in every round, in turn; the best round counts. Wall time is what a user
waits; CPU time is the fairer figure on a busy machine.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaConfig
from transformers.utils import logging

from truetune.engines import open_decoder, open_engine
from truetune.engines.adapter import WEIGHTS
from truetune.engines.base import EngineSpec, Method
from truetune.engines.decoder import Decoder, DecoderSpec, Sampling

ROOT = Path(__file__).parents[1]
EVIDENCE = ROOT / "docs" / "evidence" / "decode.json"
SHAPE = {
    "vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 12,
    "num_attention_heads": 9, "num_key_value_heads": 3, "max_position_embeddings": 2048, "tie_word_embeddings": True,
}  # fmt: skip
PROMPTS, ADAPTERS, RANK = 16, 8, 16

Answers = list[list[int]]


def make(folder: Path) -> list[Path]:
    """The model in `folder/base`; returns adapters of it on every linear layer, A and B random."""
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(LlamaConfig(**SHAPE)).save_pretrained(folder / "base")
    engine = open_engine("torch", EngineSpec(folder / "base", Method(r=RANK, alpha=2 * RANK)))
    made = []
    for number in range(ADAPTERS):
        made.append(folder / f"adapter-{number}")
        made[-1].mkdir()
        engine.export(made[-1])
        tensors = load_file(made[-1] / WEIGHTS)
        save_file({name: torch.randn_like(tensor) * 0.03 for name, tensor in tensors.items()}, made[-1] / WEIGHTS)
    engine.close()
    return made


def prompts() -> list[list[int]]:
    rng = np.random.default_rng(0)
    return [rng.integers(1, SHAPE["vocab_size"], size).tolist() for size in rng.integers(16, 65, PROMPTS)]


def ours(decoder: Decoder, adapters: Sequence[str | None], new: int) -> Answers:
    found: Answers = [[] for _ in range(PROMPTS)]
    rows = {
        decoder.admit(ids, name, Sampling(max_new_tokens=new)): row
        for row, (ids, name) in enumerate(zip(prompts(), adapters, strict=True))
    }
    while step := decoder.decode():
        for token in step:
            found[rows[token.slot]].append(token.id)
    return found


def generate(model: Any, some: Sequence[Sequence[int]], new: int) -> Answers:
    """transformers' greedy answers to left-padded prompts."""
    width = max(map(len, some))
    ids = torch.tensor([[0] * (width - len(one)) + list(one) for one in some])
    mask = torch.tensor([[0] * (width - len(one)) + [1] * len(one) for one in some])
    settings = {"max_new_tokens": new, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    grown: list[list[int]] = model.generate(ids, attention_mask=mask, **settings)[:, width:].tolist()
    return grown


def clocked(work: Callable[[], Answers]) -> tuple[Answers, float, float]:
    cpu, wall = time.process_time(), time.perf_counter()
    found = work()
    return found, time.perf_counter() - wall, time.process_time() - cpu


def contenders(folder: Path, adapters: Sequence[Path], new: int) -> dict[str, Callable[[], Answers]]:
    decoder = open_decoder("torch", DecoderSpec(folder / "base", slots=PROMPTS))
    for number, adapter in enumerate(adapters):
        decoder.load(str(number), adapter)
    model = AutoModelForCausalLM.from_pretrained(folder / "base", dtype=torch.float32).eval()
    base: list[str | None] = [None] * PROMPTS
    mixed = [None if row % 2 else str(row // 2) for row in range(PROMPTS)]
    return {
        "ours": lambda: ours(decoder, base, new),
        "ours, one adapter": lambda: ours(decoder, ["0"] * PROMPTS, new),
        f"ours, {ADAPTERS} adapters and the base mixed": lambda: ours(decoder, mixed, new),
        "generate, one batch": lambda: generate(model, prompts(), new),
        "generate, one after another": lambda: [generate(model, [ids], new)[0] for ids in prompts()],
    }


def measure(ways: dict[str, Callable[[], Answers]], rounds: int, new: int) -> dict[str, Any]:
    """Tokens per second of each way, and whether those over the base agree."""
    best: dict[str, list[float]] = {name: [float("inf")] * 2 for name in ways}
    answers: dict[str, Answers] = {}
    for _ in range(rounds):
        for name, work in ways.items():
            answers[name], wall, cpu = clocked(work)
            best[name] = [min(best[name][0], wall), min(best[name][1], cpu)]
    plain = [name for name in ways if "adapter" not in name]
    total = PROMPTS * new
    walls, cpus = ({name: total / times[kind] for name, times in best.items()} for kind in (0, 1))
    return {
        "tokens_per_second": rounded(walls),
        "tokens_per_cpu_second": rounded(cpus),
        "ratios": {"wall": ratios(walls), "cpu": ratios(cpus)},
        "answers_equal": all(answers[name] == answers["ours"] for name in plain),
    }


def rounded(figures: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 2) for name, value in figures.items()}


def ratios(speed: dict[str, float]) -> dict[str, float]:
    first = speed["ours"]
    found = {f"ours / {name}": first / value for name, value in speed.items() if name.startswith("generate")}
    return rounded(found | {f"{name} / ours": speed[name] / first for name in speed if "adapter" in name})


def circumstances(arguments: argparse.Namespace) -> dict[str, Any]:
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    return {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "command": " ".join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]]),
        "commit": commit.stdout.strip(),
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "machine": {"processor": platform.machine(), "cores": os.cpu_count(), "load": os.getloadavg()},
        "model": SHAPE,
        "prompts": PROMPTS,
        "new_tokens": arguments.new,
        "rounds": arguments.rounds,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--new", type=int, default=32, help="tokens per answer")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--write", action="store_true", help=f"write {EVIDENCE.relative_to(ROOT)}")
    arguments = parser.parse_args()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    body = circumstances(arguments)
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        adapters = make(Path(folder))
        ways = contenders(Path(folder), adapters, arguments.new)
        for threads in arguments.threads:
            torch.set_num_threads(threads)
            body[f"threads={threads}"] = found = measure(ways, arguments.rounds, arguments.new)
            print(json.dumps({"threads": threads} | found, indent=2))
    if arguments.write:
        EVIDENCE.parent.mkdir(parents=True, exist_ok=True)
        EVIDENCE.write_text(json.dumps(body, indent=2) + "\n", encoding="utf-8")
    return 0 if all(body[f"threads={threads}"]["answers_equal"] for threads in arguments.threads) else 1


if __name__ == "__main__":
    sys.exit(main())

"""Serving side by side, on a random Llama of 70 million parameters: sixteen requests at once through our scheduler, by
transformers' continuous batching, and one after another by `generate`; eight adapters of rank 16 on every linear layer
mixed; and on the starter, how long an adapter takes from its load call to its first token while
other requests run, of our scheduler and of `ft serve` over HTTP.

    python benchmarks/serve.py                 # prints; exit 1 where greedy answers differ
    python benchmarks/serve.py --write         # docs/evidence/serve.json too

Every contender answers the same prompts in every round, in turn, twice: the second time counts, and the best round. We
and transformers have a process each, as users have: threads of OpenMP that one leaves behind would slow down the other.
Wall time is what a user waits; CPU time is the fairer figure on a busy machine.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import psutil
import torch
from decode import (
    ADAPTERS,
    PROMPTS,
    RANK,
    ROOT,
    Answers,
    circumstances,
    clocked,
    generate,
    make,
    prompts,
    rounded,
)
from hot_swap import over_http
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, ContinuousBatchingConfig, GenerationConfig
from transformers.utils import logging

from truetune.engines import open_decoder, open_engine
from truetune.engines.adapter import WEIGHTS
from truetune.engines.base import EngineSpec, Method
from truetune.engines.decoder import DecoderSpec, Sampling
from truetune.models import tokenizer
from truetune.models.source import STARTER
from truetune.serve.requests import Limits, Request
from truetune.serve.scheduler import Scheduler

EVIDENCE = ROOT / "docs" / "evidence" / "serve.json"
BATCHING = {"page_size": 32, "num_blocks": 64, "max_batch_tokens": 256}
"""What transformers' continuous batching is given: by itself it sizes its cache for a GPU."""
SWAPS, RUNNING = 60, 6

Timed = tuple[Answers, float, float]
"""Answers, and the seconds and processor seconds that they took."""


def started(folder: Path, slots: int, chunk: int = 128) -> Scheduler:
    """A scheduler of one model. Ids alone are asked for, so any tokenizer will do."""
    spec = DecoderSpec(folder, slots=slots, chunk=chunk)
    limits = Limits(chunk=chunk, queue=256)
    return Scheduler(lambda: open_decoder("torch", spec), tokenizer.load(STARTER), limits)


def ours(scheduler: Scheduler, names: Sequence[str | None], new: int) -> Answers:
    """All prompts at once; the events of all answers."""
    handles = [
        scheduler.submit(Request(tuple(ids), name, Sampling(max_new_tokens=new)))
        for ids, name in zip(prompts(), names, strict=True)
    ]
    return [[said.id for event in handle for said in event.tokens] for handle in handles]


def theirs(model: Any, new: int) -> Answers:
    """transformers' own continuous batching."""
    settings = GenerationConfig(max_new_tokens=new, do_sample=False, eos_token_id=-1, pad_token_id=0)
    found = model.generate_batch(prompts(), settings, ContinuousBatchingConfig(**BATCHING), warmup=False)
    return [[int(token) for token in one.generated_tokens] for _, one in sorted(found.items(), key=by_number)]


def by_number(item: tuple[str, Any]) -> int:
    """Requests are called `req_0`, `req_1`, …"""
    return int(item[0].rpartition("_")[2])


class Ours:
    """What our process has, made once in it."""

    scheduler: Scheduler

    @classmethod
    def open(cls, folder: Path, adapters: Sequence[Path], threads: int) -> None:
        torch.set_num_threads(threads)
        cls.scheduler = started(folder / "base", PROMPTS)
        for number, adapter in enumerate(adapters):
            cls.scheduler.load(str(number), adapter)

    @classmethod
    def answer(cls, names: Sequence[str | None], new: int) -> Timed:
        return clocked(lambda: ours(cls.scheduler, names, new))

    @classmethod
    def alone(cls, names: Sequence[str | None], new: int) -> Answers:
        """Each prompt when no other is there."""
        found: Answers = []
        for ids, name in zip(prompts(), names, strict=True):
            handle = cls.scheduler.submit(Request(tuple(ids), name, Sampling(max_new_tokens=new)))
            found.append([said.id for event in handle for said in event.tokens])
        return found


class Theirs:
    """What the process of transformers has."""

    model: Any

    @classmethod
    def open(cls, folder: Path, threads: int) -> None:
        torch.set_num_threads(threads)
        torch.set_grad_enabled(False)
        quieten()
        cls.model = AutoModelForCausalLM.from_pretrained(folder / "base", dtype=torch.float32).eval()

    @classmethod
    def batched(cls, new: int) -> Timed:
        return clocked(lambda: theirs(cls.model, new))

    @classmethod
    def one_by_one(cls, new: int) -> Timed:
        return clocked(lambda: [generate(cls.model, [ids], new)[0] for ids in prompts()])

    @classmethod
    def share(cls, step: float) -> float:
        return share(cls.model, step)


def throughput(folder: Path, rounds: int, new: int, threads: int) -> dict[str, Any]:
    with process(quieten) as making:
        adapters = making.submit(make, folder).result()
    base: list[str | None] = [None] * PROMPTS
    mixed: list[str | None] = [str(row % ADAPTERS) for row in range(PROMPTS)]
    with process(Ours.open, folder, adapters, threads) as we, process(Theirs.open, folder, threads) as they:
        ways: dict[str, Callable[[], Future[Timed]]] = {
            "ours": lambda: we.submit(Ours.answer, base, new),
            f"ours, {ADAPTERS} adapters mixed": lambda: we.submit(Ours.answer, mixed, new),
            "transformers' continuous batching": lambda: they.submit(Theirs.batched, new),
            "generate, one after another": lambda: they.submit(Theirs.one_by_one, new),
        }
        best: dict[str, list[float]] = {name: [float("inf")] * 2 for name in ways}
        answers: dict[str, Answers] = {}
        for _ in range(rounds):
            for name, work in ways.items():
                work().result()  # who waited finds its memory and the cores again
                answers[name], wall, cpu = work().result()
                best[name] = [min(best[name][0], wall), min(best[name][1], cpu)]
        alone = we.submit(Ours.alone, mixed, new).result()
        first, *others = ways
        bandwidth = they.submit(Theirs.share, best[first][0] / new).result()
    walls, cpus = ({name: PROMPTS * new / times[kind] for name, times in best.items()} for kind in (0, 1))
    equal = {name: answers[name] == answers[first] for name in others if "adapters" not in name}
    equal[f"{others[0]}, each alone"] = answers[others[0]] == alone
    return {
        "tokens_per_second": rounded(walls),
        "tokens_per_cpu_second": rounded(cpus),
        "ratios": {"wall": ratios(walls), "cpu": ratios(cpus)},
        "bandwidth_share": round(bandwidth, 3),
        "answers_equal": equal,
    }


def process(begin: Callable[..., None], *arguments: Any) -> ProcessPoolExecutor:
    """A process of its own, begun so."""
    return ProcessPoolExecutor(1, get_context("spawn"), initializer=begin, initargs=arguments)


def quieten() -> None:
    logging.set_verbosity_error()
    logging.disable_progress_bar()


def ratios(speed: dict[str, float]) -> dict[str, float]:
    first, mixed, *others = speed
    return rounded({f"{first} / {name}": speed[first] / speed[name] for name in others}) | rounded(
        {f"{mixed} / {first}": speed[mixed] / speed[first]}
    )


def share(model: Any, step: float) -> float:
    """The part of the memory's bandwidth that reading all weights once per step (seconds, prompts included) takes."""
    weights = sum(tensor.numel() * tensor.element_size() for tensor in model.parameters())
    large = torch.ones(2**26)
    times = []
    for _ in range(5):
        start = time.perf_counter()
        large.sum()
        times.append(time.perf_counter() - start)
    return weights / step / (large.numel() * 4 / min(times))


def swaps(folder: Path, count: int) -> dict[str, Any]:
    """Milliseconds from the load call of another adapter to the first token with it, while other requests run."""
    contents = starter_adapters(folder)
    ways = {"scheduler": in_process(contents, count), "over_http": over_http(contents, count, RUNNING)}
    return {"swaps": count, "running": RUNNING} | {
        way: {"load_to_first_token_ms": spread(times), "between_tokens_of_the_others_ms": spread(steps)}
        for way, (times, steps) in ways.items()
    }


def in_process(contents: Sequence[Path], count: int) -> tuple[list[float], list[float]]:
    """Seconds from load call to first token, and between the tokens of the others."""
    scheduler = started(STARTER, RUNNING + 2)
    over, times, steps = threading.Event(), [], []

    def keep(seed: int) -> None:
        sampling = Sampling(temperature=1.0, seed=seed, max_new_tokens=200)
        while not over.is_set():
            handle = scheduler.submit(Request(tuple(range(20 + seed, 40 + seed)), f"running-{seed % 2}", sampling))
            before = time.perf_counter()
            for _ in handle:
                now = time.perf_counter()
                steps.append(now - before)
                before = now
                if over.is_set():
                    handle.cancel()

    for number in (0, 1):
        scheduler.load(f"running-{number}", contents[number])
    threads = [threading.Thread(target=keep, args=(seed,)) for seed in range(RUNNING)]
    for thread in threads:
        thread.start()
    for number in range(count):
        start = time.perf_counter()
        scheduler.load("hot", contents[2 + number % (len(contents) - 2)])
        next(scheduler.submit(Request(tuple(range(50, 70)), "hot", Sampling(max_new_tokens=2))))
        times.append(time.perf_counter() - start)
        scheduler.unload("hot")
    over.set()
    for thread in threads:
        thread.join()
    scheduler.close()
    return times, steps


def starter_adapters(folder: Path, count: int = 6) -> list[Path]:
    """Adapters of the starter on every linear layer, A and B random."""
    engine = open_engine("torch", EngineSpec(STARTER, Method(r=RANK, alpha=2 * RANK)))
    made = []
    for number in range(count):
        made.append(folder / f"starter-{number}")
        made[-1].mkdir()
        engine.export(made[-1])
        tensors = load_file(made[-1] / WEIGHTS)
        save_file({name: torch.randn_like(tensor) * 0.02 for name, tensor in tensors.items()}, made[-1] / WEIGHTS)
    engine.close()
    return made


def spread(seconds: Sequence[float]) -> dict[str, float]:
    cuts = statistics.quantiles(seconds, n=100)
    found = {"mean": statistics.mean(seconds), "p50": cuts[49], "p95": cuts[94], "p99": cuts[98], "max": max(seconds)}
    return {name: round(value * 1000, 2) for name, value in found.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--new", type=int, default=32, help="tokens per answer")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--swaps", type=int, default=SWAPS)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--write", action="store_true", help=f"write {EVIDENCE.relative_to(ROOT)}")
    arguments = parser.parse_args()
    quieten()
    torch.set_num_threads(arguments.threads)
    body = circumstances(arguments) | {"requests": PROMPTS, "threads": arguments.threads}
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        body["throughput"] = throughput(Path(folder), arguments.rounds, arguments.new, arguments.threads)
        print(json.dumps(body["throughput"], indent=2))
        body["hot_swap"] = swaps(Path(folder), arguments.swaps)
        print(json.dumps(body["hot_swap"], indent=2))
    body["peak_memory_bytes"] = psutil.Process().memory_info().rss
    if arguments.write:
        EVIDENCE.parent.mkdir(parents=True, exist_ok=True)
        EVIDENCE.write_text(json.dumps(body, indent=2) + "\n", encoding="utf-8")
    return 0 if all(body["throughput"]["answers_equal"].values()) else 1


if __name__ == "__main__":
    sys.exit(main())

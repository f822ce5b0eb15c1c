"""What a row costs where there are many: processor time per token, memory, and the time to the first step.

    python benchmarks/scale.py                              1,000 to 100,000 rows; prints
    python benchmarks/scale.py --rows 1000000 --write       one size more; docs/evidence/scale.json and the page
    python benchmarks/scale.py --without prepare --without train     preparation and planning alone

Each figure is that of a process of its own, over chats of some 60 tokens and the bundled starter: `ft dataset prepare`;
the preparation of a training; its planning (rows found in the cache, an epoch's order and what it promises, then what
steps read); and `ft train` for FEW and for MANY steps of the same rows, so that a step is what the second costs more by
the tokens that it takes more. Times are of the processor, user and system, one thread. Memory is sampled, without pages
of files, which the system can drop.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import performance
import sections
from shapes import words
from train import ROOT, conditions

from truetune.config.values import Amount

FEW, MANY, READ = 4, 20, 256
SIZES = (1_000, 10_000, 100_000)
BATCH, HELD_OUT, TOKENS = 16, 32, (18, 30)
"""Rows of a step, held-out rows, and words of a question and its answer in the middle."""
PAUSE = 0.02
"""Seconds between two looks at the memory."""
FT = [sys.executable, "-m", "truetune"]

Figures = dict[str, Any]


def rows(count: int) -> Iterator[dict[str, Any]]:
    """Chats of words drawn at random: no two alike."""
    rng, found = np.random.default_rng(0), words()
    for _ in range(count):
        asked, said = (rng.integers(0, len(found), rng.integers(size // 2, size * 3 // 2)) for size in TOKENS)
        texts = ("".join(found[place] for place in some).strip() for some in (asked, said))
        turns = [{"role": role, "content": text} for role, text in zip(("user", "assistant"), texts, strict=True)]
        yield {"messages": turns}


def settings(steps: int | None) -> Figures:
    """train.yml of `steps` steps; of a whole epoch where that is None."""
    return {
        "model": "starter",
        "data": {"path": "rows.jsonl", "validation": HELD_OUT},
        "method": {"type": "lora", "r": 8},
        "training": {"batch_size": BATCH, "gradient_accumulation_steps": 1, "epochs": 1, "max_steps": steps},
        "evaluation": {"every": None, "samples": 0},
        "checkpoints": {"every": None},
        "resources": {"engine": "torch", "device": "cpu"},
        "output": {"dir": f"run-{steps}", "log": []},
    }


def run(folder: Path, line: list[str]) -> Figures:
    """A process in the folder: what it tells, wall and processor seconds, and the most bytes that it held."""
    places = {"TRUETUNE_HOME": str(folder / "home"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    began = time.time()
    with (folder / "told").open("w+") as out:
        process = subprocess.Popen(line, cwd=folder, stdout=out, stderr=out, env=os.environ | places)
        held = Held(process.pid)
        held.start()
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        held.join()
        out.seek(0)
        text = out.read()
    if process.returncode:
        raise RuntimeError(f"{' '.join(line)} failed:\n{text[-3000:]}")
    unit = 1 if sys.platform == "darwin" else 1024
    return {
        "began": began,
        "seconds": time.time() - began,
        "cpu_seconds": used.ru_utime + used.ru_stime,
        "peak_bytes": used.ru_maxrss * unit,
        "own_peak_bytes": held.own,
        "told": json.loads(text.splitlines()[-1]) if "--phase" in line else {},
    }


class Held(threading.Thread):
    """The most bytes of its own (no file's) that a process holds, as long as it runs; Linux only, else 0."""

    def __init__(self, process: int) -> None:
        super().__init__(daemon=True)
        self.status, self.own = Path(f"/proc/{process}/status"), 0

    def run(self) -> None:
        while True:
            try:
                found = dict(line.split(":", 1) for line in self.status.read_text().splitlines())
                self.own = max(self.own, int(found["RssAnon"].split()[0]) * 1024)
            except (OSError, KeyError, ValueError):  # it has ended
                return
            time.sleep(PAUSE)


def measure(count: int, work: Path, without: Sequence[str] = ()) -> Figures:
    """All figures of one number of rows."""
    folder = work / str(count)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    with (folder / "rows.jsonl").open("w") as stream:
        stream.writelines(json.dumps(row) + "\n" for row in rows(count))
    cold, warm = (run(folder, [sys.executable, __file__, "--phase", name]) for name in ("preparation", "planning"))
    body = {"rows": count} | cold["told"] | warm["told"]
    body["memory"] = {"preparation": cold["own_peak_bytes"], "planning": warm["own_peak_bytes"]}
    runs = {"preparation": cold, "planning": warm}
    if "prepare" not in without:
        runs["dataset prepare"] = found = run(folder, [*FT, "dataset", "prepare", "rows.jsonl", "--out", "out.jsonl"])
        body["dataset_prepare"] = found["cpu_seconds"] / body["tokens"]
        body["memory"]["dataset prepare"] = found["own_peak_bytes"]
    if "train" not in without:
        for steps in (FEW, MANY):
            (folder / f"{steps}.yml").write_text(json.dumps(settings(steps)))  # JSON is YAML too
            runs[f"{steps} steps"] = run(folder, [*FT, "train", f"{steps}.yml"])
        body |= trainings(folder, runs)
        body["memory"]["training"] = runs[f"{FEW} steps"]["own_peak_bytes"]
    shutil.rmtree(folder)
    return body | {"runs": runs}


def phase(name: str) -> Figures:
    """Part of a training's beginning in this process, on rows.jsonl of this folder; processor seconds per token."""
    from truetune.config.schema import Data
    from truetune.data.prepare import prepare
    from truetune.data.steps import Steps
    from truetune.models import source, tokenizer
    from truetune.train.plan import course
    from truetune.train.resolve import promised

    encode = tokenizer.load(source.STARTER)
    options = Data(**settings(None)["data"])
    began = time.process_time()
    found = prepare(options, objective="auto", seed=42, folder=Path.cwd(), tokenizer=encode)
    if name == "preparation":
        tokens = found.train.tokens + found.validation.tokens
        return {"tokens": tokens, "preparation": (time.process_time() - began) / tokens}
    there = time.process_time()
    order = Steps(len(found.train), BATCH, 42)
    path = course(order, epochs=1, max_steps=None, learning_rate=1e-4, scheduler="constant", warmup=Amount(0, False))
    tokens = promised(path, found, order.per_epoch)["tokens"]
    planned = time.process_time()
    taken = [found.train[int(place)] for step in range(min(READ, order.per_epoch)) for place in order.indices(step)]
    read = time.process_time() - planned
    per_token = read / sum(example.tokens for example in taken)
    return {"found_seconds": there - began, "plan": (planned - there) / tokens, "reading": per_token}


def trainings(folder: Path, runs: dict[str, Figures]) -> Figures:
    """A step per token, and seconds to the first one."""
    few, many = (trained(folder / f"run-{steps}") for steps in (FEW, MANY))
    beyond = sum(step["tokens"] for step in many) - sum(step["tokens"] for step in few)
    costs = [runs[f"{steps} steps"]["cpu_seconds"] for steps in (FEW, MANY)]
    begun = many[0]["time"] - many[0]["tokens"] / many[0]["tokens_per_second"]
    waited = begun - runs[f"{MANY} steps"]["began"]
    return {"step": (costs[1] - costs[0]) / beyond, "seconds_to_first_step": waited}


def trained(run: Path) -> list[Figures]:
    found = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line for line in found if line["kind"] == "train"]


def tell(one: Figures) -> None:
    names = [name for name in ("dataset_prepare", "preparation", "plan", "reading", "step") if name in one]
    print(f"{one['rows']:9,} rows, µs a token: " + ", ".join(f"{name} {one[name] * 1e6:.3g}" for name in names))
    peaks = ", ".join(f"{name} {held / 1e6:,.0f} MB" for name, held in one["memory"].items())
    print(f"          found in {one['found_seconds']:.2f} s; {peaks}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, action="append", help=f"sizes, by default {SIZES}; may be repeated")
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "bench-scale")
    parser.add_argument("--without", choices=["prepare", "train"], action="append", default=[])
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--phase", choices=["preparation", "planning"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.phase:
        print(json.dumps(phase(options.phase)))
        return
    about = conditions(1) | {"threads": "1"}
    for count in options.rows or SIZES:
        one = measure(count, options.work.resolve(), options.without)
        tell(one)
        if options.write:
            sections.keep_size(about | one)
            performance.write(performance.read())


if __name__ == "__main__":
    main()

"""What a row costs where there are many: processor time per token, memory, and the time to the first step.

    python benchmarks/scale.py                              1,000 to 100,000 rows; prints
    python benchmarks/scale.py --rows 1000000 --write       one size more; docs/evidence/scale.json and the page

Each figure is a process of its own, as a user calls it, over chats of some 60 tokens and the bundled starter: `ft
dataset prepare`; `ft train --dry-run` without and with the rows in the cache, whose plan spans the whole epoch; and
`ft train` for FEW and for MANY steps of the same rows. So preparation is what the first dry run costs more than the
second, and a step is what MANY steps cost more than FEW, by their number. Processor time is user and system, of one
thread; memory is sampled, the process's own pages apart from those of files that the system can drop.
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
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import performance
from shapes import lines, words
from train import ROOT, conditions

FEW, MANY = 4, 36
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


def run(folder: Path, *words: str) -> Figures:
    """One call of `ft` in the folder: wall and processor seconds, and the most bytes that it held."""
    places = {"TRUETUNE_HOME": str(folder / "home"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    began = time.time()
    with (folder / "told").open("w+") as out:
        process = subprocess.Popen([*FT, *words], cwd=folder, stdout=out, stderr=out, env=os.environ | places)
        held = Held(process.pid)
        held.start()
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        held.join()
        if process.returncode:
            out.seek(0)
            raise RuntimeError(f"ft {' '.join(words)} failed:\n{out.read()[-3000:]}")
    unit = 1 if sys.platform == "darwin" else 1024
    return {
        "began": began,
        "seconds": time.time() - began,
        "cpu_seconds": used.ru_utime + used.ru_stime,
        "peak_bytes": used.ru_maxrss * unit,
        "own_peak_bytes": held.own,
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


def measure(count: int, work: Path) -> Figures:
    """All figures of one number of rows."""
    folder = work / str(count)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    lines(folder / "rows.jsonl", rows(count))
    for steps in (None, FEW, MANY):
        (folder / f"{steps}.yml").write_text(json.dumps(settings(steps)))  # JSON is YAML too
    found = {"dataset prepare": run(folder, "dataset", "prepare", "rows.jsonl", "--out", "out.jsonl")}
    found |= {name: run(folder, "train", "None.yml", "--dry-run") for name in ("cold", "warm")}
    found |= {f"{steps} steps": run(folder, "train", f"{steps}.yml") for steps in (FEW, MANY)}
    body = figures(count, folder, found)
    shutil.rmtree(folder)
    return body


def figures(count: int, folder: Path, found: dict[str, Figures]) -> Figures:
    """Processor seconds per token, and what a user waits and holds."""
    told = json.loads((folder / f"run-{MANY}" / "receipts" / "data.json").read_text())
    tokens = sum(told["tokens"][side] for side in ("train", "validation"))
    steps = {steps: trained(folder / f"run-{steps}") for steps in (FEW, MANY)}
    few, many = found[f"{FEW} steps"], found[f"{MANY} steps"]
    beyond = sum(step["tokens"] for step in steps[MANY]) - sum(step["tokens"] for step in steps[FEW])
    first = steps[MANY][0]
    begun = first["time"] - first["tokens"] / first["tokens_per_second"]
    return {
        "rows": count,
        "tokens": tokens,
        "preparation": (found["cold"]["cpu_seconds"] - found["warm"]["cpu_seconds"]) / tokens,
        "dataset_prepare": found["dataset prepare"]["cpu_seconds"] / tokens,
        "planning_seconds": found["warm"]["cpu_seconds"],
        "step": (many["cpu_seconds"] - few["cpu_seconds"]) / beyond,
        "seconds_to_first_step": begun - many["began"],
        "runs": found,
    }


def trained(run: Path) -> list[Figures]:
    found = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line for line in found if line["kind"] == "train"]


def tell(one: Figures) -> None:
    micro = {name: one[name] * 1e6 for name in ("dataset_prepare", "preparation", "step")}
    peaks = ", ".join(f"{name} {held['own_peak_bytes'] / 1e6:,.0f} MB" for name, held in one["runs"].items())
    print(f"{one['rows']:9,} rows, µs a token: " + ", ".join(f"{name} {value:.1f}" for name, value in micro.items()))
    print(
        f"          planning {one['planning_seconds']:.2f} s, first step {one['seconds_to_first_step']:.1f} s; {peaks}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, action="append", help=f"sizes, by default {SIZES}; may be repeated")
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "bench-scale")
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    about = conditions("scale.py") | {"threads": "1"}
    for count in options.rows or SIZES:
        one = measure(count, options.work.resolve())
        tell(one)
        if options.write:
            performance.keep_size(about | one)


if __name__ == "__main__":
    main()

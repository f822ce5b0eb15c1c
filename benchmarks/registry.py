"""What `ft adapters list` costs beside `ft --help`, with ten thousand adapters registered.

    python benchmarks/registry.py --write

Processor time (user and system) of whole processes, one after the other in turns, after one of each that is not
counted; medians. The bar is 0.3 s above `ft --help`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

from truetune.registry.journal import Journal
from truetune.runs import jsonfile

EVIDENCE = Path(__file__).parents[1] / "docs" / "evidence" / "registry.json"
BAR = 0.3
"""Seconds above `ft --help`."""
COMMANDS = {
    "ft --help": ["--help"],
    "ft adapters --help": ["adapters", "--help"],
    "ft adapters list": ["adapters", "list"],
    "ft adapters list --all": ["adapters", "list", "--all"],
    "ft adapters list --json": ["adapters", "list", "--json"],
    "ft adapters show name-77@3": ["adapters", "show", "name-77@3"],
}


def fill(home: Path, count: int) -> int:
    """A journal of `count` adapters, ten versions of each name, each made from the one before; returns its bytes."""
    journal = Journal(home / "registry.jsonl")
    home.mkdir(parents=True, exist_ok=True)
    with journal.path.open("wb") as stream:
        for at in range(count):
            stream.write(jsonfile.line(event(at)))
    return journal.size()


def event(at: int) -> dict[str, object]:
    """As `Catalog.register` writes it."""
    name, number = at // 10, at % 10 + 1
    run = f"20261121-143005-name-{name}-{at:04x}"
    body = {
        "run": run,
        "folder": f"/home/someone/projects/support/runs/{run}",
        "result": "adapter",
        "content": f"{at:064x}",
        "base": {"name": "Qwen/Qwen2.5-0.5B-Instruct", "revision": "0" * 40, "content": "1" * 64},
        "data": f"{at // 100:064x}",
        "objective": "sft",
        "method": "lora",
        "parents": [{"how": "continued", "folder": "/home/someone/x", "content": f"{at - 1:064x}"}] * (number > 1),
        "scores": {"steps": 200, "base_loss": 2.5, "eval_loss": 1.25 + at / 1e5},
        "receipt": f"{at + 7:064x}",
    }
    return {"event": "register", "time": 1.79e9 + at, "name": f"name-{name}", "version": number} | body


def cost(home: Path, arguments: list[str]) -> float:
    """Processor time of one process, in seconds."""
    env = os.environ | {"TRUETUNE_HOME": str(home), "OMP_NUM_THREADS": "1"}
    before = os.times()
    subprocess.run([sys.executable, "-m", "truetune", *arguments], env=env, stdout=subprocess.DEVNULL, check=True)
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


def measure(home: Path, rounds: int) -> dict[str, float]:
    """{command: median seconds}."""
    found: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for turn in range(rounds + 1):
        for name, arguments in COMMANDS.items():
            taken = cost(home, arguments)
            if turn:
                found[name].append(taken)
    return {name: round(statistics.median(times), 3) for name, times in found.items()}


def commit() -> str:
    return subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--write", action="store_true", help="into docs/evidence/registry.json")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        size = fill(Path(place), asked.count)
        first = cost(Path(place), COMMANDS["ft adapters list"])
        times = measure(Path(place), asked.rounds)
    above = {name: round(taken - times["ft --help"], 3) for name, taken in times.items()}
    body = {
        "what": "processor time of whole processes, seconds, medians of alternating rounds; above: less ft --help",
        "command": "python benchmarks/registry.py --write",
        "commit": commit(),
        "measured": time.strftime("%Y-%m-%d"),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, shared with other work",
        "versions": {"python": platform.python_version(), **{name: version(name) for name in ("truetune", "orjson")}},
        "adapters": asked.count,
        "journal_bytes": size,
        "rounds": asked.rounds,
        "seconds": times,
        "above": above,
        "first_list_that_makes_the_index": round(first, 3),
        "bar": BAR,
        "held": above["ft adapters list"] <= BAR,
    }
    text = json.dumps(body, indent=2)
    if asked.write:
        EVIDENCE.write_text(text + "\n", "utf-8")
    print(text)


if __name__ == "__main__":
    main()

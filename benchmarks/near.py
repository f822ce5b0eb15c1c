"""A million rows, a fifth of them nearly the same as another: the near-duplicate pass within 1 GB.

    python benchmarks/near.py --write

Reads, shapes, sketches, groups and proves as `data.dedupe: near` does, in a process of its own, whose highest memory is
told. It fails where copies are missed or rows that are no copies are dropped.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import re
import resource
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import orjson

from truetune.config.schema import Data
from truetune.data.dedupe import FOREIGN, TRAIN, VALIDATION, Near
from truetune.data.formats import named
from truetune.data.intake import read, survey
from truetune.data.job import plan
from truetune.data.prepare import unheard
from truetune.models.tokenizer import load
from truetune.testing import tokens
from truetune.testing.templates import CHATML

EVIDENCE = Path(__file__).parents[1] / "docs" / "evidence" / "near.json"
POOL = 50_000
"""Rows that a copy may be made of."""


def write(path: Path, count: int) -> int:
    """Rows of drawn words, every fifth a copy with a word more; returns how many copies there are."""
    rng = random.Random(1)
    words = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(3, 9))) for _ in range(20_000)]
    kept: list[tuple[str, str]] = []
    with path.open("wb") as stream:
        for number in range(count):
            asked, said = (" ".join(rng.choices(words, k=length)) for length in (8, 20))
            if number % 5 == 4:
                asked, said = rng.choice(kept)
                said += " indeed"
            elif len(kept) < POOL:
                kept.append((asked, said))
            else:
                kept[rng.randrange(len(kept))] = asked, said
            stream.write(orjson.dumps({"prompt": asked, "completion": said}) + b"\n")
    return count // 5


def find(rows: str, model: str) -> None:
    """The pass itself; prints the highest memory in bytes and the number of rows dropped."""
    data = Data(path=rows, dedupe="near", validation=None)
    job = plan(data, objective="sft", seed=1, folder=Path(), tokenizer=load(Path(model)))
    form = named("prompt_completion")
    with tempfile.TemporaryDirectory(dir=model) as folder:
        found = survey(job, {TRAIN: form, VALIDATION: form, FOREIGN: form}, Path(folder), unheard)
        near, dropped = Near(found, Path(folder)), 0
        for row in read(job.train):
            content = form.read(row.value)
            if near.find(row.index, content):
                dropped += 1
            else:
                near.keep(row.index, content)
            near.done(row.index)
        near.close()
    print(peak(), dropped)


def peak() -> int:
    """Bytes; `ru_maxrss` would begin with the peak of the process that started this one."""
    own = Path("/proc/self/status")
    if own.exists():
        return int(re.search(r"VmHWM:\s*(\d+) kB", own.read_text())[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def measure(count: int, folder: Path) -> dict[str, int]:
    model, rows = tokens.byte_level(folder, template=CHATML), folder / "rows.jsonl"
    planted = write(rows, count)
    command = [sys.executable, __file__, "--find", str(rows), str(model)]
    found = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    return {
        "rows": count,
        "bytes": rows.stat().st_size,
        "peak_bytes": int(found[0]),
        "planted": planted,
        "found": int(found[1]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--write", action="store_true", help=f"put the figures into {EVIDENCE.name}")
    parser.add_argument("--find", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.find:
        find(*options.find)
        return
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(options.rows, Path(folder))
    print(json.dumps(figures, indent=2))
    if not 0.999 * figures["planted"] < figures["found"] <= figures["planted"]:
        sys.exit("copies were missed, or rows that are no copies dropped")
    if options.write:
        git = ["git", "-C", str(EVIDENCE.parent), "rev-parse", "HEAD"]
        commit = subprocess.run(git, check=True, capture_output=True, text=True).stdout.strip()
        head = {"command": "python benchmarks/near.py --write", "commit": commit, "machine": f"{platform.machine()}"}
        versions = {name: version(name) for name in ("truetune", "rensa", "numpy")}
        EVIDENCE.write_text(json.dumps(head | {"versions": versions} | figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

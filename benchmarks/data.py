"""Preparing rows side by side: ours against TRL's `SFTTrainer`, the same rows, tokenizer and chat template.

    python benchmarks/data.py --rows 10000           # prints
    python benchmarks/data.py --write                # 100,000 rows; docs/evidence/data.json too

Both read one JSON Lines file of prompts and completions and end with token ids and a mask of the answers on disk; each
does what it does by default. Ours also checks every row, looks for equal and nearly equal ones, splits, and proves that
the prompt of each example is what is served. TRL's is timed without imports and without building its trainer, and also
with a process for each core. Every contender runs in a process of its own, in turn; the best round counts. Memory is
the highest sum of what the process and its children hold.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).parents[1]
EVIDENCE = ROOT / "docs" / "evidence" / "data.json"
ROWS = ROOT.parent / "shared" / "data" / "alpaca_en_demo.json"
CHANGED = 0.3
"""Share of words that differ between a row and its repetitions, so that none is nearly the same as another."""
MAX_LENGTH = 2048
LIBRARIES = ("truetune", "trl", "datasets", "transformers", "tokenizers", "rensa")
CONTENDERS = ("ours", "trl", "trl_all_cores")


def rows(count: int) -> Iterator[dict[str, Any]]:
    """Rows of prompt and completion: those of the file, then the same with other words here and there."""
    rng, given = random.Random(0), json.loads(ROWS.read_text(encoding="utf-8"))
    words = [word for row in given for word in row["output"].split(" ")]

    def varied(text: str, again: bool) -> str:
        return " ".join(rng.choice(words) if again and rng.random() < CHANGED else word for word in text.split(" "))

    for number in range(count):
        row, again = given[number % len(given)], number >= len(given)
        prompt = "\n\n".join(filter(None, (row["instruction"], row["input"])))
        yield {
            "prompt": [{"role": "user", "content": varied(prompt, again)}],
            "completion": [{"role": "assistant", "content": varied(row["output"], again)}],
        }


def ours(file: Path) -> dict[str, Any]:
    from truetune.config.schema import Data
    from truetune.data.prepare import prepare
    from truetune.models import source, tokenizer

    encode = tokenizer.load(source.resolve("starter", folder=ROOT).folder)
    options = Data(path=str(file), max_length=MAX_LENGTH)
    clock = Clock()
    found = prepare(options, objective="sft", seed=42, folder=ROOT, tokenizer=encode)
    report = found.report
    return clock.read() | {
        "examples": len(found.train) + len(found.validation),
        "tokens": report["tokens"]["train"] + report["tokens"]["validation"],
        "supervised": report["supervised"]["train"] + report["supervised"]["validation"],
    }


def trl(file: Path, processes: int | None) -> dict[str, Any]:
    from datasets import Dataset
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM
    from trl import SFTConfig, SFTTrainer

    from truetune.models import source

    tokenizer = AutoTokenizer.from_pretrained(source.resolve("starter", folder=ROOT).folder)
    shape = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), num_key_value_heads=1, **shape))
    where = {"output_dir": str(file.parent / "trl"), "use_cpu": True, "report_to": []}
    settings = SFTConfig(max_length=MAX_LENGTH, dataset_num_proc=processes, **where)
    few = Dataset.from_list([*rows(2)])
    trainer = SFTTrainer(model=model, args=settings, train_dataset=few, processing_class=tokenizer)
    clock = Clock()
    given = Dataset.from_json(str(file), cache_dir=str(file.parent / "cache"))
    found = trainer._prepare_dataset(given, tokenizer, settings, False, None, "train")
    result = clock.read()
    labels = [list(each) for each in found["labels"]]
    return result | {
        "examples": len(found),
        "tokens": sum(map(len, labels)),
        "supervised": sum(label != -100 for each in labels for label in each),
    }


class Clock:
    """Wall and processor seconds, those of children that have ended or are running included."""

    def __init__(self) -> None:
        self.wall, self.cpu = time.perf_counter(), self._cpu()

    def read(self) -> dict[str, Any]:
        return {"seconds": time.perf_counter() - self.wall, "cpu_seconds": self._cpu() - self.cpu, "done": time.time()}

    def _cpu(self) -> float:
        now = os.times()
        running = [child.cpu_times() for child in psutil.Process().children(recursive=True)]
        return now.user + now.system + now.children_user + now.children_system + sum(t.user + t.system for t in running)


def contend(name: str, file: Path) -> dict[str, Any]:
    if name == "ours":
        return ours(file)
    return trl(file, os.cpu_count() if name == "trl_all_cores" else None)


def measured(name: str, file: Path) -> dict[str, Any]:
    """One contender in a process of its own, with the memory that it holds until the rows are ready."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "rows.jsonl"
        os.link(file, copy) if os.stat(folder).st_dev == file.stat().st_dev else copy.write_bytes(file.read_bytes())
        places = {"TRUETUNE_HOME": folder, "HF_HOME": folder, "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
        command = [sys.executable, __file__, "--contend", name, "--file", str(copy)]
        with (Path(folder) / "errors").open("w+") as errors:
            child = subprocess.Popen(
                command, env={**os.environ, **places}, stdout=subprocess.PIPE, stderr=errors, text=True
            )
            held = list(watch(child.pid))
            output = child.stdout.read() if child.stdout else ""
            errors.seek(0)
            if child.wait():
                raise SystemExit(errors.read())
    found: dict[str, Any] = json.loads(output.splitlines()[-1])
    done = found.pop("done")
    return found | {"peak_bytes": max(size for when, size in held if when <= done)}


def watch(process: int) -> Iterator[tuple[float, int]]:
    """When, and how many bytes the process and its children hold."""
    parent = psutil.Process(process)
    while parent.is_running() and parent.status() != psutil.STATUS_ZOMBIE:
        size = 0
        for each in (parent, *parent.children(recursive=True)):
            try:
                size += each.memory_info().rss
            except psutil.Error:
                continue
        yield time.time(), size
        time.sleep(0.02)


def compare(count: int, rounds: int) -> dict[str, Any]:
    best: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rows.jsonl"
        with file.open("w", encoding="utf-8") as stream:
            stream.writelines(json.dumps(row) + "\n" for row in rows(count))
        for _ in range(rounds):
            for name in CONTENDERS:
                found = measured(name, file)
                print(name, found, file=sys.stderr)
                best[name] = min(best.get(name, found), found, key=lambda each: each["seconds"])
    return {name: figures(found, count) for name, found in best.items()} | {"ratios": ratios(best)}


def figures(found: dict[str, Any], count: int) -> dict[str, Any]:
    speeds = {"rows_per_second": found["seconds"], "rows_per_cpu_second": found["cpu_seconds"]}
    return found | {name: round(count / seconds, 1) for name, seconds in speeds.items()}


def ratios(best: dict[str, dict[str, Any]]) -> dict[str, dict[str, float]]:
    """How often as fast ours is, and what part of their memory it holds."""
    mine = best["ours"]
    return {
        name: {
            "speed": round(other["seconds"] / mine["seconds"], 2),
            "cpu": round(other["cpu_seconds"] / mine["cpu_seconds"], 2),
            "memory": round(mine["peak_bytes"] / other["peak_bytes"], 2),
        }
        for name, other in best.items()
        if name != "ours"
    }


def circumstances(arguments: argparse.Namespace) -> dict[str, Any]:
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    return {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "command": " ".join(["python", "benchmarks/data.py", *sys.argv[1:]]),
        "commit": commit.stdout.strip(),
        "versions": {name: version(name) for name in LIBRARIES},
        "machine": {"processor": platform.machine(), "cores": os.cpu_count(), "load": os.getloadavg()},
        "rows": arguments.rows,
        "rounds": arguments.rounds,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--write", action="store_true", help=f"write {EVIDENCE.relative_to(ROOT)}")
    parser.add_argument("--contend", choices=CONTENDERS, help=argparse.SUPPRESS)
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.contend:
        print(json.dumps(contend(arguments.contend, arguments.file)))
        return 0
    body = circumstances(arguments) | compare(arguments.rows, arguments.rounds)
    print(json.dumps(body, indent=2))
    if arguments.write:
        EVIDENCE.write_text(json.dumps(body, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""TrueTune's training beside TRL's: the same random model, rows, order, start and hyperparameters, from the shell.

    python benchmarks/train.py                               every shape; prints
    python benchmarks/train.py --write                       and writes docs/evidence/train.json and docs/performance.md
    python benchmarks/train.py --shape chat --rows 96 --rounds 3 --write     one shape, longer; the others stay written
    python benchmarks/train.py --budgets --write             token budget against speed and memory, ours alone

Each run is a process of its own with cold caches, the contenders in turns: `ft train` as a user calls it, and TRL's
SFTTrainer as it comes without and with activation checkpointing, and with best-fit packing (`rivals.py`). The padded
ones run in the first round only, for they take longest; who takes longer than `--limit` seconds is ended, and that is
said. Tokens per second are those of the steps (from the first step's beginning to the last one's end); seconds from
the shell count everything. A step's losses of the padded runs must be ours to 0.5 %; after the last step one judge
(`judge.py`) measures every adapter on rows that nobody trained on, and how much each has learned must be ours to 35 %
(packed rows make other steps of the same tokens; where they make another number of them, only that something is
learned counts). It fails where that does not hold or nothing is learned.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import performance
from shapes import LONGEST, SHAPES, Shape

HERE, ROOT = Path(__file__).parent, Path(__file__).parents[1]
PADDED, PACKED = ("trl", "trl-checkpointing"), "trl-packed"
STEP_TOLERANCE, LEARNED_TOLERANCE, LEAST_LEARNED = 0.005, 0.35, 0.02
"""Of a step's loss; of what was learned; nats that must be learned."""

MEASURED = ("seconds_to_first_step", "seconds_to_first_step_done", "step_seconds")
MEASURED += ("total_seconds", "cpu_seconds", "peak_bytes")
BUDGETS = (256, 512, 1024, 2048, 4096)

Figures = dict[str, Any]


def run(line: list[str], folder: Path, limit: float) -> Figures | None:
    """A process in `folder` with caches of its own: its output, wall and processor seconds and peak memory in bytes;
    None where it took longer than `limit` seconds. Raises RuntimeError where it fails."""
    with tempfile.TemporaryDirectory() as home, tempfile.TemporaryFile("w+") as out:
        places = {"TRUETUNE_HOME": home, "HF_HOME": home, "HF_HUB_OFFLINE": "1"}
        began = time.time()
        process = subprocess.Popen(line, cwd=folder, stdout=out, stderr=subprocess.STDOUT, env=os.environ | places)
        late = threading.Event()
        timer = threading.Timer(limit, lambda: (late.set(), process.kill()))
        timer.start()
        _, status, used = os.wait4(process.pid, 0)  # the peak of this process alone
        timer.cancel()
        ended, process.returncode = time.time(), os.waitstatus_to_exitcode(status)
        out.seek(0)
        told = out.read()
    if late.is_set():
        return None
    if process.returncode:
        raise RuntimeError(f"{' '.join(line)} failed:\n{told[-3000:]}")
    unit = 1 if sys.platform == "darwin" else 1024
    return {
        "began": began,
        "total_seconds": ended - began,
        "cpu_seconds": used.ru_utime + used.ru_stime,
        "peak_bytes": used.ru_maxrss * unit,
        "output": told,
    }


def helper(name: str, *arguments: object, folder: Path = HERE, limit: float = 600) -> Any:
    """The JSON that a script beside this one prints last."""
    found = run([sys.executable, str(HERE / name), *map(str, arguments)], folder, limit)
    if found is None:
        raise RuntimeError(f"{name} took longer than {limit} seconds")
    return json.loads(found["output"].splitlines()[-1])


def ours(folder: Path, limit: float) -> Figures | None:
    """`ft train`, as its own files tell it."""
    shutil.rmtree(folder / "run", ignore_errors=True)
    found = run([sys.executable, "-m", "truetune", "train", "train.yml"], folder, limit)
    if found is None:
        return None
    lines = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if line["kind"] == "train"]
    first = steps[0]["tokens"] / steps[0]["tokens_per_second"]
    times = {"begin": [steps[0]["time"] - first], "end": [step["time"] for step in steps]}
    losses, norms = ([step[name] for step in steps] for name in ("loss", "grad_norm"))
    tokens, supervised = (sum(step[name] for step in steps) for name in ("tokens", "supervised"))
    return measured(found, times) | {
        "losses": losses, "grad_norms": norms, "tokens": tokens, "supervised": supervised,
    }  # fmt: skip


def theirs(folder: Path, variant: str, packs: int, limit: float) -> Figures | None:
    found = run([sys.executable, str(HERE / "rivals.py"), ".", variant, str(packs)], folder, limit)
    if found is None:
        return None
    told = json.loads(found["output"].splitlines()[-1])
    return measured(found, told) | {"losses": told["losses"], "grad_norms": told["grad_norms"]}


def measured(found: Figures, times: dict[str, list[float]]) -> Figures:
    """What is the same for all contenders; keys as in `MEASURED`."""
    begin, end = times["begin"][0], times["end"]
    first = {"seconds_to_first_step": begin - found["began"], "seconds_to_first_step_done": end[0] - found["began"]}
    return first | {"step_seconds": end[-1] - begin} | {name: found[name] for name in MEASURED[3:]}


def bench(name: str, options: argparse.Namespace) -> Figures:
    """One shape: all contenders in turns, the judge, and the limit of the machine right after."""
    shape, folder = SHAPES[name], options.work / name
    rows = options.rows or shape.rows
    helper("shapes.py", name, folder, rows)
    budget = options.limit
    first = ours(folder, budget)
    if first is None:
        raise RuntimeError(f"{name}: our own run took longer than {budget} seconds")
    packs = max(1, round(first["tokens"] / LONGEST / len(first["losses"])))
    found: dict[str, list[Figures]] = {"truetune": [first]}
    late: list[str] = []
    for number in range(options.rounds):
        for rival in (PACKED, *((*PADDED[: None if name == "chat" else 1],) if number == 0 else ())):
            if rival not in late:
                one = theirs(folder, rival, packs, budget)
                found.setdefault(rival, []).append(one) if one else late.append(rival)
                tell(name, rival, one, first)
        if number + 1 < options.rounds:
            again = ours(folder, budget)
            assert again
            found["truetune"].append(again)
        tell(name, "truetune", found["truetune"][-1], first)
    adapters = {rival: "run/adapter" if rival == "truetune" else rival for rival in found}
    judged = helper("judge.py", folder, *adapters.values())
    held_out = {"base": judged["base"]} | {rival: judged[path] for rival, path in adapters.items()}
    limit = helper("limit.py", name, min(1536, first["tokens"] // len(first["losses"])))
    body = summary(shape, folder, found, limit) | {"held_out_loss": held_out, "packs_per_step": packs}
    body |= {"rows": rows, "left_out": dict.fromkeys(late, f"longer than {budget:g} s"), "runs": found}
    body["profile"] = helper("inside.py", "profile", folder) if name == "chat" else {}
    body["between"] = helper("inside.py", "between", folder) if name == "chat" else {}
    body["faults"] = faults(found, held_out)
    return body


def budgets(options: argparse.Namespace) -> Figures:
    """Ours at several token budgets, on the first shape's model."""
    folder = options.work / "budgets"
    helper("shapes.py", "chat", folder, 8)
    found = [helper("inside.py", "budget", folder, tokens) for tokens in BUDGETS]
    shutil.rmtree(folder)
    for one in found:
        print(
            f"budget {one['budget']:5}  {one['tokens_per_second']:7.1f} tokens/s  {one['peak_bytes'] / 2**30:5.2f} GiB"
        )
    return {"about": SHAPES["chat"].about, "found": found}


def tell(name: str, rival: str, one: Figures | None, like: Figures) -> None:
    if one is None:
        print(f"{name:11} {rival:18} left out: too slow", flush=True)
        return
    rate, peak = like["tokens"] / one["step_seconds"], one["peak_bytes"] / 2**30
    times = f"first step after {one['seconds_to_first_step']:.1f} s, all {one['total_seconds']:.1f} s"
    print(f"{name:11} {rival:18} {rate:7.1f} tokens/s  {peak:5.2f} GiB  {times}", flush=True)


def summary(shape: Shape, folder: Path, found: dict[str, list[Figures]], limit: Figures) -> Figures:
    """Medians over the rounds, and our share of the products' limit."""
    tokens, supervised = (found["truetune"][0][key] for key in ("tokens", "supervised"))
    weights = (folder / "model" / "model.safetensors").stat().st_size
    rows = {}
    for rival, runs in found.items():
        middle = {key: statistics.median(one[key] for one in runs) for key in MEASURED}
        rows[rival] = middle | {
            "rounds": len(runs),
            "tokens_per_second": tokens / middle["step_seconds"],
            "supervised_per_second": supervised / middle["step_seconds"],
            "bytes_above_weights": middle["peak_bytes"] - weights,
        }
    layers, head = limit["layer_seconds_per_token"] * tokens, limit["head_seconds_per_token"]
    ours = rows["truetune"]["step_seconds"]
    shares = {"needed": (layers + head * supervised) / ours, "head_at_every_token": (layers + head * tokens) / ours}
    about = {"about": shape.about, "parameters": shape.frozen + shape.hidden * shape.vocabulary, "batch": shape.batch}
    counts = {"tokens": tokens, "supervised": supervised, "weights_bytes": weights}
    return about | counts | {"contenders": rows, "limit": limit | {"share": shares}}


def faults(found: dict[str, list[Figures]], held_out: dict[str, float]) -> list[str]:
    """What speaks against the comparison: nothing learned, or not the same."""
    told, own = [], found["truetune"][0]
    for rival, runs in found.items():
        if held_out["base"] - held_out[rival] < LEAST_LEARNED:
            told.append(f"{rival} has learned nothing: {held_out['base']:.4f} -> {held_out[rival]:.4f}")
        if not all(norm > 0 for one in runs for norm in one["grad_norms"]):
            told.append(f"{rival} has a gradient of 0")
        if rival in PADDED:
            pairs = zip(own["losses"], runs[0]["losses"], strict=True)
            told += [f"{rival}, step {step}: loss {b:.4f}, ours {a:.4f}" for step, (a, b) in enumerate(pairs, 1)
                     if abs(a - b) > STEP_TOLERANCE * a]  # fmt: skip
    gained = {rival: held_out["base"] - held_out[rival] for rival in found}
    told += [
        f"{rival} has learned {gain:.4f} nats, we {gained['truetune']:.4f}"
        for rival, gain in gained.items()
        if len(found[rival][0]["losses"]) == len(own["losses"])
        and abs(gain - gained["truetune"]) > LEARNED_TOLERANCE * gained["truetune"]
    ]
    return told


def conditions(rounds: int) -> Figures:
    """When, where and with what something is measured."""
    import platform

    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, cwd=ROOT).stdout.strip()
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "command": " ".join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]]),
        "commit": commit,
        "versions": {name: version(name) for name in ("truetune", "torch", "transformers", "peft", "trl")},
        "machine": {"processor": platform.machine(), "cores": os.cpu_count(), "load_before": os.getloadavg()[0]},
        "threads": os.environ.get("OMP_NUM_THREADS", "all"),
        "rounds": rounds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, action="append", help="only this one; may be repeated")
    parser.add_argument("--rows", type=int, help="instead of the shape's own, which keep the whole within minutes")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--limit", type=float, default=180, help="seconds after which a run is ended")
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "bench-train")
    parser.add_argument("--budgets", action="store_true", help="the table of token budgets instead")
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    options.work = options.work.resolve()
    if options.budgets:
        body = conditions(options.rounds) | budgets(options)
        return performance.keep("budgets", body) if options.write else None
    wrong = []
    for name in options.shape or SHAPES:
        about = conditions(options.rounds)
        body = about | bench(name, options)
        shutil.rmtree(options.work / name)
        share, told = body["limit"]["share"], body["faults"]
        print(f"{name:11} {share['needed']:.0%} of the products' limit", *told, sep="\n    ", flush=True)
        wrong += told
        if options.write and not told:
            performance.keep(name, body)
    if wrong:
        sys.exit("the contenders did not do the same; these shapes were not written")
    return None


if __name__ == "__main__":
    main()

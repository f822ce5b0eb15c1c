"""Sections of docs/performance.md from other evidence than training's: many rows, preparation, decoding, MLX."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

EVIDENCE = Path(__file__).parents[1] / "docs" / "evidence"
SCALE = EVIDENCE / "scale.json"
SCALE_PLOT = Path(__file__).parents[1] / "docs" / "images" / "scale.svg"

MEMORY = ("preparation", "planning", "dataset prepare", "training")

Figures = dict[str, Any]


def keep_size(body: Figures) -> None:
    """Take in the figures of one number of rows; the others stay written."""
    found = {one["rows"]: one for one in read(SCALE).get("sizes", [])} | {body["rows"]: body}
    SCALE.parent.mkdir(parents=True, exist_ok=True)
    SCALE.write_text(json.dumps({"sizes": [found[rows] for rows in sorted(found)]}, indent=1) + "\n")


def read(path: Path) -> Figures:
    found: Figures = json.loads(path.read_text()) if path.exists() else {}
    return found


def all_of_them() -> str:
    """The sections for which there is evidence, and the plot."""
    scale = read(SCALE).get("sizes", [])
    if scale:
        plot(scale)
    told = [scaling(scale)] if scale else []
    for name, section in (("data", preparation), ("decode", decoding), ("mlx", mlx)):
        if body := read(EVIDENCE / f"{name}.json"):
            told.append(section(body))
    return "\n\n".join(told)


def scaling(sizes: list[Figures]) -> str:
    lines = [
        "## Many rows",
        "",
        "Chats of some 60 tokens, the bundled starter, 16 rows a step; one thread, processor time of the user and the "
        "system, per token. Preparation is all from the file to token ids on the disk, checks and duplicates included; "
        "an epoch's plan is its order and what it promises to the receipt; reading is what a step does to get its rows "
        "from the disk. What is found again has its hashes computed anew. Memory is what the process itself holds, "
        "without pages of files, which the system drops when it needs them.",
        "",
        "![Processor time per token and memory by the number of rows](images/scale.svg)",
        "",
        "| rows | tokens | preparation | `ft dataset prepare` | an epoch's plan | reading | a step | rows found again "
        "| memory: preparation | planning | `ft dataset prepare` | `ft train` |",
        f"|{'---|' * 12}",
        *map(size, sizes),
        "",
        *grows(sizes),
        "",
        *dict.fromkeys(told(one) for one in sizes),
    ]
    return "\n".join(lines)


def size(one: Figures) -> str:
    memory = one["memory"]
    cells = [f"{one['rows']:,}", f"{one['tokens']:,}"]
    cells += [micro(one.get(name)) for name in ("preparation", "dataset_prepare", "plan", "reading", "step")]
    cells += [f"{one['found_seconds']:.2f} s", *(f"{memory[n] / 1e6:.0f} MB" if n in memory else "" for n in MEMORY)]
    return f"| {' | '.join(cells)} |"


def micro(value: float | None) -> str:
    return "" if value is None else f"{value * 1e6:.3g} µs"


def grows(sizes: list[Figures]) -> list[str]:
    """Bytes for each further row, between the two largest sets: in smaller ones buffers are still filling."""
    found = []
    for name in MEMORY:
        some = [one for one in sizes if name in one["memory"]]
        if len(some) > 1:
            first, last = some[-2:]
            more = (last["memory"][name] - first["memory"][name]) / (last["rows"] - first["rows"])
            found.append(f"{name} {max(0.0, more):.0f} bytes ({first['rows']:,} to {last['rows']:,} rows)")
    return [f"What a further row costs in memory: {'; '.join(found)}."] if found else []


def preparation(body: Figures) -> str:
    ratios = body["ratios"]
    lines = ["## Preparation of rows", "", f"{body['rows']:,} rows, beside `SFTTrainer`'s preparation:", ""]
    lines += ["| | rows/s | rows per second of processor time | most memory |", "|---|---|---|---|"]
    names = {"ours": "TrueTune", "trl": "TRL, one process", "trl_all_cores": "TRL, a process for each core"}
    for name, title in names.items():
        one = body[name]
        cells = [title, f"{one['rows_per_second']:.0f}", f"{one['rows_per_cpu_second']:.0f}"]
        cells.append(f"{one['peak_bytes'] / 1e6:.0f} MB")
        lines.append(f"| {' | '.join(cells)} |")
    found = [f"{names[name]}: {one['speed']:.1f} times as fast, {one['memory']:.2f} of its memory"
             for name, one in ratios.items()]  # fmt: skip
    return "\n".join([*lines, "", f"Against {'; against '.join(found)}.", "", told(body)])


def decoding(body: Figures) -> str:
    threads = {name: found for name, found in body.items() if name.startswith("threads=")}
    lines = [
        "## Evaluation and generation",
        "",
        f"Greedy answers of {body['new_tokens']} tokens to {body['prompts']} prompts, beside transformers' `generate`, "
        "all answers equal. A row that ends leaves its slot at once; `generate` computes it until the longest one has "
        "ended.",
        "",
        f"| tokens/s | {' | '.join(name.replace('=', ': ') for name in threads)} |",
        f"|---|{'---|' * len(threads)}",
    ]
    ways = next(iter(threads.values()))["tokens_per_second"]
    for way in ways:
        cells = [f"{found['tokens_per_second'][way]:.0f}" for found in threads.values()]
        lines.append(f"| {way} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", told(body)])


def mlx(body: Figures) -> str:
    ours, theirs = (body["real_tokens_per_second"][name] for name in ("ours", "theirs"))
    peak = body["peak_bytes"]["ours"] / body["peak_bytes"]["theirs"]
    return "\n".join([
        "## MLX",
        "",
        f"Beside `mlx_lm`'s LoRA trainer, on a processor: {ours:.0f} real tokens/s against {theirs:.0f}, "
        f"{body['faster_by_cpu_time']:.2f} times as many by processor time, {peak:.2f} of its memory.",
        "",
        told(body),
    ])  # fmt: skip


def told(body: Figures) -> str:
    """How and when something was measured."""
    machine = body.get("machine", "")
    if isinstance(machine, dict):
        load = machine.get("load_before", machine.get("load"))
        load = load[0] if isinstance(load, list) else load
        machine = f"{machine['processor']}, {machine['cores']} cores, load before {load:.1f}"
    versions = ", ".join(f"{name} {number}" for name, number in body["versions"].items())
    parts = [f"`{body['command']}`", body.get("date", ""), f"commit {body['commit'][:10]}"]
    return "; ".join(filter(None, [", ".join(filter(None, parts)), versions, machine])) + "."


def plot(sizes: list[Figures]) -> None:
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "truetune"
    from matplotlib import pyplot

    figure, (times, memory) = pyplot.subplots(1, 2, figsize=(8, 3.2), layout="constrained")
    for name, title in (("step", "a step"), ("preparation", "preparation"), ("plan", "plan"), ("reading", "reading")):
        some = [one for one in sizes if name in one]
        times.plot([one["rows"] for one in some], [one[name] * 1e6 for one in some], marker="o", label=title)
    for name, title in (("training", "training"), ("preparation", "preparation"), ("planning", "planning")):
        some = [one for one in sizes if name in one["memory"]]
        memory.plot([one["rows"] for one in some], [one["memory"][name] / 1e6 for one in some], marker="o", label=title)
    times.set(xscale="log", yscale="log", xlabel="rows", ylabel="µs of processor time per token")
    memory.set(xscale="log", ylim=0, xlabel="rows", ylabel="MB")
    for axes in (times, memory):
        axes.legend(frameon=False, fontsize="small")
    SCALE_PLOT.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(SCALE_PLOT, metadata={"Date": None})
    pyplot.close(figure)

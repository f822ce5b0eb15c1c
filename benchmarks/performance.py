"""docs/performance.md and its plots, from docs/evidence/ alone: `python benchmarks/performance.py`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import sections

ROOT = Path(__file__).parents[1]
EVIDENCE, PAGE = ROOT / "docs" / "evidence" / "train.json", ROOT / "docs" / "performance.md"
PLOT = ROOT / "docs" / "images" / "train.svg"
NAMES = {
    "truetune": "TrueTune",
    "trl-packed": "TRL, packed to 1,024",
    "trl": "TRL, padded",
    "trl-checkpointing": "TRL, padded, as it comes (recomputing)",
}
PAGE_TEXT = """<!-- Written by `make bench` from evidence/; changes here are lost. -->
# How fast, and how much memory

TrueTune beside TRL: the same model of random weights, rows, order, adapter and hyperparameters (LoRA, r 16, on all
linear layers, float32), each run a process of its own with empty caches, in turns on one machine.

![Real tokens per second of each contender, by shape](images/train.svg)

{shapes}

## What the columns mean

- **tokens/s**: tokens of the rows, padding not counted, over the time from the first step's beginning to the last
  step's end. **supervised/s** counts those that reach the loss alone.
- **peak**: the most memory that the process held. **above the weights**: the same without the size of the weights'
  file, the libraries included.
- **first step**: seconds from the shell to the beginning of the first step, imports and preparation of the rows
  included. **all**: seconds from the shell to the end, the adapter saved. TrueTune's include its checks of the rows,
  the receipts and the report.
- **loss**: after the last step, on {held_out} rows that nobody trained on, measured by transformers and PEFT for every
  contender alike. A padded run takes our steps, and its loss in each must be ours to 0.5 %; packed rows make other
  steps of the same tokens, and must have learned as much to 35 % where these are as many.
- **share of the limit**: what the products with frozen weights take by themselves at these shapes (forward and the
  input's gradient: 4 FLOP per parameter and token; the output head at supervised positions), over what our steps take.
  The products are measured in the same run, by `benchmarks/limit.py`, each by the faster of torch's libraries. Counted
  as if the head were projected at every token, as trainers commonly do, the share is the second figure.
{budgets}
{others}

## Measured again

    make bench                                                           every shape, some minutes
    python benchmarks/train.py --shape chat --rows 96 --rounds 3 --write     one shape, longer
    python benchmarks/train.py --budgets --write                         the table of token budgets
    python benchmarks/scale.py --write                                   many rows
    python benchmarks/data.py --write                                    preparation
    python benchmarks/decode.py --write                                  generation
    python benchmarks/mlx_engine.py                                      MLX
    python benchmarks/performance.py                                     this page, from what they have written

It fails where nothing is learned, or where contenders do not learn the same, and then writes nothing.

## What is not measured

No GPU: the paths for CUDA are written and have tests that run where there is one; of their speed nothing is said here.
Nor are other CPUs, more threads than stated, and training on several machines.

## What is not done

Rows that begin alike are computed whole each on a GPU and by MLX; only on a processor, where the engine packs, their
beginning is computed once in a micro-batch (the shape `system`; counted in tokens/s as if it were not).
"""


def keep(name: str, body: dict[str, Any]) -> None:
    """Take in one shape's figures (or `budgets`), and write the page and the plot again."""
    found = read()
    found[name] = body
    EVIDENCE.parent.mkdir(parents=True, exist_ok=True)
    EVIDENCE.write_text(json.dumps(found, indent=1) + "\n")
    write(found)


def read() -> dict[str, Any]:
    return json.loads(EVIDENCE.read_text()) if EVIDENCE.exists() else {}


def write(found: dict[str, Any]) -> None:
    from shapes import HELD_OUT, SHAPES

    shapes = {name: found[name] for name in SHAPES if name in found}
    told = "\n\n".join(section(name, body) for name, body in shapes.items())
    others = sections.all_of_them()
    PAGE.write_text(
        PAGE_TEXT.format(shapes=told, held_out=HELD_OUT, budgets=budgets(found.get("budgets")), others=others)
    )
    plot(shapes)


def section(name: str, body: dict[str, Any]) -> str:
    """One shape: what it is, how it was measured, and its table."""
    versions = ", ".join(f"{package} {number}" for package, number in body["versions"].items())
    machine = body["machine"]
    share, limit = body["limit"]["share"], body["limit"]
    lines = [
        f"## {name}: {body['about']}",
        "",
        f"{body['parameters'] / 1e6:.0f} million parameters; {body['rows']} rows, {body['tokens']:,} tokens, "
        f"{body['supervised']:,} of them supervised, {body['batch']} rows a step.",
        "",
        "| | tokens/s | supervised/s | peak | above the weights | first step | all | loss | rounds |",
        "|---|---|---|---|---|---|---|---|---|",
        *(row(rival, body) for rival in NAMES if rival in body["contenders"]),
        "",
        f"Before training the loss was {body['held_out_loss']['base']:.3f}. {ratios(body)}",
        "",
        f"Share of the limit: {share['needed']:.0%}, or {share['head_at_every_token']:.0%} with the head at every "
        f"token; {limit['layer_gflops']:.0f} GFLOP/s in the layers, {limit['head_gflops']:.0f} in the head.",
    ]
    if body["profile"]:
        lines += [
            "",
            "Our step by kind of work: " + ", ".join(f"{k} {v:.0%}" for k, v in body["profile"].items()) + ".",
        ]
    if between := body.get("between"):
        lines += [
            "",
            f"Reading the next step's rows, cutting them into micro-batches and building tensors takes "
            f"{between['seconds_a_step'] * 1e3:.1f} ms of processor time, {between['share']:.2%} of a step: too little "
            "for a thread that does it ahead.",
        ]
    if body["left_out"]:
        lines += ["", "Left out: " + ", ".join(f"{NAMES[k]} ({v})" for k, v in body["left_out"].items()) + "."]
    lines += [
        "",
        f"`{body['command']}`, {body['date']}, commit {body['commit'][:10]}; {versions}; {machine['processor']}, "
        f"{machine['cores']} cores, {body['threads']} threads, load before {machine['load_before']:.1f}.",
    ]
    return "\n".join(lines)


def row(rival: str, body: dict[str, Any]) -> str:
    one = body["contenders"][rival]
    cells = [
        NAMES[rival],
        f"{one['tokens_per_second']:.0f}",
        f"{one['supervised_per_second']:.0f}",
        f"{one['peak_bytes'] / 1e9:.2f} GB",
        f"{one['bytes_above_weights'] / 1e9:.2f} GB",
        f"{one['seconds_to_first_step']:.1f} s",
        f"{one['total_seconds']:.1f} s",
        f"{body['held_out_loss'][rival]:.3f}",
        str(one["rounds"]),
    ]
    return f"| {' | '.join(cells)} |"


def ratios(body: dict[str, Any]) -> str:
    """Ours over each rival's."""
    own, told = body["contenders"]["truetune"], []
    for rival, one in body["contenders"].items():
        if rival == "truetune":
            continue
        speed = own["tokens_per_second"] / one["tokens_per_second"]
        memory = own["bytes_above_weights"] / one["bytes_above_weights"]
        start = own["seconds_to_first_step"] / one["seconds_to_first_step"]
        work = one["cpu_seconds"] / own["cpu_seconds"]
        told.append(
            f"Against {NAMES[rival]}: {speed:.1f} times the tokens/s, {memory:.2f} of the memory above the weights, "
            f"{start:.2f} of the time to the first step, {1 / work:.2f} of the processor's time."
        )
    return " ".join(told)


def budgets(body: dict[str, Any] | None) -> str:
    """Token budget against speed and memory."""
    if body is None:
        return ""
    lines = ["", "## Token budget", ""]
    lines += [f"How large micro-batches are changes nothing that is learned ({body['about']}):", ""]
    lines += ["| tokens of a micro-batch | tokens/s | peak |", "|---|---|---|"]
    lines += [
        f"| {one['budget']:,} | {one['tokens_per_second']:.0f} | {one['peak_bytes'] / 1e9:.2f} GB |"
        for one in body["found"]
    ]
    return "\n".join([*lines, "", sections.told(body), ""])


def plot(shapes: dict[str, Any]) -> None:
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "truetune"
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 3.6), layout="constrained")
    for number, (rival, title) in enumerate(NAMES.items()):
        heights = [
            body["contenders"].get(rival, {}).get("tokens_per_second", 0)
            / body["contenders"]["truetune"]["tokens_per_second"]
            for body in shapes.values()
        ]
        places = [at + (number - 1.5) * 0.2 for at in range(len(shapes))]
        axes.bar(places, heights, 0.2, label=title)
    axes.set_xticks(range(len(shapes)), list(shapes))
    axes.set_ylabel("tokens/s, TrueTune = 1")
    figure.legend(loc="outside upper center", ncols=len(NAMES), frameon=False, fontsize="small")
    PLOT.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(PLOT, metadata={"Date": None})
    pyplot.close(figure)


if __name__ == "__main__":
    write(read())

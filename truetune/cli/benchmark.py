"""`ft benchmark`: how fast and how well models answer, side by side."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import click

from truetune.api import load
from truetune.cli import common
from truetune.cli.common import Output
from truetune.cli.work import Work
from truetune.report.words import size

QUALITY = {"perplexity": "perplexity", "rougeL": "ROUGE-L", "exact_match": "exact match", "chrf": "chrF"}
COLUMNS = ("", "first token", "p95", "p99", "between", "p95", "p99", "tokens/s")
LEGEND = "Milliseconds: the median until the first token and between tokens, and what 95 and 99 of 100 stay below."


@click.group(cls=common.Standard, standard="run")
def command() -> None:
    """Measure how models answer, or compare saved results. Without a verb: run."""


@command.command()
@click.argument("subject", default="last", metavar="[NAME]", shell_complete=common.complete_run)
@click.option("--compare", multiple=True, metavar="NAMES", help="Others over the same base, and `base`: base,other.")
@click.option("--prompts", metavar="FILE", help="A prompt in each line (.txt), or rows. Default: the held-out rows.")
@click.option("--requests", type=int, default=16, show_default=True, help="Of each model in each round.")
@click.option("--concurrency", type=int, default=4, show_default=True, help="Requests at once.")
@click.option("--max-new-tokens", type=int, default=64, show_default=True, help="Longest answer.")
@click.option("--rounds", type=int, default=2, show_default=True, help="The models take turns in each.")
@click.option("--save", metavar="NAME", help="What the result is called. Default: the model's name with the time.")
@common.device
@common.options
def run(out: Output, subject: str, compare: tuple[str, ...], device: str | None, **asked: Any) -> None:
    """Latency, tokens/s, memory and quality of a model, beside others over one base in memory."""
    work, saved = Work(out), []

    def hear(kind: str, figures: dict[str, Any]) -> None:
        if kind == "warning":
            out.note(f"warning: {figures['text']}", style="yellow")
        elif kind == "saved":
            saved.append(figures["path"])
        else:
            work(figures["side"], figures["done"], figures["total"], ends=False)

    others = [name.strip() for names in compare for name in names.split(",") if name.strip()]
    try:
        found = load("benchmark")(subject, compare=others, device=device or "auto", listener=hear, **asked)
    finally:
        work.stop()
    out.document(found)
    show(out, [found])
    for path in saved:
        out.print(f"saved   {path}", style="dim")


@command.command()
@click.argument("pattern", default="*")
@click.option("--plot", type=click.Path(dir_okay=False), metavar="FILE", help="Draw them into a PNG file.")
@common.options
def compare(out: Output, pattern: str, plot: str | None) -> None:
    """Saved results side by side: `ft benchmark compare 'finance*'`."""
    found = load("benchmark_compare")(pattern, plot=plot)
    out.document(found)
    show(out, found["results"])
    if found["differ"]:
        out.print(f"\nNot measured alike: {', '.join(found['differ'])} differ.", style="yellow")
    if plot:
        out.print(f"saved   {plot}", style="dim")


def show(out: Output, results: list[dict[str, Any]]) -> None:
    several = len(results) > 1
    for result in results if not several else ():
        settings = result["settings"]
        out.print(f"{result['name']}: {settings['concurrency']} requests at once on {result['device']}", style="bold")
        out.print(f"prompts: {settings['prompts']}; the process held {size(result['peak_bytes'])} at most\n")
    scores = [
        name for name in QUALITY if any((model["quality"] or {}).get(name) is not None for model in models(results))
    ]
    first = ("result",) if several else ()
    rows = [
        ((result["name"],) if several else ()) + row(model, scores) for result in results for model in result["models"]
    ]
    out.table((*first, *COLUMNS, *(QUALITY[name] for name in scores)), rows)
    out.print(LEGEND, style="dim")


def models(results: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for result in results:
        yield from result["models"]


def row(model: dict[str, Any], scores: list[str]) -> tuple[str, ...]:
    times = [ms(model[part], rank) for part in ("first_token", "between_tokens") for rank in ("p50", "p95", "p99")]
    quality = model["quality"] or {}
    values = ["–" if quality.get(name) is None else f"{quality[name]:.3f}" for name in scores]
    return (model["name"], *times, f"{model['tokens_per_second']:.1f}", *values)


def ms(spread: dict[str, float] | None, rank: str) -> str:
    return (
        "–" if spread is None else f"{spread[rank] * 1e3:,.0f}" if spread[rank] >= 0.01 else f"{spread[rank] * 1e3:.1f}"
    )

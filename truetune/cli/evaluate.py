"""`ft evaluate`: base against tuned on held-out rows, as one table."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import click
from rich.text import Text

from truetune.api import load
from truetune.cli import classes, common, visible
from truetune.cli.common import Output, pairs
from truetune.cli.work import Work
from truetune.report.words import counted, minus

VERDICTS = {
    "better": ("better", "green"),
    "worse": ("worse", "bold red"),
    "same": ("the same", "dim"),
    "unclear": ("no clear difference", "yellow"),
    "few": ("too few rows to tell", "yellow"),
    "higher": ("longer", ""),
    "lower": ("shorter", ""),
}
SAMPLES = 3
WIDE = 150
"""Characters of a text that is shown."""
PERCENT = ("exact_match", "exact_match_strict", "ended", "reward_accuracy", "accuracy")
DIGITS = {"loss": 4, "preference_loss": 4, "perplexity": 2, "chrf": 1, "length": 2}
"""Digits behind the point; three for the others."""
LEGEND = "± is half of the 95 % interval; (low … high) is all of it. A change is clear where its interval leaves out 0."
WORK = {"score": "loss", "answer": "answers"}


@click.command()
@click.argument("subject", default="last", metavar="[RUN|ADAPTER|MODEL]", shell_complete=common.complete_run)
@click.option("--checkpoint", metavar="NAME", help="best, last or step-N of the run.")
@click.option("--data", multiple=True, metavar="FILE", help="Rows to measure on, instead of those held out.")
@click.option(
    "--columns", multiple=True, metavar="OURS=YOURS", help="Columns of --data: prompt=frage,response=antwort."
)
@click.option("--limit", type=click.IntRange(1), metavar="N", help="Most rows, spread over all of them.")
@click.option("--no-generate", is_flag=True, help="Loss only, no answers: much faster.")
@click.option("--max-new-tokens", type=int, metavar="N", help="Longest answer. Default: the run's own.")
@click.option("--temperature", type=float, default=0.0, show_default=True, help="0 = always the likeliest token.")
@click.option("--slots", type=click.IntRange(1, 1024), default=8, show_default=True, help="Answers written at once.")
@click.option("--out", "file", type=click.Path(dir_okay=False), metavar="FILE", help="Put the JSON document there too.")
@common.device
@common.options
def command(
    out: Output,
    subject: str,
    checkpoint: str | None,
    data: tuple[str, ...],
    columns: tuple[str, ...],
    limit: int | None,
    no_generate: bool,
    max_new_tokens: int | None,
    temperature: float,
    slots: int,
    device: str | None,
    file: str | None,
) -> None:
    """Measure what training changed: base against tuned, on rows that were not learned.

    Default: the newest run, and the rows it held out. Saved in the run under eval/, with a receipt.
    """
    with Watch(out) as watch:
        result = load("evaluate")(
            subject,
            checkpoint=checkpoint,
            data=data,
            columns=pairs(columns),
            limit=limit,
            generate=not no_generate,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            slots=slots,
            device=device or "auto",
            out=file,
            listener=watch,
        )
    out.document(result)
    show(out, result)
    for path in watch.saved:
        out.print(f"saved   {path}", style="dim")


class Watch:
    """Listens to an evaluation: a bar with the time that is left, or plain lines where there is no terminal."""

    def __init__(self, out: Output) -> None:
        self.out, self.work = out, Work(out)
        self.saved: list[str] = []

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *_: object) -> None:
        self.work.stop()

    def __call__(self, kind: str, figures: dict[str, Any]) -> None:
        if kind == "warning":
            self.out.note(f"warning: {figures['text']}", style="yellow")
        elif kind == "note":
            self.out.note(figures["text"], style="dim")
        elif kind == "saved":
            self.saved.append(figures["path"])
        elif kind == "rows":
            self.work(figures["stage"], figures["done"], figures["total"], ends=False)
        else:
            self.work(f"{figures['side']}: {WORK[kind]}", figures["done"], figures["total"])


def show(out: Output, result: dict[str, Any]) -> None:
    """The page: what was measured, the table, where it got worse, samples."""
    data, figures = result["data"], result["figures"]
    files = ", ".join(dict.fromkeys(row["where"].rpartition(":")[0] for row in result["rows"]))
    rows = counted(data["available"], "held-out row" if data["held_out"] else "row")
    part = f"{data['rows']:,} of " if data["rows"] < data["available"] else ""
    out.print(heading(result), style="bold")
    what = "labels" if "classes" in result else "trained tokens"
    out.print(f"{result['task']}: {part}{rows} of {files}, {data['supervised']:,} {what}\n")
    if result["task"] in ("classification", "reward"):
        classes.show(out, result, table)
        return
    tuned = result["subject"]["kind"] != "base"
    out.table(("", "base", "tuned", "change", "") if tuned else ("", "base"), list(table(figures, tuned)))
    if any(figure["base"]["low"] is not None for figure in figures.values()):
        out.print(LEGEND, style="dim")
    worse = [figure["title"] for figure in figures.values() if figure.get("verdict") == "worse"]
    if worse:
        out.print(f"\nThe tuned model is worse than its base in: {', '.join(worse)}.", style="bold red")
    for line in samples(result):
        out.print(line)
    out.print()


def heading(result: dict[str, Any]) -> str:
    subject, at = result["subject"], result["checkpoint"]
    where = f" at {at}" if at and at not in subject["name"] else ""
    against = f" against {subject['base']}" if subject["kind"] != "base" else ""
    return f"{subject['name']}{where}{against}"


def table(figures: dict[str, Any], tuned: bool) -> Iterator[tuple[Any, ...]]:
    for name, figure in figures.items():
        cells = [figure["title"], value(name, figure["base"])]
        if not tuned:
            yield tuple(cells)
            continue
        word, style = VERDICTS[figure["verdict"]]
        yield (*cells, value(name, figure["tuned"]), value(name, figure["difference"], change=True), Text(word, style))


def value(name: str, figure: dict[str, float | None], *, change: bool = False) -> str:
    """`2.1046 ±0.0310`, `62.5 % ±11.2`. A change has its sign, and its interval from end to end, because that need not
    lie evenly about the value; so has a perplexity: `+0.029 (+0.004 … +0.072)`."""
    found, low, high = figure["value"], figure["low"], figure["high"]
    if found is None:
        return "–"
    scale, digits, unit = (100, 1, " %") if name in PERCENT else (1, DIGITS.get(name, 3), "")
    text = shown(found * scale, digits, sign=change) + unit
    if low is None or high is None:
        return text
    if change or name == "perplexity":
        return f"{text} ({' … '.join(shown(end * scale, digits, sign=change) for end in (low, high))})"
    return f"{text} ±{(high - low) / 2 * scale:.{digits}f}"


def shown(number: float, digits: int, *, sign: bool) -> str:
    """A number with a real minus; a few digits more where it would seem to be 0 and is not."""
    more = next((more for more in range(4) if number == 0 or round(number, digits + more)), 0)
    return minus(f"{number:{'+' if sign else ''}.{digits + more}f}")


def samples(result: dict[str, Any]) -> Iterator[Text]:
    """A few rows: what was asked, what base and tuned answered, what the row answers."""
    asked = [row for row in result["rows"] if "answer" in row["base"]]
    for row in asked[:SAMPLES]:
        yield Text(f"\n{brief(row['question'])}", "bold")
        sides = [("base", row["base"].get("answer", "")), ("tuned", row.get("tuned", {}).get("answer"))]
        for name, text in (*sides, ("reference", row["reference"])):
            if text is not None:
                yield Text(f"  {name:<10} {brief(text)}", "dim" if name == "reference" else "")


def brief(text: str) -> str:
    """One line of a text, cut where it is long."""
    line = visible(" ".join(text.split()))
    return line if len(line) <= WIDE else f"{line[: WIDE - 1]}…"

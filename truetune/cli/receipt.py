"""`ft receipt`: what a run learned from and what came out of it, and the check that it is so."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import click
from rich.text import Text

from truetune.api.runs import receipt_show, receipt_verify
from truetune.cli import common, visible
from truetune.cli.common import Output
from truetune.data.objectives import counted
from truetune.errors import CheckFailed, InputError
from truetune.report import words
from truetune.runs.receipt import EVALUATE, EXPORT, MADE, PROVE

MARKS = {"ok": ("✓", "green"), "changed": ("✗", "bold red"), "absent": ("–", "yellow"), "not checked": ("·", "dim")}
FATES = {
    "rejected": "rejected",
    "deduplicated": "duplicates",
    "contaminated": "also in validation",
    "too_long": "too long",
    "unsupervised": "without a trained token",
    "sampled_out": "left out by their weight",
}
"""Why a row is set aside, as people say it."""
Writer = Callable[[dict[str, Any]], Iterator[tuple[str, str]]]
"""A receipt's body as lines: a label, and text."""


@click.group(cls=common.Standard, standard="show")
def command() -> None:
    """Show what a run learned from, or verify it. Without a verb: show."""


@command.command()
@common.run_argument
@common.options
def show(out: Output, run: str) -> None:
    """The receipt on one page: rows, tokens, training, evaluation, files."""
    found = receipt_show(run)
    out.document(found)
    lines = page(found["stages"])
    out.print(f"Receipt of {found['id']}", style="bold")
    out.table(["", ""], lines)
    out.note(f"`ft receipt verify {found['id']}` recomputes all of it.")


@command.command()
@common.run_argument
@click.option("--data", type=click.Path(exists=True), help="Where the input files are now: a folder, or the file.")
@click.option("--base", type=click.Path(exists=True, file_okay=False), help="Where the base model's folder is now.")
@common.options
def verify(out: Output, run: str, data: str | None, base: str | None) -> None:
    """Recompute the receipt: hashes, sums and chain. Exit code 1 where something has changed.

    Of the run's own files a missing one fails as well. Inputs that were moved are shown as absent and fail nothing.
    """
    with out.progress.status("reading") as status:
        found = receipt_verify(run, data=data, base=base, watch=lambda name: status.update(Text(visible(name))))
    out.document(found)
    out.table(["", "stage", "what", ""], [row(item) for item in found["items"]])
    bad = [item for item in found["items"] if item["state"] == "changed" or (item["state"] == "absent" and item["own"])]
    if bad:
        raise failure(found["id"], bad)
    checked = sum(item["state"] == "ok" for item in found["items"])
    left = len(found["items"]) - checked
    rest = f" {left} could not be checked." if left else ""
    out.print(f"{checked} checked, all as the receipt says.{rest}", style="yellow" if left else "green")


def row(item: dict[str, Any]) -> tuple[Text, str, str, str]:
    return Text(*MARKS[item["state"]]), item["stage"], item["name"], item["detail"]


def failure(run: str, bad: list[dict[str, Any]]) -> CheckFailed:
    names = ", ".join(item["name"] for item in bad)
    return CheckFailed(
        f"the run is not what its receipt says: {names}",
        code="receipt.changed",
        where=run,
        hint="put back what was changed; until then nothing proves that this result came from this data",
    )


def page(stages: dict[str, dict[str, Any]]) -> list[tuple[Text, str]]:
    """The receipt as lines: a label where a subject begins, and text."""
    kind = stages.get("data", {}).get("objective", "sft")
    writers: dict[str, Writer] = {
        "data": data_lines,
        "train": partial(train_lines, kind=kind),
        "eval": partial(eval_lines, kind=kind),
        PROVE: prove_lines,
        MADE: made_lines,
        EVALUATE: evaluate_lines,
        EXPORT: export_lines,
    }
    lines: list[tuple[Text, str]] = []
    for stage, body in stages.items():
        before = None
        try:
            writer = writers.get("".join(stage.partition("-")[:2]), file_lines)
            for label, text in writer(body):
                lines.append((Text("" if label == before else label, style="cyan"), text))
                before = label
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise damaged(stage) from error
    return lines


def damaged(stage: str) -> InputError:
    return InputError(
        "the receipt does not say what a receipt of this stage says",
        code="receipt.damaged",
        where=f"receipts/{stage}.json",
        hint="`ft receipt verify` shows whether it was changed; with --json the file is shown as it is",
    )


def data_lines(body: dict[str, Any]) -> Iterator[tuple[str, str]]:
    rows, tokens, supervised = body["rows"], body["tokens"], body["supervised"]
    for entry in body["inputs"]:
        yield "data", f"{entry['path']}  {words.counted(entry['rows'], 'row')}  sha256 {entry['sha256'][:12]}…"
    aside = [f"{rows[fate]:,} {name}" for fate, name in FATES.items() if rows.get(fate)]
    yield "rows", f"{rows['read']:,} read → {rows['used']:,} used; set aside: {', '.join(aside) or 'none'}"
    yield "rows", f"{rows['train']:,} to train on, {rows['validation']:,} held out"
    share = supervised["train"] / max(tokens["train"], 1)
    if body.get("classes"):
        yield "classes", words.listed([visible(name) for name in body["classes"]], 12)
        yield "tokens", f"{tokens['train']:,} to train on, {supervised['train']:,} labels learned"
    else:
        yield "tokens", f"{tokens['train']:,} to train on, {supervised['train']:,} of them supervised ({share:.0%})"
    if rows["truncated"]:
        yield "tokens", f"{tokens['lost']:,} lost: {rows['truncated']:,} rows were cut"
    if body["end_of_turn_supervised"] is not None:
        yield "tokens", f"the end of the answer is learned in {body['end_of_turn_supervised']:.0%} of examples"


def train_lines(body: dict[str, Any], kind: str) -> Iterator[tuple[str, str]]:
    """`kind` is that of the rows, which says what is counted."""
    base, engine, loss, norm = body["base"], body["engine"], body["loss"], body["grad_norm"]
    yield (
        "base",
        f"{base['name']}{' at ' + base['revision'][:12] if base['revision'] else ''}  {len(base['files'])} files",
    )
    by = f" with {engine['engine']}" if engine.get("engine", "torch") != "torch" else ""
    if "objective" in body:
        yield "training", f"{visible(body['objective'])} by {visible(body['method'])}"
    yield "training", f"{body['steps']:,} steps on {engine['device']}{by} in {engine['dtype']}"
    yield "training", f"loss {arrow(loss['first'], loss['last'])}"
    yield "training", f"{engine['trained_parameters']:,} of {engine['parameters']:,} parameters trained"
    if engine.get("ema"):
        yield "training", f"the result is their running mean (decay {engine['ema']:g})"
    for what, title in zip(("supervised", "examples"), counted(kind), strict=True):
        promised, seen = body[what]["promised"], body[what]["counted"]
        yield "counted", f"{tick(promised == seen)} {seen:,} {title} reached the loss, {promised:,} were promised"
    tensors = body["changed_tensors"]
    yield (
        "learned",
        f"{tick(tensors['changed'] == tensors['of'])} {tensors['changed']} of {tensors['of']} tensors changed",
    )
    yield (
        "learned",
        f"{tick(bool(norm['min'] or norm.get('flat')))} gradient norm {number(norm['min'])} to {number(norm['max'])}",
    )
    if body["resumes"]:
        yield "resumed", "after step " + ", ".join(map(str, body["resumes"]))
    for skipped in body.get("skipped", ()):
        yield "skipped", f"step {skipped['step']:,}, which was no number, with its {len(skipped['rows'])} rows"
    for change in body.get("changes", ()):
        fields = ", ".join(f"{key} {before} → {after}" for key, (before, after) in change["fields"].items())
        yield "changed", visible(f"from step {change['step']} on: {fields}")
    for event in body["oom"]:
        yield "memory", "ran short: " + ", ".join(f"{key} {value:,}" for key, value in event.items())
    yield from file_lines(body)


def prove_lines(body: dict[str, Any]) -> Iterator[tuple[str, str]]:
    killed, compared = body["killed"], ", ".join(body["compared"])
    yield (
        "resume",
        f"killed after step {killed['after_step']} of {body['steps']}, resumed from {killed['resumed_from']}",
    )
    same = body["verdict"] == "identical"
    yield "", f"{tick(same)} {'identical' if same else 'differs in ' + body['first_difference']}: {compared}"


def eval_lines(body: dict[str, Any], kind: str) -> Iterator[tuple[str, str]]:
    before, after = body["base"], body["tuned"]
    seen = f"{body['supervised']:,} {counted(kind)[0]}"
    yield "held out", f"{words.counted(body['rows'], 'row')}, {seen}, {body['checkpoint']}"
    names = ("loss", "perplexity") if after["perplexity"] is not None else ("loss",)
    yield "held out", ", ".join(f"{name} {arrow(before[name], after[name])}" for name in names)


def evaluate_lines(body: dict[str, Any]) -> Iterator[tuple[str, str]]:
    rows = "held out" if body["held_out"] else ", ".join(entry["path"] for entry in body["inputs"])
    trained = f", {body['contaminated']:,} of them trained on" if body["contaminated"] else ""
    figures = [f"{figure['title']} {arrow(figure['base'], figure['tuned'])}" for figure in body["figures"]]
    yield (
        "measured",
        f"{body['checkpoint']} on {words.counted(body['rows'], 'row')}, {rows}{trained}: {', '.join(figures)}",
    )
    yield from file_lines(body)


def export_lines(body: dict[str, Any]) -> Iterator[tuple[str, str]]:
    first, second = body["compared"]
    states = [one["name"] for one in body["stages"] if one["state"] == "ok"]
    failed = f"; forced: {body['forced']} failed" if body["forced"] else ""
    stored = f" stored as {body['stored']}" if body["stored"] else ""
    yield "exported", f"{visible(body['export']['folder'])}  {visible(body['format'])}{stored}"
    checked = f"{second} does what {first} did: {', '.join(states) or 'nothing was checked'}{failed}"
    yield "", f"{tick(not body['forced'])} {visible(checked)}"


def made_lines(body: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for parent in body["parents"]:
        yield f"{body['how']}", f"from {parent['address']}  content {parent['content'][:12]}…"
    told = (f"{key} {value}" for key, value in body["settings"].items())
    yield "settings", ", ".join(told)
    figures = (f"{key.replace('_', ' ')} {value:{',.4g' if isinstance(value, float) else ','}}"
               for key, value in body["figures"].items())  # fmt: skip
    yield "figures", ", ".join(figures)
    yield from file_lines(body)


def file_lines(body: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for name, digest in body.get("files", {}).items():
        yield "files", f"{name}  sha256 {digest[:12]}…"


def arrow(before: float | None, after: float | None) -> str:
    """`3.210 → 2.105 (−34%)`"""
    change = f" ({words.minus(f'{after / before - 1:+.0%}')})" if before and after is not None else ""
    return f"{number(before)} → {number(after)}{change}"


def number(value: float | None) -> str:
    return "unknown" if value is None else words.minus(f"{value:.4g}")


def tick(good: bool) -> str:
    return "✓" if good else "✗"

"""`ft train`: start, look at, or go on with a fine-tune."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import click

from truetune.api import load
from truetune.cli import common
from truetune.cli.chart import curve
from truetune.cli.common import Output
from truetune.cli.progress import Watch, aside, learner, remark
from truetune.data.objectives import divisor
from truetune.report import rewards
from truetune.report.words import change, clock, counted, size

NAMED = 10
"""Rows that a dry run names."""


@click.command()
@click.argument("config", required=False, metavar="[TRAIN.YML]", type=click.Path())
@click.option("--model", metavar="MODEL", help="starter, a hub id or a folder.")
@click.option("--data", multiple=True, metavar="FILE", help="Rows to learn from; may be repeated.")
@click.option("--method", metavar="METHOD", help="lora, qlora, dora, full, … as method.type.")
@common.device
@common.overrides
@common.dry_run
@click.option("--resume", is_flag=True, help="Go on with the newest resumable run of this train.yml.")
@click.option("--from", "from_", metavar="RUN[:step-N]", help="Go on with this run, or from this checkpoint.")
@click.option("--prove-resume", is_flag=True, help="First prove that a run killed here resumes to the same bits.")
@common.options
def command(
    out: Output,
    config: str | None,
    model: str | None,
    data: tuple[str, ...],
    method: str | None,
    device: str | None,
    overrides: tuple[str, ...],
    dry_run: bool,
    resume: bool,
    from_: str | None,
    prove_resume: bool,
) -> None:
    """Fine-tune a model as TRAIN.YML says (default: ./train.yml), or by --model and --data alone."""
    if device:
        overrides = (*overrides, f"resources.device={device}")
    wanted: dict[str, Any] = {
        "model": model,
        "data": data[0] if len(data) == 1 else list(data) or None,
        "method": method,
    }
    if dry_run and prove_resume:
        raise click.UsageError("--dry-run trains nothing, and a proof does")
    if dry_run and (resume or from_):
        raise click.UsageError("--dry-run is for a new run; a run that goes on has its settings in resolved.json")
    if dry_run:
        show(out, load("preview")(config, overrides=overrides, **wanted))
        return
    with Watch(out) as watch:
        wanted |= {"resume": resume, "from_": from_, "prove_resume": prove_resume, "listener": watch}
        run = load("train")(config, overrides=overrides, **wanted)
    finish(out, run)


def finish(out: Output, run: Any) -> None:
    """The last words of a run: figures, where things are, what to do next."""
    figures, supervised = run.figures, run.receipt()["train"]["supervised"]
    verdict = "ok" if supervised["promised"] == supervised["counted"] else "changed"
    out.document({"run": run.id, "folder": run.folder, "state": "finished", "figures": figures, "result": run.result})
    out.document({"report": run.report, "adapter": run.address})
    out.document({"receipt": {"verdict": verdict, "supervised": supervised}})
    for text in pictured(run):
        out.print(text)
    early = ", stopped early" if figures["stopped_early"] else ""
    out.print(f"✓ {counted(figures['steps'], 'step')} in {clock(figures['seconds'])}{early}", style="bold green")
    if figures["eval_loss"] is not None:
        before, after = figures["base_loss"], figures["eval_loss"]
        out.print(
            f"  held-out loss  {before:.4f} → {after:.4f} ({change(before, after)}), step {figures['result_step']}"
        )
    for name, before, after in apart(run):
        out.print(f"  {name:<14} {before} → {after}")
    receipts = run.receipt()
    out.print(f"  {arrived(receipts)}")
    if memory := receipts["train"].get("memory"):
        out.print(f"  memory         {size(memory['peak'])} at the peak")
    out.print(f"  {run.result.name:<14} {run.result}")
    if run.address:
        out.print(f"  registered     {run.address}")
    if run.report:
        out.print(f"  report         {run.report}")
    measure = "ft evaluate last, " if figures["eval_loss"] is not None else ""
    writes = (run.result / "generation_config.json").is_file()  # a model that gives scores brings none
    out.print(f"  next           {'ft chat last, ' if writes else ''}{measure}ft receipt last")


def arrived(receipts: dict[str, Any]) -> str:
    """What the loss is a mean over: what the data promised of it, and what the loss has seen."""
    key, what = divisor(receipts["data"]["objective"])
    seen = receipts["train"][key]
    name, _, unit = what.partition(" ")
    promised = f"{seen['promised']:,} {unit}".rstrip()
    return f"{name:<14} {promised} promised, {seen['counted']:,} reached the loss"


def apart(run: Any) -> Iterator[tuple[str, str, str]]:
    """How far answers are held apart, of held-out rows at the start and in the result."""
    rows = {row["step"]: row for row in run.metrics("eval")}
    ends = [rows.get(0), rows.get(run.figures["result_step"])]
    texts = [dict(text.rsplit(" ", 1) for text in rewards.said(row or {})) for row in ends]
    yield from ((name, texts[0][name], after) for name, after in texts[1].items() if name in texts[0])


def pictured(run: Any) -> list[str]:
    """The loss curve with its title; nothing after a single step."""
    line, held_out = ([(row["step"], row["loss"]) for row in run.metrics(kind)] for kind in ("train", "eval"))
    drawn = curve(*([point for point in points if point[1] is not None] for points in (line, held_out)))
    return [f"  loss of each step{', ● held out' if held_out else ''}", *drawn, ""] if drawn else []


def show(out: Output, preview: dict[str, Any]) -> None:
    """The page of `--dry-run`."""
    out.document(preview)
    plan, measured = preview["plan"], preview["measured"]
    why = preview["sources"] | preview["reasons"]
    rows = [
        (f"{section}.{key}", "" if value is None else value, why.get(f"{section}.{key}", "default"))
        for section, part in preview["config"].items()
        if isinstance(part, dict)
        for key, value in part.items()
    ]
    out.table(("key", "value", "why"), rows)
    data = preview["data"]["rows"]
    out.print(
        f"\nrows    {data['read']:,} read, {data['train']:,} to train on, {data['validation']:,} held out{aside(data)}"
    )
    for reject in preview["data"]["rejects"][:NAMED]:
        out.print(f"        {reject['where']}: {reject['reason']}", style="yellow")
    if (more := data["read"] - data["used"] - NAMED) > 0:
        out.print(f"        and {more:,} more, each with its reason in the run's rejects.jsonl", style="yellow")
    remarks = [*map(remark, preview["data"]["findings"]), *(f"note    {text}" for text in preview["warnings"])]
    for text in remarks:
        out.print(text, style="yellow")
    key, what = divisor(preview["data"]["objective"])
    out.print(learner(measured["engine"]))
    out.print(f"steps   {plan['steps']} of {plan['step']} examples: {plan['promised'][key]:,} {what}")
    out.print(
        f"memory  {size(measured['peak_memory'])} at the peak of one measured step; {preview['memory']['reason']}"
    )
    if fitting := [told for told in preview["suggestions"] if told["fits"]]:
        out.print("        layers are computed twice to save memory; what would fit without that:")
    for told in fitting:
        out.print(f"        {told['line'] or 'a smaller model'}: {told['cost']}, {size(told['needs'])}")
    out.print(f"time    about {clock(measured['seconds'])}, at {measured['tokens_per_second']:,.0f} tokens/s")
    out.print("nothing was trained or written", style="dim")

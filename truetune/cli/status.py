"""`ft status`: one screen with the machine and its runs, once or again and again."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import click
from rich.console import Group
from rich.live import Live
from rich.text import Text

from truetune.api.status import status
from truetune.cli import common, visible
from truetune.cli.common import Output
from truetune.report.words import clock, counted, size, thousands

MARKS = {
    "running": ("●", "cyan"),
    "created": ("○", ""),
    "finished": ("✓", "green"),
    "stopped": ("■", "yellow"),
    "interrupted": ("■", "yellow"),
    "failed": ("✗", "red"),
}
BAR = 24
QUIET = 60
"""Seconds without a sign of life after which a running run is asked about."""
LIVE = ("memory", "device_memory", "eta", "silent", "touched", "tokens_per_second")
"""What changes by itself and is no news."""


@click.command()
@click.option("--watch", is_flag=True, help="Repaint until Ctrl-C; in a pipe, print a run again when it has changed.")
@click.option("--interval", type=click.FloatRange(0.1), metavar="SECONDS", help="Between two looks of --watch [1].")
@common.options
def command(out: Output, watch: bool, interval: float | None) -> None:
    """What this machine has left, and what its runs are doing."""
    if watch and out.json:
        raise click.UsageError("--json is one document and --watch has no end: leave out one of them")
    if interval and not watch:
        raise click.UsageError("--interval is for --watch")
    if watch:
        follow(out, interval or 1.0)
        return
    found = status()
    out.document(found)
    out.print(screen(found))


def follow(out: Output, interval: float) -> None:
    """Until Ctrl-C, which is the way to end it and no error."""
    try:
        repaint(out, interval) if out.console.is_terminal else repeat(out, interval)
    except KeyboardInterrupt:
        return


def repaint(out: Output, interval: float) -> None:
    with Live(console=out.console, auto_refresh=False) as live:
        for found in looks(interval):
            live.update(screen(found), refresh=True)


def repeat(out: Output, interval: float) -> None:
    """The page, then each run again when there is news of it."""
    told: dict[str, Any] = {}
    for number, found in enumerate(looks(interval)):
        news = {run["id"]: {key: value for key, value in run.items() if key not in LIVE} for run in found["runs"]}
        changed = [
            line
            for run in found["runs"]
            if told.get(run["id"]) != news[run["id"]]
            for line in block(run, found["time"])
        ]
        if number == 0 or changed:
            out.print(Group(*changed) if number else screen(found))
        told |= news


def looks(interval: float) -> Iterator[dict[str, Any]]:
    """The status, again and again."""
    while True:
        try:
            found = status()
        except FileNotFoundError:  # a run was removed while it was looked at
            continue
        yield found
        time.sleep(interval)


def screen(found: dict[str, Any]) -> Group:
    """The whole page."""
    lines = [*about(found["machine"], found["runs"]), *map(pulling, found["pulls"]), Text()]
    if not found["runs"]:
        lines.append(Text("No run yet. `ft demo` shows one in a minute; `ft train` starts one of your own."))
    for run in found["runs"]:
        lines += block(run, found["time"])
    if found["more"]:
        lines.append(Text(f"and {counted(found['more'], 'run')} more: ft runs list", style="dim"))
    return Group(*lines)


def about(machine: dict[str, Any], runs: list[dict[str, Any]]) -> Iterator[Text]:
    memory, disk = machine["memory"], machine["disk"]
    yield row("cpu", f"{machine['processor']}, {counted(machine['cores'], 'core')}, load {machine['load']:.1f}")
    yield row("gpu", graphics(machine["gpus"], sum(run["device_memory"] or 0 for run in runs)))
    yield row("memory", f"{size(memory['used'])} used, {size(memory['free'])} free of {size(memory['total'])}")
    yield row("disk", f"{size(disk['free'])} free of {size(disk['total'])} for {disk['folder']}")


def pulling(pull: dict[str, Any]) -> Text:
    """A model that is on its way, and how much of it is here."""
    return row("pulling", f"{pull['name']}, {size(pull['bytes'] or 0)} of {size(pull['total'] or 0)}")


def graphics(gpus: list[dict[str, Any]] | None, held: int) -> str:
    """The GPUs' names, and what the runs here report to hold of them: how much is free, only the driver knows."""
    if gpus is None:
        return "unknown: `ft doctor` asks the engine"
    names = ", ".join(gpu["name"] for gpu in gpus) or "none found"
    return f"{names}; runs here hold {size(held)}" if held else names


def row(label: str, text: str) -> Text:
    return Text.assemble((f"{label:<8}", "dim"), visible(text))


def block(run: dict[str, Any], now: float) -> Iterator[Text]:
    """A run: its name and state, how far it is, and what to do about it."""
    mark, style = MARKS.get(run["state"], ("?", ""))
    when = "" if run["state"] == "running" else f", {ago(now - run['touched'])}"
    yield Text.assemble((f"{mark} ", style), (visible(run["id"]), "bold"), f"  {run['state']}{when}")
    if run["steps"]:
        yield progress(run)
    if run["state"] == "running" and (pace := speed(run)):
        yield Text(f"  {pace}")
    if error := run["error"]:
        yield Text(f"  {visible(error['message'])}", style="red")
        yield Text(f"  {visible(error.get('hint', ''))}")
    if run["next"]:
        yield Text.assemble(("  next    ", "dim"), visible(run["next"]))


def progress(run: dict[str, Any]) -> Text:
    """`━━━━━━━━━━──────  120/252   loss 1.234   held-out 1.345`"""
    full = round(BAR * min(1.0, run["step"] / run["steps"]))
    style = MARKS.get(run["state"], ("", ""))[1]
    names = {"loss": run["loss"], "held-out": run["eval_loss"]}
    told = [f"{name} {value:.4f}" for name, value in names.items() if value is not None]
    steps = f"{run['step']:,}/{run['steps']:,}"
    return Text.assemble("  ", ("━" * full, style), ("─" * (BAR - full), "dim"), "  ", "   ".join([steps, *told]))


def speed(run: dict[str, Any]) -> str:
    """`5.1k tokens/s   0.9 GB   about 0:42 to go`, as far as it is known."""
    rate, memory, device = run["tokens_per_second"], run["memory"], run["device_memory"]
    told = [
        f"{thousands(rate)} tokens/s" if rate is not None else "",
        size(memory) if memory is not None else "",
        f"{size(device)} on the GPU" if device is not None else "",
        f"about {clock(run['eta'])} to go" if run["eta"] is not None else "",
        f"no sign of life for {clock(run['silent'])}" if run["silent"] > QUIET else "",
    ]
    return "   ".join(filter(None, told))


def ago(seconds: float) -> str:
    days = int(seconds // 86400)
    return f"{counted(days, 'day')} ago" if days else f"{clock(max(0.0, seconds))} ago"

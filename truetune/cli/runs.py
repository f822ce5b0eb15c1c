"""`ft runs`: the runs there are, one of them in full, two beside each other, and how to stop or remove one."""

from __future__ import annotations

import sys
from datetime import datetime
from typing import Any

import click

from truetune.api import load
from truetune.api.prove import differing
from truetune.api.runs import run_remove, run_show, run_stop, runs_compare, runs_list
from truetune.cli import common, visible
from truetune.cli.common import Output
from truetune.errors import UsageError


@click.group()
def command() -> None:
    """List, show, compare, stop, prove and remove runs. A run is its id, a unique prefix, a path, or `last`."""


@command.command("list")
@common.options
def list_(out: Output) -> None:
    """All runs made here, newest first."""
    runs = runs_list()
    out.document({"runs": runs})
    if not runs:
        out.print("No run yet. `ft demo` shows one in a minute; `ft train` starts one of your own.")
        return
    rows = [(run["id"], run["state"], progress(run), figure(run, "loss"), figure(run, "eval_loss")) for run in runs]
    out.table(["run", "state", "step", "loss", "held-out loss"], rows)


@command.command()
@common.run_argument
@common.options
def show(out: Output, run: str) -> None:
    """One run: state, figures, checkpoints, and what ended it."""
    found = run_show(run)
    out.document(found)
    out.print(found["id"], style="bold")
    out.table(["", ""], list(details(found)))


@command.command()
@common.run_argument
@common.options
def stop(out: Output, run: str) -> None:
    """Ask a run to finish its step, save and stop; `ft train --from RUN` goes on with it."""
    stopped = run_stop(run)
    out.document(stopped)
    out.print(f"{stopped['id']} stops after its current step. To go on: ft train --from {stopped['id']}")


@command.command()
@common.run_argument
@click.option("--steps", type=click.IntRange(min=2), metavar="N", help="Steps of each of the two runs (default: 8).")
@common.options
def prove(out: Output, run: str, steps: int | None) -> None:
    """Prove the resume: N steps straight, N steps killed and resumed, compared bit by bit. Exit code 1: they differ.

    It trains two short runs of the same settings, which are gone afterwards; the verdict goes into the receipt.
    """
    proven = load("run_prove")(run, steps=steps, watch=out.note)
    out.document(proven)
    if proven["verdict"] != "identical":
        raise differing(proven["id"], proven)
    killed = proven["killed"]
    out.print("identical", style="bold green")
    out.print(f"  killed after step {killed['after_step']} of {proven['steps']}, resumed from {killed['resumed_from']}")
    out.print(f"  compared: {', '.join(proven['compared'])}")


@command.command()
@click.argument("run", metavar="RUN", shell_complete=common.complete_run)
@click.argument("other", default="last", metavar="[OTHER]", shell_complete=common.complete_run)
@common.options
def compare(out: Output, run: str, other: str) -> None:
    """Two runs beside each other: settings that differ, and the figures of both. OTHER is by default the last one."""
    found = runs_compare(run, other)
    out.document(found)
    names = [each["id"] for each in found["runs"]]
    rows = [(key, said(pair[0]), said(pair[1])) for key, pair in sorted(found["settings"].items())]
    if rows:
        out.table(["settings that differ", *names], rows)
    else:
        out.print("Model, data and all settings are the same.")
    out.print("")
    out.table(["figures", *names], [(key, said(one), said(two)) for key, (one, two) in found["figures"].items()])


@command.command()
@click.argument("run", metavar="RUN", shell_complete=common.complete_run)
@click.option("--yes", is_flag=True, help="Do not ask.")
@common.options
def remove(out: Output, run: str, yes: bool) -> None:
    """Delete a run's folder for good, checkpoints, exports and all; its adapter leaves the registry.

    Refused while a process works on it, while its adapter is in a stage, and where another one came from it.
    """
    found = run_show(run)
    if not yes:
        confirm(out, found["folder"])
    gone = run_remove(found["folder"])
    out.document(gone)
    left = f", and {', '.join(gone['adapters'])} from the registry" if gone["adapters"] else ""
    out.print(f"{gone['id']} is deleted ({gone['bytes']:,} bytes){left}")


def confirm(out: Output, folder: str) -> None:
    """Ask a person. Raises UsageError where there is none to ask, or the answer is no."""
    if out.json or not sys.stdin.isatty():
        why, hint = "it would delete the run, and there is nobody to ask", "Add --yes."
    elif click.confirm(f"Delete {visible(folder)} for good?", default=False, err=True):
        return
    else:
        why, hint = "nothing was deleted", "Answer y, or add --yes."
    raise UsageError(why, code="usage.not_confirmed", where=folder, hint=hint)


def said(value: Any) -> str:
    """A setting or a figure in a cell."""
    if value is None:
        return "—"
    if isinstance(value, list):
        return ", ".join(map(said, value))
    return f"{value:,.4g}" if isinstance(value, float) else f"{value:,}" if type(value) is int else str(value)


def details(found: dict[str, Any]) -> list[tuple[str, str]]:
    """What `show` shows, label and text; nothing that is not known."""
    status, best = found["status"], found["best"]
    error = status["error"] or {}
    rows = [
        ("state", status["state"]),
        ("folder", found["folder"]),
        ("created", moment(status["created"])),
        ("ended", moment(status["finished"])),
        ("step", progress(status)),
        *((name.replace("_", " "), f"{value:,.4g}") for name, value in status["figures"].items() if value is not None),
        ("checkpoints", ", ".join(found["checkpoints"])),
        ("best", f"step-{best['step']}, held-out loss {best['eval_loss']:.4f}" if best else ""),
        ("error", error.get("message", "")),
        ("hint", error.get("hint", "")),
        ("go on", f"ft train --from {found['id']}" if status["state"] in ("stopped", "interrupted", "failed") else ""),
    ]
    return [(label, text) for label, text in rows if text]


def progress(status: dict[str, Any]) -> str:
    return f"{status['step']}/{status['steps']}" if status["steps"] else str(status["step"])


def figure(status: dict[str, Any], name: str) -> str:
    value = status["figures"].get(name)
    return "" if value is None else f"{value:.3f}"


def moment(seconds: float | None) -> str:
    """A time for people, in their own zone."""
    return datetime.fromtimestamp(seconds).strftime("%Y-%m-%d %H:%M:%S") if seconds else ""

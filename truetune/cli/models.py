"""`ft models`: search the hub, pull a model, what lies here, what a model is, and what of it fits into which memory."""

from __future__ import annotations

import time
from typing import Any

import click
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from truetune.api import load
from truetune.cli import common
from truetune.cli.common import Output
from truetune.cli.work import QUIET_SECONDS
from truetune.models.memory import readable
from truetune.models.smaller import counted


@click.group()
def command() -> None:
    """Models: find them on the hub, pull, list and remove them, and see what fits into which memory.

    MODEL is `starter`, a folder, or a hub id: OWNER/NAME, or OWNER/NAME@REVISION.
    """


revision_option = click.option("--revision", metavar="NAME", help="Commit, tag or branch of a hub model.")


@command.command()
@click.argument("text", default="")
@click.option("--task", default="text-generation", show_default=True, help="As the hub calls it; `any` for all.")
@click.option("--size", metavar="RANGE", help="Parameters: <3B, >500M or 1B-7B.")
@click.option("--licence", "--license", metavar="NAME", help="As the hub calls it: apache-2.0, mit, …")
@click.option("--fits", is_flag=True, help="Only models that can be trained in the memory that is free here.")
@click.option("--memory", metavar="SIZE", help="As --fits, for this much, as 8GB.")
@click.option("--limit", type=click.IntRange(1, 100), default=20, show_default=True, help="Most models.")
@common.options
def search(out: Output, text: str, task: str, **asked: Any) -> None:
    """Search the hub for models that can be trained, most downloads first. TEXT is a part of the name."""
    with out.progress.status("asking the hub …"):
        found = load("models_search")(text, task=None if task == "any" else task, **asked)
    out.document(found)
    if not found["models"]:
        out.print("Nothing on the hub fits that.")
        return
    fitting = found["memory"] is not None
    columns = ["model", "parameters", "licence", "downloads", "changed", *(["fits"] if fitting else [])]
    out.table(columns, [line(each, fitting) for each in found["models"]])
    if fitting:
        out.print(f"Fits: methods of training for {readable(found['memory'])}. `ft models fit MODEL` shows more.")


def line(found: dict[str, Any], fitting: bool) -> tuple[str, ...]:
    size = counted(found["parameters"]) if found["parameters"] else "?"
    name = found["name"] + (" (gated)" if found["gated"] else "")
    row = (name, size, found["licence"] or "?", f"{found['downloads']:,}", found["changed"] or "?")
    return (*row, ", ".join(found["fits"])) if fitting else row


@command.command()
@click.argument("model")
@revision_option
@click.option("--background", is_flag=True, help="In a process of its own; `ft models list` tells how far it is.")
@common.options
def pull(out: Output, model: str, revision: str | None, background: bool) -> None:
    """Download a model of the hub: one commit, only the files that are loaded, each checked against its hash.

    A pull that broke off goes on where it stopped: run it again.
    """
    if background:
        found = load("models_pull")(model, revision=revision, background=True)
        out.document(found)
        out.print(f"{found['name']} is being pulled by process {found['pid']}; `ft models list` tells how far it is.")
        return
    meter = Meter(out)
    try:
        found = load("models_pull")(model, revision=revision, progress=meter)
    finally:
        meter.stop()
    out.document(found)
    out.print(f"{found['name']} at {found['commit'][:12]}: {readable(found['bytes'])}, every file checked")
    out.print(f"  {found['folder']}")


class Meter:
    """Bytes that have come: a bar in a terminal, a line now and then elsewhere."""

    def __init__(self, out: Output) -> None:
        self.out, self.bar = out, None
        self.told = time.monotonic()
        if out.progress.is_terminal and not out.quiet:
            columns = (BarColumn(24), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
            self.bar = Progress(TextColumn("pulling"), *columns, console=out.progress, transient=True)
            self.bar.start()
            self.task = self.bar.add_task("pulling", total=None)

    def __call__(self, here: int, total: int) -> None:
        if self.bar:
            self.bar.update(self.task, completed=here, total=total)
        elif time.monotonic() - self.told > QUIET_SECONDS:
            self.told = time.monotonic()
            self.out.note(f"{readable(here)} of {readable(total)}")

    def stop(self) -> None:
        if self.bar:
            self.bar.stop()


@command.command("list")
@common.options
def list_(out: Output) -> None:
    """The models in the hub's cache on this machine, what uses them, and pulls that go on or broke off."""
    found = load("models_list")()
    out.document(found)
    if not found["models"]:
        out.print("No model of the hub is here. `starter` always is; `ft models pull OWNER/NAME` gets others.")
        return
    rows = [
        (each["name"], ", ".join(map(at, each["commits"])), readable(each["bytes"]), *used(each))
        for each in found["models"]
    ]
    out.table(["model", "commit", "size", "used by", ""], rows)
    out.print(f"In {found['cache']}; `ft models remove MODEL` makes room.")


def at(commit: dict[str, Any]) -> str:
    """`c0ffee000000 (main)`"""
    names = f" ({', '.join(commit['revisions'])})" if commit["revisions"] else ""
    return f"{commit['commit'][:12]}{names}"


def used(found: dict[str, Any]) -> tuple[str, str]:
    """What rests on a model, and how its last pull went, where that is not over."""
    users, pull = found["used_by"], found["pull"]
    more = f" and {len(users) - 1} more" if len(users) > 1 else ""
    whole = any(commit["whole"] for commit in found["commits"])
    return (users[0] + more if users else ""), going(pull) or ("" if whole else "its weights are not here")


def going(pull: dict[str, Any] | None) -> str:
    """`pulling, 43%`; empty where there is nothing to say."""
    if pull is None or pull["state"] == "finished":
        return ""
    part = f"{pull['bytes'] / pull['total']:.0%}" if pull.get("total") else "0%"
    if pull["state"] == "running":
        return f"pulling, {part}"
    return f"the pull broke off at {part}; to go on: ft models pull {pull['name']}"


@command.command()
@click.argument("model")
@revision_option
@click.option("--exports", is_flag=True, help="Also ask every format of `ft export`; that takes a while.")
@common.options
def info(out: Output, model: str, revision: str | None, exports: bool) -> None:
    """What a model is, what it needs for training and serving, and where what is trained on it can go.

    Of a hub model that is not here only config.json is downloaded.
    """
    found = load("models_info")(model, revision=revision, exports=exports)
    out.document(found)
    out.print(found["name"], style="bold")
    out.table(["", ""], [(label, value) for label, value in details(found).items() if value])


def details(found: dict[str, Any]) -> dict[str, str]:
    about = "" if found["exact"] else "about "
    stored = f"{found['dtype']}, packed into {found['bits']} bits" if found["bits"] else found["dtype"]
    template, serving = found["template"], found["serving"]
    fits = [f"{name(row)}{'' if row['fits'] else ' (no)'} {readable(row['total'])}" for row in found["training"]]
    exports = [f"{format}{f' (no: {why})' if why else ''}" for format, why in (found["exports"] or {}).items()]
    return {
        "where": found["folder"] if found["here"] else "on the hub; only config.json is here",
        "revision": found["revision"] or "",
        "architecture": f"{found['architecture']} ({found['model_type']})",
        "parameters": f"{about}{found['parameters']:,}, {found['layers']} layers of {found['hidden']:,}",
        "weights": f"{stored}, {readable(found['bytes'])} on the disk" if found["here"] else stored,
        "context": f"{found['context']:,} tokens" if found["context"] else "",
        "vocabulary": f"{found['vocabulary']:,} tokens",
        "template": f"{template['origin']} (sha256 {template['sha256'][:12]})" if template else "",
        "answers end at": ", ".join(found["ends"] or ()),
        "licence": found["licence"] or "",
        "training": ", ".join(fits) + f"; {readable(found['memory'])} here",
        "serving": f"{readable(serving['total'])} with one conversation of {serving['context']:,} tokens",
        "exports": ", ".join(exports),
    }


@command.command()
@click.argument("model")
@revision_option
@click.option("--yes", is_flag=True, help="Also what a run or an adapter rests on.")
@common.options
def remove(out: Output, model: str, revision: str | None, yes: bool) -> None:
    """Take a model out of the hub's cache, files that are not whole too; with --revision one commit of it."""
    found = load("models_remove")(model, revision=revision, force=yes)
    out.document(found)
    out.print(f"{found['name']} is removed: {readable(found['bytes'])} are free again")


@command.command()
@click.argument("model")
@click.option("--memory", metavar="SIZE", help="For this much, as 8GB. Default: the sizes that GPUs have.")
@click.option("--length", type=click.IntRange(8), default=2048, show_default=True, help="Longest example, in tokens.")
@click.option("--r", type=click.IntRange(1, 4096), default=16, show_default=True, help="Rank of the adapter.")
@click.option(
    "--dtype",
    type=click.Choice(["bfloat16", "float32"]),
    default="bfloat16",
    show_default=True,
    help="Number type: bfloat16 as GPUs compute, float32 as processors do.",
)
@revision_option
@common.options
def fit(out: Output, model: str, **asked: Any) -> None:
    """Which methods of training fit into which memory, from the model's config.json alone.

    MODEL is `starter`, a folder or a hub id; of a hub model only config.json is downloaded.
    """
    found = load("models_fit")(model, **asked)
    out.document(found)
    about = "" if found["exact"] else "about "
    out.print(f"{found['model']}: {about}{found['parameters']:,} parameters, {found['dtype']}, r = {found['r']}")
    if len(found["sizes"]) == 1:
        one(out, found)
    else:
        several(out, found)


def one(out: Output, found: dict[str, Any]) -> None:
    """What each method needs, and whether a memory holds it."""
    (size,) = found["sizes"]
    columns = ["method", "weights", "trained", "activations", "total", "longest example", "fits"]
    rows = [
        (
            name(row),
            *(readable(row[part]) for part in ("weights", "trained", "activations", "total")),
            tokens(row),
            verdict(row),
        )
        for row in size["methods"]
    ]
    out.table(columns, rows)
    out.print(
        f"For examples of {found['length']:,} tokens; training plans with {readable(size['room'])} of "
        f"{readable(size['memory'])}. Weights: the frozen model or all of it; trained: adapter, gradients, optimizer."
    )


def several(out: Output, found: dict[str, Any]) -> None:
    """The longest example that fits, method by memory."""
    sizes = found["sizes"]
    rows = [
        (name(rows[0]), readable(rows[0]["total"]), *map(tokens, rows))
        for rows in zip(*(size["methods"] for size in sizes), strict=True)
    ]
    out.table(["method", f"at {found['length']:,} tokens", *(readable(size["memory"]) for size in sizes)], rows)
    out.print("Below a memory: the longest example that fits, in tokens. `--memory 8GB` shows what needs how much.")


def name(row: dict[str, Any]) -> str:
    return f"{row['method']}, {row['bits']} bits" if row["bits"] else str(row["method"])


def tokens(row: dict[str, Any]) -> str:
    return f"{row['longest']:,}" if row["longest"] else "–"


def verdict(row: dict[str, Any]) -> str:
    if not row["fits"]:
        return "no"
    host = ", activations in the host's memory" if row["offload"] else ""
    return f"yes, with gradient checkpointing{host}" if row["checkpointing"] else "yes"

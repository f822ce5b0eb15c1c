"""`ft adapters`: finished runs by name and version, what they came from, and which one is in use."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import click

from truetune.api.adapters import (
    adapter_add,
    adapter_promote,
    adapter_remove,
    adapter_rename,
    adapter_show,
    adapters_compare,
    adapters_count,
    adapters_list,
)
from truetune.api.arithmetic import adapter_compress, adapters_merge
from truetune.cli import common, live
from truetune.cli.common import Output
from truetune.cli.runs import moment
from truetune.errors import UsageError

SHOWN = 50
"""Adapters that are listed unless all are wanted."""
MISSING = "—"
FAR = 0.25
"""Share of the weighted sum from which on a merge that lies so far from it is called coarse."""

adapter_argument = click.argument("adapter", metavar="ADAPTER")


@click.group()
def command() -> None:
    """Adapters by name and version. ADAPTER is a name (its newest version), NAME@3, NAME@production or NAME@staging.

    Every run that finishes is registered as the next version of its name: output.name, or what the run is called by.
    """


for verb in (live.load, live.switch, live.unload):
    command.add_command(verb)


@command.command("list")
@click.argument("name", required=False)
@click.option("--all", "every", is_flag=True, help=f"Not only the newest {SHOWN}.")
@common.options
def list_(out: Output, name: str | None, every: bool) -> None:
    """Registered adapters, newest first, or the versions of one name."""
    found = adapters_list(name, None if every or out.json else SHOWN)
    out.document({"adapters": found})
    if not found:
        out.print("No adapter yet: every run that `ft train` finishes becomes one.")
        return
    columns = ["adapter", "stage", "base", "method", "objective", "held-out loss", "made"]
    out.lines(columns, map(line, found))
    if len(found) == SHOWN and (more := adapters_count(name) - SHOWN):
        out.print(f"… and {more:,} more: --all")


@command.command()
@adapter_argument
@common.options
def show(out: Output, adapter: str) -> None:
    """One adapter: where it is, what it is made of, and what it came from, as a tree."""
    found = adapter_show(adapter)
    out.document(found)
    out.print(found["adapter"]["address"], style="bold")
    out.table(["", ""], list(details(found)))
    if found["parents"]:
        out.print("\n".join(["", "lineage", *tree(found)]))


@command.command()
@common.run_argument
@click.option("--name", help="Its name; without one, what the run is called by.")
@common.options
def add(out: Output, run: str, name: str | None) -> None:
    """Register a finished run: one from elsewhere, or one whose folder was moved."""
    found = adapter_add(run, name=name)
    out.document({"adapter": found})
    out.print(f"{found['address']}  {found['folder']}")


@command.command()
@adapter_argument
@click.argument("other", metavar="OTHER")
@common.options
def compare(out: Output, adapter: str, other: str) -> None:
    """What differs between two adapters: base, data, settings, scores."""
    found = adapters_compare(adapter, other)
    out.document(found)
    one, two = (each["address"] for each in found["adapters"])
    rows = [(field, text(pair[0]), text(pair[1])) for field, pair in sorted(found["differ"].items())]
    if rows:
        out.table(["", one, two], rows)
    else:
        out.print(f"{one} and {two} were made in the same way, from the same data, with the same scores.")


@command.command()
@adapter_argument
@click.option("--stage", default="production", metavar="STAGE", help="staging, production or none.")
@click.option("--note", help="Why; it is kept with the adapter.")
@common.options
def promote(out: Output, adapter: str, stage: str, note: str | None) -> None:
    """Give a version a stage, which the version that had it loses."""
    found = adapter_promote(adapter, None if stage == "none" else stage, note=note)
    out.document({"adapter": found})
    out.print(f"{found['address']} is in {found['stage']}" if found["stage"] else f"{found['address']} is in no stage")


@command.command()
@adapter_argument
@click.argument("name", metavar="NAME")
@common.options
def rename(out: Output, adapter: str, name: str) -> None:
    """All versions of a name get another."""
    found = adapter_rename(adapter, name)
    out.document({"adapters": found})
    out.print(", ".join(each["address"] for each in found))


@command.command()
@adapter_argument
@common.options
def remove(out: Output, adapter: str) -> None:
    """Take an adapter out of the registry. Its run folder stays, and its number is never given again."""
    found = adapter_remove(adapter)
    out.document({"adapter": found})
    out.print(f"{found['address']} is no longer registered; its files are still in {found['folder']}")


@command.command()
@click.argument("adapters", nargs=-1, metavar="ADAPTER ADAPTER ...")
@click.option(
    "--method",
    default="cat",
    metavar="METHOD",
    help="cat (their weighted sum, ranks add up), svd (its largest parts), linear, ties or dare.",
)
@click.option("--weights", metavar="W,W,...", help="One of each, in their order; without, 1 / their number.")
@click.option("--density", type=float, metavar="D", help="Share of the numbers that ties and dare keep (default: 0.5).")
@click.option("--rank", type=int, metavar="R", help="Rank of the result of svd; without, the largest of theirs.")
@click.option("--name", help="Its name; without one, the names of the adapters.")
@click.option("--seed", type=int, default=42, show_default=True, help="Of what dare leaves out.")
@common.options
def merge(
    out: Output,
    adapters: tuple[str, ...],
    method: str,
    weights: str | None,
    density: float | None,
    rank: int | None,
    name: str | None,
    seed: int,
) -> None:
    """Several adapters of one base into one, which is registered. ADAPTER is a name, a run, RUN:step-N or a folder.

    cat and svd keep to the weighted sum of the changes; linear, ties and dare combine A and B apart, as PEFT does.
    """
    settings: dict[str, Any] = {"density": density, "rank": rank, "name": name, "seed": seed}
    with out.progress.status("merging …"):
        found = adapters_merge(adapters, method=method, weights=numbers(weights), **settings)
    out.document(found)
    figures = found["figures"]
    out.print(f"{found['adapter']['address']}  {found['folder']}", style="bold")
    out.print(f"rank {figures['rank']}; its change lies {figures['distance']:.2%} from the weighted sum of theirs")
    if figures["distance"] > FAR:
        out.note(f"note: {method} is an approximation, and here a coarse one; --method svd keeps to the weighted sum")
    for text_ in found["notes"]:
        out.note(f"note: {text_}")


@command.command()
@adapter_argument
@click.option("--rank", type=int, metavar="R", help="Of the result; without, as it is.")
@click.option("--dtype", default="f32", metavar="TYPE", help="Of the stored numbers: f32, bf16 or f16.")
@click.option("--name", help="Its name; without one, it is the next version of the name that it has.")
@common.options
def compress(out: Output, adapter: str, rank: int | None, dtype: str, name: str | None) -> None:
    """An adapter at a smaller rank, by the largest singular values of each layer, compared with the original.

    ADAPTER may also be a run, RUN:step-N or a folder. With -v the share that each layer keeps.
    """
    with out.progress.status("compressing and comparing …"):
        found = adapter_compress(adapter, rank=rank, dtype=dtype, name=name)
    out.document(found)
    out.print(f"{found['adapter']['address']}  {found['folder']}", style="bold")
    out.table(["", ""], shrunk(found["figures"]))
    if out.verbose:
        out.table(["layer", "kept"], [(layer, f"{share:.2%}") for layer, share in found["layers"].items()])


def shrunk(figures: dict[str, Any]) -> list[tuple[str, str]]:
    """What `compress` shows, label and text."""
    return [
        ("kept", f"{figures['energy']:.2%} of the layers' change on average, {figures['energy_min']:.2%} at least"),
        ("apart", f"{figures['relative']:.2%} of the change, rounding included"),
        ("KL", f"{figures['kl']:.2g} nats from the original; {figures['top1']:.1%} of the likeliest tokens the same"),
        ("bytes", f"{figures['bytes']:,} of {figures['bytes_before']:,}"),
    ]


def numbers(text: str | None) -> list[float] | None:
    """`0.7,0.3`. Raises UsageError."""
    try:
        return None if text is None else [float(part) for part in text.split(",")]
    except ValueError:
        raise UsageError(
            f"{text!r} are no numbers",
            code="usage.bad_value",
            where="--weights",
            hint="Write one of each adapter: --weights 0.7,0.3",
        ) from None


def line(found: dict[str, Any]) -> tuple[str, ...]:
    loss = found["scores"].get("eval_loss")
    return (
        found["address"],
        found["stage"] or "",
        found["base"]["name"] or MISSING,
        found["method"],
        found["objective"],
        MISSING if loss is None else f"{loss:.3f}",
        moment(found["time"]),
    )


def details(found: dict[str, Any]) -> Iterator[tuple[str, str]]:
    adapter = found["adapter"]
    scores = {name.replace("_", " "): f"{value:,.4g}" for name, value in adapter["scores"].items()}
    base = adapter["base"]["name"] or MISSING
    rows = {
        "stage": adapter["stage"],
        "note": adapter["note"],
        "run": adapter["run"],
        "folder": adapter["folder"] + ("" if found["present"] else "  (gone)"),
        "base": f"{base} {(adapter['base']['revision'] or '')[:12]}".strip(),
        "method": adapter["method"],
        "objective": adapter["objective"],
        **scores,
        "content": adapter["content"][:16],
        "data": adapter["data"][:16],
        "made": moment(adapter["time"]),
        "went on to": ", ".join(found["children"]),
    }
    yield from ((label, value) for label, value in rows.items() if value)


def tree(found: dict[str, Any], indent: str = "") -> Iterator[str]:
    """The adapter and its parents, a line each, the newest first; of a parent that it did not go on from, what became
    of that."""
    adapter, how = found["adapter"], found.get("how", "continued")
    into = "" if how == "continued" else f", {how}"
    yield f"{indent}{adapter['address']}  {adapter['method']} on {adapter['base']['name'] or MISSING}{into}"
    for parent in found["parents"]:
        if "adapter" in parent:
            yield from tree(parent, indent + "  ")
        else:
            yield f"{indent}  {parent['folder']}  (not registered, content {parent['content'][:16]})"


def text(value: Any) -> str:
    if value is None:
        return MISSING
    return f"{value:.4g}" if isinstance(value, float) else str(value)

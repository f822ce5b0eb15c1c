"""`ft serve`: adapters of one base behind an address, until Ctrl-C."""

from __future__ import annotations

import json
from typing import Any

import click

from truetune.api.serve import serve
from truetune.cli import common
from truetune.cli.common import Output


@click.command()
@click.argument("names", nargs=-1, metavar="[NAME]...", shell_complete=common.complete_run)
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="0 = any that is free.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Where to listen; others than this need a key.")
@click.option("--slots", type=click.IntRange(1, 256), default=8, show_default=True, help="Answers written together.")
@click.option("--queue", type=click.IntRange(0, 100_000), default=64, show_default=True, help="Requests that wait.")
@click.option("--timeout", type=click.FloatRange(1), default=600, show_default=True, help="Seconds of an answer.")
@click.option("--grace", type=click.FloatRange(0), default=30, show_default=True, help="Seconds for the last answers.")
@click.option("--allow-host", "hosts", multiple=True, metavar="NAME", help="Another name that it is reached under.")
@click.option("--allow", "folders", multiple=True, metavar="FOLDER", help="Adapters below it may be loaded live.")
@click.option(
    "--engine",
    type=click.Choice(["own", "ray", "vllm"]),
    default="own",
    show_default=True,
    help="This process, replicas of it on Ray, or vLLM's server.",
)
@click.option("--replicas", type=click.IntRange(1, 256), help="With --engine ray: how many.  [default: 2]")
@click.option(
    "--cluster", metavar="ADDRESS", help="With --engine ray: a Ray cluster that runs, instead of one of its own."
)
@click.option("--open-ray", is_flag=True, help="With --engine ray: although Ray then listens to other machines, too.")
@common.device
@common.options
def command(out: Output, names: tuple[str, ...], device: str | None, **options: Any) -> None:
    """Serve adapters by OpenAI's protocol: NAME is an adapter (`support`, `support@3`), a run, a folder or a hub id.

    All of one base, which is served too. Without NAME the last run. Each request chooses by its `model`; adapters come
    and go while it runs: `ft adapters load`. The first Ctrl-C lets running answers end.
    """
    out.note("loading the model …")
    ended = serve(
        names or ("last",),
        device=device or "auto",
        log=out.verbose > 0,
        ready=lambda facts: greet(out, facts),
        **options,
    )
    out.document(ended)
    count = ended["totals"].get("requests", 0)
    told = f" after {count:,} request{'' if count == 1 else 's'}"
    out.note("ended" if options["engine"] == "vllm" else f"ended{told}")


def greet(out: Output, facts: dict[str, Any]) -> None:
    """Where it is, what it serves, and a line to try it with."""
    for warning in facts["warnings"]:
        out.note(f"warning: {warning}", style="yellow")
    if facts["wide"]:
        out.note("warning: others can reach this server; whoever has the key can use it", style="yellow")
    show = out.note if out.json else out.print
    show(f"{facts['url']}/v1", style="bold")
    show(f"models: {', '.join(facts['models'])}")
    if "replicas" in facts:
        show(f"replicas: {facts['replicas']}")
    if facts["alone"]:
        show(f"computed alone, not together with others: {', '.join(facts['alone'])}")
    show(curl(facts))


def curl(facts: dict[str, Any]) -> str:
    """A request that can be pasted into a shell."""
    writes = bool(facts["writes"])
    asked = {"messages": [{"role": "user", "content": "Hello"}]} if writes else {"input": "Hello"}
    body = {"model": facts["writes"][-1] if writes else facts["models"][-1], **asked}
    route = "chat/completions" if writes else "classify" if facts["sorts"] else "embeddings"
    key = ' -H "Authorization: Bearer $TRUETUNE_API_KEY"' if facts["key"] else ""
    return f"curl {facts['url']}/v1/{route}{key} -d '{json.dumps(body)}'"

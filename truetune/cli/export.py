"""`ft export`: what was trained, as another program loads it, checked against what was trained."""

from __future__ import annotations

import sys
from shlex import quote
from typing import Any

import click

from truetune.api import load
from truetune.cli import common
from truetune.cli.common import Output
from truetune.errors import UsageError
from truetune.models.memory import readable


@click.command()
@click.argument("subject", default="last", metavar="[RUN|ADAPTER|MODEL]", shell_complete=common.complete_run)
@click.option("--format", required=True, metavar="FORMAT", help="merged, gguf, gguf-lora, ollama, mlx, peft, or hub.")
@click.option(
    "--out", "place", type=click.Path(), metavar="DIR", help="A new folder. Of a run, by default, exports/FORMAT."
)
@click.option(
    "--quant",
    metavar="TYPE",
    help="The number type to store: f32, f16, bf16; gguf also q8_0, q4_k_m, …; mlx 4bit, 8bit.",
)
@click.option("--base", metavar="MODEL", help="The model of an adapter that mlx_lm made, if its files do not say.")
@click.option("--force", is_flag=True, help="Put it in place though it is not what was trained, and record that.")
@click.option("--repo", metavar="OWNER/NAME", help="Of the format hub: the repository that it is pushed to.")
@click.option("--what", metavar="KIND", help="Of the format hub: adapter, merged or gguf.")
@click.option("--private", is_flag=True, help="Of the format hub: a new repository that only its owner can read.")
@click.option("--yes", is_flag=True, help="Publish without asking.")
@common.dry_run
@common.options
def command(
    out: Output,
    subject: str,
    format: str,
    place: str | None,
    quant: str | None,
    base: str | None,
    force: bool,
    dry_run: bool,
    yes: bool,
    **hub: Any,
) -> None:
    """Write an adapter or a model for another program, and compare what that does with what was trained.

    The other program is asked stage by stage: template, tokenizer, ends, weights, probabilities, greedy answers. Exit
    code 1, and nothing written, where one of them is not what was trained; the message names it.

    --dry-run says whether it can be exported, and writes nothing: of a base too, before anything is trained on it. An
    adapter that mlx_lm made comes the other way: ft export ./FOLDER --format peft --out DIR.

    --format hub --repo OWNER/NAME pushes an adapter, a merged model or a GGUF file with its card, after asking.
    """
    asked = {"format": format, "out": place, "base": base, "quant": quant} | hub
    if format == "hub":
        publish(out, subject, asked | {"force": force}, dry_run, yes)
        return
    if dry_run:
        found = load("export")(subject, **asked, dry_run=True)
        out.document(found)
        out.print(f"{found['of']} can be exported as {format}{f', {quant}' if quant else ''}. Nothing was written.")
        return
    with out.progress.status("writing and comparing …"):
        found = load("export")(subject, **asked, force=force)
    out.document(found)
    if found["forced"]:
        out.note(warning(found), style="bold red")
    for line in lines(found):
        out.print(line)


def publish(out: Output, subject: str, asked: dict[str, Any], dry_run: bool, yes: bool) -> None:
    """Show what would be sent, ask, send it, and say where it is."""

    def approve(plan: dict[str, Any]) -> None:
        status.stop()
        whose = "private, or as the repository is" if plan["private"] else "for everybody to read"
        out.note(f"to {plan['repo']}, {whose}: {', '.join(plan['files'])} ({readable(sum(plan['files'].values()))})")
        if plan["forced"]:
            out.note(f"FORCED: what is published is not what was trained ({plan['forced']})", style="bold red")
        if not yes:
            agreed(out)
        status.start()

    status = out.progress.status("writing, comparing and sending …")
    with status:
        found = load("export")(subject, **asked, dry_run=dry_run, approve=approve)
    out.document(found)
    if not dry_run:
        out.print(f"published     {found['url']}")
        return
    for name, bytes in found["files"].items():
        out.print(f"{readable(bytes):>10}  {name}")
    out.print(f"Nothing was sent. Without --dry-run these go to {found['repo']}.")


def agreed(out: Output) -> None:
    """Ask whoever sits there. Raises UsageError `export.unconfirmed` where nobody does, or nobody wants it."""
    there = sys.stdin.isatty() and not out.json
    if there and click.confirm("Publish this?", err=True):
        return
    raise UsageError(
        "nothing was published: it was not agreed to",
        code="export.unconfirmed",
        where="--yes",
        hint="Say --yes to publish without being asked; --dry-run lists what would be sent.",
    )


def warning(found: dict[str, Any]) -> str:
    failed = next(one for one in found["parity"]["stages"] if one["state"] == "failed")
    return (
        f"FORCED: this export is not what was trained. What broke is its {failed['name']}: {failed['detail']}. "
        "report.json, the card and the receipt say so."
    )


def lines(found: dict[str, Any]) -> list[str]:
    what = "adapter" if "--adapter-path" in following(found) or found["format"] in ADAPTERS else "model"
    told = [f"{what:<13} {found['folder']}"]
    for one in found["parity"]["stages"]:
        mark = {"ok": "✓", "failed": "✗", "not checked": "·"}[one["state"]]
        told.append(f"{mark} {one['name']:<14}{one['detail']}")
    return told + ([f"next          {following(found)}"] if following(found) else [])


ADAPTERS = ("peft", "gguf-lora")
"""Formats of adapters, whatever is typed next."""
NEXT = {
    "gguf": "llama-server -m {0}/model.gguf",
    "gguf-lora": "llama-server -m BASE.gguf --lora {0}/adapter.gguf",
    "ollama": "ollama create NAME -f {0}/Modelfile",
}
"""Format -> what to type next."""


def following(found: dict[str, Any]) -> str:
    """What to type next."""
    if found["format"] in NEXT:
        return NEXT[found["format"]].format(quote(found["folder"]))
    if found["format"] != "mlx":
        return ""
    adapter = f" --adapter-path {quote(found['folder'])}" if found["model"] != found["folder"] else ""
    return f'mlx_lm.generate --model {quote(found["model"])}{adapter} --prompt "…"'

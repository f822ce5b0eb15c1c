"""The part of the verb `export` that sends what was exported to the hub: `format="hub"`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from truetune.export.origin import Origin
    from truetune.export.runtime import Options

Make = Callable[[str, Any, Path | None], dict[str, Any]]
Approve = Callable[[dict[str, Any]], None]
"""Is shown {repo, private, what, files: {name: bytes}} before anything is sent; raises to stop."""


def refuse_mixed(format: str, out: Any, named: dict[str, Any]) -> None:
    """A place is for what is written here, a repository for what is pushed. Raises UsageError `usage.bad_value`."""
    from truetune.errors import UsageError

    given = ["out"] if format == "hub" and out else [key for key, value in named.items() if value and format != "hub"]
    if given:
        other = "a folder is written, not --format hub" if format == "hub" else "something is pushed: --format hub"
        raise UsageError(f"this is for where {other}", code="usage.bad_value", where=given[0], hint="Leave it out.")


def publish(
    found: Origin,
    options: Options,
    make: Make,
    target: Callable[[str], Any],
    *,
    repo: str | None,
    what: str | None,
    private: bool,
    dry_run: bool,
    approve: Approve | None,
) -> dict[str, Any]:
    """Export what is not exported yet, and push it: {format, of, what, repo, private, files: {name: bytes}, commit,
    url, folder, forced}; with `dry_run` nothing is sent, and an export that was made for it is gone again.

    make     writes an export of a format, by its module, at a place or in the run; returns its report
    target   the module of a format
    """
    from truetune.api.models import token
    from truetune.export import gate, hub, proof

    secret = token()
    name = hub.refuse(repo, what, "-" if dry_run else secret)
    kind = what or ("adapter" if found.side.adapter else "merged")
    whole = found.side.adapter is None and kind == "merged"
    how = None if whole else target(hub.WHAT[kind])
    if how:
        gate.check(found, how, options)
    called = "-".join(filter(None, (hub.WHAT[kind], options.quant)))
    with _exported(found, hub.WHAT[kind], called, how, make, dry_run) as (folder, report):
        usage = hub.USES.get(kind, "").format(repo=name) or (how.usage(found, Path(name)) if how else "")
        files = hub.files(found, folder, report, name, usage)
        sizes = {each: len(body) if isinstance(body, bytes) else body.stat().st_size for each, body in files.items()}
        plan = {"format": "hub", "of": found.name, "what": kind, "repo": name, "private": private, "files": sizes}
        plan |= {"forced": report["forced"] if report else None, "dry_run": dry_run}
        if dry_run:
            return plan
        if approve:
            approve(plan)
        message = f"{kind} of {found.run.id if found.run else found.base.name}, by TrueTune"
        pushed = hub.push(name, files, private=private, token=secret or "", message=message)
        if report and found.run:
            report = hub.record(folder, report, pushed)
            plan["receipt"] = proof.write(found, folder, report)
        return plan | pushed.to_json() | {"folder": str(folder)}


@contextmanager
def _exported(
    found: Origin, format: str, called: str, how: Any, make: Make, dry_run: bool
) -> Iterator[tuple[Path, dict[str, Any] | None]]:
    """The folder of an export with its report: the run's own, `exports/CALLED`, made now if it is not there; of what
    has no run, and in a dry run, one that is gone afterwards. A whole model is its own, without a report."""
    import tempfile

    from truetune.export import files, gate, hub, proof
    from truetune.runs import jsonfile

    if how is None:
        with tempfile.TemporaryDirectory() as place:
            files.model(found.side.model, Path(place))
            yield Path(place), None
        return
    if found.run and (known := hub.standing(found, called)):
        yield known
    elif found.run and not dry_run:
        target = gate.place(found, called, None)
        proof.write(found, target, make(format, how, None))
        yield target, jsonfile.load(target / hub.REPORT)
    else:
        with tempfile.TemporaryDirectory() as place:
            target = Path(place) / format
            yield target, make(format, how, target)

"""The verbs about adapters that are registered: every run that finishes is, as the next version of its name."""

from __future__ import annotations

from typing import Any

from truetune.errors import UsageError
from truetune.listener import Listener


def adapters_list(name: str | None = None, limit: int | None = None) -> list[dict[str, Any]]:
    """All registered adapters, or the versions of one name, newest first; with `limit` no more than so many.

    Raises InputError `adapter.missing`.
    """
    from truetune.registry.catalog import Catalog

    catalog = Catalog()
    if name is not None:
        catalog.find(name)
    return catalog.all(name, limit)


def adapters_count(name: str | None = None) -> int:
    """How many adapters are registered, or versions of one name."""
    from truetune.registry.catalog import Catalog

    return Catalog().count(name)


def adapter_show(adapter: str) -> dict[str, Any]:
    """{adapter, parents, children, present}: one adapter and what it came from. Raises InputError."""
    from truetune.api.wanted import result
    from truetune.registry.catalog import Catalog

    found = Catalog().lineage(adapter)
    return found | {"present": result(found["adapter"]).is_dir()}


def adapter_add(run: Any = "last", *, name: str | None = None) -> dict[str, Any]:
    """Register a finished run, from wherever its folder is. One that is registered stays the version it is.

    Raises InputError `run.unfinished`, UsageError `adapter.name`.
    """
    from truetune.api import wanted
    from truetune.registry.catalog import Catalog
    from truetune.runs.find import find

    return Catalog().register(find(wanted.address(run)), name)


def adapter_promote(adapter: str, stage: str | None = "production", *, note: str | None = None) -> dict[str, Any]:
    """Give an adapter a stage (`staging`, `production`), which the one that had it loses; None takes it away.

    Raises InputError `adapter.missing`, UsageError `usage.bad_value`.
    """
    from truetune.registry.catalog import STAGES, Catalog

    if stage is not None and stage not in STAGES:
        raise UsageError(
            f"there is no stage {stage!r}",
            code="usage.bad_value",
            where="stage",
            hint=f"Stages: {', '.join(STAGES)}, none.",
        )
    return Catalog().promote(adapter, stage, note)


def adapter_rename(adapter: str, name: str) -> list[dict[str, Any]]:
    """All versions of a name get another; returns them. Raises InputError, UsageError `adapter.name_taken`."""
    from truetune.registry.catalog import Catalog

    return Catalog().rename(adapter, name)


def adapter_remove(adapter: str) -> dict[str, Any]:
    """Take an adapter out of the registry; its files stay. Raises InputError, UsageError `adapter.needed`."""
    from truetune.registry.catalog import Catalog

    return Catalog().remove(adapter)


def adapters_compare(one: str, other: str) -> dict[str, Any]:
    """{adapters: [one, other], differ: {field: [of one, of the other]}}: settings, data, base and scores that differ.

    Raises InputError: `adapter.missing`, `adapter.absent` where a run's folder is gone.
    """
    from truetune.api.wanted import present
    from truetune.registry.catalog import Catalog
    from truetune.runs.run import Run

    catalog = Catalog()
    both = [catalog.find(one), catalog.find(other)]
    sides = [_flat(_facts(each) | Run(present(each)).resolved["config"]) for each in both]
    fields = dict.fromkeys([*sides[0], *sides[1]])
    pairs = {field: [side.get(field) for side in sides] for field in fields}
    return {"adapters": both, "differ": {field: pair for field, pair in pairs.items() if pair[0] != pair[1]}}


def enter(run: Any, listener: Listener) -> None:
    """Register a run that has finished. Whatever goes wrong here takes nothing from its result: it is a warning."""
    try:
        from truetune.registry.catalog import Catalog

        Catalog().register(run)
    except (Exception, KeyboardInterrupt) as error:
        reason = str(error) or type(error).__name__
        text = f"the result is safe, but not registered as an adapter: {reason}; later: ft adapters add {run.id}"
        listener("warning", {"text": text})


def _facts(found: dict[str, Any]) -> dict[str, Any]:
    return {"base": found["base"], "data": {"content": found["data"]}, "scores": found["scores"]}


def _flat(values: dict[str, Any], above: str = "") -> dict[str, Any]:
    """`{"a": {"b": 1}}` -> `{"a.b": 1}`."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{above}{key}.") if isinstance(value, dict) else {above + key: value}
    return flat

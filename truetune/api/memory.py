"""The verb `suggest`: does a training fit into the memory, and what to change so that it does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any


def suggest(
    config: str | Path | None = None,
    *,
    model: str | None = None,
    data: str | Sequence[str] | None = None,
    method: str | None = None,
    overrides: Sequence[str] = (),
    memory: str | None = None,
) -> dict[str, Any]:
    """Whether a training fits, and what to change, the least harmful first. Nothing is trained or measured.

    config, model, data, method, overrides   as for `train`; for a model alone the longest example is taken to be as
                                              long as `data.max_length` and the model's context allow
    memory     plan for this much (`"24GB"`) instead of what is free here

    `{"fits", "checkpointing", "needs", "available", "longest", "suggestions": [{"overrides": ["data.max_length=512"],
    "line": "--set data.max_length=512", "cost", "needs", "fits", "parameters"}]}`: `needs` and `available` in bytes
    (a plan counts on four fifths of what is available), `longest` in tokens. Where `checkpointing` is true it fits
    with gradient checkpointing only, and the suggestions are for doing without. A suggestion without overrides is a
    smaller model, of so many parameters. Raises what `train` raises before it starts.
    """
    from truetune.api.train import _load
    from truetune.models import fit

    alone = config is None and model is not None and data is None
    overrides = [*overrides, f"resources.memory={memory}"] if memory else overrides
    loaded = _load(config, model, "-" if alone else data, method, overrides)
    kept = _case(loaded, rows=not alone, plan=memory is not None)
    saving = kept.checkpointing()
    told = fit.suggest(kept if saving.fits else saving)
    return {
        "fits": saving.fits,
        "checkpointing": saving.fits and not kept.fits,
        "needs": (kept if kept.fits else saving).needs,
        "available": kept.available,
        "longest": kept.longest,
        "suggestions": [one.to_json() for one in told],
    }


def _case(loaded: Any, *, rows: bool, plan: bool) -> Any:
    """The training as a case that must fit; its longest example from the rows, or as long as one may be."""
    from truetune import engines
    from truetune.models import facts
    from truetune.train import resolve, session

    config, lengths = loaded.config, []
    found = session.find_model(config, loaded.folder)
    known = facts.read(found.folder)
    longest = min(config.data.max_length, known.positions or config.data.max_length)
    if rows:
        prepared = session.rows(config, loaded.folder, session.encoder(config, found.folder, loaded.folder))
        longest, lengths = resolve.longest(prepared), prepared.train.lengths.tolist()
    engine = engines.module(engines.choose(config.resources.engine, found.folder).name)
    choice = engine.choose(config.resources.device, config.model.dtype)
    free = config.resources.memory if plan else session.free(config, engine, choice.device)
    return resolve.case(config, known, choice.dtype, free, longest, lengths, packed=engine.packs(known.model_type))

"""The verbs `suggest` (does a training fit, and what to change so that it does) and `models_fit` (what fits where)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from truetune.errors import UsageError


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

    `{"fits", "checkpointing", "offload", "needs", "available", "longest", "suggestions": [{"overrides":
    ["data.max_length=512"], "line": "--set data.max_length=512", "cost", "needs", "fits", "parameters"}]}`: `needs` and
    `available` in bytes (a plan counts on four fifths of what is available), `longest` in tokens. Where `checkpointing`
    is true it fits with gradient checkpointing only, and where `offload` is too with the layers' inputs in the host's
    memory; the suggestions are for doing without. A suggestion without overrides is a smaller model, of so many
    parameters. Raises what `train` raises before it starts.
    """
    from truetune.api.train import _load
    from truetune.models import fit

    alone = config is None and model is not None and data is None
    overrides = [*overrides, f"resources.memory={memory}"] if memory else overrides
    loaded = _load(config, model, "-" if alone else data, method, overrides)
    kept = _case(loaded, rows=not alone, plan=memory is not None)
    saving = fit.sparing(kept)
    told = fit.suggest(kept if saving.fits else saving)
    return {
        "fits": saving.fits,
        "checkpointing": saving.fits and saving.setup.checkpointing,
        "offload": saving.fits and saving.setup.offload,
        "needs": (kept if kept.fits else saving).needs,
        "available": kept.available,
        "longest": kept.longest,
        "suggestions": [one.to_json() for one in told],
    }


def _case(loaded: Any, *, rows: bool, plan: bool) -> Any:
    """The training as a case that must fit; its longest example from the rows, or as long as one may be."""
    from truetune import engines
    from truetune.models import facts, fit
    from truetune.train import resolve, session

    config = loaded.config
    lengths: fit.Lengths = ()
    found = session.find_model(config, loaded.folder)
    known = facts.read(found.folder)
    longest = min(config.data.max_length, known.positions or config.data.max_length)
    if rows:
        prepared = session.rows(config, loaded.folder, session.encoder(config, found.folder, loaded.folder))
        longest, lengths = resolve.longest(prepared), prepared.train.lengths
    engine = engines.module(engines.choose(config.resources.engine, found.folder).name)
    choice = engine.choose(config.resources.device, config.model.dtype)
    free = config.resources.memory if plan else session.free(config, engine, choice.device)
    return resolve.case(config, known, choice, free, longest, lengths, packed=engine.packs(known.model_type))


def models_fit(
    model: str,
    *,
    memory: str | None = None,
    length: int = 2048,
    r: int = 16,
    dtype: str = "bfloat16",
    revision: str | None = None,
) -> dict[str, Any]:
    """Which methods of training fit into which memory, from the model's config.json alone: no weights, no GPU.

    model      `starter`, a folder or a hub id; of a hub model that is not here only config.json is downloaded
    memory     for this much (`"8GB"`); without it for the sizes that GPUs have
    length     tokens of the longest example
    r          rank of the adapter
    dtype      number type of weights that are not packed: `bfloat16` as GPUs compute, `float32` as processors do

    `{"model", "model_type", "parameters", "exact", "length", "r", "dtype", "sizes": [{"memory", "room", "methods":
    [{"method", "bits", "checkpointing", "offload", "weights", "trained", "activations", "runtime", "total", "longest",
    "fits"}]}]}`, in bytes and tokens; `room` is the part of the memory that a training plans with, `trained` the
    adapter with gradients and optimizer, `longest` the longest example that fits. Raises UsageError and InputError.
    """
    from truetune.config.secrets import secret
    from truetune.config.values import parse_memory
    from truetune.engines.packing import PACKS
    from truetune.models import chances, counting, source
    from truetune.models.memory import Setup

    token = secret("huggingface.token", Path())
    place = source.described(model, revision=revision, folder=Path(), token=token.reveal() if token else None)
    known = counting.sketch(place)
    sizes = [bytes_of(memory, parse_memory)] if memory else list(chances.SIZES)
    setup = Setup(r=r, dtype=dtype, packed=known.model_type in PACKS, gpu=dtype != "float32")
    found = [chances.cases(known, setup, length, size) for size in sizes]
    return {
        "model": model,
        "model_type": known.model_type,
        "parameters": known.parameters,
        "exact": counting.known(known.model_type),
        "length": length,
        "r": r,
        "dtype": dtype,
        "sizes": [
            {"memory": size, "room": cases[0].room, "methods": [one.to_json() for one in chances.table(cases)]}
            for size, cases in zip(sizes, found, strict=True)
        ],
    }


def bytes_of(text: str, parse: Callable[[str], int]) -> int:
    """`8GB` as bytes. Raises UsageError `usage.bad_value`."""
    try:
        return parse(text)
    except ValueError as error:
        hint = "Write it as 8GB or 7.5GiB."
        raise UsageError(f"the memory {error}", code="usage.bad_value", where="--memory", hint=hint) from None

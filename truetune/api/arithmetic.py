"""The verbs that make adapters of others: several merged into one, or one made smaller; each is a run of its own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from shlex import quote
from typing import Any

from truetune.api import wanted
from truetune.errors import ResourceError, UsageError


def adapters_merge(
    adapters: Sequence[Any],
    *,
    method: str = "cat",
    weights: Sequence[float] | None = None,
    density: float | None = None,
    rank: int | None = None,
    name: str | None = None,
    seed: int = 42,
) -> dict[str, Any]:
    """Several adapters of one base into one: {adapter, run, folder, figures: {distance, length, rank}, notes}.

    adapters  names (`support@3`), runs, their checkpoints (`RUN:step-200`), folders of adapters; at least two
    method    `cat`, `svd`, `linear`, `ties`, `dare`: see `truetune.export.combine`
    weights   of each adapter; without any, 1 / their number
    density   share of the numbers that `ties` and `dare` keep, 0.5 by default
    rank      of the result of `svd`; without one, the largest of theirs
    name      in the registry; without one, the names of the adapters

    `distance` is ‖ΔW − Σ wᵢ ΔWᵢ‖ ÷ ‖Σ wᵢ ΔWᵢ‖. Raises UsageError `usage.bad_value`, `made.…` and `merge.…` for what
    can't be merged, InputError, ResourceError.
    """
    from truetune.evaluate.subject import find_subject
    from truetune.export import lowrank
    from truetune.registry import made

    shares = refuse_merge(len(adapters), method, weights, density, rank)
    density = 0.5 if density is None and method in ("ties", "dare") else density
    subjects = [find_subject(wanted.address(each)) for each in adapters]
    addresses, title = [address(each) for each in subjects], name or called(subjects)
    places = [made.adapter_of(subject) for subject in subjects]
    settings = {"method": method, "weights": shares, "density": density, "rank": rank}
    settings["seed"] = seed if method == "dare" else None
    told = {key: value for key, value in settings.items() if value is not None}
    combine = _combine()

    def fill(folder: Path) -> dict[str, Any]:
        parts = [lowrank.read(place) for place in places]
        found = combine.combine(parts, shares, method, density=density, rank=rank, seed=seed)
        lowrank.write(folder, parts[0], found.layers, **combine.settings(found))
        return {"distance": found.distance, "length": found.length, "rank": found.rank}

    recipe = made.Recipe("merged", subjects, addresses, told, command("merge", addresses, told))
    return registered(made.make(recipe, title, fill), title) | {"notes": notes(subjects)}


def adapter_compress(
    adapter: Any = "last", *, rank: int | None = None, dtype: str = "f32", name: str | None = None
) -> dict[str, Any]:
    """An adapter at a smaller rank: {adapter, run, folder, figures, layers: {layer: share kept}, notes}.

    rank   of the result; without one, as it is
    dtype  of the stored numbers: `f32`, `bf16`, `f16`
    name   in the registry; without one it becomes the next version of the name that it has

    figures: `energy`, `energy_min` (share of ‖B A‖² kept, mean and least of the layers), `relative` (‖ΔW' − ΔW‖ ÷
    ‖ΔW‖), `kl` (nats, mean over places of probes, original against result), `top1` (share of places with the same
    likeliest token), `bytes`, `bytes_before`.
    Raises UsageError `compress.…` and `made.…`, InputError, ResourceError.
    """
    from truetune.evaluate.subject import find_subject
    from truetune.export import compress, lowrank, nearness
    from truetune.registry import made

    compress.refuse_unknown(dtype)
    subject = find_subject(wanted.address(adapter))
    of, title = address(subject), name or called([subject])
    place, kept = made.adapter_of(subject), dict[str, float]()

    def fill(folder: Path) -> dict[str, Any]:
        part = lowrank.read(place)
        found = compress.compress(part, rank, dtype)
        compress.write(found, part, folder)
        kept.update(found.energy)
        energies = list(found.energy.values())
        sizes = {"bytes": compress.size(folder), "bytes_before": compress.size(place)}
        shares = {"energy": sum(energies) / len(energies), "energy_min": min(energies), "relative": found.distance}
        return shares | nearness.measured(subject.base.folder, place, folder, subject.bits) | sizes

    told = {"rank": rank, "dtype": dtype} if rank is not None else {"dtype": dtype}
    recipe = made.Recipe("compressed", [subject], [of], told, command("compress", [of], told))
    return registered(made.make(recipe, title, fill), title) | {"layers": kept, "notes": []}


def registered(run: Any, name: str) -> dict[str, Any]:
    """What a new run is registered as, with its figures."""
    from truetune.registry.catalog import Catalog
    from truetune.runs import receipt

    figures = receipt.read(run)[receipt.MADE]["figures"]
    return {"adapter": Catalog().register(run, name), "run": run.id, "folder": str(run.folder), "figures": figures}


def address(subject: Any) -> str:
    """How an adapter is named for ever: by name and version where its run is registered, else by run or folder."""
    from truetune.registry.catalog import Catalog

    known = Catalog().of_run(subject.run.id, subject.run.folder) if subject.run else None
    if known is None:
        return str(subject.name)
    _, colon, checkpoint = subject.name.partition(":")
    return f"{known['address']}{colon}{checkpoint}"


def called(subjects: Sequence[Any]) -> str:
    """A name from those of the adapters: theirs where it is one, else all of them beside each other."""
    from truetune.registry.catalog import Catalog
    from truetune.registry.entry import TAKEN, name_of
    from truetune.runs.run import slug

    def one(subject: Any) -> str:
        if subject.run is None:
            return slug(subject.name.removesuffix("/adapter"))
        known = Catalog().of_run(subject.run.id, subject.run.folder)
        return str(known["name"]) if known else name_of(subject.run)

    names = "-".join(dict.fromkeys(filter(None, map(one, subjects))))[:64].strip("-._")
    return f"{names}-made" if names in TAKEN else names or "made"


def refuse_merge(
    count: int, method: str, weights: Sequence[float] | None, density: float | None, rank: int | None
) -> list[float]:
    """The weights. Raises UsageError `usage.bad_value` for what does not go together."""
    from math import isfinite

    from truetune.export import combinations

    shares = [1 / count] * count if weights is None and count else list(weights or ())
    wrong = [
        (count < 2, "adapters", "one adapter alone is nothing to merge", "Name two or more."),
        (method not in combinations.METHODS, "method", f"there is no method {method!r}",
         f"Methods: {', '.join(combinations.METHODS)}."),
        (len(shares) != count, "weights", f"{len(shares)} weights for {count} adapters",
         "Give one of each, in their order: --weights 0.7,0.3"),
        (not all(map(isfinite, shares)) or not any(shares), "weights", "weights are numbers, and not all of them 0",
         "For example: --weights 0.7,0.3"),
        (density is not None and method not in combinations.PRUNING, "density", f"{method} keeps all numbers",
         f"Leave it out, or use {' or '.join(combinations.PRUNING)}."),
        (density is not None and not 0 < density <= 1, "density", f"{density} is no share of the numbers",
         "Give more than 0, at most 1."),
        (rank is not None and (method != "svd" or rank < 1), "rank", f"a rank of {rank} means nothing to {method}",
         "It is for svd, and at least 1."),
    ]  # fmt: skip
    for is_wrong, where, message, hint in wrong:
        if is_wrong:
            raise UsageError(message, code="usage.bad_value", where=where, hint=hint)
    return shares


def notes(subjects: Sequence[Any]) -> list[str]:
    """What a person should know of a merged adapter."""
    told = []
    templates = {subject.template.digest if subject.template else None for subject in subjects}
    if len(templates) > 1:
        told.append("the adapters were trained with different chat templates; the first one's is kept")
    return told


def command(verb: str, addresses: Sequence[str], settings: dict[str, Any]) -> str:
    """What a person types to have it again."""
    words = ["ft", "adapters", verb, *map(quote, addresses)]
    for key, value in settings.items():
        words += [f"--{key}", ",".join(f"{each:g}" for each in value) if isinstance(value, list) else str(value)]
    return " ".join(words)


def _combine() -> Any:
    """PEFT's arithmetic. Raises ResourceError `export.not_installed`."""
    from truetune.engines import keep_out_kernels

    keep_out_kernels()  # PEFT imports bitsandbytes
    try:
        from truetune.export import combine
    except ModuleNotFoundError as error:
        raise ResourceError(
            f"merging adapters needs {error.name}, which is not installed",
            code="export.not_installed",
            where="method",
            hint=f'Install it: pip install "truetune[{error.name}]".',
        ) from None
    return combine

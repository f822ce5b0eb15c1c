"""What PEFT's LoRA files hold beside A and B: lengths of rows (DoRA), rows of the embedding, whole modules.

base_model.model.<module>.lora_magnitude_vector                   [out]
base_model.model.<module>.token_adapter.trainable_tokens_delta    [tokens, hidden], the rows themselves
base_model.model.<module>.<parameter>                             as in the model
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from truetune.engines import adapter
from truetune.engines.base import EngineSpec, Method
from truetune.errors import InputError, UsageError
from truetune.models import header

MAGNITUDE = ".lora_magnitude_vector"
ROWS = ".token_adapter.trainable_tokens_delta"


@dataclass(frozen=True)
class Layout:
    """What an adapter changes beside A and B."""

    scale: float
    dora: bool
    rows: Mapping[str, tuple[int, ...]]
    """Module -> ids of tokens."""
    whole: tuple[str, ...]
    """Parameters of the model that the file replaces."""

    @property
    def alone(self) -> bool:
        """Whether a token's computation with it has nothing in common with one without."""
        return bool(self.rows or self.whole)


def layout(body: Mapping[str, Any], tensors: Iterable[str]) -> Layout:
    """From PEFT's configuration and the names of the file's tensors. Raises ValueError for settings that say nothing,
    or something that the file does not hold."""
    names = sorted(name.removeprefix(adapter.PREFIX) for name in tensors)
    ids = indices(body.get("trainable_token_indices"))
    held = [name.removesuffix(ROWS) for name in names if name.endswith(ROWS)]
    rows = {name: part for name in held for key, part in ids.items() if not key or adapter.hit(name, key)}
    if missing := [key for key in ids if not any(not key or adapter.hit(name, key) for name in held)]:
        raise ValueError(f"it trains rows of {missing[0] or 'the embedding'}, and the file does not hold them")
    rank, alpha = body["r"], body["lora_alpha"]
    return Layout(
        scale=alpha / (math.sqrt(rank) if body.get("use_rslora") else rank),
        dora=bool(body.get("use_dora")),
        rows=rows,
        whole=held_whole(names, body.get("modules_to_save") or []),
    )


def held_whole(names: Sequence[str], saved: Any) -> tuple[str, ...]:
    """The parameters of the modules that `modules_to_save` names, as PEFT finds them: by the end of a module's name."""
    if not isinstance(saved, list) or not all(isinstance(end, str) and end for end in saved):
        raise ValueError("modules_to_save is not a list of names")
    ends = {
        name: {end for end in saved for part in adapter.upward(name)[1:] if part.endswith(end)}
        for name in names
        if not changes(name)
    }
    missing = set(saved).difference(*ends.values())
    if missing:
        raise ValueError(f"modules_to_save names {sorted(missing)[0]}, and the file does not hold it")
    return tuple(name for name, found in ends.items() if found)


def indices(value: Any) -> dict[str, tuple[int, ...]]:
    """Module (empty: the embedding) -> ids, from `trainable_token_indices`: a list, or an object of lists."""
    found = value if isinstance(value, dict) else {"": value or []}
    for ids in found.values():
        usable = isinstance(ids, list) and all(type(token) is int and 0 <= token < 2**31 for token in ids)
        if not usable or len(set(ids)) < len(ids):
            raise ValueError("trainable_token_indices is not a list of different ids")
    return {str(name): tuple(ids) for name, ids in found.items() if ids}


def changes(name: str) -> bool:
    """Whether a tensor changes a module, and does not replace a part of it."""
    return ".lora_" in name or name.endswith(ROWS)


def modules(parameters: Iterable[str]) -> list[str]:
    """The modules that are trained whole, by the names of an adapter's tensors."""
    found = {name.removeprefix(adapter.PREFIX).rpartition(".")[0] for name in parameters if whole(name)}
    return sorted(found)


def whole(name: str) -> bool:
    return name.startswith(adapter.PREFIX) and not changes(name)


def within_modules(parameters: Collection[str], wanted: Sequence[str]) -> list[str]:
    """The parameters of the modules with these names and suffixes. Raises UsageError `method.no_module`."""
    held = {name.rpartition(".")[0] for name in parameters}
    every = sorted({part for name in held for part in adapter.upward(name)})
    missing = [suffix for suffix in wanted if not any(adapter.hit(name, suffix) for name in every)]
    if missing:
        kinds = sorted({name.rpartition(".")[2] for name in held})
        raise UsageError(
            f"no module of this model is called {', '.join(missing)}",
            code="method.no_module",
            where="method.modules_to_save",
            hint=f"This model has {', '.join(kinds)}.",
        )
    roots = [name for name in every if any(adapter.hit(name, suffix) for suffix in wanted)]
    return [name for name in parameters if any(name.startswith(root + ".") for root in roots)]


def outside(layers: Iterable[str], method: Method) -> list[str]:
    """Those that are not trained whole, and stand in nothing that is."""
    whole = method.modules_to_save
    return [
        name for name in layers if not any(adapter.hit(part, one) for part in adapter.upward(name) for one in whole)
    ]


def within(name: str, found: Layout) -> bool:
    """Whether an adapter brings this module whole."""
    return any(one.startswith(name + ".") for one in found.whole)


def name(body: Mapping[str, Any]) -> str:
    """What method an adapter of LoRA's family is, as `method.type` calls it."""
    return "dora" if body.get("use_dora") else "rslora" if body.get("use_rslora") else "lora"


def beyond(folder: Path, vocabulary: int) -> list[str]:
    """What of an adapter on disk only torch decodes, for a base of so many tokens: other methods than LoRA's family,
    rows of single tokens, a vocabulary that has grown."""
    body = adapter.read_config(folder, adapter.KINDS)
    if body["peft_type"] != "LORA":
        return [body["peft_type"]]
    return ["new tokens"] if body.get("trainable_token_indices") or grown(folder, vocabulary) else []


def grown(folder: Path, vocabulary: int) -> bool:
    """Whether an adapter brings an embedding or a head for another number of tokens."""
    tables = (".embed_tokens.weight", ".lm_head.weight")
    try:
        found = [one.shape[0] for one in header.read(folder / adapter.WEIGHTS) if one.name.endswith(tables)]
    except (ValueError, OSError):
        return False  # whoever loads it says what is wrong
    return any(count != vocabulary for count in found)


def settings(method: Method, modules: Iterable[str], rows: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """PEFT's configuration of what is trained beside A and B; full names, which select nothing else."""
    ids = {name: list(part) for name, part in rows.items()}
    return {
        "use_dora": method.type == "dora",
        "use_rslora": method.type == "rslora",
        "modules_to_save": sorted(modules) or None,
        "trainable_token_indices": ids or None,
    }


def doubled(method: Method) -> dict[str, Any]:
    """Rank and alpha of an adapter that takes its own start away again; the scale stays."""
    return {"r": 2 * method.r, "lora_alpha": method.alpha * (math.sqrt(2) if method.type == "rslora" else 2)}


def read(folder: Path, tensors: Mapping[str, Any]) -> tuple[dict[str, Any], Layout]:
    """The configuration of a LoRA adapter, and what it changes beside A and B.

    Raises InputError as `adapter.read_config`.
    """
    body = adapter.read_config(folder)
    try:
        return body, layout(body, tensors)
    except ValueError as error:
        path = str(folder / adapter.CONFIG)
        raise InputError(f"cannot be read ({error})", code="adapter.damaged", where=path, hint=adapter.COPY) from None


def refuse_others(body: Mapping[str, Any], found: Layout, spec: EngineSpec) -> None:
    """Training goes on with what the adapter was made with. Raises UsageError `adapter.other_shape`."""
    adapter.refuse_other_shape(body, spec.method)
    made, wanted = name(body), spec.method.type if spec.method.type in ("dora", "rslora") else "lora"
    if made != wanted:
        raise other(f"was made by {made}, but method.type is {spec.method.type}", f"Set method.type to {made}.")
    saved = modules(adapter.PREFIX + one for one in found.whole)
    if saved and not spec.method.modules_to_save:
        hint = f"Set method.modules_to_save to [{', '.join(saved)}]."
        raise other(f"brings {', '.join(saved)} whole, and method.modules_to_save is not set", hint)
    ids = {token for part in found.rows.values() for token in part}
    if ids != set(spec.new_tokens):
        hint = "Name the same tokens in model.new_tokens: the adapter's tokenizer.json lists them as added ones."
        raise other(
            f"has trained the rows of tokens {sorted(ids)}, but model.new_tokens are {sorted(spec.new_tokens)}", hint
        )


def other(message: str, hint: str) -> UsageError:
    return UsageError(f"the adapter {message}", code="adapter.other_shape", where="model.adapter", hint=hint)

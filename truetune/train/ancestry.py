"""Whether an adapter is one of this base: by sha256, as the card beside it says; and whether it changes anything."""

from __future__ import annotations

import re
from pathlib import Path

from truetune.engines import adapter as adapters
from truetune.errors import InputError
from truetune.models import tensorfile
from truetune.models.tensorfile import Place
from truetune.runs import known

CARD = "README.md"
LINE = re.compile(r"^\| base .* \| `([^`|/]+)` \| `([0-9a-f]{64})` \|$", re.MULTILINE)
"""A line of `card.lineage`."""
CHANGING = (".lora_B.weight", ".ia3_l")
"""Ends of the names of tensors that change a base."""
ONE = {"F32": b"\x00\x00\x80\x3f", "F16": b"\x00\x3c", "BF16": b"\x80\x3f"}
"""The number 1 as safetensors holds it."""
COUNT = re.compile(r"config\.json|.*\.safetensors(\.index\.json)?")
"""Files that decide what a model computes; tokenizer and template come with the adapter."""


def refuse_unfit(adapter: Path, base: Path) -> None:
    """Refuse an adapter of another base, or without effect, before anything is loaded.

    Raises InputError `adapter.other_base`, `adapter.no_effect`; about 1 s per GB of base, once.
    """
    refuse_other_base(adapter, base)
    refuse_no_effect(adapter)


def refuse_no_effect(adapter: Path) -> None:
    """An adapter whose every B is zero, or every factor of IA³ is 1, answers like its base. DoRA's lengths, what is
    replaced whole, rows of single tokens and virtual tokens change it all the same. What cannot be read is left to its
    loader. Raises InputError `adapter.no_effect`."""
    path = adapter / adapters.WEIGHTS
    try:
        body = adapters.read_config(adapter, adapters.KINDS)
        second = [one for one in tensorfile.places(path) if one.tensor.name.endswith(CHANGING)]
        beside = any(body.get(name) for name in ("use_dora", "modules_to_save", "trainable_token_indices"))
        if beside or not second or not all(map(neutral, second)):
            return
    except (ValueError, OSError, InputError):
        return
    what = "B matrices is zero" if second[0].tensor.name.endswith(CHANGING[0]) else "factors is 1"
    raise InputError(
        f"the adapter changes nothing: every one of its {what}, as before any training",
        code="adapter.no_effect",
        where=str(path),
        hint="Name an adapter that has been trained; to begin a training anew, leave model.adapter out.",
    )


def neutral(place: Place) -> bool:
    """Whether a tensor is what it was before any training: B of zeros, factors of ones."""
    if place.tensor.name.endswith(CHANGING[0]):
        return not any(place.read())
    one = ONE.get(place.tensor.dtype)
    return one is not None and place.read() == one * place.tensor.size


def base_files(adapter: Path) -> dict[str, str]:
    """{file: sha256} of the base that the card of an adapter names; empty where it has none of ours."""
    try:
        text = (adapter / CARD).read_text("utf-8", "replace")
    except OSError:
        return {}
    return {name: digest for name, digest in LINE.findall(text) if COUNT.fullmatch(name)}


def refuse_other_base(adapter: Path, base: Path) -> bool:
    """Compare a base's files with those that an adapter's card names; returns whether it names any.

    Raises InputError `adapter.other_base`, which names both. About 1 s per GB, once.
    """
    wanted = base_files(adapter)
    found = known.digests(base / name for name in wanted)
    for name, digest in wanted.items():
        stands = found[base / name]
        if stands != digest:
            now = f"here it is {stands[:12]}…" if stands else "here there is none"
            raise InputError(
                f"the adapter was trained on another base: its {name} was {digest[:12]}…, {now}",
                code="adapter.other_base",
                where=f"{adapter}, {base}",
                hint="Use the base that the adapter's README.md names, at its revision.",
            )
    return bool(wanted)

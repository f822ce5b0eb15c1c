"""Whether an adapter is one of this base: by sha256, as the card beside it says; and whether it changes anything."""

from __future__ import annotations

import re
from pathlib import Path

from truetune.engines import adapter as adapters
from truetune.errors import InputError
from truetune.models import tensorfile
from truetune.runs import known

CARD = "README.md"
LINE = re.compile(r"^\| base .* \| `([^`|/]+)` \| `([0-9a-f]{64})` \|$", re.MULTILINE)
"""A line of `card.lineage`."""
COUNT = re.compile(r"config\.json|.*\.safetensors(\.index\.json)?")
"""Files that decide what a model computes; tokenizer and template come with the adapter."""


def refuse_unfit(adapter: Path, base: Path) -> None:
    """Refuse an adapter of another base, or without effect, before anything is loaded.

    Raises InputError `adapter.other_base`, `adapter.no_effect`; about 1 s per GB of base, once.
    """
    refuse_other_base(adapter, base)
    refuse_no_effect(adapter)


def refuse_no_effect(adapter: Path) -> None:
    """An adapter whose every B is zero answers like its base. DoRA's lengths, what is replaced whole and rows of single
    tokens change it all the same. What cannot be read is left to its loader. Raises InputError `adapter.no_effect`."""
    path = adapter / adapters.WEIGHTS
    try:
        body = adapters.read_config(adapter, adapters.KINDS)
        second = [one for one in tensorfile.places(path) if one.tensor.name.endswith(".lora_B.weight")]
        beside = any(body.get(name) for name in ("use_dora", "modules_to_save", "trainable_token_indices"))
        if beside or not second or any(any(one.read()) for one in second):
            return
    except (ValueError, OSError, InputError):
        return
    raise InputError(
        "the adapter changes nothing: every one of its B matrices is zero, as before any training",
        code="adapter.no_effect",
        where=str(path),
        hint="Name an adapter that has been trained; to begin a training anew, leave model.adapter out.",
    )


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

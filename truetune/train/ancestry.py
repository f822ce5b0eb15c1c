"""Which base an adapter was trained on, by sha256, as the card beside it says."""

from __future__ import annotations

import re
from pathlib import Path

from truetune.errors import InputError
from truetune.runs import known

CARD = "README.md"
LINE = re.compile(r"^\| base .* \| `([^`|/]+)` \| `([0-9a-f]{64})` \|$", re.MULTILINE)
"""A line of `card.lineage`."""
COUNT = re.compile(r"config\.json|.*\.safetensors(\.index\.json)?")
"""Files that decide what a model computes; tokenizer and template come with the adapter."""


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

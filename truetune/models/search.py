"""Searches the hub for models that can be trained: by name, task, licence and number of parameters."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from truetune.errors import UsageError
from truetune.models import hub

try:
    import huggingface_hub
except ImportError:  # the extra `hub` is not installed
    huggingface_hub = None  # type: ignore[assignment]

FIELDS = ["safetensors", "downloads", "lastModified", "gated", "private", "pipeline_tag", "tags"]
UNITS = {"": 1, "K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}
NUMBER = r"(\d+(?:\.\d+)?)\s*([KMBT]?)"
LONGEST = 200
"""Characters of what a hub says of a model that are taken over."""


@dataclass(frozen=True)
class Range:
    """Numbers of parameters, both ends included; None = no end."""

    least: float | None = None
    most: float | None = None

    def holds(self, count: int | None) -> bool:
        """Models that do not say how large they are count as fitting only where anything does."""
        if count is None:
            return self.least is None and self.most is None
        return (self.least or 0) <= count and (self.most is None or count <= self.most)

    @property
    def asked(self) -> str | None:
        """As the hub takes it: `min:1B,max:3B`."""
        ends = {"min": self.least, "max": self.most}
        return ",".join(f"{name}:{end:.0f}" for name, end in ends.items() if end is not None) or None


@dataclass(frozen=True)
class Found:
    """One model. `parameters` as its weights' headers say, `changed` the day of its last commit."""

    name: str
    parameters: int | None
    task: str | None
    licence: str | None
    downloads: int
    changed: str | None
    gated: bool

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def size(text: str) -> Range:
    """`<3B`, `>500M`, `1B-7B`, or `3B`, which means at most that. Raises UsageError `usage.bad_value`."""
    plain = text.replace(" ", "").upper()
    if found := re.fullmatch(rf"{NUMBER}-{NUMBER}", plain):
        low, high = _count(*found.groups()[:2]), _count(*found.groups()[2:])
        if low <= high:
            return Range(low, high)
    if found := re.fullmatch(rf"([<>]?)=?{NUMBER}", plain):
        end = _count(found[2], found[3])
        return Range(least=end) if found[1] == ">" else Range(most=end)
    hint = "Write it as <3B, >500M or 1B-7B."
    raise UsageError(f"{text!r} is no size of models", code="usage.bad_value", where="--size", hint=hint)


def _count(number: str, unit: str) -> float:
    return float(number) * UNITS[unit]


def search(
    text: str, *, task: str | None, sizes: Range, licence: str | None, token: str | None, limit: int
) -> Iterator[Found]:
    """Models with weights in safetensors, most downloads first; not more than `limit` are looked at.

    Raises InputError `model.hub_missing`, `model.offline`, `model.unreachable`.
    """
    hub.refuse_offline(text or "search")
    tags = ["safetensors", *([f"license:{licence.lower()}"] if licence else [])]
    try:
        for info in huggingface_hub.HfApi().list_models(
            search=text or None,
            filter=tags,
            pipeline_tag=task,
            num_parameters=sizes.asked,
            sort="downloads",
            limit=limit,
            expand=FIELDS,  # type: ignore[arg-type]
            token=token,
        ):
            found = _found(info)
            if found and sizes.holds(found.parameters):
                yield found
    except hub.NETWORK as error:
        raise hub.explain(error, text or "search", None) from error


def _found(info: Any) -> Found | None:
    """What the hub says of a model, as far as it is what it should be; None for what has no usable name."""
    if not hub.is_name(str(info.id)):
        return None
    licences = [tag.partition(":")[2] for tag in info.tags or [] if str(tag).startswith("license:")]
    total = getattr(info.safetensors, "total", None)
    return Found(
        name=str(info.id),
        parameters=total if isinstance(total, int) else None,
        task=_text(info.pipeline_tag),
        licence=_text(next(iter(licences), None)),
        downloads=info.downloads if isinstance(info.downloads, int) else 0,
        changed=info.last_modified.date().isoformat() if info.last_modified else None,
        gated=bool(info.gated),
    )


def _text(value: Any) -> str | None:
    return "".join(letter for letter in str(value)[:LONGEST] if letter.isprintable()) if value else None

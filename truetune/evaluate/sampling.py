"""How answers are drawn: what may be asked for, what a model's own files say, and a seed where none is given."""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable, Mapping
from typing import Any

from truetune.engines.decoder import Sampling
from truetune.errors import ConfigErrors, Finding

Allowed = Callable[[Any], bool]
RULES: dict[str, tuple[Allowed, str]] = {
    "temperature": (lambda value: 0 <= value <= 5, "0 (always the likeliest) to 5"),
    "top_p": (lambda value: 0 < value <= 1, "above 0, up to 1 (all words)"),
    "top_k": (lambda value: value >= 0, "0 (all words) or more"),
    "max_new_tokens": (lambda value: value >= 1, "1 or more"),
    "seed": (lambda value: 0 <= value < 2**63, f"0 to {2**63 - 1}"),
}
"""What may be chosen, when it is usable, and that in words."""
WHOLE = ("top_k", "max_new_tokens", "seed")
OWN = ("temperature", "top_p", "top_k", "max_new_tokens")
"""What a model's files and a run's settings may bring with them."""


def usable(name: str, value: Any) -> bool:
    """Whether a value can be used as it is."""
    kinds = int if name in WHOLE else (int, float)
    return isinstance(value, kinds) and not isinstance(value, bool) and math.isfinite(value) and RULES[name][0](value)


def checked(chosen: Mapping[str, Any]) -> dict[str, Any]:
    """The values that were chosen, without those that are None. Raises ConfigErrors `generation.bad_value`."""
    given = {name: value for name, value in chosen.items() if value is not None}
    bad = [
        Finding("generation.bad_value", f"{value!r} cannot be used", name, f"Give {RULES[name][1]}.")
        for name, value in given.items()
        if not usable(name, value)
    ]
    if bad:
        raise ConfigErrors(bad)
    return given


def own(found: Mapping[str, Any]) -> dict[str, Any]:
    """What a model's generation_config.json sets, as far as it is usable; `do_sample: false` is temperature 0."""
    known = {name: found[name] for name in OWN if usable(name, found.get(name))}
    if found.get("do_sample") is False:
        known["temperature"] = 0.0
    return known


def settled(own: Mapping[str, Any], chosen: Mapping[str, Any]) -> dict[str, Any]:
    """What answers are drawn with: what was chosen, else the model's own, else the defaults of `Sampling`."""
    defaults = {name: getattr(Sampling, name) for name in OWN}
    return {**defaults, "seed": None, **own, **chosen}


def fresh_seed() -> int:
    """A seed that a person can type again."""
    return secrets.randbelow(10**6)

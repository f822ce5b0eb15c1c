"""What pydantic finds, as sentences for a person: plain words, the right key, the nearest choice."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Mapping
from typing import Any

from truetune.config.foreign import FOREIGN, LATER_VALUES, RESERVED
from truetune.config.schema import SHORTHANDS, Config, EarlyStopping, defaults, fields, sections
from truetune.config.values import plain, shown
from truetune.errors import Finding

Place = tuple[str, ...]

KINDS = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "int_parsing_size": "a whole number of ordinary size",
    "float_type": "a number",
    "finite_number": "an ordinary number",
    "bool_type": "true or false",
    "string_type": "text",
    "string_sub_type": "text",
    "tuple_type": "a list",
    "dict_type": "a group of keys",
}
LIMITS = {
    "greater_than": ("more than", "gt"),
    "greater_than_equal": ("at least", "ge"),
    "less_than": ("less than", "lt"),
    "less_than_equal": ("at most", "le"),
}
EXAMPLES = {
    "resources.device": "auto, cpu, cuda, cuda:1 or mps",
    "output.name": "small letters, digits, `.`, `_` and `-`, at most 64, a letter or digit first",
}
"""What a key with a pattern takes."""

NEEDED = {
    "model": "the model to start from: `starter`, a hub id or a folder",
    "data": "the file with the rows to learn from",
}


def finding(error: Mapping[str, Any], where: str) -> Finding:
    """One of pydantic's errors; `where` is the file, the line and the dotted key."""
    place = tuple(map(str, error["loc"]))
    return SENTENCES.get(error["type"], wrong_value)(place, error, where)


def unknown(place: Place, error: Mapping[str, Any], where: str) -> Finding:
    """A key that is not ours: another tool's, a slip of the keyboard, or in the wrong section."""
    *above, key = place
    if not above and key in RESERVED:
        message = f"`{key}` is reserved for a later version"
        return Finding(code="config.reserved", message=message, where=where, hint="leave it out")
    return Finding(
        code="config.unknown_key", message=f"there is no key `{key}` {room(above)}", where=where, hint=suggest(place)
    )


def room(above: list[str]) -> str:
    return f"in `{'.'.join(above)}`" if above else "at the top level"


def suggest(place: Place) -> str:
    """Where the user meant to write it, as well as we can tell."""
    *above, key = place
    known = [name for name, _ in fields()]
    elsewhere = [name for name in known if name.rpartition(".")[2] == key]
    if key in known and "." in key:
        return f"{advice(key)}; dotted keys are for `--set`"
    foreign = FOREIGN.get(key.strip().lower().replace("-", "_"))
    if foreign:
        return "; ".join(part for part in (advice(foreign.key) if foreign.key else "", foreign.advice) if part)
    if elsewhere:
        return " or ".join(map(advice, elsewhere))
    return nearest(key, above, known)


def nearest(key: str, above: list[str], known: list[str]) -> str:
    here = keys_of(above)
    if match := difflib.get_close_matches(key.lower(), here, n=1, cutoff=0.6):
        return f"did you mean `{match[0]}`?"
    leaves = {name.rpartition(".")[2]: name for name in known}
    if match := difflib.get_close_matches(key.lower(), leaves, n=1, cutoff=0.75):
        return f"did you mean {leaves[match[0]]}?"
    return f"known here: {', '.join(here)}"


def keys_of(above: list[str]) -> list[str]:
    """The keys that may stand in a section, or at the top."""
    if above == ["evaluation", "early_stopping"]:
        return list(EarlyStopping.model_fields)
    section = sections().get(above[0]) if above else Config
    return list(section.model_fields) if section else []


def advice(key: str) -> str:
    """`data.max_length` -> how to write it in the file."""
    section, _, name = key.rpartition(".")
    return f"write it as `{name}` under `{section}:` ({key})" if section else f"write `{name}` at the top level"


def missing(place: Place, error: Mapping[str, Any], where: str) -> Finding:
    what = NEEDED.get(place[0], "a value")
    return Finding(
        code="config.missing", message=f"{'.'.join(place)} is missing: {what}", where=where, hint=missing_hint(place[0])
    )


def missing_hint(name: str) -> str:
    example = "starter" if name == "model" else "rows.jsonl"
    return f"write `{name}: {example}`, or give `--{name}`"


def choice(place: Place, error: Mapping[str, Any], where: str) -> Finding:
    """A value outside a closed list."""
    key = ".".join(place)
    choices = error["ctx"]["expected"].replace("'", "").replace(" or ", ", ").split(", ")
    if str(error["input"]) in LATER_VALUES.get(key, ()):
        message = f"{error['input']!r} is not in this version of TrueTune"
        hint = f"there is {listed(choices)}"
        return Finding(code="config.not_yet", message=message, where=where, hint=hint)
    near = difflib.get_close_matches(str(error["input"]).lower(), choices, n=1)
    hint = f"did you mean `{near[0]}`?" if near else left_out(place)
    message = f"must be {listed(choices)}, not {shown(error['input'])}"
    return Finding(code="config.choice", message=message, where=where, hint=hint)


def left_out(place: Place) -> str:
    """What a value is that nobody writes."""
    values: Any = defaults()
    for key in place:
        values = values.get(key) if isinstance(values, dict) else None
    usual = f", which is `{values}`" if isinstance(values, str | int) else ""
    return f"choose one of these, or leave it out for the default{usual}"


def listed(choices: list[str]) -> str:
    """`a, b or c`."""
    return " or ".join(part for part in (", ".join(choices[:-1]), choices[-1]) if part)


def wrong_type(place: Place, error: Mapping[str, Any], where: str) -> Finding:
    value = error["input"]
    hint = ""
    if isinstance(value, str) and error["type"] in ("int_type", "float_type") and number(value):
        hint = "leave the quotes out"
    if isinstance(value, int | float) and error["type"] == "string_type":
        hint = "put quotes around it"
    message = f"must be {KINDS[error['type']]}, not {shown(value)}"
    return Finding(code="config.type", message=message, where=where, hint=hint)


def number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def not_a_section(place: Place, error: Mapping[str, Any], where: str) -> Finding:
    """A plain value where keys should stand."""
    keys = ", ".join(keys_of(list(place)))
    short = f" or, in short, the {SHORTHANDS[place[0]]} as text" if place[0] in SHORTHANDS else ""
    message = f"must be a group of keys{short}, not {shown(error['input'])}"
    return Finding(code="config.type", message=message, where=where, hint=f"keys: {keys}")


def limit(place: Place, error: Mapping[str, Any], where: str) -> Finding:
    words, name = LIMITS[error["type"]]
    several = place == ("resources", "workers")
    hint = "training on several devices is not in this version" if several else meaning(place)
    message = f"must be {words} {plain(error['ctx'][name])}, not {shown(error['input'])}"
    return Finding(code="config.range", message=message, where=where, hint=hint)


def pattern(place: Place, error: Mapping[str, Any], where: str) -> Finding:
    wanted = EXAMPLES.get(".".join(place), "text without control characters")
    return Finding(
        code="config.value", message=f"must be {wanted}, not {shown(error['input'])}", where=where, hint=meaning(place)
    )


def wrong_value(place: Place, error: Mapping[str, Any], where: str) -> Finding:
    """Our own validators speak in whole sentences; what is left are pydantic's words."""
    cause = error.get("ctx", {}).get("error")
    message = str(cause) if cause else f"{error['msg'][:1].lower()}{error['msg'][1:]}, not {shown(error['input'])}"
    return Finding(code="config.value", message=message, where=where, hint=meaning(place))


def meaning(place: Place) -> str:
    """What the schema says of a key."""
    dotted = ".".join(map(str, place))
    return next((" ".join((field.description or "").split()) for key, field in fields() if key == dotted), "")


SENTENCES: dict[str, Callable[[Place, Mapping[str, Any], str], Finding]] = {
    "extra_forbidden": unknown,
    "missing": missing,
    "literal_error": choice,
    "model_type": not_a_section,
    "string_pattern_mismatch": pattern,
    **dict.fromkeys(KINDS, wrong_type),
    **dict.fromkeys(LIMITS, limit),
}

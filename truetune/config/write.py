"""Write `train.yml`: the commented file of `ft init`, and the reference page. Both come from the schema's texts."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from ruamel.yaml import YAML

from truetune.config.profiles import PROFILES
from truetune.config.schema import Config, Section, defaults, fields, sections

MAIN = (
    "model.path",
    "data.path",
    "method.type",
    "training.learning_rate",
    "training.epochs",
    "training.batch_size",
    "training.gradient_accumulation_steps",
)
"""Keys that stand first in their section and without `#`."""

HEAD = """\
# What `ft train` does. Only model and data are needed: a key behind `#` shows its default.
# `ft config show` prints every value and where it comes from, `ft config schema` describes this file to an editor.
version: 1
"""

ODD_SPACE = re.compile(r"[^\S ]")
END_OF_SENTENCE = re.compile(r"\.(?=\s|$)")


def template(model: str, data: str, chosen: Mapping[str, object] | None = None) -> str:
    """A commented train.yml. `chosen` holds dotted keys (`profile` too) that differ from the defaults."""
    given: dict[str, object] = {"model.path": model, "data.path": data, **(chosen or {})}
    values = flat(defaults()) | PROFILES.get(str(given.get("profile")), {}) | given
    active = {*MAIN, *given}
    parts = [HEAD, key_line("profile", values["profile"], "profile" in active, Config, 0)]
    for name, kind in sections().items():
        keys = sorted(kind.model_fields, key=lambda key: rank(f"{name}.{key}"))
        lines = [f"\n# {kind.__doc__}\n{name}:\n"]
        for key in keys:
            dotted = f"{name}.{key}"
            lines.append(key_line(key, values[dotted], dotted in active, kind, 2))
        parts += lines
    return "".join(parts)


def rank(dotted: str) -> int:
    """Main keys first, the others in the order of the schema (sorting is stable)."""
    return MAIN.index(dotted) if dotted in MAIN else len(MAIN)


def key_line(key: str, value: object, active: bool, kind: type[Section], indent: int) -> str:
    """`  epochs: 3      # Passes over the rows; 0.5 is half of them`."""
    text = f"{' ' * indent}{'' if active else '# '}{key}: {inline(value)}"
    return f"{text:<40}  # {short(kind.model_fields[key].description or '')}\n"


def short(description: str) -> str:
    """The first sentence, without its full stop."""
    text = " ".join(description.split())
    end = END_OF_SENTENCE.search(text)
    return text[: end.start()] if end else text


def inline(value: object) -> str:
    """A value as YAML on one line."""
    if isinstance(value, float) and 0 < abs(value) < 1e-3:
        return f"{Decimal(repr(value)):e}"
    if isinstance(value, str) and (ODD_SPACE.search(value) or value != value.strip()):
        # A JSON text is a YAML text; spaces that YAML would read its own way are escaped in it.
        return ODD_SPACE.sub(lambda space: f"\\u{ord(space[0]):04x}", json.dumps(value, ensure_ascii=False))
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = True
    yaml.width = 1_000_000
    yaml.allow_unicode = True
    out = io.StringIO()
    yaml.dump(tidy(value), out)
    return out.getvalue().removesuffix("...\n").strip()


def tidy(value: object) -> object:
    """Whole numbers without `.0`."""
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) < 2**53 else value


def flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """By dotted key."""
    nested = sections()
    result: dict[str, Any] = {}
    for name, value in values.items():
        result |= {f"{name}.{key}": inner for key, inner in value.items()} if name in nested else {name: value}
    return result


def reference() -> str:
    """The page `docs/reference/train-yml.md`: every key with its default and its meaning."""
    values, lines = flat(defaults()), ["# train.yml", "", "Made from the schema; a test compares them.", ""]
    titles = {name: kind.__doc__ for name, kind in sections().items()}
    section = None
    for dotted, field in fields():
        name = dotted.partition(".")[0] if "." in dotted else ""
        if name != section:
            section = name
            heading = [f"## {name}", "", str(titles[name])] if name else ["## The file"]
            lines += ["", *heading, "", "| key | default | meaning |", "|---|---|---|"]
        default = f"`{inline(values[dotted])}`" if dotted in values else "needed"
        lines.append(f"| `{dotted}` | {default} | {' '.join((field.description or '').split())} |")
    return "\n".join(lines).replace("\n\n\n", "\n\n") + "\n"

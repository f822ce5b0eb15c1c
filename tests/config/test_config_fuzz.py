"""Whatever stands in the file, the answer is a configuration or findings, never another exception."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from truetune.config import Config, fields
from truetune.config.load import loads
from truetune.errors import ConfigErrors

KEYS = [name for dotted, _ in fields() for name in dotted.split(".")]
PIECES = ["a", "model", "data", ":", ": ", "\n", "\n  ", "- ", "[", "]", "{", "}", ",", "'", '"', "#", "&x", "*x", "!t"]
PIECES += [
    "|",
    ">",
    "?",
    "%",
    "@",
    "`",
    "---",
    "...",
    "<<",
    "1",
    "1e-4",
    "\t",
    "null",
    "\\u",
    "\x00",
    "\ud7ff",
    "=",
    "~",
]

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(["5%", "100 steps", "auto", "none", "starter", "1e-4", "cuda:0", "qlora", "8GB"]),
)
names = st.one_of(st.sampled_from(KEYS), st.text(max_size=8))
values = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(names, inner, max_size=3)),
    max_leaves=6,
)


def answer(data: bytes, overrides: list[str] | None = None, given_values: dict[str, Any] | None = None) -> None:
    try:
        loaded = loads(data, Path("train.yml"), overrides or [], given_values)
    except ConfigErrors as errors:
        assert errors.findings
        assert all(finding.code.startswith("config.") and finding.message for finding in errors.findings)
        str(errors).encode()
    else:
        assert isinstance(loaded.config, Config)


@given(st.binary(max_size=200))
def test_random_bytes(data: bytes) -> None:
    answer(data)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=30).map("".join))
@example("model: !!float x\n")
@example("a: 2001-13-45\n")
@example("- " * 5000)
@example("{" * 500)
@example("a: " + "9" * 5000)
def test_random_yaml(text: str) -> None:
    answer(text.encode("utf-8", "surrogatepass"))


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(names, values, max_size=6))
def test_random_trees(tree: dict[str, Any]) -> None:
    answer(b"model: m\ndata: d\n", given_values={key: value for key, value in tree.items() if key})


@given(names, names, st.text(max_size=20))
def test_random_overrides(section: str, key: str, value: str) -> None:
    answer(b"model: m\ndata: d\n", [f"{section}.{key}={value}"])

"""Chat templates by name: for a model that brings none, or to teach it another family's.

Each writes what the family's own tokenizer configuration publishes, for whatever a model is served with. They are files
of Jinja text in `templates/`, and travel with what is trained like any other template.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from pathlib import Path

FOLDER = Path(__file__).with_name("templates")
TOKENS: dict[str, Sequence[str]] = {
    "alpaca": (),
    "chatml": ("<|im_start|>", "<|im_end|>"),
    "llama-2": (),
    "llama-3": ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    "mistral": ("[INST]", "[/INST]"),
    "gemma": ("<start_of_turn>", "<end_of_turn>"),
    "phi": ("<|user|>", "<|assistant|>", "<|end|>"),
    "qwen": ("<|im_start|>", "<|im_end|>"),
    "zephyr": (),
}
"""The templates, and which of their marks are tokens of their own in the family's models."""

UNPUBLISHED = frozenset({"alpaca"})
"""Of no tokenizer: a text of this kind begins as the model's texts begin."""

CONTROL = re.compile(r"<\|[^|<>\s'\"{}]{1,40}\|>")
"""A mark in a template that looks like a token."""


def source(name: str) -> str:
    """The Jinja text of a name in TOKENS."""
    return (FOLDER / f"{name}.jinja").read_text("utf-8")


def marks(name: str, text: str) -> list[str]:
    """What a template writes in the belief that it is one token each: known of a name, looked for in a user's file."""
    return list(TOKENS[name] if name in TOKENS else dict.fromkeys(CONTROL.findall(text)))


def advice(name: str) -> str:
    """For a name that is none: the nearest one, and all."""
    known = ("auto", "none", *TOKENS)
    near = difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.5)
    return f"{f'Did you mean {near[0]}? ' if near else ''}Known are {', '.join(known)}, or a file of Jinja text."

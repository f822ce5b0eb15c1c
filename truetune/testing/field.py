"""Real chat templates and vocabularies, as published with models. For tests.

They come in the source package of llama-cpp-python, which `scripts/fetch_templates.py` fetches at set-up; nothing of it
is kept in this repository, and tests go without where it is absent.
"""

from __future__ import annotations

import re
from pathlib import Path

import orjson
import tokenizers

from truetune import paths
from truetune.models.tokenizer import Tokenizer, load
from truetune.testing import tokens

PACKAGE, VERSION = "llama-cpp-python", "0.3.36"
TEMPLATES, VOCABULARIES = "templates", "vocabularies"
ABSENT = "no real templates: scripts/fetch_templates.py fetches them"


def folder() -> Path:
    """Where they are kept: `$TRUETUNE_TEST_CACHE`, else a folder of the user's cache."""
    root = paths.variable("TRUETUNE_TEST_CACHE") or "~/.cache/truetune-tests"
    return Path(root).expanduser() / f"{PACKAGE}-{VERSION}"


def templates() -> list[Path]:
    return sorted((folder() / TEMPLATES).glob("*.jinja"))


def vocabularies() -> list[Path]:
    return sorted((folder() / VOCABULARIES).glob("*.gguf"))


SPECIAL = re.compile(
    r"<\|[^|<>\s'\"{}]{1,40}\|>|<｜[^｜\s]{1,40}｜>|<\|[\w:]{1,40}>|<[\w:]{1,40}\|>|<\|\"\|>|</?s>|<SPECIAL_\d+>|<[\w▁]+:eos>"
    r"|\[/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS|TOOL_CONTENT|CALL_ID|ARGS)\]"
    r"|<(?:start|end)_of_turn>|<(?:beginning|end)_of_sentence>|<sep>|</?assistant>|\[e~\[|\]~b\]|\]~!b\[|\]<\]minimax\[>\["
)
"""Control tokens, in the ways in which models spell them."""
ADDED = re.compile(r"</?(?:mm:|seed:)?think>|</?(?:seed:|minimax:)?tool_call>|</?tool_response>|\[/?THINK\]")
"""Tokens of their own that are no control tokens."""


def build(path: Path, folder: Path, eos: str) -> Tokenizer:
    """A small tokenizer that has the control tokens of a template, and the template."""
    source = path.read_text("utf-8")
    special = dict.fromkeys((*tokens.SPECIALS, eos, *SPECIAL.findall(source)))
    tokens.byte_level(folder, template=source, specials=tuple(special))
    file, config = folder / "tokenizer.json", folder / "tokenizer_config.json"
    backend = tokenizers.Tokenizer.from_file(str(file))
    backend.add_tokens(list(dict.fromkeys(ADDED.findall(source))))
    backend.save(str(file))
    config.write_bytes(orjson.dumps({**orjson.loads(config.read_bytes()), "eos_token": eos}))
    return load(folder)

"""New tokens: what `model.new_tokens` adds to a model's tokenizer, and to the files of it that go with the result.

A token is a control token where the chat template writes it, and may then stand in no row; else it is a part of texts.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson
import tokenizers

from truetune.data.job import choose
from truetune.errors import UsageError
from truetune.models.tokenizer import Tokenizer

Entry = Mapping[str, Any]
"""`content`, `id`, and whether it is `special`."""


def entries(texts: Sequence[str], tokenizer: Tokenizer, template: str, folder: Path) -> list[dict[str, Any]]:
    """The tokens with their ids: those that the tokenizer has keep theirs. `template` is `data.template`, `folder`
    where train.yml stands. Raises UsageError `model.token_twice`."""
    if len(set(texts)) < len(texts):
        raise UsageError(
            "a token stands there twice",
            code="model.token_twice",
            where="model.new_tokens",
            hint="Write each once.",
        )
    source = choose(template, tokenizer, folder).source if texts else ""
    known = {text: tokenizer.id(text) for text in texts}
    backend = copied(tokenizer)
    backend.add_tokens([text for text in texts if known[text] is None])
    return [
        {
            "content": text,
            "id": backend.token_to_id(text),
            "special": text in (source if known[text] is None else tokenizer.special_tokens),
        }
        for text in texts
    ]


def copied(tokenizer: Tokenizer) -> tokenizers.Tokenizer:
    return tokenizers.Tokenizer.from_str(tokenizer.backend.to_str())


def extended(tokenizer: Tokenizer, added: Sequence[Entry]) -> Tokenizer:
    """The tokenizer with these tokens, whose ids follow on its own."""
    if not added:
        return tokenizer
    backend = copied(tokenizer)
    missing = [entry for entry in added if backend.token_to_id(entry["content"]) is None]
    for entry in missing:
        token = tokenizers.AddedToken(entry["content"], special=entry["special"], normalized=False)
        (backend.add_special_tokens if entry["special"] else backend.add_tokens)([token])
    digest = hashlib.sha256(tokenizer.digest.encode() + orjson.dumps(list(added)))
    return dataclasses.replace(tokenizer, backend=backend, digest=digest.hexdigest())


def write(path: Path, added: Sequence[Entry]) -> None:
    """Put the tokens into a tokenizer.json that lacks them."""
    body = orjson.loads(path.read_bytes())
    stand = {entry["id"] for entry in body.get("added_tokens", [])}
    vocabulary = body["model"].get("vocab")
    known = set(vocabulary) if isinstance(vocabulary, dict) else {piece[0] for piece in vocabulary or []}
    rules = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    more = [dict(entry) | rules for entry in added if entry["id"] not in stand and entry["content"] not in known]
    body["added_tokens"] = [*body.get("added_tokens", []), *more]
    path.write_bytes(orjson.dumps(body, option=orjson.OPT_INDENT_2))

"""A tokenizer as files that leave nothing to other programs: what was made of tokenizer.model goes out as
tokenizer.json, with its named tokens beside it."""

from __future__ import annotations

from pathlib import Path

import orjson

from truetune.models.tokenizer import PIECES, Tokenizer

JSON, CONFIG = "tokenizer.json", "tokenizer_config.json"


def complete(target: Path, encode: Tokenizer) -> None:
    """Where a folder has no tokenizer.json it gets that of `encode`, in place of SentencePiece's own file."""
    if (target / JSON).is_file():
        return
    (target / JSON).write_text(encode.backend.to_str(), "utf-8")
    (target / PIECES).unlink(missing_ok=True)
    path = target / CONFIG
    body = orjson.loads(path.read_bytes()) if path.is_file() else {}
    own = {"tokenizer_class": "PreTrainedTokenizerFast", "add_bos_token": encode.adds_bos, **encode.tokens}
    path.write_bytes(orjson.dumps(body | own, option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS) + b"\n")

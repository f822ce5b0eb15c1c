"""The tokenizer of a GGUF file: ids from llama.cpp itself, texts from the pieces in the file.

Two kinds are read: byte-level BPE (`gpt2`), whose pieces are spelled in GPT-2's letters for bytes, and SentencePiece's
(`llama`), with `▁` for a space and `<0xNN>` for a byte.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from truetune.engines.gguf.process import ended
from truetune.errors import InputError, UsageError
from truetune.models import gguf_header
from truetune.models.gguf_header import Reader
from truetune.models.template import Template
from truetune.models.tokenizer import Tokenizer

KINDS = ("gpt2", "llama")
UNKNOWN, CONTROL, USER, BYTE = 2, 3, 4, 6
"""Types of tokens that are not plain pieces."""
HEX = re.compile(r"<0x([0-9A-Fa-f]{2})>")
ROLES = {"bos": "bos_token", "eos": "eos_token", "unknown": "unk_token", "padding": "pad_token"}
ENDS = ("eos", "eot", "eom")
PART, NOTHING, BROKEN = -1, -2, -3
"""Instead of ids: a part of a character that was not told; what goes before it; an answer that llama.cpp gave up."""

Ask = Callable[[str, Any], Any]
"""(path, body) -> llama.cpp's answer."""


class Keeping(Reader):
    """Reads a header with its lists."""

    def list(self, depth: int) -> Any:
        kind, count = self.number("I"), self.number("Q")
        if kind in gguf_header.SCALARS:
            letter = gguf_header.SCALARS[kind]
            self.room(count, struct.calcsize("<" + letter))
            return list(struct.unpack(f"<{count}{letter}", self.take(count * struct.calcsize("<" + letter))))
        self.room(count, 8)
        return [self.value(kind, depth + 1) for _ in range(count)]


def keys(path: Path) -> dict[str, Any]:
    """The keys of a file, lists included. Raises InputError `model.bad_gguf`."""
    gguf_header.check(path)
    with path.open("rb") as file:
        reader = Keeping(file, path.stat().st_size)
        reader.take(8)
        reader.number("Q")
        return gguf_header.pairs(reader, reader.number("Q"))


@dataclass(frozen=True)
class Added:
    """As `tokenizers` describes an added token."""

    content: str
    special: bool


@dataclass(frozen=True)
class Encoded:
    ids: list[int]


class Backend:
    """What `Tokenizer` asks of `tokenizers`, answered by llama.cpp and the file."""

    def __init__(self, values: dict[str, Any], ask: Ask) -> None:
        self.ask = ask
        self.tokens: list[str] = values["tokenizer.ggml.tokens"]
        self.kinds: list[int] = values.get("tokenizer.ggml.token_type") or [1] * len(self.tokens)
        self.sentence = values.get("tokenizer.ggml.model") == "llama"
        self.space = self.sentence and bool(values.get("tokenizer.ggml.add_space_prefix", True))
        self.places = {text: at for at, text in enumerate(self.tokens)}
        self.letters = {letter: byte for byte, letter in enumerate(alphabet())}
        self.texts: dict[str, int] = {}
        """Numbers below `BROKEN` that stand for texts."""
        self.spellings: list[bytes] = []

    def piece(self, token: int) -> bytes:
        """The bytes that a token stands for. Raises ResourceError `engine.ended`."""
        if token == BROKEN:
            raise ended()
        if token < BROKEN:
            return self.spellings[BROKEN - 1 - token]
        if token < 0:
            return b"\xff" if token == PART else b""
        text, kind = self.tokens[token], self.kinds[token]
        if kind in (UNKNOWN, CONTROL, USER):
            return text.encode()
        if kind == BYTE and (found := HEX.fullmatch(text)):
            return bytes([int(found[1], 16)])
        if self.sentence:
            return text.replace("▁", " ").encode()
        return b"".join(bytes([self.letters[one]]) if one in self.letters else one.encode() for one in text)

    def spelled(self, text: str) -> int:
        """A number that stands for a text whose tokens are not known."""
        if text not in self.texts:
            self.spellings.append(text.encode())
            self.texts[text] = BROKEN - len(self.spellings)
        return self.texts[text]

    def marks(self, token: int) -> bool:
        """Whether it is a control token."""
        return token >= 0 and self.kinds[token] == CONTROL

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = False) -> str:
        kept = [token for token in ids if not (skip_special_tokens and self.marks(token))]
        text = b"".join(map(self.piece, kept)).decode("utf-8", "replace")
        return text[1:] if self.space and text.startswith(" ") else text

    def encode(self, text: str, add_special_tokens: bool = True) -> Encoded:
        body = {"content": text, "add_special": add_special_tokens, "parse_special": True}
        return Encoded([int(each) for each in self.ask("/tokenize", body)["tokens"]])

    def token_to_id(self, text: str) -> int | None:
        return self.places.get(text)

    def id_to_token(self, token: int) -> str | None:
        return self.tokens[token] if 0 <= token < len(self.tokens) else None

    def get_vocab(self, with_added_tokens: bool = True) -> dict[str, int]:
        return self.places

    def get_added_tokens_decoder(self) -> dict[int, Added]:
        every = enumerate(zip(self.tokens, self.kinds, strict=True))
        return {at: Added(text, kind != USER) for at, (text, kind) in every if kind in (UNKNOWN, CONTROL, USER)}

    def to_str(self) -> str:
        raise UsageError(
            "a GGUF file's answers follow no JSON schema here",
            code="generation.engine",
            where="response_format",
            hint="Leave it out, or serve the model that the file was made from.",
        )


def backend(values: dict[str, Any], ask: Ask, path: Path) -> Backend:
    """Raises InputError `model.tokenizer`."""
    kind = values.get("tokenizer.ggml.model")
    if kind not in KINDS or not values.get("tokenizer.ggml.tokens"):
        raise InputError(
            f"the file's tokenizer is of the kind {str(kind)[:40]!r}, which is not read here",
            code="model.tokenizer",
            where=str(path),
            hint=f"Files with tokenizers of the kinds {' and '.join(KINDS)} are served.",
        )
    return Backend(values, ask)


def tokenizer(backend: Backend, values: dict[str, Any], path: Path) -> Tokenizer:
    """The tokenizer and chat template of a file. Raises TemplateError."""
    numbers = {name: values.get(f"tokenizer.ggml.{name}_token_id") for name in {**ROLES, **dict.fromkeys(ENDS)}}
    known = {name: at for name, at in numbers.items() if isinstance(at, int) and at < len(backend.tokens)}
    tokens = {role: backend.tokens[known[name]] for name, role in ROLES.items() if name in known}
    ends = tuple(dict.fromkeys(known[name] for name in ENDS if name in known))
    source = values.get("tokenizer.chat_template")
    return Tokenizer(
        backend=cast(Any, backend),
        tokens=tokens,
        eos_ids=ends,
        adds_bos=bool(values.get("tokenizer.ggml.add_bos_token", backend.sentence)) and "bos_token" in tokens,
        template=Template(source, tokens, path.name) if isinstance(source, str) else None,
        unk_id=known.get("unknown"),
        digest="",
    )


def alphabet() -> Iterator[str]:
    """GPT-2's letter for each byte: itself where it can be seen, else the next letter from 256 on."""
    seen = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = iter(range(256, 512))
    return (chr(byte if byte in seen else next(others)) for byte in range(256))

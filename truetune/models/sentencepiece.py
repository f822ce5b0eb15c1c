"""A `tokenizer.model` of SentencePiece as a tokenizer.json, for folders that bring no other: read as what it is, a
protocol buffer, with no library for either.

Source: sentencepiece_model.proto of google/sentencepiece. Both kinds of model are made: BPE, whose merges are what the
pieces can be put together from, in the order of their scores, and Unigram.
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SPACE = "▁"
NORMAL, UNKNOWN, CONTROL, ADDED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
"""Types of pieces."""
UNIGRAM, BPE = 1, 2
LARGEST = 2_000_000
"""Pieces; more are of no tokenizer."""
MULTIPLE = " {2,}"


@dataclass(frozen=True)
class Spec:
    """What a file says. `charsmap` are the rules that rewrite characters, as SentencePiece compiles them."""

    pieces: list[tuple[str, float, int]]
    """Text, score, type."""
    kind: int
    byte_fallback: bool
    unk_id: int
    bos_id: int
    eos_id: int
    pad_id: int
    charsmap: bytes
    prefix: bool
    """A space is put before a text."""
    squeezed: bool
    """Spaces around a text, and all but one inside, are dropped."""
    suffix: bool
    """Spaces belong to the word before them."""

    def named(self) -> dict[str, str]:
        """`bos_token`, … -> text, those that it has."""
        ids = {"bos_token": self.bos_id, "eos_token": self.eos_id, "unk_token": self.unk_id, "pad_token": self.pad_id}
        return {name: self.pieces[at][0] for name, at in ids.items() if 0 <= at < len(self.pieces)}


def read(path: Path) -> Spec:
    """Raises ValueError with what is wrong, OSError."""
    found: dict[int, list[bytes]] = {}
    for number, value in fields(path.read_bytes()):
        if isinstance(value, bytes):
            found.setdefault(number, []).append(value)
    pieces = [piece(each) for each in found.get(1, [])]
    if not 0 < len(pieces) <= LARGEST:
        raise ValueError(f"it has {len(pieces)} pieces")
    trained, normal = (dict(fields(found.get(number, [b""])[-1])) for number in (2, 3))
    if normal.get(5, 1) != 1:
        raise ValueError("it leaves spaces as they are")
    charsmap = normal.get(2, b"")
    return Spec(
        pieces=pieces,
        kind=whole(trained.get(3, UNIGRAM)),
        byte_fallback=bool(trained.get(35, 0)),
        unk_id=whole(trained.get(40, 0)),
        bos_id=whole(trained.get(41, 1)),
        eos_id=whole(trained.get(42, 2)),
        pad_id=whole(trained.get(43, -1)),
        charsmap=charsmap if isinstance(charsmap, bytes) else b"",
        prefix=bool(normal.get(3, 1)),
        squeezed=bool(normal.get(4, 1)),
        suffix=bool(trained.get(24, 0)),
    )


def piece(data: bytes) -> tuple[str, float, int]:
    values = dict(fields(data))
    text, score = values.get(1, b""), values.get(2, 0.0)
    assert isinstance(text, bytes)
    return text.decode("utf-8"), float(score) if isinstance(score, float) else 0.0, whole(values.get(3, NORMAL))


def whole(value: int | float | bytes) -> int:
    """Of 64 bits, with its sign. Raises ValueError."""
    if not isinstance(value, int):
        raise ValueError("a field is no whole number")
    return value - 2**64 if value >= 2**63 else value


def fields(data: bytes) -> Iterator[tuple[int, int | float | bytes]]:
    """(number, value) of a message, one after another. Raises ValueError where it is cut off, or no message."""
    at = 0
    while at < len(data):
        key, at = varint(data, at)
        number, wire = key >> 3, key & 7
        if wire == 0:
            value, at = varint(data, at)
            yield number, value
            continue
        if wire == 2:
            size, at = varint(data, at)
        else:
            size = {1: 8, 5: 4}.get(wire, -1)
        end = at + size
        if size < 0 or end > len(data):
            raise ValueError("it is cut off, or no model of SentencePiece")
        yield number, struct.unpack("<f", data[at:end])[0] if wire == 5 else data[at:end]
        at = end


def varint(data: bytes, at: int) -> tuple[int, int]:
    found = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            break
        found |= (data[at] & 127) << shift
        at += 1
        if data[at - 1] < 128:
            return found, at
    raise ValueError("it is cut off, or no model of SentencePiece")


def document(spec: Spec, begins: bool) -> dict[str, Any]:
    """The tokenizer.json. `begins`: a text begins with BOS. Raises ValueError for kinds that are not made."""
    if spec.kind not in (UNIGRAM, BPE) or spec.suffix:
        raise ValueError("it cuts texts in a way that is not made here")
    if not 0 <= spec.unk_id < len(spec.pieces):
        raise ValueError("it has no token for what it does not know")
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": list(added(spec)),
        "normalizer": {"type": "Sequence", "normalizers": list(rewriting(spec))},
        "pre_tokenizer": None,
        "post_processor": beginning(spec) if begins else None,
        "decoder": decoder(spec),
        "model": bpe(spec) if spec.kind == BPE else unigram(spec),
    }


def added(spec: Spec) -> Iterator[dict[str, Any]]:
    for at, (text, _, kind) in enumerate(spec.pieces):
        if kind in (UNKNOWN, CONTROL, ADDED):
            flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
            content = text.replace(SPACE, " ") if kind == ADDED else text
            yield {"id": at, "content": content, **flags, "special": kind != ADDED}


def rewriting(spec: Spec) -> Iterator[dict[str, Any]]:
    """The steps before cutting, in order."""
    if spec.charsmap:
        yield {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(spec.charsmap).decode()}
    if spec.squeezed:
        yield {"type": "Strip", "strip_left": True, "strip_right": True}
        yield {"type": "Replace", "pattern": {"Regex": MULTIPLE}, "content": " "}
    if spec.prefix:
        yield {"type": "Prepend", "prepend": SPACE}
    yield {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}


def decoder(spec: Spec) -> dict[str, Any]:
    steps: list[dict[str, Any]] = [{"type": "Replace", "pattern": {"String": SPACE}, "content": " "}]
    steps += [{"type": "ByteFallback"}] if spec.byte_fallback else []
    steps += [{"type": "Fuse"}]
    steps += [{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if spec.prefix else []
    return {"type": "Sequence", "decoders": steps}


def beginning(spec: Spec) -> dict[str, Any]:
    text = spec.named()["bos_token"]
    begin: dict[str, Any] = {"SpecialToken": {"id": text, "type_id": 0}}
    one, two = ({"Sequence": {"id": name, "type_id": 0}} for name in "AB")
    special = {text: {"id": text, "ids": [spec.bos_id], "tokens": [text]}}
    return {"type": "TemplateProcessing", "single": [begin, one], "pair": [begin, one, two], "special_tokens": special}


def unigram(spec: Spec) -> dict[str, Any]:
    vocabulary = [[text, score] for text, score, _ in spec.pieces]
    return {"type": "Unigram", "unk_id": spec.unk_id, "vocab": vocabulary, "byte_fallback": spec.byte_fallback}


def bpe(spec: Spec) -> dict[str, Any]:
    vocabulary = {text: at for at, (text, _, _) in enumerate(spec.pieces)}
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": spec.pieces[spec.unk_id][0],
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": True,
        "byte_fallback": spec.byte_fallback,
        "ignore_merges": False,
        "vocab": vocabulary,
        "merges": merges(spec, vocabulary),
    }


def merges(spec: Spec, vocabulary: dict[str, int]) -> list[list[str]]:
    """Every pair of pieces that makes a third, in the order in which SentencePiece would put them together: by the
    score of what they make, then by the pieces."""
    plain = {text for text, _, kind in spec.pieces if kind == NORMAL}
    found = []
    for text, score, kind in spec.pieces:
        if kind != NORMAL:
            continue
        halves = ((text[:at], text[at:]) for at in range(1, len(text)))
        found += [
            (-score, vocabulary[one], vocabulary[other], one, other)
            for one, other in halves
            if one in plain and other in plain
        ]
    found.sort()
    return [[one, other] for *_, one, other in found]

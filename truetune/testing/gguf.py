"""Tokenizers out of GGUF files, the format of llama.cpp: real vocabularies in a form that needs no model. For tests.

Such a file holds keys and values; those of the tokenizer are its pieces, their kinds and scores, the merges, and the
name of the way in which text is cut before merging, of which the file does not hold the rules: they stand here.
Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import mmap
import struct
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
TEXT, LIST = 8, 9
CONTROL, ADDED = 3, 4
"""Kinds of pieces: a control token, and another that is no result of merging."""

WORD = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?LETTERS|\p{N}DIGITS| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
"""How Llama 3 and Qwen cut text."""
CUTS = {
    "llama-bpe": [WORD.replace("LETTERS", r"\p{L}+").replace("DIGITS", "{1,3}")],
    "qwen2": [WORD.replace("LETTERS", r"\p{L}+").replace("DIGITS", "")],
    "qwen35": [
        WORD.replace("LETTERS", r"[\p{L}\p{M}]+")
        .replace("DIGITS", "")
        .replace(r"[^\s\p{L}\p{N}]", r"[^\s\p{L}\p{M}\p{N}]")
    ],
    "deepseek-coder": [r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-퟿]+", r"\p{N}"],
    "deepseek-llm": [r"[\r\n]", r"\s?\p{L}+", r"\s?[!-/:-~！-／：-～‘-‟　-。]+", r"\s+$", "[一-龥ࠀ-一가-퟿]+", r"\p{N}"],
}
DIGITS = {"command-r", "refact", "starcoder"}
"""Those that cut like GPT-2, and each digit by itself."""
NORMALISED = {"command-r", "mpt", "qwen2"}
"""Those that compose characters first (NFC)."""


def read(path: Path) -> dict[str, Any]:
    """The keys and values of a file."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        magic, _, _, count = struct.unpack_from("<4sIQQ", data, 0)
        assert magic == b"GGUF"
        place, found = 24, dict[str, Any]()
        for _ in range(count):
            key, place = _value(data, place, TEXT)
            (kind,) = struct.unpack_from("<I", data, place)
            found[key], place = _value(data, place + 4, kind)
        return found


def _value(data: mmap.mmap, place: int, kind: int) -> tuple[Any, int]:
    if kind == TEXT:
        (size,) = struct.unpack_from("<Q", data, place)
        end = place + 8 + size
        return data[place + 8 : end].decode("utf-8", "replace"), end
    if kind == LIST:
        inner, count = struct.unpack_from("<IQ", data, place)
        return _list(data, place + 12, inner, count)
    return struct.unpack_from("<" + NUMBERS[kind], data, place)[0], place + struct.calcsize(NUMBERS[kind])


def _list(data: mmap.mmap, place: int, kind: int, count: int) -> tuple[list[Any], int]:
    if kind in NUMBERS:
        layout = f"<{count}{NUMBERS[kind]}"
        return list(struct.unpack_from(layout, data, place)), place + struct.calcsize(layout)
    values = []
    for _ in range(count):
        value, place = _value(data, place, kind)
        values.append(value)
    return values, place


def tokenizer(values: dict[str, Any]) -> Tokenizer:
    """Of byte-level BPE, of a SentencePiece BPE, of Gemma's BPE or of WordPiece. Raises KeyError for other kinds."""
    build = {"gpt2": _bytes, "llama": _pieces, "gemma4": _gemma, "bert": _words}[values["tokenizer.ggml.model"]]
    backend = build(values)
    pieces, kinds = values["tokenizer.ggml.tokens"], values["tokenizer.ggml.token_type"]
    for special, wanted in ((True, CONTROL), (False, ADDED)):
        found = [piece for piece, kind in zip(pieces, kinds, strict=True) if kind == wanted]
        added = [AddedToken(piece, special=special, normalized=False) for piece in found]
        backend.add_special_tokens(added) if special else backend.add_tokens(added)
    return backend


def _bytes(values: dict[str, Any]) -> Tokenizer:
    name = values["tokenizer.ggml.pre"]
    vocab = {piece: number for number, piece in enumerate(values["tokenizer.ggml.tokens"])}
    backend = Tokenizer(models.BPE(vocab=vocab, merges=_merges(values), ignore_merges=name == "llama-bpe"))
    if name in NORMALISED:
        backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = pre_tokenizers.Sequence(_cut(name))
    backend.decoder = decoders.ByteLevel()
    return backend


def _cut(name: str) -> list[pre_tokenizers.PreTokenizer]:
    if name in CUTS:
        steps = [pre_tokenizers.Split(Regex(cut), "isolated") for cut in CUTS[name]]
        return [*steps, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    plain = pre_tokenizers.ByteLevel(add_prefix_space=False)
    if name == "falcon":
        threes = pre_tokenizers.Split(Regex("[0-9][0-9][0-9]"), "isolated")
        return [pre_tokenizers.Punctuation("contiguous"), plain, pre_tokenizers.Digits(), threes]
    return [pre_tokenizers.Digits(individual_digits=True), plain] if name in DIGITS else [plain]


def _pieces(values: dict[str, Any]) -> Tokenizer:
    """Merges are what the pieces can be put together from, in the order of their scores."""
    pieces, scores = values["tokenizer.ggml.tokens"], values["tokenizer.ggml.scores"]
    vocab = {piece: number for number, piece in enumerate(pieces)}
    found = []
    for piece, number in vocab.items():
        halves = [(piece[:at], piece[at:]) for at in range(1, len(piece))]
        known = [(vocab[one], vocab[two], one, two) for one, two in halves if one in vocab and two in vocab]
        found += [(-scores[number], *pair) for pair in sorted(known)]
    found.sort(key=lambda each: each[0])
    backend = _spaced(values, [(one, two) for _, _, _, one, two in found])
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    return backend


def _gemma(values: dict[str, Any]) -> Tokenizer:
    """Lines are cut off; runs of line breaks are pieces."""
    backend = _spaced(values, _merges(values))
    backend.normalizer = normalizers.Replace(" ", "▁")
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"[^\n]+|[\n]+"), "isolated")
    return backend


def _merges(values: dict[str, Any]) -> list[tuple[str, str]]:
    halves = (merge.partition(" ") for merge in values["tokenizer.ggml.merges"])
    return [(one, two) for one, _, two in halves]


def _spaced(values: dict[str, Any], merges: list[tuple[str, str]]) -> Tokenizer:
    """A BPE in which `▁` stands for a space, and bytes for what has no piece."""
    pieces = values["tokenizer.ggml.tokens"]
    vocab = {piece: number for number, piece in enumerate(pieces)}
    unknown = pieces[values.get("tokenizer.ggml.unknown_token_id", 0)]
    backend = Tokenizer(models.BPE(vocab=vocab, merges=merges, unk_token=unknown, fuse_unk=True, byte_fallback=True))
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    backend.decoder = decoders.Sequence(steps)
    return backend


def _words(values: dict[str, Any]) -> Tokenizer:
    """Where GGUF marks the beginning of a word, WordPiece marks what is none."""
    pieces, kinds = values["tokenizer.ggml.tokens"], values["tokenizer.ggml.token_type"]
    names = [
        piece if kind == CONTROL or piece.startswith("[") else piece[1:] if piece[0] == "▁" else f"##{piece}"
        for piece, kind in zip(pieces, kinds, strict=True)
    ]
    vocab = {piece: number for number, piece in enumerate(names)}
    backend = Tokenizer(models.WordPiece(vocab=vocab, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    return backend

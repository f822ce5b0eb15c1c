"""A tokenizer as a GGUF file holds it: tokens, their types, what merges them, and the flags of llama.cpp.

Three kinds are written, from tokenizer.json or what is made of tokenizer.model: byte-level BPE (GPT-2's and its
followers: `gpt2`), SentencePiece's BPE with bytes for unknown characters (Llama 2, Mistral, Gemma: `llama`) and its
Unigram (`t5`).
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
from gguf import TokenType
from tokenizers.normalizers import NFC

from truetune.errors import InputError
from truetune.export.gguf import pre
from truetune.models import tokenizer
from truetune.models.tokenizer import Tokenizer

SPACE = "▁"
BYTE = re.compile(r"<0x[0-9A-F]{2}>")
LAST = -1e9
"""The score of a token that nothing merges into."""
STRIPS = {"</s>": True, "<unk>": False, "<s>": False, "<|endoftext|>": False}
"""What llama.cpp does with spaces behind these, where a model is called Phi-3; it drops them behind other special
tokens then, and behind none of another model."""
PHI = ("phi-3", "phi3")
COMPOSES = "llama.cpp does not compose accents (NFC) as the tokenizer does: texts in decomposed form get other ids"


@dataclass(frozen=True)
class Vocabulary:
    """What is written of a tokenizer. `scores` belong to the model `llama`, `merges` to `gpt2`."""

    model: str
    pre: str
    tokens: list[str]
    types: list[int]
    scores: list[float] | None
    merges: list[str] | None
    space: bool
    """A space is put before a text, and behind each special token in it."""
    stripped: bool
    """Spaces behind special tokens are dropped, which llama.cpp does for models of one name."""
    notes: tuple[str, ...] = ()
    charsmap: bytes = b""
    """Of `t5`: the rules that rewrite characters."""
    squeezed: bool = False
    """Of `t5`: spaces around a text, and all but one inside, are dropped."""

    def write(self, writer: gguf.GGUFWriter) -> None:
        writer.add_tokenizer_model(self.model)
        writer.add_tokenizer_pre(self.pre)
        writer.add_token_list(self.tokens)
        writer.add_token_types(self.types)
        if self.scores is not None:
            writer.add_token_scores(self.scores)
        if self.merges is not None:
            writer.add_token_merges(self.merges)
        writer.add_add_space_prefix(self.space)
        if self.model == "t5":
            writer.add_remove_extra_whitespaces(self.squeezed)
            if self.charsmap:
                writer.add_precompiled_charsmap(self.charsmap)


def read(folder: Path, rows: int) -> Vocabulary:
    """The vocabulary of a folder's tokenizer, for an embedding of `rows` rows.

    Raises InputError `export.tokenizer` for what llama.cpp would do otherwise.
    """
    body = tokenizer.document(folder)
    model = body["model"]
    if model.get("type") not in ("BPE", "Unigram"):
        raise refused(f"is of the kind {model.get('type')}", folder)
    added = body.get("added_tokens") or []
    stripped = spaces_dropped(added, folder)
    if model["type"] == "Unigram":
        return unigram(body, rows, stripped, folder)
    pieces = pieces_of(model["vocab"], added, rows, folder)
    for name in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(name):
            raise refused(f"has {name} = {model[name]!r}", folder)
    if model.get("byte_fallback"):
        return sentence_pieces(body, pieces, stripped, folder)
    return byte_level(body, pieces, stripped, folder)


def refused(what: str, folder: Path) -> InputError:
    return InputError(
        f"the tokenizer {what}, which llama.cpp does not do",
        code="export.tokenizer",
        where=str(folder / "tokenizer.json"),
        hint="Its ids would be other ones than those of the training. Export with --format merged.",
    )


@dataclass(frozen=True)
class Pieces:
    """Every token by id, and which of them are special (`CONTROL`) or added (`USER_DEFINED`)."""

    tokens: list[str]
    types: list[int]


def composes(encode: Tokenizer) -> bool:
    """Whether a tokenizer composes characters of several parts first."""
    return isinstance(encode.backend.normalizer, NFC)


def pieces_of(vocab: Mapping[str, int], added: Sequence[Mapping[str, Any]], rows: int, folder: Path) -> Pieces:
    """Tokens by id, up to the rows of the embedding; ids without a token are unused."""
    tokens = [f"[PAD{at}]" for at in range(rows)]
    types = [int(TokenType.UNUSED)] * rows
    known = [(text, at, TokenType.NORMAL) for text, at in vocab.items()]
    for each in added:
        kind = TokenType.CONTROL if each.get("special") else TokenType.USER_DEFINED
        known.append((each["content"], each["id"], kind))
    for text, at, kind in known:
        if at >= rows:
            raise refused(f"has the token {text[:40]!r} with the id {at}, and the embedding has {rows} rows", folder)
        tokens[at], types[at] = text, int(kind)
    return Pieces(tokens, types)


def spaces_dropped(added: Sequence[Mapping[str, Any]], folder: Path) -> bool:
    """Whether spaces behind special tokens are dropped as llama.cpp does it for Phi-3; any other way is refused."""
    for each in added:
        if each.get("lstrip") or each.get("single_word"):
            raise refused(f"takes in what stands beside {each['content'][:40]!r}", folder)
    marks = [each for each in added if each.get("special") or each.get("rstrip")]
    if not any(each.get("rstrip") for each in marks):
        return False
    known = {each["content"]: bool(each.get("rstrip")) for each in marks}
    if known.keys() >= STRIPS.keys() and all(STRIPS.get(text, True) == strips for text, strips in known.items()):
        return True
    raise refused("drops the spaces behind some special tokens", folder)


def byte_level(body: Mapping[str, Any], pieces: Pieces, stripped: bool, folder: Path) -> Vocabulary:
    name = pre.name(body)
    if name is None:
        raise refused("cuts texts into words in a way", folder)
    notes: tuple[str, ...] = ()
    normalizer = body.get("normalizer")
    if normalizer and normalizer.get("type") == "NFC":
        notes = (COMPOSES,)
    elif normalizer:
        raise refused(f"rewrites texts ({normalizer.get('type')})", folder)
    merges = [each if isinstance(each, str) else " ".join(each) for each in body["model"]["merges"]]
    return Vocabulary("gpt2", name, pieces.tokens, pieces.types, None, merges, False, stripped, notes)


def sentence_pieces(body: Mapping[str, Any], pieces: Pieces, stripped: bool, folder: Path) -> Vocabulary:
    """The score of a token is minus the rank of the first merge that makes it: the best merge has the highest."""
    space = prefix(body, folder)
    scores = [LAST] * len(pieces.tokens)
    places = {text: at for at, text in enumerate(pieces.tokens)}
    for rank, each in enumerate(body["model"]["merges"]):
        one, other = each.split(" ", 1) if isinstance(each, str) else each
        at = places[one + other]
        if scores[at] == LAST:
            scores[at] = -float(rank)
    types, tokens = list(pieces.types), list(pieces.tokens)
    for at, text in enumerate(tokens):
        if types[at] == TokenType.NORMAL and BYTE.fullmatch(text):
            types[at] = int(TokenType.BYTE)
        elif text == body["model"].get("unk_token"):
            types[at] = int(TokenType.UNKNOWN)
        elif types[at] == TokenType.USER_DEFINED:
            tokens[at] = text.replace(SPACE, " ")
    return Vocabulary("llama", "default", tokens, types, scores, None, space, stripped)


def unigram(body: Mapping[str, Any], rows: int, stripped: bool, folder: Path) -> Vocabulary:
    """Pieces with their log-probabilities; of a text the likeliest cut is taken."""
    model = body["model"]
    if model.get("byte_fallback"):
        raise refused("is of the kind Unigram, with bytes for characters that it does not know", folder)
    every = [text for text, _ in model["vocab"]]
    made = pieces_of({text: at for at, text in enumerate(every)}, body.get("added_tokens") or [], rows, folder)
    scores = [float(score) for _, score in model["vocab"]] + [0.0] * (rows - len(every))
    types, tokens = list(made.types), list(made.tokens)
    types[model["unk_id"]] = int(TokenType.UNKNOWN)
    for at, kind in enumerate(types):
        if kind == TokenType.USER_DEFINED:
            tokens[at] = tokens[at].replace(SPACE, " ")
    charsmap, squeezed, space = rewritten(body, folder)
    return Vocabulary(
        "t5", "default", tokens, types, scores, None, space, stripped, charsmap=charsmap, squeezed=squeezed
    )


def rewritten(body: Mapping[str, Any], folder: Path) -> tuple[bytes, bool, bool]:
    """(rules for characters, whether spaces are squeezed, whether one is put before a text) of a Unigram tokenizer."""
    steps = inner(body.get("normalizer"), "normalizers")
    cuts = inner(body.get("pre_tokenizer"), "pretokenizers")
    kinds = [str(step.get("type")) for step in steps]
    known = [step for step in steps if step.get("type") in ("Precompiled", "Strip", "Prepend") or spaces(step)]
    if len(known) < len(steps) or "Precompiled" in kinds[1:]:
        raise refused(f"rewrites texts ({', '.join(kinds)})", folder)
    if any(cut.get("type") != "Metaspace" for cut in cuts) or len(cuts) > 1:
        raise refused(f"cuts texts into words in a way ({cuts[0].get('type')})", folder)
    inside = any(SPACE in text[1:] for text, _ in body["model"]["vocab"])
    if cuts and (cuts[0].get("prepend_scheme") == "first" or (cuts[0].get("split", True) and inside)):
        raise refused("cuts texts into words in a way (Metaspace)", folder)
    before = "Prepend" in kinds or bool(cuts and cuts[0].get("prepend_scheme") == "always")
    squeezed = any(spaces(step) == MULTIPLE for step in steps)
    left = any(step.get("strip_left") for step in steps) or bool(cuts and before)
    if squeezed != (left and "Strip" in kinds) or (squeezed and not before):
        raise refused("drops some spaces and keeps others", folder)
    rules = base64.b64decode(steps[0]["precompiled_charsmap"]) if kinds[:1] == ["Precompiled"] else b""
    return rules, squeezed, before


MULTIPLE = " {2,}"


def spaces(step: Mapping[str, Any]) -> str:
    """What a step replaces, where it is spaces: one, or several."""
    pattern = step.get("pattern") or {}
    found = str(pattern.get("String") or pattern.get("Regex") or "")
    wanted = {" ": (SPACE,), MULTIPLE: (" ", SPACE)}.get(found, ())
    return found if step.get("type") == "Replace" and step.get("content") in wanted else ""


def prefix(body: Mapping[str, Any], folder: Path) -> bool:
    """Whether a space is put before a text: by the normalizer or the pre-tokenizer, always or never."""
    steps = inner(body.get("normalizer"), "normalizers")
    kinds = [step.get("type") for step in steps]
    replaces = [step for step in steps if step.get("type") == "Replace"]
    if any(step.get("pattern") != {"String": " "} or step.get("content") != SPACE for step in replaces):
        raise refused("rewrites texts (Replace)", folder)
    if odd := [kind for kind in kinds if kind not in ("Prepend", "Replace")]:
        raise refused(f"rewrites texts ({odd[0]})", folder)
    cuts = inner(body.get("pre_tokenizer"), "pretokenizers")
    for cut in cuts:
        if cut.get("type") == "Metaspace" and not cut.get("split") and cut.get("prepend_scheme") in ("always", "never"):
            return bool(cut["prepend_scheme"] == "always")
        if cut != {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False}:
            raise refused(f"cuts texts into words in a way ({cut.get('type')})", folder)
    if not replaces:
        raise refused("leaves spaces as they are", folder)
    return "Prepend" in kinds


def inner(step: Any, name: str) -> list[dict[str, Any]]:
    if not isinstance(step, dict):
        return []
    return list(step[name]) if step.get("type") == "Sequence" else [step]

"""llama.cpp makes of a text what the tokenizer makes of it: small ones of every kind, and those of real models."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("gguf", reason="gguf is not installed")
pytest.importorskip("xllamacpp", reason="xllamacpp, llama.cpp's runtime, is not installed")

import small_tokenizers

from truetune.engines.torch import tiny
from truetune.errors import InputError
from truetune.export import probes
from truetune.export.gguf import pre, vocabulary, write
from truetune.export.gguf.runtime import LlamaCpp
from truetune.models import tokenizer
from truetune.testing import field, gguf

SLOW = ("gpt-2", "smollm", "qwen2", "dbrx", "gpt-4o", "tekken", "prefixed")
EACH = ["llama-bpe", "bare", *(pytest.param(kind, marks=pytest.mark.slow) for kind in SLOW)]
COMPOSED = sum(not unicodedata.is_normalized("NFC", text) for text in probes.TEXTS)
"""Texts in which it shows that llama.cpp does not compose accents."""
REAL = {path.stem: path for path in field.vocabularies()}
NAMES = {"gpt-2": "gpt-2", "llama-bpe": "llama-bpe", "refact": "smollm", "phi-3": "default"}
NAMES |= {"deepseek-coder": "deepseek-coder"}
"""Real vocabulary -> the name that is derived from its patterns."""


@pytest.mark.parametrize("kind", EACH)
def test_ids_and_ends_are_the_same(tmp_path: Path, kind: str) -> None:
    folder = small_tokenizers.write(tiny.make(tmp_path / "model", "llama"), kind)
    ours, file = tokenizer.load(folder), tmp_path / "model.gguf"
    assert ours.template
    written = write.write(folder, file, "f32", write.About(kind), ours.template)
    with LlamaCpp(file, composes=vocabulary.composes(ours)) as program:
        asked = [text for text in (*probes.TEXTS, "a<note>b", " <note> ") if program.encode(text) is not None]
        assert len(asked) == len(probes.TEXTS) + 2 - COMPOSED * (kind == "qwen2")
        for text in asked:
            assert program.encode(text) == ours.encode(text)
        for talk in probes.TALKS:
            assert program.ids(talk) == ours.encode(ours.template.render(talk, add_generation_prompt=True))
        assert program.ends() == set(written.ends)
        assert [program.stops([5, 6], end) for end in (*written.ends, 9)] == [True] * len(written.ends) + [False]


@pytest.mark.slow
@pytest.mark.skipif(not REAL, reason=field.ABSENT)
@pytest.mark.parametrize("name", NAMES)
def test_a_real_vocabulary(tmp_path: Path, name: str) -> None:
    """Hundreds of texts with the ids that the model's own tokenizer gives."""
    values = gguf.read(REAL[name])
    size = len(values["tokenizer.ggml.tokens"])
    folder = tiny.make(tmp_path / "model", "llama", vocab_size=size, tie_word_embeddings=True)
    gguf.tokenizer(values).save(str(folder / "tokenizer.json"))
    end = values["tokenizer.ggml.tokens"][values["tokenizer.ggml.eos_token_id"]]
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": end}), "utf-8")
    made = vocabulary.read(folder, size)
    assert made.pre == NAMES[name] and made.tokens == values["tokenizer.ggml.tokens"]
    write.write(folder, tmp_path / "model.gguf", "f16", write.About(name), None)
    texts = REAL[name].with_name(f"{REAL[name].name}.inp").read_text("utf-8").split("\n__ggml_vocab_test__\n")
    lines = REAL[name].with_name(f"{REAL[name].name}.out").read_text("utf-8").splitlines()
    with LlamaCpp(tmp_path / "model.gguf") as program:
        for text, line in zip(texts, lines, strict=False):
            assert program.encode(text) == [int(number) for number in line.split()], text


def changed(folder: Path, change: Callable[[dict[str, Any]], Any]) -> Path:
    path = folder / "tokenizer.json"
    body = json.loads(path.read_text("utf-8"))
    change(body)
    path.write_text(json.dumps(body), "utf-8")
    return folder


LIES: dict[str, tuple[str, Callable[[dict[str, Any]], Any]]] = {
    "another pattern": ("qwen2", lambda body: body["pre_tokenizer"]["pretokenizers"][0]["pattern"].update(Regex="a+")),
    "a space before": ("gpt-2", lambda body: body["pre_tokenizer"].update(add_prefix_space=True)),
    "whole words": ("gpt-2", lambda body: body["model"].update(ignore_merges=True)),
    "lower case": ("gpt-2", lambda body: body.update(normalizer={"type": "Lowercase"})),
    "dropout": ("gpt-2", lambda body: body["model"].update(dropout=0.1)),
    "words": ("gpt-2", lambda body: body["model"].update(type="WordPiece")),
    "a greedy mark": ("gpt-2", lambda body: body["added_tokens"][0].update(lstrip=True)),
    "some stripped marks": ("gpt-2", lambda body: body["added_tokens"][0].update(rstrip=True)),
    "more tokens than rows": ("gpt-2", lambda body: body["added_tokens"][0].update(id=400)),
    "nothing for spaces": ("prefixed", lambda body: body.update(normalizer=None)),
    "only the first word": ("bare", lambda body: body.update(pre_tokenizer={
        "type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": False})),
    "composed": ("prefixed", lambda body: body["normalizer"]["normalizers"].append({"type": "NFKC"})),
}  # fmt: skip


@pytest.mark.parametrize("name", LIES)
def test_what_llama_cpp_would_do_otherwise_is_refused(tmp_path: Path, name: str) -> None:
    kind, change = LIES[name]
    folder = changed(small_tokenizers.write(tmp_path, kind), change)
    with pytest.raises(InputError) as caught:
        vocabulary.read(folder, tiny.VOCAB)
    assert caught.value.code == "export.tokenizer" and "llama.cpp" in caught.value.message


def test_the_way_of_cutting_is_told_by_patterns() -> None:
    bytes_alone = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}
    assert pre.name({"model": {}, "pre_tokenizer": bytes_alone}) == "gpt-2"
    assert pre.name({"model": {}, "pre_tokenizer": None}) is None
    digits = {"type": "Digits", "individual_digits": True}
    split = {"type": "Split", "behavior": "Isolated", "invert": False}
    patterns = [cut.replace(r"\r\n", "\r\n") for cut in next(iter(pre.CUTS))[:-1]]
    cuts = [split | {"pattern": {"Regex": each}} for each in patterns]
    last = bytes_alone | {"use_regex": False}
    steps = [*cuts, digits, last]
    assert pre.name({"model": {}, "pre_tokenizer": {"type": "Sequence", "pretokenizers": steps}}) == "deepseek-coder"
    assert pre.name({"model": {}, "pre_tokenizer": {"type": "Sequence", "pretokenizers": steps[1:]}}) is None
    assert pre.name({"model": {}, "pre_tokenizer": {"type": "Whitespace"}}) is None


def test_unused_rows_have_names(tmp_path: Path) -> None:
    """An embedding is often padded to more rows than there are tokens."""
    found = vocabulary.read(small_tokenizers.write(tmp_path, "qwen2"), 400)
    assert len(found.tokens) == len(found.types) == 400 and found.tokens[-1] == "[PAD399]" and found.types[-1] == 5


def test_spaces_behind_marks_are_dropped_by_a_name(tmp_path: Path) -> None:
    """llama.cpp does that for models that are called Phi-3, and for no others."""

    def strip(body: dict[str, Any]) -> None:
        body["added_tokens"][2]["rstrip"] = True
        for at, (text, stripped) in enumerate([("<|endoftext|>", False), ("<|user|>", True)], tiny.VOCAB):
            body["added_tokens"].append(body["added_tokens"][0] | {"id": at, "content": text, "rstrip": stripped})

    folder = tiny.make(tmp_path / "model", "llama", vocab_size=tiny.VOCAB + 2)
    changed(small_tokenizers.write(folder, "prefixed"), strip)
    ours, file = tokenizer.load(folder), tmp_path / "model.gguf"
    write.write(folder, file, "f32", write.About("mine"), ours.template)
    with LlamaCpp(file) as program:
        for text in ("<|user|>   Hello <|endoftext|>  hi", "<|user|>\n\nHello</s> you"):
            assert program.encode(text) == ours.encode(text)

"""SentencePiece's own file, tokenizer.model, without any other: the ids of SentencePiece itself, here and in llama.cpp.

The oracle is the library sentencepiece, which trains small models of both kinds; the real vocabulary is Llama 2's.
"""

from __future__ import annotations

import io
import json
import struct
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("gguf", reason="gguf is not installed")
pytest.importorskip("xllamacpp", reason="xllamacpp, llama.cpp's runtime, is not installed")
pytest.importorskip("sentencepiece", reason="sentencepiece, the oracle, is not installed")

import sentencepiece
import small_tokenizers

import truetune as ft
from truetune.engines.torch import tiny
from truetune.errors import InputError
from truetune.export import probes
from truetune.export.gguf import vocabulary, write
from truetune.export.gguf.runtime import LlamaCpp
from truetune.models import tokenizer
from truetune.testing import field, gguf

CODE = [line for line in Path(probes.__file__).read_text("utf-8").splitlines() if line][:60]
LETTERS = ["".join(chr(at) for at in range(start, start + 24)) for start in range(0x21, 0x3000, 0x17)]
MARKS = ("<s>", "</s>", "<unk>", "<note>")
CORPUS = [text for text in (*probes.TEXTS, *CODE, *LETTERS) if not any(mark in text for mark in MARKS)]
"""The naughty strings of the gate, code, and letters of many scripts; without what looks like a control token."""
KINDS = {
    "llama": {"model_type": "bpe", "byte_fallback": True, "normalization_rule_name": "identity",
              "remove_extra_whitespaces": False},
    "gemma": {"model_type": "bpe", "byte_fallback": True, "normalization_rule_name": "identity",
              "remove_extra_whitespaces": False, "add_dummy_prefix": False, "user_defined_symbols": ["<note>"]},
    "unigram": {"model_type": "unigram"},
    "unigram, as it is": {"model_type": "unigram", "normalization_rule_name": "identity",
                          "remove_extra_whitespaces": False, "add_dummy_prefix": False},
}  # fmt: skip


def trained(folder: Path, kind: str) -> Any:
    """A tokenizer.model in a folder, and SentencePiece with it."""
    made = io.BytesIO()
    lines = [*small_tokenizers.TEXT, *CODE, *probes.TEXTS[:10]]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=made, vocab_size=560 if "byte_fallback" in KINDS[kind] else 320,
        hard_vocab_limit=False, character_coverage=1.0 if kind.startswith("unigram") else 0.99, minloglevel=2,
        **KINDS[kind],
    )  # fmt: skip
    (folder / "tokenizer.model").write_bytes(made.getvalue())
    (folder / "chat_template.jinja").write_text(small_tokenizers.TEMPLATES["turns"], "utf-8")
    return sentencepiece.SentencePieceProcessor(model_proto=made.getvalue())


@pytest.mark.parametrize("kind", KINDS)
def test_the_ids_are_sentencepieces(tmp_path: Path, kind: str) -> None:
    oracle = trained(tmp_path, kind)
    ours = tokenizer.load(tmp_path)
    assert (ours.bos, ours.eos, ours.adds_bos) == ("<s>", "</s>", True)
    for text in CORPUS:
        assert ours.encode(text) == oracle.encode(text), text
    assert ours.decode(ours.encode("Hello, how are you?")) == "Hello, how are you?"
    rows = ours.vocabulary
    model = tiny.make(tmp_path / "model", "llama", vocab_size=rows + 3)
    for name in ("tokenizer.model", "chat_template.jinja"):
        (model / name).write_bytes((tmp_path / name).read_bytes())
    write.write(model, tmp_path / "model.gguf", "f32", write.About("mine"), ours.template)
    with LlamaCpp(tmp_path / "model.gguf") as program:
        for text in CORPUS:
            assert program.encode(text) == ours.encode(text), text
        for talk in probes.TALKS[:3]:
            assert ours.template
            assert program.ids(talk) == ours.encode(ours.template.render(talk, add_generation_prompt=True))


def field_of(number: int, value: bytes | int | float) -> bytes:
    """A field of a protocol buffer."""
    if isinstance(value, bytes):
        return varint(number << 3 | 2) + varint(len(value)) + value
    return (
        varint(number << 3 | 5) + struct.pack("<f", value)
        if isinstance(value, float)
        else varint(number << 3) + varint(value)
    )


def varint(value: int) -> bytes:
    found = bytearray()
    while value > 127:
        found.append(value & 127 | 128)
        value >>= 7
    return bytes([*found, value])


def llama_2(folder: Path) -> dict[str, Any]:
    """Llama 2's tokenizer.model out of the vocabulary that llama.cpp publishes for its tests."""
    values = gguf.read(field.folder() / field.VOCABULARIES / "llama-spm.gguf")
    names = ("tokens", "scores", "token_type")
    rows = zip(*(values[f"tokenizer.ggml.{name}"] for name in names), strict=True)
    pieces = [field_of(1, field_of(1, text.encode()) + field_of(2, float(score)) + field_of(3, kind))
              for text, score, kind in rows]  # fmt: skip
    trainer = field_of(3, 2) + field_of(35, 1)
    normal = field_of(1, b"identity") + field_of(3, 1) + field_of(4, 0)
    (folder / "tokenizer.model").write_bytes(b"".join([*pieces, field_of(2, trainer), field_of(3, normal)]))
    return values


@pytest.mark.slow
@pytest.mark.skipif(not field.vocabularies(), reason=field.ABSENT)
def test_llama_2s_own_file(tmp_path: Path) -> None:
    values = llama_2(tmp_path)
    ours = tokenizer.load(tmp_path)
    place = field.folder() / field.VOCABULARIES
    texts = (place / "llama-spm.gguf.inp").read_text("utf-8").split("\n__ggml_vocab_test__\n")
    lines = (place / "llama-spm.gguf.out").read_text("utf-8").splitlines()
    for text, line in zip(texts, lines, strict=False):
        assert ours.encode(text) == [int(number) for number in line.split()], text
    found = vocabulary.read(tmp_path, 32_000)
    assert found.model == "llama" and found.tokens == values["tokenizer.ggml.tokens"]
    assert found.types == values["tokenizer.ggml.token_type"] and found.space
    model = tiny.make(tmp_path / "model", "llama", vocab_size=32_000, tie_word_embeddings=True)
    (model / "tokenizer.model").write_bytes((tmp_path / "tokenizer.model").read_bytes())
    write.write(model, tmp_path / "model.gguf", "f16", write.About("mine"), None)
    with LlamaCpp(tmp_path / "model.gguf") as program:
        for text in (*texts, *probes.TEXTS, *CODE, *LETTERS):
            assert program.encode(text) == ours.encode(text), text


@pytest.mark.parametrize("kind", ["llama", "unigram"])
def test_a_folder_without_tokenizer_json_goes_out_with_one(tmp_path: Path, kind: str) -> None:
    """transformers and llama.cpp give the ids of the training, by the gate."""
    trained(tmp_path, kind)
    size = tokenizer.load(tmp_path).vocabulary
    folder = tiny.make(tmp_path / "model", "llama", vocab_size=size)
    for name in ("tokenizer.model", "chat_template.jinja"):
        (folder / name).write_bytes((tmp_path / name).read_bytes())
    found = ft.export(folder, format="gguf", quant="q8_0", out=tmp_path / "out", force=True)
    states = {one["name"]: one["state"] for one in found["parity"]["stages"]}
    assert {states[name] for name in ("template", "tokenizer", "ends", "runtime")} == {"ok"}


@pytest.mark.slow
def test_from_rows_to_llama_cpp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trained on a folder with tokenizer.model alone, with a new token; the adapter brings a tokenizer.json."""
    monkeypatch.setenv("TRUETUNE_HOME", str(tmp_path / "home"))
    trained(tmp_path, "llama")
    size = tokenizer.load(tmp_path).vocabulary
    folder = tiny.make(tmp_path / "model", "llama", vocab_size=size + 8)
    for name in ("tokenizer.model", "chat_template.jinja"):
        (folder / name).write_bytes((tmp_path / name).read_bytes())
    rows = "".join(json.dumps({"prompt": f"What is {n}?", "completion": f"It is {n}."}) + "\n" for n in range(24))
    (tmp_path / "rows.jsonl").write_text(rows, "utf-8")
    run = tmp_path / "run"
    ft.train({"model": {"path": str(folder), "new_tokens": ["<note>"]}, "data": {"path": str(tmp_path / "rows.jsonl")},
              "training": {"max_steps": 2}, "output": {"dir": str(run)}, "resources": {"device": "cpu"}})  # fmt: skip
    ours, brought = tokenizer.load(folder), tokenizer.load(run / "adapter")
    assert (brought.bos, brought.eos, brought.adds_bos) == (ours.bos, ours.eos, ours.adds_bos)
    assert size in brought.encode("a<note>b") and brought.encode(CORPUS[0]) == ours.encode(CORPUS[0])
    assert not [item for item in ft.receipt_verify(str(run))["items"] if item["state"] == "changed"]
    found = ft.export(str(run), format="gguf", out=tmp_path / "out")
    assert {one["state"] for one in found["parity"]["stages"]} == {"ok"}


DAMAGES = {
    "empty": b"",
    "cut off": b"\x0a\x7fab",
    "text": b"{}",
    "no unknown": field_of(1, field_of(1, b"a")) + field_of(2, field_of(40, 7)),
    "characters": field_of(1, field_of(1, b"<unk>") + field_of(3, 2)) + field_of(2, field_of(3, 4)),
    "no text": field_of(1, field_of(1, b"\xff")),
    "long number": b"\xff" * 12,
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_file_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "tokenizer.model").write_bytes(DAMAGES[name])
    with pytest.raises(InputError) as caught:
        tokenizer.load(tmp_path)
    assert caught.value.code == "model.bad_tokenizer" and caught.value.hint


def changed(folder: Path, **steps: Any) -> InputError:
    body = tokenizer.document(folder)
    model = body["model"] | steps.pop("model", {})
    (folder / "tokenizer.json").write_text(json.dumps(body | steps | {"model": model}), "utf-8")
    with pytest.raises(InputError) as caught:
        vocabulary.read(folder, 1000)
    (folder / "tokenizer.json").unlink()
    return caught.value


def test_what_llama_cpp_does_otherwise_with_unigram_is_refused(tmp_path: Path) -> None:
    trained(tmp_path, "unigram")
    space = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": True}
    cases: list[dict[str, Any]] = [
        {"model": {"byte_fallback": True}},
        {"normalizer": {"type": "Lowercase"}},
        {"normalizer": {"type": "Strip", "strip_left": True, "strip_right": True}},
        {"pre_tokenizer": space},
        {"pre_tokenizer": {"type": "Whitespace"}},
    ]
    assert {changed(tmp_path, **case).code for case in cases} == {"export.tokenizer"}
    assert sys.getsizeof(vocabulary.read(tmp_path, 1000).charsmap) > 1000

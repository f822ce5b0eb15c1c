"""The llama.cpp engine beside torch's: ids, texts and greedy answers of tokenizers of both kinds are the same."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("gguf", reason="gguf is not installed")
pytest.importorskip("xllamacpp", reason="xllamacpp, llama.cpp's runtime, is not installed")

import small_tokenizers

from truetune.engines.decoder import Decoder, DecoderSpec, Sampling
from truetune.engines.gguf.decoder import GgufDecoder
from truetune.engines.torch import tiny
from truetune.engines.torch.decode import open_decoder
from truetune.evaluate.voice import Text
from truetune.export import origin
from truetune.export.gguf import model
from truetune.models import tokenizer

TEXTS = ["Hello, how are you?", " two  spaces", "line\n\nbreak 12345", "é 漢 😀 <note> it's", "a"]
KINDS = {"llama-bpe": "llama", "qwen2": "qwen2", "prefixed": "mistral", "bare": "llama"}


def speaking(path: Path, *, strips: bool) -> None:
    """Let SentencePiece's decode as Llama 2's (`strips`: without the space that begins a text) and Gemma's."""
    body = json.loads(path.read_text("utf-8"))
    steps = [
        {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]
    steps += [{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if strips else []
    body["decoder"] = {"type": "Sequence", "decoders": steps}
    path.write_text(json.dumps(body), "utf-8")


@pytest.fixture(params=list(KINDS))
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    made = small_tokenizers.write(tiny.make(tmp_path / "model", KINDS[request.param]), request.param)
    if request.param in ("prefixed", "bare"):
        speaking(made / "tokenizer.json", strips=request.param == "prefixed")
    model.create(origin.find(str(made)), tmp_path)
    yield made


def answers(decoder: Decoder, prompts: list[list[int]], encode: tokenizer.Tokenizer) -> list[list[int]]:
    """Greedy, without single bytes: an untrained model writes such as are no text, which is told otherwise."""
    never = tuple((at, -1e4) for at in range(encode.vocabulary) if str(encode.text(at)).startswith("<0x"))
    drawn = Sampling(max_new_tokens=8, stops=frozenset(encode.eos_ids), bias=never)
    slots = {decoder.admit(ids, None, drawn): place for place, ids in enumerate(prompts)}
    found: list[list[int]] = [[] for _ in prompts]
    going = len(slots)
    while going:
        for token in decoder.decode():
            found[slots[token.slot]].append(token.id)
            going -= bool(token.reason)
    decoder.close()
    return found


def test_ids_texts_and_answers_are_the_same(folder: Path) -> None:
    known = tokenizer.load(folder)
    decoder = GgufDecoder(folder.parent / model.FILE, slots=len(TEXTS))
    found = decoder.tokenizer
    prompts = [known.encode_document(text) for text in TEXTS]
    assert [found.encode_document(text) for text in TEXTS] == prompts
    assert [found.decode(ids) for ids in prompts] == [known.decode(ids) for ids in prompts]
    assert [streamed(found, ids) for ids in prompts] == [streamed(known, ids) for ids in prompts]
    assert (found.eos_ids, found.special_tokens) == (known.eos_ids, known.special_tokens)
    asked = [{"role": "user", "content": "Hello"}]
    assert found.template and known.template
    assert found.template.render(asked, add_generation_prompt=True) == known.template.render(
        asked, add_generation_prompt=True
    )
    torch = open_decoder(DecoderSpec(folder, slots=len(TEXTS)))
    whole = [known.decode(ids) for ids in answers(torch, prompts, known)]
    assert [found.decode(ids) for ids in answers(decoder, prompts, known)] == whole


def streamed(encode: tokenizer.Tokenizer, ids: list[int]) -> str:
    text = Text(encode)
    return "".join([*map(text.add, ids), text.end()])

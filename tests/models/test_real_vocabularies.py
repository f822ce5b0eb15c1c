"""The vocabularies of real models, with the ids that their own tokenizers give: ours are the same.

The files are not part of this repository (`truetune/testing/field.py`).
"""

from __future__ import annotations

from pathlib import Path

import pytest

from truetune.models.tokenizer import load
from truetune.testing import field, gguf

PATHS = {path.stem: path for path in field.vocabularies()}
NO_IDS = {"aquila", "baichuan", "gpt-neox", "nomic-bert-moe"}
"""Vocabularies that come without texts and ids to hold them against."""
QUICK = {"bert-bge", "phi-3"}
EACH = [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in PATHS if name not in NO_IDS]
pytestmark = pytest.mark.skipif(not PATHS, reason=field.ABSENT)


def samples(path: Path) -> list[tuple[str, list[int]]]:
    """Texts and their ids."""
    texts = path.with_name(f"{path.name}.inp").read_text("utf-8").split("\n__ggml_vocab_test__\n")
    lines = path.with_name(f"{path.name}.out").read_text("utf-8").splitlines()
    assert len(lines) in (len(texts), len(texts) - 1) and not any(texts[len(lines) :])
    return [(text, [int(number) for number in line.split()]) for text, line in zip(texts, lines, strict=False)]


def test_each_vocabulary_is_here() -> None:
    assert {name for name, path in PATHS.items() if not path.with_name(f"{path.name}.out").is_file()} == NO_IDS
    assert len(PATHS) - len(NO_IDS) == 15


@pytest.mark.parametrize("name", EACH)
def test_the_ids_are_those_of_the_model(name: str, tmp_path: Path) -> None:
    gguf.tokenizer(gguf.read(PATHS[name])).save(str(tmp_path / "tokenizer.json"))
    ours = load(tmp_path)
    texts, wanted = zip(*samples(PATHS[name]), strict=True)
    for text, ids in zip(texts, wanted, strict=True):
        assert ours.encode(text) == ids, text
    assert [ids.tolist() for ids in ours.encode_batch(texts)] == list(wanted)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bert-bge", "gpt-2", "phi-3", "qwen2"])
def test_and_those_of_transformers(name: str, tmp_path: Path) -> None:
    from transformers import PreTrainedTokenizerFast

    gguf.tokenizer(gguf.read(PATHS[name])).save(str(tmp_path / "tokenizer.json"))
    ours, theirs = load(tmp_path), PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "tokenizer.json"))
    for text, _ in samples(PATHS[name]):
        ids = ours.encode(text)
        assert ids == theirs.encode(text, add_special_tokens=False)
        assert ours.decode(ids) == theirs.decode(ids, clean_up_tokenization_spaces=False)

"""The list of naughty strings: each survives from the file through tokens to text again, byte for byte."""

from __future__ import annotations

import csv
from pathlib import Path

import orjson
import pytest

from truetune.config.schema import Data
from truetune.data.convert import convert
from truetune.data.prepare import prepare
from truetune.models.tokenizer import Tokenizer

BLNS = Path(__file__).parents[3] / "shared" / "data" / "blns.json"
pytestmark = pytest.mark.skipif(not BLNS.is_file(), reason="blns.json is not at ../shared/data")


def naughty() -> list[str]:
    """Each between marks, because a text of nothing but spaces is no document, and lines end where lines end."""
    return [f"<{number}>{text}<>" for number, text in enumerate(orjson.loads(BLNS.read_bytes()))]


def write(path: Path, texts: list[str]) -> None:
    if path.suffix == ".csv":
        with path.open("w", encoding="utf-8", newline="") as stream:
            csv.writer(stream).writerows([["text"], *([text] for text in texts)])
    elif path.suffix == ".json":
        path.write_bytes(orjson.dumps([{"text": text} for text in texts], option=orjson.OPT_INDENT_2))
    else:
        path.write_bytes(b"\n".join(orjson.dumps({"text": text}) for text in texts))


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv"])
def test_naughty_strings_survive(encode: Tokenizer, tmp_path: Path, name: str) -> None:
    texts = naughty()
    write(tmp_path / name, texts)
    data = Data(path=name, validation=None, dedupe="none", max_length=8192)
    found = prepare(data, objective="auto", seed=0, folder=tmp_path, tokenizer=encode)
    assert list(found.rejects) == []
    decoded = {example.row: encode.decode(example.ids[:-1].tolist()) for example in found.train}
    assert [decoded[row] for row in range(len(texts))] == texts


CASES = [
    (notation, kind) for notation in ("alpaca", "prompt_completion") for kind in ("jsonl", "json", "parquet", "csv")
]
CASES += [(notation, kind) for notation in ("openai", "sharegpt") for kind in ("jsonl", "json", "parquet")]


@pytest.mark.parametrize(("notation", "kind"), CASES)
def test_naughty_answers_survive_from_file_to_file_to_tokens(
    encode: Tokenizer, tmp_path: Path, notation: str, kind: str
) -> None:
    """Converted, prepared under a chat template: what is trained is the answer and its end, byte for byte."""
    texts = naughty()
    rows = [{"messages": [{"role": r, "content": text} for r in ("user", "assistant")]} for text in texts]
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(map(orjson.dumps, rows)))
    assert convert(["a.jsonl"], notation, tmp_path / f"b.{kind}", tmp_path)["rows"]["written"] == len(texts)
    data = Data(path=f"b.{kind}", validation=None, dedupe="none", max_length=8192)
    found = prepare(data, objective="auto", seed=0, folder=tmp_path, tokenizer=encode)
    assert list(found.rejects) == []
    trained = {example.row: encode.decode(example.ids[example.weights > 0].tolist()) for example in found.train}
    assert [trained[row] for row in range(len(texts))] == [f"{text}<|im_end|>" for text in texts]

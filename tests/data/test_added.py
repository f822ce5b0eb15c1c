"""New tokens: the ids they get, what they are, and the file that other programs read them from."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from truetune.data import added
from truetune.errors import UsageError
from truetune.models import tokenizer
from truetune.models.source import STARTER

TEXTS = ["<city>", "<|note|>"]
HERE = Path()


def entries(*texts: str, template: str = "auto") -> list[dict[str, object]]:
    return added.entries(texts, tokenizer.load(STARTER), template, HERE)


def test_ids_follow_on_the_models_own() -> None:
    own = tokenizer.load(STARTER)
    found = entries(*TEXTS)
    assert [entry["id"] for entry in found] == [own.vocabulary, own.vocabulary + 1]
    new = added.extended(own, found)
    ids = new.encode("from <city> to<|note|>")
    assert ids.count(own.vocabulary) == 1 and ids[-1] == own.vocabulary + 1
    assert new.decode(ids) == "from <city> to<|note|>"
    assert own.id("<city>") is None and new.digest != own.digest and new.vocabulary == own.vocabulary + 2
    assert new.encode("as before") == own.encode("as before")


def test_a_token_that_is_there_keeps_its_id() -> None:
    own = tokenizer.load(STARTER)
    assert own.eos
    (known, fresh) = entries(own.eos, "<city>")
    assert known["id"] == own.eos_id and known["special"]
    assert fresh["id"] == own.vocabulary and not fresh["special"]


def test_what_the_template_writes_is_a_control_token(tmp_path: Path) -> None:
    path = tmp_path / "mine.jinja"
    path.write_text("{% for m in messages %}<|says|>{{ m.content }}<|over|>{% endfor %}")
    found = added.entries(["<|says|>", "<city>"], tokenizer.load(STARTER), str(path), tmp_path)
    assert [entry["special"] for entry in found] == [True, False]
    new = added.extended(tokenizer.load(STARTER), found)
    assert "<|says|>" in new.special_tokens and "<city>" not in new.special_tokens


def test_twice_the_same() -> None:
    with pytest.raises(UsageError) as error:
        entries("<city>", "<city>")
    assert error.value.finding.code == "model.token_twice"


def test_none_changes_nothing() -> None:
    own = tokenizer.load(STARTER)
    assert entries() == [] and added.extended(own, []) is own


def test_the_file_holds_them(tmp_path: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(STARTER / name, tmp_path / name)
    found = entries(*TEXTS)
    added.write(tmp_path / "tokenizer.json", found)
    once = (tmp_path / "tokenizer.json").read_bytes()
    added.write(tmp_path / "tokenizer.json", found)
    assert (tmp_path / "tokenizer.json").read_bytes() == once
    text = "from <city> to<|note|> and on"
    new = added.extended(tokenizer.load(STARTER), found)
    assert tokenizer.load(tmp_path).encode(text) == new.encode(text)

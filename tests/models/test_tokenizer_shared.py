"""One tokenizer for equal files, and another as soon as one of them is another."""

from __future__ import annotations

import os
import shutil

import pytest

from truetune.errors import InputError
from truetune.models import tokenizer
from truetune.models.source import STARTER


@pytest.fixture
def folder(tmp_path):
    place = tmp_path / "model"
    place.mkdir()
    for name in tokenizer.FILES:
        if (STARTER / name).is_file():
            shutil.copy(STARTER / name, place / name)
    return place


def written(path, old, new):
    """Exchange as many bytes in place, with the times of before: what a look at the file alone would not show."""
    seen, data = path.stat(), path.read_bytes()
    assert len(old) == len(new) and old in data
    path.write_bytes(data.replace(old, new, 1))
    os.utime(path, ns=(seen.st_atime_ns, seen.st_mtime_ns))


def told(read, folder):
    """What shapes ids, or why there is none."""
    try:
        found = read(folder)
    except InputError as error:
        return error.finding.code
    return found.digest, found.tokens, found.eos_ids


def test_equal_files_give_the_same_one(folder, tmp_path):
    found = tokenizer.shared(folder)
    assert tokenizer.shared(folder) is found
    assert tokenizer.shared(shutil.copytree(folder, tmp_path / "other")) is found
    assert found is not tokenizer.load(folder)
    assert found.digest == tokenizer.load(folder).digest


@pytest.mark.parametrize("name", [name for name in tokenizer.FILES if (STARTER / name).is_file()])
def test_a_changed_file_is_seen(folder, name):
    before = tokenizer.shared(folder)
    old, new = {
        "tokenizer.json": (b'"type"', b'"typo"'),
        "tokenizer_config.json": (b'"eos_token"', b'"eos_tokem"'),
        "chat_template.jinja": (b"for", b"fOr"),
        "generation_config.json": (b"2", b"1"),
        "config.json": (b'"eos_token_id": 2', b'"eos_token_id": 1'),
    }[name]
    written(folder / name, old, new)
    assert told(tokenizer.shared, folder) == told(tokenizer.load, folder) != told(lambda _: before, folder)
    written(folder / name, new, old)
    assert tokenizer.shared(folder) is before


def test_a_file_that_comes_or_goes_is_seen(folder):
    before = tokenizer.shared(folder)
    (folder / "special_tokens_map.json").write_text('{"pad_token": "<|other|>"}')
    assert tokenizer.shared(folder) is not before
    (folder / "tokenizer.json").unlink()
    with pytest.raises(InputError) as error:
        tokenizer.shared(folder)
    assert error.value.finding.code == "model.no_tokenizer"


def test_few_are_kept(folder):
    first = tokenizer.shared(folder)
    for number in range(tokenizer.KEPT):
        (folder / "special_tokens_map.json").write_text(f'{{"pad_token": "<|{number}|>"}}')
        tokenizer.shared(folder)
    (folder / "special_tokens_map.json").unlink()
    assert tokenizer.shared(folder) is not first

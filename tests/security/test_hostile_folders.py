"""Hostile model folders through what a person does with a model: no code of theirs runs, no connection is made, and
each is refused with a reason or used without what is hostile in it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hostile import CASES, Case, copy, edit, put
from watched import UNOPENED, watching

import truetune as ft
from truetune.errors import TrueTuneError
from truetune.models import gate, source, tokenizer

ROWS = [{"prompt": f"What is {number}? Aa aa aa aa.", "completion": f"It is {number}."} for number in range(24)]
NEED_AN_ENGINE = {"layers-without-end", "sizes-beyond-any"}
"""Facts that only a training asks for."""


def rows(folder: Path) -> str:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return str(path)


def outcome(work: Any) -> str | None:
    """The code of the error, None where there is none."""
    try:
        work()
    except TrueTuneError as error:
        finding = error.findings[0]
        assert finding.message.isprintable() and finding.hint, finding
        return finding.code
    return None


def shown(folder: Path, data: str) -> None:
    """The row that is refused says why, like an error."""
    report = ft.dataset_show(data, model=str(folder))
    refused = [row["refused"]["code"] for row in report["rows"] if "refused" in row]
    if refused:
        raise TrueTuneError("refused", code=refused[0], hint="-")


@pytest.mark.parametrize("case", CASES, ids=str)
def test_looking_at_rows(case: Case, tmp_path: Path, canary: Path) -> None:
    """Finding the model, reading its facts, rendering and tokenising: all that needs no engine."""
    folder, data = copy(tmp_path / "model"), rows(tmp_path)
    case.change(folder, canary)
    watching.append(folder)
    expected = None if case.name in NEED_AN_ENGINE else case.code
    assert outcome(lambda: shown(folder, data)) == expected


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=str)
def test_training(case: Case, tmp_path: Path, canary: Path) -> None:
    """A dry run and, where that is allowed, one step; the result carries none of the folder's code."""
    folder, data = copy(tmp_path / "model"), rows(tmp_path)
    case.change(folder, canary)
    watching.append(folder)
    settings = {"model": str(folder), "data": {"path": data, "validation": None}, "training": {"max_steps": 1}}
    settings["resources"] = {"device": "cpu"}
    expected = "data.no_rows" if case.code == "data.template" else case.code
    if case.code:
        assert outcome(lambda: ft.preview(settings)) == expected
    run = tmp_path / "run"
    assert outcome(lambda: ft.train(settings | {"output": {"dir": str(run)}})) == expected
    assert not [path for path in run.rglob("*") if path.suffix in UNOPENED]


@pytest.mark.slow
def test_layers_beyond_the_weights_are_not_built(tmp_path: Path) -> None:
    from truetune.engines.torch import config

    folder = copy(tmp_path / "model")
    edit("config.json", num_hidden_layers=10**9)(folder, tmp_path)
    with pytest.raises(ValueError, match="layers"):
        config.read(folder)
    assert config.ignored(folder) == []


@pytest.mark.slow
def test_what_is_not_used_is_named(tmp_path: Path) -> None:
    folder = copy(tmp_path / "model")
    edit("config.json", mine="\x1b[2J", kernel_config={}, **{"key\x1b[2J": 1})(folder, tmp_path)
    put(folder / "modeling_mine.py", "")
    settings = {"model": str(folder), "data": rows(tmp_path), "resources": {"device": "cpu"}}
    (said,) = [text for text in ft.preview(settings)["warnings"] if "not used" in text]
    assert said.endswith("kernel_config, key?[2J, mine, modeling_mine.py")


def test_there_are_enough() -> None:
    assert len(CASES) >= 60 and len({case.name for case in CASES}) == len(CASES)


def test_types_that_are_called_native_are(tmp_path: Path) -> None:
    from transformers import CONFIG_MAPPING

    assert [kind for kind in gate.NATIVE if kind not in CONFIG_MAPPING] == []


def test_links_of_the_hubs_cache_are_followed(tmp_path: Path) -> None:
    """Its snapshots are links into `blobs` beside them, and nowhere else."""
    folder = copy(tmp_path / "models--a--b" / "snapshots" / ("a" * 40))
    blobs = folder.parents[1] / "blobs"
    blobs.mkdir()
    (folder / "config.json").rename(blobs / "1")
    (folder / "config.json").symlink_to("../../blobs/1")
    source.check(folder)
    put(tmp_path / "elsewhere", (blobs / "1").read_bytes())
    (blobs / "1").unlink()
    (blobs / "1").symlink_to(tmp_path / "elsewhere")
    assert outcome(lambda: source.check(folder)) == "model.link"


def test_a_pattern_that_gives_up_on_a_text_is_an_error(tmp_path: Path) -> None:
    """At first use, where no probe has met the text."""
    folder = copy(tmp_path / "model")
    body = json.loads((folder / "tokenizer.json").read_text())
    body["pre_tokenizer"] = {
        "type": "Split",
        "pattern": {"Regex": "x*x*x*x*x*x*x*x*x*$"},
        "behavior": "Isolated",
        "invert": False,
    }
    put(folder / "tokenizer.json", json.dumps(body))
    encode = tokenizer.load(folder)
    assert outcome(lambda: encode.encode_batch(["x" * 80 + "b"])) == "model.bad_tokenizer"

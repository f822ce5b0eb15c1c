"""Where no row is left to train on, a check tells all it has found, and a training refuses with what helps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest

import truetune as ft
from truetune.config.schema import Data
from truetune.data.prepare import Prepared, prepare
from truetune.data.quality import Quality
from truetune.errors import InputError
from truetune.models.tokenizer import Tokenizer

EMPTY = [{"prompt": f"question {number}", "completion": ""} for number in range(12)]
LONG = [{"prompt": f"question {number}", "completion": "long " * 50} for number in range(12)]
UNLEARNED = [
    {"messages": [{"role": "user", "content": f"q {number}"}, {"role": "assistant", "content": "a", "weight": 0}]}
    for number in range(12)
]


def write(path: Path, rows: list[Any]) -> None:
    path.write_bytes(b"\n".join(map(orjson.dumps, rows)))


def run(encode: Tokenizer, folder: Path, quality: Quality | None = None, **values: Any) -> Prepared:
    data = Data(**{"path": "rows.jsonl", "max_length": 60, **values})
    return prepare(data, objective="auto", seed=1, folder=folder, tokenizer=encode, inspector=quality)


@pytest.mark.parametrize("weights", [None, [2.0]])
@pytest.mark.parametrize("rows", [EMPTY, LONG, UNLEARNED])
def test_a_check_still_accounts_for_every_row(
    encode: Tokenizer, tmp_path: Path, rows: list[Any], weights: list[float] | None
) -> None:
    write(tmp_path / "rows.jsonl", rows)
    quality = Quality(encode)
    found = run(encode, tmp_path, quality, path=["rows.jsonl"], weights=weights)
    assert not len(found.train) and not len(found.validation)
    report = found.report
    assert report["rows"]["read"] == 12 and report["rows"]["used"] == 0
    assert report["lengths"] == {"min": 0, "median": 0, "p95": 0, "max": 0}
    assert report["end_of_turn_supervised"] is None and report["rendering"]["end_token"] is None
    codes = {each["code"]: each["level"] for each in report["findings"]}
    assert codes == {"data.no_rows": "error"}
    (finding,) = quality.findings()
    assert (finding.count, finding.where[:2]) == (12, ["rows.jsonl:1", "rows.jsonl:2"])


@pytest.mark.parametrize(
    ("rows", "words"), [(EMPTY, "Mend the rows"), (LONG, "data.max_length"), (UNLEARNED, "data.train_on")]
)
def test_the_hint_fits_the_commonest_reason(encode: Tokenizer, tmp_path: Path, rows: list[Any], words: str) -> None:
    write(tmp_path / "rows.jsonl", rows + EMPTY[:2] + LONG[:2])
    with pytest.raises(InputError) as caught:
        run(encode, tmp_path)
    assert caught.value.finding.code == "data.no_rows" and words in caught.value.finding.hint


def test_a_template_that_fails_is_what_to_change(encode: Tokenizer, tmp_path: Path) -> None:
    write(tmp_path / "rows.jsonl", [{"prompt": f"question {number}", "completion": "a"} for number in range(12)])
    (tmp_path / "mine.jinja").write_text("{{ raise_exception('no') }}")
    with pytest.raises(InputError) as caught:
        run(encode, tmp_path, template="mine.jinja")
    assert "data.template" in caught.value.finding.hint


def test_a_validation_file_without_a_good_row_is_a_finding(encode: Tokenizer, tmp_path: Path) -> None:
    write(tmp_path / "rows.jsonl", [{"prompt": f"question {number}", "completion": "a"} for number in range(12)])
    write(tmp_path / "held.jsonl", EMPTY)
    found = run(encode, tmp_path, Quality(), validation="held.jsonl", max_length=200)
    assert len(found.train) == 12
    assert [each["code"] for each in found.report["findings"] if each["level"] != "note"] == ["data.validation"]


def test_the_page_is_written_and_no_file_of_no_rows(tmp_path: Path) -> None:
    write(tmp_path / "rows.jsonl", EMPTY)
    found = ft.dataset_check("rows.jsonl", folder=tmp_path, report=tmp_path / "page.html")
    assert found["verdict"] == "errors" and found["estimate"] is None
    assert {each["code"] for each in found["findings"]} == {"data.empty", "data.no_rows"}
    assert "rows.jsonl:1" in (tmp_path / "page.md").read_text()
    with pytest.raises(InputError) as caught:
        ft.dataset_prepare("rows.jsonl", tmp_path / "out.jsonl", folder=tmp_path)
    assert caught.value.finding.code == "data.no_rows" and not (tmp_path / "out.jsonl").exists()


def test_lines_that_are_no_rows_are_each_told(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text("one\ntwo\n[3]\n")
    found = ft.dataset_check("rows.jsonl", folder=tmp_path, report=tmp_path / "page.html")
    told = {each["code"]: each["where"] for each in found["findings"] if each["level"] == "error"}
    assert told["json.syntax"] == ["rows.jsonl:1", "rows.jsonl:2"] and told["data.not_an_object"] == ["rows.jsonl:3"]
    assert "data.no_rows" in told and found["format"]["name"] == "unknown" and found["rows"]["rejected"] == 3
    shown = ft.dataset_show("rows.jsonl", folder=tmp_path)
    assert [row["refused"]["code"] for row in shown["rows"]] == ["json.syntax", "json.syntax", "data.not_an_object"]
    with pytest.raises(InputError) as caught:
        ft.dataset_prepare("rows.jsonl", tmp_path / "out.jsonl", folder=tmp_path)
    assert caught.value.finding.code == "data.no_rows"
    (tmp_path / "rows.json").write_text("[]")
    with pytest.raises(InputError):
        ft.dataset_check("rows.json", folder=tmp_path)

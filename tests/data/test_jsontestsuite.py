"""The public JSON test suite, as files that a user gives: 95 are JSON, 188 are not, 35 are ours to decide."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest

from truetune import cli
from truetune.api.dataset.check import dataset_check
from truetune.api.dataset.show import dataset_show
from truetune.config.schema import Data
from truetune.data import sources
from truetune.data.prepare import find_format, read
from truetune.data.rows import Reject
from truetune.errors import TrueTuneError

SUITE = Path(__file__).parents[3] / "shared" / "data" / "JSONTestSuite" / "test_parsing"
pytestmark = pytest.mark.skipif(not SUITE.is_dir(), reason="the JSON test suite is not at ../shared/data")

LIST = "data.not_an_object"
"""The value is taken as JSON; a number, text or list is no row."""
DECISIONS = {
    "i_number_double_huge_neg_exp": LIST,  # becomes 0.0, as IEEE 754 rounds it
    "i_number_huge_exp": "json.number",  # infinity is no number
    "i_number_neg_int_huge_exp": "json.number",
    "i_number_pos_double_huge_exp": "json.number",
    "i_number_real_neg_overflow": "json.number",
    "i_number_real_pos_overflow": "json.number",
    "i_number_real_underflow": LIST,
    "i_number_too_big_neg_int": LIST,  # becomes a float
    "i_number_too_big_pos_int": LIST,
    "i_number_very_big_negative_int": LIST,
    "i_object_key_lone_2nd_surrogate": "json.surrogate",  # half a character can't be written as UTF-8
    "i_string_1st_surrogate_but_2nd_missing": "json.surrogate",
    "i_string_1st_valid_surrogate_2nd_invalid": "json.surrogate",
    "i_string_UTF-16LE_with_BOM": LIST,  # its mark says what it is
    "i_string_UTF-8_invalid_sequence": "data.encoding",
    "i_string_UTF8_surrogate_U+D800": "data.encoding",
    "i_string_incomplete_surrogate_and_escape_valid": "json.surrogate",
    "i_string_incomplete_surrogate_pair": "json.surrogate",
    "i_string_incomplete_surrogates_escape_valid": "json.surrogate",
    "i_string_invalid_lonely_surrogate": "json.surrogate",
    "i_string_invalid_surrogate": "json.surrogate",
    "i_string_invalid_utf-8": "data.encoding",
    "i_string_inverted_surrogates_U+1D11E": "json.surrogate",
    "i_string_iso_latin_1": LIST,  # read as Windows-1252, and said
    "i_string_lone_second_surrogate": "json.surrogate",
    "i_string_lone_utf8_continuation_byte": "data.encoding",
    "i_string_not_in_unicode_range": "data.encoding",
    "i_string_overlong_sequence_2_bytes": "data.encoding",
    "i_string_overlong_sequence_6_bytes": "data.encoding",
    "i_string_overlong_sequence_6_bytes_null": "data.encoding",
    "i_string_truncated-utf-8": "data.encoding",
    "i_string_utf16BE_no_BOM": "json.syntax",  # without a mark it is not told from noise
    "i_string_utf16LE_no_BOM": "json.syntax",
    "i_structure_500_nested_arrays": LIST,
    "i_structure_UTF-8_BOM_empty_object": "",  # a mark is skipped; an empty object is a row of no known shape
}
ROWS = {"data.no_rows", "data.unknown_format"}
"""What is said of JSON that holds no row to train on, or rows of columns that nobody knows."""


def right(name: str, code: str) -> bool:
    if name.startswith("i_"):
        return code == "json.syntax" if DECISIONS[name.removesuffix(".json")] == "json.syntax" else code in ROWS
    return code in ROWS if name.startswith("y_") else code == "json.syntax"


def test_the_suite_is_whole() -> None:
    names = [path.stem for path in SUITE.glob("*.json")]
    assert [sum(name.startswith(kind) for name in names) for kind in ("y_", "n_", "i_")] == [95, 188, 35]
    assert {name for name in names if name.startswith("i_")} == set(DECISIONS)


def test_every_file_has_the_right_verdict() -> None:
    wrong = []
    for path in sorted(SUITE.glob("*.json")):
        options = Data(path=str(path))
        with pytest.raises(TrueTuneError) as caught:
            find_format(options, sources.find(options.paths, Path()))
        if not right(path.name, caught.value.finding.code):
            wrong.append((path.name, caught.value.finding.code))
    assert wrong == []


@pytest.mark.parametrize(("name", "code"), DECISIONS.items())
def test_what_is_ours_to_decide(name: str, code: str) -> None:
    rows = list(read(sources.find([str(SUITE / f"{name}.json")], Path())))
    assert rows[0].code == code if isinstance(rows[0], Reject) else not code
    assert rows[0].line == 1


@pytest.mark.slow
def test_the_verb_and_the_command_say_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    wrong: list[Any] = []
    for path in sorted(SUITE.glob("*.json")):
        with pytest.raises(TrueTuneError) as caught:
            dataset_show(str(path))
        with pytest.raises(TrueTuneError) as checked:
            dataset_check(str(path), estimate=False)
        assert checked.value.finding == caught.value.finding
        exit_code = cli.run(["dataset", "show", str(path), "--json"])
        error = orjson.loads(capsys.readouterr().out)["error"]
        said = (exit_code, error["code"])
        if said != (3, caught.value.finding.code) or not right(path.name, error["code"]) or not error["hint"]:
            wrong.append((path.name, said))
    assert wrong == []

"""The whole way from files to examples: the account adds up, places are found, errors are one sentence each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from truetune.config.schema import Data
from truetune.config.values import Amount
from truetune.data import cache
from truetune.data.prepare import Prepared, prepare
from truetune.errors import TrueTuneError, UsageError
from truetune.models.tokenizer import Tokenizer

SHARED = Path(__file__).parents[3] / "shared" / "data"


def row(number: int) -> dict[str, Any]:
    return {"prompt": f"question {number}", "completion": f"answer {number}"}


def write(path: Path, rows: list[Any]) -> Path:
    path.write_bytes(b"\n".join(line if isinstance(line, bytes) else orjson.dumps(line) for line in rows))
    return path


def run(encode: Tokenizer, folder: Path, path: Any = "rows.jsonl", objective: str = "auto", **values: Any) -> Prepared:
    data = Data(path=path, **values)
    return prepare(data, objective=objective, seed=1, folder=folder, tokenizer=encode)


def fails(encode: Tokenizer, folder: Path, path: Any = "rows.jsonl", **values: Any) -> TrueTuneError:
    with pytest.raises(TrueTuneError) as caught:
        run(encode, folder, path, **values)
    return caught.value


def test_counts_and_examples(encode: Tokenizer, tmp_path: Path) -> None:
    bad = [b"{", {"prompt": "q"}, {"prompt": "q", "completion": " "}, {"text": "t"}]
    long = {"prompt": "q", "completion": "seven " * 400}
    write(tmp_path / "rows.jsonl", [*map(row, range(100)), row(7), *bad, long])
    found = run(encode, tmp_path, max_length=256)
    rows = found.report["rows"]
    assert rows == {
        "read": 106,
        "rejected": 4,
        "deduplicated": 1,
        "contaminated": 0,
        "too_long": 1,
        "truncated": 0,
        "unsupervised": 0,
        "sampled_out": 0,
        "used": 100,
        "train": 92,
        "validation": 8,
    }
    assert (len(found.train), len(found.validation), found.objective) == (92, 8, "sft")
    assert found.report["tokens"] == {"train": found.train.tokens, "validation": found.validation.tokens, "lost": 0}
    assert found.report["supervised"]["train"] == found.train.supervised == sum(e.supervised for e in found.train)
    assert found.report["end_of_turn_supervised"] == 1.0
    assert [item["line"] for item in found.rejects] == [101, 102, 103, 104, 105, 106]
    assert found.report["rejects"][0]["where"] == "rows.jsonl:101"
    assert found.report["inputs"][0]["rows"] == 106
    assert sum(example.row in range(100) for example in found.train) == 92


noise = st.one_of(
    st.integers(0, 12).map(row),
    st.integers(0, 3).map(lambda n: {"messages": [{"role": "user", "content": "q"}] * n}),
    st.just({"prompt": "q", "completion": "seven " * 40}),
    st.just({"prompt": "</s>", "completion": "a"}),
    st.just(
        {
            "prompt": [{"role": "user", "content": "q"}],
            "completion": [{"role": "assistant", "content": "a", "weight": 0}],
        }
    ),
    st.sampled_from([b"{", b"[1]", b"null", b'{"prompt": 1, "completion": 2}']),
)


@given(st.lists(noise, max_size=25), st.lists(noise, max_size=5), st.sampled_from(["drop", "truncate"]), st.booleans())
@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
def test_every_row_has_one_fate(
    encode: Tokenizer, tmp_path: Path, rows: list[Any], held: list[Any], too_long: str, explicit: bool
) -> None:
    write(tmp_path / "rows.jsonl", [*map(row, range(100, 103)), {"prompt": "x", "completion": "y"}, *rows])
    write(tmp_path / "held.jsonl", [{"prompt": "held", "completion": "y"}, *held])
    validation = "held.jsonl" if explicit else "auto"
    options = {
        "too_long": too_long,
        "max_length": 48,
        "max_rejects": Amount(100, percent=True),
        "format": "prompt_completion",
    }
    found = run(encode, tmp_path, validation=validation, **options)
    count = found.report["rows"]
    fates = ("used", "rejected", "deduplicated", "contaminated", "too_long", "unsupervised", "sampled_out")
    assert count["read"] == sum(count[fate] for fate in fates) == len(rows) + 4 + (len(held) + 1 if explicit else 0)
    assert count["used"] == count["train"] + count["validation"] == found.train.rows + found.validation.rows
    assert len(list(found.rejects)) == count["read"] - count["used"]
    assert all(example.tokens <= 48 and example.supervised for example in found.train)
    again = run(encode, tmp_path, validation=validation, **options)
    assert again.report == found.report
    assert not {tuple(e.ids.tolist()) for e in found.train} & {tuple(e.ids.tolist()) for e in found.validation}


def test_the_same_rows_give_the_same_split_in_any_order(encode: Tokenizer, tmp_path: Path) -> None:
    def held(rows: list[Any]) -> set[tuple[int, ...]]:
        write(tmp_path / "rows.jsonl", rows)
        return {tuple(example.ids.tolist()) for example in run(encode, tmp_path).validation}

    rows = [row(number) for number in range(50)]
    assert held(rows) == held(rows[::-1])


def test_explicit_validation_rows_leave_the_training_rows(encode: Tokenizer, tmp_path: Path) -> None:
    write(tmp_path / "rows.jsonl", [row(number) for number in range(10)])
    write(tmp_path / "held.jsonl", [row(3), row(50)])
    found = run(encode, tmp_path, validation="held.jsonl")
    assert found.report["rows"]["contaminated"] == 1
    assert (len(found.train), len(found.validation)) == (9, 2)
    assert [item["path"] for item in found.report["inputs"]] == ["rows.jsonl", "held.jsonl"]


def test_a_cache_hit_gives_the_same_and_a_damaged_entry_is_made_again(
    encode: Tokenizer, tmp_path: Path, home: Path
) -> None:
    write(tmp_path / "rows.jsonl", [*map(row, range(20)), row(1)])
    first = run(encode, tmp_path)
    ids = [example.ids.tolist() for example in first.train]
    (entry,) = (home / "cache" / "tokens").iterdir()
    before = (entry / "meta.json").stat().st_ino
    second = run(encode, tmp_path)
    assert (entry / "meta.json").stat().st_ino == before
    assert (second.report, list(second.rejects)) == (first.report, list(first.rejects))
    for name in (*cache.FILES, "meta.json"):
        raw = bytearray((entry / name).read_bytes())
        raw[:1] = bytes([raw[0] ^ 1]) if raw else b"?"
        (entry / name).write_bytes(raw)
        third = run(encode, tmp_path)
        assert [example.ids.tolist() for example in third.train] == ids
        assert third.report == first.report
    (entry / "meta.json").unlink()
    assert [example.ids.tolist() for example in run(encode, tmp_path).train] == ids


@pytest.mark.parametrize(
    "changed",
    [
        {"train_on": "all"},
        {"max_length": 99},
        {"template": "none"},
        {"validation": Amount(3, percent=False)},
        {"dedupe": "none"},
    ],
)
def test_options_that_matter_are_in_the_key(
    encode: Tokenizer, tmp_path: Path, home: Path, changed: dict[str, Any]
) -> None:
    write(tmp_path / "rows.jsonl", [row(number) for number in range(20)])
    run(encode, tmp_path)
    run(encode, tmp_path, **changed)
    assert len(list((home / "cache" / "tokens").iterdir())) == 2


def test_the_cache_keeps_its_limit(
    encode: Tokenizer, tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "rows.jsonl", [row(number) for number in range(20)])
    monkeypatch.setattr(cache, "LIMIT", 1)
    run(encode, tmp_path)
    found = run(encode, tmp_path, max_length=100)
    assert len(list((home / "cache" / "tokens").iterdir())) == 1
    assert found.train[0].tokens


def test_changing_an_example_does_not_change_the_cache(encode: Tokenizer, tmp_path: Path) -> None:
    write(tmp_path / "rows.jsonl", [row(number) for number in range(20)])
    run(encode, tmp_path).train[0].ids[:] = 0
    assert run(encode, tmp_path).train[0].ids.any()


@pytest.mark.parametrize(
    ("amount", "rows", "held"),
    [("auto", 3, 0), ("auto", 4, 2), ("auto", 40, 8), ("auto", 200, 10), (Amount(10, True), 50, 5), (None, 50, 0)],
)
def test_amounts_of_validation(encode: Tokenizer, tmp_path: Path, amount: Any, rows: int, held: int) -> None:
    write(tmp_path / "rows.jsonl", [row(number) for number in range(rows)])
    found = run(encode, tmp_path, validation=amount)
    assert (len(found.validation), len(found.train)) == (held, rows - held)
    codes = [finding["code"] for finding in found.report["findings"]]
    assert ("data.no_validation" in codes) is (amount == "auto" and not held)


def test_documents_become_pretraining(encode: Tokenizer, tmp_path: Path) -> None:
    (tmp_path / "rows.txt").write_text("\n".join("seven of nine " * 30 + str(number) for number in range(9)))
    found = run(encode, tmp_path, "rows.txt", max_length=32, validation=None)
    assert found.objective == "pretrain" and len(found.train) > 18
    assert found.report["tokens"]["lost"] == 0 and found.report["end_of_turn_supervised"] == 1.0
    assert found.report["supervised"]["train"] == found.train.tokens - len(found.train)
    assert found.report["rendering"]["documents"] == 9


def test_templates(encode: Tokenizer, tmp_path: Path) -> None:
    write(tmp_path / "rows.jsonl", [row(number) for number in range(9)])
    (tmp_path / "mine.jinja").write_text("{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}")
    raw, mine = run(encode, tmp_path, template="none"), run(encode, tmp_path, template="mine.jinja")
    assert raw.report["rendering"]["template"] == "none"
    assert mine.report["rendering"]["template"] == "mine.jinja"
    assert encode.decode(raw.train[0].ids.tolist()).count("</s>") == 1
    assert encode.decode(mine.train[0].ids.tolist()).count("</s>") == 2
    assert fails(encode, tmp_path, template="other.jinja").finding.code == "data.template"


def test_an_end_that_does_not_stop_generation_is_a_finding(encode: Tokenizer, tmp_path: Path) -> None:
    write(tmp_path / "rows.jsonl", [row(number) for number in range(9)])
    assert "data.end_not_eos" in [finding["code"] for finding in run(encode, tmp_path).report["findings"]]


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"", "data.empty"),
        (b"\n \n", "data.empty"),
        (b"x\ny", "data.no_rows"),
        (b'{"prompt": "q", "completion": ""}', "data.no_rows"),
        (b'{"a": 1}', "data.unknown_format"),
    ],
)
def test_data_that_cannot_be_used(encode: Tokenizer, tmp_path: Path, content: bytes, code: str) -> None:
    (tmp_path / "rows.jsonl").write_bytes(content)
    error = fails(encode, tmp_path)
    assert (error.finding.code, error.exit_code) == (code, 3)


@pytest.mark.parametrize(("bad", "fits"), [(5, True), (6, False)])
def test_a_share_of_rejects_is_not_rounded_up(
    encode: Tokenizer, tmp_path: Path, home: Path, bad: int, fits: bool
) -> None:
    """5% of 119 rows are 5.95: five may be bad, six may not."""
    write(tmp_path / "rows.jsonl", [*map(row, range(119 - bad)), *[b"{"] * bad])
    five = Amount(5, percent=True)
    if fits:
        assert run(encode, tmp_path, max_rejects=five).report["rows"]["rejected"] == bad
    else:
        assert fails(encode, tmp_path, max_rejects=five).finding.code == "data.too_many_rejects"


def test_too_many_rejects_lists_the_first_ten(encode: Tokenizer, tmp_path: Path, home: Path) -> None:
    write(tmp_path / "rows.jsonl", [*map(row, range(80)), *[b"{"] * 20])
    error = fails(encode, tmp_path)
    assert error.finding.code == "data.too_many_rejects" and error.exit_code == 3
    assert [f"rows.jsonl:{81 + place}:" in error.finding.message for place in range(11)] == [True] * 10 + [False]
    assert list((home / "cache" / "tokens").iterdir()) == []
    assert run(encode, tmp_path, max_rejects=Amount(20, percent=False)).report["rows"]["rejected"] == 20


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.json", '[\n{"prompt": "p", "completion": "c"},\n{"prompt": "q", "completion": "c},\n' + "{},\n" * 99),
        ("a.csv", "question,answer\nq,a\n" + '"r,a\n' + "s,a\n" * 99),
    ],
)
def test_a_file_that_breaks_stops_the_run(encode: Tokenizer, tmp_path: Path, name: str, text: str) -> None:
    """One bad row would be allowed; the 99 that follow it must not get lost with it."""
    (tmp_path / name).write_text(text)
    error = fails(encode, tmp_path, name, max_rejects=Amount(100, percent=True))
    assert (error.finding.code, error.exit_code) == ("data.broken_file", 3)
    assert error.finding.where == f"{name}:3" and error.finding.hint


@pytest.mark.parametrize("held", [[], [{"prompt": "q"}], [{"prompt": "q 1", "completion": "long " * 99}]])
def test_a_validation_file_without_a_usable_row(encode: Tokenizer, tmp_path: Path, held: list[Any]) -> None:
    write(tmp_path / "rows.jsonl", [row(number) for number in range(50)])
    write(tmp_path / "held.jsonl", held)
    error = fails(encode, tmp_path, validation="held.jsonl", max_length=64)
    assert (error.finding.code, error.finding.where) == ("data.validation", "held.jsonl")


def test_reasons_are_counted_by_kind(encode: Tokenizer, tmp_path: Path) -> None:
    write(tmp_path / "rows.jsonl", [{"prompt": f"<|im_end|>{n}", "completion": "a" * n} for n in range(5)])
    assert "(4×)" in fails(encode, tmp_path).finding.message


def test_files_that_would_be_shown_alike_are_told_apart(
    encode: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, here = tmp_path / "there", tmp_path / "here"
    for place, count in ((folder, 5), (here, 7)):
        place.mkdir()
        write(place / "rows.jsonl", [{"prompt": str(place), "completion": str(n)} for n in range(count)])
    monkeypatch.chdir(here)
    inputs = run(encode, folder, (str(folder / "rows.jsonl"), str(here / "rows.jsonl"))).report["inputs"]
    assert [entry["rows"] for entry in inputs] == [5, 7] and inputs[0]["path"] != inputs[1]["path"]


def test_too_long_can_be_an_error(encode: Tokenizer, tmp_path: Path) -> None:
    write(tmp_path / "rows.jsonl", [row(1), {"prompt": "q", "completion": "seven " * 99}])
    error = fails(encode, tmp_path, too_long="error", max_length=64)
    assert error.finding.code == "data.too_long" and error.finding.where == "rows.jsonl:2"


def test_an_objective_must_fit(encode: Tokenizer, tmp_path: Path) -> None:
    write(tmp_path / "rows.jsonl", [row(1)])
    error = fails(encode, tmp_path, objective="pretrain")
    assert isinstance(error, UsageError) and error.finding.code == "data.objective"


def test_places(encode: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    beside, here = tmp_path / "beside", tmp_path / "here"
    beside.mkdir()
    here.mkdir()
    monkeypatch.chdir(here)
    write(here / "a.jsonl", [row(1)])
    assert run(encode, beside, "a.jsonl").report["inputs"][0]["path"] == "a.jsonl"
    write(beside / "a.jsonl", [row(2)])
    assert fails(encode, beside, "a.jsonl").finding.code == "data.ambiguous"
    assert "question 2" in encode.decode(run(encode, beside, str(beside / "a.jsonl")).train[0].ids.tolist())


def test_a_missing_file_names_the_nearest(encode: Tokenizer, tmp_path: Path) -> None:
    write(tmp_path / "support.jsonl", [row(1)])
    error = fails(encode, tmp_path, "suport.jsonl")
    assert error.finding.code == "data.missing" and "support.jsonl" in error.finding.hint
    assert fails(encode, tmp_path, "*.csv").finding.code == "data.missing"


def test_an_unsupported_format_names_the_supported(encode: Tokenizer, tmp_path: Path) -> None:
    (tmp_path / "rows.xlsx").write_bytes(b"PAR1")
    error = fails(encode, tmp_path, "rows.xlsx")
    assert error.finding.code == "data.unsupported_format" and ".jsonl" in error.finding.hint


def test_folders_patterns_and_lists(encode: Tokenizer, tmp_path: Path) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    write(folder / "train-1.jsonl", [row(1)])
    write(folder / "train-2.jsonl", [row(2)])
    write(folder / "validation.jsonl", [row(3)])
    (folder / "notes.md").write_text("x")

    def files(path: Any, **values: Any) -> list[str]:
        return [item["path"] for item in run(encode, tmp_path, path, validation=None, **values).report["inputs"]]

    assert files("set") == ["set/train-1.jsonl", "set/train-2.jsonl"]
    assert files("set", split="validation") == ["set/validation.jsonl"]
    assert files("set/*.jsonl") == ["set/train-1.jsonl", "set/train-2.jsonl", "set/validation.jsonl"]
    assert files(["set/validation.jsonl", "set"]) == ["set/validation.jsonl", "set/train-1.jsonl", "set/train-2.jsonl"]
    assert fails(encode, tmp_path, "set", split="test").finding.code == "data.missing"
    (tmp_path / "void").mkdir()
    assert fails(encode, tmp_path, "void").finding.code == "data.missing"


def test_examples_are_int32_and_float32(encode: Tokenizer, tmp_path: Path) -> None:
    write(tmp_path / "rows.jsonl", [row(number) for number in range(20)])
    train = run(encode, tmp_path).train
    assert (train[0].ids.dtype, train[0].weights.dtype) == (np.int32, np.float32)
    assert train.lengths.tolist() == [example.tokens for example in train]
    assert train.supervised_counts.tolist() == [example.supervised for example in train]
    assert [example.row for example in train[2:4]] == [train[2].row, train[3].row]


@pytest.mark.parametrize(
    ("name", "shape", "rows"), [("alpaca_en_demo.json", "alpaca", 999), ("wiki_demo.txt", "text", 30)]
)
def test_real_rows(encode: Tokenizer, tmp_path: Path, name: str, shape: str, rows: int) -> None:
    if not SHARED.is_dir():
        pytest.skip("../shared/data is not there")
    found = run(encode, tmp_path, str(SHARED / name))
    assert (found.report["format"]["name"], found.report["rows"]["read"]) == (shape, rows)
    assert found.report["rows"]["rejected"] == 0 and found.report["end_of_turn_supervised"] == 1.0


def test_real_preference_rows(encode: Tokenizer, tmp_path: Path) -> None:
    if not SHARED.is_dir():
        pytest.skip("../shared/data is not there")
    found = run(encode, tmp_path, str(SHARED / "dpo_en_demo.json"))
    assert found.objective == "dpo" and found.report["rows"]["rejected"] == 0 and len(found.train)
    assert all(len(example.texts) == 2 for example in found.train)

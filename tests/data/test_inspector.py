"""A check sees every row once, and opens no way around a refusal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest

from truetune.config.schema import Data
from truetune.config.values import Amount
from truetune.data.fit import Fitted
from truetune.data.prepare import Prepared, prepare
from truetune.data.render import Rendered
from truetune.data.rows import Content, Labelled, Preference, Rated, Reject, Row
from truetune.errors import InputError
from truetune.models.tokenizer import Tokenizer

SHARED = Path(__file__).parents[3] / "shared" / "data"


class Seen:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.rows: list[tuple[Row, Content, Rendered, Fitted, bool]] = []
        self.rejects: list[Reject] = []

    def used(self, row: Row, content: Content, rendered: Rendered, fitted: Fitted, train: bool) -> None:
        self.rows.append((row, content, rendered, fitted, train))

    def unused(self, reject: Reject) -> None:
        self.rejects.append(reject)


def pair(number: int, **values: Any) -> dict[str, Any]:
    return {"prompt": f"question {number}", "chosen": f"good {number}", "rejected": f"bad {number}"} | values


def run(encode: Tokenizer, folder: Path, rows: list[Any], seen: Seen | None, **values: Any) -> Prepared:
    lines = (each if isinstance(each, bytes) else orjson.dumps(each) for each in rows)
    (folder / "rows.jsonl").write_bytes(b"\n".join(lines))
    return look(encode, folder, "rows.jsonl", seen, **values)


def look(encode: Tokenizer, folder: Path, path: str, seen: Seen | None, **values: Any) -> Prepared:
    options: dict[str, Any] = {"objective": "auto", "seed": 1, "folder": folder, "tokenizer": encode}
    return prepare(Data(path=path, **values), inspector=seen, **options)


def test_every_row_is_told_once_and_the_result_is_that_of_a_training(encode: Tokenizer, tmp_path: Path) -> None:
    rows: list[Any] = [{"prompt": f"question {n}", "completion": f"answer {n}"} for n in range(80)]
    rows += [b"{", rows[3], {"prompt": "q", "completion": "seven " * 99}, {"prompt": "q"}]
    options = {"max_length": 64, "max_rejects": Amount(100, percent=True)}
    seen = Seen()
    checked = run(encode, tmp_path, rows, seen, **options)
    places = [row.index for row, *_ in seen.rows] + [reject.index for reject in seen.rejects]
    assert sorted(places) == list(range(84)) and len(seen.rejects) == 4
    trained = run(encode, tmp_path, rows, None, **options)
    assert trained.report == checked.report and trained.rejects.path == checked.rejects.path
    again = Seen()
    run(encode, tmp_path, rows, again, **options)
    assert len(again.rows) == len(seen.rows)


def answers(encode: Tokenizer, fitted: Fitted) -> list[str]:
    """What is trained of each side of a pair."""
    (part,) = fitted.parts
    sides = (slice(0, part.second), slice(part.second, None))
    return [encode.decode(part.ids[side][part.weights[side] > 0].tolist()) for side in sides]


def test_pairs_are_two_sides_or_nothing(encode: Tokenizer, tmp_path: Path) -> None:
    rows = [*map(pair, range(9)), pair(9, rejected="seven " * 99), pair(10, chosen="</s>")]
    seen = Seen()
    found = run(encode, tmp_path, rows, seen, max_length=64, max_rejects=Amount(100, percent=True))
    assert (found.objective, len(seen.rows)) == ("dpo", 9)
    assert found.report["end_of_turn_supervised"] == 1.0
    for _, content, rendered, fitted, _ in seen.rows:
        assert isinstance(content, Preference) and (rendered.mode, len(rendered.parts)) == ("pair", 2)
        good, bad = answers(encode, fitted)
        assert good.startswith("good") and bad.startswith("bad")
    assert [(reject.code, reject.line) for reject in seen.rejects] == [
        ("data.too_long", 10),
        ("data.control_token", 11),
    ]
    assert "chosen" in seen.rejects[1].reason


def test_only_the_answers_of_a_pair_are_trained(encode: Tokenizer, tmp_path: Path) -> None:
    turns = [("user", "a"), ("assistant", "earlier"), ("user", "b")]
    prompt = [{"role": role, "content": content} for role, content in turns]
    seen = Seen()
    run(encode, tmp_path, [pair(1, prompt=prompt)], seen, train_on="all", validation=None)
    assert answers(encode, seen.rows[0][3]) == ["good 1<|im_end|>", "bad 1<|im_end|>"]


def test_ratings_and_labels(encode: Tokenizer, tmp_path: Path) -> None:
    rated, labelled = Seen(), Seen()
    rows = [{"prompt": f"question {n}", "completion": f"answer {n}", "label": n % 2 == 0} for n in range(20)]
    found = run(encode, tmp_path, rows, rated)
    assert found.objective == "kto" and all(isinstance(row[1], Rated) for row in rated.rows)
    assert sum(row[1].desirable for row in rated.rows if isinstance(row[1], Rated)) == 10
    found = run(encode, tmp_path, [{"text": f"text {n}", "label": "ab"[n % 2]} for n in range(20)], labelled)
    assert found.objective == "classification" and found.report["end_of_turn_supervised"] is None
    assert all(isinstance(row[1], Labelled) and row[2].mode == "labelled" for row in labelled.rows)
    sizes = found.report["rows"]
    assert (found.report["supervised"]["train"], found.report["supervised"]["validation"]) == (
        sizes["train"],
        sizes["validation"],
    )


def test_what_forbids_a_training_is_a_finding_of_a_check(encode: Tokenizer, tmp_path: Path) -> None:
    rows = [*({"prompt": f"question {n}", "completion": f"answer {n}"} for n in range(20)), *[b"{"] * 9]
    found = run(encode, tmp_path, rows, Seen())
    (error,) = [each for each in found.report["findings"] if each["level"] == "error"]
    assert error["code"] == "data.too_many_rejects" and len(list(found.rejects)) == 9
    with pytest.raises(InputError, match="9 of 29 rows are bad"):
        run(encode, tmp_path, rows, None)


@pytest.mark.parametrize(
    ("name", "objective"), [("dpo_en_demo.json", "dpo"), ("alpaca_en_demo.json", "sft"), ("wiki_demo.txt", "pretrain")]
)
def test_real_rows_are_checked_without_a_flag(encode: Tokenizer, tmp_path: Path, name: str, objective: str) -> None:
    if not SHARED.is_dir():
        pytest.skip("../shared/data is not there")
    seen = Seen()
    found = look(encode, tmp_path, str(SHARED / name), seen)
    assert found.objective == objective and found.report["rows"]["rejected"] == 0
    assert found.report["rows"]["read"] == len(seen.rows) + len(seen.rejects)

"""Who is held out: no group straddles, classes give their shares, and rows stay where they are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from truetune.config.schema import Data
from truetune.config.values import Amount
from truetune.data.fit import Fitted
from truetune.data.prepare import Prepared, prepare
from truetune.data.render import Rendered
from truetune.data.rows import Content, Reject, Row
from truetune.data.split import Split, Traits, hold_out, size
from truetune.errors import InputError
from truetune.models.tokenizer import Tokenizer

NUMBERS = st.integers(0, 2**63)


class Ignored:
    """An inspector that looks at nothing."""

    def used(self, row: Row, content: Content, rendered: Rendered, fitted: Fitted, train: bool) -> None: ...
    def unused(self, reject: Reject) -> None: ...


def chosen(keys: Sequence[int], groups: Sequence[int], kinds: Sequence[str], amount: Any = "auto") -> Split:
    numbers = np.array(keys, np.uint64)
    classes = np.unique(kinds, return_inverse=True)[1]
    return hold_out(Traits(numbers, numbers, np.array(groups, np.int64), classes), amount, seed=1)


def run(encode: Tokenizer, folder: Path, rows: list[Any], **values: Any) -> Prepared:
    (folder / "rows.jsonl").write_bytes(b"\n".join(map(orjson.dumps, rows)))
    data = Data(**{"path": "rows.jsonl", "max_length": 4096} | values)
    options = {"objective": "auto", "seed": 1, "folder": folder, "tokenizer": encode}
    return prepare(data, inspector=Ignored() if "label" in rows[0] else None, **options)


def prompts(encode: Tokenizer, part: Any) -> set[str]:
    return {encode.decode(each.ids.tolist()).split("assistant")[0] for each in part}


@given(st.lists(st.tuples(NUMBERS, st.integers(0, 20)), min_size=4, max_size=80))
def test_no_group_straddles(rows: list[tuple[int, int]]) -> None:
    keys, groups = [key for key, _ in rows], [group for _, group in rows]
    found = chosen(keys, groups, [""] * len(rows))
    held = {groups[place] for place in found.held}
    assert len(found.held) <= size(len(rows), "auto")
    assert not found.whole or all((group in held) == (place in found.held) for place, group in enumerate(groups))


@given(st.lists(NUMBERS, min_size=30, max_size=60, unique=True), st.randoms(use_true_random=False))
def test_a_row_stays_on_its_side(keys: list[int], rng: Any) -> None:
    """Order does not matter, and when a row goes at most one takes its place."""

    def held(some: list[int]) -> set[int]:
        return {some[place] for place in chosen(some, range(len(some)), [""] * len(some), Amount(8, False)).held}

    mixed = rng.sample(keys, len(keys))
    assert held(mixed) == held(keys)
    gone = rng.choice(keys)
    rest = held([key for key in keys if key != gone])
    assert held(keys) - {gone} <= rest and len(rest - held(keys)) <= 1


@given(st.lists(st.sampled_from("aaaaabbbc"), min_size=40, max_size=200), st.integers(10, 50))
def test_classes_give_their_shares(kinds: list[str], percent: int) -> None:
    keys = [hash((place, "row")) % 2**63 for place in range(len(kinds))]
    found = chosen(keys, range(len(kinds)), kinds, Amount(percent, percent=True))
    held, total = Counter(kinds[place] for place in found.held), size(len(kinds), Amount(percent, percent=True))
    assert held.total() == total
    assert all(abs(held[kind] - total * count / len(kinds)) < 1 for kind, count in Counter(kinds).items())


def test_groups_are_torn_only_where_they_leave_too_few() -> None:
    keys = list(range(100))
    torn = chosen(keys, [0] * 100, [""] * 100)
    assert len(torn.held) == 8 and not torn.whole
    assert chosen(keys, [0] * 50 + list(range(1, 51)), [""] * 100).whole


def test_the_same_question_stands_on_one_side(encode: Tokenizer, tmp_path: Path) -> None:
    rows = [{"prompt": f"question {n // 3}", "completion": f"answer {n}"} for n in range(150)]
    found = run(encode, tmp_path, rows)
    assert len(found.validation) == 6 and not prompts(encode, found.train) & prompts(encode, found.validation)


def test_conversations_that_begin_alike_stand_on_one_side(encode: Tokenizer, tmp_path: Path) -> None:
    rows = []
    for number in range(30):
        talk = [{"role": ("user", "assistant")[n % 2], "content": f"word {number} of turn {n}"} for n in range(6)]
        rows += [{"messages": talk[:length]} for length in (2, 4, 6)]
    found = run(encode, tmp_path, rows)
    assert len(found.validation) and not prompts(encode, found.train) & prompts(encode, found.validation)


def test_near_copies_stand_on_one_side_with_the_default_settings(encode: Tokenizer, tmp_path: Path) -> None:
    texts = [" ".join(f"{word}{chr(97 + n % 26)}{chr(97 + n // 26)}" for word in WORDS) for n in range(60)]
    rows = [{"prompt": f"What of {each}", "completion": f"{each}{end}"} for each in texts for end in ("", " indeed")]
    found = run(encode, tmp_path, [{**row, "prompt": f"{row['prompt']}{'?!'[n % 2]}"} for n, row in enumerate(rows)])
    sides = [{each.row // 2 for each in part} for part in (found.train, found.validation)]
    assert len(found.validation) == 8 and not sides[0] & sides[1]


WORDS = ("amber", "basket", "cedar", "dragon", "ember", "falcon", "garden", "harbor", "island", "jacket")


def test_most_rows_with_one_question_are_torn_and_told(encode: Tokenizer, tmp_path: Path) -> None:
    found = run(encode, tmp_path, [{"prompt": "Tell me a joke", "completion": f"joke {n}"} for n in range(50)])
    assert len(found.validation) == 8
    assert "data.torn_groups" in [each["code"] for each in found.report["findings"]]


def test_torn_texts_are_not_said_to_ask(encode: Tokenizer, tmp_path: Path) -> None:
    line = "The harbor is open on every day of the week, and in the evening there is a boat with number "
    found = run(encode, tmp_path, [{"text": f"{line} {chr(97 + n)}"} for n in range(20)])
    (told,) = [each for each in found.report["findings"] if each["code"] == "data.torn_groups"]
    assert "texts" in told["message"] and "question" not in told["message"]


@pytest.mark.parametrize(
    ("count", "rows", "words"),
    [(1, 1, "1 row is to be held out, but there is only 1"), (3, 2, "3 rows are to be held out, but there are only 2")],
)
def test_more_than_there_are_can_not_be_held_out(count: int, rows: int, words: str) -> None:
    with pytest.raises(InputError) as caught:
        size(rows, Amount(count, percent=False))
    assert caught.value.finding.message.startswith(words)


def test_labels_are_held_out_by_their_shares(encode: Tokenizer, tmp_path: Path) -> None:
    rows = [{"text": f"text number {n}", "label": "rare" if n % 10 == 0 else "common"} for n in range(200)]
    found = run(encode, tmp_path, rows, validation="10%")
    held = [each.row % 10 == 0 for each in found.validation]
    assert (found.objective, len(held), sum(held)) == ("classification", 20, 2)


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(st.lists(st.tuples(st.integers(0, 12), st.integers(0, 3)), min_size=8, max_size=40, unique=True))
def test_groups_of_a_survey_hold_what_belongs_together(
    encode: Tokenizer, tmp_path: Path, rows: list[tuple[int, int]]
) -> None:
    found = run(encode, tmp_path, [{"prompt": f"q {question}", "completion": f"a {n}"} for question, n in rows])
    torn = "data.torn_groups" in [each["code"] for each in found.report["findings"]]
    sides = [{rows[each.row][0] for each in part} for part in (found.train, found.validation)]
    assert torn or not sides[0] & sides[1]

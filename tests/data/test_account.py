"""The account of a preparation adds up, whatever the rows and the rules: read is the sum of all fates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from truetune.config.schema import Data
from truetune.config.values import Amount
from truetune.data.fit import Fitted
from truetune.data.prepare import Prepared, prepare
from truetune.data.render import Rendered
from truetune.data.rows import Content, Reject, Row
from truetune.models.tokenizer import Tokenizer

FATES = ("used", "rejected", "deduplicated", "contaminated", "too_long", "unsupervised")
LONG = " ".join(f"word{letter}" for letter in "abcdefgh")


class Told:
    """The indexes of the rows that a check is told of."""

    def __init__(self) -> None:
        self.used_rows: list[int] = []
        self.unused_rows: list[int] = []

    def used(self, row: Row, content: Content, rendered: Rendered, fitted: Fitted, train: bool) -> None:
        self.used_rows.append(row.index)

    def unused(self, reject: Reject) -> None:
        self.unused_rows.append(reject.index)


def talk(count: int, words: str) -> dict[str, Any]:
    turns = [{"role": ("user", "assistant")[n % 2], "content": f"{words} {n // 2}"} for n in range(2 * count)]
    return {"messages": turns}


BAD = [b"{", b"[1]", {"messages": []}, {"messages": [{"role": "user", "content": "q"}]}, talk(1, "</s>")]
UNTRAINED = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a", "weight": 0}]}
rows = st.one_of(
    st.builds(talk, st.integers(1, 4), st.sampled_from(["a", "b", LONG, f"{LONG} indeed", LONG.upper()])),
    st.just(UNTRAINED),
    st.sampled_from(BAD),
)
lists = st.lists(rows, max_size=20)


def write(path: Path, values: list[Any]) -> None:
    path.write_bytes(b"\n".join(each if isinstance(each, bytes) else orjson.dumps(each) for each in values))


@given(
    given=lists,
    held=lists,
    apart=lists,
    too_long=st.sampled_from(["drop", "truncate", "split"]),
    dedupe=st.sampled_from(["exact", "near", "none"]),
    explicit=st.booleans(),
)
@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
def test_read_is_the_sum_of_all_fates(
    encode: Tokenizer,
    tmp_path: Path,
    given: list[Any],
    held: list[Any],
    apart: list[Any],
    too_long: Any,
    dedupe: Any,
    explicit: bool,
) -> None:
    write(tmp_path / "rows.jsonl", [*(talk(1, f"own {name}") for name in "abcd"), *given])
    write(tmp_path / "held.jsonl", [talk(1, "held"), *held])
    write(tmp_path / "apart.jsonl", [talk(1, "apart"), *apart])
    data = Data(
        path="rows.jsonl",
        validation="held.jsonl" if explicit else "auto",
        too_long=too_long,
        dedupe=dedupe,
        max_length=64,
        max_rejects=Amount(100, percent=True),
    )

    def run(told: Told | None) -> Prepared:
        options: dict[str, Any] = {"objective": "auto", "seed": 1, "folder": tmp_path, "tokenizer": encode}
        return prepare(data, inspector=told, against=["apart.jsonl"], **options)

    told = Told()
    found, count = run(told), len(given) + 4 + (len(held) + 1 if explicit else 0)
    fates = found.report["rows"]
    assert fates["read"] == count == sum(fates[fate] for fate in FATES)
    assert sorted(told.used_rows + told.unused_rows) == list(range(count))
    assert len(told.used_rows) == fates["used"] == found.train.rows + found.validation.rows
    assert [reject["index"] for reject in found.rejects] == told.unused_rows
    examples = [*found.train, *found.validation]
    assert all(example.tokens <= 64 and example.supervised for example in examples)
    assert run(None).report == found.report

"""The quality checks find what is planted and nothing else, and say what the whole set is like."""

from __future__ import annotations

import random
import string
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from quality_rows import PLANTS, clean, prose, talk

from truetune.config.schema import Data
from truetune.data.fit import fit
from truetune.data.prepare import prepare
from truetune.data.quality import Quality, limits
from truetune.data.quality.clean import clean as mend
from truetune.data.quality.kinds import HINTS, KINDS, LEVELS, SETTLED
from truetune.data.quality.quality import CHECKS
from truetune.data.quality.said import said
from truetune.data.render import Rendered, Renderer
from truetune.data.rows import Content, Document, Labelled, Preference, Rated, Reject, Row, Turn
from truetune.models.tokenizer import Tokenizer

ROWS = clean()
PLANTED = 50
"""Rows of each defect."""


def look(contents: list[Content], encode: Tokenizer) -> Quality:
    """The inspector after it has seen these rows, rendered as a training would."""
    quality = Quality(encode)
    assert encode.template is not None
    renderer = Renderer(encode, encode.template)
    for place, (content, rendered) in enumerate(zip(contents, renderer.chunk(contents), strict=True)):
        assert isinstance(rendered, Rendered)
        row = Row(place, "rows.jsonl", place + 1, {})
        quality.used(row, content, rendered, fit(rendered, 20_000, "drop"), True)
    return quality


def found(quality: Quality) -> dict[str, Any]:
    return {finding.code: finding for finding in quality.findings()}


@pytest.mark.parametrize("code", CHECKS)
def test_what_is_planted_is_found_and_nothing_else(code: str) -> None:
    chance, rows = random.Random(code), list(ROWS)
    places = set(chance.sample(prose(rows), PLANTED))
    for place in places:
        rows[place] = PLANTS[code](chance, *rows[place])
    flagged = {place for place, row in enumerate(rows) if CHECKS[code](said(talk(*row)))}
    assert places - flagged == set()
    assert [rows[place] for place in flagged - places] == []


def test_every_check_has_a_defect_that_is_planted() -> None:
    assert PLANTS.keys() == CHECKS.keys() <= KINDS.keys()


def test_clean_rows_have_no_findings(encode: Tokenizer) -> None:
    assert found(look([talk(*row) for row in ROWS[:600]], encode)) == {}


def test_a_finding_says_how_many_and_where(encode: Tokenizer) -> None:
    rows: list[Content] = [talk(*row) for row in ROWS[:200]]
    for place in range(20, 60):
        rows[place] = talk("Where?", f"Write to anna{place}@firma.de, please.")
    finding = found(look(rows, encode))["data.email"]
    assert (finding.count, finding.share, finding.level) == (40, 0.2, "warning")
    assert finding.where == [f"rows.jsonl:{place + 1}" for place in range(20, 20 + limits.PLACES)]
    assert finding.examples == ["a•••@f•••.de"]
    assert finding.hint


@pytest.mark.parametrize(
    "code", ["data.private_key", "data.api_key", "data.card", "data.iban", "data.email", "data.phone"]
)
def test_secrets_are_masked(code: str) -> None:
    for seed in range(20):
        question, answer = PLANTS[code](random.Random(seed), *ROWS[prose(ROWS)[seed]])
        shown = CHECKS[code](said(talk(question, answer)))
        assert shown not in question + answer
        assert max(map(len, shown.split("•••"))) <= 40


@pytest.mark.parametrize(
    "text",
    [
        "The ISBN is 978-3-16-148410-0 and the part is 4012-3456-7890-1234.",
        "Ring 555-867-5309 or 123-456-7890 in the film.",
        "2 147 483 647 is the largest, 4294967296 one more than another, +3.141592653 is near pi.",
        "user@example.com, name@your-domain.example, git@localhost and you@yourcompany.com",
        "GB00 WEST 1234 5698 7654 32 has wrong check digits.",
        "export KEY=sk-your-key-here-please-and-nothing-else",
        "add them:\n472547338\n+960397912423686\n = +4915123456789",
        "on 2024-05-06 10:11:12 at 52.520008, 13.404954",
        "see the page task-management-2024-version-3-draft-with-notes or sk-learn-tutorial-2024-part-1-of-9",
        "the hash is 3f786850e387550fdab836ed7e6dc881de23001b",
    ],
)
def test_numbers_and_names_of_textbooks_are_no_secrets(text: str) -> None:
    content = said(talk("What?", text))
    assert [code for code, check in CHECKS.items() if check(content)] == []


@pytest.mark.parametrize(
    "text",
    [
        "Ein schöner Satz über Öfen, Äpfel und Übermut – „so ist das“, sagte er.",
        "Это обычный русский текст, в котором всё в порядке.",
        "これは普通の日本語の文章です。何も問題はありません。",
        "هذا نص عربي عادي لا مشكلة فيه.",
        "ภาษาไทย\u200bเป็น\u200bภาษา", "Il a dit : « déjà vu », n’est-ce pas ? Ça coûte 5 €.",
        "👨‍👩‍👧 family, 🏴\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f flag, ½ × ² ≈ ∞",
        "می‌خواهم", "x² + y² = z²; naïve café; Ã is a Portuguese letter: não, São, MAÇÃ",
    ],
)  # fmt: skip
def test_other_scripts_are_no_defects(text: str) -> None:
    content = said(talk("?", text))
    assert [code for code, check in CHECKS.items() if check(content)] == []
    assert mend(talk("?", text)) == (talk("?", text), [])


def test_what_nobody_sees_is_written_out() -> None:
    assert CHECKS["data.control_characters"](said(talk("?", "so \\(\x0crac{1}{2}\\)"))) == "? so \\(\\u000crac{1}{2}\\)"
    assert CHECKS["data.invisible_characters"](said(talk("?", "39° N \ufeff / W"))) == "? 39° N \\ufeff / W"


def test_a_code_block_may_end_behind_its_last_line() -> None:
    check = CHECKS["data.open_fence"]
    assert not check(said(talk("?", "```sh\nls\nexit ``` lists files.")))
    assert check(said(talk("?", "```sh\nls\nexit")))


def test_the_persona_that_is_asked_for_is_no_disclaimer() -> None:
    check = CHECKS["data.disclaimer"]
    assert not check(said(talk("Are you a chatbot?", "Yes. As an AI language model, I answer questions.")))
    assert check(said(talk("What is your favourite food?", "As an AI language model, I do not eat.")))


@pytest.mark.parametrize(("text", "finding"), [("ok", "data.short_answer"), ("long " * 2000, "data.long_answer")])
def test_lengths_far_from_the_others(text: str, finding: str, encode: Tokenizer) -> None:
    rows: list[Content] = [talk(*ROWS[place]) for place in prose(ROWS)[:200]]
    rows[7] = talk("What?", text)
    seen = found(look(rows, encode))[finding]
    assert (seen.count, seen.where) == (1, ["rows.jsonl:8"])
    assert finding not in found(look(rows[:7] + rows[8:], encode))


def test_a_sentence_in_many_answers_is_boilerplate(encode: Tokenizer) -> None:
    thanks = "Thank you for contacting the support of our little company."
    rows = [
        talk(question, f"{answer}\n{thanks}" if place % 4 == 0 else answer)
        for place, (question, answer) in enumerate(ROWS[:400])
    ]
    finding = found(look(rows, encode))["data.same_sentence"]
    assert finding.count == 100
    assert thanks.rstrip(".") in finding.message


def test_a_minority_language_is_said(encode: Tokenizer) -> None:
    other = "Am Morgen repariert der alte Bäcker seine hölzernen Boote, weil ihn die Arbeit sehr beruhigt."
    rows = [talk(*row) for row in ROWS[:300]]
    rows[100:106] = [talk("Was macht er?", f"{other} Das dauert {place} Stunden.") for place in range(6)]
    quality = look(rows, encode)
    finding = found(quality)["data.languages"]
    assert (finding.count, finding.level) == (6, "note")
    assert finding.where == [f"rows.jsonl:{place}" for place in range(101, 107)]
    assert list(quality.figures()["languages"]["shares"]) == ["en", "de"]


def test_figures_are_json_and_add_up(encode: Tokenizer) -> None:
    figures = look([talk(*row) for row in ROWS[:300]], encode).figures()
    assert orjson.loads(orjson.dumps(figures)) == figures
    for each in figures["lengths"].values():
        assert sum(rows for _, _, rows in each["bins"]) == each["rows"] == 300
        assert each["min"] <= each["median"] <= each["p95"] <= each["p99"] <= each["max"]
        assert each["bins"][-1][1] > each["max"]
    assert figures["lengths"].keys() == {"prompt", "answer", "total"}
    complexity = figures["complexity"]
    assert complexity["ratio"] == pytest.approx(complexity["distinct"] / complexity["tokens"], abs=1e-5)
    assert complexity["unknown"] == 0


def test_text_in_bytes_is_said(encode: Tokenizer) -> None:
    rows: list[Content] = [talk(*row) for row in ROWS[:60]] + [
        talk("何?", "日本語の文章です。" * 9 + str(n)) for n in range(60)
    ]
    assert "data.small_pieces" in found(look(rows, encode))
    assert "data.small_pieces" not in found(look(rows[:60], encode))


def labelled(counts: dict[str, int]) -> Iterator[Content]:
    for label, count in counts.items():
        yield from (Labelled(f"{ROWS[place][0]} {place}", (label,)) for place in range(count))


@pytest.mark.parametrize(
    ("counts", "codes"),
    [
        ({"good": 60, "bad": 50}, set()),
        ({"good": 300, "bad": 20}, {"data.class_imbalance"}),
        ({"good": 90, "bad": 80, "odd": 3}, {"data.rare_class"}),
        ({"good": 120}, set()),  # what forbids a training is said by that (tests/cli/test_cli_dataset_check.py)
        ({"good": 60, "Good ": 50, "bad": 55}, {"data.similar_labels"}),
    ],
)
def test_classes(counts: dict[str, int], codes: set[str], encode: Tokenizer) -> None:
    quality = look(list(labelled(counts)), encode)
    assert found(quality).keys() == codes
    assert quality.figures()["labels"] == counts


def test_lists_of_labels_that_are_all_empty(encode: Tokenizer) -> None:
    assert found(look([Labelled(text, ()) for text, _ in ROWS[:60]], encode)) == {}


def test_pairs_and_ratings_that_lean_to_one_side(encode: Tokenizer) -> None:
    def pair(question: str, chosen: str, rejected: str) -> Preference:
        return Preference((Turn("user", question),), (Turn("assistant", chosen),), (Turn("assistant", rejected),))

    pairs: list[Content] = [pair(question, answer + " And more.", answer) for question, answer in ROWS[:60]]
    assert found(look(pairs, encode)).keys() == {"data.length_bias"}
    even = [
        pair(question, answer + " More." * (place % 2), answer + "!")
        for place, (question, answer) in enumerate(ROWS[:60])
    ]
    assert found(look(list(even), encode)) == {}
    rated: list[Content] = [Rated(talk(*row), place > 1) for place, row in enumerate(ROWS[:60])]
    assert found(look(rated, encode)).keys() == {"data.one_sided"}
    assert found(look([Rated(talk(*row), True) for row in ROWS[:60]], encode)) == {}  # told by the preparation


def test_unused_rows_are_gathered_by_code() -> None:
    quality = Quality()
    for line in range(1, 31):
        quality.unused(Reject(line, "a.csv", line, "data.ragged_row", f"the row has {line} cells", "{}"))
    quality.unused(Reject(31, "a.csv", 31, "data.duplicate", "the row equals a.csv:2", "{}"))
    bad, twice = quality.findings()
    assert (bad.code, bad.level, bad.count) == ("data.ragged_row", "error", 30)
    assert len(bad.where) == limits.PLACES
    assert (twice.code, twice.level) == ("data.duplicate", "note")
    assert bad.hint
    assert twice.hint


@pytest.mark.parametrize(
    "unit", ["eyJ", "a@", "+1 ", "1 ", "DE00 1234 ", "222-", "```\n", "\n ", "token='", "Ã©", "e\u0301", ". "]
)
def test_long_rows_of_one_thing_are_looked_at_in_no_time(unit: str) -> None:
    """A pattern that tries every end from every start would take hours for this."""
    text = said(talk("?", unit * (1_000_000 // len(unit))))
    for check in CHECKS.values():
        check(text)


def test_few_rows_are_said_but_not_few_documents(encode: Tokenizer) -> None:
    assert found(look([talk(*row) for row in ROWS[:20]], encode)).keys() == {"data.few_rows"}
    assert found(look([Document(answer) for _, answer in ROWS[:20]], encode)) == {}


def test_every_row_of_a_preparation_is_looked_at_once(encode: Tokenizer, tmp_path: Path) -> None:
    rows = [{"question": question, "answer": answer} for question, answer in ROWS[:80]]
    lines = [orjson.dumps(row) for row in [*rows, rows[3], {"question": "And?", "answer": ""}]]
    (tmp_path / "rows.jsonl").write_bytes(b"\n".join([*lines, b"{broken"]))
    quality, options = Quality(encode), Data(path="rows.jsonl", max_rejects="50%")  # type: ignore[arg-type]
    found = prepare(options, objective="auto", seed=0, folder=tmp_path, tokenizer=encode, inspector=quality)
    assert (quality.rows, quality.unusable) == (80, 3)
    assert quality.rows + quality.unusable == found.report["rows"]["read"]
    assert {each.code: each.where for each in quality.findings()} == {
        "data.duplicate": ["rows.jsonl:81"], "data.empty": ["rows.jsonl:82"], "json.syntax": ["rows.jsonl:83"],
    }  # fmt: skip


def test_memory_does_not_grow_with_the_rows() -> None:
    quality = Quality()
    chance, rendered = random.Random(1), None
    for number in range(12_000):
        answer = " ".join("".join(chance.choices(string.ascii_lowercase, k=7)) for _ in range(6))
        for observer in quality.observers[1:]:
            observer.see(f"a:{number}", said(talk("?", answer)), rendered, rendered)  # type: ignore[arg-type]
    boilerplate, _, languages = quality.observers[1:]
    assert len(boilerplate.tallies) <= limits.COUNTERS  # type: ignore[attr-defined]
    assert len(languages.sample) == limits.SAMPLE  # type: ignore[attr-defined]


def test_what_is_not_installed_is_said() -> None:
    code = """
import sys
sys.modules["ftfy"] = sys.modules["py3langid"] = None
from truetune.data.quality import Quality, clean
from truetune.data.rows import Document
quality = Quality()
assert [found.code for found in quality.findings()] == ["data.not_looked"] * 2, quality.findings()
assert all("pip install" in found.hint for found in quality.findings())
assert quality.figures() == {"lengths": {}}, quality.figures()
assert clean(Document("schÃ¶n ")) == (Document("schÃ¶n"), ["trailing_space"])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


REAL = Path(__file__).parents[3] / "shared" / "data"
REVIEWED = {
    "data.control_characters": 2, "data.invisible_characters": 1, "data.mojibake": 1, "data.disclaimer": 33,
    "data.open_fence": 4, "data.cut_off": 7,
}  # fmt: skip
"""What the checks find in 1,329 rows written by others. Each was read: all are what the finding says, but one of
`data.cut_off`, which is a whole sentence without its full stop."""


real = pytest.mark.skipif(not REAL.is_dir(), reason="no ../shared/data beside this checkout")


def alpaca() -> list[tuple[str, str]]:
    rows = orjson.loads((REAL / "alpaca_en_demo.json").read_bytes())
    return [(f"{row['instruction']}\n\n{row['input']}".strip(), row["output"]) for row in rows]


@real
def test_real_rows_have_the_findings_that_a_reader_agrees_with() -> None:
    rows: list[Content] = [talk(*row) for row in alpaca()]
    for row in orjson.loads((REAL / "dpo_en_demo.json").read_bytes()):
        prompt = tuple(Turn("user", turn["value"]) for turn in row["conversations"])
        chosen, rejected = ((Turn("assistant", row[side]["value"]),) for side in ("chosen", "rejected"))
        rows.append(Preference(prompt, chosen, rejected))
    rows += [Document(text) for text in (REAL / "wiki_demo.txt").read_text("utf-8").splitlines()]
    counts = {code: sum(bool(check(said(row))) for row in rows) for code, check in CHECKS.items()}
    assert {code: count for code, count in counts.items() if count} == REVIEWED


@real
@pytest.mark.parametrize("code", CHECKS)
def test_what_is_planted_in_real_rows_is_found(code: str) -> None:
    chance, rows, check = random.Random(code), alpaca(), CHECKS[code]
    before = {place for place, row in enumerate(rows) if check(said(talk(*row)))}
    places = set(chance.sample([place for place in prose(rows) if place not in before], PLANTED))
    for place in places:
        rows[place] = PLANTS[code](chance, *rows[place])
    assert {place for place, row in enumerate(rows) if check(said(talk(*row)))} == places | before


def test_the_tables_are_whole() -> None:
    assert {kind.level for kind in KINDS.values()} <= set(LEVELS)
    assert all(kind.hint and kind.message for kind in KINDS.values())
    assert SETTLED.keys() <= HINTS.keys()


@pytest.mark.parametrize(
    ("dirty", "text", "done"),
    [
        ("schÃ¶n", "schön", ["mojibake"]),
        ("a\r\nb\rc", "a\nb\nc", ["line_breaks"]),
        ("a\x07b\x1b[31mred\x1b[0m", "abred", ["control_characters"]),
        ("zero\u200bwidth", "zerowidth", ["invisible_characters"]),
        ("cafe\u0301", "café", ["normalized"]),
        ("end \n\n", "end", ["trailing_space"]),
        (" indented\n  code\t", " indented\n  code", ["trailing_space"]),
    ],
)
def test_repairs(dirty: str, text: str, done: list[str]) -> None:
    assert mend(talk("q", dirty)) == (talk("q", text), done)
    assert mend(Document(dirty)) == (Document(text), done)
    assert mend(Labelled(dirty, (dirty,))) == (Labelled(text, (text,)), done)
    assert mend(Rated(talk("q", dirty), True)) == (Rated(talk("q", text), True), done)
    sides = Preference((Turn("user", dirty),), (Turn("assistant", dirty),), (Turn("assistant", "x"),))
    assert mend(sides)[0] == Preference((Turn("user", text),), (Turn("assistant", text),), (Turn("assistant", "x"),))
    assert mend(mend(talk("q", dirty))[0])[1] == []


@pytest.mark.parametrize("code", ["data.control_characters", "data.invisible_characters", "data.mojibake",
                                  "data.not_normalized", "data.trailing_space"])  # fmt: skip
def test_what_the_hint_says_can_be_mended_is_mended(code: str) -> None:
    for seed in range(30):
        row = PLANTS[code](random.Random(seed), *ROWS[prose(ROWS)[seed]])
        mended, done = mend(talk(*row))
        assert done
        assert not CHECKS[code](said(mended))

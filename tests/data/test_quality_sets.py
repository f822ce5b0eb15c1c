"""What a check says about a set as a whole: HTML in answers, classes of a few rows, groups of bad rows."""

from __future__ import annotations

import pytest
from quality_rows import clean, talk

from truetune.data.quality import Finding, Quality
from truetune.data.quality.characters import invisible
from truetune.data.quality.clean import clean as mend
from truetune.data.quality.markup import html
from truetune.data.quality.said import said
from truetune.data.rows import Content, Document, Labelled, Reject

ROWS = clean()


def looked(contents: list[Content]) -> dict[str, Finding]:
    quality = Quality()
    for place, content in enumerate(contents):
        quality.rows += 1
        quality.classes.see(f"rows.jsonl:{place + 1}", content)
        for observer in quality.observers:
            if type(observer).__name__ == "Markup":
                observer.see(f"rows.jsonl:{place + 1}", said(content), None, None)  # type: ignore[arg-type]
    return {found.code: found for found in (*quality.classes.findings(), *quality.observers[2].findings())}


def labelled(labels: list[str]) -> list[Content]:
    return [Labelled(f"{ROWS[place][0]} {place}", (label,)) for place, label in enumerate(labels)]


@pytest.mark.parametrize(
    "text",
    ["<p>To return the lamp, go to the shop.</p>", "Salt &amp; pepper", "One<br/>two", '<a href="x.html">here</a>'],
)
def test_html_in_many_answers_is_said(text: str) -> None:
    assert "data.html" in looked([talk("How?", f"{text} {n}") for n in range(10)])
    few = [talk("How?", f"{text} {n}") for n in range(2)]
    assert "data.html" not in looked([*(talk(*row) for row in ROWS[:100]), *few])


@pytest.mark.parametrize("text", ["a < b and b > a", "Write `<p>` first.", "```html\n<p>x</p>\n```", "AT&T; R&D", "<3"])
def test_what_is_no_html_or_is_code(text: str) -> None:
    assert html(said(talk("How do I write it in <p>?", text))) == ""


def test_no_clean_row_has_html() -> None:
    assert [row for row in ROWS if html(said(talk(*row)))] == []


def test_a_class_of_two_rows_is_named_in_a_small_set_too() -> None:
    found = looked(labelled(["ham"] * 30 + ["spam"] * 28 + ["odd"] * 2))
    assert found.keys() == {"data.rare_class"} and "'odd' 2" in found["data.rare_class"].message
    assert looked(labelled(["ham"] * 30 + ["spam"] * 3)).keys() == {"data.class_imbalance"}


def test_numbers_on_a_scale_are_no_classes() -> None:
    found = looked(labelled([f"{n / 50:.2f}" for n in range(60)]))
    assert found.keys() == {"data.many_classes"} and "60 labels in 60 rows" in found["data.many_classes"].message
    assert found["data.many_classes"].level == "warning"


@pytest.mark.parametrize("mark", [*"\u202a\u202b\u202c\u202d\u202e", *"\u2066\u2067\u2068\u2069"])
def test_what_turns_the_line_is_seen_and_stays(mark: str) -> None:
    row = talk("What is it?", f"photo{mark}gpj.exe")
    assert invisible(said(row)) and mend(row) == (row, [])


def test_a_group_of_bad_rows_is_told_in_words_that_fit_all_of_them() -> None:
    quality = Quality()
    for line, cells in enumerate((3, 1, 4)):
        quality.unused(Reject(line, "a.csv", line + 1, "data.ragged_row", f"the row has {cells} cells", ""))
    for line in (4, 5):
        quality.unused(Reject(line, "a.csv", line + 1, "data.empty", "'answer' is empty", ""))
    told = {found.code: found for found in quality.findings()}
    assert "3 cells" not in told["data.ragged_row"].message
    assert told["data.ragged_row"].examples == [f"the row has {cells} cells" for cells in (3, 1, 4)]
    assert told["data.empty"].message == "'answer' is empty"


def test_one_row_is_little() -> None:
    quality = Quality()
    quality.rows = 1
    assert [found.message for found in quality.findings() if found.code == "data.few_rows"] == ["1 row is little"]


def test_marks_that_turn_the_line_are_told_and_stay() -> None:
    kept, done = mend(Document("\u2067שלום\u2069 and a soft\u00adhyphen"))
    assert kept == Document("\u2067שלום\u2069 and a softhyphen") and done == ["invisible_characters"]

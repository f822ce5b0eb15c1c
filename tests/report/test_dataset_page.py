"""The page of a data check: it says what the document says, loads and runs nothing, and no row becomes markup."""

from __future__ import annotations

import copy
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from markdown_it import MarkdownIt

from truetune.data.quality.spread import Histogram
from truetune.report import dataset_bars
from truetune.report.dataset import html, write
from truetune.report.dataset_markdown import markdown
from truetune.report.dataset_page import TOKENS, page
from truetune.report.html import POLICY

HOSTILE = (
    "</style></script><script>alert(1)</script><img src=x onerror=alert(1)> `a` ``b`` |c| ~~~\n"
    "````\n# Head\n[l](javascript:alert(1)) {{ 7*7 }} {% raw %} ![p](http://x.example/p.png) &lt; \x1b[31m\u202e $x$"
)


def spread(*numbers: int) -> dict[str, Any]:
    histogram = Histogram()
    for number in numbers:
        histogram.add(number)
    return histogram.figures()


def token(text: str, weight: float = 1.0, cut: bool = False) -> dict[str, Any]:
    return {"id": 1, "text": text, "weight": weight, "cut": cut}


def finding(code: str = "data.email", level: str = "warning", **more: Any) -> dict[str, Any]:
    where = [f"a.csv:{line}" for line in range(2, 12)]
    found = {"code": code, "level": level, "count": 30, "share": 0.03, "where": where,
             "message": "e-mail addresses", "hint": "Take them out.", "examples": ["a•••@f•••.de"]}  # fmt: skip
    return {**found, **more}


def checked(**more: Any) -> dict[str, Any]:
    """The document of a check with something of everything."""
    result = {
        "schema": 1,
        "verdict": "errors",
        "files": [{"path": "data/a.csv", "rows": 1000, "sha256": "ab" * 32, "bytes": 123_456}],
        "format": {"name": "question_answer", "share": 0.99, "detected": True, "columns": {}},
        "model": "starter",
        "template": "chat_template.jinja",
        "objective": "sft",
        "max_length": 512,
        "rows": {"read": 1000, "used": 900, "train": 850, "validation": 50, "rejected": 60, "deduplicated": 30,
                 "contaminated": 4, "too_long": 5, "unsupervised": 1, "truncated": 3},
        "tokens": {"train": 90_000, "validation": 10_000, "lost": 0},
        "supervised": {"train": 40_000, "validation": 5_000},
        "lengths": {"min": 3, "median": 90, "p95": 300, "max": 800},
        "findings": [
            finding("data.cut_off", "note", message="the answer stops early"),
            finding(),
            finding("json.syntax", "error", message="not valid JSON", count=60, share=0.06, examples=[]),
            finding("data.conflicting_answers", count=0, share=0.0, where=[], hint="", examples=[],
                    message="2 rows answer differently, such as a.csv:3 and a.csv:4; a.csv:5 and a.csv:6"),
        ],
        "figures": {
            "lengths": {"total": spread(*range(1, 600), 9000), "prompt": spread(1, 2, 3), "answer": spread(5)},
            "languages": {"sampled": 500, "sure": 400, "shares": {"en": 0.98, "de": 0.02}},
            "labels": {f"label {number}": 100 - number for number in range(20)},
            "complexity": {"tokens": 1000, "distinct": 100, "vocabulary": 4096, "ratio": 0.1, "rare": 0.02,
                           "pieces": 0.001, "unknown": 0.0},
        },
        "examples": {"rows": [
            {"where": "a.csv:2", "mode": "whole", "examples": [
                {"tokens": [token("Why?", 0.0), token("Because"), token(" of it", cut=True)],
                 "length": 3, "trained": 1}]},
            {"where": "a.csv:3", "refused": {"code": "data.empty", "reason": "nothing in it"}},
        ]},
        "estimate": {"seconds": 754, "steps": 120, "epochs": 3, "peak_memory": 2.5e9, "tokens_per_second": 900},
    }  # fmt: skip
    return {**copy.deepcopy(result), **more}


class Tags(HTMLParser):
    """What a browser would make of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_data(self, text: str) -> None:
        self.text += text


def hostile() -> dict[str, Any]:
    bad = finding(message=HOSTILE, hint=HOSTILE, where=[HOSTILE], examples=[HOSTILE], code=HOSTILE)
    tokens = [token(HOSTILE), token(HOSTILE, 0.0)]
    return checked(
        files=[{"path": HOSTILE, "rows": 1, "sha256": HOSTILE, "bytes": 1}],
        model=HOSTILE,
        template=HOSTILE,
        findings=[bad],
        figures=checked()["figures"] | {"labels": {HOSTILE: 3}},
        examples={"rows": [{"where": HOSTILE, "examples": [{"tokens": tokens, "length": 2, "trained": 1}]}]},
    )


def test_the_page_loads_and_runs_nothing() -> None:
    text = html(page(hostile()))
    found = Tags(text)
    assert {"script", "img", "iframe", "object", "link", "base", "form", "a"}.isdisjoint(found.tags)
    assert not [name for _, name, _ in found.attributes if name.startswith("on") or name in ("href", "src")]
    assert "@import" not in text
    assert "url(" not in text
    assert ("meta", "content", POLICY) in found.attributes
    assert "<script>alert(1)</script>" in found.text
    assert "{{ 7*7 }}" in found.text
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f\u202a-\u202e]", text)


def test_the_markdown_has_no_foreign_markup() -> None:
    text = markdown(page(hostile()))
    rendered = MarkdownIt().enable("table").render(text)
    tags = Tags(rendered).tags
    assert {"script", "img", "a"}.isdisjoint(tags)
    assert tags.count("h1") == 1
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f\u202a-\u202e]", text)


@pytest.mark.parametrize("face", [html, markdown])
def test_the_faces_say_what_the_document_says(face: Any) -> None:
    text = face(page(checked()))
    seen = Tags(text).text if face is html else text.replace("\\", "")
    for said in (
        "a.csv: 900 of 1,000 rows can be used", "1 kind of error: 60 rows can't be used", "question_answer",
        "850", "bad", "100,000", "45%", "12:34", "json.syntax", "a.csv:11", "Take them out.", "a•••@f•••.de",
        "label 0", "and 8 more", "en", "98%", "type/token ratio", "nothing in it", "max_length 512", "ab" * 8,
    ):  # fmt: skip
        assert said in seen, said


def test_findings_stand_in_the_order_of_their_weight() -> None:
    told = page(checked())
    codes = ["json.syntax", "data.email", "data.conflicting_answers", "data.cut_off"]
    assert [item.code for item in told.findings] == codes
    assert told.findings[1].unnamed == 20
    assert told.findings[2].title == "2 rows answer differently"
    assert told.findings[2].examples == ["a.csv:3 and a.csv:4", "a.csv:5 and a.csv:6"]


def test_every_row_has_its_part_of_the_bar() -> None:
    told = page(checked())
    assert sum(each.count for each in told.segments) == told.read == 1000
    assert sum(each.share for each in told.segments) == pytest.approx(1)


def test_tokens_are_shown_as_what_they_are_to_the_training() -> None:
    told = page(checked())
    assert told.rows[0].parts == [[("read", ["Why?"]), ("trained", ["Because"]), ("cut", [" of it"])]]
    assert "Why?⟦Because⟧✂ of it" in markdown(told)
    long = checked(examples={"rows": [
        {"where": "a:1", "examples": [{"tokens": [token("x")] * 2000, "length": 2000, "trained": 2000}]}]})  # fmt: skip
    assert html(page(long)).count("<span>x</span>") == TOKENS


def test_rows_say_which_answer_is_better_and_what_is_labelled() -> None:
    one = {"tokens": [token("x")], "length": 1, "trained": 1}
    rows = [
        {"where": "a:1", "mode": "pair", "examples": [one | {"side": "chosen"}, one | {"side": "rejected"}]},
        {"where": "a:2", "mode": "labelled", "examples": [one | {"labels": ["late"]}]},
    ]
    told = page(checked(examples={"rows": rows})).rows
    assert [row.note for row in told] == [
        "2 tokens, 2 learned; the better answer; the worse answer",
        "1 token; label late",
    ]


@pytest.mark.parametrize(
    ("verdict", "findings", "tone", "said"),
    [
        ("ok", [], "good", "Nothing speaks against training on these rows."),
        ("ok", [finding(level="note")], "good", "1 note below"),
        ("warnings", [finding()], "note", "1 kind of warning is worth a look"),
        ("errors", [finding(level="error")] * 2, "bad", "2 kinds of error"),
    ],
)
def test_the_verdict(verdict: str, findings: list[dict[str, Any]], tone: str, said: str) -> None:
    told = page(checked(verdict=verdict, findings=findings))
    assert told.verdict.tone == tone
    assert said in told.verdict.text
    assert f'class="verdict {tone}"' in html(told)


def test_parts_that_are_not_known_are_left_out() -> None:
    bare = checked(figures={}, examples={"rows": []}, estimate=None, findings=[], lengths=None, template=None)
    text = html(page(bare))
    assert "How long" not in text
    assert "made of" not in text
    assert "as they are learned" not in text
    assert markdown(page(bare)).startswith("# a.csv")


@pytest.mark.parametrize("numbers", [[0], [1], [7] * 50, [1, 2, 3], list(range(5000)), [5] * 999 + [80_000]])
def test_a_histogram_draws_every_row(numbers: list[int]) -> None:
    figures = spread(*numbers)
    [chart] = dataset_bars.lengths({"total": figures}, 2048)
    drawn = [int(rows.replace(",", "")) for rows in re.findall(r"tokens: ([\d,]+) rows", chart.svg)]
    assert sum(drawn) == len(numbers)
    assert chart.svg.count("<rect") == sum(rows > 0 for _, _, rows in figures["bins"])
    for x, y, width, height in re.findall(r'x="([\d.]+)" y="([\d.]+)" width="([\d.]+)" height="([\d.]+)"', chart.svg):
        assert 0 <= float(x) <= float(x) + float(width) <= dataset_bars.WIDTH
        assert dataset_bars.TOP <= float(y) <= float(y) + float(height) <= dataset_bars.HEIGHT


def test_rows_beyond_max_length_have_another_colour() -> None:
    svg = dataset_bars.lengths({"total": spread(*range(1, 1000))}, 600)[0].svg
    over = re.findall(r'class="over".*?<title>([\d,]+) to', svg)
    assert over
    assert min(int(start.replace(",", "")) for start in over) >= 600
    assert "max_length 600" in svg


def test_documents_are_not_cut_at_max_length() -> None:
    [chart] = dataset_bars.lengths({"total": spread(*range(1, 1000))}, 600, documents=True)
    assert 'class="over"' not in chart.svg
    assert "in several parts" in chart.alt
    row = {"where": "a:1", "mode": "document", "examples": [{"tokens": [token("x")], "length": 9000, "trained": 2047}]}
    assert page(checked(objective="pretrain", examples={"rows": [row]})).rows[0].note.startswith("9,000 tokens;")


@pytest.mark.parametrize("name", ["page.html", "page.md", "page", "page.v2"])
def test_both_files_are_written(name: str, tmp_path: Path) -> None:
    paths = write(checked(), tmp_path / name)
    assert [path.suffix for path in paths] == [".html", ".md"]
    assert len({path.stem for path in paths}) == 1
    assert paths[0].stem == name.removesuffix(".html").removesuffix(".md")
    assert all(path.stat().st_size > 1000 for path in paths)

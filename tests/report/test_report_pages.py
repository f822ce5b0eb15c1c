"""The two pages: every kind of run gets a sensible one, and no text of a row or a model becomes markup."""

from __future__ import annotations

import re
import sys
from html.parser import HTMLParser

import pytest
from made_run import EVAL, HELD_OUT, data, falling, folder, made, sample, trained
from markdown_it import MarkdownIt

from truetune.report.gather import gather
from truetune.report.html import POLICY
from truetune.report.page import page
from truetune.report.scores import Score, Scores, titled
from truetune.report.write import write
from truetune.runs import durable

HOSTILE = (
    "</style></script><script>alert(1)</script><img src=x onerror=alert(1)> `a` ``b`` |c| ~~~\n"
    "````\n# Head\n[l](javascript:alert(1)) {{ 7*7 }} {% raw %} ![p](http://x.example/p.png) &lt; \x1b[31m\u202e $x$"
)
FINISHED = {"data": data(), "train": trained(), "eval": EVAL}


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("TRUETUNE_HOME", str(tmp_path / "home"))


def written(tmp_path, figures, **status):
    """Markdown and HTML of the report of a run with these figures."""
    run = folder(tmp_path / "a-run", figures, **status)
    path = write(run)
    return path.read_text("utf-8"), (run.folder / "finetune_report.html").read_text("utf-8")


class Tags(HTMLParser):
    """What a browser would make of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.text = [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_data(self, text):
        self.text += text


def hostile():
    receipts = FINISHED | {
        "data": data(
            rejects=[{"where": HOSTILE, "reason": HOSTILE, "code": "data.x"}],
            findings=[{"code": "data.per_turn", "message": HOSTILE}],
            rows={"read": 1001, "rejected": 1},
            inputs=[{"path": HOSTILE, "resolved": HOSTILE, "sha256": "ab" * 32, "bytes": 1, "rows": 1001}],
            rendering={"template": HOSTILE, "template_sha256": "cd" * 32, "end_token": HOSTILE},
        )
    }
    said = [sample(row, HOSTILE, question=HOSTILE, base=HOSTILE, reference=HOSTILE) for row in (1, 2)]
    return made(samples=said, receipts=receipts, data={"path": HOSTILE})


def test_the_page_loads_and_runs_nothing(tmp_path):
    _, html = written(tmp_path, hostile())
    found = Tags(html)
    assert {"script", "img", "iframe", "object", "link", "base", "form"}.isdisjoint(found.tags)
    assert not [name for _, name, _ in found.attributes if name.startswith("on")]
    links = [value for _, name, value in found.attributes if name in ("href", "src", "xlink:href", "action")]
    assert all(re.fullmatch(r"#[\w.-]+|[\w/]+\.(json|yml|md)", link) for link in links), links
    assert "@import" not in html and not re.search(r"url\((?!#)", html)
    assert ("meta", "content", POLICY) in found.attributes and "script-src" not in POLICY
    assert "<script>alert(1)</script>" in found.text and "{{ 7*7 }}" in found.text
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f\u202a-\u202e]", html)


def test_foreign_text_is_no_markup_in_markdown(tmp_path):
    text, _ = written(tmp_path, hostile())
    tokens = MarkdownIt("commonmark", {"html": True}).enable("table").parse(text)
    flat = [inner for token in tokens for inner in (token, *(token.children or []))]
    assert [token.content for token in flat if token.type in ("html_block", "html_inline")] == []
    images = [token.attrs["src"] for token in flat if token.type == "image"]
    assert images == [f"report/{name}.png" for name in ("loss", "lr", "tokens_per_second", "grad_norm")]
    links = {token.attrs["href"] for token in flat if token.type == "link_open"}
    assert links == {"finetune_report.html", "resolved.json", "train.yml", "adapter/README.md"}
    assert [token.content for token in tokens if token.type == "inline" and token.content == "Head"] == []
    widths = {}
    for token in tokens:
        if token.type == "tr_open":
            widths[token.map[0]] = 0
        elif token.type in ("td_open", "th_open"):
            widths[max(widths)] += 1
    assert set(widths.values()) <= {2, 3, 4}
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f\u202a-\u202e]", text)


def test_a_finished_run_says_it_all(tmp_path):
    run_samples = [sample(row, f"Wrong {row}.", step=0) for row in (1, 2)] + [
        sample(1, "Answer 1."),
        sample(2, "It is on.", ended=False),
    ]
    text, html = written(tmp_path, made(samples=run_samples, receipts=FINISHED, training={"epochs": 5}))
    for page_ in (text, Tags(html).text):
        for words in (
            "A LoRA adapter for starter, trained on rows.jsonl",
            "Nothing in the training's figures asks for a change.",
            "1 of 2 is answered word for word as in the row",
            "Question 1?",
            "held-out perplexity",
            "1.17",
            "80,000 reached the loss, 80,000 were promised",
            "ft receipt verify a-run",
            "ft chat a-run",
            "PeftModel.from_pretrained",
            "training.epochs",
        ):
            assert words in page_, words
    assert "Wrong 1." not in text  # the file's own word for the base's answer goes first
    order = [
        "Before and after",
        "The curves",
        "The figures",
        "Recommendations",
        "The data",
        "The receipt",
        "What was chosen",
        "Use it",
    ]
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == order
    assert re.findall(r"<h2>(.*?)</h2>", html) == order


KINDS = {
    "without validation": (
        made(held_out={}, receipts=FINISHED | {"data": data(rows={"validation": 0})}),
        {},
        "Nothing was held out",
    ),
    "without samples": (made(receipts=FINISHED), {}, "No samples were taken"),
    "resumed": (
        made(receipts=FINISHED, events=[{"kind": "resume", "step": 100, "attempt": 2}]),
        {},
        "after step 100",
    ),
    "stopped": (
        made(falling(40), {0: 3.0, 20: 1.8}, planned=100, receipts={"data": data()}),
        {"state": "stopped"},
        "Stopped after 40 of 100 steps",
    ),
    "failed": (
        made(falling(40), {0: 3.0}, planned=100, receipts={"data": data()}),
        {"state": "failed", "error": {"code": "train.not_finite", "message": "step 41 is not a number"}},
        "Failed after 40 of 100 steps: step 41 is not a number",
    ),
    "not begun": (made([], {}, planned=10, receipts={}), {"state": "stopped"}, "The data was never prepared"),
    "full": (made(receipts=FINISHED, method={"type": "full"}), {}, "all of its weights trained"),
    "pretraining": (
        made(receipts=FINISHED | {"data": data(objective="pretrain")}, training={"objective": "pretrain"}),
        {},
        "trained on the texts of rows.jsonl",
    ),
    "one step": (made([3.0], {0: 3.0, 1: 2.9}, receipts=FINISHED), {}, "It took 1 step only"),
    "not a number": (made(held_out=HELD_OUT | {60: None}, receipts=FINISHED), {}, "not a number"),
}


@pytest.mark.parametrize("kind", list(KINDS))
def test_every_kind_of_run_has_a_report(tmp_path, kind):
    figures, status, words = KINDS[kind]
    text, html = written(tmp_path, figures, **status)
    assert words in text and words in Tags(html).text
    assert "None" not in re.sub("None: nothing", "", text) and "nan" not in text


def test_samples_of_texts_have_words_of_their_own(tmp_path):
    said = [sample(row, "on and on", question="The mill stands", reference="on and on") for row in (1, 2)]
    figures = made(samples=said, receipts=FINISHED, training={"objective": "pretrain"})
    text, html = written(tmp_path, figures)
    assert "begins  The mill stands" in text and "text    on and on" in text
    assert "The mill stands …" in html and "In the text" in html
    for page_ in (text, Tags(html).text):
        assert "How held-out texts" in page_
        assert not re.search("word for word|as in the row|In the row|asked ", page_)


def test_a_second_report_replaces_the_first(tmp_path):
    run = folder(tmp_path / "a-run", made(receipts=FINISHED))
    write(run)
    durable.write(run.folder / "report" / "old.png", b"")
    first = (run.folder / "finetune_report.html").read_bytes()
    write(run)
    assert sorted(path.name for path in (run.folder / "report").iterdir()) == sorted(
        f"{name}.{kind}" for name in ("loss", "lr", "tokens_per_second", "grad_norm") for kind in ("png", "svg")
    )
    assert (run.folder / "finetune_report.html").read_bytes() == first


def test_without_matplotlib_it_says_how_to_get_the_curves(tmp_path, monkeypatch):
    run = folder(tmp_path / "a-run", made(receipts=FINISHED))
    write(run)
    for name in [
        name
        for name in sys.modules
        if name.startswith(("matplotlib", "truetune.report.plots", "truetune.report.write"))
    ]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr("truetune.report.plots")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    from truetune.report.write import write as bare

    text = bare(run).read_text("utf-8")
    assert 'pip install "truetune[report]"' in text and ".png" not in text
    assert "<svg" not in (run.folder / "finetune_report.html").read_text("utf-8")
    assert not (run.folder / "report").exists()


def side(value, low=None, high=None):
    return {"value": value, "low": low, "high": high}


MEASURED = {
    "schema": 1,
    "checkpoint": "step-100",
    "data": {"held_out": True, "rows": 50},
    "order": ["loss", "exact_match", "rougeL", "length"],
    "figures": {
        "loss": {
            "title": "loss",
            "headline": True,
            "base": side(3.0, 2.9, 3.1),
            "tuned": side(1.17),
            "verdict": "better",
        },
        "exact_match": {
            "title": "exact match",
            "base": side(0.0),
            "tuned": side(0.625, 0.5, 0.72),
            "verdict": "better",
        },
        "rougeL": {"title": "ROUGE-L", "headline": True, "base": side(0.5), "tuned": side(0.4), "verdict": "worse"},
        "length": {"title": "length", "base": side(0.5), "tuned": None},
    },
}


def test_what_was_evaluated_is_shown_and_a_loss_against_the_base_is_serious(tmp_path):
    run = folder(tmp_path / "a-run", made(receipts=FINISHED))
    (run.folder / "eval").mkdir()
    durable.write_json(run.folder / "eval" / "step-100.json", MEASURED)
    (run.folder / "eval" / "torn.json").write_text("{")
    told = page(gather(run))
    assert told.scores == [
        Scores(
            "Step 100 on 50 held-out rows",
            [
                Score("loss", "3 ±0.1", "1.17", "better"),
                Score("exact match", "0%", "62.5% ±11%", "better"),
                Score("ROUGE-L", "0.5", "0.4", "worse"),
            ],
        )
    ]
    assert told.verdict.tone == "bad" and "it is worse than its base in ROUGE-L" in told.verdict.text
    assert "62.5% ±11%" in write(run).read_text("utf-8")
    durable.write_json(run.folder / "eval" / "step-100.json", MEASURED | {"checkpoint": "step-40"})
    assert page(gather(run)).verdict.tone == "good"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"data": {"held_out": True, "rows": 50, "available": 50}}, "Step 100 on 50 held-out rows"),
        ({"data": {"held_out": True, "rows": 7, "available": 50}}, "Step 100 on 7 of 50 held-out rows"),
        ({"settings": {"generate": False}}, "Step 100 on 50 held-out rows, loss only"),
        ({"settings": {"generate": False}, "task": "text"}, "Step 100 on 50 held-out rows"),
        (
            {"settings": {"generate": True, "temperature": 0.5, "seed": 3, "max_new_tokens": 9}},
            "Step 100 on 50 held-out rows, answers drawn at temperature 0.5 (seed 3), answers of at most 9 tokens",
        ),
        (
            {"data": {"rows": 1, "available": 2, "inputs": [{"path": "a.jsonl"}, {"path": "b.csv"}]}},
            "Step 100 on 1 of 2 rows of a.jsonl and b.csv",
        ),
    ],
)
def test_a_title_says_what_was_measured(changes, words):
    assert titled(made(), MEASURED | changes) == words


def test_the_drawings_take_the_colours_of_the_page_and_share_no_names(tmp_path):
    _, html = written(tmp_path, made(receipts=FINISHED))
    drawings = re.findall(r"<svg.*?</svg>", html, re.DOTALL)
    assert len(drawings) == 4
    names = [name for drawing in drawings for name in set(re.findall(r'\bid="([^"]+)"', drawing))]
    assert len(names) == len(set(names))
    for drawing in drawings:
        used = set(re.findall(r'(?:href="#|url\(#)([^")]+)', drawing))
        assert used <= set(re.findall(r'\bid="([^"]+)"', drawing))
        assert "var(--line)" in drawing and "<style" not in drawing
    assert "#4a4ddb" not in "".join(drawings)

"""`ft chat`: what it refuses before anything is loaded, and how answers stand in a terminal."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len

from truetune import cli, engines
from truetune.cli.answers import beside, verbatim
from truetune.cli.common import Output
from truetune.cli.talk import Flow, line, sampling
from truetune.runs.run import Run

Ft = Callable[..., tuple[int, dict[str, Any]]]


@pytest.fixture
def ft(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Ft:
    """`ft … --json` in an empty folder, with nothing on stdin; exit code and document."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TRUETUNE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("sys.stdin", open(os.devnull))  # noqa: SIM115

    def call(*args: str) -> tuple[int, dict[str, Any]]:
        code = cli.run([*args, "--json"])
        return code, json.loads(capfd.readouterr().out)

    return call


@pytest.mark.parametrize("verb", ["chat", "test"])
@pytest.mark.parametrize("option", ["--temperature=-1", "--top-p=0", "--top-k=-1", "--max-new-tokens=0", "--seed=-1"])
def test_numbers_that_cannot_be_used(ft: Ft, verb: str, option: str) -> None:
    code, document = ft(verb, "starter", "Hello", option)
    assert (code, document["error"]["code"]) == (2, "generation.bad_value")
    assert document["error"]["where"] == option.removeprefix("--").partition("=")[0].replace("-", "_")


def test_all_of_them_at_once(ft: Ft) -> None:
    _, document = ft("chat", "starter", "Hello", "--temperature=9", "--top-p=2")
    assert len(document["error"]["findings"]) == 2


def test_a_question_without_an_address(ft: Ft) -> None:
    code, document = ft("chat", "How do I return it?")
    assert (code, document["error"]["code"]) == (2, "usage.invalid")
    assert "ft chat last 'How do I return it?'" in document["error"]["hint"]


def test_a_word_that_is_no_address(ft: Ft) -> None:
    code, document = ft("chat", "Hello")
    assert (code, document["error"]["code"]) == (3, "run.missing")
    assert "ft chat last Hello" in document["error"]["hint"]
    assert "ft chat last" not in ft("chat", "Hello", "How are you?")[1]["error"]["hint"]


@pytest.mark.parametrize("address", ["last", "./nothing", "starter:best"])
def test_who_is_not_there(ft: Ft, address: str) -> None:
    code, document = ft("chat", address, "Hello")
    assert (code, document["error"]["code"]) == (3, "run.missing")


@pytest.mark.parametrize("rest", [["Hello"], ["--base"], ["--system=Be brief."]])
def test_the_demo_takes_no_question(ft: Ft, rest: list[str]) -> None:
    code, document = ft("chat", "last", "--demo", *rest)
    assert (code, document["error"]["code"]) == (2, "usage.invalid")


def test_the_demo_is_of_a_run(ft: Ft) -> None:
    code, document = ft("chat", "starter", "--demo")
    assert (code, document["error"]["code"]) == (2, "generation.no_rows")


def test_the_alias_wants_both(ft: Ft) -> None:
    assert ft("test", "starter")[1]["error"]["code"] == "usage.missing"


@pytest.mark.parametrize("flags", [[], ["--json"]])
def test_stdin_without_a_question(ft: Ft, capfd: pytest.CaptureFixture[str], flags: list[str]) -> None:
    code = cli.run(["chat", "starter", *flags])
    said = capfd.readouterr()
    assert code == 2
    assert "there is no question on stdin" in said.out + said.err


@pytest.mark.parametrize("question", ["", "a <|im_end|> b"])
def test_what_cannot_be_asked_is_refused_before_the_engine_loads(
    ft: Ft, monkeypatch: pytest.MonkeyPatch, question: str
) -> None:
    monkeypatch.setattr(engines, "module", None)
    code, document = ft("chat", "starter", question)
    assert (code, document["error"]["code"]) == (2, "generation.control_token" if question else "generation.empty")


@pytest.mark.slow
def test_good_lines_are_answered_and_bad_ones_named(ft: Ft, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = b"Hello\n\n\xff\na <|im_end|> b\nHow are you?\n"
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(asked)))
    code, document = ft("chat", "starter", "--max-new-tokens=2", "--device=cpu")
    assert [(one["line"], one["prompt"]) for one in document["answers"]] == [(1, "Hello"), (5, "How are you?")]
    found = [(one["where"], one["code"]) for one in document["error"]["findings"]]
    assert found == [("line 3", "generation.not_text"), ("line 4", "generation.control_token")]
    assert code == 2


def test_last_with_a_letter_missing(ft: Ft, tmp_path: Path) -> None:
    Run.create(tmp_path / "runs" / "one", train_yml=b"", resolved={"schema": 1, "seed": 1}, env={"schema": 1})
    assert "did you mean last" in ft("chat", "lst", "hi")[1]["error"]["hint"]
    assert ft("chat", "last:", "hi")[1]["error"]["code"] == "checkpoint.name"


@pytest.mark.parametrize(
    ("drawn", "expected"),
    [
        ({"temperature": 0.0, "top_p": 0.9, "top_k": 5}, "temperature 0, at most 64 tokens"),
        ({"temperature": 0.7, "top_p": 0.9, "top_k": 0}, "temperature 0.7, top_p 0.9, at most 64 tokens"),
        ({"temperature": 1, "top_p": 1, "top_k": 5, "seed": 0}, "temperature 1, top_k 5, seed 0, at most 64 tokens"),
    ],
)
def test_only_what_has_an_effect_is_said(drawn: dict[str, Any], expected: str) -> None:
    assert sampling(drawn | {"max_new_tokens": 64}) == expected


def test_one_token() -> None:
    assert sampling({"temperature": 0, "max_new_tokens": 1}) == "temperature 0, at most 1 token"


def test_who_answers() -> None:
    facts = {"name": "RUN", "base": "starter", "tuned": True, "asked": "tuned", "step": 5}
    facts["sampling"] = {"temperature": 0, "max_new_tokens": 9}
    assert line(facts) == "starter tuned by RUN, step 5 · temperature 0, at most 9 tokens"
    assert line(facts | {"asked": "base"}).startswith("starter before RUN")
    assert line(facts | {"tuned": False, "asked": "base", "name": "starter"}).startswith("starter · ")


def flowed(text: str, width: int, indent: int = 8, size: int = 3) -> str:
    flow = Flow(width, indent)
    return "".join(flow.add(text[at : at + size]) for at in range(0, len(text), size)) + flow.end()


def test_lines_break_between_words() -> None:
    assert flowed("one two three four", 18).split("\n") == ["one two", "        three", "        four"]


def test_lines_and_what_begins_them_are_kept() -> None:
    assert flowed("def f():\n    return 1\n\nend", 40) == "def f():\n            return 1\n        \n        end"


def test_wide_characters_break_anywhere_and_joined_ones_nowhere() -> None:
    lines = flowed("日本語のテキストです" * 3, 30).split("\n")
    assert [len(part.strip()) for part in lines] == [10, 10, 10]
    assert "👩\u200d🚀" in flowed("👩\u200d🚀" * 20, 30, size=1)


@settings(deadline=None)
@given(st.text(st.sampled_from("ab \n日é🙂-"), max_size=200), st.integers(20, 60), st.integers(1, 9))
def test_nothing_is_lost_and_nothing_is_too_wide(text: str, width: int, size: int) -> None:
    shown = flowed(text, width, size=size)
    assert "".join(shown.split()) == "".join(text.split())
    first, *others = shown.split("\n")
    assert all(cell_len(part.rstrip()) <= width for part in (" " * 8 + first, *others))


def test_answers_beside_each_other(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        {"question": "Why?", "before": "", "after": "So.", "row": "So."},
        {"question": "[red]How\x1b[2J?", "before": "word " * 200, "after": ":smile:", "row": "x"},
    ]
    beside(Output({}), rows)
    shown = capsys.readouterr().out
    assert "(nothing)" in shown and ":smile:" in shown and "[red]How\\x1b[2J?" in shown
    assert verbatim(rows) == "1 of these 2 held-out questions is answered word for word as its row."
    assert verbatim(rows[:1]) == "This held-out question is answered word for word as its row."
    assert "is not answered" in verbatim(rows[1:])
    assert "2 of these 2 held-out questions are answered" in verbatim([rows[0]] * 2)
    assert max(map(len, shown.splitlines())) < 320

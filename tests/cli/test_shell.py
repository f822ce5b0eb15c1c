"""`ft shell`: what a line means, what Tab offers, and a base that stays while adapters change."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest
from served import made

import truetune as ft
from truetune import cli
from truetune.cli import sayings
from truetune.cli.shell import Shell
from truetune.errors import TrueTuneError


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("finetune starter rows.jsonl", "train --model starter --data rows.jsonl"),
        (
            "finetune starter 'my rows.jsonl' sft training.epochs=1 --quiet",
            "train --model starter --data|my rows.jsonl|--set training.objective=sft --set training.epochs=1 --quiet",
        ),
        ("list adapters", "adapters list"),
        ("list adapters --all", "adapters list --all"),
        ("list models", "models list"),
        ("benchmark", "benchmark support@2"),
        ("benchmark other --requests 4", "benchmark other --requests 4"),
        ("export support merged --out x", "export support --format merged --out x"),
        ("export adapter support gguf", "export support --format gguf"),
        ("export support --format peft", "export support --format peft"),
        ("config create --model starter", "init --model starter"),
        ("config show", "config show"),
        ("runs list", "runs list"),
    ],
)
def test_a_line_stands_for_one_of_ft(line: str, expected: str) -> None:
    words = [word for part in expected.split("|") for word in ([part] if part == "my rows.jsonl" else part.split())]
    assert sayings.meant(sayings.split(line), "support@2") == words


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("finetune starter", "usage.missing"),
        ("finetune a b c d", "usage.missing"),
        ("list", "usage.missing"),
        ("list cheese", "usage.missing"),
        ("shell", "usage.invalid"),
        ("finetun a b", "usage.unknown_verb"),
        ("test 'open", "usage.invalid"),
    ],
)
def test_a_line_that_means_nothing(line: str, code: str) -> None:
    with pytest.raises(TrueTuneError) as refused:
        sayings.meant(sayings.split(line), None)
    assert refused.value.finding.code == code


def test_every_own_word_is_known_and_every_verb_of_ft() -> None:
    assert {"finetune", "load", "test", "train", "dataset", "adapters"} <= set(sayings.words())
    assert "shell" not in sayings.words()
    for form in sayings.OWN:
        word = form.split()[0]
        assert word in (*sayings.HERE, "finetune", "list", *cli.VERBS)


def test_tab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.jsonl").touch()
    (tmp_path / "runs").mkdir()

    def offered(line: str) -> list[str]:
        return sayings.completed(line, line.rpartition(" ")[2], lambda: ["support", "support@1", "starter"])

    assert offered("fin") == ["finetune "]
    assert offered("load sup") == ["support ", "support@1 "]
    assert offered("list ad") == ["adapters "]
    assert offered("finetune starter ro") == ["rows.jsonl "]
    assert offered("dataset check r") == ["rows.jsonl ", "runs/"]
    assert offered("dataset check none/") == []


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("adapters")
    return [str(made(folder / name, seed)) for name, seed in (("one", 1), ("two", 2))]


def said(session, prompt: str) -> str:
    answer = session.ask(prompt, temperature=0.0, max_new_tokens=8)
    return "".join(answer) and answer.reply.text


def test_adapters_change_over_one_base(adapters: list[str]) -> None:
    session = ft.open_session("cpu")
    first = ft.load_into(session, adapters[0])
    decoder = session.decoder
    second = ft.load_into(session, adapters[1])
    assert (first["name"], first["opened"]) == ("one", True)
    assert (second["name"], second["opened"]) == ("two", False) and session.decoder is decoder
    asked = "Hello there"
    expected = {
        name: ft.generate(asked, address, temperature=0.0, max_new_tokens=8, device="cpu")
        for name, address in (("one", adapters[0]), ("two", adapters[1]), (None, "starter"))
    }
    assert len({*expected.values()}) == 3
    for name in ("one", None, "two", "one"):
        session.switch(name)
        assert said(session, asked) == expected[name]
    session.unload("one")
    assert session.describe() == {"base": "starter", "adapters": ["two"], "active": None}
    assert said(session, asked) == expected[None]
    for verb in (session.switch, session.unload):
        with pytest.raises(TrueTuneError) as refused:
            verb("one")
        assert refused.value.finding.code == "session.unknown"
    session.close()
    with pytest.raises(TrueTuneError) as refused:
        session.ask("Hello")
    assert refused.value.finding.code == "session.empty"


def piped(monkeypatch: pytest.MonkeyPatch, text: str) -> int:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
    return cli.run(["shell", "--device", "cpu"])


def test_a_script(adapters: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    script = (
        f"# a comment\n\nload {adapters[0]}\ntest 'Hello there'\nlist loaded\nswitch base\nhelp load\nstatus\nexit\n"
    )
    assert piped(monkeypatch, script + "frobnicate\n") == 0
    page = capsys.readouterr().out
    assert "starter is in memory; one answers from now on" in page and "answers" in page and "load NAME" in page


def test_a_script_ends_at_its_first_mistake(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert piped(monkeypatch, "list loaded\nload nobody-has-this\nlist loaded\n") == 3
    told = capsys.readouterr()
    assert told.out.count("Nothing is in memory") == 1 and "nobody-has-this" in told.err
    assert piped(monkeypatch, "test Hello\n") == 2
    assert "load NAME" in capsys.readouterr().err
    assert piped(monkeypatch, "runs show nobody\n") == 3
    assert cli.run(["shell", "--json"]) == 2


def test_every_word_of_its_own_has_a_method() -> None:
    for word in sayings.HERE:
        assert word in ("exit", "quit") or callable(getattr(Shell, f"do_{word}"))

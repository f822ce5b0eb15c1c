"""The `ft` command itself: verbs, errors, exit codes, and the one JSON document."""

from __future__ import annotations

import errno
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest

import truetune.cli as cli
from truetune.cli import common
from truetune.errors import CheckFailed, ConfigErrors, Finding, InputError

ROOT = Path(__file__).parents[2]


MISSING = InputError("no such file", code="data.missing", where="rows.jsonl", hint="check the path")


def verb(body: Any) -> click.Command:
    @click.command()
    @common.options
    def command(out: common.Output) -> None:
        body(out)

    return command


@pytest.fixture
def ft(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Any:
    """Run `ft verb …` with `body` as the verb's function; (exit code, stdout, stderr)."""

    def call(body: Any, *args: str) -> tuple[int, str, str]:
        monkeypatch.setitem(cli.VERBS, "verb", (f"{__name__}:COMMAND", "A verb of this test."))
        monkeypatch.setattr(sys.modules[__name__], "COMMAND", verb(body), raising=False)
        code = cli.run(["verb", *args])
        return code, *capfd.readouterr()

    return call


def fail(error: Exception) -> Any:
    def body(out: common.Output) -> None:
        raise error

    return body


def test_every_verb_has_its_file() -> None:
    for name in cli.VERBS:
        command = cli.group.get_command(click.Context(cli.group), name)
        assert command is not None, name
        assert command.get_short_help_str(), name


def test_every_verb_takes_the_common_options() -> None:
    def leaves(command: click.Command) -> list[click.Command]:
        if not isinstance(command, click.Group):
            return [command]
        return [leaf for child in command.commands.values() for leaf in leaves(child)]

    for name in cli.VERBS:
        command = cli.group.get_command(click.Context(cli.group), name)
        assert command is not None
        for leaf in leaves(command):
            assert {"json", "quiet", "verbose", "debug"} <= {param.name for param in leaf.params}, (name, leaf.name)


def test_help_names_the_verbs(capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.run([]) == cli.run(["--help"]) == 0
    out = capfd.readouterr().out
    assert all(f"  {name}" in out for name in cli.VERBS)


def test_unknown_verb_names_the_nearest(capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["trian"]) == 2
    assert capfd.readouterr().err == "error: ft: there is no verb `trian`\nhint: did you mean `ft train`?\n"


def test_people_see_a_sentence_and_a_hint(ft: Any) -> None:
    assert ft(fail(MISSING)) == (3, "", "error: rows.jsonl: no such file\nhint: check the path\n")


def test_all_findings_are_shown(ft: Any) -> None:
    error = ConfigErrors(
        [Finding("config.a", "one", "train.yml:1", "first"), Finding("config.b", "two", "train.yml:2")]
    )
    code, _, err = ft(fail(error))
    assert (code, err) == (2, "error: train.yml:1: one\nhint: first\nerror: train.yml:2: two\n")


def test_an_error_in_json_is_one_document(ft: Any) -> None:
    code, out, err = ft(fail(MISSING), "--json")
    assert (code, err) == (3, "")
    assert json.loads(out) == {"schema": 1, "error": MISSING.to_json()}


@pytest.mark.parametrize("args", [["verb", "--json", "--what"], ["verb", "extra", "--json"], ["nothing", "--json"]])
def test_a_usage_error_honours_json(ft: Any, capfd: pytest.CaptureFixture[str], args: list[str]) -> None:
    ft(lambda out: None)
    assert cli.run(args) == 2
    document = json.loads(capfd.readouterr().out)
    assert document["error"]["code"].startswith("usage.")


def test_json_after_two_dashes_is_not_the_option(capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["nothing", "--", "--json"]) == 2
    assert capfd.readouterr().out == ""


def test_a_document_that_ends_in_an_error_is_still_one(ft: Any) -> None:
    def body(out: common.Output) -> None:
        out.document({"items": [1]})
        raise CheckFailed("adapter changed", code="receipt.changed")

    code, out, _ = ft(body, "--json")
    document = json.loads(out)
    assert (code, document["items"], document["error"]["code"]) == (1, [1], "receipt.changed")


def test_a_bug_is_called_a_bug_and_shows_no_traceback(ft: Any) -> None:
    code, out, err = ft(fail(ValueError("x < y")))
    assert (code, out) == (5, "")
    assert err.startswith("error: this is a bug in TrueTune (ValueError: x < y)\nhint: run again with --debug")
    assert "Traceback" not in err


def test_debug_shows_the_traceback(ft: Any) -> None:
    code, _, err = ft(fail(ValueError("x < y")), "--debug")
    assert code == 5
    assert "Traceback" in err


def test_a_full_disk_and_a_closed_file_are_no_bugs(ft: Any) -> None:
    full = OSError(errno.ENOSPC, "No space left on device", "/data/x")
    assert ft(fail(full))[0] == 4
    code, _, err = ft(fail(PermissionError(errno.EACCES, "Permission denied", "/data/x")))
    assert (code, err.splitlines()[0]) == (3, "error: /data/x: permission denied")


def test_ctrl_c_is_130(ft: Any) -> None:
    code, _, err = ft(fail(KeyboardInterrupt()))  # type: ignore[arg-type]
    assert code == 130
    assert "Traceback" not in err


def test_a_verb_may_end_with_its_own_code(ft: Any) -> None:
    assert ft(lambda out: click.get_current_context().exit(1))[0] == 1


def test_control_characters_of_data_do_not_reach_the_terminal(ft: Any) -> None:
    _, _, err = ft(fail(InputError("bad \x1b[31mrow", code="data.bad")))
    assert "\x1b" not in err
    assert r"\x1b[31m" in err

    def body(out: common.Output) -> None:
        out.print("a\x1b[2Jb\r\u202ec\ne 👩\u200d🚀")
        out.table(["x"], [["\x07\udc80"]])

    _, out, _ = ft(body)
    assert out.splitlines()[:2] == [r"a\x1b[2Jb\r\u202ec", "e 👩\u200d🚀"]
    assert r"\x07\udc80" in out


def test_the_document_is_plain_json(ft: Any) -> None:
    body = {
        "path": Path("a/b"),
        "loss": math.nan,
        "top": (1, math.inf),
        "finding": Finding("a.b", "c"),
        "bytes": "\udc80ü",
    }
    code, out, _ = ft(lambda output: output.document(body), "--json")
    document = json.loads(out, parse_constant=pytest.fail)
    assert code == 0
    assert document == {
        "schema": 1,
        "path": "a/b",
        "loss": None,
        "top": [1, None],
        "finding": {"code": "a.b", "message": "c", "where": "", "hint": ""},
        "bytes": "\udc80ü",
    }


def test_streams(ft: Any) -> None:
    def body(out: common.Output) -> None:
        out.print("result [red]as is[/red]")
        out.table(["a", "b"], [["[x]", None]])
        out.note("on the way")
        out.document({"n": 1})

    _, out, err = ft(body)
    assert (out.split(), err) == (["result", "[red]as", "is[/red]", "a", "b", "[x]"], "on the way\n")
    assert ft(body, "--quiet")[2] == ""
    code, out, err = ft(body, "--json")
    assert (code, json.loads(out), err) == (0, {"schema": 1, "n": 1}, "on the way\n")


def test_windows_is_refused_in_one_sentence(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    assert cli.run(["train"]) == 2
    assert "WSL" in capfd.readouterr().err


@pytest.mark.parametrize("command", [["completion", "fish", "--json"], ["doctor"]])
def test_a_closed_pipe_is_silent(command: list[str]) -> None:
    """A reader who has seen enough (`| head`) is no error, and does not end what runs."""
    reader, writer = os.pipe()
    os.close(reader)
    line = [sys.executable, "-m", "truetune", *command]
    done = subprocess.run(line, cwd=ROOT, stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    assert done.stderr == b""
    assert done.returncode == 0


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(shell: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["completion", shell]) == 0
    assert "_FT_COMPLETE" in capfd.readouterr().out


def test_completing_a_verb_imports_no_verb() -> None:
    items = cli.group.shell_complete(click.Context(cli.group), "re")
    assert [item.value for item in items] == ["receipt"]


def test_completing_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "20261121-143005-starter").mkdir(parents=True)
    ctx = click.Context(cli.group)
    argument = click.Argument(["run"])
    assert common.complete_run(ctx, argument, "") == ["last", "20261121-143005-starter"]
    assert common.complete_run(ctx, argument, "2026") == ["20261121-143005-starter"]


def test_python_verbs_stand_beside_packages_of_the_same_name() -> None:
    script = (
        "import truetune as ft, inspect; f = ft.train; assert inspect.isfunction(f);"
        "import truetune.train as package; assert callable(ft.train) and inspect.ismodule(package);"
        "assert 'train' in dir(ft) and issubclass(ft.TrueTuneError, Exception)"
    )
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True)

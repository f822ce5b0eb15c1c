"""The tree of errors: what it prints, what it says in JSON, and that its picture is true."""

from __future__ import annotations

import re

from truetune import errors
from truetune.errors import ConfigErrors, Finding, InputError, TrueTuneError, UsageError, together


def test_the_picture_at_the_top_of_the_file_is_the_tree() -> None:
    drawn = dict(re.findall(r"─ (\w+) +(\d+) ", errors.__doc__ or ""))
    classes = {name: kind for name, kind in vars(errors).items() if isinstance(kind, type)}
    real = {
        name: str(kind.exit_code)
        for name, kind in classes.items()
        if issubclass(kind, TrueTuneError) and kind not in {TrueTuneError, ConfigErrors}
    }
    assert drawn == real


def test_one_finding() -> None:
    error = InputError("there is no such file", code="data.missing", where="a.jsonl", hint="look again")
    assert str(error) == "a.jsonl: there is no such file"
    assert (error.code, error.where, error.hint) == ("data.missing", "a.jsonl", "look again")
    assert error.message == "there is no such file"
    assert error.to_json() == {
        "code": "data.missing",
        "message": "there is no such file",
        "where": "a.jsonl",
        "hint": "look again",
    }


def test_all_findings_at_once() -> None:
    error = ConfigErrors([Finding("config.a", "first", "train.yml:1"), Finding("config.b", "second")])
    assert str(error).splitlines() == ["train.yml:1: first", "second"]
    body = error.to_json()
    assert body["code"] == error.code == "config.a"
    assert [finding["code"] for finding in body["findings"]] == ["config.a", "config.b"]
    assert error.exit_code == 2


def test_errors_put_together() -> None:
    first = UsageError("first", code="a.one", hint="do")
    assert together([first]) is first
    both = together([first, InputError("second", code="a.two", hint="do")])
    assert [finding.code for finding in both.findings] == ["a.one", "a.two"]
    assert (both.exit_code, UsageError.exit_code, ConfigErrors.exit_code) == (3, 2, 2)

"""`--device`: what is no device is refused by every verb alike, before anything is looked for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from truetune import cli
from truetune.api.wanted import device
from truetune.errors import UsageError


@pytest.mark.parametrize("verb", ["chat", "evaluate", "train"])
@pytest.mark.parametrize("name", ["foo", "cuda:", "CPU", "cpu\n", ""])
def test_what_is_no_device(
    verb: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.run([verb, "--device", name, "--json"]) == 2
    error = json.loads(capsys.readouterr().out)["error"]
    assert (error["code"], error["where"]) == ("usage.bad_value", "device")
    assert "cuda:N" in error["hint"]


@pytest.mark.parametrize("name", ["auto", "cpu", "cuda", "cuda:3", "mps"])
def test_devices(name: str) -> None:
    assert device(name) == name


def test_python_is_told_too() -> None:
    with pytest.raises(UsageError, match="no device 3"):
        device(3)  # type: ignore[arg-type]

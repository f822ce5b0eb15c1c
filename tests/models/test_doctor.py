"""`ft doctor` on this machine, and on one where something is missing."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from truetune import engines
from truetune.api import doctor
from truetune.errors import ResourceError
from truetune.models import source


def check(name: str, report: dict[str, Any]) -> dict[str, str]:
    found: dict[str, str] = next(check for check in report["checks"] if check["name"] == name)
    return found


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("TRUETUNE_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "home"


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without torch."""

    def missing(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    def engine(name: str) -> None:
        raise ResourceError("the torch engine needs torch", code="engine.not_installed", hint="Install it.")

    monkeypatch.setattr(metadata, "version", missing)
    monkeypatch.setattr(engines, "module", engine)


def test_without_torch_it_says_how_to_get_it(bare: None) -> None:
    report = doctor.doctor()
    assert not report["ok"]
    assert check("torch", report)["state"] == check("engine", report)["state"] == "bad"
    assert "truetune[torch]" in check("torch", report)["hint"]
    assert check("peft", report)["state"] == "absent"
    assert check("starter", report)["state"] == "ok"


def test_a_broken_torch_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def engine(name: str) -> None:
        raise OSError("libtorch.so: cannot open shared object file")

    monkeypatch.setattr(engines, "module", engine)
    assert "libtorch.so" in check("engine", doctor.doctor())["value"]


def test_a_damaged_starter_is_found(bare: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for path in source.files(source.STARTER):
        (tmp_path / path.name).write_bytes(path.read_bytes()[:-1])
    monkeypatch.setattr(source, "STARTER", tmp_path)
    assert check("starter", doctor.doctor())["state"] == "bad"


def test_places_and_sizes(bare: None, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "cache").mkdir(parents=True)
    (home / "cache" / "tokens").write_bytes(b"x" * 2_000_000)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    report = doctor.doctor()
    assert "2.0 MB used" in check("cache", report)["value"]
    assert check("runs", report)["state"] == "ok"
    assert "HF_HUB_OFFLINE" in check("network", report)["value"]


@pytest.mark.slow
def test_this_machine_can_train() -> None:
    report = doctor.doctor()
    assert report["ok"]
    assert check("dtype", report)["state"] == "ok"

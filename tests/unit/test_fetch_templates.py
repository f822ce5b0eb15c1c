"""The script that fetches real templates: what it keeps of a source package, and that a set-up goes on without."""

from __future__ import annotations

import importlib.util
import io
import tarfile
from pathlib import Path
from types import ModuleType

import pytest

from truetune.testing import field

SCRIPT = Path(__file__).parents[2] / "scripts" / "fetch_templates.py"


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setenv("TRUETUNE_TEST_CACHE", str(tmp_path / "cache"))
    spec = importlib.util.spec_from_file_location("fetch_templates", SCRIPT)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def package(names: list[str]) -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:gz") as archive:
        for name in names:
            entry = tarfile.TarInfo(name)
            entry.size = len(name.encode())
            archive.addfile(entry, io.BytesIO(name.encode()))
    return data.getvalue()


def test_two_folders_are_kept_and_nothing_leaves_them(script: ModuleType, tmp_path: Path) -> None:
    models = "x-1/vendor/llama.cpp/models"
    names = [f"{models}/templates/a.jinja", f"{models}/ggml-vocab-b.gguf", f"{models}/ggml-vocab-b.gguf.out"]
    names += [f"{models}/templates/README.md", "x-1/setup.py", f"{models}/../../../../../../evil.jinja"]
    script.keep(package(names), field.folder())
    kept = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    root = field.folder().relative_to(tmp_path).as_posix()
    assert kept == {f"{root}/{name}" for name in ("templates/a.jinja", "templates/evil.jinja")} | {
        f"{root}/vocabularies/{name}" for name in ("b.gguf", "b.gguf.out")
    }
    assert [path.name for path in field.templates()] == ["a.jinja", "evil.jinja"]
    assert script.main() == 0


def test_a_setup_goes_on_where_there_is_no_index(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    assert script.main() == 1
    assert "they go on without" in capsys.readouterr().err and not field.folder().exists()

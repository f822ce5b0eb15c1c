"""The docs say what is: the generated parts are current, and what the README tells to type exists."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from truetune import cli

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text("utf-8")


@pytest.fixture(scope="module")
def build() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_build", ROOT / "docs" / "build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_generated_parts_are_current() -> None:
    """In a process of its own: click remembers in each command how its help was first asked for."""
    done = subprocess.run([sys.executable, ROOT / "docs" / "build.py", "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_map_lists_exactly_the_files(build: ModuleType) -> None:
    mapped = re.findall(r"\]\((truetune/[^)]+\.py)\)", README)
    real = [str(path.relative_to(ROOT)) for path in (ROOT / "truetune").rglob("*.py") if path.name[:2] != "__"]
    assert sorted(mapped) == sorted(real)
    folders = re.findall(r"\]\(truetune/(\w+)\)", README)
    assert sorted(folders) == sorted(path.parent.name for path in (ROOT / "truetune").glob("*/__init__.py"))


def test_every_file_opens_with_what_it_is_for(build: ModuleType) -> None:
    files = [*(ROOT / "truetune").rglob("*.py"), *(ROOT / "tests").rglob("test_*.py")]
    assert [str(path.relative_to(ROOT)) for path in files if not build.sentence(path)] == []


def test_every_code_in_the_sources_is_listed(build: ModuleType) -> None:
    """Anything that looks like a code beside the word `code` must have been found by the generator."""
    table = (ROOT / "docs" / "errors.md").read_text("utf-8")
    for path in (ROOT / "truetune").rglob("*.py"):
        for code in re.findall(r"code=\(?\"([a-z_.]+)\"", path.read_text("utf-8")):
            assert f"| `{code}` |" in table, (path, code)


def test_the_generator_reads_what_people_write(build: ModuleType, tmp_path: Path) -> None:
    source = """
raise InputError(f"no {x} here", code="a.b" if y else "a.c")
RowError("d.e", "why")
text = f"{n} rows"
self.note(text, code="f.g")
"""
    path = tmp_path / "x.py"
    path.write_text(source, "utf-8")
    assert [(item.code, item.exit, item.message) for item in build.raises(path)] == [
        ("a.b", "3", "no … here"),
        ("a.c", "3", "no … here"),
        ("d.e", "row refused", "why"),
        ("f.g", "a finding", "… rows"),
    ]


def test_what_the_readme_tells_to_type_exists() -> None:
    verbs = set(re.findall(r"(?:^|`)ft ([a-z]+)", README, re.MULTILINE))
    targets = set(re.findall(r"(?:^|`)make ([a-z-]+)", README, re.MULTILINE))
    rules = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    assert verbs
    assert verbs <= set(cli.VERBS)
    assert {"demo", "test"} <= targets <= rules


def test_links_lead_somewhere() -> None:
    for page in [
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        *(ROOT / "docs").rglob("*.md"),
        *(ROOT / "examples").rglob("*.md"),
    ]:
        for link in re.findall(r"\]\(([^)#]+)", page.read_text("utf-8")):
            assert link.startswith("https://") or (page.parent / link).exists(), (page.name, link)

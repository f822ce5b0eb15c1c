"""What is installed: every dependency is pinned for `make`, inside the honest range that pyproject.toml gives."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import truetune

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
CONSTRAINTS = (ROOT / "constraints.txt").read_text("utf-8")
PINS = {
    canonicalize_name(line.name): line.specifier
    for line in map(Requirement, filter(lambda line: not line.startswith("#"), CONSTRAINTS.splitlines()))
}


def requirements() -> list[Requirement]:
    project = PROJECT["project"]
    lines = [*project["dependencies"], *(line for extra in project["optional-dependencies"].values() for line in extra)]
    return [item for item in map(Requirement, lines) if item.name != "truetune"]


def test_every_dependency_is_pinned_inside_its_range() -> None:
    for item in requirements():
        (pin,) = PINS[canonicalize_name(item.name)]
        assert pin.operator == "=="
        assert item.specifier.contains(pin.version), (item.name, pin.version)


def test_pins_are_versions_that_every_index_has() -> None:
    """A local version (`2.13.0+cpu`) exists on some indexes only."""
    assert [name for name, pins in PINS.items() if "+" in str(pins)] == []


def test_run_time_ranges_have_both_ends() -> None:
    for line in PROJECT["project"]["dependencies"]:
        assert {specifier.operator for specifier in Requirement(line).specifier} == {">=", "<"}, line


def test_the_version_stands_in_one_place() -> None:
    assert PROJECT["project"]["dynamic"] == ["version"]
    assert PROJECT["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "truetune.__version__"}
    assert truetune.__version__.count(".") == 2


def test_the_ci_entry_can_be_run() -> None:
    assert os.access(ROOT / ".ci" / "run", os.X_OK)


def test_no_two_test_files_have_the_same_name() -> None:
    """pytest imports them by their names alone."""
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert sorted(names) == sorted(set(names))

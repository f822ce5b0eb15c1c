"""The harness itself: a bug put in by hand is found, and where there is none nothing is."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import small_run
from seeded import BUGS


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> small_run.Result:
    return small_run.result(small_run.start(tmp_path_factory.mktemp("straight") / "run"))


@pytest.mark.parametrize("name", BUGS)
def test_a_seeded_bug_is_found(
    name: str, expected: small_run.Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bug, hunt = BUGS[name]
    bug(monkeypatch)
    assert next(hunt(tmp_path, expected), None), "the harness has overlooked it"


ONE_OF_EACH = {hunt: name for name, (_, hunt) in BUGS.items()}


@pytest.mark.slow
@pytest.mark.parametrize("name", ONE_OF_EACH.values())
def test_where_there_is_no_bug_nothing_is_found(name: str, expected: small_run.Result, tmp_path: Path) -> None:
    _, hunt = BUGS[name]
    assert list(itertools.islice(hunt(tmp_path, expected), 1)) == []

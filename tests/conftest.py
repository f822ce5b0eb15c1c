"""Every process of tests has a home of its own: no test sees what another one, or the person who runs it, keeps."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session", autouse=True)
def own_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRUETUNE_HOME", str(tmp_path_factory.mktemp("home")))
        yield

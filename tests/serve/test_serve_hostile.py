"""A few hundred of the requests that `every_request.py` makes by the thousand, and clients that leave."""

from __future__ import annotations

from pathlib import Path

import pytest
from every_request import goodbyes, hostile
from served import KEY, live

pytestmark = pytest.mark.slow


def test_hostile_requests_and_goodbyes(tmp_path: Path) -> None:
    with live(tmp_path, adapters=1, key=KEY) as server:
        found = hostile(server, 240)
        assert {status[0] for status in found["statuses"]} == {"2", "4"}
        assert goodbyes(server, 64)["clients"] == 64
        assert server.client.get("/health").json() == {"status": "ok"}

"""Whether a cluster is there, asked in seconds: Ray itself would try for minutes."""

from __future__ import annotations

import re
import socket

from truetune.errors import InputError

ADDRESS = re.compile(r"(\[[0-9a-fA-F:]+\]|[A-Za-z0-9.-]+):(\d{1,5})")
PATIENCE = 5.0


def reach(address: str) -> None:
    """Raises InputError `serve.no_cluster` where nothing listens at HOST:PORT."""
    found = ADDRESS.fullmatch(address)
    try:
        if not found:
            raise OSError("it is not HOST:PORT")
        socket.create_connection((found[1].strip("[]"), int(found[2])), timeout=PATIENCE).close()
    except (OSError, OverflowError) as error:
        raise InputError(
            f"there is no Ray cluster to be had: {error}",
            code="serve.no_cluster",
            where=address[:80],
            hint="`ray start --head` prints its address, such as 10.0.0.5:6379, and `ray status` whether it runs.",
        ) from None

"""What the door knows of a replica: five questions, and the two ways in which an answer may fail to come.

Everything that crosses is of Python's own types, so that a replica may be an object in this process, or one in another
process on another machine.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from typing import Any, Protocol, TypedDict

Json = dict[str, Any]
Message = dict[str, Any]
"""Of ASGI: `http.response.start`, `http.response.body`."""
BEHIND: Message = {"type": "truetune.behind"}
"""In the place of an answer: the replica has begun anew, and lacks adapters that were loaded since."""


class Call(TypedDict):
    """A request that has passed the guard."""

    method: str
    path: str
    raw_path: bytes
    query_string: bytes
    headers: list[tuple[bytes, bytes]]
    body: bytes


class Peer(Protocol):
    """A replica. Every question raises ConnectionError where the replica is lost before it has answered."""

    def ask(self, call: Call, revision: int) -> AsyncGenerator[list[Message]]:
        """The messages of an answer, as many at a time as there are; closing it gives the request up. Only `BEHIND`
        where the replica knows less than this revision of the names."""
        ...

    async def change(self, since: int, revision: int, name: str, pin: str | None, inplace: bool) -> Json | None:
        """Load what is pinned under a name, or unload it (None). What a Refusal is made of, where it is refused;
        `BEHIND`, and nothing is done, where the replica knows less than the revision `since`."""
        ...

    async def settle(self, revision: int, table: Mapping[str, str]) -> Json | None:
        """Have exactly these names with what is pinned, beside the base. As `change`."""
        ...

    async def metrics(self) -> bytes:
        """Its figures in Prometheus' text format."""
        ...

    async def ready(self) -> None:
        """Comes back when the replica takes requests, be it one that has just begun."""
        ...

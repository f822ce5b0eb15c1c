"""The replicas as the door sees them: which take requests, what each knows of the names, and how one comes back."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field

from truetune.serve.outgrown.peer import Json, Peer
from truetune.serve.refusals import Refusal

PATIENCE = 30.0
"""Seconds that a request waits for a replica while there is none."""
AGAIN = 1.0
"""Seconds until a replica that could not be brought up to date is asked again."""


@dataclass(eq=False)
class Side:
    """One replica."""

    number: int
    peer: Peer
    revision: int = 0
    """What it knows of the names, as far as the door has heard."""
    up: bool = True
    open: int = 0
    """Requests that it has now."""
    answered: int = 0
    lost: int = 0
    """How often it broke down."""
    returning: asyncio.Task[None] | None = field(default=None, repr=False)


class Sides:
    """All replicas, and the names that each of them must know. For one event loop."""

    def __init__(self, peers: Sequence[Peer], table: Mapping[str, str]) -> None:
        self.all = [Side(number, peer) for number, peer in enumerate(peers)]
        self.table = dict(table)
        self.revision = 0
        self.changing = asyncio.Lock()
        self.news = asyncio.Event()

    def up(self) -> list[Side]:
        return [side for side in self.all if side.up]

    async def choose(self, tried: set[Side]) -> Side | None:
        """The one with the fewest requests, of equals the one that has answered least; None where all that there are
        were tried. Raises Refusal 503 where there is none for too long."""
        try:
            async with asyncio.timeout(PATIENCE):
                while not self.up():
                    self.news.clear()
                    await self.news.wait()
        except TimeoutError:
            raise nobody() from None
        left = [side for side in self.up() if side not in tried]
        return min(left, key=lambda side: (side.open, side.answered, side.number), default=None)

    def lose(self, side: Side) -> None:
        """It takes no requests until it has begun again and knows all names."""
        if side.up:
            side.up = False
            side.lost += 1
            side.returning = asyncio.create_task(self.back(side))

    async def back(self, side: Side) -> None:
        while not side.up:
            try:
                await side.peer.ready()
                async with self.changing:
                    refused = await side.peer.settle(self.revision, self.table)
                    if refused is None:
                        side.revision, side.up = self.revision, True
            except ConnectionError:
                refused = None
            if refused is not None:
                logging.getLogger(__name__).warning("replica %d stays out: %s", side.number, refused["message"])
            if not side.up:
                await asyncio.sleep(AGAIN)
        self.news.set()

    async def change(self, name: str, pin: str | None, inplace: bool) -> None:
        """One name, on every replica or on none. Raises Refusal."""
        async with self.changing:
            self.revision += 1
            revision = self.revision
            if refused := await self.every(lambda peer: peer.change(revision, name, pin, inplace)):
                self.revision += 1
                await self.every(lambda peer: peer.settle(self.revision, self.table))
                raise Refusal(**refused)
            if pin is None:
                self.table.pop(name, None)
            else:
                self.table[name] = pin

    async def every(self, tell: Callable[[Peer], Awaitable[Json | None]]) -> Json | None:
        """Tell all that are there; the first refusal. One that is lost meanwhile hears it when it is back. Raises
        Refusal 503 where nobody has heard it."""
        heard = await asyncio.gather(*(self.told(side, tell) for side in self.up()))
        if not any(there for there, _ in heard):
            raise nobody()
        return next((refused for _, refused in heard if refused), None)

    async def told(self, side: Side, tell: Callable[[Peer], Awaitable[Json | None]]) -> tuple[bool, Json | None]:
        try:
            refused = await tell(side.peer)
        except ConnectionError:
            self.lose(side)
            return False, None
        if refused is None:
            side.revision = self.revision
        return True, refused


def nobody() -> Refusal:
    return Refusal(503, "No replica is there to answer.", code="no_replica", headers={"retry-after": "10"})

"""The replicas as the door sees them: which take requests, what each knows of the names, and how one comes back."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from truetune.serve.outgrown.peer import BEHIND, Json, Peer
from truetune.serve.refusals import Refusal

LOG = logging.getLogger(__name__)
PATIENCE = 30.0
"""Seconds that a request waits for a replica while there is none."""
PULSE, LATE = 2.0, 5.0
"""Seconds between two looks at a replica, and after which one that says nothing counts as lost."""
AGAIN = 1.0
"""Seconds until a replica that could not be brought up to date is asked again."""
T = TypeVar("T")


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
    fell: asyncio.Event = field(default_factory=asyncio.Event, repr=False)
    """Set while it takes no requests: what it was asked and has not begun to answer is asked of another."""
    task: asyncio.Task[None] | None = field(default=None, repr=False)


Tell = Callable[[Side], Awaitable[Json | None]]


class Sides:
    """All replicas, and the names that each of them must know. For one event loop."""

    def __init__(self, peers: Sequence[Peer], table: Mapping[str, str]) -> None:
        self.all = [Side(number, peer) for number, peer in enumerate(peers)]
        self.table = dict(table)
        self.revision = 0
        self.changing = asyncio.Lock()
        self.news = asyncio.Event()
        self.watching: list[asyncio.Task[None]] = []

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

    def watch(self) -> None:
        """Look at every replica from now on: whoever is asked nothing shows nothing."""
        self.watching = [asyncio.create_task(self.watched(side)) for side in self.all]

    async def watched(self, side: Side) -> None:
        while True:
            await asyncio.sleep(PULSE)
            try:
                async with asyncio.timeout(LATE):
                    await side.peer.ready()
            except (TimeoutError, ConnectionError):
                self.lose(side)

    def lose(self, side: Side) -> None:
        """It takes no requests until it has begun again and knows all names."""
        if side.up:
            LOG.warning("replica %d does not answer, or has begun anew; the others answer for it", side.number)
            side.up = False
            side.lost += 1
            side.fell.set()
            side.task = asyncio.create_task(self.back(side))

    async def back(self, side: Side) -> None:
        while not side.up:
            try:
                await side.peer.ready()
                async with self.changing:
                    refused = await side.peer.settle(self.revision, self.table)
                    if refused is None:
                        side.revision, side.up = self.revision, True
                        side.fell.clear()
            except ConnectionError:
                refused = None
            if refused is not None:
                LOG.warning("replica %d stays out: %s", side.number, refused["message"])
            if not side.up:
                await asyncio.sleep(AGAIN)
        LOG.warning("replica %d is back, with %d names", side.number, len(self.table))
        self.news.set()

    async def change(self, name: str, pin: str | None, inplace: bool) -> None:
        """One name, on every replica or on none. Raises Refusal."""
        async with self.changing:
            self.revision += 1
            revision = self.revision
            if refused := await self.every(lambda side: side.peer.change(side.revision, revision, name, pin, inplace)):
                self.revision += 1
                await self.every(lambda side: side.peer.settle(self.revision, self.table))
                raise Refusal(**refused)
            if pin is None:
                self.table.pop(name, None)
            else:
                self.table[name] = pin

    async def every(self, tell: Tell) -> Json | None:
        """Tell all that are there; the first refusal. One that is lost meanwhile hears it when it is back. Raises
        Refusal 503 where nobody has heard it."""
        heard = await asyncio.gather(*(self.told(side, tell) for side in self.up()))
        if not any(there for there, _ in heard):
            raise nobody()
        return next((refused for _, refused in heard if refused), None)

    async def told(self, side: Side, tell: Tell) -> tuple[bool, Json | None]:
        """Whether it has heard, and what it refuses."""
        try:
            refused = await unless_lost(side, tell(side))
        except ConnectionError:
            refused = BEHIND
        if refused == BEHIND:
            self.lose(side)
            return False, None
        if refused is None:
            side.revision = self.revision
        return True, refused


async def unless_lost(side: Side, work: Awaitable[T]) -> T:
    """What `work` gives. Raises ConnectionError where the replica is lost before."""
    task, fell = asyncio.ensure_future(work), asyncio.ensure_future(side.fell.wait())
    try:
        await asyncio.wait([task, fell], return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ConnectionError("lost")
        return task.result()
    finally:
        task.cancel()
        fell.cancel()
        await asyncio.gather(task, fell, return_exceptions=True)


def nobody() -> Refusal:
    return Refusal(503, "No replica is there to answer.", code="no_replica", headers={"retry-after": "10"})

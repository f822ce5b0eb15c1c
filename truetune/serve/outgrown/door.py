"""The door before the replicas: the guard, the names and the end are here, everything else is one replica's answer."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Mapping, Sequence

from fastapi.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from truetune.errors import TrueTuneError
from truetune.serve import app, replies
from truetune.serve.guard import Guard, Rules
from truetune.serve.metrics import TYPE
from truetune.serve.openai import Json
from truetune.serve.outgrown import figures
from truetune.serve.outgrown.peer import Peer
from truetune.serve.outgrown.pin import pinned
from truetune.serve.outgrown.relay import Relay, read
from truetune.serve.outgrown.sides import Side, Sides, unless_lost
from truetune.serve.refusals import draining, of_error
from truetune.serve.service import Look

OWN = ("/v1/load_lora_adapter", "/v1/unload_lora_adapter", "/health", "/metrics")
"""Routes that concern all replicas."""
MOMENT = 0.05
"""Seconds between two looks at what still runs."""


class Door:
    """What `running.Server` serves and ends, as it does a `Service`."""

    def __init__(self, peers: Sequence[Peer], table: Mapping[str, str], look: Look) -> None:
        """`table`: name -> pin of the adapters that every replica opens with."""
        self.look = look
        self.sides = Sides(peers, table)
        self.cut = asyncio.Event()
        self.loop: asyncio.AbstractEventLoop | None = None
        self.closing = False
        self.open = self.requests = 0
        self.counting = threading.Lock()

    async def load(self, name: str, address: str, *, inplace: bool = False) -> None:
        """As `Service.load`, on every replica or on none. What the address means is settled here, once."""
        if self.closing:
            raise draining()
        try:
            pin = await asyncio.to_thread(lambda: pinned(self.look(address)))
        except TrueTuneError as error:
            raise of_error(error) from None
        await self.sides.change(name, pin, inplace)

    async def unload(self, name: str) -> None:
        if self.closing:
            raise draining()
        await self.sides.change(name, None, False)

    async def relay(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.loop = asyncio.get_running_loop()
        self.count(1)
        try:
            if self.closing:
                raise draining()
            await Relay(self.sides, self.cut, receive, send).go(await read(scope, receive))
        finally:
            self.count(-1)

    def count(self, change: int) -> None:
        with self.counting:
            self.open += change
            self.requests += change > 0

    async def figures(self) -> bytes:
        """The figures of all replicas that are there."""
        found = await asyncio.gather(*(self.page(side) for side in self.sides.up()))
        pages = {number: page for number, page in found if page}
        return figures.joined(pages, {side.number: side.up for side in self.sides.all})

    async def page(self, side: Side) -> tuple[int, bytes]:
        """One replica's; empty where it is lost meanwhile."""
        try:
            return side.number, await unless_lost(side, side.peer.metrics())
        except ConnectionError:
            self.sides.lose(side)
            return side.number, b""

    def close(self, grace: float) -> None:
        """Let what runs come to its end for so many seconds, and cut the rest with an error event. For any thread."""
        end = time.monotonic() + grace
        while self.open and time.monotonic() < end:
            time.sleep(MOMENT)
        if self.loop and not self.loop.is_closed():
            self.loop.call_soon_threadsafe(self.cut.set)

    def totals(self) -> Json:
        """Requests in all; of each replica what it has answered and how often it broke down."""
        told = [{"answered": side.answered, "lost": side.lost} for side in self.sides.all]
        return {"requests": self.requests, "replicas": told}


def application(door: Door, rules: Rules) -> Guard:
    """The whole as an ASGI application."""
    own = app.framed()
    app.changing(own, door)

    @own.get("/health", response_model=replies.Health)
    async def health() -> JSONResponse:
        """200 while requests are taken."""
        status = "draining" if door.closing else "ok"
        return JSONResponse({"status": status}, 503 if door.closing else 200)

    @own.get("/metrics")
    async def metrics() -> Response:
        return Response(await door.figures(), media_type=TYPE)

    async def either(scope: Scope, receive: Receive, send: Send) -> None:
        await (own if scope["path"] in OWN else refusing)(scope, receive, send)

    async def refusing(scope: Scope, receive: Receive, send: Send) -> None:
        await door.relay(scope, receive, send)

    return Guard(either, rules)

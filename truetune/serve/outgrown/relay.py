"""A request to a replica, and its answer back: asked again where nothing of an answer has come, never cut silently.

A replica that is full sends the request on to the next; one that has begun anew learns the names first. A request whose
replica breaks down is asked once more, and no more than that: it may be what broke it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, MutableMapping, Sequence
from contextlib import aclosing
from typing import Any, Literal

from truetune.serve import openai
from truetune.serve.guard import Receive, Send, answer
from truetune.serve.openai import DONE
from truetune.serve.outgrown.peer import BEHIND, Call, Message
from truetune.serve.outgrown.sides import Side, Sides
from truetune.serve.refusals import Refusal, draining

TRIES = 2
"""Replicas that one request may lose."""
Stops = Sequence[asyncio.Future[Any]]
Came = Literal["whole", "full", "behind", "lost"]


class Halted(Exception):
    """The client has gone, or the server's grace is over (`ended`)."""

    def __init__(self, *, ended: bool) -> None:
        super().__init__()
        self.ended = ended


class Fallen(Exception):
    """The replica takes no requests any more, and has not begun with this one."""


class Relay:
    """The way of one request."""

    def __init__(self, sides: Sides, cut: asyncio.Event, receive: Receive, send: Send) -> None:
        self.sides, self.cut, self.receive, self.send = sides, cut, receive, send
        self.begun: Message | None = None
        """The answer's status and headers, once the client has them."""
        self.full: list[Message] = []
        """What a replica has said that had no room."""

    async def go(self, call: Call) -> None:
        stops = [asyncio.ensure_future(gone(self.receive)), asyncio.ensure_future(self.cut.wait())]
        try:
            await self.tried(call, stops)
        except Halted as halted:
            if halted.ended:
                await self.broken_off(draining())
        except Refusal as refusal:
            await self.broken_off(refusal)
        finally:
            for stop in stops:
                stop.cancel()
            await asyncio.gather(*stops, return_exceptions=True)

    async def tried(self, call: Call, stops: Stops) -> None:
        full: set[Side] = set()
        losses = 0
        while side := await self.sides.choose(full):
            came = await self.through(side, call, stops)
            if came == "whole":
                return
            if came == "full":
                full.add(side)
            losses += came == "lost"
            if self.begun or losses == TRIES:
                raise lost()
        for message in self.full:
            await self.send(message)

    async def through(self, side: Side, call: Call, stops: Stops) -> Came:
        side.open += 1
        fell = asyncio.ensure_future(side.fell.wait())
        try:
            async with aclosing(side.peer.ask(call, side.revision)) as batches:
                while batch := await before([*stops, *([] if self.begun else [fell])], batches):
                    if BEHIND in batch:
                        self.sides.lose(side)
                        return "behind"
                    if self.begun is None and batch[0].get("status") == 429:
                        self.full = batch
                        return "full"
                    if await self.passed(batch):
                        side.answered += 1
                        return "whole"
            return "lost"
        except ConnectionError:
            self.sides.lose(side)
            return "lost"
        except Fallen:
            return "behind"
        finally:
            side.open -= 1
            fell.cancel()

    async def passed(self, batch: list[Message]) -> bool:
        """Hand on messages; whether the last was among them."""
        for message in batch:
            if message["type"] == "http.response.start":
                self.begun = message
            await self.send(message)
        return batch[-1]["type"] == "http.response.body" and not batch[-1].get("more_body")

    async def broken_off(self, refusal: Refusal) -> None:
        """Say that there is no answer, or, in a stream, that it ends here. What has announced its length is left short,
        which the connection's end tells the client."""
        if self.begun is None:
            await answer(self.send, refusal)
        elif any(value.startswith(b"text/event-stream") for _, value in self.begun["headers"]):
            last = openai.event(refusal.body) + DONE
            await self.send({"type": "http.response.body", "body": last, "more_body": False})


async def before(stops: Stops, batches: AsyncGenerator[list[Message]]) -> list[Message]:
    """The next batch, empty behind the last. Raises Halted where one of the first two comes before it, else Fallen."""
    step = asyncio.ensure_future(anext(batches, []))
    try:
        await asyncio.wait([step, *stops], return_when=asyncio.FIRST_COMPLETED)
        if not step.done():
            raise Halted(ended=stops[1].done()) if stops[0].done() or stops[1].done() else Fallen
        return step.result()
    finally:
        step.cancel()
        await asyncio.gather(step, return_exceptions=True)


async def gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def read(scope: MutableMapping[str, Any], receive: Receive) -> Call:
    """The request as the guard has left it: its body in one piece."""
    message = await receive()
    return {
        "method": scope["method"],
        "path": scope["path"],
        "raw_path": scope.get("raw_path", b""),
        "query_string": scope["query_string"],
        "headers": [(bytes(name), bytes(value)) for name, value in scope["headers"] if name != b"authorization"],
        "body": message.get("body", b""),
    }


def lost() -> Refusal:
    text = "The replica that answered has broken down. Ask again."
    return Refusal(503, text, code="replica_lost", headers={"retry-after": "1"})

"""Answers as server-sent events, and what happens to them where the client has gone."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import TypeVar

from fastapi import Request
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from truetune.serve import openai
from truetune.serve.openai import DONE, Json, Piece
from truetune.serve.refusals import Refusal
from truetune.serve.service import Asked, Service

T = TypeVar("T")
AHEAD = 64
"""Pieces of several prompts that wait until the client takes them."""


class Stream(StreamingResponse):
    """Server-sent events of answers, which are given up with the connection, wherever it breaks."""

    def __init__(self, service: Service, asked: Sequence[Asked], events: AsyncIterator[bytes]) -> None:
        headers = {"cache-control": "no-cache", "x-accel-buffering": "no"}
        super().__init__(events, media_type="text/event-stream", headers=headers)
        self.service, self.asked = service, asked

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            for each in self.asked:
                self.service.release(each)


async def merged(service: Service, asked: Sequence[Asked]) -> AsyncGenerator[Piece]:
    """The pieces of several prompts as they come."""
    queue = asyncio.Queue[Piece | Exception | None](AHEAD)

    async def pour(each: Asked) -> None:
        try:
            async with aclosing(service.pieces(each)) as pieces:
                async for piece in pieces:
                    await queue.put(piece)
            await queue.put(None)
        except Exception as error:
            await queue.put(error)

    tasks = [asyncio.create_task(pour(each)) for each in asked]
    try:
        left = len(tasks)
        while left:
            item = await queue.get()
            if isinstance(item, Exception):
                raise item
            if item is None:
                left -= 1
            else:
                yield item
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def events(
    service: Service,
    asked: Sequence[Asked],
    opening: Sequence[Json],
    spoken: Callable[[Piece], Json],
    ending: Callable[[], Sequence[Json]],
) -> AsyncIterator[bytes]:
    """A stream: the opening chunks, a chunk for each piece, those of the end, `[DONE]`. What goes wrong is an event of
    its own, behind which nothing but `[DONE]` comes."""
    for body in opening:
        yield openai.event(body)
    try:
        source = service.pieces(asked[0]) if len(asked) == 1 else merged(service, asked)
        async with aclosing(source) as pieces:
            async for piece in pieces:
                yield openai.event(spoken(piece))
        for body in ending():
            yield openai.event(body)
    except Refusal as refusal:
        yield openai.event(refusal.body)
    except Exception:  # a bug of ours: who reads the stream hears of it, and what it says stays in the log
        logging.getLogger(__name__).exception("an answer broke off")
        yield openai.event(Refusal(500, "The server failed at this request.", code="bug").body)
    yield DONE


async def unless_gone(request: Request, work: Awaitable[T]) -> T:
    """What `work` gives; it is cancelled where the client goes before. Raises Refusal then, which nobody reads."""
    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(left(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise Refusal(400, "The client has gone.", code="disconnected")
    finally:
        task.cancel()
        gone.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass

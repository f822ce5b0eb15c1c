"""Where the events of a request arrive: to iterate over in a thread, or with `async for` in an event loop."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from threading import Condition

from truetune.serve.requests import Event


class Handle:
    """The answers to one request, as one stream; it ends when each of them has had its last event.

    One consumer at a time. `cancel` gives up what has not ended; iterating then ends with the events of reason
    `cancelled`.
    """

    def __init__(self, answers: int, cancel: Callable[[], None]) -> None:
        self.answers, self.cancel = answers, cancel
        self.ended = 0
        self.events: deque[Event] = deque()
        self.news = Condition()
        self.waiter: tuple[asyncio.AbstractEventLoop, asyncio.Future[None]] | None = None

    def tell(self, event: Event) -> None:
        """From the scheduler: the next event."""
        with self.news:
            self.events.append(event)
            waiter, self.waiter = self.waiter, None
            self.news.notify()
        if waiter:
            loop, future = waiter
            with suppress(RuntimeError):  # the loop has been closed: nobody listens
                loop.call_soon_threadsafe(wake, future)

    def taken(self) -> Event:
        """The oldest event, under the lock."""
        event = self.events.popleft()
        self.ended += bool(event.reason)
        return event

    @property
    def over(self) -> bool:
        return self.ended == self.answers

    def __iter__(self) -> Handle:
        return self

    def __next__(self) -> Event:
        if self.over:
            raise StopIteration
        with self.news:
            self.news.wait_for(lambda: self.events)
            return self.taken()

    def __aiter__(self) -> Handle:
        return self

    async def __anext__(self) -> Event:
        if self.over:
            raise StopAsyncIteration
        while True:
            with self.news:
                if self.events:
                    return self.taken()
                loop = asyncio.get_running_loop()
                future = loop.create_future()
                self.waiter = loop, future
            await future


def wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)

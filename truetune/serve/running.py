"""The server's process: a socket, uvicorn on it, and an end that lets what runs come to its own.

The first SIGTERM or Ctrl-C stops new requests (503; the listening socket closes), lets running answers go on for the
grace, ends the rest with an error event, and the process ends with 0. A second one ends at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Protocol

import uvicorn

from truetune.errors import Forced
from truetune.serve.guard import App
from truetune.serve.patient import Patient
from truetune.serve.place import BACKLOG, Place

CONNECTIONS = 1000
"""Connections at once; beyond it uvicorn answers 503 and closes."""
HEADER = 2**15
"""Bytes of a request's line and headers."""
REST = 5.0
"""Seconds in which connections end once their answers have."""


class Ending(Protocol):
    """What is served: it takes no more requests once `closing` is set, and can be brought to its end."""

    closing: bool

    def close(self, grace: float) -> None: ...


class Server(uvicorn.Server):
    """uvicorn, ending as the service does."""

    def __init__(self, app: App, service: Ending, grace: float, ready: Callable[[], None], *, log: bool) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http=Patient,
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=log,
                server_header=False,
                proxy_headers=False,
                backlog=BACKLOG,
                limit_concurrency=CONNECTIONS,
                timeout_keep_alive=10,
                timeout_graceful_shutdown=int(grace + REST) + 1,
                h11_max_incomplete_event_size=HEADER,
            )
        )
        self.service, self.grace, self.ready = service, grace, ready
        self.ending: asyncio.Task[None] | None = None
        self.loop: asyncio.AbstractEventLoop | None = None
        self.forced = False

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self.loop = asyncio.get_running_loop()
        await super().startup(sockets)
        self.ready()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Our own: uvicorn would raise the signal again at the end, and the process would die of it."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        kinds = (signal.SIGTERM, signal.SIGINT)
        before = {kind: signal.signal(kind, self.heard) for kind in kinds}
        try:
            yield
        finally:
            for kind, handler in before.items():
                signal.signal(kind, handler)

    def heard(self, kind: int, frame: FrameType | None) -> None:
        assert self.loop is not None
        self.loop.call_soon_threadsafe(self.stop)

    def stop(self) -> None:
        """In the event loop: begin to end; asked a second time, end at once."""
        if self.ending is not None:
            self.forced = self.force_exit = True
            return
        self.service.closing = True
        self.should_exit = True
        self.ending = asyncio.create_task(asyncio.to_thread(self.drain))

    def drain(self) -> None:
        self.service.close(self.grace)


def run(app: App, service: Ending, place: Place, *, grace: float, ready: Callable[[], None], log: bool) -> None:
    """Serve until a signal ends it. Raises Forced after a second one."""
    server = Server(app, service, grace, ready, log=log)
    server.run(sockets=[place.listener])
    if server.forced:
        raise Forced("stopped at once", code="stopped.forced", hint="Answers that were being written are lost.")

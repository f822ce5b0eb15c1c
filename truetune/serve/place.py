"""Where a server listens: an address and a port of this machine, held from the start on."""

from __future__ import annotations

import socket
from dataclasses import dataclass

from truetune.errors import ResourceError, UsageError

BACKLOG = 512


@dataclass(frozen=True)
class Place:
    """Where a server listens."""

    host: str
    port: int
    listener: socket.socket

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"


def listen(host: str, port: int) -> Place:
    """A bound socket; port 0 takes a free one. Raises UsageError `serve.host`, ResourceError `serve.port`."""
    try:
        (family, kind, protocol, _, address), *_ = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except OSError:
        raise UsageError(
            f"there is no address `{host}`",
            code="serve.host",
            where="--host",
            hint="Leave it out to listen on this machine alone (127.0.0.1).",
        ) from None
    # With its protocol: else asyncio leaves out TCP_NODELAY, and small answers wait 40 ms for an acknowledgement.
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise ResourceError(
            f"port {port} can't be listened on: {(error.strerror or str(error)).lower()}",
            code="serve.port",
            where=f"{host}:{port}",
            hint="Choose another: --port 8001, or --port 0 for any that is free.",
        ) from None
    return Place(host, listener.getsockname()[1], listener)


def own(host: str) -> bool:
    """Whether only this machine can reach an address."""
    return host in ("127.0.0.1", "localhost", "::1")

"""uvicorn's HTTP, with a time in which a request must have come: whoever connects and says nothing, or a header a
minute, is answered and let go."""

from __future__ import annotations

from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

PATIENCE = 10.0
"""Seconds from the connection to the end of the first request's headers."""
TOO_SLOW = (
    b"HTTP/1.1 408 Request Timeout\r\ncontent-type: application/json\r\nconnection: close\r\n"
    b"content-length: %d\r\n\r\n%s"
)
BODY = b'{"error":{"message":"The request came too slowly.","type":"timeout_error","param":null,"code":"slow"}}'


class Patient(H11Protocol):
    """One connection."""

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self.deadline = self.loop.call_later(PATIENCE, self.give_up)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.cycle is not None:
            self.deadline.cancel()

    def connection_lost(self, exc: Exception | None) -> None:
        self.deadline.cancel()
        super().connection_lost(exc)

    def _unsupported_upgrade_warning(self) -> None:
        """Nothing is logged of a request that the guard refuses."""

    def give_up(self) -> None:
        if self.cycle is None and not self.transport.is_closing():
            self.transport.write(TOO_SLOW % (len(BODY), BODY))
            self.transport.close()

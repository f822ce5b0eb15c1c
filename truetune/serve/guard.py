"""What every request passes before any route sees it: whom it was sent to, from where, with which key, and how large.

A web page that somebody visits may send requests to this machine, and a name that it owns may lead here. So on every
route and method the Host must be ours with its port, an Origin must be this server's own, and the key must be right.
Nothing is decided on a path that a framework has put together: the raw one counts, and what is not named public needs
the key. WebSockets are refused. Bodies are read here, up to a size and in a time, and must be strict JSON.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import ipaddress
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from dataclasses import dataclass
from typing import Any

import orjson

from truetune.serve.refusals import Refusal

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

PUBLIC = frozenset({(b"/health", "GET"), (b"/health", "HEAD")})
"""Raw path and method of what needs no key. Host and Origin are checked here too."""
LARGEST = 4 * 2**20
"""Bytes of a body."""
DEEPEST = 64
"""Objects and lists inside each other."""
PATIENCE = 20.0
"""Seconds in which a body must have come."""
LOCAL = ("127.0.0.1", "localhost", "[::1]")
SITES = (b"same-origin", b"none")
"""What a browser says of a request that our own page, or its user, has sent."""


@dataclass(frozen=True)
class Rules:
    """Who may ask. `port` is the one that is listened on."""

    port: int
    hosts: frozenset[str] = frozenset()
    """Names beside those of this machine itself, with or without a port."""
    wide: bool = False
    """Whether others than this machine may connect: then any address in numbers is a Host, because no page can own
    one, and a key is needed."""
    digest: bytes | None = None
    """sha256 of the key; None = none is needed."""
    largest: int = LARGEST
    patience: float = PATIENCE

    def known(self, host: str) -> bool:
        """Whether a Host header names this server."""
        name, port = split(host)
        if host in self.hosts or name in self.hosts:
            return True
        if port != self.port:
            return False
        return name in LOCAL or (self.wide and numeric(name))


def split(host: str) -> tuple[str, int]:
    """`[::1]:8000` -> (`[::1]`, 8000); without a port 80; a port that is none is -1."""
    name, colon, port = host.lower().rpartition(":")
    if not colon or port.endswith("]"):
        return host.lower(), 80
    return name, int(port) if port.isascii() and port.isdigit() and len(port) <= 5 else -1


def numeric(name: str) -> bool:
    try:
        ipaddress.ip_address(name.removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    return True


def hashed(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()


class Guard:
    """The ASGI application behind which the real one stands."""

    def __init__(self, app: App, rules: Rules) -> None:
        self.app, self.rules = app, rules

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        elif scope["type"] == "http":
            await self.http(scope, receive, send)
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1008})

    async def http(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            check_sender(scope, self.rules)
            check_key(scope, self.rules.digest)
            body = await self.body(scope, receive)
        except Refusal as refusal:
            await answer(send, refusal)
            return
        headers = [(name, value) for name, value in scope["headers"] if name != b"content-type"]
        scope = {**scope, "headers": [*headers, (b"content-type", b"application/json")]}
        await self.app(scope, replay(body, receive), send)

    async def body(self, scope: Scope, receive: Receive) -> bytes:
        """The whole body. Raises Refusal: 413, 408, 400."""
        announced = header(scope, b"content-length")
        if announced and (not announced.isdigit() or len(announced) > 18 or int(announced) > self.rules.largest):
            raise self.too_large()
        try:
            async with asyncio.timeout(self.rules.patience):
                body = await self.read(receive)
        except TimeoutError:
            headers = {"connection": "close"}
            raise Refusal(408, "The request came too slowly.", code="slow", headers=headers) from None
        if body:
            check_json(body)
        return body

    async def read(self, receive: Receive) -> bytes:
        body = bytearray()
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise Refusal(400, "The request was given up.", code="disconnected")
            body += message.get("body", b"")
            if len(body) > self.rules.largest:
                raise self.too_large()
            if not message.get("more_body"):
                return bytes(body)

    def too_large(self) -> Refusal:
        message = f"The body is larger than {self.rules.largest:,} bytes."
        return Refusal(413, message, code="too_large", headers={"connection": "close"})


def check_sender(scope: Scope, rules: Rules) -> None:
    """Host, Origin and what browsers say of where a request comes from. Raises Refusal 400, 403."""
    hosts = values(scope, b"host")
    if len(hosts) != 1:
        raise Refusal(400, "A request has exactly one Host header.", code="host")
    host = hosts[0].decode("latin-1")
    if not rules.known(host):
        raise Refusal(403, "This server is not known by that Host.", code="host")
    own = (f"http://{host}".encode("latin-1"), f"https://{host}".encode("latin-1"))
    if any(origin not in own for origin in values(scope, b"origin")):
        raise Refusal(403, "Requests from pages of other origins are not answered.", code="origin")
    if any(site not in SITES for site in values(scope, b"sec-fetch-site")):
        raise Refusal(403, "Requests from pages of other sites are not answered.", code="origin")
    if values(scope, b"upgrade"):
        raise Refusal(403, "This server speaks plain HTTP only.", code="upgrade", headers={"connection": "close"})


def check_key(scope: Scope, digest: bytes | None) -> None:
    """Raises Refusal 401. What is compared is a digest, in a time that does not tell how much of it is right."""
    if digest is None or (scope.get("raw_path", b""), scope["method"]) in PUBLIC:
        return
    given = values(scope, b"authorization")
    kind, _, key = given[0].partition(b" ") if len(given) == 1 else (b"", b"", b"")
    right = hmac.compare_digest(hashlib.sha256(key.strip()).digest(), digest)
    if kind.lower() != b"bearer" or not right:
        message = "The key is missing or wrong: send `Authorization: Bearer KEY`."
        raise Refusal(401, message, code="invalid_api_key", headers={"www-authenticate": "Bearer"})


def check_json(body: bytes) -> None:
    """Strict JSON (no NaN, no halves of characters), not deeper than `DEEPEST`. Raises Refusal 400."""
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise Refusal(400, "The body is not valid JSON.", code="invalid_json") from None
    level: list[Any] = [value]
    for _ in range(DEEPEST):
        level = [inner for each in level for inner in within(each)]
        if not level:
            return
    raise Refusal(400, f"The body is nested deeper than {DEEPEST} levels.", code="too_deep")


def within(value: Any) -> Iterable[Any]:
    """The objects and lists directly inside a value."""
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [each for each in inside if isinstance(each, dict | list)]


def values(scope: Scope, name: bytes) -> list[bytes]:
    return [value for key, value in scope["headers"] if key == name]


def header(scope: Scope, name: bytes) -> bytes:
    return next(iter(values(scope, name)), b"")


def replay(body: bytes, receive: Receive) -> Receive:
    """The body at once, then what else comes: that the client has gone."""
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


async def answer(send: Send, refusal: Refusal) -> None:
    data = orjson.dumps(refusal.body)
    own = {"content-type": "application/json", "content-length": str(len(data)), **refusal.headers}
    headers = [(name.encode(), value.encode()) for name, value in own.items()]
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": data})

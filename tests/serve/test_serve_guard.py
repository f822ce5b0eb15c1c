"""Every route × method × sender: denied unless it is listed here, and a route that is not listed fails."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Iterator
from itertools import product

import httpx2
import psutil
import pytest
from fastapi.routing import APIRoute
from served import KEY, Live, live

from truetune.serve import guard

CLASSIFIED = {
    "/v1/chat/completions": ("POST", "key"),
    "/v1/completions": ("POST", "key"),
    "/v1/classify": ("POST", "key"),
    "/v1/embeddings": ("POST", "key"),
    "/api/inference/generate": ("POST", "key"),
    "/v1/models": ("GET", "key"),
    "/v1/models/{name:path}": ("GET", "key"),
    "/tokenize": ("POST", "key"),
    "/v1/load_lora_adapter": ("POST", "key"),
    "/v1/unload_lora_adapter": ("POST", "key"),
    "/metrics": ("GET", "key"),
    "/openapi.json": ("GET", "key"),
    "/health": ("GET", "public"),
}
"""Route -> its method, and who may ask."""
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE")
OTHERS = (
    "/",
    "/docs",
    "/static/x",
    "/v1/chat/completions/",
    "/%68ealth",
    "//health",
    "/health/",
    "/HEALTH",
)
"""Paths beside the routes; those that only look like the public one need the key."""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    with live(tmp_path_factory.mktemp("guarded"), key=KEY, rules={"patience": 1.0}) as server:
        yield server


def routes(served: Live) -> dict[str, set[str]]:
    """Path -> methods, of all that the application routes."""
    app = served.server.config.app.app.app  # type: ignore[union-attr]
    found: dict[str, set[str]] = {}
    for route in app.routes:
        found.setdefault(route.path, set()).update(getattr(route, "methods", None) or {"ANY"})
        assert isinstance(route, APIRoute) or route.path == "/openapi.json", f"{route.path} is no plain route"
    return found


def test_every_route_is_classified(served: Live) -> None:
    assert {path: methods - {"HEAD"} for path, methods in routes(served).items()} == {
        path: {method} for path, (method, _) in CLASSIFIED.items()
    }


def test_who_is_denied(served: Live) -> None:
    """Nothing but the key, from our own Host and Origin, gets past the guard."""
    host, right = f"127.0.0.1:{served.port}", f"Bearer {KEY}"
    senders = {
        "no key": ({}, 401),
        "wrong key": ({"authorization": "Bearer wrong"}, 401),
        "no bearer": ({"authorization": KEY}, 401),
        "cookie": ({"cookie": f"authorization=Bearer {KEY}; key={KEY}"}, 401),
        "key in the path": ({"x-api-key": KEY}, 401),
        "other host": ({"authorization": right, "host": f"evil.example:{served.port}"}, 403),
        "other port": ({"authorization": right, "host": "127.0.0.1:1"}, 403),
        "no port": ({"authorization": right, "host": "127.0.0.1"}, 403),
        "suffix": ({"authorization": right, "host": f"127.0.0.1.evil.example:{served.port}"}, 403),
        "other address": ({"authorization": right, "host": f"127.0.0.2:{served.port}"}, 403),
        "null origin": ({"authorization": right, "origin": "null"}, 403),
        "other origin": ({"authorization": right, "origin": "https://evil.example"}, 403),
        "other port's page": ({"authorization": right, "origin": "http://127.0.0.1:1"}, 403),
        "other site": ({"authorization": right, "sec-fetch-site": "cross-site"}, 403),
        "same site": ({"authorization": right, "sec-fetch-site": "same-site"}, 403),
        "websocket": ({"authorization": right, "upgrade": "websocket", "connection": "upgrade"}, 403),
    }
    paths = [path.replace("{name:path}", "starter") for path in CLASSIFIED] + list(OTHERS)

    def check(answer: httpx2.Response, path: str, method: str, name: str, status: int) -> None:
        public = path == "/health" and method in ("GET", "HEAD") and status == 401
        assert answer.status_code in ((200, 405) if public else (status,)), (path, method, name)
        if not public and method != "HEAD":
            assert answer.json()["error"].keys() == {"message", "type", "param", "code"}
        assert "access-control-allow-origin" not in answer.headers

    async def without_sockets() -> None:
        """The whole table: 2,800 requests in the time of a hundred by HTTP."""
        transport = httpx2.ASGITransport(served.server.config.app)  # type: ignore[arg-type]
        async with httpx2.AsyncClient(transport=transport, base_url=served.url) as client:
            for path, method, (name, (headers, status)) in product(paths, METHODS, senders.items()):
                answer = await client.request(method, path, headers={"host": host} | headers)
                check(answer, path, method, name, status)

    asyncio.run(without_sockets())
    with httpx2.Client(base_url=served.url) as client:
        for name, (headers, status) in senders.items():
            check(client.get("/metrics", headers={"host": host} | headers), "/metrics", "GET", name, status)
        for path in paths:
            check(client.get(path, headers={"host": host}), path, "GET", "no key", 401)


def test_the_raw_path_counts(served: Live) -> None:
    for path in ("/v1/../health", "/./health", "/health?x=1#", "/v1/models/../../health"):
        received, _ = raw(
            served, f"GET {path} HTTP/1.1\r\nhost: 127.0.0.1:{served.port}\r\nconnection: close\r\n\r\n".encode()
        )
        assert received.startswith(b"HTTP/1.1 200" if path.startswith("/health?") else b"HTTP/1.1 401"), path


def test_who_is_let_in(served: Live) -> None:
    for host in (f"127.0.0.1:{served.port}", f"localhost:{served.port}", f"[::1]:{served.port}"):
        own = {"host": host, "origin": f"http://{host}", "sec-fetch-site": "same-origin"}
        assert served.client.get("/v1/models", headers=own).status_code == 200
    assert served.client.get("/nothing").json()["error"]["type"] == "not_found_error"
    wrong = served.client.delete("/v1/models")
    assert (wrong.status_code, wrong.headers["allow"]) == (405, "GET")


def test_a_wider_bind_knows_addresses_and_named_hosts() -> None:
    rules = guard.Rules(8000, frozenset({"models.example", "other.example:9000"}), wide=True)
    good = ["10.0.0.7:8000", "[fe80::1]:8000", "models.example", "models.example:443", "other.example:9000"]
    bad = ["evil.example:8000", "10.0.0.7", "10.0.0.7:80", "other.example", "", ":8000", "10.0.0.7:x", "1" * 300]
    assert [rules.known(host) for host in good] == [True] * len(good)
    assert [rules.known(host) for host in bad] == [False] * len(bad)
    assert not guard.Rules(8000).known("10.0.0.7:8000")
    assert guard.Rules(80).known("localhost")


def raw(served: Live, data: bytes, *, wait: float = 5.0) -> tuple[bytes, float]:
    """What comes back on a connection of its own, and after how many seconds."""
    began = time.monotonic()
    with socket.create_connection(("127.0.0.1", served.port)) as connection:
        connection.settimeout(wait)
        received = b""
        try:
            connection.sendall(data)
            while piece := connection.recv(65536):
                received += piece
        except (TimeoutError, ConnectionError):
            pass
        return received, time.monotonic() - began


def head(served: Live, *lines: str) -> bytes:
    fixed = ["POST /v1/chat/completions HTTP/1.1", f"host: 127.0.0.1:{served.port}", f"authorization: Bearer {KEY}"]
    return "\r\n".join([*fixed, *lines, "", ""]).encode()


def test_giants_and_the_slow_get_a_4xx(served: Live) -> None:
    before = psutil.Process().memory_info().rss
    chunk = b"%x\r\n%s\r\n" % (2**20, b" " * 2**20)
    hostile = {
        b"400": head(served, "x: " + "a" * 2**20),
        b"413": head(served, f"content-length: {2**30}"),
        b"413 chunked": head(served, "transfer-encoding: chunked") + chunk * 6,
        b"413 number": head(served, "content-length: " + "9" * 30),
        b"400 host": b"GET /health HTTP/1.1\r\n\r\n",
        b"400 hosts": b"GET /health HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n",
        b"400 noise": b"\x16\x03\x01\x02\x00" * 100,
        b"408": head(served, "content-length: 100") + b'{"model"',
    }
    for name, data in hostile.items():
        received, _ = raw(served, data)
        assert received.startswith(b"HTTP/1.1 " + name[:3]) or name == b"413 number", (name, received[:200])
        assert not received.startswith((b"HTTP/1.1 2", b"HTTP/1.1 5")), name
    assert psutil.Process().memory_info().rss - before < 64 * 2**20
    assert served.client.get("/health").status_code == 200


def test_json_that_is_none_or_endless(served: Live) -> None:
    deep = b"[" * 100_000 + b"]" * 100_000
    many = b'{"model": "starter", "messages": ' + b"[" + b"{}," * 10**5 + b"{}]}"
    odd = [b"{", b"NaN", b'{"model": NaN}', b'{"model": "\\ud800"}', b"\xff\xfe", b"[]", b"1", b"null", b'""']
    for body in (deep, many, b'{"a":' * 80 + b"1" + b"}" * 80, *odd):
        answer = served.client.post("/v1/chat/completions", content=body)
        assert answer.status_code == 400, body[:40]
        assert answer.json()["error"]["type"] == "invalid_request_error"
    form = {"content-type": "application/x-www-form-urlencoded"}
    body = b'{"model": "starter", "prompt": "Hello"}'
    assert served.client.post("/tokenize", content=body, headers=form).status_code == 200

"""Requests that are too large, too slow or endless, on sockets of their own."""

from __future__ import annotations

import itertools
import json
import socket
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from under_load import LIMIT, Json, Process

CONTEXT = 1024
"""Tokens that the starter sees."""
MEGABYTE = b"a" * 2**20
ASKED: dict[str, Any] = {"model": "starter", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 2}
BOUNDED = ("a pattern without an end", "a schema of many branches")
"""What may be answered: following a schema has a limit of its own."""


def sent(server: Process, megabytes: int) -> dict[str, Json]:
    """Of each: the status, the milliseconds until it came, and by how many MB the server has grown since it first
    answered. `megabytes` are offered of what has no end."""
    exchanged(server, whole(server, json.dumps(ASKED | {"response_format": {"type": "json_object"}}).encode()))
    start = server.holds()["bytes"]
    return {
        name: told(*exchanged(server, data), server.holds()["bytes"] - start)
        for name, data in (endless(server, megabytes) | too_much(server)).items()
    }


def awaited(server: Process) -> dict[str, Json]:
    """The same of those that are slow, all at once."""
    start, late = server.holds()["bytes"], slow(server)
    with ThreadPoolExecutor(len(late)) as pool:
        ends = [*pool.map(lambda data: exchanged(server, data), late.values())]
    grown = server.holds()["bytes"] - start
    return {name: told(*end, grown) for name, end in zip(late, ends, strict=True)}


def told(status: int, seconds: float, grown: int) -> Json:
    return {"status": status, "ms": round(1000 * seconds), "megabytes": round(grown / 1e6, 1)}


def right(name: str, status: int) -> bool:
    """Whether it was refused, or may be answered."""
    return status // 100 == 4 or (status == 200 and name in BOUNDED)


def exchanged(server: Process, data: Iterable[bytes]) -> tuple[int, float]:
    """Status (0 = none) and seconds; sending ends with the answer."""
    began = time.monotonic()
    received = b""
    with socket.create_connection(("127.0.0.1", server.port), timeout=LIMIT) as connection:
        with suppress(ConnectionError):
            for piece in data:
                connection.sendall(piece)
                if answered(connection):
                    break
        with suppress(ConnectionError):
            received = connection.recv(4096)
    words = received.split(b" ", 2)
    return int(words[1]) if len(words) > 1 else 0, time.monotonic() - began


def answered(connection: socket.socket) -> bool:
    connection.setblocking(False)
    try:
        return connection.recv(1, socket.MSG_PEEK) is not None
    except BlockingIOError:
        return False
    finally:
        connection.settimeout(LIMIT)


def head(server: Process, *lines: str) -> bytes:
    first = ["POST /v1/chat/completions HTTP/1.1", f"host: 127.0.0.1:{server.port}"]
    return "\r\n".join([*first, *lines, "", ""]).encode()


def whole(server: Process, body: bytes, kind: str = "application/json") -> list[bytes]:
    return [head(server, f"content-type: {kind}", f"content-length: {len(body)}"), body]


def endless(server: Process, megabytes: int) -> dict[str, Iterable[bytes]]:
    chunk = b"%x\r\n%s\r\n" % (len(MEGABYTE), MEGABYTE)
    parts = b'--b\r\ncontent-disposition: form-data; name="a"\r\n\r\n\r\n' * 10**6
    return {
        "header": [head(server, "x: ")[:-4], *itertools.repeat(MEGABYTE, megabytes)],
        "headers": [head(server)[:-2], *itertools.repeat(b"x: y\r\n" * 10**5, max(1, megabytes // 2))],
        "body in chunks": [head(server, "transfer-encoding: chunked"), *itertools.repeat(chunk, megabytes)],
        "body that is announced": [head(server, f"content-length: {2**30}")],
        "a million parts": whole(server, parts, "multipart/form-data; boundary=b"),
    }


def too_much(server: Process) -> dict[str, Iterable[bytes]]:
    pattern = {"type": "object", "properties": {"a": {"type": "string", "pattern": "(a+)+(b|(c{1,900}){1,900})$"}}}
    branches: Json = {"type": "string"}
    for _ in range(9):
        branches = {"anyOf": [branches, {"type": "array", "items": branches}]}
    more: dict[str, Json] = {
        "a prompt as long as the context": {"messages": [{"role": "user", "content": "the " * CONTEXT}]},
        "a million answers": {"n": 10**6},
        "a hundred thousand stops": {"stop": [str(number) for number in range(10**5)]},
        "a hundred thousand messages": {"messages": ASKED["messages"] * 5 * 10**4},
        "a million tokens' likelihoods": {"logprobs": True, "top_logprobs": 10**6},
        "a hundred thousand biases": {"logit_bias": {str(number): 1 for number in range(10**5)}},
        "a pattern without an end": {"response_format": {"type": "json_object", "value": pattern}},
        "a schema of many branches": {"response_format": {"type": "json_object", "value": branches}},
    }
    bodies = {name: json.dumps(ASKED | each).encode() for name, each in more.items()}
    return {name: whole(server, body[: 2**22]) for name, body in bodies.items()} | {
        "deep": whole(server, b"[" * 10**6 + b"]" * 10**6)
    }


def slow(server: Process) -> dict[str, Iterable[bytes]]:
    return {
        "a header by the second": drops(head(server, "x: y")),
        "nothing at all": [],
        "a body by the second": itertools.chain([head(server, "content-length: 100")], drops(b" " * 100)),
    }


def drops(data: bytes) -> Iterator[bytes]:
    for at in range(len(data)):
        time.sleep(1)
        yield data[at : at + 1]

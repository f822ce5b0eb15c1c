"""How long an adapter takes over HTTP, from sending its load call until the first token with it comes, while others are
answered. For `benchmarks/serve.py`; the server is `ft serve` in a process of its own.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

READY = 120.0
"""Seconds within which the server must listen."""


def over_http(contents: Sequence[Path], count: int, running: int) -> tuple[list[float], list[float]]:
    """Seconds from load call to first token, and between the events of the others, which are answered with the first
    two adapters; the rest are swapped in, in turn."""
    times: list[float] = []
    steps: list[float] = []
    over = threading.Event()
    with served(contents) as port:
        askers = [threading.Thread(target=ask, args=(port, seed, contents, over, steps)) for seed in range(running)]
        for thread in askers:
            thread.start()
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=READY)
            for number in range(count):
                place = contents[2 + number % (len(contents) - 2)]
                start = time.perf_counter()
                post(connection, "/v1/load_lora_adapter", {"lora_name": "hot", "lora_path": str(place)}).read()
                answer = post(connection, "/v1/completions", asked("hot", 50, 2, number))
                next(events(answer))
                times.append(time.perf_counter() - start)
                answer.read()
                post(connection, "/v1/unload_lora_adapter", {"lora_name": "hot"}).read()
        finally:
            over.set()
            for thread in askers:
                thread.join()
    return times, steps


def ask(port: int, seed: int, contents: Sequence[Path], over: threading.Event, steps: list[float]) -> None:
    """One answer after another, until it is over."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=READY)
    while not over.is_set():
        answer = post(connection, "/v1/completions", asked(contents[seed % 2].name, 20 + seed, 200, seed))
        before = time.perf_counter()
        for _ in events(answer):
            now = time.perf_counter()
            steps.append(now - before)
            before = now
    connection.close()


def asked(model: str, first: int, tokens: int, seed: int) -> dict[str, Any]:
    prompt = list(range(first, first + 20))
    drawn = {"temperature": 1.0, "seed": seed, "ignore_eos": True}
    return {"model": model, "prompt": prompt, "max_tokens": tokens, "stream": True} | drawn


def post(connection: http.client.HTTPConnection, path: str, body: dict[str, Any]) -> http.client.HTTPResponse:
    connection.request("POST", path, json.dumps(body), {"content-type": "application/json"})
    answer = connection.getresponse()
    if answer.status != 200:
        raise RuntimeError(f"{path}: {answer.read().decode()}")
    return answer


def events(answer: http.client.HTTPResponse) -> Iterator[bytes]:
    """The parts of a stream, as they come."""
    while line := answer.readline():
        if line.startswith(b"data: {"):
            yield line


@contextmanager
def served(contents: Sequence[Path]) -> Iterator[int]:
    """`ft serve` with the first two adapters; its port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "truetune", "serve", *map(str, contents[:2])]
    command += ["--port", str(port), "--allow", str(contents[0].parent), "--slots", "8", "--quiet"]
    environment = os.environ | {"TRUETUNE_HOME": str(contents[0].parent / "home")}
    process = subprocess.Popen(command, env=environment, cwd=contents[0].parent, stdout=subprocess.DEVNULL)
    try:
        wait(port, process)
        yield port
    finally:
        process.terminate()
        process.wait(60)


def wait(port: int, process: subprocess.Popen[bytes]) -> None:
    """Until the server answers. Raises RuntimeError where it does not."""
    end = time.monotonic() + READY
    while process.poll() is None and time.monotonic() < end:
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            connection.request("GET", "/health")
            if connection.getresponse().status == 200:
                return
        except OSError:
            time.sleep(0.1)
    raise RuntimeError("the server did not come up")

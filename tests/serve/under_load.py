"""`ft serve` as a process of its own, and clients that say of each request how it ended."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import psutil

LIMIT = 300
"""Seconds after which something has hung."""
Json = dict[str, Any]


@dataclass
class Process:
    """A server that takes requests."""

    url: str
    popen: subprocess.Popen[str]
    seen: psutil.Process
    errors: Path

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def holds(self) -> dict[str, int]:
        """What it has of the machine: resident bytes, open files, threads."""
        with self.seen.oneshot():
            memory, files = self.seen.memory_info().rss, self.seen.num_fds()
            return {"bytes": memory, "files": files, "threads": self.seen.num_threads()}

    def figure(self, name: str) -> float:
        """One of `/metrics`."""
        lines = httpx2.get(f"{self.url}/metrics", timeout=LIMIT).text.splitlines()
        return float(next(line for line in lines if line.startswith(f"truetune_{name} ")).split()[1])

    def idle(self) -> bool:
        return self.figure("running") == self.figure("waiting") == 0


@contextmanager
def process(folder: Path, *args: str) -> Iterator[Process]:
    """`ft serve` with these arguments, its working folder and home below `folder`; killed where it is left running."""
    folder.mkdir(parents=True, exist_ok=True)
    errors = folder / "stderr"
    env = {key: value for key, value in os.environ.items() if not key.startswith("TRUETUNE")}
    env |= {"TRUETUNE_HOME": str(folder / "home"), "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    line = [sys.executable, "-m", "truetune", "serve", *args, "--port", "0", "--device", "cpu", "--json"]
    with errors.open("w") as told:
        started = subprocess.Popen(line, cwd=folder, env=env, text=True, stdout=subprocess.PIPE, stderr=told)
    try:
        yield Process(address(started, errors), started, psutil.Process(started.pid), errors)
    finally:
        if started.poll() is None:
            started.kill()
        started.wait()
        assert started.stdout
        started.stdout.close()


def address(started: subprocess.Popen[str], errors: Path) -> str:
    """Where it listens, once it does."""
    end = time.monotonic() + LIMIT
    while time.monotonic() < end:
        lines = errors.read_text().splitlines()
        if any(line.startswith("curl ") for line in lines):
            return next(line for line in lines if line.startswith("http")).removesuffix("/v1")
        assert started.poll() is None, errors.read_text()
        time.sleep(0.02)
    raise AssertionError("the server does not begin")


def body(model: str, number: int, **more: Any) -> Json:
    question = [{"role": "user", "content": f"Question {number}"}]
    return {"model": model, "messages": question, "temperature": 0, "ignore_eos": True} | more


def outcome(url: str, asked: Mapping[str, Any]) -> str:
    """How one request on a connection of its own ends: `whole`, `cut` (the server says so), `busy`, `draining`,
    `refused` (nobody listens, or the connection ends before any answer does), else what is wrong with it."""
    try:
        with httpx2.stream("POST", f"{url}/v1/chat/completions", json=asked, timeout=LIMIT) as answer:
            if answer.status_code != 200:
                return declined(answer.status_code, json.loads(answer.read()))
            try:
                return streamed(answer, asked) if asked.get("stream") else counted(json.loads(answer.read()), asked)
            except httpx2.HTTPError as error:
                return f"truncated: {type(error).__name__}"
    except (httpx2.ConnectError, httpx2.ReadError, httpx2.WriteError, httpx2.RemoteProtocolError):
        return "refused"


def declined(status: int, answer: Json) -> str:
    code = answer["error"]["code"]
    known = {(429, "queue_full"): "busy", (503, "draining"): "draining", (503, "serve.closed"): "cut"}
    return known.get((status, code), f"{status} {code}")


def streamed(answer: httpx2.Response, asked: Mapping[str, Any]) -> str:
    lines = [line.removeprefix("data: ") for line in answer.iter_lines() if line]
    if not lines or lines[-1] != "[DONE]":
        return "truncated: no [DONE]"
    last, pieces = json.loads(lines[-2]), [json.loads(line) for line in lines[:-1]]
    if "error" in last:
        return "cut" if last["error"]["code"] == "serve.closed" else f"error {last['error']['code']}"
    reasons = [piece["choices"][0]["finish_reason"] for piece in pieces if piece["choices"]]
    whole = reasons[-1] == "length" and last["usage"]["completion_tokens"] == asked["max_tokens"]
    return "whole" if whole else f"short: {last}"


def counted(answer: Json, asked: Mapping[str, Any]) -> str:
    whole = answer["usage"]["completion_tokens"] == asked["max_tokens"]
    return "whole" if whole else f"short: {answer}"


GOOD = ("whole", "cut", "busy", "draining", "refused")
CLIENTS = 8
GRACES = (0.0, 0.3, 2.0, 30.0)


def stopped(folder: Path, seed: int) -> tuple[Json, list[str]]:
    """A server with eight clients that ask without a pause gets SIGTERM at a random moment: how its requests ended,
    and what was wrong. Every request that its engine took on must have been answered whole, or told that it was cut."""
    draw = random.Random(seed)
    grace = GRACES[seed % len(GRACES)]
    told: list[str] = []
    args = ("starter", "--slots", "2", "--queue", "4", "--grace", str(grace))
    with process(folder, *args) as server:
        ending = threading.Event()
        threads = [
            threading.Thread(target=keep_asking, args=(server.url, random.Random(f"{seed} {number}"), told, ending))
            for number in range(CLIENTS)
        ]
        for thread in threads:
            thread.start()
        while not server.figure("prompt_tokens_total"):
            time.sleep(0.01)
        time.sleep(draw.uniform(0, 1))
        ending.set()
        server.popen.terminate()
        began = time.monotonic()
        for thread in threads:
            thread.join(LIMIT)
        heard = time.monotonic() - began
        said, _ = server.popen.communicate(timeout=LIMIT)
        seconds = time.monotonic() - began
        errors = server.errors.read_text()
    ends = Counter(told)
    wrong = [f"{end}, {count} times" for end, count in ends.items() if end not in GOOD]
    if server.popen.returncode or "Traceback" in errors:
        wrong.append(f"exit code {server.popen.returncode}: {errors[-500:]}")
    else:
        taken, answered = json.loads(said)["totals"].get("requests", 0), ends["whole"] + ends["cut"]
        wrong += [f"{taken} requests were taken on, and {answered} answered"] if taken != answered else []
    found = {
        "ends": dict(ends),
        "until_all_are_told": max(0.0, heard - grace),
        "until_it_is_gone": max(0.0, seconds - grace),
    }
    return found, [f"seed {seed}, grace {grace}: {each}" for each in wrong]


def keep_asking(url: str, draw: random.Random, told: list[str], ending: threading.Event) -> None:
    """Streams and whole answers, short and long, until nobody takes requests any more."""
    while True:
        more: Json = {"stream": True, "stream_options": {"include_usage": True}} if draw.random() < 0.6 else {}
        end = outcome(url, body("starter", draw.randrange(9), max_tokens=draw.choice((1, 8, 64, 400)), **more))
        gone = end in ("refused", "draining")
        told.append(f"{end} before the end" if gone and not ending.is_set() else end)
        if gone:
            return
        if end == "busy":
            time.sleep(0.05)

"""Requests by the thousand that nobody would send: `python tests/serve/every_request.py [--requests 10000] [--write]`.

schemathesis makes them from the server's own OpenAPI page: valid ones, and such as break each rule of it. None may end
in a 5xx, and every answer must have the form that the page gives for its status. Then clients that go away at random
moments: their slots must be free again. `--write` puts the figures into docs/evidence/serve-hostile.json.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import platform
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "tests" / "shared")]

import httpx2  # noqa: E402
import hypothesis  # noqa: E402
import schemathesis  # noqa: E402
from schemathesis.checks import CHECKS, load_all_checks  # noqa: E402
from schemathesis.generation import GenerationMode  # noqa: E402
from served import KEY, Live, live  # noqa: E402

from truetune import __version__  # noqa: E402
from truetune.serve.opening import Room  # noqa: E402

EVIDENCE = ROOT / "docs" / "evidence" / "serve-hostile.json"
load_all_checks()
FORM = CHECKS.get_by_names(
    ["not_a_server_error", "status_code_conformance", "content_type_conformance", "response_schema_conformance"]
)
"""Of every answer. What breaks a rule of the page must be refused, too; what breaks none may be, for other reasons."""
SMALL = {"max_tokens": 4, "max_completion_tokens": 4, "max_new_tokens": 4}
"""So long are the answers that are asked for; what is refused may say what it likes."""


def hostile(server: Live, requests: int, seed: int = 0) -> dict[str, Any]:
    """Statuses of so many requests, spread over all operations. AssertionError for the first bad answer."""
    schema = schemathesis.openapi.from_dict(server.client.get("/openapi.json").json())
    operations = [found.ok() for found in schema.get_all_operations()]
    statuses: Counter[int] = Counter()
    routes: Counter[str] = Counter()
    for operation in operations:
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
            each = max(1, requests // len(operations) // 2)
            drawn(operation, mode, each, seed, server, statuses, routes)
    return {"requests": sum(statuses.values()), "statuses": by_name(statuses), "routes": by_name(routes)}


def drawn(
    operation: Any, mode: Any, count: int, seed: int, server: Live, statuses: Counter[int], routes: Counter[str]
) -> None:
    """`count` requests of one operation."""
    more = CHECKS.get_by_names(["negative_data_rejection"]) if mode == GenerationMode.NEGATIVE else []

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=count, deadline=None, database=None, suppress_health_check=list(hypothesis.HealthCheck)
    )
    @hypothesis.given(case=operation.as_strategy(generation_mode=mode))
    def ask(case: Any) -> None:
        if isinstance(case.body, dict):
            shorten(case.body)
            if "model" in case.body and mode == GenerationMode.POSITIVE and statuses.total() % 4:
                case.body["model"] = "starter"
        response = case.call(base_url=server.url, headers=dict(server.headers), timeout=60)
        statuses[response.status_code] += 1
        routes[f"{operation.method.upper()} {operation.path}"] += 1
        case.validate_response(response, checks=FORM + more)

    with suppress(hypothesis.errors.Unsatisfiable):  # it takes nothing that could be wrong
        ask()


def shorten(body: dict[str, Any]) -> None:
    """Answers of a few tokens, where a number of them is asked for at all."""
    for name, most in SMALL.items():
        if isinstance(body.get(name), int) and not isinstance(body[name], bool) and body[name] > most:
            body[name] = most


def goodbyes(server: Live, count: int) -> dict[str, Any]:
    """Clients that leave at random moments, 16 at a time: how long until their slots are free, in ms."""
    draw, waits = random.Random(0), []
    body = {
        "model": "starter",
        "messages": [{"role": "user", "content": "Hello"}],
        "ignore_eos": True,
        "max_tokens": 900,
    }

    async def leave(client: httpx2.AsyncClient) -> None:
        with suppress(TimeoutError, httpx2.HTTPError):
            async with asyncio.timeout(draw.uniform(0.002, 0.3)):
                await client.post("/v1/chat/completions", json=body | {"stream": draw.random() < 0.5})

    async def rounds() -> None:
        async with httpx2.AsyncClient(base_url=server.url, headers=dict(server.headers), timeout=60) as client:
            for _ in range(0, count, 16):
                await asyncio.gather(*(leave(client) for _ in range(16)))
                began = time.monotonic()
                while busy(server):
                    await asyncio.sleep(0.002)
                waits.append(1000 * (time.monotonic() - began))

    asyncio.run(rounds())
    waits.sort()
    return {
        "clients": len(waits) * 16,
        "ms_until_free": {"median": waits[len(waits) // 2], "p99": waits[int(len(waits) * 0.99)], "largest": waits[-1]},
    }


def busy(server: Live) -> bool:
    stats = server.service.scheduler.stats()
    return bool(stats["running"] or stats["waiting"])


def by_name(counts: Mapping[Any, int]) -> dict[str, int]:
    return {str(name): counts[name] for name in sorted(counts, key=str)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--goodbyes", type=int, default=1_000)
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args()
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    began = time.monotonic()
    with live(Path(tempfile.mkdtemp()), adapters=1, key=KEY, room=Room(slots=4, queue=64)) as server:
        figures: dict[str, Any] = {"hostile": hostile(server, given.requests)}
        print(json.dumps(figures["hostile"], indent=2))
        figures["goodbyes"] = goodbyes(server, given.goodbyes)
        print(json.dumps(figures["goodbyes"], indent=2))
    body = {
        "command": " ".join(["python", "tests/serve/every_request.py", *sys.argv[1:]]),
        "commit": head,
        "versions": {
            "truetune": __version__,
            "python": platform.python_version(),
            "schemathesis": schemathesis.__version__,
        },
        "seconds": round(time.monotonic() - began),
        **figures,
    }
    if given.write:
        EVIDENCE.write_text(json.dumps(body, indent=2) + "\n")


if __name__ == "__main__":
    main()

"""A server under load: `python tests/serve/every_load.py [--only PART …] [--scale 0.1] [--write]`.

loads    adapters are loaded and unloaded while four clients ask without a pause: whose answers are whose, and memory
leaves   clients that go away at random moments: what the server holds afterwards
crowd    200 clients on 2 slots and a queue of 16, who come back when they are told to
stops    SIGTERM at a random moment under load
hands    schemathesis' own program, eight workers at once, on the server's OpenAPI page
giants   requests that are too large, too slow or endless: how soon they are refused, and what memory that takes

Each part has an `ft serve` of its own, whose files, threads and memory are looked at from outside. `--write` puts a
part's figures into docs/evidence/serve-load.json as it ends.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import random
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "tests" / "shared")]

import httpx2  # noqa: E402
import torch  # noqa: E402
from changing import Changing  # noqa: E402
from giants import awaited, right, sent  # noqa: E402
from served import made  # noqa: E402
from under_load import LIMIT, Json, Process, body, process, stopped  # noqa: E402

from truetune import __version__  # noqa: E402

EVIDENCE = ROOT / "docs" / "evidence" / "serve-load.json"
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
    "negative_data_rejection",
)
FLAT = 0.02
"""Share by which what a server holds may differ between two moments that should be alike."""


def loads(count: int, folder: Path) -> Json:
    """Half of the askers ask what stays, half what comes and goes: each answer must be one of an adapter that stood
    under the name while it was asked for."""
    contents = {f"content-{number}": str(made(folder / f"content-{number}", number)) for number in range(8)}
    with process(folder, "starter", str(made(folder / "stays", 9)), "--allow", str(folder)) as server:
        change = Changing(server, contents)
        threads = [threading.Thread(target=change.ask, args=(seed,)) for seed in range(4)]
        for thread in threads:
            thread.start()
        held = []
        for part in range(10):
            change.some(count // 10, part)
            held.append(server.holds())
        change.over.set()
        for thread in threads:
            thread.join(LIMIT)
    megabytes = [round(each["bytes"] / 1e6, 1) for each in held]
    wrong = change.wrong + drift("memory", megabytes[2:])
    return {
        "calls": dict(change.calls),
        "load_ms": spread(change.times),
        "answers_meanwhile": len(change.sure) + change.either,
        "of_them_by_a_name_that_did_not_move": len(change.sure),
        "megabytes_by_tenths": megabytes,
        "files": [each["files"] for each in held],
        "threads": [each["threads"] for each in held],
        "wrong": wrong,
    }


def leaves(count: int, folder: Path) -> Json:
    """16 clients at a time, streaming or not, who leave after 2 to 300 ms."""
    draw = random.Random(0)

    async def leave(client: httpx2.AsyncClient) -> None:
        asked = body("starter", draw.randrange(9), max_tokens=900, stream=draw.random() < 0.5)
        with suppress(TimeoutError, httpx2.HTTPError):
            async with asyncio.timeout(draw.uniform(0.002, 0.3)):
                await client.post("/v1/chat/completions", json=asked)

    async def rounds(server: Process, count: int) -> None:
        for _ in range(count):
            async with httpx2.AsyncClient(base_url=server.url, timeout=LIMIT) as client:
                await asyncio.gather(*(leave(client) for _ in range(16)))
        while not server.idle():
            await asyncio.sleep(0.01)

    with process(folder, "starter", "--slots", "4") as server:
        asyncio.run(rounds(server, 8))  # what is made once is made
        before = settled(server)
        asyncio.run(rounds(server, max(1, count // 16)))
        after = settled(server)
    wrong = [
        f"{name}: {before[name]}, then {after[name]}" for name in ("files", "threads") if after[name] > before[name]
    ]
    wrong += drift("memory", [before["bytes"], after["bytes"]])
    return {"clients": max(1, count // 16) * 16, "before": before, "after": after, "wrong": wrong}


def settled(server: Process) -> dict[str, int]:
    """What it holds once its connections are closed."""
    time.sleep(1)
    return server.holds()


def crowd(seconds: int, folder: Path) -> Json:
    """Each answer as that of a client alone; who is refused comes back after `Retry-After`."""
    statuses: Counter[int] = Counter()
    refusals, health = list[float](), list[float]()
    wrong: list[str] = []

    async def come(client: httpx2.AsyncClient, number: int, alone: Sequence[str], end: float) -> None:
        draw = random.Random(number)
        while time.monotonic() < end:
            which, began = draw.randrange(len(alone)), time.monotonic()
            answer = await client.post("/v1/chat/completions", json=body("starter", which, max_tokens=12))
            statuses[answer.status_code] += 1
            if answer.status_code == 429:
                refusals.append(1000 * (time.monotonic() - began))
                await asyncio.sleep(int(answer.headers["retry-after"]) + draw.random())
            elif answer.status_code != 200 or answer.json()["choices"][0]["message"]["content"] != alone[which]:
                wrong.append(answer.text[:200])

    async def look(client: httpx2.AsyncClient, end: float) -> None:
        while time.monotonic() < end:
            began = time.monotonic()
            assert (await client.get("/health")).status_code == 200
            health.append(1000 * (time.monotonic() - began))
            await asyncio.sleep(0.2)

    async def everybody(server: Process, alone: Sequence[str]) -> None:
        limits, end = httpx2.Limits(max_connections=None), time.monotonic() + seconds
        async with httpx2.AsyncClient(base_url=server.url, limits=limits, timeout=LIMIT) as client:
            await asyncio.gather(look(client, end), *(come(client, number, alone, end) for number in range(200)))

    with process(folder, "starter", "--slots", "2", "--queue", "16") as server:
        asked = [body("starter", number, max_tokens=12) for number in range(9)]
        found = [httpx2.post(f"{server.url}/v1/chat/completions", json=each, timeout=LIMIT).json() for each in asked]
        asyncio.run(everybody(server, [each["choices"][0]["message"]["content"] for each in found]))
    by_status = {str(status): statuses[status] for status in sorted(statuses)}
    times = {"until_refused_ms": spread(refusals), "health_ms": spread(health)}
    return {"clients": 200, "asked_for_seconds": seconds, "statuses": by_status, **times, "wrong": wrong}


def stops(count: int, folder: Path) -> Json:
    ends: Counter[str] = Counter()
    told, gone, wrong = list[float](), list[float](), list[str]()
    for seed in range(count):
        found, bad = stopped(folder / str(seed), seed)
        ends.update(found["ends"])
        told.append(1000 * found["until_all_are_told"])
        gone.append(1000 * found["until_it_is_gone"])
        wrong += bad
    beyond = {"until_all_are_told_ms": spread(told), "until_it_is_gone_ms": spread(gone)}
    return {"stops": count, "requests": dict(ends), "beyond_the_grace": beyond, "wrong": wrong}


def hands(count: int, folder: Path) -> Json:
    """`count`: random requests of each operation, beside those that touch each rule of the page once."""
    with process(folder, "starter") as server:
        page = httpx2.get(f"{server.url}/openapi.json").json()
        for form in page["components"]["schemas"].values():
            known(form)
        (folder / "page.json").write_text(json.dumps(page))
        line = [sys.executable, "-m", "schemathesis.cli", "run", str(folder / "page.json"), "--url", server.url]
        line += ["--workers", "8", "--max-examples", str(count), "--checks", ",".join(CHECKS), "--seed", "1"]
        line += ["--request-timeout", "60", "--continue-on-failure"]
        done = subprocess.run(line, cwd=folder, capture_output=True, text=True, check=False)
        figures = httpx2.get(f"{server.url}/metrics").text
    statuses: Counter[str] = Counter()
    for status, number in re.findall(r'truetune_answers_total{.*status="(\d+)"} (\d+)', figures):
        statuses[status] += int(number)
    cases = re.search(r"(\d+) generated, (\d+) passed", done.stdout)
    wrong = [done.stdout[-3000:]] if done.returncode or not cases or cases[1] != cases[2] else []
    return {
        "workers": 8,
        "cases": int(cases[1]) if cases else 0,
        "statuses": dict(sorted(statuses.items())),
        "wrong": wrong,
    }


def known(form: Json) -> None:
    """Requests that follow the rules ask for a model that there is, and for short answers."""
    fields = form.get("properties", {})
    if "model" in fields and "choices" not in fields:
        fields["model"] = {"type": "string", "enum": ["starter"]}
    for name in {*fields} & {"max_tokens", "max_completion_tokens", "max_new_tokens"}:
        fields[name] = {"type": "integer", "minimum": 1, "maximum": 4}
        form["required"] = sorted({*form.get("required", []), name})


def giants(count: int, folder: Path) -> Json:
    with process(folder, "starter") as server:
        found = sent(server, count) | awaited(server)
    largest = max(each["megabytes"] for each in found.values())
    wrong = [f"{name}: {each['status']}" for name, each in found.items() if not right(name, each["status"])]
    wrong += [f"{largest} MB more"] if largest > 64 else []
    return {"requests": found, "largest_growth_megabytes": largest, "wrong": wrong}


def drift(name: str, values: Sequence[float]) -> list[str]:
    grown = values[-1] / values[0] - 1
    return [f"{name} grew by {grown:.1%}"] if grown > FLAT else []


def spread(milliseconds: Sequence[float]) -> dict[str, float]:
    """Of a hundred and more with percentiles."""
    if not milliseconds:
        return {}
    found = {"median": statistics.median(milliseconds), "largest": max(milliseconds)}
    if len(milliseconds) >= 100:
        cuts = statistics.quantiles(milliseconds, n=100, method="inclusive")
        found |= {"p95": cuts[94], "p99": cuts[98]}
    return {name: round(found[name], 1) for name in ("median", "p95", "p99", "largest") if name in found}


PARTS: dict[str, tuple[int, Callable[[int, Path], Json]]] = {
    "loads": (1000, loads),
    "leaves": (1000, leaves),
    "crowd": (120, crowd),
    "stops": (50, stops),
    "hands": (100, hands),
    "giants": (1024, giants),
}
"""Name -> how often in full (crowd: seconds; hands: requests by operation; giants: MB offered), and what runs it."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", choices=[*PARTS])
    parser.add_argument("--scale", type=float, default=1.0, help="share of the full counts")
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args()
    failed = False
    for name in given.only or PARTS:
        full, part = PARTS[name]
        about = circumstances()
        began = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            found = part(max(1, round(full * given.scale)), Path(folder))
        found = about | {"seconds": round(time.monotonic() - began)} | found
        print(name, json.dumps(found, indent=2), flush=True)
        failed |= bool(found["wrong"])
        if given.write:
            written = json.loads(EVIDENCE.read_text()) if EVIDENCE.exists() else {}
            EVIDENCE.write_text(json.dumps(written | {name: found}, indent=2) + "\n")
    sys.exit(failed)


def circumstances() -> Json:
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True)
    versions = {"truetune": __version__, "python": platform.python_version(), "torch": torch.__version__}
    machine = {"cores": os.cpu_count(), "load": round(os.getloadavg()[0], 1)}
    command = " ".join(["python", "tests/serve/every_load.py", *sys.argv[1:]])
    return {"command": command, "commit": head.stdout.strip(), "versions": versions, "machine": machine}


if __name__ == "__main__":
    main()

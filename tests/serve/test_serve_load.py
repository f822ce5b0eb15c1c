"""More than the server can hold: 429 at once, the same answers as alone, and nothing left behind by who goes away."""

from __future__ import annotations

import asyncio
import json
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import httpx2
import pytest
from served import Live, live, made

from truetune.serve.opening import Room

LIMIT = 60
"""Seconds after which something has hung."""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    folder = tmp_path_factory.mktemp("loaded")
    for number in range(4):
        made(folder / f"more-{number}", 10 + number)
    with live(folder, adapters=2, room=Room(slots=2, queue=16, cache=2**20)) as server:
        yield server


def body(number: int, *, tokens: int = 4, **more: Any) -> dict[str, Any]:
    model = ("starter", "adapter-0", "adapter-1")[number % 3]
    question = [{"role": "user", "content": f"Question {number % 9}"}]
    return {"model": model, "messages": question, "temperature": 0, "max_tokens": tokens} | more


def text(answer: httpx2.Response) -> str:
    found = answer.json()["choices"][0]["message"]["content"]
    assert isinstance(found, str)
    return found


def until(happened: Callable[[], Any]) -> None:
    end = time.monotonic() + LIMIT
    while not happened():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.01)


def idle(served: Live) -> bool:
    stats = served.service.scheduler.stats()
    return stats["running"] == stats["waiting"] == 0


def test_two_hundred_clients_and_two_slots(served: Live) -> None:
    alone = [text(served.post("/v1/chat/completions", body(number))) for number in range(9)]

    async def crowd() -> list[httpx2.Response]:
        limits = httpx2.Limits(max_connections=None)
        async with httpx2.AsyncClient(base_url=served.url, limits=limits, timeout=LIMIT) as client:
            return await asyncio.gather(*(client.post("/v1/chat/completions", json=body(n)) for n in range(200)))

    answers = asyncio.run(crowd())
    assert {answer.status_code for answer in answers} == {200, 429}
    for number, answer in enumerate(answers):
        if answer.status_code == 200:
            assert text(answer) == alone[number % 9]
        else:
            assert int(answer.headers["retry-after"]) >= 1
            assert answer.json()["error"]["code"] == "queue_full"
    assert idle(served)


def test_who_goes_away_frees_a_slot(served: Live) -> None:
    """At every phase: before a token, in the middle, streaming or not."""
    draw = random.Random(1)

    async def leave(client: httpx2.AsyncClient, number: int) -> None:
        asked = body(number, tokens=900, stream=number % 2 == 0, ignore_eos=True)
        try:
            async with asyncio.timeout(draw.choice((0.01, 0.05, 0.2))):
                answer = await client.post("/v1/chat/completions", json=asked)
        except (TimeoutError, httpx2.HTTPError):
            return
        assert answer.status_code == 429, "an answer of 900 tokens came at once"

    async def all_leave() -> None:
        async with httpx2.AsyncClient(base_url=served.url, timeout=LIMIT) as client:
            await asyncio.gather(*(leave(client, number) for number in range(18)))

    asyncio.run(all_leave())
    until(lambda: idle(served))
    assert text(served.post("/v1/chat/completions", body(0))) == text(served.post("/v1/chat/completions", body(0)))


def test_adapters_come_and_go_under_load(served: Live) -> None:
    """None of the requests that run meanwhile fails or gets another adapter's answer."""
    kept = {number: text(served.post("/v1/chat/completions", body(number))) for number in (1, 2)}
    stop, wrong = threading.Event(), []

    def constant() -> None:
        with httpx2.Client(base_url=served.url, timeout=LIMIT) as client:
            while not stop.is_set():
                for number, said in kept.items():
                    answer = client.post("/v1/chat/completions", json=body(number))
                    if answer.status_code != 200 or text(answer) != said:
                        wrong.append(answer.text)

    thread = threading.Thread(target=constant)
    thread.start()
    try:
        first: dict[int, str] = {}
        for turn in range(8):
            number = turn % 4
            name = {"lora_name": "fresh", "lora_path": f"more-{number}"}
            loaded = served.post("/v1/load_lora_adapter", name)
            assert loaded.text == "Success: LoRA adapter 'fresh' added successfully."
            said = text(served.post("/v1/chat/completions", body(0, model="fresh")))
            assert first.setdefault(number, said) == said
            gone = served.post("/v1/unload_lora_adapter", {"lora_name": "fresh"})
            assert gone.text == "Success: LoRA adapter 'fresh' removed successfully."
            assert served.post("/v1/chat/completions", body(0, model="fresh")).status_code == 404
        assert len(set(first.values())) == 4
    finally:
        stop.set()
        thread.join()
    assert wrong == []


def test_a_name_is_pointed_elsewhere_while_it_answers(served: Live) -> None:
    fresh = {"lora_name": "moved", "lora_path": "more-0"}
    assert served.post("/v1/load_lora_adapter", fresh).status_code == 200
    taken = served.post("/v1/load_lora_adapter", fresh | {"lora_path": "more-1"})
    assert (taken.status_code, "has already been loaded" in taken.text) == (400, True)
    long = body(0, model="moved", tokens=48, ignore_eos=True)
    wanted = text(served.post("/v1/chat/completions", long))
    with served.client.stream("POST", "/v1/chat/completions", json=long | {"stream": True}) as answer:
        lines = (line for line in answer.iter_lines() if line)
        said = [next(lines), next(lines)]
        moved = httpx2.post(
            f"{served.url}/v1/load_lora_adapter", json=fresh | {"lora_path": "more-1", "load_inplace": True}
        )
        assert moved.status_code == 200
        said += lines
    chunks = [json.loads(line[6:]) for line in said if line != "data: [DONE]"]
    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks) == wanted
    assert text(served.post("/v1/chat/completions", long)) != wanted
    for path, status in (("../loaded", 400), ("/etc", 400), ("none", 400), ("adapter-0/../../x", 400)):
        refused = served.post("/v1/load_lora_adapter", {"lora_name": "bad", "lora_path": path})
        assert refused.status_code == status
    for name in ("../x", "a b", "", "x" * 300, "starter"):
        refused = served.post("/v1/load_lora_adapter", {"lora_name": name, "lora_path": "more-1"})
        assert refused.status_code == 400, name
    missing = served.post("/v1/unload_lora_adapter", {"lora_name": "bad"})
    assert (missing.status_code, missing.json()["error"]["message"]) == (404, "The lora adapter 'bad' cannot be found.")
    assert served.post("/v1/unload_lora_adapter", {"lora_name": "starter"}).status_code == 400


def test_the_end_of_a_server(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What runs ends in the grace or says that it was cut; who waits is told; who comes is refused."""
    ends: list[list[str]] = []

    def stream(url: str, number: int) -> None:
        asked = body(0, model="starter", tokens=(3, 900)[number % 2], stream=True, ignore_eos=True)
        with httpx2.stream("POST", f"{url}/v1/chat/completions", json=asked, timeout=LIMIT) as answer:
            ends.append([line for line in answer.iter_lines() if line])

    with live(tmp_path_factory.mktemp("ended"), room=Room(slots=2, queue=16), grace=0.3) as served:
        threads = [threading.Thread(target=stream, args=(served.url, number)) for number in range(6)]
        for thread in threads:
            thread.start()
        until(lambda: served.service.scheduler.stats()["totals"].get("requests") == 6)
        served.stop()
        until(lambda: served.service.closing)
        with suppress(httpx2.ConnectError):  # it no longer listens
            assert served.post("/v1/chat/completions", body(0)).status_code == 503
        for thread in threads:
            thread.join(LIMIT)
    assert len(ends) == 6
    for lines in ends:
        assert lines[-1] == "data: [DONE]"
        last = json.loads(lines[-2][6:])
        assert "error" in last or last["choices"][0]["finish_reason"] == "length"
    assert any("error" in json.loads(lines[-2][6:]) for lines in ends)

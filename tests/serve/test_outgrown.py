"""The door before replicas, with replicas in this process: real engines, real HTTP, and losses when we want them."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncGenerator, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import pytest
from prometheus_client.parser import text_string_to_metric_families
from served import made

from truetune import serve
from truetune.errors import InputError, UsageError
from truetune.evaluate.subject import Subject, find_subject
from truetune.jobs.share import share
from truetune.serve import guard, running
from truetune.serve.opening import Room
from truetune.serve.outgrown import sides
from truetune.serve.outgrown.door import Door, application
from truetune.serve.outgrown.peer import Call, Json, Message
from truetune.serve.outgrown.pin import pinned, unpinned
from truetune.serve.outgrown.replica import Order, Replica, agreed
from truetune.serve.place import listen

KEY = "the-key-of-a-test"
LIMIT = 60


@dataclass
class Near:
    """A replica in this process, which breaks down and begins anew as one of Ray's does."""

    order: Order
    replica: Replica = field(init=False)
    breaks: int = 0
    """Break down in the middle of so many answers, after `behind` batches of each."""
    behind: int = 0
    gone: bool = False
    silent: bool = False
    """Say nothing to whatever is asked, as one that Ray has not yet given up."""
    asked: int = 0

    def __post_init__(self) -> None:
        self.replica = Replica(self.order)

    async def ask(self, call: Call, revision: int) -> AsyncGenerator[list[Message]]:
        self.check()
        self.asked += 1
        while self.silent:
            await asyncio.sleep(0.01)
        left = self.behind if self.breaks else None
        async for batch in self.replica.ask(call, revision):
            if left == 0:
                self.breaks -= 1
                self.again()
                raise ConnectionError("killed")
            left = left if left is None else left - 1
            yield batch

    def again(self) -> None:
        """What was loaded since the start is forgotten."""
        self.replica.close()
        self.replica = Replica(self.order)

    def check(self) -> None:
        if self.gone:
            raise ConnectionError("gone")

    async def change(self, since: int, revision: int, name: str, pin: str | None, inplace: bool) -> Json | None:
        self.check()
        return await self.replica.change(since, revision, name, pin, inplace)

    async def settle(self, revision: int, table: Mapping[str, str]) -> Json | None:
        self.check()
        return await self.replica.settle(revision, table)

    async def metrics(self) -> bytes:
        self.check()
        while self.silent:
            await asyncio.sleep(0.01)
        return await self.replica.metrics()

    async def ready(self) -> None:
        self.check()
        while self.silent:
            await asyncio.sleep(0.01)


@dataclass
class Two:
    """A door with two replicas behind a real socket."""

    door: Door
    peers: list[Near]
    client: httpx2.Client
    server: running.Server
    folder: Path

    def said(self, model: str, **more: Any) -> httpx2.Response:
        question = [{"role": "user", "content": "How do I return an item?"}]
        asked = {"model": model, "messages": question, "temperature": 0, "max_tokens": 8} | more
        return self.client.post("/v1/chat/completions", json=asked)

    def text(self, model: str, **more: Any) -> str:
        found = self.said(model, **more)
        assert found.status_code == 200, found.text
        return str(found.json()["choices"][0]["message"]["content"])

    def load(self, name: str, place: str, **more: Any) -> httpx2.Response:
        return self.client.post("/v1/load_lora_adapter", json={"lora_name": name, "lora_path": place} | more)

    def all_up(self) -> None:
        until(lambda: len(self.door.sides.up()) == 2)


def until(happened: Any) -> None:
    end = time.monotonic() + LIMIT
    while not happened():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.01)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Two]:
    folder = tmp_path_factory.mktemp("outgrown")
    for number in range(3):
        made(folder / f"more-{number}", number)
    first = pinned(find_subject(str(folder / "more-0")))
    order = Order(((("first",), first),), "cpu", Room(slots=4, queue=8))
    peers = [Near(order), Near(order)]
    facts, table = agreed([peer.replica.facts() for peer in peers])
    assert (facts["models"], table) == (["starter", "first"], {"first": first})

    def look(text: str) -> Subject:
        if not (folder / text).is_dir():
            raise InputError("there is no such adapter", code="serve.outside", where=text, hint="Name another.")
        return find_subject(str(folder / text))

    place, ready = listen("127.0.0.1", 0), threading.Event()
    door = Door(peers, table, look)
    app = application(door, guard.Rules(place.port, digest=guard.hashed(KEY)))
    server = running.Server(app, door, 0.5, ready.set, log=False)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [place.listener]})
    thread.start()
    assert ready.wait(LIMIT)
    headers = {"authorization": f"Bearer {KEY}"}
    with httpx2.Client(base_url=place.url, headers=headers, timeout=LIMIT) as client:
        yield Two(door, peers, client, server, folder)
    if not server.should_exit:
        assert server.loop
        server.loop.call_soon_threadsafe(server.stop)
    thread.join(LIMIT)
    assert not thread.is_alive()
    for peer in peers:
        peer.replica.close()


def test_two_replicas_answer_as_one_does(two: Two) -> None:
    before = [peer.asked for peer in two.peers]
    said = {model: {two.text(model) for _ in range(4)} for model in ("starter", "first")}
    assert [len(texts) for texts in said.values()] == [1, 1]
    assert said["starter"] != said["first"]
    assert all(peer.asked > count for peer, count in zip(two.peers, before, strict=True))
    with two.client.stream("POST", "/v1/completions", json={"model": "first", "prompt": "Hi", "stream": True}) as found:
        assert [line for line in found.iter_lines() if line][-1] == "data: [DONE]"
    assert [card["id"] for card in two.client.get("/v1/models").json()["data"]] == ["starter", "first"]
    assert two.client.get("/v1/models/none").status_code == two.said("none").status_code == 404
    assert two.client.get("/openapi.json").json()["paths"].keys() >= {"/v1/chat/completions", "/tokenize"}


def test_who_is_let_in(two: Two) -> None:
    """The guard stands before the replicas' routes and the door's own."""
    for path in ("/v1/models", "/metrics", "/v1/load_lora_adapter", "/health/", "/%68ealth", "/nothing"):
        assert two.client.get(path, headers={"authorization": "Bearer wrong"}).status_code == 401, path
        assert two.client.get(path, headers={"host": "evil.example"}).status_code == 403, path
    assert two.client.get("/health", headers={"authorization": ""}).json() == {"status": "ok"}
    assert two.client.get("/v1/load_lora_adapter").status_code == 405
    assert two.client.get("/nothing").json()["error"]["type"] == "not_found_error"


def test_a_name_is_on_every_replica_or_on_none(two: Two) -> None:
    assert two.load("second", "more-1").text == "Success: LoRA adapter 'second' added successfully."
    both = [peer.replica.service.names.find("second") for peer in two.peers]
    assert all(both)
    assert len({two.text("second") for _ in range(3)}) == 1
    assert two.load("second", "more-2").status_code == 400
    was = two.text("second")
    assert two.load("second", "more-2", load_inplace=True).status_code == 200
    assert two.text("second") != was
    assert two.load("third", "nowhere").json()["error"]["code"] == "serve.outside"
    assert two.load("third", "more-1", stopp=1).status_code == two.load("", "").status_code == 400
    table = dict(two.door.sides.table)
    asyncio.run(two.peers[1].replica.service.load("other", pinned(find_subject(str(two.folder / "more-1")))))
    try:
        assert two.load("other", "more-2").status_code == 400  # it is taken on one of them alone
        assert two.peers[0].replica.service.names.find("other") is None
        assert two.said("other").status_code in (200, 404)
        assert two.door.sides.table == table
    finally:
        asyncio.run(two.peers[1].replica.service.unload("other"))
    gone = two.client.post("/v1/unload_lora_adapter", json={"lora_name": "second"})
    assert gone.text == "Success: LoRA adapter 'second' removed successfully."
    assert [two.said("second").status_code for _ in range(3)] == [404] * 3
    assert two.client.post("/v1/unload_lora_adapter", json={"lora_name": "starter"}).status_code == 400


def test_a_replica_that_begins_anew_learns_the_names(two: Two) -> None:
    assert two.load("kept", "more-1").status_code == 200
    assert two.client.post("/v1/unload_lora_adapter", json={"lora_name": "first"}).status_code == 200
    wanted = two.text("kept")
    for peer in two.peers:
        peer.again()
        assert {two.text("kept") for _ in range(4)} == {wanted}
        two.all_up()
        assert [two.said("first").status_code for _ in range(4)] == [404] * 4
        assert sorted(served.id for served in peer.replica.service.names.all()) == ["kept", "starter"]
    assert two.load("first", "more-0").status_code == 200
    two.client.post("/v1/unload_lora_adapter", json={"lora_name": "kept"})


def test_what_a_lost_replica_was_asked(two: Two) -> None:
    wanted = two.text("first")
    for number, peer in enumerate(two.peers):
        peer.breaks = 1
        assert {two.text("first") for _ in range(4)} == {wanted}, number
        two.all_up()
    streams = {"stream": True, "max_tokens": 400, "ignore_eos": True}
    for peer in two.peers:
        peer.breaks, peer.behind = 1, 3
    with two.client.stream(
        "POST",
        "/v1/chat/completions",
        json={"model": "first", "messages": [{"role": "user", "content": "Hi"}]} | streams,
    ) as found:
        lines = [line for line in found.iter_lines() if line]
    assert lines[-1] == "data: [DONE]"
    assert json.loads(lines[-2][6:])["error"]["code"] == "replica_lost"
    assert any("delta" in line for line in lines[:-2])
    for peer in two.peers:
        peer.breaks, peer.behind = 1, 0
    two.all_up()
    asked = sum(peer.asked for peer in two.peers)
    poison = two.said("first")
    assert (poison.status_code, poison.json()["error"]["code"]) == (503, "replica_lost")
    assert sum(peer.asked for peer in two.peers) == asked + 2
    two.all_up()
    assert two.text("first") == wanted


def test_loading_while_a_replica_is_away(two: Two) -> None:
    two.peers[1].gone = True
    assert {two.text("first") for _ in range(3)}  # the door hears of it
    assert two.load("away", "more-2").status_code == 200
    assert len(two.door.sides.up()) == 1
    figures = samples(two.client.get("/metrics").text)
    assert (figures["truetune_replica_up", "0"], figures["truetune_replica_up", "1"]) == (1, 0)
    two.peers[1].again()
    two.peers[1].gone = False
    two.all_up()
    wanted = two.text("away")
    two.peers[0].gone = True
    assert two.text("away") == wanted
    two.peers[0].gone = False
    two.all_up()
    two.client.post("/v1/unload_lora_adapter", json={"lora_name": "away"})


def test_a_replica_that_says_nothing(two: Two, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is seen although nobody asks it anything; what it was asked is asked of the other."""
    monkeypatch.setattr(sides, "PULSE", 0.02)
    monkeypatch.setattr(sides, "LATE", 0.5)
    wanted = two.text("first")
    assert two.server.loop
    two.server.loop.call_soon_threadsafe(two.door.sides.watch)
    for peer in two.peers:
        peer.silent = True
        assert {two.text("first") for _ in range(4)} == {wanted}
        until(lambda: len(two.door.sides.up()) == 1)
        assert len(samples(two.client.get("/metrics").text)) > 2
        peer.silent = False
        two.all_up()
    for task in two.door.sides.watching:
        two.server.loop.call_soon_threadsafe(task.cancel)


def test_a_change_that_meets_a_replica_that_has_begun_anew(two: Two) -> None:
    """It must not make one believe that this change is all there was."""
    assert two.load("before", "more-1").status_code == 200
    two.peers[0].again()
    assert two.load("behind", "more-2").status_code == 200
    two.all_up()
    for peer in two.peers:
        assert {served.id for served in peer.replica.service.names.all()} >= {"before", "behind", "first"}
    for name in ("before", "behind"):
        two.client.post("/v1/unload_lora_adapter", json={"lora_name": name})


def samples(page: str) -> dict[tuple[str, str], float]:
    found = [sample for family in text_string_to_metric_families(page) for sample in family.samples]
    return {(one.name, one.labels["replica"]): one.value for one in found}


def test_who_goes_away_frees_the_slot_of_the_replica(two: Two) -> None:
    def busy() -> int:
        return sum(int(peer.replica.service.scheduler.stats()["running"]) for peer in two.peers)

    asked = {"model": "starter", "prompt": "Hi", "max_tokens": 900, "ignore_eos": True}
    with two.client.stream("POST", "/v1/completions", json=asked | {"stream": True}) as found:
        next(found.iter_lines())
        assert busy() == 1
    until(lambda: busy() == 0)
    until(lambda: two.door.open == 0)


def test_full_only_where_all_are(two: Two) -> None:
    """Two replicas with 8 places to wait each take 16 requests at least; with more at once some get 429."""

    async def crowd(count: int) -> list[int]:
        limits = httpx2.Limits(max_connections=None)
        headers = {"authorization": f"Bearer {KEY}"}
        async with httpx2.AsyncClient(
            base_url=str(two.client.base_url), limits=limits, headers=headers, timeout=LIMIT
        ) as client:
            asked = {"model": "first", "prompt": "Hi", "max_tokens": 24, "ignore_eos": True, "temperature": 0}
            answers = await asyncio.gather(*(client.post("/v1/completions", json=asked) for _ in range(count)))
        assert len({answer.json()["choices"][0]["text"] for answer in answers if answer.status_code == 200}) == 1
        return [answer.status_code for answer in answers]

    assert set(asyncio.run(crowd(16))) == {200}
    found = asyncio.run(crowd(80))
    assert set(found) == {200, 429}
    assert found.count(200) >= 16


def test_the_end_cuts_nobody_silently(two: Two) -> None:
    """Last of all: it ends the door."""
    asked = {"model": "starter", "prompt": "Hi", "max_tokens": 1000, "ignore_eos": True, "stream": True, "n": 4}
    before = two.door.totals()["requests"]
    with two.client.stream("POST", "/v1/completions", json=asked) as found:
        lines = found.iter_lines()
        first = next(lines)
        assert two.server.loop
        two.server.loop.call_soon_threadsafe(two.server.stop)
        rest = [line for line in lines if line]
    assert first.startswith("data: ")
    assert rest[-1] == "data: [DONE]"
    assert json.loads(rest[-2][6:])["error"]["code"] == "draining"
    assert two.door.totals()["requests"] > before


def test_a_pin_means_these_files(tmp_path: Path) -> None:
    place = made(tmp_path / "one", 1)
    pin = pinned(find_subject(str(place)))
    assert unpinned(pin).adapter == place
    made(place, 2)
    with pytest.raises(InputError) as changed:
        unpinned(pin)
    assert changed.value.code == "serve.replica_files"
    broken = Replica(Order(((("one",), pin),), "cpu", Room())).facts()
    with pytest.raises(InputError) as told:
        agreed([broken])
    assert str(told.value) == str(changed.value)


@pytest.mark.parametrize(
    ("machines", "replicas", "wanted"),
    [
        ([16], 2, 8),
        ([2], 2, 1),
        ([1], 2, 0.5),
        ([4, 4], 3, 2),
        ([0.5], 1, 0),
        ([], 1, 0),
        ([8, 0], 1, 8),
        ([2, 1], 4, 0.5),
    ],
)
def test_what_a_replica_gets(machines: list[float], replicas: int, wanted: float) -> None:
    assert share(machines, replicas) == wanted


def test_what_does_not_go_together() -> None:
    for code, options in {
        "serve.engine": {"engine": "other"},
        "serve.only_ray": {"replicas": 3},
        "serve.not_vllm": {"engine": "vllm", "queue": 3},
    }.items():
        with pytest.raises(UsageError) as refused:
            serve(["starter"], **options)  # type: ignore[arg-type]
        assert refused.value.code == code
    for address in ("127.0.0.1:1", "auto", "ray://127.0.0.1:10001", "127.0.0.1:99999"):
        with pytest.raises(InputError) as absent:
            serve(["starter"], engine="ray", port=0, cluster=address)
        assert absent.value.code == "serve.no_cluster"


THREADED = """
import threading, time
from truetune import serve
from truetune.errors import UsageError
threading.Thread(target=time.sleep, args=(600,), daemon=True).start()
try:
    serve(["starter"], engine="ray", port=0)
except UsageError as refused:
    print(refused.code, "--open-ray" in refused.hint)
"""


def test_ray_is_kept_from_the_network_or_not_begun() -> None:
    """A process with threads gets no network of its own: nothing is started."""
    done = subprocess.run([sys.executable, "-c", THREADED], capture_output=True, text=True, timeout=LIMIT, check=False)
    assert done.stdout.split() == ["serve.ray_open", "True"], done.stderr


APART = """
import socket, sys
from truetune.jobs.apart import apart
before = socket.create_server(("127.0.0.1", 0))
port = before.getsockname()[1]
apart()
print({name for _, name in socket.if_nameindex()} == {"lo"}, flush=True)
inside = socket.create_server(("0.0.0.0", 0))
print(port, inside.getsockname()[1], flush=True)
socket.create_connection(inside.getsockname(), 5).close()
before.accept()[0].sendall(b"heard")
sys.stdin.read()
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="network namespaces are Linux's")
def test_a_network_of_its_own() -> None:
    """What was listened on before goes on hearing; what comes after is heard by nobody else."""
    pipe = subprocess.PIPE
    line = [sys.executable, "-c", APART]
    process = subprocess.Popen(line, stdin=pipe, stdout=pipe, stderr=pipe, text=True)
    try:
        assert process.stdout
        if process.stdout.readline().strip() != "True":
            process.kill()
            pytest.skip(f"THIS SYSTEM HAS NO USER NAMESPACES: {process.communicate()[1][-300:]}")
        before, inside = map(int, process.stdout.readline().split())
        with socket.create_connection(("127.0.0.1", before), LIMIT) as connection:
            assert connection.recv(5) == b"heard"
        with pytest.raises(OSError):
            socket.create_connection(("127.0.0.1", inside), 5)
    finally:
        process.kill()
        process.communicate()

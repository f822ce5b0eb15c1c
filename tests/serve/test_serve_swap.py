"""Hot swap: what a live load and its first request wait for."""

from __future__ import annotations

import asyncio
import socket
from concurrent.futures import ThreadPoolExecutor
from threading import Semaphore

import pytest

pytest.importorskip("torch")

from shared.served import made

from truetune.engines.decoder import DecoderSpec, Sampling
from truetune.engines.torch.decode import TorchDecoder
from truetune.models import tokenizer
from truetune.models.source import STARTER
from truetune.serve.place import listen
from truetune.serve.requests import Limits, Request
from truetune.serve.scheduler import Scheduler

HOT = Request((70, 80, 90), "hot", Sampling(max_new_tokens=4))


def ids(handle):
    return [said.id for event in handle for said in event.tokens]


@pytest.mark.parametrize("before", [None, "one", "hot"])
def test_a_load_waits_for_no_step_and_its_first_token_for_the_running_one(tmp_path, before):
    """With every step held back: the load returns, and one step later its first token is there; a name that changes
    hands, and what it stood for before, included."""
    folders = {name: made(tmp_path / name, seed) for seed, name in enumerate(("one", "two"))}
    spec = DecoderSpec(STARTER, slots=4, chunk=16)
    with Scheduler(lambda: TorchDecoder(spec), tokenizer.load(STARTER), Limits(chunk=16)) as scheduler:
        scheduler.load("alone", folders["two"])
        expected = ids(scheduler.submit(Request(HOT.ids, "alone", HOT.sampling)))
        scheduler.unload("alone")
        if before:
            scheduler.load(before, folders["one"])
        running = scheduler.submit(Request(tuple(range(10, 24)), before, Sampling(max_new_tokens=30)))
        whole, gate, steps = ids(running), Semaphore(0), []
        real = scheduler.decoder.decode

        def decode(most=0):
            gate.acquire()
            steps.append(real(most))
            return steps[-1]

        scheduler.decoder.decode = decode
        running = scheduler.submit(Request(tuple(range(10, 24)), before, Sampling(max_new_tokens=30)))
        begun = [said.id for said in next(running).tokens]
        with ThreadPoolExecutor(1) as pool:
            try:
                assert pool.submit(scheduler.load, "hot", folders["two"]).result(30).mixed
                hot = scheduler.submit(HOT)
                gate.release()
                first = pool.submit(next, hot).result(30)
                assert len(steps) == 1
            finally:
                gate.release(10**6)
        assert [said.id for said in first.tokens] + ids(hot) == expected
        assert begun + ids(running) == whole
        scheduler.unload("hot")
        assert scheduler.loop.call(lambda: list(scheduler.decoder.adapters.names)) == [
            version.digest for version in scheduler.loop.shelf.versions.values()
        ]
        assert len(scheduler.loop.shelf.versions) == (before == "one")


def test_what_is_unloaded_at_once_takes_no_place(tmp_path):
    """The load has returned before the adapter was put to the others; nothing of it may come afterwards."""
    folder = made(tmp_path / "one", 1)
    with Scheduler(lambda: TorchDecoder(DecoderSpec(STARTER)), tokenizer.load(STARTER)) as scheduler:
        for _ in range(20):
            scheduler.load("hot", folder)
            scheduler.unload("hot")
        assert scheduler.stats()["adapters"] == {"names": 0, "versions": 0, "device": 0, "memory": 0}
        assert scheduler.decoder.adapters.names == []


def test_small_answers_are_sent_at_once():
    """What asyncio accepts from our listener sends without waiting for acknowledgements (Nagle): 40 ms each."""
    place = listen("127.0.0.1", 0)
    found = []

    async def accept(reader, writer):
        found.append(writer.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
        writer.close()

    async def serve():
        server = await asyncio.start_server(accept, sock=place.listener)
        async with server:
            reader, writer = await asyncio.open_connection("127.0.0.1", place.port)
            await reader.read()
            writer.close()

    asyncio.run(serve())
    assert found == [1]

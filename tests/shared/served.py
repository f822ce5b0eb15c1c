"""A real server on 127.0.0.1 in a thread of the test: uvicorn, the guard, the scheduler and the bundled starter."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import safetensors.numpy

from truetune.engines import adapter
from truetune.engines.base import Method
from truetune.errors import InputError
from truetune.evaluate.subject import Subject, find_subject
from truetune.models import source, weights
from truetune.serve import app, guard, opening, running
from truetune.serve.opening import Room, Wanted
from truetune.serve.place import listen
from truetune.serve.service import Service

KEY = "a-key-of-a-test"


@dataclass
class Live:
    """A server, and one client to it."""

    url: str
    service: Service
    server: running.Server
    folder: Path
    client: httpx2.Client
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def post(self, path: str, body: Any = None, **more: Any) -> httpx2.Response:
        return self.client.post(path, json=body, **more)

    def stop(self) -> None:
        """What a SIGTERM does."""
        assert self.server.loop
        self.server.loop.call_soon_threadsafe(self.server.stop)


@contextmanager
def live(
    folder: Path,
    *,
    adapters: int = 0,
    wanted: Sequence[Wanted] = (),
    opener: Callable[[], Service] | None = None,
    key: str | None = None,
    room: Room | None = None,
    grace: float = 5.0,
    rules: Mapping[str, Any] | None = None,
) -> Iterator[Live]:
    """Serve what is `wanted`, else the starter with adapters `adapter-0`, …; others lie in `folder`/more/."""
    names = [f"adapter-{number}" for number in range(adapters)]
    own = [Wanted((name,), find_subject(str(made(folder / name, number)))) for number, name in enumerate(names)]

    def look(text: str) -> Subject:
        place = (folder / text).resolve()
        if not place.is_relative_to(folder.resolve()) or not place.is_dir():
            raise InputError("there is no such adapter", code="serve.outside", where=text, hint="Name another.")
        return find_subject(str(place))

    place = listen("127.0.0.1", 0)
    named = wanted or own or [Wanted((), find_subject("starter"))]
    service = opener() if opener else opening.opened(named, look, device="cpu", room=room or Room())[0]
    digest = guard.hashed(key) if key else None
    ready = threading.Event()
    application = app.application(service, guard.Rules(place.port, digest=digest, **(rules or {})))
    server = running.Server(application, service, grace, ready.set, log=False)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [place.listener]}, name="uvicorn")
    thread.start()
    assert ready.wait(30)
    headers = {"authorization": f"Bearer {key}"} if key else {}
    client = httpx2.Client(base_url=place.url, headers=headers, timeout=60)
    try:
        yield Live(place.url, service, server, folder, client, headers)
    finally:
        client.close()
        if thread.is_alive() and server.loop and not server.loop.is_closed():
            server.loop.call_soon_threadsafe(server.stop)
        thread.join(30)
        service.scheduler.close()
        place.listener.close()
        assert not thread.is_alive()


def made(folder: Path, seed: int) -> Path:
    """A LoRA adapter of the starter that changes its answers: rank 4 on the attention's queries and outputs."""
    folder.mkdir(parents=True, exist_ok=True)
    shapes = {tensor.name: tensor.shape for tensor in weights.tensors(source.STARTER)}
    rng = np.random.default_rng(seed)
    tensors = {}
    for name, shape in shapes.items():
        module = name.removesuffix(".weight")
        if module.endswith(("q_proj", "o_proj")):
            tensors[adapter.key(module, "A")] = rng.normal(0, 0.3, (4, shape[1])).astype(np.float32)
            tensors[adapter.key(module, "B")] = rng.normal(0, 0.3, (shape[0], 4)).astype(np.float32)
    safetensors.numpy.save_file(tensors, folder / adapter.WEIGHTS)
    body = adapter.config(
        Method(r=4, alpha=8), ["q_proj", "o_proj"], base=str(source.STARTER), revision=None, transposed=False
    )
    adapter.write_config(folder, body)
    return folder

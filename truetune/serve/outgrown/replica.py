"""One replica: the same service and routes as `ft serve` has alone, asked by the door instead of by a socket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from truetune.errors import CheckFailed, InputError, ResourceError, TrueTuneError, UsageError
from truetune.serve import app, opening
from truetune.serve.opening import Room, Wanted
from truetune.serve.outgrown.peer import BEHIND, Call, Json, Message
from truetune.serve.outgrown.pin import unpinned
from truetune.serve.refusals import Refusal


@dataclass(frozen=True)
class Order:
    """What every replica opens."""

    wanted: tuple[tuple[tuple[str, ...], str], ...]
    """Names and pin of each."""
    device: str
    room: Room


class Replica:
    """Opened at once; what that raised is told by `facts`, because an error of ours would not survive the way."""

    def __init__(self, order: Order) -> None:
        self.failed: Json | None = None
        self.revision = 0
        try:
            wanted = [Wanted(names, unpinned(pin)) for names, pin in order.wanted]
            self.service, self.warning = opening.opened(wanted, unpinned, device=order.device, room=order.room)
        except TrueTuneError as error:
            self.failed = written(error)
            return
        self.app = app.routed(self.service)
        self.table = {name: pin for names, pin in order.wanted for name in names if self.service.names.find(name)}

    def facts(self) -> Json:
        """What is served, as `api.serve` tells it, and {warning, table}; or {failed}."""
        if self.failed is not None:
            return {"failed": self.failed}
        return self.service.facts() | {"warning": self.warning, "table": self.table}

    def check_health(self) -> None:
        """Asked by Ray Serve, which starts a replica again that raises. RuntimeError where nothing decodes any more."""
        loop = getattr(None if self.failed else self.service.scheduler, "loop", None)
        if loop is not None and not loop.thread.is_alive():
            raise RuntimeError("the decoder's thread has ended")

    async def ask(self, call: Call, revision: int) -> AsyncGenerator[list[Message]]:
        if self.revision < revision:
            yield [BEHIND]
            return
        said: asyncio.Queue[Message | None] = asyncio.Queue()
        task = asyncio.create_task(self.app(scope(call), body(call), said.put))  # type: ignore[arg-type]
        task.add_done_callback(lambda _: said.put_nowait(None))
        try:
            while batch := await together(said):
                yield batch
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def change(self, since: int, revision: int, name: str, pin: str | None, inplace: bool) -> Json | None:
        if self.revision < since:
            return BEHIND
        try:
            await self.changed(name, pin, inplace)
        except Refusal as refusal:
            return told(refusal)
        self.revision = max(self.revision, revision)
        return None

    async def changed(self, name: str, pin: str | None, inplace: bool) -> None:
        if pin is None:
            await self.service.unload(name)
            self.table.pop(name, None)
        else:
            await self.service.load(name, pin, inplace=inplace)
            self.table[name] = pin

    async def settle(self, revision: int, table: Mapping[str, str]) -> Json | None:
        try:
            for name in [name for name in self.table if name not in table]:
                await self.changed(name, None, False)
            for name, pin in table.items():
                if self.table.get(name) != pin:
                    await self.changed(name, pin, True)
        except Refusal as refusal:
            return told(refusal)
        self.revision = max(self.revision, revision)
        return None

    async def metrics(self) -> bytes:
        return self.service.metrics.text()

    async def ready(self) -> None:
        """It is, since it answers."""

    def close(self) -> None:
        if not self.failed:
            self.service.closing = True
            self.service.scheduler.close()


async def together(said: asyncio.Queue[Message | None]) -> list[Message]:
    """The next message and all that have come with it; none at the end."""
    batch = [await said.get()]
    with suppress(asyncio.QueueEmpty):
        while batch[-1] is not None:
            batch.append(said.get_nowait())
    return [message for message in batch if message is not None]


def scope(call: Call) -> dict[str, Any]:
    fixed = {"type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "scheme": "http", "root_path": ""}
    given = {key: value for key, value in call.items() if key != "body"}
    return fixed | given | {"client": None, "server": None}


def body(call: Call) -> Any:
    """The body, and then nothing more: a client that has gone shows by the task's end."""
    given = False

    async def receive() -> Message:
        nonlocal given
        if given:
            await asyncio.Event().wait()
        given = True
        return {"type": "http.request", "body": call["body"], "more_body": False}

    return receive


def told(refusal: Refusal) -> Json:
    """A refusal in Python's own types; `Refusal(**told(…))` is it again."""
    kept = {"status": refusal.status, "message": refusal.message, "code": refusal.code}
    return kept | {"param": refusal.param, "headers": refusal.headers}


def written(error: TrueTuneError) -> Json:
    first = error.findings[0]
    about = {"message": first.message, "code": first.code, "where": first.where, "hint": first.hint}
    return {"kind": type(error).__name__, **about}


def agreed(facts: Sequence[Json]) -> tuple[Json, dict[str, str]]:
    """What all replicas serve, with every warning of theirs once, and name -> pin of what can be unloaded.

    Raises the error that opening one of them has raised, ResourceError `serve.replica_start` where they differ.
    """
    for each in facts:
        if "failed" in each:
            raise read(each["failed"])
    first, table = dict(facts[0]), facts[0]["table"]
    if any((each["models"], each["table"]) != (first["models"], table) for each in facts):
        raise ResourceError(
            "the replicas serve different models",
            code="serve.replica_start",
            where="--engine ray",
            hint="Every machine must see the same files under the same paths.",
        )
    warnings = dict.fromkeys(each["warning"] for each in facts if each["warning"])
    kept = {name: value for name, value in first.items() if name not in ("table", "warning")}
    return kept | {"warnings": [*warnings]}, table


def read(failed: Json) -> TrueTuneError:
    """The error that `written` has made plain."""
    kinds = {kind.__name__: kind for kind in (CheckFailed, InputError, ResourceError, UsageError)}
    about = {key: failed[key] for key in ("code", "where", "hint")}
    return kinds.get(failed["kind"], TrueTuneError)(failed["message"], **about)

"""What the routes do: requests to the scheduler and its events back, and adapters loaded and unloaded by name."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

from truetune.engines.decoder import Scored
from truetune.errors import TrueTuneError, UsageError
from truetune.evaluate.subject import Subject
from truetune.serve.classes import Classifier, Silent, silent
from truetune.serve.embeddings import Embedder
from truetune.serve.handle import Handle
from truetune.serve.metrics import Metrics
from truetune.serve.names import Names, Served, check_rendering, checked
from truetune.serve.openai import Choice, Piece, Spelled
from truetune.serve.refusals import Refusal, busy, draining, of_error, unknown_model
from truetune.serve.requests import Busy, Closing, Event, Request, Unknown
from truetune.serve.scheduler import Scheduler

T = TypeVar("T")

Look = Callable[[str], Subject]
"""From what a load request names to the subject; only from places that the server allows."""
TIMEOUT = 600.0


@dataclass(eq=False)
class Asked:
    """One prompt on its way: what it was, and where its answers arrive."""

    served: Served
    request: Request
    handle: Handle
    began: float
    first: int = 0
    """The number of its first answer in the whole response."""
    echo: str = ""
    """What stands before each answer."""
    silent: bool = False
    """Whether only the prompt is told, and nothing is written behind it."""
    made: int = 0
    """Tokens that were written so far."""


class Service:
    """One base with its adapters."""

    def __init__(
        self,
        scheduler: Scheduler | Silent,
        base: Served,
        look: Look,
        *,
        timeout: float = TIMEOUT,
        classifiers: Mapping[str, Classifier] | None = None,
        embedders: Mapping[str, Embedder] | None = None,
    ) -> None:
        """`timeout`: seconds of a whole answer; `classifiers` and `embedders` by name. A Silent scheduler has none but
        these."""
        self.classifiers, self.embedders = dict(classifiers or {}), dict(embedders or {})
        self.readers: dict[str, Classifier | Embedder] = {**self.embedders, **self.classifiers}
        self.scheduler, self.base, self.look, self.timeout = scheduler, base, look, timeout
        self.context = scheduler.decoder.context
        self.names = Names()
        if not isinstance(scheduler, Silent):
            self.names.point(base)
        self.metrics = Metrics(self.gauges)
        self.changing = asyncio.Lock()
        self.numbers = itertools.count(1)
        self.closing = False

    def gauges(self) -> dict[str, float]:
        stats = self.scheduler.stats()
        return {name: stats[name] for name in ("running", "waiting", "slots")} | {
            "adapters": stats["adapters"]["names"]
        }

    def model(self, name: str) -> Served:
        """One that writes. Raises Refusal 404, 400 for one that does not."""
        if name in self.readers:
            raise of_error(silent(), "model")
        found = self.names.find(name)
        if found is None:
            raise unknown_model(name)
        return found

    def embedder(self, name: str) -> Embedder:
        """One that gives embeddings. Raises Refusal 404, 400 for one that does not, 503."""
        if self.closing:
            raise draining()
        if name in self.embedders:
            return self.embedders[name]
        if name not in self.classifiers and self.names.find(name) is None:
            raise unknown_model(name)
        message = "This model is no encoder: it gives no embeddings."
        raise Refusal(400, message, code="no_embeddings", param="model")

    async def read(self, work: Awaitable[T]) -> T:
        """What takes no longer than an answer may. Raises Refusal 408, 429."""
        try:
            async with asyncio.timeout(self.timeout):
                return await work
        except TimeoutError:
            raise Refusal(408, "The answer took too long, and was given up.", code="timeout") from None
        except TrueTuneError as error:
            raise of_error(error) from None

    def writer(self, name: str) -> Served:
        """One that writes, if there is room for a request: whom there is none for is told before anything is rendered.
        Raises Refusal 404, 400, 429, 503."""
        found = self.model(name)
        if self.closing:
            raise draining()
        with no_room():
            self.scheduler.check_room()
        return found

    async def work(self, function: Callable[..., T], *args: Any) -> T:
        """In a thread: rendering, tokenising, compiling and reading files would hold up the event loop. One of our
        errors becomes a Refusal."""
        try:
            return await asyncio.to_thread(function, *args)
        except TrueTuneError as error:
            raise of_error(error) from None
        except Closing:
            raise draining() from None

    def submit(
        self, served: Served, request: Request, *, first: int = 0, echo: str = "", silent: bool = False
    ) -> Asked:
        """Take on one prompt. Raises Refusal: 400, 404, 429, 503."""
        if self.closing:
            raise draining()
        began = time.monotonic()
        try:
            with no_room():
                handle = self.scheduler.submit(replace(request, adapter=served.key, timeout=self.timeout))
        except Unknown:
            raise unknown_model(served.id) from None
        except TrueTuneError as error:
            raise of_error(error) from None
        self.metrics.prompt.inc(len(request.ids))
        return Asked(served, request, handle, began, first, echo, silent)

    async def pieces(self, asked: Asked) -> AsyncGenerator[Piece]:
        """The answers of one prompt as they are written; given up where nobody takes them any more.

        Raises Refusal where an answer ends by something else than its tokens.
        """
        first, begun = None, set[int]()
        try:
            async for event in asked.handle:
                if event.text or event.tokens:
                    first = first or time.monotonic()
                asked.made += 0 if asked.silent else event.made
                piece = told(asked, event)
                yield piece if piece.index in begun else replace(piece, text=asked.echo + piece.text)
                begun.add(piece.index)
            self.metrics.finished(asked.began, first, time.monotonic(), asked.made)
        finally:
            self.release(asked)

    def release(self, asked: Asked) -> None:
        """Give up what has not ended. For any time, and more than once."""
        if not asked.handle.over:
            self.metrics.cancelled.inc()
            asked.handle.cancel()

    async def whole(self, asked: Sequence[Asked]) -> list[Choice]:
        """All answers of a request, in order. Raises Refusal; then all its answers are given up."""
        choices = {each.first + at: Choice(each.first + at) for each in asked for at in range(each.request.n)}

        async def collect(each: Asked) -> None:
            async with aclosing(self.pieces(each)) as pieces:
                async for piece in pieces:
                    choices[piece.index].add(piece)

        await gathered([collect(each) for each in asked])
        return list(choices.values())

    async def load(self, name: str, address: str, *, inplace: bool = False) -> Served:
        """Serve an adapter under a name. `inplace`: a name that is taken means this one from now on, and answers that
        are being written go on with the one that they began with. Raises Refusal 400, 503."""
        if self.closing:
            raise draining()
        async with self.changing:
            taken = self.names.find(name)
            if name in self.readers:
                raise Refusal(400, already(name, False), code="already_loaded", param="lora_name")
            if taken is not None and (not inplace or taken is self.base):
                raise Refusal(400, already(name, taken is self.base), code="already_loaded", param="lora_name")
            served = await self.work(self.opened, name, address)
            before = self.names.point(served)
            if before is not None:
                await self.forget(before, wait=False)
            return served

    def opened(self, name: str, address: str) -> Served:
        """The adapter of an address, in the scheduler under a key that no other has had. Raises what `look`,
        `Scheduler.load` and `names.check_rendering` raise, UsageError `serve.name`, `serve.other_base`."""
        return self.ready(checked(name), self.look(address))

    def ready(self, name: str, subject: Subject) -> Served:
        check_base(subject, self.base.subject)
        assert subject.adapter is not None
        check_rendering(subject)
        key = f"{name}#{next(self.numbers)}"
        loaded = self.scheduler.load(key, subject.adapter, subject.tokenizer)
        return Served(name, subject, key, str(subject.adapter), self.base.id, loaded.mixed)

    async def unload(self, name: str) -> None:
        """Take a name away; answers that are being written go on. Raises Refusal 404, 400."""
        async with self.changing:
            found = self.names.find(name)
            if found is None:
                raise Refusal(404, f"The lora adapter '{name}' cannot be found.", code="not_found", param="lora_name")
            if found is self.base:
                raise Refusal(400, f"'{name}' is the base model.", code="base_model", param="lora_name")
            await self.forget(self.names.drop(name))

    async def forget(self, served: Served, *, wait: bool = True) -> None:
        if served.key:
            await self.work(partial(self.scheduler.unload, served.key, wait=wait))

    def close(self, grace: float) -> None:
        """Let what runs come to its end for so many seconds. For any thread."""
        self.scheduler.close(grace)

    def facts(self) -> dict[str, Any]:
        """{models, writes, sorts, alone}: names of all, of those that write, that give classes, and that are computed
        by themselves."""
        names = self.names.all()
        return {
            "models": [*(served.id for served in names), *self.readers],
            "writes": [served.id for served in names],
            "sorts": [*self.classifiers],
            "alone": [served.id for served in names if not served.mixed],
        }


@contextmanager
def no_room() -> Iterator[None]:
    """What the scheduler says of a full queue, and at its end, as a Refusal 429, 503."""
    try:
        yield
    except Busy as full:
        raise busy(max(1, round(full.retry))) from None
    except Closing:
        raise draining() from None


def told(asked: Asked, event: Event) -> Piece:
    """An event with texts in the place of ids. Raises Refusal for one that ends an answer early."""
    if event.reason == "error":
        raise of_error(event.error) if event.error else Refusal(500, "The server failed at this request.")
    if event.reason == "timeout":
        raise Refusal(408, "The answer took too long, and was given up.", code="timeout")
    if event.reason == "cancelled":
        raise Refusal(503, "The answer was given up.", code="cancelled")
    decode = asked.served.subject.tokenizer.decode
    before = zip(asked.request.ids, event.prompt, strict=True) if event.prompt else ()
    spelled = [spell(decode, token, scored) for token, scored in before]
    if asked.silent:
        return Piece(asked.first + event.choice, "", tuple(spelled), event.reason and "length")
    if asked.request.sampling.logprobs is not None:
        spelled += [spell(decode, said.id, said.scored) for said in event.tokens]
    return Piece(asked.first + event.choice, event.text, tuple(spelled), event.reason)


def spell(decode: Callable[[Sequence[int]], str], token: int, scored: Scored | None) -> Spelled:
    if scored is None:
        return Spelled(decode([token]), None)
    return Spelled(decode([token]), scored.logprob, tuple((decode([other]), value) for other, value in scored.top))


def check_base(subject: Subject, base: Subject) -> None:
    """Raises UsageError `serve.other_base`: an adapter is a change to exactly the base it was trained on."""
    if subject.adapter and subject.base.folder.resolve() == base.base.folder.resolve() and subject.bits == base.bits:
        return
    packed = f" in {subject.bits} bits" if subject.bits else ""
    raise UsageError(
        f"it was trained on {subject.base.name}{packed}, and this server has {base.base.name} in memory",
        code="serve.other_base",
        where=subject.name,
        hint="Serve it by a server of its own, on another port.",
    )


def already(name: str, base: bool) -> str:
    """In vLLM's words."""
    if base:
        return f"The lora adapter '{name}' has the name of the base model."
    return (
        f"The lora adapter '{name}' has already been loaded. If you want to load the adapter in place, "
        "set 'load_inplace' to true."
    )


async def gathered(works: Sequence[Awaitable[None]]) -> None:
    """All at once; the first that fails ends the others, and is raised by itself."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

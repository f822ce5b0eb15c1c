"""The engine of serving: requests of any thread in, events out; one thread of its own has the decoder (`loop`).

Between two tokens of the running answers that thread does what has come in: it ends what was given up or is late, swaps
adapters, admits waiting requests while there is room, and reads a bounded part of their prompts. Requests are admitted
in the order in which they came, but for those whose adapter is still being read from disk. All running answers get
their next token in every step, whatever their adapter, so that none waits for another to end.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from truetune.engines.decoder import Decoder
from truetune.errors import UsageError
from truetune.models.tokenizer import Tokenizer
from truetune.serve.adapters import Version
from truetune.serve.grammar import Grammars, Schema
from truetune.serve.handle import Handle
from truetune.serve.jobs import Job, Named
from truetune.serve.loop import Loop
from truetune.serve.requests import Busy, Closing, Limits, Loaded, Request, Unknown


class Scheduler:
    """One base model, any number of adapters, any number of requests. Every verb is for any thread.

    `open` is called in the scheduler's own thread and gives the decoder, which then is the scheduler's; what it raises
    is raised here. `tokenizer` is the base's.
    """

    def __init__(self, open: Callable[[], Decoder], tokenizer: Tokenizer, limits: Limits | None = None) -> None:
        self.tokenizer, self.limits = tokenizer, limits or Limits()
        self.names: dict[str, Named] = {}
        self.loop = Loop(open, self.limits)
        self.decoder = self.loop.decoder
        self.grammars = Grammars(tokenizer, self.decoder.vocabulary, self.limits.grammars)

    def submit(self, request: Request) -> Handle:
        """Take on a request; returns at once, and its events come through the handle.

        Raises Busy (the queue is full), Closing, Unknown (no adapter of this name), and UsageError:
        `generation.empty`, `generation.too_long`, `generation.token`, `generation.limit`.
        """
        self.check(request)
        loop = self.loop
        with loop.changed:
            named = self.named(request.adapter)
            self.check_room()
            job = Job(request, named, named.tokenizer if named else self.tokenizer, time.monotonic())
            job.handle = Handle(request.n, lambda: self.cancel(job))
            if named:
                named.version.uses += 1
            loop.waiting.append(job)
            loop.counts["requests"] += 1
            loop.stir()
        return job.handle

    def check_room(self) -> None:
        """Raises Busy or Closing, where any request would be refused now."""
        if self.loop.until is not None:
            raise Closing
        if len(self.loop.waiting) >= self.limits.queue:
            self.loop.counts["refused"] += 1
            raise Busy(self.retry())

    def cancel(self, job: Job) -> None:
        job.cancelled = True
        self.loop.stir()

    def named(self, name: str | None) -> Named | None:
        if name is None:
            return None
        if name not in self.names:
            raise Unknown(name)
        return self.names[name]

    def retry(self) -> float:
        """Seconds until there may be room in the queue, by how long requests took of late."""
        return max(1.0, self.loop.pace * len(self.loop.waiting) / self.decoder.slots)

    def check(self, request: Request) -> None:
        """Refuse what could never be answered, before it takes a place."""
        ids, sampling, decoder, limits = request.ids, request.sampling, self.decoder, self.limits
        if not ids:
            raise UsageError("the prompt is empty", code="generation.empty", hint="Give at least one token.")
        refuse_foreign([*ids, *(token for token, _ in sampling.bias)], decoder.vocabulary)
        if len(ids) >= decoder.context:
            raise UsageError(
                f"the prompt has {len(ids)} tokens, and the model sees {decoder.context} with its answer",
                code="generation.too_long",
                hint="Shorten the prompt.",
            )
        most = min(limits.answers, decoder.slots)
        refuse_beyond(not 1 <= request.n <= most, f"{request.n} answers to one request", f"Ask for 1 to {most}.")
        refuse_beyond(sampling.max_new_tokens < 1, "an answer of no tokens", "Ask for at least one.")
        stops = request.stops
        wrong = len(stops) > limits.stops or any(not 0 < len(stop) <= limits.stop_length for stop in stops)
        said = f"Give at most {limits.stops} of 1 to {limits.stop_length} characters."
        refuse_beyond(wrong, "these stop strings", said)
        need = request.n * min(len(ids) + sampling.max_new_tokens, decoder.context)
        room = self.loop.room()
        refuse_beyond(need > room, f"a request of {need} tokens", f"Prompt and answers may have {room} together.")

    def load(self, name: str, folder: Path, tokenizer: Tokenizer | None = None) -> Loaded:
        """Have a folder's adapter under a name; a name that is there stands for the new one from now on, and answers
        that were asked for before go on with the one they began with. The caller's thread reads the files.

        Raises what `Decoder.read` raises, InputError `adapter.changed`, ResourceError `memory.adapter`, UsageError
        `generation.limit` beyond `Limits.names`, Closing. Where nothing can fail any more it does not wait for the
        running step, after which the adapter is ready.
        """
        start = time.monotonic()
        full = name not in self.names and len(self.names) >= self.limits.names
        refuse_beyond(full, f"more than {self.limits.names} adapters", "Unload one first.")
        digest, found = self.loop.shelf.read(folder)

        with self.loop.changed:
            if self.loop.over:
                raise Closing
            version = self.loop.shelf.keep(digest, folder, found)
            version.uses += 1
        if found.sure:
            self.loop.later(lambda: self.ready(version))
        else:
            try:
                self.loop.call(lambda: self.ready(version))
            except BaseException:
                self.let_go(version)
                raise
        with self.loop.changed:
            before = self.names.get(name)
            self.names[name] = Named(version, tokenizer or self.tokenizer)
        if before:
            self.let_go(before.version)
        return Loaded(name, digest, version.mixed, time.monotonic() - start)

    def ready(self, version: Version) -> None:
        """In the decoder's thread: have a version on the device, where it has not been forgotten meanwhile."""
        if self.loop.shelf.versions.get(version.digest) is version:
            self.loop.shelf.ready(version, self.loop.used())

    def unload(self, name: str, *, wait: bool = True) -> None:
        """Forget a name; answers that were asked for before end as they would. `wait` until what nothing holds any more
        is gone. Raises Unknown, Closing."""
        with self.loop.changed:
            if self.loop.over:
                raise Closing
            named = self.names.pop(name, None)
        if named is None:
            raise Unknown(name)
        self.let_go(named.version)
        if wait:
            self.loop.call(lambda: None)

    def let_go(self, version: Version) -> None:
        """One that holds it less; what nothing holds is forgotten before the next step."""
        with self.loop.changed:
            version.uses -= 1
            self.loop.unswept = True
            self.loop.stir()

    def grammar(self, schema: Mapping[str, Any]) -> Schema:
        """Compile a JSON schema for `Request.grammar`; not in an event loop, for it may take a second.

        Raises UsageError `generation.schema`."""
        return self.grammars.compile(schema)

    def adapters(self) -> list[dict[str, Any]]:
        """JSON-ready, by name: digest, mixed, and where it is: `device`, `memory` or `disk`."""
        shelf = self.loop.shelf
        with self.loop.changed:
            named = {name: one.version for name, one in sorted(self.names.items())}
        return [
            {
                "name": name,
                "digest": one.digest,
                "mixed": one.mixed,
                "place": "device" if one.digest in shelf.device else "memory" if one.digest in shelf.host else "disk",
            }
            for name, one in named.items()
        ]

    def stats(self) -> dict[str, Any]:
        """JSON-ready: how things stand now, and totals since the start."""
        loop = self.loop
        with loop.changed:
            return {
                "running": len(loop.rows),
                "waiting": len(loop.waiting),
                "slots": self.decoder.slots,
                "adapters": {
                    "names": len(self.names),
                    "versions": len(loop.shelf.versions),
                    "device": len(loop.shelf.device),
                    "memory": len(loop.shelf.host),
                },
                "seconds_per_request": loop.pace,
                "closing": loop.until is not None,
                "totals": dict(loop.counts),
            }

    def close(self, seconds: float = 0.0) -> bool:
        """Take no more requests, let what was taken end for so long, end the rest with an error event `serve.closed`,
        and give the decoder back. Returns whether all of it ended in time."""
        loop = self.loop
        with loop.changed:
            if loop.until is None:
                loop.until = time.monotonic() + seconds
            loop.stir()
        loop.thread.join()
        return not loop.counts["cut_off"]

    def __enter__(self) -> Scheduler:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def refuse_foreign(ids: list[int], vocabulary: int) -> None:
    """Raises UsageError `generation.token` for an id that the model has no token for."""
    wrong = next((token for token in ids if not 0 <= token < vocabulary), None)
    if wrong is not None:
        raise UsageError(
            f"there is no token {wrong}: this model's ids run from 0 to {vocabulary - 1}",
            code="generation.token",
            hint="Give ids of this model's own tokenizer.",
        )


def refuse_beyond(wrong: bool, what: str, hint: str) -> None:
    if wrong:
        raise UsageError(f"{what}: more than is served here", code="generation.limit", hint=hint)

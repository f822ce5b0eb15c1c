"""The thread that owns the decoder: what it does between two tokens, and how it ends.

What other threads hand over (requests, tasks, the wish to end) stands behind `changed`; everything else is the
thread's own.
"""

from __future__ import annotations

import logging
import time
from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import replace
from threading import Condition, Thread
from typing import TypeVar

from truetune.engines.base import OutOfMemory
from truetune.engines.decoder import Decoder, Token
from truetune.errors import ResourceError, TrueTuneError
from truetune.serve.adapters import Shelf
from truetune.serve.jobs import Job
from truetune.serve.requests import Closing, Event, Limits, Reason

T = TypeVar("T")
PACE = 0.1
"""How much the newest answer counts in the mean time of answers."""


class Loop:
    """Decodes what waits until it is asked to end."""

    def __init__(self, open: Callable[[], Decoder], limits: Limits) -> None:
        self.limits = limits
        self.changed = Condition()
        self.stirred = False
        self.waiting: deque[Job] = deque()
        self.tasks: deque[tuple[Callable[[], None], Future[None]]] = deque()
        self.unswept = False
        """Whether there may be versions that nothing holds any more."""
        self.until: float | None = None
        """When to end; None while requests are taken."""
        self.over = False
        self.rows: dict[int, tuple[Job, int]] = {}
        """Slot -> whose answer it is, and which one. Jobs stand in the order of their admission."""
        self.most: int | None = None
        """Rows that the memory held when it ran out, until one of them ends."""
        self.counts: Counter[str] = Counter()
        self.pace = 0.0
        """Mean seconds of a request, from its submission to its end."""
        self.opened: Future[None] = Future()
        self.thread = Thread(target=self.run, args=(open,), name="decoder", daemon=True)
        self.thread.start()
        self.opened.result()

    # What other threads call

    def stir(self) -> None:
        with self.changed:
            self.stirred = True
            self.changed.notify()

    def call(self, task: Callable[[], T]) -> T:
        """Run something between two steps, and wait for it. Raises what it raises, and Closing."""
        found: list[T] = []
        self.later(lambda: found.append(task())).result()
        return found[0]

    def later(self, task: Callable[[], None]) -> Future[None]:
        """Run something between two steps. Raises Closing."""
        done: Future[None] = Future()
        with self.changed:
            if self.over:
                raise Closing
            self.tasks.append((task, done))
            self.stir()
        return done

    # The thread

    def run(self, open: Callable[[], Decoder]) -> None:
        try:
            self.decoder = open()
            self.shelf = Shelf(self.decoder, self.limits, self.stir)
        except BaseException as error:
            self.opened.set_exception(error)
            return
        self.opened.set_result(None)
        while not self.finished():
            self.pause()
            try:
                self.work()
            except Exception as error:  # a bug; whoever is in it hears of it, and the next request is served
                self.break_off(error)
        self.end()

    def finished(self) -> bool:
        with self.changed:
            if self.until is None:
                return False
            return time.monotonic() >= self.until or not (self.rows or self.waiting or self.tasks)

    def pause(self) -> None:
        """Until there is something to do."""
        with self.changed:
            if not self.rows and not self.stirred:
                self.changed.wait(self.patience())
            self.stirred = False

    def patience(self) -> float | None:
        """Seconds until a waiting request is late, or the end comes."""
        times = [job.deadline() for job in self.waiting] + ([] if self.until is None else [self.until])
        first = min(times, default=float("inf"))
        return None if first == float("inf") else max(0.0, first - time.monotonic())

    def work(self) -> None:
        if self.unswept:
            self.unswept = False
            self.sweep()
        for task, done in self.taken():
            try:
                task()
            except BaseException as error:
                done.set_exception(error)
            else:
                done.set_result(None)
        self.give_up()
        self.admit()
        if self.rows:
            self.step()

    def taken(self) -> list[tuple[Callable[[], None], Future[None]]]:
        with self.changed:
            tasks = [*self.tasks]
            self.tasks.clear()
        return tasks

    def give_up(self) -> None:
        """End what was cancelled, and what is late."""
        now = time.monotonic()
        for job in self.jobs():
            if job.cancelled:
                self.end_job(job, "cancelled")
            elif now >= job.deadline():
                self.end_job(job, "timeout")

    def jobs(self) -> list[Job]:
        """All that have not ended, those that are decoded first."""
        with self.changed:
            return [*dict.fromkeys(job for job, _ in self.rows.values()), *self.waiting]

    def used(self) -> set[str]:
        return {job.adapter for job, _ in self.rows.values() if job.adapter}

    # Admission

    def admit(self) -> None:
        """Begin waiting requests, in their order, as far as there is room."""
        with self.changed:
            waiting = [*self.waiting]
        for job in waiting:
            if not self.fits(job):
                return
            version = job.named.version if job.named else None
            try:
                ready = version is None or self.shelf.ready(version, self.used())
            except TrueTuneError as error:
                self.end_job(job, "error", error)
                continue
            if version and not ready:
                if version.fetch:
                    continue  # it is being read; those behind need not wait for it
                return
            self.begin(job)

    def fits(self, job: Job) -> bool:
        """Whether there are slots and memory for all answers of a request."""
        rows = len(self.rows) + job.request.n
        if self.most is not None and rows > self.most:
            return False
        context = self.decoder.context
        longest = max([job.tokens(context), *(other.tokens(context) for other, _ in self.rows.values())])
        return rows <= self.decoder.slots and (not self.rows or rows * longest <= self.room())

    def room(self) -> int:
        return self.limits.tokens or self.decoder.slots * self.decoder.context

    def begin(self, job: Job) -> None:
        """Give a request its slots. Where the memory runs out it waits for others to end; alone it cannot be had."""
        ids, first = job.request.ids, job.rules.get(0)
        try:
            slot = self.decoder.admit(ids, job.adapter, job.sampling(0), first)
            self.put(job, 0, slot)
            job.cached = self.decoder.cached(slot)
            for choice in range(1, job.request.n):
                self.put(job, choice, self.decoder.fork(slot, job.sampling(choice), job.rules.get(choice)))
        except OutOfMemory:
            self.counts["out_of_memory"] += 1
            self.leave(job)
            if self.rows:
                self.most = len(self.rows)
            else:
                self.end_job(job, "error", no_memory())
            return
        except TrueTuneError as error:
            self.end_job(job, "error", error)
            return
        with self.changed:
            self.waiting.remove(job)
        self.counts["prompt_tokens"] += len(ids)
        self.counts["cached_tokens"] += job.cached

    def put(self, job: Job, choice: int, slot: int) -> None:
        job.slots[choice] = slot
        self.rows[slot] = job, choice

    # Steps

    def step(self) -> None:
        """New requests hear their first token before the step of those that go on: they have waited for one already."""
        try:
            for token in self.decoder.begin(self.limits.chunk):
                self.say(token)
            tokens = self.decoder.decode(self.limits.chunk)
        except OutOfMemory:
            self.lighten()
            return
        for token in tokens:
            self.say(token)

    def say(self, token: Token) -> None:
        """Tell a row's next token; the row ends where its text or its grammar does."""
        job, choice = self.rows[token.slot]
        if token.reason:
            self.forget(job, choice)
        self.counts["tokens"] += 1
        rule = job.rules.get(choice)
        try:
            event = job.answers[choice].take(token)
        except TrueTuneError as error:  # its tokenizer breaks down
            self.end_answer(job, choice, Event(choice, reason="error", error=error))
            return
        if rule and rule.failed:
            event = Event(choice, reason="error", error=rule.failed)
        elif rule and rule.done:
            event = replace(event, reason="stop") if event and event.reason else job.answers[choice].whole(event)
        if event and event.reason:
            self.end_answer(job, choice, event)
        elif event:
            job.handle.tell(event)

    def lighten(self) -> None:
        """The memory does not hold all rows: give back what can be spared, then end the newest row."""
        self.counts["out_of_memory"] += 1
        self.decoder.spare()
        job, choice = [*self.rows.values()][-1]
        self.end_answer(job, choice, Event(choice, reason="error", error=no_memory()))
        self.most = len(self.rows) or None

    # Ends

    def end_answer(self, job: Job, choice: int, event: Event) -> None:
        """The last event of an answer; with the last answer the request ends."""
        answer = job.answers.pop(choice)
        if choice in job.slots:
            self.release(job, choice)
        self.most, self.stirred = None, True  # there may be room now for one that waits
        made = replace(event, choice=choice, made=answer.made, cached=job.cached)
        job.handle.tell(made)
        self.counts[f"answers_{event.reason}"] += 1
        if not job.answers:
            self.close_job(job)

    def end_job(self, job: Job, reason: Reason, error: TrueTuneError | None = None) -> None:
        for choice in [*job.answers]:
            self.end_answer(job, choice, Event(choice, reason=reason, error=error))

    def close_job(self, job: Job) -> None:
        with self.changed:
            with suppress(ValueError):
                self.waiting.remove(job)
            if job.named:
                job.named.version.uses -= 1
        if job.named and not job.named.version.uses:
            self.sweep()
        self.pace += PACE * (time.monotonic() - job.since - self.pace)

    def sweep(self) -> None:
        with self.changed:
            self.shelf.sweep(self.used())

    def leave(self, job: Job) -> None:
        """Take back a request's slots, before it has begun."""
        for choice in [*job.slots]:
            self.release(job, choice)

    def release(self, job: Job, choice: int) -> None:
        with suppress(KeyError):  # the decoder failed while it took leave of the row
            self.decoder.release(job.slots[choice])
        self.forget(job, choice)

    def forget(self, job: Job, choice: int) -> None:
        del self.rows[job.slots.pop(choice)]

    def break_off(self, error: Exception) -> None:
        """End everything that is decoded, after an error that nobody has foreseen."""
        logging.getLogger(__name__).error("the decoder failed", exc_info=error)
        self.counts["failures"] += 1
        said = TrueTuneError(f"the engine failed: {type(error).__name__}", code="bug", hint="Please report it.")
        for job in dict.fromkeys(job for job, _ in self.rows.values()):
            self.end_job(job, "error", said)

    def end(self) -> None:
        """Tell whoever still waits, and give the decoder back."""
        with self.changed:
            self.over = True
        for job in self.jobs():
            self.counts["cut_off"] += 1
            self.end_job(job, "error", closed())
        for _, done in self.taken():
            done.set_exception(Closing())
        self.shelf.close()
        self.decoder.close()


def no_memory() -> ResourceError:
    return ResourceError(
        "the memory does not hold this answer beside the others",
        code="memory.serving",
        hint="Ask again later, with a shorter prompt or fewer tokens; or serve with fewer slots.",
    )


def closed() -> ResourceError:
    return ResourceError(
        "the server ended before this answer did", code="serve.closed", hint="Ask again when it is back."
    )

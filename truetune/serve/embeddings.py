"""Embeddings of texts, for `/v1/embeddings`: of an encoder, or of the body of a classifier that is trained on one.

A request is cut into parts of texts of about the same length, and each part waits for its turn, so that a short request
does not wait for the end of a long one. What is read is not cut: a text that is too long is refused.
"""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from truetune import engines
from truetune.data import framed
from truetune.data.rows import Labelled, RowError
from truetune.engines.base import OutOfMemory
from truetune.engines.decoder import DecoderSpec
from truetune.engines.reader import Reader
from truetune.errors import ResourceError, UsageError
from truetune.evaluate.subject import Subject
from truetune.models import encoders, facts
from truetune.serve.classes import Classifier, card
from truetune.serve.openai import Json
from truetune.serve.refusals import Refusal, busy

PART = 4096
"""Tokens that are computed together, padding included."""
QUEUE = 64
"""Requests that are read or wait; beyond it 429."""
Vectors = NDArray[np.float32]


class Embedder:
    """A model that reads, and how its texts become ids and embeddings."""

    def __init__(self, subject: Subject, reader: Reader, *, lock: Lock | None = None, queue: int = QUEUE) -> None:
        """`lock`: of whoever else computes with the reader. Raises InputError `model.pooling`."""
        base = subject.base.folder
        self.subject, self.reader, self.lock, self.queue = subject, reader, lock or Lock(), queue
        self.tokenizer, self.frame = subject.tokenizer, framed.frame(subject.tokenizer)
        self.pooling, known = encoders.pooling(base), facts.read(base)
        self.width, self.vocabulary = known.hidden, known.vocabulary
        self.longest = min(each for each in (self.pooling.longest, known.reach, 2**17) if each)
        self.waiting, self.turn = 0, asyncio.Lock()
        self.created = int(time.time())

    def ids(self, asked: str | Sequence[int], place: int) -> list[int]:
        """A text as the tokenizer puts it for the model, or ids as they stand. Raises UsageError `generation.empty`,
        `generation.too_long`, `generation.token`, `generation.control`."""
        where = f"input.{place}"
        ids = self.encoded(asked, where) if isinstance(asked, str) else list(asked)
        if max(ids) >= self.vocabulary:
            raise UsageError(
                f"there is no token {max(ids):,}: this model's ids run from 0 to {self.vocabulary - 1:,}",
                code="generation.token",
                where=where,
                hint="Give ids of this model's own tokenizer.",
            )
        if len(ids) > self.longest:
            raise UsageError(
                f"the text has {len(ids):,} tokens, and the model reads {self.longest:,}",
                code="generation.too_long",
                where=where,
                hint="Part it: nothing is cut off silently.",
            )
        return ids

    def encoded(self, text: str, where: str) -> list[int]:
        if not text.strip():
            raise UsageError("there is no text", code="generation.empty", where=where, hint="Leave it out.")
        row = Labelled(text.lower() if self.pooling.lower else text, ())
        try:
            framed.check(row, self.tokenizer)
        except RowError as error:
            raise UsageError(error.reason, code="generation.control", where=where, hint="Change it.") from None
        ids, _ = self.frame.ids(self.tokenizer.encode_batch([row.text]))
        return [int(each) for each in ids]

    def prepared(self, asked: Sequence[str | Sequence[int]]) -> list[list[int]]:
        return [self.ids(each, place) for place, each in enumerate(asked)]

    async def embed(self, texts: Sequence[Sequence[int]]) -> Vectors:
        """float32 [texts, H]. Raises Refusal 429 where too many wait, ResourceError `memory.serving`."""
        found = np.empty((len(texts), self.width), np.float32)
        async with self.room():
            for part in parts(texts):
                async with self.turn:
                    found[part] = await asyncio.to_thread(self.part, [texts[at] for at in part])
        return found

    @asynccontextmanager
    async def room(self) -> AsyncGenerator[None]:
        if self.waiting > self.queue:
            raise busy()
        self.waiting += 1
        try:
            yield
        finally:
            self.waiting -= 1

    def part(self, texts: Sequence[Sequence[int]]) -> Vectors:
        """As `embed`, all at once; where the memory does not hold that, half and half."""
        try:
            with self.lock:
                return self.reader.embed(texts, self.pooling)
        except OutOfMemory:
            if len(texts) == 1:
                raise ResourceError(
                    "the memory does not hold this text beside what is in it",
                    code="memory.serving",
                    hint="Ask again later, or with a shorter text.",
                ) from None
            half = len(texts) // 2
            return np.concatenate([self.part(texts[:half]), self.part(texts[half:])])

    def card(self, name: str) -> Json:
        """What `/v1/models` says."""
        return card(name, self.subject, self.longest, self.created)


def of_base(subject: Subject, device: str, queue: int = QUEUE) -> Embedder:
    """An encoder as it is. Raises UsageError `serve.reads`, and what `engines.open_reader` raises."""
    if subject.tuned:
        raise UsageError(
            "it is an encoder with an adapter that no run here has trained to sort texts",
            code="serve.reads",
            where=subject.name,
            hint=f"Serve its base, {subject.base.name}, or a run of classification.",
        )
    choice = engines.module("torch").choose(device, subject.dtype)
    folder = subject.base.folder
    bits = facts.read(folder).bits
    engines.refuse_unpackable(bits, choice.device)
    spec = DecoderSpec(folder, device=choice.device, dtype=choice.dtype, bits=bits)
    return Embedder(subject, engines.open_reader(spec), queue=queue)


def of_classifier(found: Classifier, queue: int = QUEUE) -> Embedder | None:
    """The body of a classifier; None where that writes."""
    if not encoders.reads(found.subject.base.folder):
        return None
    return Embedder(found.subject, found.engine, lock=found.lock, queue=queue)  # type: ignore[arg-type]


def parts(texts: Sequence[Sequence[int]]) -> list[list[int]]:
    """Places of texts that are computed together: the longest first, about `PART` tokens with their padding."""
    found: list[list[int]] = []
    for at in sorted(range(len(texts)), key=lambda at: -len(texts[at])):
        if not found or (len(found[-1]) + 1) * len(texts[found[-1][0]]) > PART:
            found.append([])
        found[-1].append(at)
    return found


def answer(name: str, vectors: Vectors, tokens: int, encoding: str | None) -> Json:
    """OpenAI's form; `base64` is that of the float32 numbers, little end first."""
    spelled = [packed(each) if encoding == "base64" else each.tolist() for each in vectors]
    data = [{"object": "embedding", "index": at, "embedding": each} for at, each in enumerate(spelled)]
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return {"object": "list", "model": name, "data": data, "usage": usage}


def packed(vector: Vectors) -> str:
    return base64.b64encode(vector.astype("<f4").tobytes()).decode()


def check_width(asked: int | None, width: int) -> None:
    """Raises Refusal 400: numbers are not left out of embeddings that were not made for that."""
    if asked is not None and asked != width:
        message = f"This model's embeddings have {width:,} numbers; `dimensions` cannot make them others."
        raise Refusal(400, message, code="invalid_value", param="dimensions")

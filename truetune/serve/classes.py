"""Models that sort texts into classes, for `/v1/classify`: each has an engine of its own, one batch at a time."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from threading import Lock
from types import SimpleNamespace
from typing import Any, NoReturn

import numpy as np

from truetune import engines
from truetune.data.example import Example
from truetune.data.fit import cut
from truetune.data.render import Renderer
from truetune.data.rows import Labelled, RowError
from truetune.errors import UsageError
from truetune.evaluate import scored
from truetune.evaluate.subject import Subject
from truetune.serve.openai import Json


class Classifier:
    """A run of classification, opened. Raises what `evaluate.scored.opened` raises."""

    def __init__(self, subject: Subject, device: str) -> None:
        assert subject.run is not None
        self.subject, resolved = subject, subject.run.resolved
        self.names = [str(name) for name in resolved["classes"]["names"]]
        self.several = bool(resolved["classes"]["several"])
        self.threshold = float(resolved["config"]["classification"]["threshold"])
        self.longest = int(resolved["config"]["data"]["max_length"])
        self.renderer = Renderer(subject.tokenizer, subject.tokenizer.plain())
        name = scored.engine_of(resolved)
        choice = engines.module(name).choose(device, subject.dtype)
        self.engine = scored.opened(subject, name, choice.device, choice.dtype)
        self.lock = Lock()
        self.created = int(time.time())

    def classify(self, texts: Sequence[str]) -> tuple[list[Json], int]:
        """For each text {index, label, labels, probs, num_classes}, and how many tokens were read.

        For any thread, one at a time. Raises UsageError `generation.empty`.
        """
        with self.lock:
            examples = [self.example(place, text) for place, text in enumerate(texts)]
            table = scored.fitting(self.engine, examples)
        shares = scored.probabilities(table, several=self.several)
        found = scored.taken(table, self.threshold, several=self.several)
        answers = [self.answer(place, shares[place], found[place]) for place in range(len(texts))]
        return answers, sum(example.tokens for example in examples)

    def answer(self, place: int, shares: Any, found: Any) -> Json:
        taken = [self.names[int(number)] for number in np.flatnonzero(found)]
        likeliest = self.names[int(shares.argmax())]
        return {
            "index": place,
            "label": likeliest if likeliest in taken else None,
            "labels": taken,
            "probs": [float(share) for share in shares],
            "num_classes": len(self.names),
        }

    def example(self, place: int, text: str) -> Example:
        """As rows are rendered that it was trained on, cut to the length that these had at most."""
        try:
            part = cut(self.renderer.one(Labelled(text, ())).parts[0], self.longest)
        except RowError as error:
            raise UsageError(error.reason, code="generation.empty", where=f"input.{place}", hint="Change it.") from None
        return Example(part.ids, part.weights, place, part.second, (0,))

    def card(self, name: str) -> Json:
        """What `/v1/models` says."""
        return card(name, self.subject, self.longest, self.created)


def card(name: str, subject: Subject, longest: int, created: int) -> Json:
    """What `/v1/models` says of a model that reads texts of `longest` tokens and writes nothing."""
    return {
        "id": name,
        "object": "model",
        "created": created,
        "owned_by": "truetune",
        "root": subject.name,
        "parent": subject.base.name if subject.tuned else None,
        "max_model_len": longest,
        "alone": True,
    }


class Silent:
    """The scheduler of a server that only sorts into classes: nothing writes."""

    decoder = SimpleNamespace(context=0)

    def submit(self, request: Any) -> NoReturn:
        raise silent()

    def check_room(self) -> NoReturn:
        raise silent()

    def load(self, name: str, folder: Path, tokenizer: Any = None) -> NoReturn:
        raise silent()

    def grammar(self, schema: Any) -> NoReturn:
        raise silent()

    def unload(self, name: str, *, wait: bool = True) -> None:
        """There is none."""

    def stats(self) -> Json:
        return {"running": 0, "waiting": 0, "slots": 0, "adapters": {"names": 0}, "totals": {}}

    def close(self, seconds: float = 0.0) -> bool:
        return True


def silent() -> UsageError:
    return UsageError(
        "this model reads texts, and writes nothing",
        code="subject.scores",
        hint="Ask /v1/classify or /v1/embeddings; or serve a model that writes.",
    )

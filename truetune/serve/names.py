"""The names under which models are asked for: an adapter's address (`support@3`), the same without its version, a run's
id, the base's name. What a name means can change while the server runs; what a request began with cannot."""

from __future__ import annotations

import re
import threading
import time
from dataclasses import dataclass, field
from functools import cached_property

from truetune.errors import CheckFailed, UsageError
from truetune.evaluate.subject import Subject
from truetune.evaluate.voice import Voice
from truetune.runs import jsonfile, receipt
from truetune.serve.openai import Json

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@:/-]{0,254}")
"""What a model may be called in a request: a name, not a path that is opened."""


@dataclass(frozen=True, eq=False)
class Served:
    """A model that can be asked: the base, or the base with an adapter."""

    id: str
    subject: Subject
    key: str | None = None
    """What the scheduler calls its adapter; None = the base alone."""
    root: str = ""
    """Where it comes from, for `/v1/models`."""
    parent: str | None = None
    """The base's id; None for the base itself."""
    mixed: bool = True
    """Whether its requests share batches with others'."""
    created: int = field(default_factory=lambda: int(time.time()))

    @cached_property
    def voice(self) -> Voice:
        """Renders prompts and settles how answers are drawn, as `ft chat` does; it opens no engine of its own."""
        return Voice(self.subject)

    def card(self, context: int) -> Json:
        """What `/v1/models` says."""
        return {
            "id": self.id,
            "object": "model",
            "created": self.created,
            "owned_by": "truetune",
            "root": self.root,
            "parent": self.parent,
            "max_model_len": context,
            "alone": not self.mixed,
        }


class Names:
    """Name -> model. Any thread may ask and change it."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.table: dict[str, Served] = {}

    def find(self, name: str) -> Served | None:
        with self.lock:
            return self.table.get(name)

    def all(self) -> list[Served]:
        with self.lock:
            return list(self.table.values())

    def point(self, served: Served) -> Served | None:
        """Let its name mean this model; returns what it meant before."""
        with self.lock:
            before = self.table.get(served.id)
            self.table[served.id] = served
            return before

    def drop(self, name: str) -> Served:
        """Take a name away; returns what it meant. KeyError where there is none."""
        with self.lock:
            return self.table.pop(name)


def checked(name: str) -> str:
    """Raises UsageError `serve.name`."""
    if NAME.fullmatch(name) and ".." not in name and "//" not in name:
        return name
    raise UsageError(
        f"{name[:80]!r} is no name for a model",
        code="serve.name",
        hint="Names have letters, digits, `.`, `_`, `-`, `@`, `:` and `/`, and begin with a letter or digit.",
    )


def check_rendering(subject: Subject) -> None:
    """A model is served with the template that it was trained with: its digest is that of the receipt. (The tokenizer's
    files are among the base's, which are compared with theirs.) Raises CheckFailed `serve.rendering`."""
    if subject.run is None or subject.template is None:
        return
    place = receipt.path(subject.run, "data")
    if not place.is_file():
        return
    trained = (jsonfile.load(place).get("rendering") or {}).get("template_sha256")
    if trained and trained != subject.template.digest:
        raise CheckFailed(
            "the chat template is not the one that this was trained with",
            code="serve.rendering",
            where=subject.name,
            hint=f"`ft receipt verify {subject.run.id}` names what has changed: put the old file back.",
        )

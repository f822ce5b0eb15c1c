"""Who can be asked for more rows: whatever answers prompts. A model on this machine stands here, one behind an address
in `endpoint.py`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Protocol

from truetune.augment.methods import Messages
from truetune.errors import UsageError
from truetune.evaluate.subject import Subject
from truetune.evaluate.talk import checked, out_of_memory
from truetune.evaluate.voice import Voice


class Speaker(Protocol):
    """Answers many prompts at once, each drawn from its own seed: `seed`, `seed` + 1, …"""

    @property
    def name(self) -> str: ...
    @property
    def special(self) -> re.Pattern[str] | None:
        """Matches its control tokens, where they are known."""

    def ask(self, prompts: Sequence[Messages], *, seed: int, temperature: float, max_new_tokens: int) -> list[str]:
        """Whole answers, in the order of the prompts; an empty one where there is none, or it was cut."""

    def close(self) -> None: ...


class Local:
    """A model, adapter or run on this machine.

    Raises UsageError `augment.goes_on` for a subject that goes on with texts, ResourceError where the memory runs out.
    """

    def __init__(self, subject: Subject, *, device: str = "auto", slots: int = 8) -> None:
        if subject.template is None:
            raise UsageError(
                "this model was trained to go on with texts: it does not do what it is asked",
                code="augment.goes_on",
                where=subject.name,
                hint="Name a model that answers, such as an instruct model of the hub.",
            )
        self.voice = Voice(subject, device=device, slots=slots)

    @property
    def name(self) -> str:
        return self.voice.subject.name

    @property
    def special(self) -> re.Pattern[str]:
        return self.voice.subject.tokenizer.special

    def ask(self, prompts: Sequence[Messages], *, seed: int, temperature: float, max_new_tokens: int) -> list[str]:
        texts = [""] * len(prompts)
        drawn = self.voice.sampling(temperature=temperature, seed=seed, max_new_tokens=max_new_tokens)
        with out_of_memory():
            ids = [self.prompt(messages) for messages in prompts]
            asked = [place for place, found in enumerate(ids) if 0 < len(found) < self.voice.context]
            for at, reply in self.voice.replies([ids[place] for place in asked], drawn):
                if reply.reason == "stop":
                    texts[asked[at]] = reply.text
        return texts

    def prompt(self, messages: Messages) -> list[int]:
        """Ids of a prompt; none where a row's text would forge the structure of the conversation."""
        try:
            return self.voice.prompt(checked(self.voice.subject, messages))
        except UsageError:
            return []

    def close(self) -> None:
        self.voice.close()

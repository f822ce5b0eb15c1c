"""One base that stays in memory while its adapters come and go: what the shell asks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from truetune import engines
from truetune.engines.decoder import Decoder
from truetune.errors import UsageError
from truetune.evaluate import sampling, talk
from truetune.evaluate.subject import Subject, of_base
from truetune.evaluate.voice import Answer, Text, Voice, refuse_scores


class Session:
    """`load` names, `switch` between them, `ask`. The base of the first one is opened then and stays open; a name over
    another base takes its place, and the adapters of the old one are forgotten."""

    def __init__(self, device: str = "auto") -> None:
        self.device = device
        self.base: Subject | None = None
        """What is asked where no adapter is switched on: the base, or what full fine-tuning made of it."""
        self.loaded: dict[str, Subject] = {}
        self.active: str | None = None
        self.decoder: Decoder | None = None

    def load(self, name: str, subject: Subject) -> bool:
        """Bring a subject into memory under a name and switch to it; returns whether a base was opened for it.

        Raises what `engines.open_decoder` and `Decoder.load` raise; then all is as it was, but that a base of before
        may be gone. UsageError `subject.scores`.
        """
        refuse_scores(subject)
        opened = self.decoder is None or not self.fits(subject)
        if opened:
            self.open(subject)
        assert self.decoder is not None
        if subject.adapter is None:
            self.active = None
            return opened
        self.decoder.load(name, Path(subject.adapter))
        self.loaded[name], self.active = subject, name
        return opened

    def fits(self, subject: Subject) -> bool:
        """Whether the base in memory is this subject's."""
        return self.base is not None and described(grounds(subject)) == described(self.base)

    def open(self, subject: Subject) -> None:
        voice = Voice(subject, device=self.device, slots=1)
        spec = voice.whole
        self.close()
        self.decoder, self.base = engines.open_decoder(voice.engine, spec), grounds(subject)

    def switch(self, name: str | None) -> None:
        """Ask this one from now on; None = the base. Raises UsageError `session.unknown`."""
        if name is not None and name not in self.loaded:
            raise unknown(name)
        self.active = name

    def unload(self, name: str) -> None:
        """Forget an adapter; where it was asked, the base is. Raises UsageError `session.unknown`."""
        if name not in self.loaded:
            raise unknown(name)
        assert self.decoder is not None
        self.decoder.drop(name)
        del self.loaded[name]
        self.active = None if self.active == name else self.active

    def ask(self, prompt: str, **chosen: Any) -> Answer:
        """The answer to one question, piece by piece; it remembers nothing. `chosen` as in `Voice.sampling`.

        Raises UsageError `session.empty`, and what `Voice.prompt` and `Voice.sampling` raise.
        """
        if self.decoder is None or self.base is None:
            raise UsageError(
                "there is no model in memory yet",
                code="session.empty",
                hint="Load one: load NAME, load starter.",
            )
        subject = self.loaded[self.active] if self.active else self.base
        voice = Voice(subject, device=self.device)
        ids = voice.prompt(talk.checked(subject, prompt))
        drawn = voice.sampling(**({"seed": sampling.fresh_seed()} | chosen))
        return Answer(self.decoder, self.decoder.admit(ids, self.active, drawn), Text(subject.tokenizer))

    def describe(self) -> dict[str, Any]:
        """JSON-ready: base, adapters, active."""
        return {
            "base": self.base.name if self.base else None,
            "adapters": sorted(self.loaded),
            "active": self.active,
        }

    def close(self) -> None:
        if self.decoder:
            self.decoder.close()
        self.decoder, self.base, self.active = None, None, None
        self.loaded.clear()


def grounds(subject: Subject) -> Subject:
    """What stays in memory below an adapter; what was trained whole stands for itself."""
    if subject.adapter is None:
        return subject
    return replace(of_base(subject.base), dtype=subject.dtype, bits=subject.bits)


def described(ground: Subject) -> tuple[Any, ...]:
    return (ground.model or ground.base.folder).resolve(), ground.weights, ground.bits


def unknown(name: str) -> UsageError:
    return UsageError(f"{name} is not in memory", code="session.unknown", where=name, hint=f"Load it: load {name}.")

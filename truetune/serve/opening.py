"""From what a person wants served to a service: one base in memory, and an adapter under each name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from truetune import engines
from truetune.engines.decoder import Decoder, DecoderSpec
from truetune.evaluate.session import grounds
from truetune.evaluate.subject import Subject
from truetune.evaluate.voice import Voice
from truetune.models import encoders
from truetune.serve import embeddings
from truetune.serve.classes import Classifier, Silent
from truetune.serve.names import Served, checked
from truetune.serve.requests import Limits
from truetune.serve.scheduler import Scheduler
from truetune.serve.service import TIMEOUT, Look, Service, check_base


@dataclass(frozen=True)
class Wanted:
    """A subject, and the names that it is served under; none for a base, which has its own."""

    names: tuple[str, ...]
    subject: Subject


@dataclass(frozen=True)
class Room:
    """How much is done at once."""

    slots: int = 8
    """Answers that are written together."""
    queue: int = 64
    """Requests that wait; beyond it 429."""
    cache: int = 256 * 2**20
    """Bytes for prompts that begin alike."""
    timeout: float = TIMEOUT
    """Seconds of an answer."""


def opened(wanted: Sequence[Wanted], look: Look, *, device: str, room: Room) -> tuple[Service, str]:
    """The service, and why the device is not the one that was asked for, where it is another.

    Raises UsageError `serve.other_base`, what `engines.open_decoder` and `Service.ready` raise.
    """
    classifiers, embedders = readers(wanted, device, room)
    more: dict[str, Any] = {"timeout": room.timeout, "classifiers": classifiers, "embedders": embedders}
    writers = [one for one in wanted if writes(one.subject)]
    if not writers:
        base = Served(checked(called(wanted[0].subject.base.name)), wanted[0].subject)
        return Service(Silent(), base, look, **more), ""
    first = writers[0].subject
    base = based(first)
    for one in writers[1:]:
        check_base(one.subject, base.subject)
    voice = Voice(first, device=device, slots=room.slots)
    spec = replace(voice.whole, cache=room.cache)
    limits = Limits(queue=room.queue)
    scheduler = Scheduler(lambda: decoder(voice.engine, spec), base.subject.tokenizer, limits)
    try:
        service = Service(scheduler, base, look, **more)
        for one in writers:
            for name in one.names:
                service.names.point(named(service, checked(name), one.subject))
    except BaseException:
        scheduler.close()
        raise
    return service, voice.warning


def writes(subject: Subject) -> bool:
    return not subject.scores and not encoders.reads(subject.base.folder)


def readers(
    wanted: Sequence[Wanted], device: str, room: Room
) -> tuple[dict[str, Classifier], dict[str, embeddings.Embedder]]:
    """What sorts into classes and what gives embeddings, by name; a classifier over an encoder does both."""
    classifiers: dict[str, Classifier] = {}
    embedders: dict[str, embeddings.Embedder] = {}
    for one in wanted:
        if one.subject.scores:
            found = Classifier(one.subject, device)
            body = embeddings.of_classifier(found, room.queue)
            classifiers |= {checked(name): found for name in one.names}
            embedders |= {name: body for name in one.names if body}
        elif not writes(one.subject):
            embedders[checked(called(one.subject.base.name))] = embeddings.of_base(one.subject, device, room.queue)
    return classifiers, embedders


def named(service: Service, name: str, subject: Subject) -> Served:
    if subject.adapter:
        return service.ready(name, subject)
    return replace(service.base, id=name, parent=service.base.id)


def decoder(engine: str, spec: DecoderSpec) -> Decoder:
    return engines.open_decoder(engine, spec)


def based(subject: Subject) -> Served:
    """The base as a model of its own, with its own template. After full fine-tuning the base is not in memory: what
    came of it stands in its place, under the run's name."""
    if subject.model or subject.weights:
        return Served(checked(subject.run.id if subject.run else subject.name), subject, None, subject.name)
    return Served(checked(called(subject.base.name)), grounds(subject), None, subject.base.name)


def called(name: str) -> str:
    """A base that is a folder is served under the folder's name."""
    return name.rstrip("/").rpartition("/")[2] if name.startswith((".", "/", "~")) else name

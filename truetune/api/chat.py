"""The verbs that make a model speak: `generate` for answers at once, `chat` for a conversation, `side_by_side` for a
run's own held-out rows before and after."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, overload

from truetune.api import wanted
from truetune.errors import InputError, UsageError

if TYPE_CHECKING:
    from truetune.api.handle import TrainedRun
    from truetune.evaluate.subject import Subject
    from truetune.evaluate.talk import Talk
    from truetune.evaluate.voice import Voice

T = TypeVar("T")

Watch = Callable[[dict[str, Any]], None]
Conversation = Sequence[Mapping[str, str]]
SLOTS = 8
"""Most answers that are written at once."""


def unseen(subject: dict[str, Any]) -> None:
    """The watcher that does nothing."""


def chat(
    address: Any = "last",
    *,
    checkpoint: str | None = None,
    base: bool = False,
    system: str | None = None,
    temperature: float | None = None,
    top_p: float | None = None,
    top_k: int | None = None,
    max_new_tokens: int | None = None,
    seed: int | None = None,
    device: str = "auto",
    prompts: Sequence[str | Conversation] = (),
    watch: Watch = unseen,
) -> Talk:
    """A conversation with a run, an adapter or a model: `with ft.chat("last") as talk: talk.say("…")`.

    address     `last`, a run (also as `train` returned it), `RUN:best`, an adapter's or a model's folder, `starter`, a
                hub id
    checkpoint  `best`, `last` or `step-N` of a run
    base        ask the model before training
    temperature, top_p, top_k, max_new_tokens   None = as the run's `generation` or the model's own files say
    seed        of the answers' random numbers; None = another one for each answer (`talk.seed` tells it)
    prompts     what will be asked, where it is known: what cannot be asked is refused before the engine loads
    watch       is told who answers, before the engine loads; again where a run has pruned that checkpoint meanwhile

    Raises InputError, UsageError for the address, ConfigErrors (`generation.bad_value`), ResourceError.
    """
    from truetune.evaluate import sampling
    from truetune.evaluate.talk import Talk, check_asked

    wanted.device(device)
    chosen = sampling.checked(
        {"temperature": temperature, "top_p": top_p, "top_k": top_k, "max_new_tokens": max_new_tokens, "seed": seed}
    )

    def begin(voice: Voice) -> Talk:
        subject = voice.subject
        check_asked(subject, prompts)
        asked = "tuned" if subject.tuned and not base else "base"
        watch(subject.describe() | {"asked": asked, "sampling": sampling.settled(subject.generation, chosen)})
        return Talk(voice, system=system, tuned=not base, **chosen)

    return opened(address, checkpoint, device, begin)


def opened(address: Any, checkpoint: str | None, device: str, begin: Callable[[Voice], T]) -> T:
    """What `begin` makes of the voice at an address. A run that still trains may prune a checkpoint between its being
    found and its being opened: then the address is looked up once more.

    Raises InputError `checkpoint.missing` where that happens twice.
    """
    from truetune.evaluate.subject import find_subject
    from truetune.evaluate.voice import Voice

    def attempt(subject: Subject) -> T:
        voice = Voice(subject, device=device, slots=SLOTS)
        try:
            return begin(voice)
        except BaseException:
            voice.close()
            raise

    def look() -> Subject:
        try:
            return find_subject(wanted.address(address), checkpoint=checkpoint)
        except InputError as error:
            if error.code not in ("checkpoint.missing", "checkpoint.damaged"):
                raise
            return find_subject(wanted.address(address), checkpoint=checkpoint)

    subject = look()
    for _ in range(2):
        try:
            return attempt(subject)
        except (InputError, OSError):
            if subject.stands:
                raise
        subject = look()
    raise InputError(
        "the checkpoint was removed while it was opened: the run keeps only its newest ones",
        code="checkpoint.missing",
        where=subject.name,
        hint="Try again, or wait for the end of the training.",
    )


@overload
def generate(prompts: str, address: Any = "last", **options: Any) -> str: ...
@overload
def generate(prompts: Sequence[str] | Sequence[Conversation], address: Any = "last", **options: Any) -> list[str]: ...
@overload
def generate(prompts: Conversation, address: Any = "last", **options: Any) -> str: ...
def generate(prompts: Any, address: Any = "last", **options: Any) -> str | list[str]:
    """The answer to a prompt or to a conversation (a list of messages); for a list of either, a list of answers.

    Each is answered for itself, up to eight at once. `options` are those of `chat`; so are the errors, with UsageError
    `generation.messages` for what is no prompt and `usage.unknown_option` for another option.
    """
    from truetune.evaluate.talk import answers

    refuse_options(options)
    one = isinstance(prompts, str) or (isinstance(prompts, Sequence) and isinstance([*prompts, None][0], Mapping))
    asked = [prompts] if one else prompts
    if not isinstance(asked, Sequence):
        raise UsageError(
            f"{type(prompts).__name__} is no prompt",
            code="generation.messages",
            hint='Give a text, a conversation ([{"role": "user", "content": "Hello"}]), or a list of either.',
        )
    with chat(address, prompts=asked, **options) as talk:
        found = [reply.text for reply in answers(talk, asked)]
    return found[0] if one else found


def refuse_options(given: Mapping[str, Any]) -> None:
    """Raises UsageError `usage.unknown_option` for what `chat` does not take."""
    known = [name for name in inspect.signature(chat).parameters if name not in ("address", "prompts")]
    unknown = next((name for name in given if name not in known), None)
    if unknown is None:
        return
    near = difflib.get_close_matches(unknown, known, n=1)
    hint = f"Did you mean {near[0]}?" if near else f"Options: {', '.join(known)}."
    raise UsageError(f"there is no option {unknown}", code="usage.unknown_option", where="generate", hint=hint)


def side_by_side(
    address: Any = "last",
    *,
    checkpoint: str | None = None,
    count: int = 8,
    device: str = "auto",
    watch: Watch = unseen,
    temperature: float = 0.0,
    **chosen: Any,
) -> dict[str, Any]:
    """{subject, answers: [{question, before, after, row}]}: the first `count` held-out rows of a run, answered by the
    model before and after the training, with what the row itself answers. Greedy unless `temperature` says otherwise.
    Of a run on texts: the beginnings of held-out texts, how the two go on with them, and how the texts do.

    Raises what `chat` raises, UsageError and InputError where there are no rows (`generation.no_rows`) or their file
    has changed.
    """
    from truetune.evaluate import sampling, sides

    wanted.device(device)
    sides.check_count(count)
    given = sampling.checked({"temperature": temperature, "seed": sampling.fresh_seed()} | chosen)

    def both(voice: Voice) -> dict[str, Any]:
        subject = voice.subject
        rows = sides.held_out(subject, count)
        facts = subject.describe() | {"asked": "both", "sampling": sampling.settled(subject.generation, given)}
        watch(facts)
        with voice:
            return {"subject": facts, "answers": sides.side_by_side(voice, rows, **given)}

    return opened(address, checkpoint, device, both)


def open_run(run: Any = "last") -> TrainedRun:
    """A finished run, found again: what `train` returned. Raises InputError, UsageError for the address, and
    `run.unfinished` where it has no result yet."""
    from truetune.api.handle import TrainedRun
    from truetune.runs.find import find

    return TrainedRun.found(find(wanted.address(run)))

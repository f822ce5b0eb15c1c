"""The verbs that make a model speak: `generate` for answers at once, `chat` for a conversation, `side_by_side` for a
run's own held-out rows before and after."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, overload

if TYPE_CHECKING:
    from truetune.api.handle import TrainedRun
    from truetune.evaluate.talk import Talk

Watch = Callable[[dict[str, Any]], None]
Conversation = Sequence[Mapping[str, str]]
SLOTS = 8
"""Most answers that are written at once."""


def unseen(subject: dict[str, Any]) -> None:
    """The watcher that does nothing."""


def chat(
    address: str = "last",
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
    watch: Watch = unseen,
) -> Talk:
    """A conversation with a run, an adapter or a model: `with ft.chat("last") as talk: talk.say("…")`.

    address     `last`, a run, `RUN:best`, an adapter's or a model's folder, `starter`, a hub id
    checkpoint  `best`, `last` or `step-N` of a run
    base        ask the model before training
    temperature, top_p, top_k, max_new_tokens   None = as the run's `generation` or the model's own files say
    seed        of the answers' random numbers; None = another one for each answer (`talk.seed` tells it)
    watch       is told who answers, before the engine loads

    Raises InputError, UsageError for the address, ConfigErrors (`generation.bad_value`), ResourceError.
    """
    from truetune.evaluate import sampling
    from truetune.evaluate.subject import find_subject
    from truetune.evaluate.talk import Talk
    from truetune.evaluate.voice import Voice

    chosen = sampling.checked(
        {"temperature": temperature, "top_p": top_p, "top_k": top_k, "max_new_tokens": max_new_tokens, "seed": seed}
    )
    subject = find_subject(address, checkpoint=checkpoint)
    asked = "tuned" if subject.tuned and not base else "base"
    watch(subject.describe() | {"asked": asked, "sampling": sampling.settled(subject.generation, chosen)})
    return Talk(Voice(subject, device=device, slots=SLOTS), system=system, tuned=not base, **chosen)


@overload
def generate(prompts: str, address: str = "last", **options: Any) -> str: ...
@overload
def generate(prompts: Sequence[str] | Sequence[Conversation], address: str = "last", **options: Any) -> list[str]: ...
@overload
def generate(prompts: Conversation, address: str = "last", **options: Any) -> str: ...
def generate(prompts: Any, address: str = "last", **options: Any) -> str | list[str]:
    """The answer to a prompt or to a conversation (a list of messages); for a list of either, a list of answers.

    Each is answered for itself, up to eight at once. `options` are those of `chat`; so are the errors.
    """
    from truetune.evaluate.talk import answers

    one = isinstance(prompts, str) or (bool(prompts) and isinstance(prompts[0], Mapping))
    with chat(address, **options) as talk:
        found = [reply.text for reply in answers(talk, [prompts] if one else prompts)]
    return found[0] if one else found


def side_by_side(
    address: str = "last",
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

    Raises what `chat` raises, UsageError and InputError where there are no rows (`generation.no_rows`) or their file
    has changed.
    """
    from truetune.evaluate import sampling, sides
    from truetune.evaluate.subject import find_subject
    from truetune.evaluate.voice import Voice

    given = sampling.checked({"temperature": temperature, "seed": sampling.fresh_seed()} | chosen)
    subject = find_subject(address, checkpoint=checkpoint)
    rows = sides.held_out(subject, count)
    facts = subject.describe() | {"asked": "both", "sampling": sampling.settled(subject.generation, given)}
    watch(facts)
    with Voice(subject, device=device, slots=SLOTS) as voice:
        return {"subject": facts, "answers": sides.side_by_side(voice, rows, **given)}


def open_run(run: str = "last") -> TrainedRun:
    """A finished run, found again: what `train` returned. Raises InputError, UsageError for the address, and
    `run.unfinished` where it has no result yet."""
    from truetune.api.handle import TrainedRun
    from truetune.runs.find import find

    return TrainedRun.found(find(run))

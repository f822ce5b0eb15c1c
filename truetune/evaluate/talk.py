"""A conversation with a subject: it remembers, streams, and makes room where the model's context is full."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from truetune.data.chat import ROLES
from truetune.engines.base import OutOfMemory
from truetune.errors import ResourceError, UsageError
from truetune.evaluate import sampling
from truetune.evaluate.subject import Subject
from truetune.evaluate.voice import Answer, Reply, Voice
from truetune.runs import durable, jsonfile

Message = Mapping[str, str]
ROOM = 4
"""A part of the context, one in so many, is kept free for the answer before the oldest turns are left out."""


class Talk:
    """`talk.say("…")` gives an answer, `talk.stream("…")` its pieces; both remember question and answer.

    A subject that was trained on texts goes on with each text and remembers nothing. Raises UsageError
    (`generation.…`) for what cannot be asked or drawn, ResourceError where the memory runs out; the conversation is
    then as it was.
    """

    def __init__(self, voice: Voice, *, system: str | None = None, tuned: bool = True, **chosen: Any) -> None:
        """`tuned=False` asks the model before training. `chosen`: temperature, top_p, top_k, max_new_tokens, seed."""
        self.voice, self.tuned = voice, tuned and voice.subject.tuned
        self.turns: list[Message] = []
        """All that was said, question and answer in turn, without the system message."""
        self.start = 0
        """How many of the turns no longer fit into the context."""
        self.chosen: dict[str, Any] = {}
        self.choose(**chosen)
        self.system = system
        with out_of_memory():
            voice.decoder(self.tuned)
        self.answer: Answer | None = None
        self.asked: list[Message] = []
        """What the last answer answers, with what stood before it."""
        self.seed = 0
        """What the last answer was drawn with."""

    @property
    def system(self) -> str | None:
        return self._system

    @system.setter
    def system(self, text: str | None) -> None:
        if text and self.voice.subject.template is None:
            raise UsageError(
                "this model was trained on texts, not on conversations: it knows no system message",
                code="generation.no_system",
                hint="Leave it out, and begin the text itself as you want it.",
            )
        self._system = plain(self.voice.subject, text) if text else None

    @property
    def reply(self) -> Reply | None:
        """The last answer, as far as it goes."""
        return self.answer.reply if self.answer else None

    def choose(self, **chosen: Any) -> None:
        """Change how the next answers are drawn. Raises ConfigErrors `generation.bad_value`."""
        self.voice.sampling(**chosen)
        self.chosen |= chosen

    def say(self, question: str) -> str:
        """The whole answer."""
        return "".join(self.stream(question))

    def stream(self, question: str) -> Iterator[str]:
        """The answer, piece by piece. What was said counts as the answer where the caller stops listening."""
        asked = {"role": "user", "content": plain(self.voice.subject, question)}
        seed = self.chosen.get("seed")
        self.seed = sampling.fresh_seed() if seed is None else seed
        with out_of_memory():
            self.asked = [*self.turns[self.fitting(asked) :], asked]
            answer = self.ask(self.asked, self.tuned)
            try:
                yield from answer
            except GeneratorExit:  # nobody listens any more: what was said stands
                self.keep(asked, answer.reply.text)
                raise
            self.keep(asked, answer.reply.text)

    def again(self) -> Iterator[str]:
        """What the base says to the last question, with the same history and seed; not remembered."""
        if not self.asked:
            raise nothing_asked()
        with out_of_memory():
            yield from self.ask(self.asked, tuned=False)

    def reset(self) -> None:
        """Forget everything but the system message and how answers are drawn."""
        self.turns, self.start, self.asked = [], 0, []

    def save(self, path: Path) -> int:
        """Add the conversation to a .jsonl file as one row that can be trained on; returns how many messages it has.

        Raises UsageError (`generation.nothing_asked`, `generation.not_jsonl`), InputError and ResourceError.
        """
        if not self.turns:
            raise nothing_asked()
        if path.suffix != ".jsonl":
            raise UsageError(
                "a conversation is added to a file of rows, whose name ends with .jsonl",
                code="generation.not_jsonl",
                where=str(path),
                hint=f"For example {path.with_suffix('.jsonl')}.",
            )
        messages = self.framed(self.turns)
        row = jsonfile.line({"messages": messages})
        durable.append(path, row if ends_line(path) else b"\n" + row)
        return len(messages)

    def ask(self, messages: Sequence[Message], tuned: bool) -> Answer:
        drawn = self.voice.sampling(**(self.chosen | {"seed": self.seed}))
        self.answer = self.voice.stream(self.voice.prompt(self.framed(messages)), drawn, tuned=tuned)
        return self.answer

    def keep(self, asked: Message, text: str) -> None:
        """Remember a question with its answer. Without an answer there is nothing that a template could show."""
        if self.voice.subject.template and text.strip():
            self.turns += [asked, {"role": "assistant", "content": text}]

    def fitting(self, asked: Message) -> int:
        """Leave out the oldest turns until the rest, the question and an answer fit; returns where the rest begins."""
        context = self.voice.context
        room = min(self.voice.sampling(**self.chosen).max_new_tokens, context // ROOM)
        while self.start < len(self.turns):
            prompt = self.voice.prompt(self.framed([*self.turns[self.start :], asked]))
            if len(prompt) + room <= context:
                break
            self.start += 2
        return self.start

    def framed(self, messages: Sequence[Message]) -> list[Message]:
        """Behind the system message, if there is one."""
        return [{"role": "system", "content": self.system}, *messages] if self.system else list(messages)

    def close(self) -> None:
        self.voice.close()

    def __enter__(self) -> Talk:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def nothing_asked() -> UsageError:
    return UsageError("nothing was asked yet", code="generation.nothing_asked", hint="Ask a question first.")


def ends_line(path: Path) -> bool:
    """Whether what is added to a file begins a line of its own."""
    return not path.is_file() or path.read_bytes()[-1:] in (b"", b"\n")


def answers(talk: Talk, asked: Sequence[str | Sequence[Message]]) -> list[Reply]:
    """One answer per text or list of messages, each for itself, as many at once as the voice has slots.

    Nothing of it is remembered. Raises as `Talk` does, and UsageError `generation.messages`.
    """
    voice = talk.voice
    prompts = [voice.prompt(talk.framed(checked(voice.subject, one))) for one in asked]
    seed = talk.chosen.get("seed")
    drawn = voice.sampling(**(talk.chosen | {"seed": sampling.fresh_seed() if seed is None else seed}))
    with out_of_memory():
        found = dict(voice.replies(prompts, drawn, tuned=talk.tuned))
    return [found[place] for place in range(len(prompts))]


def check_asked(subject: Subject, asked: Sequence[str | Sequence[Message]]) -> None:
    """Refuse what cannot be asked, before anything is loaded. Raises as `checked` does."""
    for one in asked:
        checked(subject, one)


def checked(subject: Subject, asked: str | Sequence[Message]) -> list[Message]:
    """A prompt as messages. Raises UsageError `generation.messages`, and what `plain` raises."""
    if isinstance(asked, str):
        return [{"role": "user", "content": plain(subject, asked)}]
    whole = isinstance(asked, Sequence) and all(isinstance(one, Mapping) and usable(one) for one in asked)
    if not whole or not asked:
        raise UsageError(
            "a conversation is a list of messages with a role and a text",
            code="generation.messages",
            hint='Such as [{"role": "user", "content": "Hello"}]; roles are system, user, assistant and tool.',
        )
    found = [{"role": ROLES[one["role"]], "content": one["content"]} for one in asked]
    if found[-1]["role"] == "assistant":
        raise UsageError(
            "the last message is an answer already, so there is nothing to answer",
            code="generation.messages",
            hint="Leave it out to have it written anew, or add the next question.",
        )
    return [one if one["role"] == "assistant" else one | {"content": plain(subject, one["content"])} for one in found]


def usable(message: Mapping[str, Any]) -> bool:
    return message.get("role") in ROLES and isinstance(message.get("content"), str)


def plain(subject: Subject, text: str) -> str:
    """The text, if it is one and no more. Raises UsageError: `generation.empty`, `generation.not_text`,
    `generation.control_token`.

    A control token in it would forge the structure of the conversation; training refuses such rows, too.
    """
    if not text.strip():
        raise UsageError("the text is empty", code="generation.empty", hint="Write at least one word.")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UsageError(
            "this is not valid UTF-8 text", code="generation.not_text", hint="Type it again, or save it as UTF-8."
        ) from None
    if found := subject.tokenizer.special.search(text):
        raise UsageError(
            f"the text contains the model's control token {found[0]!r}",
            code="generation.control_token",
            hint="Write it another way: it would end or begin a turn in the middle of your text.",
        )
    return text


@contextmanager
def out_of_memory() -> Iterator[None]:
    """The engine's word for it as one of our errors."""
    try:
        yield
    except OutOfMemory:
        raise ResourceError(
            "the memory does not hold this conversation",
            code="memory.generation",
            hint="Ask less at once, make the text shorter, or answer on the CPU: --device cpu.",
        ) from None

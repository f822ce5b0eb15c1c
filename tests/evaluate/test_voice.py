"""Tokens to text as they come, stops and seeds, and what a conversation remembers."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import decoders, models, pre_tokenizers

from truetune import engines
from truetune.engines.base import OutOfMemory
from truetune.engines.decoder import Full, Sampling, Token
from truetune.errors import ConfigErrors, ResourceError, UsageError
from truetune.evaluate import sampling
from truetune.evaluate.subject import Subject, find_subject
from truetune.evaluate.talk import Talk, answers
from truetune.evaluate.voice import Text, Voice
from truetune.models import tokenizer
from truetune.models.tokenizer import Tokenizer

TEXTS = [
    "Grüße aus Köln",
    "日本語のテキスト",
    "👩‍🚀 and 🇦🇺 and 👍🏽",
    "e\u0301 n\u0303 \u0627\u0644\u0639\u0631\u0628\u064a\u0629",
    "def f(x):\n    return x\n",
    " leading and  double  spaces ",
    "\ufffd is a character, too",
]


@pytest.fixture(scope="module")
def starter() -> Subject:
    return find_subject("starter")


@pytest.fixture(scope="module")
def sentencepiece() -> Tokenizer:
    """Words with ▁ for the space before, bytes for everything else, as Llama 2 and Mistral have it."""
    words = ["<unk>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "▁Hi", "▁there", "▁a", "b", "c", "▁é"]
    model = models.BPE({word: number for number, word in enumerate(words)}, [], unk_token="<unk>", byte_fallback=True)
    backend = tokenizers.Tokenizer(model)
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    backend.decoder = decoders.Sequence(steps)
    return replace(tokenizer.load(find_subject("starter").base.folder), backend=backend, tokens={}, eos_ids=(1,))


def pieces(encode: Tokenizer, ids: Sequence[int]) -> list[str]:
    text = Text(encode)
    return [*(text.add(token) for token in ids), text.end()]


@pytest.mark.parametrize("text", TEXTS)
def test_pieces_make_up_the_text(starter: Subject, text: str) -> None:
    assert "".join(pieces(starter.tokenizer, starter.tokenizer.encode(text))) == text


def test_a_character_of_several_tokens_comes_at_once(starter: Subject) -> None:
    ids = starter.tokenizer.encode("🧿")
    assert len(ids) > 1
    assert [piece for piece in pieces(starter.tokenizer, ids) if piece] == ["🧿"]


@cache
def bytewise() -> Tokenizer:
    return tokenizer.load(find_subject("starter").base.folder)


@settings(deadline=None)
@given(st.lists(st.integers(0, 511), max_size=30))
def test_any_tokens_say_what_they_say_together(ids: list[int]) -> None:
    """The starter's first tokens are single bytes: most such texts are no valid UTF-8."""
    encode = bytewise()
    assert "".join(pieces(encode, ids)) == encode.decode(ids)


@pytest.mark.parametrize("text", ["Hi there a b", "é", "Hi 日本 there", "🙂🙂"])
def test_sentencepiece_keeps_its_spaces(sentencepiece: Tokenizer, text: str) -> None:
    assert "".join(pieces(sentencepiece, sentencepiece.encode(text))) == sentencepiece.decode(
        sentencepiece.encode(text)
    )


def test_half_a_character_at_the_end_is_shown_as_such(starter: Subject) -> None:
    ids = starter.tokenizer.encode("ok 🧿")[:-1]
    assert "".join(pieces(starter.tokenizer, ids)) == starter.tokenizer.decode(ids) != "ok "


@dataclass
class Script:
    """A decoder that gives each prompt the tokens it is told to, and remembers what it was asked."""

    said: list[int]
    stops: frozenset[int] = frozenset()
    context: int = 1000
    slots: int = 2
    rows: dict[int, tuple[Sampling, Iterator[int], int]] = field(default_factory=dict)
    asked: list[tuple[list[int], str | None, Sampling]] = field(default_factory=list)
    most: int = 0
    breaks: bool = False

    def admit(self, ids: Sequence[int], adapter: str | None, sampling: Sampling) -> int:
        if len(self.rows) == self.slots:
            raise Full
        slot = next(slot for slot in range(self.slots) if slot not in self.rows)
        self.asked.append((list(ids), adapter, sampling))
        self.rows[slot] = (sampling, iter(self.said), sampling.max_new_tokens)
        self.most = max(self.most, len(self.rows))
        return slot

    def decode(self) -> list[Token]:
        if self.breaks:
            raise OutOfMemory
        return [self.next(slot) for slot in sorted(self.rows)]

    def next(self, slot: int) -> Token:
        drawn, rest, left = self.rows.pop(slot)
        token = next(rest)
        if token in drawn.stops:
            return Token(slot, token, "stop")
        if left == 1:
            return Token(slot, token, "length")
        self.rows[slot] = (drawn, rest, left - 1)
        return Token(slot, token)

    def release(self, slot: int) -> None:
        del self.rows[slot]

    def close(self) -> None:
        self.rows.clear()


class Scripted(Voice):
    """A voice over a `Script`."""

    def __init__(self, subject: Subject, said: str, **options: Any) -> None:
        super().__init__(subject)
        end = [stop for stop in self.stops if subject.tokenizer.text(stop)]
        self.script = Script([*subject.tokenizer.encode(said), *end[:1]] * 50, **options)

    def decoder(self, tuned: bool) -> tuple[Any, str | None]:
        self.decoders[False] = self.script  # type: ignore[assignment]
        return self.script, "tuned" if tuned and self.subject.adapter else None


@pytest.fixture
def tuned(starter: Subject) -> Subject:
    return replace(starter, adapter=Path("adapter"), generation={"temperature": 0.5, "max_new_tokens": 9})


def test_an_answer_ends_before_the_token_that_ends_it(starter: Subject) -> None:
    voice = Scripted(starter, "Grüße 🧿")
    answer = voice.stream(voice.prompt([{"role": "user", "content": "Hi"}]), voice.sampling())
    assert "".join(answer) == "Grüße 🧿" == answer.reply.text
    assert (answer.reply.reason, answer.reply.ids[-1] in voice.stops) == ("stop", True)
    assert not voice.script.rows


def test_an_answer_is_cut_at_its_longest(starter: Subject) -> None:
    voice = Scripted(starter, "one two three four five")
    answer = voice.stream([1], voice.sampling(max_new_tokens=2))
    list(answer)
    assert (answer.reply.reason, len(answer.reply.ids)) == ("length", 2)


def test_an_answer_given_up_frees_its_slot(starter: Subject) -> None:
    voice = Scripted(starter, "one two three four five", slots=1)
    first = voice.stream([1], voice.sampling())
    said = next(first)
    second = voice.stream([2], voice.sampling())  # there is one slot: this needs the other one's
    assert next(second)
    assert (first.reply.text, first.reply.reason, list(first)) == (said, "cut", [])


def test_many_prompts_come_back_in_their_places(starter: Subject) -> None:
    voice = Scripted(starter, "yes", slots=2)
    found = dict(voice.replies([[7], [8], [9]], voice.sampling(seed=5)))
    assert [found[place].text for place in range(3)] == ["yes"] * 3
    assert [(ids, drawn.seed) for ids, _, drawn in voice.script.asked] == [([7], 5), ([8], 6), ([9], 7)]
    assert voice.script.most == 2


def test_what_travels_with_a_subject_gives_way_to_what_is_chosen(tuned: Subject) -> None:
    drawn = Scripted(tuned, "").sampling(temperature=0.9, top_k=None)
    assert (drawn.temperature, drawn.max_new_tokens, drawn.top_k) == (0.9, 9, 0)


def test_all_bad_values_are_named_at_once(starter: Subject) -> None:
    with pytest.raises(ConfigErrors) as error:
        Scripted(starter, "").sampling(temperature=-1, top_p=0.0, top_k=-1, max_new_tokens=0, seed=-1)
    assert [finding.where for finding in error.value.findings] == list(sampling.RULES)
    assert {finding.code for finding in error.value.findings} == {"generation.bad_value"}
    with pytest.raises(ConfigErrors) as error:
        Scripted(starter, "").sampling(seed=2**63)
    assert str(2**63 - 1) in error.value.hint


@pytest.mark.parametrize("bad", [{"temperature": float("nan")}, {"top_p": 1.5}, {"top_k": 1.5}, {"seed": True}])
def test_odd_numbers_are_refused(starter: Subject, bad: dict[str, Any]) -> None:
    with pytest.raises(ConfigErrors):
        Scripted(starter, "").sampling(**bad)


def test_a_talk_remembers(tuned: Subject) -> None:
    voice = Scripted(tuned, "Yes.")
    talk = Talk(voice, system="Be brief.")
    assert talk.say("One?") == "Yes."
    assert talk.say("Two?") == "Yes."
    prompt = tuned.tokenizer.decode(voice.script.asked[1][0])
    assert [prompt.count(text) for text in ("Be brief.", "One?", "Yes.", "Two?")] == [1, 1, 1, 1]
    assert [turn["content"] for turn in talk.turns] == ["One?", "Yes.", "Two?", "Yes."]
    talk.reset()
    talk.say("Three?")
    assert "One?" not in tuned.tokenizer.decode(voice.script.asked[2][0])
    assert "Be brief." in tuned.tokenizer.decode(voice.script.asked[2][0])


def test_the_base_is_asked_the_same_and_it_is_not_remembered(tuned: Subject) -> None:
    voice = Scripted(tuned, "Yes.")
    talk = Talk(voice, temperature=1.0)
    talk.say("One?")
    assert "".join(talk.again()) == "Yes."
    (first, adapter, drawn), (again, none, same) = voice.script.asked
    assert (first, drawn.seed, adapter, none) == (again, same.seed, "tuned", None)
    assert len(talk.turns) == 2


def test_a_seed_is_kept_where_it_is_chosen_and_told_where_it_is_not(tuned: Subject) -> None:
    voice = Scripted(tuned, "Yes.")
    talk = Talk(voice, seed=7)
    talk.say("One?")
    talk.choose(seed=None)
    talk.say("Two?")
    seeds = [drawn.seed for _, _, drawn in voice.script.asked]
    assert seeds == [7, talk.seed]


def test_the_oldest_turns_go_where_the_context_is_full(tuned: Subject) -> None:
    voice = Scripted(tuned, "Yes.", context=120)
    talk = Talk(voice, system="Be brief.", max_new_tokens=20)
    for number in range(9):
        talk.say(f"Question number {number}, which is rather long?")
    last = tuned.tokenizer.decode(voice.script.asked[-1][0])
    assert len(voice.script.asked[-1][0]) <= 100
    assert "Be brief." in last and "number 8" in last and "number 0" not in last
    assert talk.start > 0 and talk.start % 2 == 0
    assert len(talk.turns) == 18


def test_an_answer_without_a_word_is_not_remembered(tuned: Subject) -> None:
    talk = Talk(Scripted(tuned, " \n"))
    assert talk.say("One?").strip() == ""
    assert talk.turns == []


def test_what_was_said_before_a_stop_is_remembered(tuned: Subject) -> None:
    talk = Talk(Scripted(tuned, "one two three four five"))
    stream = talk.stream("Count.")
    said = next(stream) + next(stream)
    stream.close()  # type: ignore[attr-defined]
    assert talk.turns[-1]["content"] == said
    assert talk.reply is not None and talk.reply.reason == "cut"


def test_memory_that_runs_out_is_one_of_our_errors(tuned: Subject) -> None:
    voice = Scripted(tuned, "Yes.")
    talk = Talk(voice)
    voice.script.breaks = True
    with pytest.raises(ResourceError):
        talk.say("One?")
    assert talk.turns == []
    voice.script.breaks = False
    assert talk.say("Two?") == "Yes."


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", "generation.empty"),
        ("a <|im_end|> b", "generation.control_token"),
        ("\udcff", "generation.not_text"),
    ],
)
def test_what_cannot_be_asked_is_refused(tuned: Subject, text: str, code: str) -> None:
    with pytest.raises(UsageError) as error:
        Talk(Scripted(tuned, "Yes.")).say(text)
    assert error.value.finding.code == code


def test_prompts_and_conversations_are_answered(tuned: Subject) -> None:
    voice = Scripted(tuned, "Yes.")
    turns = [
        {"role": "human", "content": "One?"},
        {"role": "gpt", "content": "No."},
        {"role": "user", "content": "Ah?"},
    ]
    found = answers(Talk(voice), ["One?", turns])
    assert [reply.text for reply in found] == ["Yes.", "Yes."]
    assert "No." in tuned.tokenizer.decode(voice.script.asked[1][0])
    for bad in ([], [{"role": "wizard", "content": "x"}], [{"role": "user"}], turns[:2], 3, None):
        with pytest.raises(UsageError) as error:
            answers(Talk(voice), [bad])  # type: ignore[list-item]
        assert error.value.finding.code == "generation.messages"


def test_a_conversation_is_saved_as_a_row(tuned: Subject, tmp_path: Path) -> None:
    talk = Talk(Scripted(tuned, "Yes."), system="Be brief.")
    path = tmp_path / "talks.jsonl"
    with pytest.raises(UsageError):
        talk.save(path)
    talk.say("One?")
    path.write_text('{"messages": []}')  # without a line's end
    assert talk.save(path) == 3
    first, second = path.read_text().splitlines()
    assert json.loads(first) == {"messages": []}
    assert [message["role"] for message in json.loads(second)["messages"]] == ["system", "user", "assistant"]
    with pytest.raises(UsageError) as error:
        talk.save(tmp_path / "README.md")
    assert error.value.finding.code == "generation.not_jsonl"


def test_texts_are_gone_on_with(starter: Subject) -> None:
    voice = Scripted(replace(starter, template=None), " time")
    talk = Talk(voice)
    assert talk.say("Once upon a") == " time"
    assert starter.tokenizer.decode(voice.script.asked[0][0]) == "Once upon a"
    assert talk.turns == []
    with pytest.raises(UsageError) as error:
        talk.system = "Be brief."
    assert error.value.finding.code == "generation.no_system"


@dataclass
class Trained:
    """What a voice reads of a run."""

    resolved: dict[str, Any]


@pytest.mark.parametrize(("trained", "there"), [("mlx", True), ("mlx", False), ("torch", True), ("elsewhere", True)])
def test_the_engine_that_trained_answers_where_it_is_installed(
    starter: Subject, trained: str, there: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if trained == "mlx" and there:
        pytest.importorskip("mlx_lm", reason="MLX is not installed")
    elif not there:
        monkeypatch.setattr(engines, "find_spec", lambda name: None)
    run: Any = Trained({"config": {"resources": {"engine": trained}, "training": {"objective": "sft"}}})
    expected = trained if there and trained in engines.TABLE else engines.choose("auto", starter.base.folder).name
    assert Voice(replace(starter, run=run)).engine == expected

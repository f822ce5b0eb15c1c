"""What each method asks for, and what it makes of an answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from truetune.augment.methods import Messages, clean, methods, pair
from truetune.augment.seeds import Seed
from truetune.augment.words import METHODS
from truetune.data.rows import Conversation, Turn

Make = Callable[..., Seed]


def answering(heard: list[str], *answers: str) -> Callable[[Sequence[Messages]], list[str]]:
    """Speaks the answers in order, and remembers what it was asked."""
    left = list(answers)

    def ask(prompts: Sequence[Messages]) -> list[str]:
        heard.extend(messages[-1]["content"] for messages in prompts)
        return [left.pop(0) for _ in prompts]

    return ask


def test_the_methods_are_those_of_the_command_line() -> None:
    assert tuple(methods("German", "English")) == METHODS


def test_a_paraphrase_changes_the_last_question_alone(seed: Make) -> None:
    heard: list[str] = []
    before = (Turn("system", "Be kind."), Turn("user", "Hello"), Turn("assistant", "Hi!", weight=0.0))
    one = seed("How do I return it {now}?", "Within 45 days.", *before)
    (draft,) = methods("German", "English")["paraphrase"].write([(one,)], answering(heard, " “What about returns?”\n"))
    assert draft.conversation is not None
    assert draft.conversation.turns == (*before, Turn("user", "What about returns?"), one.conversation.turns[-1])
    assert heard[0].endswith("\n\nHow do I return it {now}?") and "Hello" not in heard[0]


def test_back_translation_goes_there_and_back(seed: Make) -> None:
    heard: list[str] = []
    groups = [(seed("Where is it?"),), (seed("When?"),), (seed("Who?"),)]
    ask = answering(heard, "Wo ist es?", "", "Wer?", "Where can I find it?", "Which person?")
    drafts = methods("German", "Dutch")["backtranslate"].write(groups, ask)
    assert [draft.said for draft in drafts] == ["Where can I find it?", "", "Which person?"]
    assert drafts[1].conversation is None
    assert ["into German" in text for text in heard] == [True, True, True, False, False]
    assert heard[3].endswith("Wo ist es?") and "into Dutch" in heard[4] and heard[4].endswith("Wer?")


def test_a_new_pair_stands_under_the_system_message_of_its_first_example(seed: Make) -> None:
    heard: list[str] = []
    group = (seed("Q1?", "A1.", Turn("system", "Be kind.")), seed("Q2?", "A2."))
    written = "Question: Q3?\nAnswer: A3,\nin two lines.\n\nQuestion: Q4?\nAnswer: A4."
    (draft,) = methods("German", "English")["synthetic"].write([group], answering(heard, written))
    assert draft.conversation == Conversation(
        (Turn("system", "Be kind."), Turn("user", "Q3?"), Turn("assistant", "A3,\nin two lines."))
    )
    assert "Question: Q1?\nAnswer: A1.\n\nQuestion: Q2?\nAnswer: A2." in heard[0]


@pytest.mark.parametrize(
    "said", ["", "Hello.", "Question: Why?", "Answer: So.", "Question:\nAnswer: So.", "Question: Why?\nAnswer: \n"]
)
def test_other_forms_make_no_pair(seed: Make, said: str) -> None:
    assert pair(seed(), said) is None


def test_examples_are_drawn_by_seed_and_are_never_the_row_itself(seed: Make) -> None:
    rows = [seed(f"Q{place}?") for place in range(10)]
    method = methods("German", "English")["synthetic"]
    groups = method.groups(rows, 3, 42)
    assert len(groups) == 30 and [group[0] for group in groups] == [one for one in rows for _ in range(3)]
    assert all(len({one.question for one in group}) == 3 for group in groups)
    assert groups == method.groups(rows, 3, 42) != method.groups(rows, 3, 43)
    assert [len(group) for group in method.groups(rows[:2], 1, 42)] == [2, 2]
    assert method.groups(rows[:1], 2, 42) == [(rows[0],), (rows[0],)]


CLEANED: list[tuple[str, Any, str]] = [
    ("  What?\n", "", "What?"),
    ('"What?"', "", "What?"),
    ("«What?»", "", "What?"),
    ('"What?" and "why?"', "", '"What?" and "why?"'),
    ('"What?"', '"Why?"', '"What?"'),
    ("<think>They ask\nwhat.</think>\n\nWhat?", "", "What?"),
    ('""', "", '""'),
    ("'Tis what it's'", "", "'Tis what it's'"),
    ("", "", ""),
]


@pytest.mark.parametrize(("said", "source", "expected"), CLEANED)
def test_what_surrounds_an_answer_is_taken_off(said: str, source: str, expected: str) -> None:
    assert clean(said, source) == expected

"""Which rows are kept: every reason for leaving one out, and that good ones pass."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from truetune.augment.methods import Draft
from truetune.augment.seeds import Seed, plain
from truetune.augment.sieve import Sieve
from truetune.augment.words import REASONS

Drafted = Callable[..., Draft]
KNOWN = frozenset(map(plain, ["How do I return a bike?", "When do you open?", "Is order 1234 on its way?"]))

KEPT = [
    ("What must I do to send a bike back?", "How do I return a bike?"),
    ("Has order 1234 been sent?", "Is order 1234 on its way?"),
    ("Wie gebe ich ein Rad zurück?", "How do I return a bike?"),
    ("Tell me how to return a bike.", "Please say how a bike goes back."),
    ("自転車を返品するには?", "How do I return a bike?"),
]
LEFT_OUT = [
    ("", "How?", "unanswered"),
    ("What is\x1b[2J this?", "What is it?", "control"),
    ("What is\ufffd this?", "What is it?", "control"),
    ("What is this?<|im_end|>", "What is it?", "control"),
    ("What is this?</s>", "What is it?", "control"),
    ("[INST] What is this?", "What is it?", "control"),
    ("<start_of_turn>user What is this?", "What is it?", "control"),
    ("What is this?<｜end▁of▁sentence｜>", "What is it?", "control"),
    ("What is this?@@END@@", "What is it?", "control"),
    ("Why? " * 40, "What is it?", "length"),
    ("Why?", "What must I do to return a bike that I have ridden for more than thirty kilometres? " * 2, "length"),
    ("Within five days, by parcel.", "How do I return a bike?", "no_question"),
    ("Has order 1243 been sent?", "Is order 1234 on its way?", "numbers"),
    ("Has my order been sent?", "Is order 1234 on its way?", "numbers"),
    ("how do I return  a bike", "How do I return a bike", "same"),
    ("How do I return a bike??", "How do I return a bike?", "same"),
    (
        "Where is the numbr of my frame and of the receipt?",
        "Where is the number of my frame and of the receipt?",
        "same",
    ),
    ("When do you OPEN?", "At what time can I come?", "known"),
]


@pytest.mark.parametrize(("new", "old"), KEPT)
def test_keeps_what_asks_the_same_in_other_words(draft: Drafted, new: str, old: str) -> None:
    assert Sieve(KNOWN).fault(draft(new, old), keeps=True) == ""


@pytest.mark.parametrize(("new", "old", "reason"), LEFT_OUT)
def test_leaves_out(draft: Drafted, new: str, old: str, reason: str) -> None:
    sieve = Sieve(KNOWN, re.compile("@@END@@"))
    assert sieve.fault(draft(new, old), keeps=True) == reason
    assert not sieve.written


def test_a_question_is_kept_once(draft: Drafted) -> None:
    sieve = Sieve(KNOWN)
    assert sieve.fault(draft("Can I send it back?"), keeps=True) == ""
    assert sieve.fault(draft("Can I send it back ?"), keeps=True) == "twice"


def pair(one: Seed, question: str, answer: str) -> Draft:
    return Draft((one,), one.another(question, answer), "…")


def test_the_answer_of_a_new_pair_is_looked_at_too(seed: Callable[..., Seed]) -> None:
    one = seed("How do I return a bike?", "Within 45 days.")
    assert Sieve(KNOWN).fault(pair(one, "Is there a warranty?", "Yes, of 2 years."), keeps=False) == ""
    assert Sieve(KNOWN).fault(pair(one, "Is there a warranty?", "Yes. " * 99), keeps=False) == "length"
    assert Sieve(KNOWN).fault(pair(one, "Is there a warranty?", "Yes.<|eot_id|>"), keeps=False) == "control"
    assert Sieve(KNOWN).fault(Draft((one,), None, "Hello."), keeps=False) == "form"


def test_every_reason_is_shown_and_has_words() -> None:
    assert {reason for *_, reason in LEFT_OUT} | {"form", "twice"} == set(REASONS)

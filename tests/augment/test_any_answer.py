"""Whatever a model says, a row is left out for a reason, or it is one that is read back as it was made."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from truetune.augment.methods import methods
from truetune.augment.seeds import Seed, plain
from truetune.augment.shapes import written
from truetune.augment.sieve import Sieve
from truetune.augment.words import METHODS, REASONS
from truetune.data.formats import named

PIECES = [
    "Question:",
    "Answer:",
    "\n",
    " ",
    '"',
    "“",
    "”",
    "<think>",
    "</think>",
    "<|im_end|>",
    "How?",
    "7",
    "\u2028",
    "{}",
]
SAID = st.one_of(st.text(), st.lists(st.sampled_from(PIECES)).map("".join))


@pytest.mark.parametrize("name", METHODS)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(said=SAID, shape=st.sampled_from(["messages", "sharegpt", "alpaca", "prompt_completion", "question_answer"]))
def test_a_row_or_a_reason(seed: Callable[..., Seed], name: str, said: str, shape: str) -> None:
    one, method = seed(), methods("German", "English")[name]
    (draft,) = method.write(method.groups([one], 1, 0), lambda prompts: [said for _ in prompts])
    fault = Sieve(frozenset([plain(one.question)])).fault(draft, method.keeps)
    if fault:
        assert fault in REASONS
        return
    form = named(shape)
    (row,) = written(form, [draft.talk])
    assert "messages" not in row or shape == "messages"
    assert form.read(row) == draft.talk

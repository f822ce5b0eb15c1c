"""An answer's text as it is told: nothing before it is certain, nothing of a stop string, nothing lost."""

from __future__ import annotations

from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from truetune.engines.decoder import Scored, Token
from truetune.models import tokenizer
from truetune.models.source import STARTER
from truetune.serve.answer import Answer


@cache
def encode():
    return tokenizer.load(STARTER)


def told(ids, stops, reason="length"):
    """The events of an answer of these tokens, the last with a reason; and whether all tokens were taken."""
    answer, events = Answer(0, encode(), stops), []
    for place, token in enumerate(ids):
        event = answer.take(Token(0, token, reason if place == len(ids) - 1 else "", Scored(-float(place))))
        events += [event] if event else []
        if event and event.reason:
            break
    return events


LETTERS = st.text("ab<é|🧿\n ", max_size=25)


@settings(deadline=None, max_examples=200)
@given(LETTERS.filter(bool), st.lists(st.text("ab<é|🧿\n ", min_size=1, max_size=4), max_size=3))
def test_text_ends_before_the_first_stop_string_however_it_is_cut(text, stops):
    ids = encode().encode(text)
    events = told(ids, stops)
    places = {stop: text.find(stop) for stop in stops if stop in text}
    said = "".join(event.text for event in events)
    last = events[-1]
    if not places:
        assert (said, last.reason, last.stop) == (text, "length", None)
        assert [one.id for event in events for one in event.tokens] == ids
    else:
        # A string that is whole ends the text at once, though a longer one that began before it might follow.
        assert last.reason == "stop" and last.stop in stops
        assert said in {text[:place] for place in places.values()}
        assert text.startswith(said + last.stop)
        assert not any(stop in said for stop in stops)
    assert last.made <= len(ids)
    assert all(not event.reason for event in events[:-1])


@settings(deadline=None, max_examples=100)
@given(LETTERS.filter(bool), st.text("ab<é|", min_size=2, max_size=4))
def test_what_may_become_a_stop_string_is_held(text, stop):
    """At no time does what was told end with a beginning of the stop string, unless the text goes on otherwise."""
    ids = encode().encode(text)
    answer, said = Answer(0, encode(), [stop]), ""
    for token in ids:
        event = answer.take(Token(0, token))
        said += event.text if event else ""
        whole = answer.text.said
        assert whole.startswith(said)
        assert not any(said.endswith(stop[:size]) and said == whole for size in range(1, len(stop)))
        if event and event.reason:
            break


@pytest.mark.parametrize("reason", ["stop", "length"])
def test_a_stop_token_is_no_part_of_the_text(reason):
    ids = encode().encode("Grüße 🧿")
    events = told([*ids, 2] if reason == "stop" else ids, ["never"], reason)
    assert "".join(event.text for event in events) == "Grüße 🧿"
    assert [one.id for event in events for one in event.tokens] == ids
    assert [one.scored.logprob for event in events for one in event.tokens] == [-float(i) for i in range(len(ids))]
    assert events[-1].stop == (2 if reason == "stop" else None)


def test_half_a_character_comes_with_the_end():
    ids = encode().encode("🧿")
    assert len(ids) > 1
    events = told(ids[:-1], [])
    assert [event.text for event in events][-1] == "\N{REPLACEMENT CHARACTER}" * len(events[-1].text)
    assert all(not event.text for event in events[:-1])


def test_tokens_of_a_stop_string_are_not_told():
    ids = encode().encode("one STOP two")
    events = told(ids, ["STOP"])
    said = encode().decode([one.id for event in events for one in event.tokens])
    assert "".join(event.text for event in events) == "one "
    assert "STOP" not in said and said.startswith("one")

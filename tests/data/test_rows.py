"""Contents: what makes them equal, and how they stand in OpenAI's notation."""

import pytest

from truetune.data.rows import Conversation, Document, Labelled, Preference, Rated, Turn

ASK, REPLY, OTHER = Turn("user", "Hello"), Turn("assistant", "Hi"), Turn("assistant", "Bye")
CALL = {"type": "function", "function": {"name": "look", "arguments": {"b": 1, "a": [2]}}}
SAME = {"function": {"arguments": {"a": [2], "b": 1}, "name": "look"}, "type": "function"}
TALK = Conversation((ASK, REPLY))
CONTENTS = [
    TALK,
    Conversation((ASK, OTHER)),
    Conversation((ASK, REPLY), ({"type": "function", "function": {"name": "look"}},)),
    Conversation((ASK, Turn("assistant", "Hi", calls=(CALL,)))),
    Conversation((ASK, Turn("assistant", "Hi", name="Ann"))),
    Conversation((ASK, Turn("assistant", "Hi", call_id="Ann"))),
    Conversation((ASK, Turn("assistant", "Hi", 0.5))),
    Document("Hello"),
    Document("Hi"),
    Preference((ASK,), (REPLY,), (OTHER,)),
    Preference((ASK,), (OTHER,), (REPLY,)),
    Rated(TALK, True),
    Rated(TALK, False),
    Labelled("Hello", ("Hi",)),
    Labelled("Hello", ("Hi",), "Hi"),
    Labelled("Hello", ("Hi", "Bye")),
    Labelled("Hello", ()),
]


def test_different_contents_have_different_digests():
    assert len({content.digest for content in CONTENTS}) == len(CONTENTS)


def test_digests_of_plain_rows_never_change():
    """They choose what is held out, and name rows in old receipts."""
    assert TALK.digest.hex() == "ef3418eaced06e134a08c17f1e2f6a8d"
    assert Document("x").digest.hex() == "ba2df4903a2c14e86dc3bcca58911b44"


def test_the_order_of_keys_makes_no_difference():
    one, other = (Conversation((ASK, Turn("assistant", "", calls=(call,)))) for call in (CALL, SAME))
    assert one.digest == other.digest


def test_messages_hold_what_is_there_and_nothing_else():
    talk = Conversation((ASK, Turn("assistant", "", calls=(CALL,)), Turn("tool", "7", name="look", call_id="c1")))
    assert talk.messages() == [
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "", "tool_calls": [CALL]},
        {"role": "tool", "content": "7", "name": "look", "tool_call_id": "c1"},
    ]


@pytest.mark.parametrize("tools", [(), ({"type": "function"},)])
def test_the_sides_of_a_preference_are_whole_conversations(tools):
    chosen, rejected = Preference((ASK,), (REPLY,), (OTHER,), tools).sides()
    assert chosen == Conversation((ASK, REPLY), tools)
    assert rejected == Conversation((ASK, OTHER), tools)

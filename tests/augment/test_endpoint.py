"""An endpoint over a real connection: what is sent, what is believed, and when the work ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import orjson
import pytest

from truetune.augment import endpoint
from truetune.augment.address import checked
from truetune.augment.endpoint import PAUSES, Endpoint
from truetune.config.secrets import Secret
from truetune.errors import InputError, TrueTuneError, UsageError

KEY = "sk-canary-7f3a"
DRAWN: dict[str, Any] = {"seed": 7, "temperature": 0.9, "max_new_tokens": 64}

Open = Callable[..., tuple[Endpoint, list[float]]]


def said(*texts: str) -> list[list[dict[str, str]]]:
    return [[{"role": "user", "content": text}] for text in texts]


@pytest.fixture
def opened(server: Any) -> Iterator[Open]:
    """An endpoint at the server, and the pauses that it makes, in seconds."""
    made: list[Endpoint] = []

    def make(key: str | None = None, **options: Any) -> tuple[Endpoint, list[float]]:
        pauses: list[float] = []
        secret = Secret(key) if key else None
        made.append(Endpoint(server.address, "large", secret, pause=pauses.append, **options))
        return made[-1], pauses

    yield make
    for one in made:
        one.close()


def refused(one: Endpoint) -> TrueTuneError:
    with pytest.raises(TrueTuneError) as raised:
        one.ask(said("Hello?"), **DRAWN)
    return raised.value


def test_asks_for_all_at_once_and_keeps_their_order(server: Any, opened: Open) -> None:
    one, _ = opened(KEY)
    texts = [f"number {place}" for place in range(20)]
    assert one.ask(said(*texts), **DRAWN) == [f"in other words: {text}" for text in texts]
    bodies = {body["messages"][0]["content"]: body for _, body in server.seen}
    assert bodies["number 3"] == {
        "model": "large",
        "messages": [{"role": "user", "content": "number 3"}],
        "temperature": 0.9,
        "seed": 10,
        "max_tokens": 64,
    }
    assert {headers["authorization"] for headers, _ in server.seen} == {f"Bearer {KEY}"}


def test_without_a_key_none_is_sent(server: Any, opened: Open) -> None:
    opened()[0].ask(said("Hello?"), **DRAWN)
    assert "authorization" not in server.seen[0][0]


def test_waits_as_long_as_a_busy_endpoint_says(server: Any, opened: Open, reply: Any) -> None:
    one, pauses = opened()
    server.first = [reply(429, headers={"retry-after": "3"}), reply(503), reply(429, headers={"retry-after": "9999"})]
    assert one.ask(said("Hello?"), **DRAWN) == ["in other words: Hello?"]
    assert pauses[0] == 3 and 0 < pauses[1] <= 3 and pauses[2] == endpoint.LONGEST_PAUSE


def test_gives_up_an_endpoint_that_stays_busy(server: Any, opened: Open, reply: Any) -> None:
    one, pauses = opened()
    server.first = [reply(503, b'{"error": {"message": "overloaded"}}')] * 9
    error = refused(one)
    assert error.code == "augment.busy" and "503: overloaded" in error.message
    assert len(pauses) == len(PAUSES) and len(server.seen) == len(PAUSES) + 1


BROKEN = [
    b"",
    b"<html>",
    b"[]",
    b"null",
    b'{"choices": []}',
    b'{"choices": {}}',
    b'{"choices": ["text"]}',
    b'{"choices": [{"message": null}]}',
    b'{"choices": [{"message": {"content": "\\ud800"}}]}',
    b'{"choices": [{"message": {"content": "half',
    b"[" * 100_000,
]


@pytest.mark.parametrize("body", BROKEN)
def test_what_is_no_completion(server: Any, opened: Open, reply: Any, body: bytes) -> None:
    server.first = [reply(body=body)]
    error = refused(opened()[0])
    assert error.code == "augment.answer" and isinstance(error, InputError)


@pytest.mark.parametrize("reason", ["length", "content_filter", "tool_calls"])
def test_an_answer_that_is_not_whole_is_none(server: Any, opened: Open, reply: Any, done: Any, reason: str) -> None:
    server.first = [reply(body=done("half an", reason))]
    assert opened()[0].ask(said("Hello?"), **DRAWN) == [""]


def test_an_answer_without_text_is_none(server: Any, opened: Open, reply: Any, done: Any) -> None:
    server.first = [reply(body=done(None))]
    assert opened()[0].ask(said("Hello?"), **DRAWN) == [""]


def test_an_answer_is_read_to_a_limit_only(server: Any, opened: Open, reply: Any) -> None:
    server.first = [reply(body=b" " * (endpoint.LARGEST + 1))]
    assert refused(opened()[0]).code == "augment.answer"


@pytest.mark.parametrize("slow", [{"wait": 3.0}, {"body": b" " * 60, "drip": 0.05}])
def test_an_answer_is_waited_for_to_a_limit_only(server: Any, opened: Open, reply: Any, slow: dict[str, Any]) -> None:
    server.first = [reply(**slow)]
    error = refused(opened(patience=0.3)[0])
    assert error.code in ("augment.unreachable", "augment.answer") and "0.3 seconds" in error.message


def test_a_redirect_is_an_error_and_nothing_goes_there(server: Any, other: Any, opened: Open, reply: Any) -> None:
    for status in (301, 302, 303, 307, 308):
        server.first = [reply(status, headers={"location": f"{other.address}/chat/completions"})]
        error = refused(opened(KEY)[0])
        assert error.code == "augment.redirect" and other.address in error.message
    assert not other.seen


def test_the_key_is_in_no_error(server: Any, opened: Open, reply: Any) -> None:
    told = orjson.dumps({"error": {"message": f"the key {KEY} may not use this"}})
    for status, code in ((401, "refused"), (403, "refused"), (404, "refused"), (429, "busy"), (500, "busy")):
        server.first = [reply(status, told)] * 5
        error = refused(opened(KEY)[0])
        assert error.code == f"augment.{code}"
        assert KEY not in repr(error.to_json()) and KEY not in repr(error.__context__)


def test_what_the_endpoint_says_is_shown(server: Any, opened: Open, reply: Any) -> None:
    server.first = [reply(404, b'{"error": {"message": "there is no model\\n`large`"}}')]
    assert "status 404: there is no model `large`" in refused(opened()[0]).message


def test_the_other_name_of_the_longest_answer(server: Any, opened: Open, reply: Any) -> None:
    server.first = [reply(400, b'{"error": {"message": "use \'max_completion_tokens\' instead"}}')]
    one, _ = opened()
    assert one.ask(said("Hello?"), **DRAWN) == ["in other words: Hello?"]
    one.ask(said("Hello?"), **DRAWN)
    assert [("max_tokens" in body, body.get("max_completion_tokens")) for _, body in server.seen] == [
        (True, None), (False, 64), (False, 64),
    ]  # fmt: skip


def test_one_bad_answer_does_not_end_the_work_but_three_in_a_row_do(server: Any, opened: Open, reply: Any) -> None:
    one, _ = opened(slots=1)
    assert one.ask(said("a"), **DRAWN) == ["in other words: a"]
    server.first = [reply(body=b"{"), reply(400)]
    assert one.ask(said("b", "c", "d"), **DRAWN) == ["", "", "in other words: d"]
    server.first = [reply(body=b"{")] * 3
    with pytest.raises(InputError) as raised:
        one.ask(said("e", "f", "g", "h"), **DRAWN)
    assert raised.value.code == "augment.answer"


def test_a_torn_connection_is_tried_again_where_it_worked_before(server: Any, opened: Open, reply: Any) -> None:
    one, pauses = opened()
    one.ask(said("a"), **DRAWN)
    server.first = [reply(body=b"{", torn=True)]
    assert one.ask(said("b"), **DRAWN) == ["in other words: b"]
    assert len(pauses) == 1


def test_an_endpoint_that_does_not_run_is_said_at_once(server: Any) -> None:
    server.http.server_close()
    pauses: list[float] = []
    one = Endpoint(server.address, "large", pause=pauses.append)
    assert refused(one).code == "augment.unreachable" and not pauses


def test_this_machine_is_not_asked_through_a_proxy(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert Endpoint(server.address, "large").ask(said("Hello?"), **DRAWN) == ["in other words: Hello?"]


BAD = [
    "",
    "api.example.com/v1",
    "http://api.example.com/v1",
    "http://localhost.example.com/v1",
    "http://127.0.0.1@example.com/v1",
    "http://10.0.0.1/v1",
    "http://2130706433/v1",
    "http://[::ffff:8.8.8.8]/v1",
    "ftp://127.0.0.1/v1",
    "file:///etc/passwd",
    "https://",
    "https://user:word@api.example.com/v1",
    "https://api.example.com/v1?key=word",
    "https://api.example.com/v1#word",
    "http://127.0.0.1\n.example.com/v1",
    "https://[::1",
    "https://a:99999999/v1",
    f"https://{'a' * 70}.com/v1",
    "https://a..b/v1",
    "https://*/v1",
    "https://%00/v1",
    "https://[::1%25lo]/v1",
]


@pytest.mark.parametrize("address", BAD)
def test_addresses_that_are_not_asked(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    with pytest.raises(UsageError) as raised:
        checked(address)
    assert raised.value.code == "augment.endpoint"
    assert "word" not in repr(raised.value.to_json()).replace("a password", "")


def test_addresses_that_are_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    whole = "https://api.example.com/v1/chat/completions"
    for address in ("https://api.example.com/v1", "https://api.example.com/v1/", whole):
        url, local = checked(address)
        assert str(url) == whole and not local
    for address in ("http://localhost:8000/v1", "http://127.0.0.1:1/v1", "http://[::1]:8000/v1"):
        assert checked(address)[1]


def test_offline_only_this_machine_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(InputError) as raised:
        checked("https://api.example.com/v1")
    assert raised.value.code == "augment.offline"
    assert checked("http://127.0.0.1:8000/v1")[1]


@pytest.mark.parametrize("key", ["two words", "line\nbreak", "schlüssel", "tab\t"])
def test_a_key_that_no_header_can_carry(server: Any, key: str) -> None:
    with pytest.raises(UsageError) as raised:
        Endpoint(server.address, "large", Secret(key))
    assert raised.value.code == "augment.key" and key not in repr(raised.value.to_json())

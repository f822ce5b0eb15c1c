"""A client of another make, unchanged: the Hugging Face hub's own. Its answers are those of `ft chat` too."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest
from huggingface_hub import AsyncInferenceClient, InferenceClient, constants
from huggingface_hub.errors import HfHubHTTPError, TextGenerationError
from served import KEY, Live, live

import truetune as ft
from truetune.serve import service

QUESTIONS = ["How do I return an item?", "Hello"]
MODELS = ["starter", "adapter-0", "adapter-1"]
DRAWN: list[dict[str, Any]] = [{"temperature": 0}, {"temperature": 0.9, "top_p": 0.95, "seed": 7}]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """With a key; and the hub's client may open sockets, which here all lead to this machine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(constants, "HF_HUB_OFFLINE", False)
        with live(tmp_path_factory.mktemp("served"), adapters=2, key=KEY) as server:
            yield server


@pytest.fixture(scope="module")
def client(served: Live) -> InferenceClient:
    return InferenceClient(base_url=f"{served.url}/v1", api_key=KEY)


def asked(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def said(client: InferenceClient, model: str, text: str, **drawn: Any) -> str | None:
    found = client.chat.completions.create(model=model, messages=asked(text), max_tokens=12, **drawn)
    return found.choices[0].message.content


def test_answers_are_those_of_chat(served: Live, client: InferenceClient) -> None:
    for model in MODELS[:2]:
        address = model if model == "starter" else served.folder / model
        for drawn in DRAWN:
            wanted = [ft.generate(text, address, max_new_tokens=12, **drawn) for text in QUESTIONS]
            assert [said(client, model, text, **drawn) for text in QUESTIONS] == wanted


def test_a_stream_is_the_answer_in_pieces(client: InferenceClient) -> None:
    options: dict[str, Any] = {"model": "adapter-1", "messages": asked(QUESTIONS[0]), "temperature": 0}
    whole = client.chat_completion(**options, max_tokens=16)
    chunks = list(client.chat_completion(**options, max_tokens=16, stream=True, stream_options={"include_usage": True}))
    pieces = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert "".join(pieces) == whole.choices[0].message.content
    assert len(pieces) > 3
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "length"
    assert dict(chunks[-1].usage or {}) == dict(whole.usage)


def test_many_at_once_are_as_one_alone(served: Live, client: InferenceClient) -> None:
    pairs = [(model, text) for model in MODELS for text in QUESTIONS]
    alone = [said(client, *pair, temperature=0) for pair in pairs]

    async def streamed(asynchronous: AsyncInferenceClient, model: str, text: str) -> str:
        found = await asynchronous.chat_completion(asked(text), model=model, temperature=0, max_tokens=12, stream=True)
        return "".join([chunk.choices[0].delta.content or "" async for chunk in found])

    async def whole(asynchronous: AsyncInferenceClient, model: str, text: str) -> str | None:
        found = await asynchronous.chat_completion(asked(text), model=model, temperature=0, max_tokens=12)
        return found.choices[0].message.content

    async def together() -> list[str | None]:
        async with AsyncInferenceClient(base_url=f"{served.url}/v1", api_key=KEY) as asynchronous:
            return await asyncio.gather(
                *(whole(asynchronous, *pair) for pair in pairs), *(streamed(asynchronous, *pair) for pair in pairs)
            )

    assert asyncio.run(together()) == alone * 2
    assert len(set(alone[::2])) == 3


def test_a_schema_is_followed(client: InferenceClient) -> None:
    """Whose words this client turns into those of another server: `json_object` with a `value`."""
    properties = {"ok": {"type": "boolean"}, "colour": {"enum": ["red", "green"]}}
    schema = {"type": "object", "properties": properties, "required": [*properties], "additionalProperties": False}
    shape = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": True}}
    options: dict[str, Any] = {"messages": asked("Choose."), "max_tokens": 64, "temperature": 1, "seed": 3}
    found = client.chat_completion(model="adapter-0", **options, response_format=shape)
    answer = json.loads(found.choices[0].message.content or "")
    assert answer.keys() == properties.keys()
    assert answer["colour"] in ("red", "green")


def test_logprobs_and_stops(client: InferenceClient) -> None:
    options: dict[str, Any] = {"model": "starter", "messages": asked(QUESTIONS[0]), "max_tokens": 12, "temperature": 0}
    (choice,) = client.chat_completion(**options, logprobs=True, top_logprobs=4).choices
    assert choice.logprobs
    assert "".join(token.token for token in choice.logprobs.content) == choice.message.content
    for token in choice.logprobs.content:
        assert len(token.top_logprobs) == 4
        assert token.logprob == token.top_logprobs[0].logprob <= 0
    text = choice.message.content or ""
    (cut,) = client.chat_completion(**options, stop=[text[4:7]], extra_body={"min_p": 0.1}).choices
    assert (cut.message.content, cut.finish_reason) == (text[: text.index(text[4:7])], "stop")


def test_what_is_refused(served: Live, client: InferenceClient) -> None:
    for model, key, status in (("none", KEY, 404), ("starter", "wrong", 401)):
        other = InferenceClient(base_url=f"{served.url}/v1", api_key=key)
        with pytest.raises(HfHubHTTPError) as refused:
            said(other, model, "Hello")
        assert refused.value.response.status_code == status
    with pytest.raises(HfHubHTTPError) as unknown:
        said(client, "starter", "Hello", extra_body={"unheard": 1})
    assert "unheard" in unknown.value.response.text


def test_a_stream_that_breaks_says_so(served: Live, client: InferenceClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("of a test")

    options: dict[str, Any] = {"model": "starter", "messages": asked("Hello"), "max_tokens": 4}
    with monkeypatch.context() as patch:
        patch.setattr(service, "spell", broken)
        with pytest.raises(TextGenerationError, match="failed at this request"):
            list(client.chat_completion(**options, stream=True, logprobs=True))
    assert list(client.chat_completion(**options, stream=True, logprobs=True))
    assert served.service.scheduler.stats()["running"] == 0

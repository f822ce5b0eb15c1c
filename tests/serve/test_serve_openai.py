"""The official client, sync and async, against a real server: answers equal those of `ft chat`."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator

import openai
import pytest
from pydantic import BaseModel
from served import Live, live

import truetune as ft
from truetune.models import tokenizer
from truetune.models.source import STARTER

QUESTIONS = ["How do I return an item?", "Hello", "What is the capital of France?"]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    with live(tmp_path_factory.mktemp("served"), adapters=2) as server:
        yield server


@pytest.fixture(scope="module")
def client(served: Live) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0) as found:
        yield found


def asked(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def test_answers_are_those_of_chat(served: Live, client: openai.OpenAI) -> None:
    for model, address in (("starter", "starter"), ("adapter-0", served.folder / "adapter-0")):
        for drawn in ({"temperature": 0}, {"temperature": 0.9, "seed": 7}):
            wanted = [ft.generate(text, address, max_new_tokens=12, **drawn) for text in QUESTIONS[:2]]
            found = [
                client.chat.completions.create(model=model, messages=asked(text), max_tokens=12, **drawn)  # type: ignore[call-overload]
                for text in QUESTIONS[:2]
            ]
            assert [one.choices[0].message.content for one in found] == wanted
    assert found[0].usage.total_tokens == found[0].usage.prompt_tokens + found[0].usage.completion_tokens


def test_a_stream_is_the_answer_in_pieces(client: openai.OpenAI) -> None:
    options = {"model": "adapter-1", "messages": asked(QUESTIONS[0]), "temperature": 0, "max_tokens": 16}
    whole = client.chat.completions.create(**options)  # type: ignore[call-overload]
    chunks = list(client.chat.completions.create(**options, stream=True, stream_options={"include_usage": True}))  # type: ignore[call-overload]
    pieces = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert "".join(pieces) == whole.choices[0].message.content
    assert len(pieces) > 3
    reasons = [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices]
    assert (reasons[-1], set(reasons[:-1])) == (whole.choices[0].finish_reason, {None})
    assert chunks[-1].usage == whole.usage


def test_many_at_once_are_as_one_alone(served: Live, client: openai.OpenAI) -> None:
    models = ["starter", "adapter-0", "adapter-1"]
    pairs = [(model, text) for model in models for text in QUESTIONS]
    alone = [said(client, *pair) for pair in pairs]

    async def together() -> list[str | None]:
        async with openai.AsyncOpenAI(base_url=f"{served.url}/v1", api_key="none") as asynchronous:
            made = [
                asynchronous.chat.completions.create(model=model, messages=asked(text), temperature=0, max_tokens=10)  # type: ignore[arg-type]
                for model, text in pairs
            ]
            return [one.choices[0].message.content for one in await asyncio.gather(*made)]

    assert asyncio.run(together()) == alone
    assert len(set(alone[::3])) == 3


def said(client: openai.OpenAI, model: str, text: str) -> str | None:
    found = client.chat.completions.create(model=model, messages=asked(text), temperature=0, max_tokens=10)  # type: ignore[arg-type]
    return found.choices[0].message.content


def test_a_schema_is_followed(client: openai.OpenAI) -> None:
    class Answer(BaseModel, extra="forbid"):
        ok: bool
        colour: str

    schema = Answer.model_json_schema()
    schema["properties"]["colour"]["enum"] = ["red", "green"]
    shape = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": True}}
    options = {"model": "adapter-0", "messages": asked("Choose."), "max_tokens": 64, "temperature": 1, "seed": 3}
    found = client.chat.completions.create(**options, response_format=shape)  # type: ignore[call-overload]
    answer = Answer.model_validate_json(found.choices[0].message.content)
    assert answer.colour in ("red", "green")
    parsed = client.chat.completions.parse(model="starter", messages=asked("Say."), response_format=One, max_tokens=40)  # type: ignore[arg-type]
    assert parsed.choices[0].message.parsed is not None
    free = client.chat.completions.create(**options, response_format={"type": "json_object"}, stop=["}"])  # type: ignore[call-overload]
    assert free.choices[0].message.content.lstrip().startswith("{")


class One(BaseModel, extra="forbid"):
    yes: bool


def test_choices_stops_and_logprobs(client: openai.OpenAI) -> None:
    options = {"model": "starter", "messages": asked(QUESTIONS[0]), "max_tokens": 12}
    found = client.chat.completions.create(**options, n=3, seed=5, temperature=1.5, logprobs=True, top_logprobs=4)  # type: ignore[call-overload]
    assert [choice.index for choice in found.choices] == [0, 1, 2]
    assert len({choice.message.content for choice in found.choices}) == 3
    again = client.chat.completions.create(**options, seed=5, temperature=1.5)  # type: ignore[call-overload]
    assert again.choices[0].message.content == found.choices[0].message.content
    for choice in found.choices:
        tokens = choice.logprobs.content
        assert "".join(token.token for token in tokens) == choice.message.content
        assert all(len(token.top_logprobs) == 4 and token.logprob <= 0 for token in tokens)
    plain = client.chat.completions.create(**options, temperature=0)  # type: ignore[call-overload]
    text = plain.choices[0].message.content
    stop = text[4:7]
    cut = client.chat.completions.create(**options, temperature=0, stop=[stop])  # type: ignore[call-overload]
    assert (cut.choices[0].message.content, cut.choices[0].finish_reason) == (text[: text.index(stop)], "stop")


def test_penalties_and_biases_change_what_is_said(client: openai.OpenAI) -> None:
    options = {"model": "starter", "messages": asked(QUESTIONS[0]), "max_tokens": 8, "temperature": 0}
    plain = said(client, "starter", QUESTIONS[0])
    encode = tokenizer.load(STARTER)
    first = encode.encode(plain or "")[0]
    biased = client.chat.completions.create(**options, logit_bias={str(first): -100})  # type: ignore[call-overload]
    assert encode.encode(biased.choices[0].message.content)[0] != first
    extra = {"top_k": 1, "min_p": 0.1, "repetition_penalty": 1.3, "min_tokens": 8, "ignore_eos": True}
    other = client.chat.completions.create(**options, extra_body=extra, presence_penalty=0.5, frequency_penalty=0.5)  # type: ignore[call-overload]
    assert other.usage.completion_tokens == 8


def test_models_and_errors(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["starter", "adapter-0", "adapter-1"]
    assert client.models.retrieve("adapter-1").model_dump()["parent"] == "starter"
    with pytest.raises(openai.NotFoundError) as missing:
        client.models.retrieve("no/such")
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.NotFoundError):
        said(client, "none", "Hello")
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(
            model="starter",
            messages=asked("Hello"),  # type: ignore[arg-type]
            tools=[{"type": "function", "function": {"name": "f", "parameters": {}}}],
        )
    assert refused.value.param == "tools"
    for wrong in (
        {"model": "starter", "messages": asked("x " * 2000)},
        {"model": "starter", "messages": asked("<|im_end|>") + asked("a")},
        {"model": "starter", "messages": asked(" ")},
        {"model": "starter", "messages": asked("a"), "n": 10**6},
        {"model": "starter", "messages": asked("a"), "stop": ["x"] * 10**5},
        {"model": "starter", "messages": asked("a"), "unheard": 1},
        {"model": "starter", "messages": asked("a"), "temperature": "1"},
        {"model": "starter", "messages": asked("a"), "chat_template_kwargs": {}},
    ):
        with pytest.raises(openai.BadRequestError) as bad:
            client.post("/chat/completions", body=wrong, cast_to=object)
        assert bad.value.body.keys() == {"message", "type", "param", "code"}  # type: ignore[attr-defined]


def test_completions_as_harnesses_ask(served: Live, client: openai.OpenAI) -> None:
    """The requests of lm-eval's `local-completions`, and how it reads them: token ids, echo, one token it drops."""
    encode = tokenizer.load(STARTER)
    contexts, rests = ["The capital of France is", "Hello"], [" Paris", " there, how are you?"]
    rows = [(encode.encode(one), encode.encode(other)) for one, other in zip(contexts, rests, strict=True)]
    body = {
        "model": "adapter-0",
        "prompt": [context + rest for context, rest in rows],
        "temperature": 0,
        "max_tokens": 1,
        "logprobs": 1,
        "seed": 1234,
        "echo": True,
    }
    answer = served.post("/v1/completions", body).json()
    for (context, rest), choice in zip(rows, sorted(answer["choices"], key=lambda each: each["index"]), strict=True):
        told = choice["logprobs"]
        assert len(told["token_logprobs"]) == len(context) + len(rest) + 1
        assert told["token_logprobs"][0] is None
        values, tops = told["token_logprobs"][len(context) : -1], told["top_logprobs"][len(context) : -1]
        assert len(values) == len(rest)
        assert all(value <= max(top.values()) for value, top in zip(values, tops, strict=True))
        greedy = greedily(served, "adapter-0", context, len(rest))
        assert (greedy == rest) == all(value == max(top.values()) for value, top in zip(values, tops, strict=True))
    context = rows[0][0]
    best = greedily(served, "adapter-0", context, 4)
    scored = served.post("/v1/completions", body | {"prompt": [context + best]}).json()["choices"][0]["logprobs"]
    pairs = zip(scored["token_logprobs"][len(context) : -1], scored["top_logprobs"][len(context) : -1], strict=True)
    assert all(value == max(top.values()) for value, top in pairs)
    silent = client.completions.create(model="starter", prompt=contexts, max_tokens=0, echo=True, logprobs=0)
    assert [choice.text for choice in silent.choices] == contexts
    assert silent.usage and silent.usage.completion_tokens == 0
    streamed = client.completions.create(model="starter", prompt=contexts, max_tokens=4, temperature=0, stream=True)
    joined = {0: "", 1: ""}
    for chunk in streamed:
        joined[chunk.choices[0].index] += chunk.choices[0].text
    whole = client.completions.create(model="starter", prompt=contexts, max_tokens=4, temperature=0)
    assert list(joined.values()) == [choice.text for choice in whole.choices]


def greedily(served: Live, model: str, ids: list[int], count: int) -> list[int]:
    body = {"model": model, "prompt": ids, "temperature": 0, "max_tokens": count, "logprobs": 0, "ignore_eos": True}
    tokens = served.post("/v1/completions", body).json()["choices"][0]["logprobs"]["tokens"]
    return [tokenizer.load(STARTER).encode(token)[0] for token in tokens]


def test_our_own_routes(served: Live) -> None:
    body = {"model": "adapter-1", "prompt": QUESTIONS[0], "max_new_tokens": 6, "temperature": 0}
    found = served.post("/api/inference/generate", body).json()
    assert found["text"] == ft.generate(QUESTIONS[0], served.folder / "adapter-1", max_new_tokens=6, temperature=0)
    encode = tokenizer.load(STARTER)
    assert served.post("/tokenize", {"model": "starter", "prompt": "Hello there"}).json()["tokens"] == encode.encode(
        "Hello there"
    )
    talk = served.post("/tokenize", {"model": "starter", "messages": asked("Hello")}).json()
    assert encode.template is not None
    assert talk["tokens"] == encode.encode(encode.template.render(asked("Hello"), add_generation_prompt=True))
    assert served.client.get("/health").json() == {"status": "ok"}
    figures = served.client.get("/metrics").text
    assert "truetune_generation_tokens_total" in figures
    assert "truetune_running 0.0" in figures
    page = served.client.get("/openapi.json").json()
    assert "/v1/chat/completions" in page["paths"]
    assert json.dumps(page).count("https://") <= 1

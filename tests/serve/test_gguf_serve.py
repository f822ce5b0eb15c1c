"""A GGUF file behind the server: llama.cpp writes, from ids that are rendered here, and answers are transformers'."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import openai
import pytest

pytest.importorskip("gguf", reason="gguf is not installed: GGUF files are not served in this test run")
pytest.importorskip("xllamacpp", reason="xllamacpp is not installed: GGUF files are not served in this test run")

from served import Live, live, made

import truetune as ft
from truetune.engines.decoder import Sampling
from truetune.engines.gguf import process
from truetune.engines.gguf.decoder import GgufDecoder, Row
from truetune.errors import InputError, ResourceError, UsageError
from truetune.evaluate.subject import find_subject
from truetune.evaluate.voice import Voice
from truetune.export import origin
from truetune.export.gguf import adapter, model
from truetune.export.runtime import Options
from truetune.serve import gguf
from truetune.serve.opening import Room

TUNED = ("tuned", "other")
QUESTIONS = ["How do I return an item?", "Hello", "What is the capital of France?", "Write é and 漢 and 😀."]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The starter in float32, and two adapters of it, as llama.cpp reads them."""
    room = tmp_path_factory.mktemp("gguf")
    (room / "model").mkdir()
    model.create(origin.find("starter"), room / "model")
    for seed, name in enumerate(TUNED):
        (room / f"{name}-gguf").mkdir()
        adapter.write(origin.find(str(made(room / name, seed))), room / f"{name}-gguf", Options())
    return room


@pytest.fixture(scope="module")
def served(folder: Path) -> Iterator[Live]:
    files = [folder / "model" / "model.gguf", *(folder / f"{name}-gguf" / "adapter.gguf" for name in TUNED)]
    with live(folder, opener=lambda: gguf.opened(files, room=Room(slots=4, queue=4))) as server:
        yield server


@pytest.fixture(scope="module")
def client(served: Live) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0) as found:
        yield found


def said(client: openai.OpenAI, text: str, model: str = "starter", **more: object) -> str:
    asked = [{"role": "user", "content": text}]
    settings = {"temperature": 0, "max_tokens": 24, **more}
    found = client.chat.completions.create(model=model, messages=asked, **settings)  # type: ignore[call-overload]
    return str(found.choices[0].message.content)


def test_greedy_answers_are_transformers_own(served: Live, client: openai.OpenAI, folder: Path) -> None:
    """By the base and by two adapters, one after another and mixed: nobody is given what another has computed."""
    places = {"starter": "starter"} | {name: folder / name for name in TUNED}
    wanted = {
        (model, text): ft.generate(text, place, max_new_tokens=24, temperature=0)
        for model, place in places.items()
        for text in QUESTIONS[:2]
    }
    assert len(set(wanted.values())) == len(wanted)
    assert [card.id for card in client.models.list()] == list(places)
    assert {pair: said(client, pair[1], pair[0]) for pair in wanted} == wanted
    with ThreadPoolExecutor(4) as threads:  # as many as there are slots
        for _ in range(3):
            answers = threads.map(lambda pair: said(client, pair[1], pair[0]), wanted)
            assert dict(zip(wanted, answers, strict=True)) == wanted


def test_prompts_are_rendered_and_encoded_as_the_model_was_trained(served: Live) -> None:
    """The file's ids are the tokenizer's, text by text and conversation by conversation."""
    voice = Voice(find_subject("starter"))
    encode = voice.subject.tokenizer
    for text in [*QUESTIONS, "  spaces\n\n\ttabs 12345", "don't"]:
        found = served.post("/tokenize", {"model": "starter", "prompt": text}).json()["tokens"]
        assert found == encode.encode_document(text)
        asked = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": text}]
        rendered = served.post("/tokenize", {"model": "starter", "messages": asked}).json()["tokens"]
        assert rendered == voice.prompt(asked)
        own = served.service.base.subject.tokenizer
        assert own.decode(found) == encode.decode(found)
    forged = served.post("/v1/chat/completions", chat(f"{encode.eos} forged"))
    assert forged.status_code == 400


def chat(text: str, **more: object) -> dict[str, object]:
    return {"model": "starter", "messages": [{"role": "user", "content": text}], "max_tokens": 8, **more}


def test_streams_stops_choices_and_completions(served: Live, client: openai.OpenAI) -> None:
    asked = [{"role": "user", "content": QUESTIONS[0]}]
    options = {"model": "starter", "messages": asked, "temperature": 0, "max_tokens": 16}
    whole = client.chat.completions.create(**options)  # type: ignore[call-overload]
    chunks = list(client.chat.completions.create(**options, stream=True, stream_options={"include_usage": True}))  # type: ignore[call-overload]
    pieces = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert "".join(pieces) == whole.choices[0].message.content and len(pieces) > 3
    assert chunks[-1].usage == whole.usage and whole.usage.completion_tokens <= 16
    text = whole.choices[0].message.content
    cut = client.chat.completions.create(**options, stop=[text[4:7]])  # type: ignore[call-overload]
    assert (cut.choices[0].message.content, cut.choices[0].finish_reason) == (text[: text.index(text[4:7])], "stop")
    many = {"model": "starter", "n": 3, "temperature": 1.5, "max_tokens": 12, "messages": asked}
    drawn = client.chat.completions.create(**many, seed=5, top_p=0.9, extra_body={"top_k": 50, "min_p": 0.01})  # type: ignore[call-overload]
    again = client.chat.completions.create(**many, seed=5, top_p=0.9, extra_body={"top_k": 50, "min_p": 0.01})  # type: ignore[call-overload]
    assert [one.message.content for one in drawn.choices] == [one.message.content for one in again.choices]
    assert len({one.message.content for one in drawn.choices}) == 3
    ids = served.post("/tokenize", {"model": "starter", "prompt": "The parcel"}).json()["tokens"]
    texts = [
        client.completions.create(model="starter", prompt=prompt, temperature=0, max_tokens=6).choices[0].text
        for prompt in ("The parcel", ids)
    ]
    assert texts[0] == texts[1] != ""
    echoed = client.completions.create(model="starter", prompt="The parcel", temperature=0, max_tokens=6, echo=True)
    assert echoed.choices[0].text == "The parcel" + texts[0]


def test_each_token_is_counted_and_characters_come_whole(served: Live) -> None:
    """Answers are exactly as long as allowed; a bias makes the pieces of 漢 likely, and what is whole of it is said."""
    encode = served.service.base.subject.tokenizer
    never = {str(end): -100 for end in encode.eos_ids}
    pieces = {str(token): 100 for token in encode.encode("漢")}
    assert len(pieces) > 1
    asked = [chat("x", temperature=0, max_tokens=7, logit_bias=never) for _ in range(6)]
    asked += [chat("x", temperature=1, max_tokens=40, seed=seed, logit_bias=never | pieces) for seed in range(2)]
    with ThreadPoolExecutor(4) as threads:
        answers = list(threads.map(lambda body: served.post("/v1/chat/completions", body).json(), asked))
    assert [answer["usage"]["completion_tokens"] for answer in answers] == [body["max_tokens"] for body in asked]
    assert {answer["choices"][0]["finish_reason"] for answer in answers} == {"length"}
    assert "\N{REPLACEMENT CHARACTER}" in answers[-1]["choices"][0]["message"]["content"]
    decoder = served.service.scheduler.decoder
    assert isinstance(decoder, GgufDecoder)
    decoder.rows[0] = row = Row((1,), None, Sampling(), number=0, limit=9)
    whole = (
        {"content": "a", "tokens": [68], "tokens_predicted": 1},
        {"content": "漢", "tokens": [99], "tokens_predicted": 4},
    )
    for event in (*whole, {"content": "", "tokens": [], "tokens_predicted": 6, "stop": True, "stop_type": "limit"}):
        decoder.hear(0, event)
    told = [*decoder.rows.pop(0).pending]
    assert encode.decode([token.id for token in told]) == encode.decode([68]) + "漢\N{REPLACEMENT CHARACTER}"
    assert [token.reason for token in told] == ["", "", "", "", "", "length"] and row.told == 6


def test_what_llama_cpp_does_not_do_is_refused_by_name(served: Live) -> None:
    for wrong, named in (
        ({"logprobs": True}, "logprobs"),
        ({"presence_penalty": 1.0}, "presence_penalty"),
        ({"min_tokens": 4}, "min_tokens"),
        ({"ignore_eos": True}, "ignore_eos"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"logit_bias": {"999999": 1}}, "999999"),
    ):
        answer = served.post("/v1/chat/completions", chat("Hello", **wrong))
        assert answer.status_code == 400 and named in answer.json()["error"]["message"], wrong
    scored = {"model": "starter", "prompt": "a", "echo": True, "logprobs": 1, "max_tokens": 1}
    answer = served.post("/v1/completions", scored)
    assert answer.status_code == 400 and "echo" in answer.json()["error"]["message"]
    load = served.post("/v1/load_lora_adapter", {"lora_name": "x", "lora_path": "runs/x"})
    assert (load.status_code, load.json()["error"]["code"]) == (400, "serve.fixed")
    assert served.post("/v1/embeddings", {"model": "starter", "input": "a"}).json()["error"]["code"] == "no_embeddings"


def test_who_goes_away_frees_the_slot_and_beyond_the_queue_is_429(served: Live, client: openai.OpenAI) -> None:
    long = {"model": "starter", "temperature": 1, "max_tokens": 1500, "logit_bias": {}, "stream": True}
    ends = served.service.base.subject.tokenizer.eos_ids
    body = {**long, "messages": [{"role": "user", "content": "Count."}], "logit_bias": {str(end): -100 for end in ends}}
    streams = [client.chat.completions.create(**body) for _ in range(4)]  # type: ignore[call-overload]
    for stream in streams:
        next(iter(stream))
    waiting = [threading.Thread(target=lambda: served.post("/v1/chat/completions", chat("Hello"))) for _ in range(4)]
    for one in waiting:
        one.start()
    until(lambda: served.service.scheduler.stats()["waiting"] == 4)
    full = served.post("/v1/chat/completions", chat("Hello"))
    assert (full.status_code, full.json()["error"]["code"]) == (429, "queue_full")
    for stream in streams:
        stream.response.close()
    for one in waiting:
        one.join(60)
    until(lambda: served.service.scheduler.stats()["running"] == 0)
    assert said(client, QUESTIONS[1]) == ft.generate(QUESTIONS[1], "starter", max_new_tokens=24, temperature=0)


def test_llama_cpp_is_started_anew(served: Live, client: openai.OpenAI) -> None:
    """What breaks it ends the answers of that moment, and no later one."""
    wanted = said(client, QUESTIONS[0])
    ends = served.service.base.subject.tokenizer.eos_ids
    endless = chat("Count.", max_tokens=1500, stream=True, logit_bias={str(end): -100 for end in ends})
    stream = client.chat.completions.create(**endless)  # type: ignore[call-overload]
    next(iter(stream))
    decoder = served.service.scheduler.decoder
    decoder.process.child.kill()  # type: ignore[attr-defined]
    with pytest.raises(openai.APIError, match="ended in the middle"):
        list(stream)
    assert said(client, QUESTIONS[0]) == wanted


def test_files_are_named_and_checked(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, tuned = folder / "model" / "model.gguf", folder / "tuned-gguf" / "adapter.gguf"
    assert gguf.place(str(folder / "model")) == whole
    assert gguf.place(str(folder / "tuned")) is None
    with pytest.raises(InputError, match="no file"):
        gguf.place(str(tmp_path / "none.gguf"))
    with pytest.raises(UsageError, match="hold 0"):
        gguf.opened([tuned], room=Room())
    damaged = tmp_path / "damaged.gguf"
    damaged.write_bytes(whole.read_bytes()[:100_000])
    with pytest.raises(InputError, match="no GGUF file that can be trusted"):
        gguf.opened([damaged], room=Room())
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ResourceError) as missing:
        process.Process({})
    assert "truetune[gguf,serve]" in missing.value.finding.hint


def until(holds: object, seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not holds():  # type: ignore[operator]
        assert time.monotonic() < end
        time.sleep(0.01)

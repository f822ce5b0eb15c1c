"""`/v1/embeddings` by the official client: equal to transformers' own forward by hand, alone and in company."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import numpy as np
import openai
import pytest
import small_encoder
import torch
from served import Live, live
from transformers import AutoModel, AutoTokenizer

from truetune.engines.torch import tiny
from truetune.errors import InputError
from truetune.evaluate.subject import find_subject
from truetune.models import encoders
from truetune.serve.opening import Wanted

TEXTS = [
    "Where is my parcel?",
    "help",
    "How do I return an item and how do I get my money back, please? Thanks for your help with the late order.",
    "the order is late",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    room = tmp_path_factory.mktemp("encoders")
    for name in tiny.ENCODERS:
        small_encoder.make(room / name, name)
    return room


@pytest.fixture(scope="module")
def served(folder: Path) -> Iterator[Live]:
    wanted = [Wanted((), find_subject(str(folder / name))) for name in tiny.ENCODERS]
    with live(folder, wanted=wanted) as server:
        yield server


@pytest.fixture(scope="module")
def client(served: Live) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0) as found:
        yield found


def by_hand(folder: Path, texts: list[str], pooling: str = "mean") -> np.ndarray:
    """Each text alone through transformers' model, and the mean over its tokens."""
    model, encode = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    found = []
    for text in texts:
        ids = torch.tensor([encode(text)["input_ids"]])
        with torch.no_grad():
            states = model(input_ids=ids).last_hidden_state[0]
        found.append({"mean": states.mean(0), "cls": states[0], "max": states.amax(0)}[pooling].numpy())
    return np.stack(found)


def asked(client: openai.OpenAI, model: str, texts: object, **more: object) -> np.ndarray:
    answer = client.embeddings.create(model=model, input=texts, **more)  # type: ignore[arg-type]
    assert [one.index for one in answer.data] == list(range(len(answer.data)))
    return np.array([one.embedding for one in answer.data])


@pytest.mark.parametrize("name", list(tiny.ENCODERS))
def test_they_are_transformers_own_states_by_hand(folder: Path, client: openai.OpenAI, name: str) -> None:
    wanted = by_hand(folder / name, TEXTS)
    together = asked(client, name, TEXTS)  # base64, as the client asks by itself
    np.testing.assert_allclose(together, wanted, atol=1e-5)
    alone = np.concatenate([asked(client, name, text, encoding_format="float") for text in TEXTS])
    np.testing.assert_allclose(alone, together, atol=1e-5)
    assert np.abs(wanted[0] - wanted[3]).max() > 1e-3  # texts differ by more than what is compared


def test_ids_are_taken_as_they_stand_and_counted(folder: Path, client: openai.OpenAI) -> None:
    encode = AutoTokenizer.from_pretrained(folder / "bert")
    ids = [encode(text)["input_ids"] for text in TEXTS]
    np.testing.assert_allclose(asked(client, "bert", ids), by_hand(folder / "bert", TEXTS), atol=1e-5)
    np.testing.assert_allclose(asked(client, "bert", ids[1]), by_hand(folder / "bert", TEXTS[1:2]), atol=1e-5)
    usage = client.embeddings.create(model="bert", input=TEXTS).usage
    assert (usage.prompt_tokens, usage.total_tokens) == (sum(map(len, ids)), sum(map(len, ids)))
    width = client.embeddings.create(model="bert", input="help", dimensions=32)
    assert len(width.data[0].embedding) == 32


def test_many_texts_are_cut_into_parts(client: openai.OpenAI) -> None:
    """More than are computed together: each has its own place in the answer."""
    texts = [f"{'my order is late ' * (1 + at % 7)}{at}" for at in range(300)]
    found = asked(client, "distilbert", texts)
    for at in (0, 6, 150, 299):
        np.testing.assert_allclose(found[at], asked(client, "distilbert", texts[at])[0], atol=1e-5)


def test_what_cannot_be_asked_is_refused(served: Live, client: openai.OpenAI) -> None:
    long = "my order " * 100
    for body, param, code in (
        ({"input": "help", "dimensions": 16}, "dimensions", "invalid_value"),
        ({"input": ""}, "input.0", "generation.empty"),
        ({"input": ["help", long]}, "input.1", "context_length_exceeded"),
        ({"input": "the end [SEP]"}, "input.0", "generation.control"),
        ({"input": [[2, 100_000, 3]]}, "input.0", "generation.token"),
        ({"input": []}, "input", "invalid_value"),
        ({"input": ["help"] * 2049}, "input", "invalid_value"),
        ({"input": "help", "truncate": "END"}, "truncate", "unknown_parameter"),
    ):
        answer = served.post("/v1/embeddings", {"model": "bert", **body})
        told = answer.json()["error"]
        assert (answer.status_code, told["code"]) == (400, code), told
        assert str(told["param"]).startswith(param)
    with pytest.raises(openai.NotFoundError):
        client.embeddings.create(model="none", input="help")
    with pytest.raises(openai.BadRequestError, match="writes nothing"):
        client.chat.completions.create(model="bert", messages=[{"role": "user", "content": "Hello"}])
    assert served.post("/v1/classify", {"model": "bert", "input": "help"}).json()["error"]["code"] == "no_classes"
    assert served.post("/v1/load_lora_adapter", {"lora_name": "bert", "lora_path": "x"}).status_code == 400
    cards = {card.id: card.model_dump() for card in client.models.list()}
    assert list(cards) == list(tiny.ENCODERS)
    assert cards["roberta"]["max_model_len"] == 126  # it counts positions from 2


def test_a_model_that_writes_gives_none(tmp_path: Path) -> None:
    with live(tmp_path) as server:
        answer = server.post("/v1/embeddings", {"model": "starter", "input": "Hello"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "no_embeddings")


def test_sentence_transformers_settings_are_followed(folder: Path, tmp_path: Path) -> None:
    place = small_encoder.make(tmp_path / "st")
    steps = [{"idx": 0, "path": "", "type": "sentence_transformers.models.Transformer"}]
    steps += [{"idx": 1, "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"}]
    steps += [{"idx": 2, "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"}]
    (place / "1_Pooling").mkdir()

    def chosen(**modes: object) -> None:
        (place / "modules.json").write_text(json.dumps(steps))
        (place / "1_Pooling" / "config.json").write_text(json.dumps({"word_embedding_dimension": 32, **modes}))

    (place / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 32}))
    chosen(pooling_mode_cls_token=True, pooling_mode_mean_tokens=False)
    with live(place, wanted=[Wanted((), find_subject(str(place)))]) as server:
        body = {"model": "st", "input": TEXTS[:2]}
        data = server.post("/v1/embeddings", body).json()["data"]
        wanted = by_hand(place, TEXTS[:2], "cls")
        wanted /= np.linalg.norm(wanted, axis=1, keepdims=True)
        np.testing.assert_allclose([one["embedding"] for one in data], wanted, atol=1e-5)
        assert server.post("/v1/embeddings", {**body, "input": "my " * 40}).status_code == 400
    chosen(pooling_mode_max_tokens=True)
    assert encoders.pooling(place) == encoders.Pooling("max", True, 32)
    chosen(pooling_mode="mean")
    assert encoders.pooling(place).kind == "mean"
    chosen(pooling_mode_lasttoken=True)
    with pytest.raises(InputError, match="lasttoken"):
        encoders.pooling(place)
    steps.append({"idx": 3, "path": "3_Dense", "type": "sentence_transformers.models.Dense"})
    chosen(pooling_mode_mean_tokens=True)
    with pytest.raises(InputError, match="Dense"):
        encoders.pooling(place)


def test_beyond_the_queue_it_says_so(folder: Path) -> None:
    """One request is read, two wait, the others are told to come back; those that were taken are answered."""
    with live(folder, wanted=[Wanted((), find_subject(str(folder / "bert")))]) as server:
        embedder = server.service.embedders["bert"]
        embedder.queue = 2
        body = {"model": "bert", "input": "help"}
        with ThreadPoolExecutor(6) as threads:
            with embedder.lock:
                pending = [threads.submit(server.post, "/v1/embeddings", body) for _ in range(6)]
                refused = [one.result() for _, one in zip(range(3), as_completed(pending), strict=False)]
            answers = [one.result() for one in pending]
        assert {answer.status_code for answer in refused} == {429}
        assert refused[0].json()["error"]["code"] == "queue_full" and int(refused[0].headers["retry-after"]) >= 1
        assert sorted(answer.status_code for answer in answers) == [200] * 3 + [429] * 3

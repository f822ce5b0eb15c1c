"""`ft serve` of what torch does not write: a classifier over an encoder and its base, and an exported GGUF file."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
from real_ft import LIMIT, Ft

pytestmark = pytest.mark.slow
QUESTION = "What is 3 plus one?"
TEXTS = ["where is my order", "help", "please return the money of my late order and help"]


@pytest.fixture(scope="module")
def ft(tmp_path_factory: pytest.TempPathFactory) -> Ft:
    return Ft(tmp_path_factory.mktemp("files"))


def served(ft: Ft, *args: str) -> tuple[Any, str, list[str]]:
    """A server that takes requests, its address, and what it said."""
    process = ft.start("serve", *args, "--port", "0")
    assert process.stdout
    said = [process.stdout.readline() for _ in range(3)]
    while said[-1] and not said[-1].startswith("curl "):
        said.append(process.stdout.readline())
    assert said[-1], process.poll()
    return process, said[0].strip().removesuffix("/v1"), said


def ended(ft: Ft, process: Any) -> None:
    process.send_signal(signal.SIGTERM)
    assert ft.end(process).code == 0


def trained(ft: Ft, *args: str) -> Path:
    few = ("--set", "training.max_steps=3", "--set", "evaluation.samples=0", "--set", "resources.memory=3GB")
    said = ft("train", *args, *few, "--json")
    assert said.code == 0, said.err
    return Path(said.document["folder"])


def vectors(url: str, model: str) -> np.ndarray:
    found = httpx2.post(f"{url}/v1/embeddings", json={"model": model, "input": TEXTS}, timeout=LIMIT).json()
    return np.array([one["embedding"] for one in found["data"]])


def test_a_classifier_gives_embeddings_of_its_body(ft: Ft) -> None:
    torch, peft = pytest.importorskip("torch"), pytest.importorskip("peft")
    import small_encoder
    from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer

    base = small_encoder.make(ft.folder / "reader")
    rows = [{"text": f"my order {n} is late", "label": ("late" if n % 3 else "lost")} for n in range(40)]
    ft.write("classes.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    rate = ("--set", "training.learning_rate=0.01", "--set", "output.name=sorter")
    run = trained(ft, "--model", "./reader", "--data", "classes.jsonl", *rate)
    encode = AutoTokenizer.from_pretrained(base)

    def by_hand(body: Any) -> np.ndarray:
        with torch.no_grad():
            states = [body(**encode(text, return_tensors="pt")).last_hidden_state[0].mean(0) for text in TEXTS]
        return torch.stack(states).numpy()

    process, url, _ = served(ft, "sorter")
    try:
        whole = AutoModelForSequenceClassification.from_pretrained(base, num_labels=2)
        tuned = peft.PeftModel.from_pretrained(whole, run / "adapter").eval()
        found = vectors(url, "sorter")
        np.testing.assert_allclose(found, by_hand(tuned.base_model.model.bert), atol=1e-5)
        sorts = httpx2.post(f"{url}/v1/classify", json={"model": "sorter", "input": TEXTS}, timeout=LIMIT)
        assert [one["label"] in ("late", "lost") for one in sorts.json()["data"]] == [True] * 3
    finally:
        ended(ft, process)
    process, url, said = served(ft, "./reader")
    try:
        assert "models: reader" in said[1] and "/v1/embeddings" in said[-1]
        plain = vectors(url, "reader")
        np.testing.assert_allclose(plain, by_hand(AutoModel.from_pretrained(base).eval()), atol=1e-5)
        assert np.abs(plain - found).max() > 1e-3
    finally:
        ended(ft, process)


def test_an_exported_file_answers_as_the_run_does(ft: Ft) -> None:
    pytest.importorskip("gguf", reason="gguf is not installed")
    pytest.importorskip("xllamacpp", reason="xllamacpp is not installed")
    rows = [{"prompt": f"What is {n} plus one?", "completion": f"It is {n + 1}."} for n in range(40)]
    ft.write("rows.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    trained(ft, "--model", "starter", "--data", "rows.jsonl", "--set", "training.learning_rate=0.005")
    said = ft("export", "last", "--format", "gguf", "--quant", "f32", "--json")
    assert said.code == 0, said.err
    folder = said.document["folder"]
    wanted = ft("chat", "last", QUESTION, "--json", "--temperature", "0", "--max-new-tokens", "16")
    process, url, told = served(ft, folder)
    try:
        name = told[1].removeprefix("models: ").strip()
        body = {"model": name, "messages": [{"role": "user", "content": QUESTION}], "temperature": 0, "max_tokens": 16}
        answer = httpx2.post(f"{url}/v1/chat/completions", json=body, timeout=LIMIT).json()
        assert answer["choices"][0]["message"]["content"] == wanted.document["answer"]
    finally:
        ended(ft, process)
    other = ft("serve", folder, "last", "--json")
    assert (other.code, other.document["error"]["code"]) == (2, "serve.files")
    assert ft("serve", f"{folder}/none.gguf", "--json").document["error"]["code"] == "model.missing"

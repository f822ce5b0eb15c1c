"""From a training to a server: `ft serve` by name, adapters that come and go, and an end that cuts nobody silently."""

from __future__ import annotations

import json
import signal
import subprocess
import threading
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from real_ft import LIMIT, Ft, kill

from truetune import generate

pytestmark = pytest.mark.slow
KEY = "the-key-of-a-test"
QUESTION = "What is 3 plus one?"


@pytest.fixture(scope="module")
def ft(tmp_path_factory: pytest.TempPathFactory) -> Ft:
    """A folder with two versions of an adapter."""
    ft = Ft(tmp_path_factory.mktemp("serving"))
    rows = [{"prompt": f"What is {n} plus one?", "completion": f"It is {n + 1}."} for n in range(40)]
    ft.write("rows.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    few = ("--set", "training.max_steps=4", "--set", "evaluation.samples=0", "--set", "output.name=sums")
    for rate in ("0.001", "0.005"):
        more = ("--set", f"training.learning_rate={rate}", "--json")
        assert ft("train", "--model", "starter", "--data", "rows.jsonl", *few, *more).code == 0
    return ft


def served(ft: Ft, *args: str, key: str | None = None) -> tuple[subprocess.Popen[str], str]:
    """A server that takes requests, and its address."""
    if key:
        ft.env["TRUETUNE_API_KEY"] = key
    try:
        process = ft.start("serve", *args, "--port", "0")
    finally:
        ft.env.pop("TRUETUNE_API_KEY", None)
    assert process.stdout
    said = [process.stdout.readline() for _ in range(3)]
    assert said[2].startswith("curl "), (said, process.poll())
    return process, said[0].strip().removesuffix("/v1")


def body(model: str, **more: Any) -> dict[str, Any]:
    question = [{"role": "user", "content": QUESTION}]
    return {"model": model, "messages": question, "temperature": 0, "max_tokens": 8} | more


def answer(client: httpx2.Client, model: str, **more: Any) -> str:
    found = client.post("/v1/chat/completions", json=body(model) | more)
    assert found.status_code == 200, found.text
    return str(found.json()["choices"][0]["message"]["content"])


@pytest.fixture
def running(ft: Ft) -> Iterator[tuple[subprocess.Popen[str], str]]:
    process, url = served(ft, "sums@1", key=KEY)
    yield process, url
    kill(process)


def test_adapters_by_name(ft: Ft, running: tuple[subprocess.Popen[str], str]) -> None:
    process, url = running
    runs = {f"sums@{n}": folder for n, folder in enumerate(ft.runs(), 1)}
    chat = {name: generate(QUESTION, folder, temperature=0, max_new_tokens=8) for name, folder in runs.items()}
    chat["starter"] = generate(QUESTION, "starter", temperature=0, max_new_tokens=8)
    assert (
        ft("chat", "sums@1", QUESTION, "--temperature", "0", "--max-new-tokens", "8").out.strip()
        == chat["sums@1"].strip()
    )
    assert chat["sums@1"] != chat["sums@2"]
    with httpx2.Client(base_url=url, headers={"authorization": f"Bearer {KEY}"}, timeout=LIMIT) as client:
        ids = [model["id"] for model in client.get("/v1/models").json()["data"]]
        assert ids == ["starter", "sums@1", "sums"]
        assert {name: answer(client, name) for name in ("sums@1", "starter")} == {
            name: chat[name] for name in ("sums@1", "starter")
        }
        drawn = ft("chat", "sums@1", QUESTION, "--temperature", "0.9", "--seed", "7", "--max-new-tokens", "8").out
        assert answer(client, "sums@1", temperature=0.9, seed=7).strip() == drawn.strip()
        there = ("--server", url, "--key", KEY)
        assert ft("adapters", "load", "sums@2", "--server", url).code == 3
        assert ft("adapters", "load", "sums@2", *there).code == 0
        assert answer(client, "sums@2") == chat["sums@2"]
        assert answer(client, "sums") == chat["sums@1"]
        assert ft("adapters", "switch", "sums@2", *there, "--json").document["said"].startswith("Success")
        assert answer(client, "sums") == chat["sums@2"]
        assert ft("adapters", "unload", "sums@1", *there).code == 0
        assert client.post("/v1/chat/completions", json=body("sums@1")).status_code == 404
        for path in ("/etc", "../..", str(ft.folder / "home"), "owner/name", "starter", "none"):
            refused = client.post("/v1/load_lora_adapter", json={"lora_name": "x", "lora_path": path})
            assert refused.status_code == 400, path
        run = runs["sums@1"].name
        for path in (run, f"./runs/{run}/adapter"):
            loaded = client.post(
                "/v1/load_lora_adapter", json={"lora_name": "again", "lora_path": path, "load_inplace": True}
            )
            assert loaded.status_code == 200, loaded.text
            assert answer(client, "again") == chat["sums@1"]
    process.send_signal(signal.SIGINT)
    assert ft.end(process).code == 0


def test_sigterm_under_load(ft: Ft) -> None:
    """Clean exits; a stream that was cut says so."""
    for grace in ("0.2", "30"):
        process, url = served(ft, "sums", "--grace", grace, "--slots", "2")
        ends: list[list[str]] = []
        begun = threading.Barrier(5)

        def stream(url: str = url, ends: list[list[str]] = ends, begun: threading.Barrier = begun) -> None:
            asked = body("sums", stream=True, max_tokens=300, ignore_eos=True)
            with httpx2.stream("POST", f"{url}/v1/chat/completions", json=asked, timeout=LIMIT) as found:
                lines = found.iter_lines()
                first = next(lines)
                begun.wait(LIMIT)
                ends.append([first, *(line for line in lines if line)])

        threads = [threading.Thread(target=stream) for _ in range(4)]
        for thread in threads:
            thread.start()
        begun.wait(LIMIT)
        process.send_signal(signal.SIGTERM)
        for thread in threads:
            thread.join(LIMIT)
        done = ft.end(process)
        assert (done.code, len(ends)) == (0, 4), done.err
        assert "Traceback" not in done.err
        lasts = [json.loads(lines[-2][6:]) for lines in ends]
        assert all(lines[-1] == "data: [DONE]" for lines in ends)
        cut = [last for last in lasts if "error" in last]
        assert all(last["choices"][0]["finish_reason"] == "length" for last in lasts if last not in cut)
        assert (len(cut) > 0) == (grace == "0.2")


def test_what_cannot_be_served(ft: Ft) -> None:
    wide = ft("serve", "sums", "--host", "0.0.0.0", "--json")
    assert (wide.code, wide.document["error"]["code"]) == (2, "serve.key")
    assert ft("serve", "nothing-of-this-name", "--json").code == 3
    assert ft("adapters", "load", "sums", "--server", "http://127.0.0.1:1", "--json").document["error"]["code"] == (
        "serve.unreachable"
    )
    assert ft("adapters", "load", "sums", "--server", "file:///etc/passwd").code == 2
    run = ft.runs()[0]
    receipt = run / "receipts" / "data.json"
    found = json.loads(receipt.read_text())
    kept = receipt.read_text()
    found["rendering"]["template_sha256"] = "0" * 64
    receipt.write_text(json.dumps(found))
    try:
        other = ft("serve", f"./runs/{run.name}", "--json")
        assert (other.code, other.document["error"]["code"]) == (1, "serve.rendering")
    finally:
        receipt.write_text(kept)


def test_classes(ft: Ft) -> None:
    """A classifier's answers are those that its evaluation tells of the same rows."""
    labelled = [{"text": f"number {n} of {n % 5}", "label": ("odd" if n % 2 else "even")} for n in range(40)]
    ft.write("classes.jsonl", "".join(json.dumps(row) + "\n" for row in labelled))
    few = ("--set", "training.max_steps=3", "--set", "output.name=parity", "--set", "training.learning_rate=0.002")
    assert ft("train", "--model", "starter", "--data", "classes.jsonl", *few, "--json").code == 0
    told = ft("evaluate", "parity", "--json").document["rows"]
    process, url = served(ft, "parity", "sums")
    try:
        asked = {"model": "parity", "input": [row["question"] for row in told]}
        found = httpx2.post(f"{url}/v1/classify", json=asked, timeout=LIMIT).json()
        for row, answer in zip(told, found["data"], strict=True):
            assert answer["label"] == row["tuned"]["answer"]
            wanted = [row["tuned"]["shares"][name] for name in found["classes"]]
            assert answer["probs"] == pytest.approx(wanted, abs=1e-4)
        assert httpx2.post(f"{url}/v1/chat/completions", json=body("parity")).status_code == 400
        assert httpx2.post(f"{url}/v1/classify", json=asked | {"model": "sums"}).status_code == 400
    finally:
        process.send_signal(signal.SIGTERM)
        assert ft.end(process).code == 0

"""What lies in the hub's cache: the list with its users and pulls, what a model is, search, and removal."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import small_hub
from finished import finished
from safetensors.numpy import save
from small_hub import COMMIT, Hub

import truetune as ft
from truetune import cli
from truetune.errors import TrueTuneError
from truetune.models import library, pull, search, source
from truetune.models.search import Range

STARTER = {path.name: path.read_bytes() for path in source.STARTER.iterdir() if path.suffix not in (".py", "")}
OTHER = "beef" + "0" * 36
NAME = "owner/starter"
CONFIG = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 4096, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 8, "intermediate_size": 14336, "vocab_size": 128256,
}  # fmt: skip
LARGE = {"config.json": json.dumps(CONFIG).encode(), "model.safetensors": b"", "tokenizer.json": b"{}"}
ABOUT = {
    NAME: {"safetensors": {"parameters": {"BF16": 3_606_784}, "total": 3_606_784}, "downloads": 7},
    "owner/large": {"safetensors": {"parameters": {"BF16": 8_030_261_248}, "total": 8_030_261_248}, "downloads": 90},
    "owner/unknown": {"downloads": 1},
    "owner/odd\x1b[2J": {"downloads": 99},
}
for number, values in enumerate(ABOUT.values()):
    values |= {"tags": ["safetensors", f"license:{('mit', 'apache-2.0')[number % 2]}"], "gated": False}
    values |= {"pipeline_tag": "text-generation", "lastModified": "2026-01-02T03:04:05.000Z"}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    repos = {NAME: STARTER, "owner/large": LARGE, "owner/unknown": STARTER, "owner/odd\x1b[2J": {}}
    with small_hub.running(repos, about={name: dict(values) for name, values in ABOUT.items()}) as found:
        small_hub.here(found, tmp_path, monkeypatch)
        yield found


def code(work: Any, *args: Any, **how: Any) -> str:
    with pytest.raises(TrueTuneError) as caught:
        work(*args, **how)
    assert caught.value.hint and caught.value.message.isprintable()
    return caught.value.code


def names(*args: Any, **how: Any) -> list[str]:
    return [found["name"] for found in ft.models_search(*args, **how)["models"]]


def test_search(hub: Hub) -> None:
    assert names() == ["owner/large", NAME, "owner/unknown"]  # a name that is none is left out
    assert names("START") == [NAME] and names(licence="MIT") == [NAME, "owner/unknown"]
    assert names(size="<3B") == [NAME] and names(size=">1B") == ["owner/large"] and names(task="fill-mask") == []
    assert names(limit=1) == [] and names(limit=2) == ["owner/large"]
    (found,) = ft.models_search("starter")["models"]
    assert found["parameters"] == 3_606_784 and found["changed"] == "2026-01-02" and found["fits"] is None
    assert (found["licence"], found["downloads"], found["gated"]) == ("mit", 7, False)


def test_search_for_what_fits(hub: Hub) -> None:
    found = ft.models_search(memory="2GB")
    assert [each["name"] for each in found["models"]] == [NAME, "owner/unknown"]
    assert found["memory"] == 2_000_000_000 and "lora" in found["models"][0]["fits"]
    assert not [path for path in hub.asked if path.endswith(".safetensors")]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<3B", Range(most=3e9)), (">500M", Range(least=5e8)), ("1b - 7b", Range(1e9, 7e9)), ("3B", Range(most=3e9)),
        ("<=1.5B", Range(most=1.5e9)), ("70000", Range(most=70000)), ("7B-1B", None), ("small", None), ("<-3B", None),
        ("", None), ("1e9", None),
    ],
)  # fmt: skip
def test_sizes(text: str, expected: Range | None) -> None:
    if expected is None:
        assert code(search.size, text) == "usage.bad_value"
    else:
        assert search.size(text) == expected


def test_without_the_network(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for work in (ft.models_search, ft.models_pull, ft.models_info):
        assert code(work, "owner/none") == "model.offline"
    assert code(ft.models_pull, NAME, background=True) == "model.offline"
    assert ft.models_list()["models"] == [] and not hub.requests


def test_info(hub: Hub) -> None:
    large = ft.models_info("owner/large")
    assert (large["here"], large["parameters"], large["exact"]) == (False, 8_030_261_248, True)
    assert large["serving"]["per_token"] == 2 * 32 * 8 * 128 * 4 and large["template"] is None
    assert not [path for path in hub.asked if "safetensors" in path]
    ft.models_pull(f"{NAME}@main")
    here, bundled = ft.models_info(f"{NAME}@{COMMIT}"), ft.models_info("starter")
    same = ("parameters", "context", "template", "ends", "vocabulary", "licence", "dtype", "architecture")
    assert {key: here[key] for key in same} == {key: bundled[key] for key in same}
    assert (here["kind"], here["revision"], here["here"], bundled["kind"]) == ("hub", COMMIT, True, "starter")
    assert here["parameters"] == 3_606_784 and here["licence"] == "apache-2.0" and here["ends"] == ["<|im_end|>"]
    assert all(row["fits"] for row in here["training"])
    assert code(ft.models_info, NAME, revision="nope") == "model.no_revision"
    assert code(ft.models_info, f"{NAME}@a", revision="b") == "usage.bad_value"


def test_the_list_says_who_needs_what(hub: Hub, tmp_path: Path) -> None:
    pulled = ft.models_pull(NAME)
    assert pulled["commit"] == COMMIT and set(pulled["files"]) == set(STARTER) - {"LICENSE"}
    run = finished(tmp_path / "runs" / "one")
    body = json.loads((run.folder / "resolved.json").read_text())
    body["model"] = {"name": NAME, "kind": "hub", "revision": COMMIT}
    (run.folder / "resolved.json").write_text(json.dumps(body))
    (listed,) = ft.models_list()["models"]
    assert (listed["name"], listed["used_by"], listed["partial"]) == (NAME, ["run one"], 0)
    assert listed["commits"] == [{"commit": COMMIT, "revisions": ["main"], "whole": True, "pulled": True}]
    assert listed["pull"]["state"] == "finished" and listed["bytes"] == pulled["bytes"]
    assert code(ft.models_remove, NAME) == "model.needed" and code(ft.models_remove, NAME, revision="main")
    removed = ft.models_remove(NAME, force=True)
    assert (removed["bytes"], removed["used_by"]) == (pulled["bytes"], ["run one"])
    assert ft.models_list()["models"] == [] and not library.storage(NAME).exists()
    assert code(ft.models_remove, NAME) == "model.not_here"


def test_one_commit_of_two_goes_with_what_it_alone_has(hub: Hub) -> None:
    ft.models_pull(NAME)
    hub.commit = OTHER
    hub.repos[NAME] |= {"README.md": b"---\nlicense: mit\n---\nanother\n"}
    kept = Path(ft.models_pull(NAME)["folder"])
    before = library.entry(NAME).size
    removed = ft.models_remove(NAME, revision=COMMIT[:8])
    assert removed["commit"] == COMMIT and removed["bytes"] == len(STARTER["README.md"])
    assert library.entry(NAME).size == before - removed["bytes"]
    assert kept.is_dir() and source.resolve(NAME, folder=Path(), revision=OTHER).folder == kept
    assert code(ft.models_remove, NAME, revision="nope") == "model.not_here"


def test_partial_files_count_and_go(hub: Hub) -> None:
    hub.cut["model.safetensors"] = 2**16
    assert code(ft.models_pull, NAME) == "model.unreachable"
    (listed,) = ft.models_list()["models"]
    assert listed["partial"] == 2**16 and listed["pull"]["state"] == "failed"
    with pull.lock(NAME, wait=False):
        assert code(ft.models_remove, NAME) == "model.busy"
    assert ft.models_remove(NAME)["bytes"] == listed["bytes"] and not library.storage(NAME).exists()


def test_a_pull_whose_process_is_gone_is_interrupted(hub: Hub) -> None:
    state = library.State(NAME, None, {"state": "running", "bytes": 3, "total": 9})
    state.begin(COMMIT)
    assert (library.state(NAME) or {})["state"] == "running" and ft.status()["pulls"][0]["name"] == NAME
    state.tell(process_start=psutil.Process(os.getpid()).create_time() - 100)
    assert (library.state(NAME) or {})["state"] == "interrupted" and ft.status()["pulls"] == []


def test_what_is_no_model_of_the_hub(hub: Hub) -> None:
    for name in ("starter", "./here", "/tmp", "a/b/c", "../x"):
        assert code(ft.models_pull, name) == code(ft.models_remove, name) == "model.not_hub"
    assert (
        code(ft.models_pull, "owner/none") == "model.missing" and code(ft.models_pull, "owner/gated") == "model.gated"
    )
    assert code(ft.models_pull, "owner/none", background=True) == "model.missing"
    assert not library.states()


def test_the_pages(hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    def page(*args: str) -> str:
        assert cli.run(["models", *args]) == 0
        return capsys.readouterr().out

    assert "8 billion" in page("search") and "owner/odd" not in page("search", "odd")
    assert "every file checked" in page("pull", NAME)
    assert f"{COMMIT[:12]} (main)" in page("list") and "starter always is" not in page("list")
    shown = page("info", NAME)
    assert "3,606,784" in shown and "<|im_end|>" in shown and "apache-2.0" in shown
    assert "free again" in page("remove", NAME) and "No model of the hub" in page("list")
    assert "its weights are not here" in (page("info", "owner/large"), page("list"))[1]
    hub.cut["model.safetensors"] = 2**16
    assert cli.run(["models", "pull", NAME]) == 3
    assert "broke off at 4%; to go on: ft models pull" in page("list")


def test_weights_that_are_no_model(hub: Hub, tmp_path: Path) -> None:
    hub.repos["owner/part"] = STARTER | {"model.safetensors": save({"x": np.ones(3, np.float32)})[:-4]}
    assert code(ft.models_pull, "owner/part") == "model.damaged"
    assert library.entry("owner/part").size == 0

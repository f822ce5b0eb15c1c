"""Publishing to a small hub of our own: what is sent, what the card says, and what stops it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import small_hub
from small_hub import Hub

import truetune as ft
from truetune import cli
from truetune.errors import TrueTuneError
from truetune.models.source import STARTER
from truetune.runs import receipt
from truetune.runs.run import Run

pytestmark = pytest.mark.slow
ROWS = [{"prompt": f"What is {number}?", "completion": f"It is {number}."} for number in range(24)]
TOKEN = "hf_canary_token"
REPO = "me/support"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("push")
    data = folder / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    settings: dict[str, Any] = {"model": "starter", "data": {"path": str(data)}, "training": {"max_steps": 2}}
    settings |= {"output": {"dir": str(folder / "run")}, "resources": {"device": "cpu"}}
    ft.train(settings)
    return Run(folder / "run")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with small_hub.running({}) as found:
        small_hub.here(found, tmp_path, monkeypatch)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield found


def publish(run: Run, **how: Any) -> dict[str, Any]:
    found: dict[str, Any] = ft.export(str(run.folder), format="hub", **{"repo": REPO} | how)
    return found


def code(run: Run, **how: Any) -> str:
    with pytest.raises(TrueTuneError) as caught:
        publish(run, **how)
    assert caught.value.hint and TOKEN not in f"{caught.value}{caught.value.hint}"
    return caught.value.code


def test_an_adapter_is_published(trained: Run, hub: Hub) -> None:
    shown: list[dict[str, Any]] = []
    listed = publish(trained, dry_run=True)
    assert not hub.requests and not (trained.folder / "exports").exists()
    found = publish(trained, private=True, approve=shown.append)
    (commit,) = hub.commits
    files = commit["files"]
    assert {name: len(body) for name, body in files.items()} == found["files"] == shown[0]["files"]
    assert set(listed["files"]) == set(files)
    assert {"adapter_config.json", "adapter_model.safetensors", "README.md", "report.json"} <= set(files)
    assert hub.about[REPO]["private"] is True
    report = json.loads((trained.folder / "exports" / "peft" / "report.json").read_text())
    assert report["hub"] == {"repo": REPO, "commit": found["commit"], "url": found["url"], "private": True}
    assert receipt.read(trained)["export-peft"]["hub"]["commit"] == found["commit"] == f"{1:040x}"
    assert not [line for line in ft.receipt_verify(str(trained.folder))["items"] if line["state"] == "changed"]
    everything = b"".join(files.values())
    for secret in (TOKEN, str(trained.folder), str(Path(ft.__file__).parent)):
        assert secret.encode() not in everything, secret
    again = publish(trained)  # the export that stands is sent
    assert again["commit"] == f"{2:040x}" and len(hub.commits) == 2


def test_the_card_says_what_it_is(trained: Run, hub: Hub) -> None:
    publish(trained, what="merged")
    card = hub.commits[0]["files"]["README.md"].decode()
    front = card.split("---\n")[1]
    for line in ('library_name: "transformers"', 'license: "apache-2.0"', "tags:"):
        assert line in front
    assert "## Figures" in card and "held out" in card and "## Export" in card
    assert f"folder = '{REPO}'" in card
    assert {"model.safetensors", "config.json", "tokenizer.json"} <= set(hub.commits[0]["files"])


def test_a_gguf_file_is_published(trained: Run, hub: Hub) -> None:
    """What comes back from the hub is what llama.cpp was asked about."""
    pytest.importorskip("xllamacpp", reason="xllamacpp, llama.cpp's runtime, is not installed")
    found = publish(trained, what="gguf", quant="q8_0")
    files = hub.commits[0]["files"]
    assert {"model.gguf", "README.md", "report.json"} <= set(files) and found["what"] == "gguf"
    made = trained.folder / "exports" / "gguf-q8_0" / "model.gguf"
    assert files["model.gguf"] == made.read_bytes() and files["model.gguf"][:4] == b"GGUF"
    report = json.loads(files["report.json"])
    assert report["parity"]["ok"] and report["stored"]["dtype"] == "q8_0" and report["parity"]["second"] == "llama.cpp"
    card = files["README.md"].decode()
    assert f"llama-server -hf {REPO}" in card and str(trained.folder) not in card
    assert receipt.read(trained)["export-gguf-q8_0"]["hub"]["commit"] == found["commit"]
    publish(trained, what="gguf", quant="f16")  # another number type is another file
    again = json.loads(hub.commits[1]["files"]["report.json"])
    assert again["stored"]["dtype"] == "f16" and hub.commits[1]["files"]["model.gguf"] != files["model.gguf"]


def test_what_stops_it(trained: Run, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    def no(plan: dict[str, Any]) -> None:
        raise KeyboardInterrupt

    assert code(trained, repo="support") == "export.repo"
    assert code(trained, repo=None) == "export.repo"
    assert code(trained, what="everything") == "export.what"
    assert code(trained, out="there") == "usage.bad_value"
    with pytest.raises(KeyboardInterrupt):
        publish(trained, approve=no)
    assert not hub.commits and not hub.repos
    hub.repos[REPO] = {}
    assert code(trained, private=True) == "export.public"
    hub.failing = True
    assert code(trained) == "model.unreachable"
    hub.failing = False
    monkeypatch.setenv("HF_TOKEN", "wrong")
    assert code(trained) == "export.denied"
    monkeypatch.delenv("HF_TOKEN")
    assert code(trained) == "export.no_token"
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert code(trained) == "model.offline"
    assert not hub.commits


def test_data_sets_of_the_hub_stand_in_the_card() -> None:
    from truetune.export.hub import with_data

    assert with_data("---\na: 1\n---\n\n# x\n", ["o/d"]) == '---\na: 1\ndatasets: ["o/d"]\n---\n\n# x\n'
    assert with_data("# x\n", ["o/d"]) == "# x\n"


def test_a_whole_model_is_sent_as_it_is(hub: Hub) -> None:
    found = ft.export("starter", format="hub", repo=REPO)
    files = hub.commits[0]["files"]
    assert (found["what"], found["forced"], "report.json" in files) == ("merged", None, False)
    assert files["model.safetensors"] == (STARTER / "model.safetensors").read_bytes()
    assert files["README.md"].decode().startswith("---\n")


def test_info_asks_every_format(tmp_path: Path) -> None:
    found = ft.models_info("starter", exports=True)["exports"]
    assert found["peft"] == found["merged"] == ""
    folder = tmp_path / "model"
    shutil.copytree(STARTER, folder)
    config = json.loads((folder / "config.json").read_text()) | {"hidden_act": "gelu"}
    (folder / "config.json").write_text(json.dumps(config))
    refused = ft.models_info(str(folder), exports=True)["exports"]
    assert "gelu" in refused["mlx"] and refused["merged"] == ""


def test_the_command_asks(trained: Run, hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["export", str(trained.folder), "--format", "hub", "--repo", REPO]
    assert cli.run(arguments) == 2 and "was not agreed to" in capsys.readouterr().err and not hub.commits
    assert cli.run([*arguments, "--yes"]) == 0
    shown = capsys.readouterr()
    assert len(hub.commits) == 1 and f"{1:040x}" in shown.out and "README.md" in shown.err
    assert TOKEN not in shown.out + shown.err

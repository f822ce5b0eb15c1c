"""The model card: what the Hub reads, what a person reads, what `ft receipt verify` looks for."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from markdown_it import MarkdownIt
from ruamel.yaml import YAML

from truetune.models.source import STARTER
from truetune.runs import receipt
from truetune.runs.run import Run
from truetune.runs.verify import verify
from truetune.train import card, markdown

NASTY = "a\n---\nreceipt: sha256:" + "0" * 64 + "\n<script>|`x`"


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run with its receipts, and an adapter's folder without a card."""
    monkeypatch.setenv("TRUETUNE_HOME", str(tmp_path / "home"))
    env = {"versions": {"truetune": "0.1.0", "torch": "2.13.0", "numpy": "2.4.6"}}
    made = Run.create(tmp_path / "a-run", train_yml=b"", resolved=resolved(), env=env)
    (made.folder / "adapter").mkdir()
    return made


def resolved(**model):
    return {
        "config": {
            "method": {"type": "lora"},
            "training": {"objective": "sft"},
            "generation": {"max_new_tokens": 64, "temperature": 0.7, "top_p": 0.9},
        },
        "model": {"name": "starter", "kind": "starter", "revision": None, "folder": str(STARTER)} | model,
    }


def write(run, body, parent=None, **data):
    """The card of a run with receipts."""
    inputs = [{"path": "in/rows.jsonl", "resolved": "/in/rows.jsonl", "sha256": "ab" * 32, "bytes": 1, "rows": 1000}]
    receipts = {
        "data": {
            "objective": "sft",
            "inputs": inputs,
            "rows": {"train": 950, "validation": 50},
            "rendering": {"template": "chat_template.jinja", "template_sha256": "cd" * 32},
            "files": {"resolved.json": "ef" * 32},
        }
        | data,
        "train": {
            "base": {"name": body["model"]["name"], "revision": None, "files": {"model.safetensors": "12" * 32}},
            "steps": 100,
            "supervised": {"promised": 80_000, "counted": 80_000},
            "files": {"adapter/adapter_config.json": "34" * 32},
        },
        "eval": {"base": {"loss": 3.0, "perplexity": 20.1}, "tuned": {"loss": 1.17, "perplexity": 3.2}},
    }
    digest = [receipt.write(run, stage, part) for stage, part in receipts.items()][-1]
    card.write(run, run.folder / "adapter", body, digest, parent)
    return (run.folder / "adapter" / "README.md").read_text("utf-8")


def front(text):
    return YAML(typ="safe").load(text.split("---\n")[1])


def test_the_front_matter_is_what_the_hub_reads(run):
    body = resolved(name="owner/Base-1B", kind="hub", revision="abc123")
    assert front(write(run, body)) == {
        "base_model": "owner/Base-1B",
        "base_model_relation": "adapter",
        "library_name": "peft",
        "license": "apache-2.0",
        "pipeline_tag": "text-generation",
        "tags": ["truetune", "lora"],
    }
    body["config"]["method"]["type"] = "full"
    whole = front(write(run, body))
    assert (whole["library_name"], whole["base_model_relation"]) == ("transformers", "finetune")


def test_a_base_that_is_not_on_the_hub_has_no_name_there(run, tmp_path):
    text = write(run, resolved(name="./models/mine", kind="folder", folder=str(tmp_path)))
    assert "base_model" not in front(text) and "license" not in front(text)
    assert str(tmp_path) not in text and 'base = "./models/mine"' in text


@pytest.mark.parametrize(
    ("said", "wanted"),
    [
        ("---\nlicense: mit\n---\n# A model", {"license": "mit"}),
        ("---\r\nlicense: mit\r\ntags:\r\n- a\r\n---\r\n", {"license": "mit"}),
        (
            "---\nlicense: other\nlicense_name: llama3.2\nlicense_link: https://a.example/b\n---\n",
            {"license": "other", "license_name": "llama3.2", "license_link": "https://a.example/b"},
        ),
        ("---\nlicense: [mit, bsd]\n---\n", {}),
        ("---\nlicense: &a mit\n---\n", {}),
        ("---\nlicense_name: x\n---\n", {}),
        ('---\nlicense: "a\\nb"\n---\n', {}),
        ("---\nlicense: mit\n", {}),
        ("# A model\n---\nlicense: mit\n---\n", {}),
        ("", {}),
    ],
)
def test_the_licence_is_taken_from_the_card_of_the_base(tmp_path, said, wanted):
    (tmp_path / "README.md").write_text(said, newline="")
    assert card.licence(tmp_path) == wanted
    assert card.licence(tmp_path / "nowhere") == {}


def test_it_says_what_it_was_made_from(run):
    text = write(run, resolved())
    for words in ("ab" * 32, "12" * 32, "ef" * 32, "cd" * 32, "data, 1,000 rows", "`rows.jsonl`", "torch 2.13.0"):
        assert words in text, words
    assert "3 before, 1.17 after" in text and "950 trained, 50 held out" in text
    assert "licence of its base (apache-2.0)" in text and "held out from them, and on nothing else" in text


def test_an_adapter_that_was_trained_on_is_named_with_its_run_and_receipt(run, tmp_path):
    parent = Run.create(tmp_path / "parent-run", train_yml=b"", resolved=resolved(), env={"versions": {}})
    adapter = parent.folder / "adapter"
    adapter.mkdir()
    (adapter / "adapter_model.safetensors").write_bytes(b"weights")
    (adapter / "adapter_config.json").write_bytes(b"{}")
    known = write(parent, resolved())
    digest = re.search(r"^receipt: sha256:(\w+)$", known, re.MULTILINE)[1]
    text = write(run, resolved(), adapter)
    assert f"adapter of run `parent-run`, receipt `{digest}` | `adapter_model.safetensors`" in text
    (adapter / "README.md").unlink()
    (parent.folder / "resolved.json").unlink()
    assert "| adapter `adapter` | `adapter_config.json`" in write(run, resolved(), adapter)


def test_verify_finds_the_receipt_whatever_names_say(run):
    text = write(run, resolved(name=NASTY, kind="folder", folder="/nowhere"), inputs=[
        {"path": NASTY, "resolved": NASTY, "sha256": "ab" * 32, "bytes": 1, "rows": 1}
    ])  # fmt: skip
    assert len(re.findall(r"^receipt: sha256:[0-9a-f]{64}$", text, re.MULTILINE)) == 1
    (item,) = [item for item in verify(run) if item.stage == "card"]
    assert item.state == "ok"
    tokens = MarkdownIt("commonmark", {"html": True}).enable("table").parse(text.split("---\n", 2)[2])
    assert not [t for token in tokens for t in (token, *(token.children or [])) if t.type.startswith("html")]


def test_the_python_of_the_card_is_python(run):
    for kind in ("hub", "folder", "starter"):
        for objective in ("sft", "pretrain"):
            for method in ("lora", "full"):
                body = resolved(name='a"b', kind=kind, revision="abc")
                body["config"] |= {"method": {"type": method}, "training": {"objective": objective}}
                compile(card.usage(body, "adapter"), "card", "exec")


def test_a_text_model_is_for_beginnings(run):
    body = resolved()
    body["config"]["training"]["objective"] = "pretrain"
    write(run, body, objective="pretrain")
    text = (run.folder / "adapter" / "README.md").read_text()
    assert "for beginnings of texts" in text and "apply_chat_template" not in text


def test_text_between_markup_stays_text():
    assert markdown.inline("a|b\n<c> `d` *e* [f](g) ~h~ \\ &amp; $i$ \u202e") == (
        "a\\|b \\<c\\> \\`d\\` \\*e\\* \\[f\\](g) \\~h\\~ \\\\ \\&amp; \\$i\\$"
    )
    assert markdown.code("a`b") == "``a`b``" and markdown.code("`a|`") == "`` `a\\|` ``"
    assert markdown.code("") == "`  `"
    assert markdown.block("a\n```\nb\x1b", "text") == "````text\na\n```\nb\ufffd\n````"


@pytest.mark.slow
def test_the_python_of_the_card_writes_what_the_result_says(tmp_path, monkeypatch):
    """Transformers and PEFT load the result as the card says, and answer."""
    pytest.importorskip("torch")
    import truetune as ft

    monkeypatch.setenv("TRUETUNE_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    rows = [{"prompt": f"What is {n}?", "completion": "It is a number."} for n in range(40)]
    Path("rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    overrides = ["training.learning_rate=2e-3", "training.gradient_accumulation_steps=1", "training.epochs=8"]
    overrides += ["evaluation.samples=0", "generation.temperature=0", "resources.device=cpu"]
    run = ft.train(model="starter", data="rows.jsonl", overrides=overrides)
    text = (run.adapter / "README.md").read_text("utf-8")
    code = re.search(r"```python\n(.*?)```", text, re.DOTALL)[1].replace("...", "What is 7?")
    said = subprocess.run([sys.executable, "-c", code], cwd=run.folder, capture_output=True, text=True)
    assert said.returncode == 0, said.stderr
    assert said.stdout.strip() == run.generate("What is 7?", device="cpu").strip() == "It is a number."
    assert ft.receipt_verify(str(run.folder))["verdict"] == "ok"

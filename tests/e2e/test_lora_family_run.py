"""Runs of LoRA's family, from train.yml to the answer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from real_ft import SECTIONS, TRAINING, Ft, kill, ready, started

pytestmark = pytest.mark.slow

TOKENS = {"path": "starter", "new_tokens": ["<code>", "<meaning>"]}
KINDS = {
    "lora": {"method": {"type": "lora", "r": 4}},
    "rslora": {"method": {"type": "rslora", "r": 4}},
    "dora": {"method": {"type": "dora", "r": 4, "lora_plus": 2}},
    "pissa": {"method": {"r": 4, "init": "pissa", "dropout": 0}},
    "olora": {"method": {"type": "dora", "r": 4, "init": "olora", "dropout": 0}},
    "modules_to_save": {"method": {"r": 4, "modules_to_save": ["embed_tokens", "model.norm"]}},
    "new_tokens": {"method": {"r": 4}, "model": TOKENS},
}


def given(folder: Path, kind: str, **sections: object) -> Ft:
    ft = ready(folder, 32, **(SECTIONS | KINDS[kind] | sections))
    if kind == "new_tokens":
        path = folder / "rows.jsonl"
        path.write_text(path.read_text().replace("code ", "<code> "))
    return ft


def receipts(ft: Ft) -> tuple[dict, dict]:
    train, held_out = (json.loads((ft.run() / "receipts" / f"{name}.json").read_text()) for name in ("train", "eval"))
    return train, held_out


@pytest.mark.parametrize("kind", KINDS)
def test_from_train_yml_to_the_answer(tmp_path: Path, kind: str) -> None:
    """What is measured before is the base; what answers, alone or through PEFT, is what was trained."""
    ft = given(tmp_path, kind)
    said = ft("train", "--json")
    assert said.code == 0, said.err
    train, held_out = receipts(ft)
    assert train["supervised"]["promised"] == train["supervised"]["counted"]
    assert train["changed_tensors"]["changed"] == train["changed_tensors"]["of"]
    assert held_out["tuned"]["loss"] < held_out["base"]["loss"]
    found = ft("evaluate", "last", "--no-generate", "--json")
    assert found.code == 0, found.err
    for side in ("base", "tuned"):
        value = found.document["figures"]["loss"][side]["value"]
        assert value == pytest.approx(held_out[side]["loss"], rel=1e-5)
    answer = ft("chat", "last", "What does that mean?", "--json")
    assert answer.code == 0, answer.err
    assert ft("receipt", "verify", "last").code == 0
    if kind in ("modules_to_save", "new_tokens"):
        assert answer.document["answer"].strip() == by_the_card(ft)
    if kind == "new_tokens":
        assert ft("export", "last", "--format", "peft").code == 0


def by_the_card(ft: Ft) -> str:
    """The first tokens of the answer, by the code of the card."""
    card = (ft.run() / "adapter" / "README.md").read_text()
    code = card.split("```python\n")[1].split("```")[0].replace('"content": "..."', '"content": "What does that mean?"')
    code = code.replace('folder = "adapter"', f"folder = {str(ft.run() / 'adapter')!r}")
    said = ft.python(code)
    assert said.code == 0, said.err
    return said.out.strip()


def test_what_is_trained_beside_the_layers_is_said(tmp_path: Path) -> None:
    ft = given(tmp_path, "modules_to_save")
    said = ft("train")
    assert said.code == 0 and "whole: lm_head, model.embed_tokens, model.norm" in said.out + said.err
    train, _ = receipts(ft)
    assert train["engine"]["modules_to_save"] == ["lm_head", "model.embed_tokens", "model.norm"]
    assert train["engine"]["adapted_layers"] and train["engine"]["target_modules"]


def test_other_programs_know_the_new_tokens(tmp_path: Path) -> None:
    """transformers' tokenizer from the result's folder, and a training that goes on from it."""
    ft = given(tmp_path, "new_tokens")
    assert ft("train", "--json").code == 0
    folder = ft.run() / "adapter"
    said = ft.python(
        f"""
from transformers import AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained({str(folder)!r})
print(tokenizer("a <code> b<meaning>", add_special_tokens=False)["input_ids"])
"""
    )
    assert said.code == 0, said.err
    ids = [entry["id"] for entry in json.loads((ft.run() / "resolved.json").read_text())["new_tokens"]]
    assert [one for one in json.loads(said.out) if one in ids] == ids
    assert json.loads((folder / "adapter_config.json").read_text())["trainable_token_indices"]
    ft.config(**(SECTIONS | KINDS["new_tokens"] | {"model": TOKENS | {"adapter": str(folder)}}))
    more = ft("train", "--json")
    assert more.code == 0, more.err
    ft.config(**(SECTIONS | KINDS["lora"] | {"model": {"path": "starter", "adapter": str(folder)}}))
    refused = ft("train", "--json")
    assert refused.code == 2 and json.loads(refused.out)["error"]["code"] == "adapter.other_shape"


def test_a_killed_run_goes_on_as_if_nothing_had_been(tmp_path: Path) -> None:
    """PiSSA's start is in every checkpoint: it is not made anew."""
    changes = {"checkpoints": {"every": "1 steps"}, "training": TRAINING | {"max_steps": 8}}
    straight, killed = (given(tmp_path / name, "pissa", **changes) for name in ("straight", "killed"))
    assert straight("train", "--json").code == 0
    kill(started(killed))
    resumed = killed("train", "--resume", "--json")
    assert resumed.code == 0, resumed.err
    one, other = ((ft.run() / "adapter" / "adapter_model.safetensors").read_bytes() for ft in (straight, killed))
    assert one == other

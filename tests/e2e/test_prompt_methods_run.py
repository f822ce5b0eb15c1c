"""Runs with virtual tokens and with IA³, from train.yml to the answer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from real_ft import SECTIONS, TRAINING, Ft, kill, ready, started

pytestmark = pytest.mark.slow


def given(folder: Path, **sections: object) -> Ft:
    return ready(folder, 32, **(SECTIONS | sections))


def trained(ft: Ft, *args: str) -> dict:
    said = ft("train", "--json", *args)
    assert said.code == 0, said.err
    return said.document


def losses(folder: Path) -> dict[int, float]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {row["step"]: row["loss"] for row in rows if row["kind"] == "train"}


@pytest.mark.parametrize("kind", ["prefix", "ptuning_v2", "ptuning", "prompt", "ia3"])
def test_from_train_yml_to_the_answer(tmp_path: Path, kind: str) -> None:
    """What is measured before is the base; what answers, alone or through PEFT, is what was trained."""
    ft = given(tmp_path, method={"type": kind} | ({} if kind == "ia3" else {"virtual_tokens": 8}))
    trained(ft)
    train, held_out = (json.loads((ft.run() / "receipts" / f"{name}.json").read_text()) for name in ("train", "eval"))
    assert train["supervised"]["promised"] == train["supervised"]["counted"]
    assert train["changed_tensors"]["changed"] == train["changed_tensors"]["of"]
    found = ft("evaluate", "last", "--no-generate", "--json")
    assert found.code == 0, found.err
    for side in ("base", "tuned"):
        value = found.document["figures"]["loss"][side]["value"]
        assert value == pytest.approx(held_out[side]["loss"], rel=1e-5)
    assert held_out["tuned"]["loss"] != pytest.approx(held_out["base"]["loss"], rel=1e-4)
    answer = ft("chat", "last", "What does code 3 mean?", "--json")
    assert answer.code == 0, answer.err
    assert ft("receipt", "verify", "last").code == 0
    if kind == "prefix":
        assert ft("chat", "last:step-2", "What does code 3 mean?", "--json").code == 0
        assert answer.document["answer"].strip() == by_peft(ft)


def by_peft(ft: Ft) -> str:
    """The first tokens of the answer, as the card says it: by PEFT and transformers alone."""
    code = f"""
import json
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer
from truetune.models.source import STARTER
folder = {str(ft.run() / "adapter")!r}
model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(STARTER), folder).eval()
tokenizer = AutoTokenizer.from_pretrained(folder)
asked = [{{"role": "user", "content": "What does code 3 mean?"}}]
ids = tokenizer.apply_chat_template(asked, add_generation_prompt=True, return_tensors="pt", return_dict=True)
made = model.generate(**ids, max_new_tokens=6, do_sample=False)[0, ids["input_ids"].shape[1] :]
print(json.dumps(tokenizer.decode(made, skip_special_tokens=True)))
"""
    said = ft.python(code)
    assert said.code == 0, said.err
    return str(json.loads(said.out.splitlines()[-1])).strip()


def test_kill_and_resume(tmp_path: Path) -> None:
    """The network of the virtual tokens goes on bit by bit."""
    sections = {"method": "prefix", "training": TRAINING | {"max_steps": 12}, "checkpoints": {"every": "1 steps"}}
    straight, killed = given(tmp_path / "straight", **sections), given(tmp_path / "killed", **sections)
    trained(straight)
    kill(started(killed))
    trained(killed, "--resume")
    assert losses(killed.run()) == losses(straight.run())
    weights = [ft.run() / "adapter" / "adapter_model.safetensors" for ft in (killed, straight)]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_training_goes_on(tmp_path: Path) -> None:
    """From a result by its virtual tokens alone, from a checkpoint by its network; the way is said."""
    ft = given(tmp_path, method="ptuning")
    first = ft.folder / "first"
    trained(ft, "--set", f"output.dir={first}")
    refused = ft("train", "--set", f"model.adapter={first / 'adapter'}", "--json")
    assert refused.code == 2
    assert json.loads(refused.out)["error"]["code"] == "adapter.no_encoder"
    for place, kind in ((first / "checkpoints" / "step-000004", "ptuning"), (first / "adapter", "prompt")):
        found = trained(ft, "--set", f"model.adapter={place}", "--set", f"method.type={kind}")
        assert losses(Path(found["folder"]))[1] < losses(first)[1]


@pytest.mark.parametrize(
    ("settings", "code"),
    [
        (("method.r=8",), "config.contradiction"),
        (("method.virtual_tokens=2000",), "method.no_room"),
        (("method.type=lora", "method.virtual_tokens=30"), "config.contradiction"),
        (("method.type=prompt", "method.encoder_hidden=30"), "config.contradiction"),
    ],
)
def test_what_does_not_go_together(tmp_path: Path, settings: tuple[str, ...], code: str) -> None:
    ft = given(tmp_path, method="prefix")
    said = ft("train", "--json", *(part for one in settings for part in ("--set", one)))
    assert said.code == 2
    assert json.loads(said.out)["error"]["code"] == code
    assert not (ft.folder / "runs").exists()


def test_a_low_learning_rate_is_said(tmp_path: Path) -> None:
    ft = given(tmp_path, method="prompt")
    said = ft("train", "--dry-run", "--set", "training.learning_rate=2e-4")
    assert said.code == 0, said.err
    assert "is low for prompt" in said.out + said.err

"""A run that MLX trained, through the real CLI: MLX answers and measures it, and mlx_lm and torch load it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from real_ft import Ft

pytest.importorskip("torch")
pytest.importorskip("mlx_lm", reason="MLX is not installed")
pytestmark = pytest.mark.slow

MLX_LM = """
import mlx.core as mx, mlx_lm
mx.disable_compile()
model, tokenizer = mlx_lm.load({model!r}, adapter_path={adapter!r})
model.set_dtype(mx.float32)
prompt = tokenizer.apply_chat_template([{{"role": "user", "content": {question!r}}}], add_generation_prompt=True)
print(mlx_lm.generate(model, tokenizer, prompt, max_tokens=40))
"""
QUESTION = "What does code 3 mean?"
ENGINES = ("torch", "mlx")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Ft]:
    """The same training by either engine."""
    made = {}
    for engine in ENGINES:
        made[engine] = ft = Ft(tmp_path_factory.mktemp(engine))
        ft.rows(60)
        settings = {"learning_rate": 2e-3, "epochs": 4}
        generation = {"temperature": 0.0, "max_new_tokens": 40}
        ft.config(training=settings, method={"dropout": 0.0}, generation=generation, resources={"engine": engine})
        said = ft("train", "-q")
        assert said.code == 0, said.err
    return made


def test_both_engines_learn_the_same(runs: dict[str, Ft]) -> None:
    """From the receipts: the same losses, counted tokens, and held-out loss."""
    told = [json.loads((runs[name].run() / "receipts" / "train.json").read_text()) for name in ENGINES]
    assert [body["engine"]["engine"] for body in told] == list(ENGINES)
    assert told[0]["supervised"] == told[1]["supervised"]
    held = [json.loads((runs[name].run() / "receipts" / "eval.json").read_text()) for name in ENGINES]
    assert held[0]["base"]["loss"] == pytest.approx(held[1]["base"]["loss"], rel=1e-5)
    assert held[0]["tuned"]["loss"] == pytest.approx(held[1]["tuned"]["loss"], rel=1e-2)


def test_the_engine_that_trained_answers(runs: dict[str, Ft]) -> None:
    """`chat`, `test`, held-out rows side by side, and Python's verbs."""
    ft = runs["mlx"]
    said = ft("chat", "last", QUESTION, "--json", "-v")
    assert said.code == 0, said.err
    answer = said.document["answers"][0]["answer"] if "answers" in said.document else said.document["answer"]
    assert answer.startswith("Code ")
    assert "with mlx" in said.err
    assert ft("test", "last", QUESTION, "-q").out == answer + "\n"

    said = ft("chat", "last", "--demo", "--json")
    assert said.code == 0, said.err
    assert all(row["before"] != row["after"] for row in said.document["answers"])

    done = ft.python(f"import truetune as ft, sys; print(ft.generate({QUESTION!r})); assert 'mlx.core' in sys.modules")
    assert (done.code, done.out) == (0, answer + "\n"), done.err


def test_the_engine_that_trained_measures(runs: dict[str, Ft]) -> None:
    found = {}
    for name, ft in runs.items():
        said = ft("evaluate", "last", "--json")
        assert said.code == 0, said.err
        found[name] = said.document
        assert found[name]["settings"]["engine"] == name
        loss = found[name]["figures"]["loss"]
        held = json.loads((ft.run() / "receipts" / "eval.json").read_text())
        assert loss["tuned"]["value"] == pytest.approx(held["tuned"]["loss"], rel=1e-5)
        assert ft("receipt", "verify").code == 0
    base = [found[name]["figures"]["loss"]["base"]["value"] for name in ENGINES]
    assert base[0] == pytest.approx(base[1], rel=1e-5)


@pytest.mark.parametrize("trainer", ENGINES)
def test_both_ways_out(runs: dict[str, Ft], trainer: str) -> None:
    """mlx_lm answers from the export as `ft chat` does from the run; PEFT's layout comes back."""
    ft = runs[trainer]
    said = ft("export", "last", "--format", "mlx", "--json")
    assert said.code == 0, said.err
    found = said.document
    assert (found["parity"]["first"], found["parity"]["second"]) == (trainer, "mlx_lm")
    place = Path(found["folder"])
    assert place == ft.run() / "exports" / "mlx"
    expected = ft("chat", "last", QUESTION, "-q").out
    assert generated(ft, found["model"], place) == expected

    said = ft("export", str(place), "--format", "peft", "--out", "back", "-q")
    assert said.code == 0, said.err
    back, own = (folder / "adapter_model.safetensors" for folder in (ft.folder / "back", ft.run() / "adapter"))
    assert back.read_bytes() == own.read_bytes()
    assert ft("chat", "./back", QUESTION, "-q", "--temperature", "0", "--max-new-tokens", "40").out == expected
    assert ft("receipt", "verify").code == 0


def generated(ft: Ft, model: str, adapter: Path) -> str:
    """What mlx_lm writes, greedily, in float32: by itself it computes in the starter's bfloat16."""
    done = ft.python(MLX_LM.format(model=model, adapter=str(adapter), question=QUESTION))
    assert done.code == 0, done.err
    return done.out

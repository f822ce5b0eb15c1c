"""Models that give scores, on MLX: held against the torch engine step by step, and their files in both directions.

The comparison is itself tested: each way of being subtly wrong must make it fail.
"""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("mlx_lm", reason="MLX is not installed")

from labelled import CLASSES, LORA, ONE, SEVERAL, pairs, rows, spec
from safetensors.numpy import load_file

from truetune import engines
from truetune.engines import heads
from truetune.engines.base import Method, Objective, Optimizer
from truetune.engines.mlx import pooled
from truetune.engines.mlx.engine import open_engine
from truetune.engines.torch.engine import TorchEngine
from truetune.errors import InputError
from truetune.evaluate.scored import engine_of

STEPS, LR = 32, 3e-3
FULL = Method(type="full")
SLOW = pytest.mark.slow
WEIGHTS = (1.0, 2.0, 0.5)
REWARD = Objective("reward")
OBJECTIVES = {
    "one": replace(ONE, class_weights=WEIGHTS),
    "several": replace(SEVERAL, class_weights=WEIGHTS, threshold=0.4),
    "reward": REWARD,
}
OTHERS = ("mistral-window", "qwen2", "qwen3", "gemma2", "gemma3", "phi3")
ENDS = 2
"""The token that ends texts, of the tiny llama: the last of every third text."""


def given(kind):
    """Four steps of eight rows."""
    made = pairs(32) if kind == "reward" else rows(32, seed=3, several=kind == "several")
    for one in made[::3]:
        one.ids[-1] = ENDS
    return [made[at : at + 8] for at in range(0, 32, 8)]


def opened(engine, folder, kind, method=LORA, **more):
    return engine(
        spec(folder, OBJECTIVES[kind], method, optimizer=Optimizer(weight_decay=0.1), token_budget=128, **more)
    )


def curve(engine, kind, steps=STEPS):
    some = given(kind)
    return [engine.step(engine.prepare(some[step % 4]), LR) for step in range(steps)]


def apart(one, other):
    """The largest relative difference of two curves."""
    return max(abs(a.loss - b.loss) / b.loss for a, b in zip(one, other, strict=True))


def compare(folder, kind, method):
    one, other = (curve(opened(engine, folder, kind, method), kind) for engine in (open_engine, TorchEngine))
    assert other[-4].loss < 0.7 * other[0].loss, "nothing is learned: this would say nothing"
    assert apart(one, other) < 1e-5
    assert np.allclose([r.grad_norm for r in one], [r.grad_norm for r in other], rtol=1e-3)
    assert [r.supervised for r in one] == [r.supervised for r in other]
    assert one[0].figures.keys() == other[0].figures.keys()
    for name in one[0].figures:
        assert np.allclose([r.figures[name] for r in one], [r.figures[name] for r in other], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "method"),
    [
        pytest.param("one", LORA, id="one-lora"),
        pytest.param("reward", FULL, id="reward-full"),
        pytest.param("several", LORA, id="several-lora", marks=SLOW),
        pytest.param("reward", LORA, id="reward-lora", marks=SLOW),
        pytest.param("one", FULL, id="one-full", marks=SLOW),
        pytest.param("several", FULL, id="several-full", marks=SLOW),
    ],
)
def test_curves_agree(models, kind, method):
    """From the same start, which needs no file: the seed gives it, the head's too."""
    compare(models("llama"), kind, method)


@pytest.mark.slow
@pytest.mark.parametrize("method", [LORA, FULL], ids=["lora", "full"])
@pytest.mark.parametrize("name", OTHERS)
def test_curves_agree_for(models, name, method):
    compare(models(name), "several", method)


@pytest.mark.slow
@pytest.mark.parametrize(
    "sabotage", ["another start", "one token early", "no weights", "embedding of padding", "head stays"]
)
def test_the_comparison_notices(models, sabotage, monkeypatch):
    folder, method = models("llama"), FULL if sabotage == "embedding of padding" else LORA
    theirs = curve(opened(TorchEngine, folder, "one", method), "one", 8)
    if sabotage == "another start":
        plain = heads.start
        monkeypatch.setattr(heads, "start", lambda name, *rest: plain(name + "x", *rest))
    if sabotage == "one token early":
        plain_of = pooled.of

        def early(hidden, weight, batch):
            kept = [replace(one, ids=one.ids[:-1], weights=one.weights[:-1]) for one in batch.examples]
            return plain_of(hidden, weight, replace(batch, examples=kept))

        monkeypatch.setattr(pooled, "of", early)
    if sabotage == "no weights":
        monkeypatch.setitem(OBJECTIVES, "one", ONE)
    ours = opened(open_engine, folder, "one", method)
    if sabotage == "embedding of padding":
        ours.forward.walk.padding = None
    if sabotage == "head stays":
        step = ours.optimizer.step
        ours.optimizer.step = lambda values, *rest: (
            step(values, *rest) | {name: value for name, value in values.items() if "score" in name}
        )
    assert apart(curve(ours, "one", 8), theirs) > 1e-4


def test_the_start_and_what_is_said_of_it_are_the_same_to_the_bit(models, tmp_path):
    bodies, tensors = [], []
    for number, engine in enumerate((open_engine, TorchEngine)):
        place = tmp_path / str(number)
        place.mkdir()
        opened(engine, models("llama"), "several").export(place)
        bodies.append(json.loads((place / "adapter_config.json").read_text()))
        tensors.append(load_file(place / "adapter_model.safetensors"))
        settings = json.loads((place / "config.json").read_text())
        assert list(settings["id2label"].values()) == list(CLASSES)
        assert settings["problem_type"] == "multi_label_classification" and settings["pad_token_id"] == ENDS
    assert bodies[0] == bodies[1] and bodies[0]["task_type"] == "SEQ_CLS"
    assert tensors[0].keys() == tensors[1].keys() and "base_model.model.score.weight" in tensors[0]
    assert all(np.array_equal(tensors[0][name], tensors[1][name]) for name in tensors[0])


@pytest.mark.parametrize(
    ("kind", "method"),
    [
        pytest.param("one", LORA, id="one-lora"),
        pytest.param("reward", FULL, id="reward-full"),
        pytest.param("reward", LORA, id="reward-lora", marks=SLOW),
        pytest.param("one", FULL, id="one-full", marks=SLOW),
    ],
)
def test_each_reads_what_the_other_wrote(models, tmp_path, kind, method):
    """With equal scores, and training goes on from there."""
    held = given(kind)[3]
    for number, (first, second) in enumerate([(open_engine, TorchEngine), (TorchEngine, open_engine)]):
        place = tmp_path / str(number)
        place.mkdir()
        trained = opened(first, models("llama"), kind, method)
        curve(trained, kind, 4)
        trained.export(place)
        again = (
            opened(second, models("llama"), kind, adapter=place)
            if method is LORA
            else opened(second, place, kind, method)
        )
        one, other = (engine.scores(engine.prepare(held)) for engine in (trained, again))
        assert one.shape == ((8, 3) if kind == "one" else (8, 2))
        assert np.abs(one - other).max() < 1e-5
        start = trained.loss(trained.prepare(held)).loss
        assert curve(again, kind, 8)[-1].loss < start / 8


@pytest.mark.parametrize("method", [LORA, FULL], ids=["lora", "full"])
def test_transformers_reads_the_result(models, tmp_path, method):
    peft = pytest.importorskip("peft")
    torch = pytest.importorskip("torch")
    from transformers import AutoConfig, AutoModelForSequenceClassification

    engine = opened(open_engine, models("llama"), "one", method)
    curve(engine, "one", 4)
    engine.export(tmp_path)
    settings = AutoConfig.from_pretrained(tmp_path)
    folder = models("llama") if method is LORA else tmp_path
    model = AutoModelForSequenceClassification.from_pretrained(folder, config=settings)
    model = (peft.PeftModel.from_pretrained(model, tmp_path) if method is LORA else model).eval()
    assert list(settings.id2label.values()) == list(CLASSES)
    held = given("one")[0]
    with torch.no_grad():
        theirs = [model(input_ids=torch.tensor(one.ids[None].astype(np.int64))).logits[0].numpy() for one in held]
    # transformers itself takes the last token that is not padding, so not the end of a text.
    whole = [place for place, one in enumerate(held) if one.ids[-1] != ENDS]
    assert len(whole) > 4
    assert np.abs(engine.scores(engine.prepare(held)) - theirs)[whole].max() < 1e-5


@pytest.mark.parametrize("kind", ["several", "reward"])
@pytest.mark.parametrize("method", [replace(LORA, dropout=0.3), FULL], ids=["lora", "full"])
def test_restore_undoes_save(models, tmp_path, method, kind):
    first, second = (opened(open_engine, models("llama"), kind, method) for _ in range(2))
    curve(first, kind, 3)
    first.save(tmp_path)
    second.restore(tmp_path)
    assert curve(second, kind, 3) == curve(first, kind, 3)


def test_the_cut_changes_nothing_and_every_text_stands_alone(models):
    folder, held = models("llama"), given("reward")[0]
    found = []
    for budget in (1, 10_000):
        engine = open_engine(spec(folder, REWARD, token_budget=budget))
        found.append(engine.scores(engine.prepare(held)))
        loss = engine.loss(engine.prepare(held))
        lead = (found[-1][:, 0] - found[-1][:, 1]).astype(np.float64)
        assert np.isclose(loss.loss, np.log1p(np.exp(-lead)).sum(), rtol=1e-5)
        assert (loss.denominator, loss.supervised) == (8, sum(one.supervised for one in held))
    assert np.allclose(*found, atol=1e-6)


def test_a_base_with_these_classes_keeps_its_head(models, tmp_path):
    engine = opened(open_engine, models("llama"), "one", FULL)
    curve(engine, "one", 3)
    engine.export(tmp_path)
    trained = np.array(engine.model.score.weight)
    same, other, more = (
        np.array(open_engine(spec(tmp_path, replace(ONE, classes=classes))).model.score.weight)
        for classes in (CLASSES, ("x", "y", "z"), ("a", "b", "c", "d"))
    )
    assert np.array_equal(same, trained)
    assert other.shape == trained.shape and not np.array_equal(other, trained) and more.shape[0] == 4


@pytest.mark.parametrize(
    "settings", [{"id2label": ["a"]}, {"id2label": {"x": "a"}}, {"initializer_range": {}}, {"eos_token_id": []}]
)
def test_settings_that_say_nothing_are_refused(models, tmp_path, settings):
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((models("llama") / name).read_bytes())
    body = json.loads((tmp_path / "config.json").read_text()) | {"pad_token_id": None}
    (tmp_path / "config.json").write_text(json.dumps(body | settings))
    with pytest.raises(InputError) as error:
        opened(open_engine, tmp_path, "one")
    assert error.value.finding.code == "model.unloadable"


def test_a_head_on_a_base_of_fewer_bits_is_float32(models):
    for method in (LORA, FULL):
        engine = opened(open_engine, models("llama"), "one", method, dtype="bfloat16")
        held = given("one")[0]
        assert engine.scores(engine.prepare(held)).dtype == np.float32
        assert all(str(value.dtype) == "mlx.core.float32" for value in engine.parameters.values())
        losses = [engine.step(engine.prepare(held), LR).loss for _ in range(6)]
        assert losses[-1] < losses[0]


def test_a_row_may_have_no_class_at_all(models):
    engine = opened(open_engine, models("llama"), "several")
    none = [replace(one, label=()) for one in given("several")[0]]
    first = engine.step(engine.prepare(none), LR)
    assert first.supervised == 8 and engine.step(engine.prepare(none), LR).loss < first.loss


@pytest.mark.parametrize("name", ["bert", "modernbert", "gpt2"])
def test_torch_steps_in_for_other_models(models, name):
    chosen = engines.choose("mlx", models(name), "lora", "classification")
    assert (chosen.name, chosen.warning) == ("torch", f"MLX lacks {name} models, so torch computes")
    assert engines.choose("mlx", models("llama"), "lora", "reward").name == "mlx"


def test_a_run_is_measured_by_what_trained_it(monkeypatch):
    """Where that is not installed, torch reads its files."""
    resolved = {"config": {"resources": {"engine": "mlx"}}}
    assert engine_of(resolved) == "mlx"
    monkeypatch.setitem(engines.LIBRARIES, "mlx", "no_library_of_this_name")
    assert engine_of(resolved) == "torch"

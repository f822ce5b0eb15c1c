"""Prompt methods and IA³: what they start from, what they save, how they are asked, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("peft")

import torch
from safetensors.torch import load_file

from truetune.data.example import Example
from truetune.engines import adapter, base, prompts
from truetune.engines.base import EngineSpec, Method, Objective
from truetune.engines.decoder import DecoderSpec
from truetune.engines.torch.decode import TorchDecoder
from truetune.engines.torch.engine import TorchEngine
from truetune.errors import InputError, UsageError
from truetune.testing import examples
from truetune.testing.contract import LORA
from truetune.testing.decoder import Ask, answer, crowd, text

VIRTUAL, LR = 4, 3e-2
EVERY = (*prompts.PROMPTS, "ia3")


def method(kind, **changes):
    return replace(LORA, type=kind) if kind == "lora" else Method(type=kind, virtual_tokens=VIRTUAL, **changes)


def engine(folder, kind, **changes):
    return TorchEngine(replace(EngineSpec(model=folder, method=method(kind), token_budget=64), **changes))


def learn(one, steps=3, lr=LR):
    """The losses of some steps."""
    plan = one.prepare(examples())
    return [one.step(plan, lr).loss for _ in range(steps)]


def mean(one, rows=None):
    plan = one.prepare(rows or examples(seed=50))
    return one.loss(plan).loss / plan.denominator


def trained(folder, kind, place, save="export", **changes):
    """An engine after some steps, and the folder of its adapter."""
    one = engine(folder, kind, **changes)
    learn(one)
    place.mkdir()
    getattr(one, save)(place)
    return one, place


def pairs(count=6):
    """Two texts each, the better one first."""
    made = []
    for row, (one, other) in enumerate(zip(examples(count, seed=1), examples(count, seed=2), strict=True)):
        ids, weights = np.r_[one.ids, other.ids], np.r_[one.weights, other.weights]
        made.append(Example(ids, weights, row, second=one.tokens, reference=(-20.0, -21.0)))
    return made


@pytest.mark.parametrize("kind", EVERY)
def test_it_learns_from_the_same_start(llama, kind):
    """Whatever was drawn before. The first step is fixed by the seed, and the base stays as it is."""
    first = engine(llama, kind)
    torch.rand(7)
    second = engine(llama, kind)
    before = {name: value.clone() for name, value in first.model.state_dict().items()}
    losses = learn(first, 8)
    assert losses[:3] == learn(second)
    assert losses[-1] < losses[0]
    assert first.changed()[0] == first.changed()[1] > 0
    trained = {id(parameter) for parameter in first.parameters.values()}
    kept = [name for name, parameter in first.model.named_parameters() if id(parameter) not in trained]
    assert all(torch.equal(before[name], first.model.state_dict()[name]) for name in kept)
    if kind in prompts.PROMPTS:
        other = engine(llama, kind, seed=7)
        assert all((other.parameters[name] != one).any() for name, one in second.parameters.items() if "emb" in name)


@pytest.mark.parametrize("kind", prompts.PROMPTS)
def test_noise_is_not_measured(llama, kind, tmp_path):
    """Before the first step the model before training is what is measured and answers, and after it no more."""
    one, plain = engine(llama, kind), engine(llama, "lora")
    plan = one.prepare(examples())
    asked = [[1, 2, 3], [4, 5]]
    assert mean(one) == pytest.approx(mean(plain), rel=1e-6)
    assert one.answer(asked, 5, frozenset()) == plain.answer(asked, 5, frozenset())
    one.save(tmp_path)
    resumed = engine(llama, kind)
    resumed.restore(tmp_path)
    assert mean(resumed) == mean(one)
    assert one.rehearse(plan).loss != pytest.approx(one.loss(plan).loss / plan.denominator, rel=1e-4)
    one.step(plan, LR)
    assert mean(one) != pytest.approx(mean(plain), rel=1e-4)


@pytest.mark.parametrize("kind", EVERY)
def test_off_is_the_model_before_training(llama, kind):
    one, plain = engine(llama, kind), engine(llama, "lora")
    learn(one)
    plan = one.prepare(examples())
    assert np.allclose(one.scores(plan, base=True), plain.scores(plain.prepare(examples())), rtol=1e-5)
    assert not np.allclose(one.scores(plan), one.scores(plan, base=True), rtol=1e-3)


@pytest.mark.parametrize("kind", EVERY)
def test_restore_undoes_save(llama, kind, tmp_path):
    """Bit-identical losses go on, in a fresh engine."""
    one, _ = trained(llama, kind, tmp_path / "saved", save="save")
    again = engine(llama, kind)
    again.restore(tmp_path / "saved")
    assert mean(again) == mean(one)
    assert learn(again) == learn(one)


def test_virtual_tokens_count_in_a_micro_batch():
    rows = [Example(np.zeros(size, np.int32), np.ones(size, np.float32), row) for row, size in enumerate((5, 3, 9, 2))]
    assert base.cut(rows, 8) == [[2], [0, 1], [3]]
    assert base.cut(rows, 14, virtual=4) == [[2], [0], [1, 3]]


@pytest.mark.parametrize("kind", EVERY)
@pytest.mark.parametrize("name", ["llama", pytest.param("gpt2", marks=pytest.mark.slow)])
def test_peft_loads_what_is_saved(models, kind, name, tmp_path):
    """The same log-probabilities by PEFT alone, from the result and from a checkpoint."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    one, place = trained(models(name), kind, tmp_path / "adapter", save="save")
    plain = AutoModelForCausalLM.from_pretrained(models(name), attn_implementation="eager")
    model = PeftModel.from_pretrained(plain, place).eval()
    ids = torch.tensor([list(range(3, 20))])
    with torch.no_grad():
        theirs = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0, -17:]
        inputs = {"segments": ((0, 17),), "position_ids": torch.arange(17)[None]} if one.forward.packs else {}
        ours = one.adapted.model.eval()(input_ids=ids, **inputs, use_cache=False).logits[0, -17:]
        with model.disable_adapter():
            bare = model(input_ids=ids).logits[0]
    assert (theirs - ours).abs().max() <= 1e-5 < (theirs - bare).abs().max()


@pytest.mark.parametrize("kind", EVERY)
def test_training_goes_on_from_what_peft_saved(llama, kind, tmp_path):
    """Methods without a network of their own take up any; the others say what to write."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    one, place = trained(llama, kind, tmp_path / "adapter")
    PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(llama), place).save_pretrained(tmp_path / "theirs")
    follower = prompts.ENCODED.get(kind, kind)
    if follower != kind:
        with pytest.raises(UsageError) as error:
            engine(llama, kind, adapter=tmp_path / "theirs")
        assert error.value.code == "adapter.no_encoder"
        assert f"`method: {follower}`" in error.value.hint
    again = engine(llama, follower, adapter=tmp_path / "theirs")
    assert mean(again) == pytest.approx(mean(one), rel=1e-6)
    assert learn(again, 6)[-1] < learn(one, 6)[0]


@pytest.mark.parametrize("kind", prompts.ENCODED)
def test_a_checkpoint_holds_the_network_too(llama, kind, tmp_path):
    one, place = trained(llama, kind, tmp_path / "saved", save="save")
    again = engine(llama, kind, adapter=place)
    assert mean(again) == mean(one)
    assert again.changed() == (0, len(one.parameters))


def test_an_adapter_of_another_build_is_refused(llama, models, tmp_path):
    _, place = trained(llama, "prompt", tmp_path / "prompt")
    for settings, code in (
        ({"method": Method(type="prompt", virtual_tokens=5)}, "adapter.other_shape"),
        ({"method": method("ptuning_v2")}, "adapter.other_shape"),
        ({"method": LORA}, "adapter.unsupported"),
        ({"method": method("ia3")}, "adapter.unsupported"),
        ({"method": method("prompt"), "model": models("llama", hidden_size=64)}, "adapter.mismatch"),
    ):
        with pytest.raises((UsageError, InputError)) as error:
            TorchEngine(replace(EngineSpec(model=llama, adapter=place), **settings))
        assert error.value.code == code


@pytest.mark.parametrize("kind", ["prefix", "ia3"])
def test_pairs_are_compared(llama, kind):
    """The reference is the model without what is trained."""
    one = engine(llama, kind, objective=Objective(type="dpo"), token_budget=10_000)
    plan = one.prepare(pairs())
    before = one.scores(plan, base=True)
    losses = [one.step(plan, LR).loss for _ in range(6)]
    assert losses[-1] < losses[0]
    assert np.array_equal(before, one.scores(plan, base=True))


def test_gradient_checkpointing(llama):
    """It would drop keys and values unsaid, so prefixes refuse it; embeddings learn the same with it."""
    with pytest.raises(ValueError, match="checkpointing"):
        engine(llama, "prefix", gradient_checkpointing=True)
    assert learn(engine(llama, "prompt"), 2) == learn(engine(llama, "prompt", gradient_checkpointing=True), 2)


def test_the_width_of_the_network(llama):
    for kind, weight in (("prefix", "transform.0.weight"), ("ptuning", "mlp_head.0.weight")):
        narrow = engine(llama, kind, method=method(kind, encoder_hidden=8))
        assert engine(llama, kind).parameters[weight].shape == (32, 32 if kind == "ptuning" else 16)
        assert narrow.parameters[weight].shape[0] == 8


@pytest.mark.slow
@pytest.mark.parametrize("kind", EVERY)
def test_bfloat16_learns_too(llama, kind):
    losses = learn(engine(llama, kind, dtype="bfloat16"), 8)
    assert losses[-1] < losses[0]


@pytest.mark.parametrize(
    "name", ["llama", *(pytest.param(name, marks=pytest.mark.slow) for name in ("gemma2", "gptj"))]
)
def test_the_decoder_knows_them_all_at_once(models, name, tmp_path):
    """Rows of every method, of LoRA and of none, decoded together, answer as each engine does alone; so do their
    log-probabilities."""
    folder = models(name)
    decoder, asked, expected = TorchDecoder(DecoderSpec(folder, slots=8)), [], {}
    prompt = [5, 9, 14, 3, 7]
    for kind in (*EVERY, "lora"):
        one, place = trained(folder, kind, tmp_path / kind)
        decoder.load(kind, place)
        asked.append(Ask(prompt, kind))
        expected[kind] = one.answer([prompt], 8, frozenset())[0]
        row = text(examples(seed=3)[0].ids)
        assert np.isclose(decoder.score([row], kind)[0].sum(), -one.loss(one.prepare([row])).loss, rtol=1e-4)
    asked.append(Ask(prompt, None))
    together = crowd(decoder, asked)
    assert dict(zip(expected, together, strict=False)) == expected
    assert together[-1] == answer(decoder, Ask(prompt, None))
    assert len(set(map(tuple, together))) > 3
    decoder.drop("prefix")
    decoder.load("prefix", tmp_path / "lora")
    assert answer(decoder, Ask(prompt, "prefix")) == expected["lora"]


def test_a_long_text_behind_virtual_tokens(llama, tmp_path):
    """Read in chunks, one by one or together; the context has less room by the virtual tokens."""
    one, place = trained(llama, "prefix", tmp_path / "adapter")
    decoder = TorchDecoder(DecoderSpec(llama))
    decoder.load("a", place)
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 300, decoder.context - VIRTUAL - 2).astype(np.int32)
    row = text(ids)
    assert np.isclose(decoder.score([row], "a")[0].sum(), -one.loss(one.prepare([row])).loss, rtol=1e-4)
    with pytest.raises(UsageError):
        decoder.admit(list(range(decoder.context - VIRTUAL)), "a", Ask([1], "a").sampling)
    assert len(answer(decoder, Ask(ids.tolist(), "a"))) == 2


def test_what_stands_in_the_file(llama, tmp_path):
    """Only what answering needs; the network stands in checkpoints."""
    _, place = trained(llama, "prefix", tmp_path / "adapter", base="starter")
    body = json.loads((place / adapter.CONFIG).read_text())
    assert (body["peft_type"], body["num_virtual_tokens"], body["base_model_name_or_path"]) == (
        "PREFIX_TUNING", VIRTUAL, "starter",
    )  # fmt: skip
    tensors = load_file(place / adapter.WEIGHTS)
    assert {name: tuple(one.shape) for name, one in tensors.items()} == {"prompt_embeddings": (VIRTUAL, 2 * 2 * 16)}


def test_targets_of_ia3(llama, models):
    one = engine(llama, "ia3", method=Method(type="ia3", target_modules=("q_proj", "down_proj")))
    assert one.describe()["target_modules"] == ["down_proj", "q_proj"]
    assert one.describe()["trained_parameters"] == 2 * (32 + 64)
    assert engine(models("phi3"), "ia3").describe()["target_modules"] == ["down_proj", "qkv_proj"]
    with pytest.raises(UsageError) as error:
        engine(llama, "ia3", method=Method(type="ia3", target_modules=("typo",)))
    assert error.value.code == "method.no_target"

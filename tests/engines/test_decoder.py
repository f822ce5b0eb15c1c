"""The torch decoder under the contract suite, and what is its own: sampling, its cache, adapters' files, memory."""

from __future__ import annotations

import itertools
import json
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from safetensors.torch import load_file, save_file

from truetune import engines
from truetune.engines import adapter
from truetune.engines.adjust import Said
from truetune.engines.base import EngineSpec, Method, OutOfMemory
from truetune.engines.decoder import DecoderSpec, Sampling
from truetune.engines.torch import lora, sample, slots, tiny
from truetune.engines.torch.decode import TorchDecoder
from truetune.engines.torch.engine import TorchEngine
from truetune.errors import InputError
from truetune.testing import DecoderContract, examples
from truetune.testing.contract import LORA
from truetune.testing.decoder import Ask, answer, asks, crowd

FAST = ("llama", "mistral-window", "gemma2", "gpt2", "gptj")
EVERY = [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in tiny.ARCHITECTURES]


def write(folder, into, seed, **method):
    """An adapter that changes much: B is random too."""
    engine = TorchEngine(EngineSpec(folder, replace(LORA, **method), seed=seed))
    draw = torch.Generator().manual_seed(seed)
    for name, parameter in engine.parameters.items():
        if ".lora_B." in name:
            parameter.data.normal_(0, 0.3, generator=draw)
    into.mkdir(parents=True)
    engine.export(into)
    return into


def three(folder, into):
    """Adapters of other ranks, scales and layers."""
    names = lora.linear_names(TorchEngine(EngineSpec(folder, Method(type="full"))).model)
    return [
        write(folder, into / "first", 1),
        write(folder, into / "second", 2, r=2, alpha=6, target_modules=tuple(names[::2])),
        write(folder, into / "third", 3, r=8, alpha=8, target_modules=tuple(names[1::2])),
    ]


class TestTorch(DecoderContract):
    """Every promise for the main architectures; the others are in the slow suite."""

    def open(self, spec):
        return TorchDecoder(spec)

    @pytest.fixture(params=EVERY)
    def folder(self, request, models):
        return models(request.param)

    @pytest.fixture
    def adapters(self, folder, tmp_path):
        return three(folder, tmp_path)


@pytest.mark.parametrize("name", EVERY)
def test_greedy_tokens_are_those_of_generate(models, name):
    """In a crowd, against transformers' own `generate` for each prompt alone; chunked prompts and windows included."""
    from transformers import AutoModelForCausalLM

    reference = AutoModelForCausalLM.from_pretrained(models(name), dtype=torch.float32, attn_implementation="eager")
    decoder, rows = TorchDecoder(DecoderSpec(models(name), slots=3)), asks(7)
    for row, found in zip(rows, crowd(decoder, rows), strict=True):
        ids = torch.tensor([row.ids])
        settings = {"max_new_tokens": row.sampling.max_new_tokens, "do_sample": False, "eos_token_id": None}
        grown = reference.generate(ids, attention_mask=torch.ones_like(ids), pad_token_id=0, **settings)
        assert found == grown[0, len(row.ids) :].tolist()


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("chunk", [512, 7])
def test_logits_are_those_of_the_plain_forward(models, name, chunk):
    """Step by step with a cache = the whole text at once, also where prompts are read in small chunks."""
    from transformers import AutoModelForCausalLM

    reference = AutoModelForCausalLM.from_pretrained(models(name), dtype=torch.float32, attn_implementation="eager")
    decoder, rows = TorchDecoder(DecoderSpec(models(name), slots=3, chunk=chunk)), asks(3)
    for row in rows:
        decoder.admit(row.ids, None, Sampling(max_new_tokens=30))
    texts = [list(row.ids) for row in rows]
    for _ in range(12):
        with torch.no_grad():
            decoder.core.forward()
            for slot, one in decoder.admitted.items():
                expected = reference(input_ids=torch.tensor([texts[slot]])).logits[0, -1]
                assert torch.allclose(one.row.logits, expected, atol=1e-5)
        for token in decoder.decode():
            texts[token.slot].append(token.id)


@pytest.mark.parametrize("name", FAST)
def test_scores_add_up_to_the_loss_of_training(models, name, tmp_path):
    """Σ weight · −log p = the training engine's loss, base and adapter; long texts in chunks too."""
    folder, rows = models(name), examples()
    decoder = TorchDecoder(DecoderSpec(folder))
    decoder.load("mine", write(folder, tmp_path / "mine", 5))
    for named, path in ((None, None), ("mine", tmp_path / "mine")):
        engine = TorchEngine(EngineSpec(folder, LORA, adapter=path))
        expected = engine.loss(engine.prepare(rows)).loss
        scored = sum(
            float(-(row.weights * score).sum()) for row, score in zip(rows, decoder.score(rows, named), strict=True)
        )
        assert np.isclose(scored, expected, rtol=1e-5)


@pytest.mark.parametrize("name", ["llama", "gptj"])
def test_long_texts_are_scored_in_parts(models, name, monkeypatch):
    decoder, rows = TorchDecoder(DecoderSpec(models(name))), examples(4, longest=200)
    whole = decoder.score(rows, None)
    monkeypatch.setattr("truetune.engines.torch.head.CHUNK", 320 * 3)
    monkeypatch.setattr("truetune.engines.torch.head.LEAST", 1)
    monkeypatch.setattr("truetune.engines.torch.scoring.CHUNK", 5)
    monkeypatch.setattr("truetune.engines.torch.scoring.BUDGET", 10)
    for row, other in zip(whole, decoder.score(rows, None), strict=True):
        assert np.allclose(row, other, atol=1e-5)


def test_a_single_token_scores_nothing(llama):
    rows = [replace(row, ids=row.ids[:1], weights=row.weights[:1]) for row in examples(2)]
    assert [score.tolist() for score in TorchDecoder(DecoderSpec(llama)).score(rows, None)] == [[0.0], [0.0]]


@pytest.mark.parametrize("chunk", [512, 7])
def test_a_row_alone_and_in_a_crowd_has_the_same_bits(llama, tmp_path, chunk):
    """Adapters and chunked prompts included; a promise about this kind of CPU, not about every machine."""
    decoder = TorchDecoder(DecoderSpec(llama, slots=7, chunk=chunk))
    decoder.load("first", write(llama, tmp_path / "first", 1))
    decoder.load("second", write(llama, tmp_path / "second", 2, r=3))
    rows = asks(7, adapters=["first", None, "second"])

    def logits(some):
        places = {decoder.admit(row.ids, row.adapter, Sampling(max_new_tokens=6)): row for row in some}
        found = {id(row): [] for row in some}
        for _ in range(6):
            with torch.no_grad():
                decoder.core.forward()
            for slot, one in decoder.admitted.items():
                found[id(places[slot])].append(one.row.logits)
            decoder.decode()
        return found

    together = logits(rows)
    for row in rows:
        pairs = zip(logits([row])[id(row)], together[id(row)], strict=True)
        assert all(torch.equal(one, other) for one, other in pairs)


@pytest.mark.parametrize(
    "limits",
    [
        {"top_k": 5},
        {"top_p": 0.7},
        {"top_k": 30, "top_p": 0.8},
        {"top_p": 0.9999},
        {"top_p": 0.0},
        {"min_p": 0.1},
        {"top_p": 0.9, "min_p": 0.02},
    ],
)
@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.5])
def test_what_may_be_drawn_is_what_transformers_leaves(limits, temperature):
    from transformers.generation import logits_process as oracle

    torch.manual_seed(0)
    sampling = Sampling(temperature=temperature, **limits)
    chain = [oracle.TemperatureLogitsWarper(temperature)]
    chain += [oracle.TopKLogitsWarper(limits["top_k"])] if "top_k" in limits else []
    chain += [oracle.TopPLogitsWarper(limits["top_p"])] if "top_p" in limits else []
    chain += [oracle.MinPLogitsWarper(limits["min_p"])] if "min_p" in limits else []
    for logits in torch.randn(20, 1000) * 3:
        expected = logits[None]
        for warper in chain:
            expected = warper(None, expected)
        found = sample.kept(logits, sampling)
        assert torch.allclose(found / found.sum(), expected.softmax(-1)[0], atol=1e-6)


def test_repetition_is_punished_as_transformers_does():
    from transformers.generation.logits_process import RepetitionPenaltyLogitsProcessor

    torch.manual_seed(1)
    said = Said([3, 5, 5, 900])
    for token in (5, 7, 7):
        said.add(token)
    settings = Sampling(repetition_penalty=1.3)
    for logits in torch.randn(20, 1000) * 3:
        expected = RepetitionPenaltyLogitsProcessor(1.3)(torch.tensor([[3, 5, 5, 900, 5, 7, 7]]), logits[None])[0]
        assert torch.allclose(sample.adjusted(logits, settings, said, None), expected)


def test_a_prompt_that_begins_as_an_earlier_one_has_the_same_bits(models, tmp_path):
    """What is kept of prompts saves reading and changes nothing; it belongs to one adapter's content, and to so many
    bytes."""
    folder, ids = models("llama"), asks(1, seed=3)[0].ids * 4
    plain = TorchDecoder(DecoderSpec(folder, chunk=8))
    decoder = TorchDecoder(DecoderSpec(folder, chunk=8, cache=2**16))

    def first(one, some, adapter=None):
        slot = one.admit(some, adapter, Sampling(max_new_tokens=3))
        with torch.no_grad():
            one.core.forward()
        logits, cached = one.admitted[slot].row.logits, one.cached(slot)
        while one.decode():
            pass
        return logits, cached

    for some, hoped in ((ids, 0), (ids, (len(ids) - 1) // 8 * 8), (ids[:17], 16), (ids[:16], 8), ([1, *ids], 0)):
        logits, cached = first(decoder, some)
        assert cached == hoped
        assert torch.equal(logits, first(plain, some)[0])
    for seed in (1, 2):
        place = write(folder, tmp_path / str(seed), seed)
        for one in (plain, decoder):
            one.load("mine", place)
        assert first(decoder, ids, "mine")[1] == 0
        logits, cached = first(decoder, ids, "mine")
        assert cached > 0
        assert torch.equal(logits, first(plain, ids, "mine")[0])
    for seed in range(5):
        first(decoder, asks(1, seed=seed)[0].ids * 3)
        assert 0 < decoder.prefixes.size <= 2**16
    decoder.spare()
    assert (decoder.prefixes.size, decoder.core.store.keys) == (0, {})
    scored = decoder.admit(ids, None, Sampling(max_new_tokens=1, prompt_logprobs=0))
    assert decoder.cached(scored) == 0


def test_a_vanishing_temperature_is_greedy():
    logits = torch.randn(100)
    found = sample.choose(logits, Sampling(temperature=1e-30), torch.Generator().manual_seed(1))
    assert found == int(logits.argmax())


PEFT = {
    "llama": [
        {"r": 3, "lora_alpha": 12, "target_modules": ["q_proj", "down_proj"]},
        {"r": 8, "target_modules": "all-linear"},
    ],
    "gpt2": [{"r": 4, "lora_alpha": 16, "target_modules": ["c_attn"]}, {"r": 2, "target_modules": ["c_fc", "c_proj"]}],
}


@pytest.mark.slow
@pytest.mark.parametrize("name", PEFT)
def test_what_peft_saves_answers_as_peft_does(models, name, tmp_path):
    """Two adapters and the base in one batch, against PEFT with each alone; ranks, layers and scales differ."""
    peft = pytest.importorskip("peft")
    from transformers import AutoModelForCausalLM

    plain = AutoModelForCausalLM.from_pretrained(models(name), dtype=torch.float32)
    decoder = TorchDecoder(DecoderSpec(models(name)))
    torch.manual_seed(7)
    model = None
    for title, settings in zip(("one", "two"), PEFT[name], strict=True):
        config = peft.LoraConfig(task_type="CAUSAL_LM", **settings)
        if model is None:
            model = peft.get_peft_model(plain, config, adapter_name=title)
        else:
            model.add_adapter(title, config)
        for key, parameter in model.named_parameters():
            if f"lora_B.{title}." in key:
                parameter.data.normal_(0, 0.3)
        model.save_pretrained(tmp_path, selected_adapters=[title])
        decoder.load(title, tmp_path / title)
    rows = asks(7, adapters=["one", "two", None])
    for row, found in zip(rows, crowd(decoder, rows), strict=True):
        assert found == alone(model.eval(), row)


def alone(model, ask):
    """PEFT's greedy answer with one adapter, or with none."""
    ids = torch.tensor([ask.ids])
    settings = {"max_new_tokens": ask.sampling.max_new_tokens, "do_sample": False, "eos_token_id": None}
    if ask.adapter:
        model.set_adapter(ask.adapter)
    with nullcontext() if ask.adapter else model.disable_adapter():
        grown = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), pad_token_id=0, **settings)
    return grown[0, len(ask.ids) :].tolist()


def test_a_checkpoint_is_an_adapter(llama, tmp_path):
    engine = TorchEngine(EngineSpec(llama, LORA))
    for step in range(3):
        engine.step(engine.prepare(examples(seed=step)), 3e-2)
    engine.save(tmp_path)
    decoder, ids = TorchDecoder(DecoderSpec(llama)), asks()[0].ids
    decoder.load("step", tmp_path)
    assert answer(decoder, Ask(ids, "step")) == engine.answer([ids], 8, frozenset())[0]


def test_a_checkpoint_of_full_fine_tuning_replaces_the_weights(llama, models, tmp_path):
    engine = TorchEngine(EngineSpec(llama, Method(type="full")))
    for step in range(3):
        engine.step(engine.prepare(examples(seed=step)), 1e-2)
    engine.save(tmp_path)
    weights, ids = tmp_path / "model.safetensors", asks()[0].ids
    found = answer(TorchDecoder(DecoderSpec(llama, weights=weights)), Ask(ids))
    assert found == engine.answer([ids], 8, frozenset())[0] != answer(TorchDecoder(DecoderSpec(llama)), Ask(ids))
    with pytest.raises(InputError) as error:
        TorchDecoder(DecoderSpec(models("llama", hidden_size=64), weights=weights))
    assert error.value.finding.code == "model.weights"


def without(tensors):
    return dict(list(tensors.items())[1:])


def wider(tensors):
    return {name: torch.zeros(9, 9) for name in tensors}


@pytest.mark.parametrize(
    ("settings", "change", "code"),
    [
        ({}, without, "adapter.mismatch"),
        ({}, wider, "adapter.mismatch"),
        ({"target_modules": ["q_proj"]}, dict, "adapter.mismatch"),
        ({"r": 0}, dict, "adapter.damaged"),
        ({"r": None}, dict, "adapter.damaged"),
        ({"lora_bias": True}, dict, "adapter.unsupported"),
        ({"use_dora": True}, dict, "adapter.mismatch"),
        ({"trainable_token_indices": [3, "x"]}, dict, "adapter.damaged"),
    ],
)
def test_a_wrong_adapter_is_refused_and_the_old_one_stays(llama, tmp_path, settings, change, code):
    folder, decoder, ids = write(llama, tmp_path / "mine", 1), TorchDecoder(DecoderSpec(llama)), asks()[0].ids
    decoder.load("mine", folder)
    before = answer(decoder, Ask(ids, "mine"))
    config, weights = folder / adapter.CONFIG, folder / adapter.WEIGHTS
    config.write_text(json.dumps(json.loads(config.read_text()) | settings))
    save_file(change(load_file(weights)), weights)
    with pytest.raises(InputError) as error:
        decoder.load("mine", folder)
    assert error.value.finding.code == code
    assert answer(decoder, Ask(ids, "mine")) == before


def test_a_torn_file_is_damaged(llama, tmp_path):
    folder = write(llama, tmp_path / "mine", 1)
    (folder / adapter.WEIGHTS).write_bytes((folder / adapter.WEIGHTS).read_bytes()[:-40])
    with pytest.raises(InputError) as error:
        TorchDecoder(DecoderSpec(llama)).load("mine", folder)
    assert error.value.finding.code == "adapter.damaged"


def test_memory_grows_by_need(models):
    """Not by slots times context; and a row that leaves gives its place to the next."""
    decoder = TorchDecoder(DecoderSpec(models("llama", max_position_embeddings=100_000), slots=64))
    for ask in asks(3):
        answer(decoder, ask)
    (keys, *_) = decoder.core.store.keys.values()
    assert keys.shape[0] == 1
    assert keys.shape[2] == slots.BLOCK
    answer(decoder, Ask([1] * 700))
    (keys, *_) = decoder.core.store.keys.values()
    assert 700 < keys.shape[2] < 900


def test_what_a_row_leaves_behind_reaches_nobody(llama):
    """A NaN in a place that was given up must not spread through a mask: 0 · NaN is NaN."""
    decoder, row = TorchDecoder(DecoderSpec(llama)), asks()[0]
    clean = answer(decoder, row)
    for tensor in (*decoder.core.store.keys.values(), *decoder.core.store.values.values()):
        tensor.fill_(float("nan"))
    assert answer(decoder, row) == clean


@pytest.mark.parametrize("name", ["llama", "gptj"])
def test_out_of_memory_can_be_repeated(models, name):
    """The failed `decode` is as if it had not been; giving up rows and trying again is possible."""
    decoder, rows = TorchDecoder(DecoderSpec(models(name))), asks(3)
    expected = crowd(decoder, rows)
    calls = itertools.count()
    layer = next(m for n, m in decoder.model.named_modules() if isinstance(m, torch.nn.Linear))

    def fail(*_):
        if next(calls) % 2:
            raise torch.OutOfMemoryError("no")

    handle = layer.register_forward_pre_hook(fail)
    found = {decoder.admit(row.ids, None, row.sampling): [] for row in rows}
    while decoder.admitted:
        try:
            for token in decoder.decode():
                found[token.slot].append(token.id)
        except OutOfMemory:
            continue
    handle.remove()
    assert list(found.values()) == expected


def test_the_engines_table_opens_it(llama):
    decoder = engines.open_decoder("torch", DecoderSpec(llama, slots=2))
    assert decoder.describe()["rows"] == "batched"
    assert decoder.context == 512
    decoder.close()


def test_sampling_while_training_leaves_no_trace(llama):
    """Attention, cache setting and random numbers are as before."""
    engine = TorchEngine(EngineSpec(llama, LORA))
    before, kind = torch.get_rng_state(), engine.model.config._attn_implementation
    engine.answer([row.ids for row in asks(3)], 5, frozenset())
    assert torch.equal(before, torch.get_rng_state())
    assert engine.model.config._attn_implementation == kind
    assert engine.answer([[1, 2]], 0, frozenset()) == [[]]

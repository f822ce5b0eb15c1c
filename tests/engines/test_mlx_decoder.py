"""The MLX decoder under the contract suite, and greedy as transformers writes."""

from __future__ import annotations

from functools import cache

import pytest

pytest.importorskip("torch")
pytest.importorskip("mlx_lm", reason="MLX is not installed")

import numpy as np
import torch

from truetune.data.example import Example
from truetune.engines.base import EngineSpec, Method
from truetune.engines.decoder import DecoderSpec, Sampling
from truetune.engines.mlx.decode import open_decoder
from truetune.engines.mlx.engine import open_engine
from truetune.engines.torch import tiny
from truetune.engines.torch.engine import TorchEngine
from truetune.testing import DecoderContract

NAMES = ("llama", "mistral-window", "qwen2", "qwen3", "gemma2", "gemma3", "phi3")


@pytest.fixture(scope="session")
def made(models, tmp_path_factory):
    """A tiny model by name, and three adapters of it, each made once."""
    root = tmp_path_factory.mktemp("mlx")

    @cache
    def get(name):
        folder = models(name)
        return folder, [adapter(folder, root / f"{name}-{seed}", seed) for seed in (1, 2, 3)]

    return get


def adapter(folder, place, seed):
    """An adapter that changes every answer, of another rank for each seed."""
    engine = TorchEngine(EngineSpec(model=folder, method=Method(r=seed + 1, alpha=8), seed=seed))
    generator = torch.Generator().manual_seed(seed)
    for parameter in engine.parameters.values():
        parameter.data.normal_(std=0.3, generator=generator)
    place.mkdir()
    engine.export(place)
    return place


@pytest.mark.slow
class TestMlxDecoder(DecoderContract):
    def open(self, spec):
        return open_decoder(spec)

    @pytest.fixture(params=NAMES)
    def name(self, request):
        return request.param

    @pytest.fixture
    def folder(self, name, made):
        return made(name)[0]

    @pytest.fixture
    def adapters(self, name, made):
        return made(name)[1]


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_greedy_is_that_of_transformers(made, name):
    """With and without an adapter (PEFT), past every window."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    folder, (first, *_) = made(name)
    decoder = open_decoder(DecoderSpec(folder))
    decoder.load("first", first)
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    prompts = [np.random.default_rng(seed).integers(0, tiny.VOCAB, 5 + 4 * seed).tolist() for seed in range(4)]
    for wanted in (None, "first"):
        model = PeftModel.from_pretrained(plain, first).eval() if wanted else plain
        for prompt in prompts:
            decoder.admit(prompt, wanted, Sampling(max_new_tokens=20))
            found = [token.id for _ in range(20) for token in decoder.decode()]
            ids = torch.tensor([prompt])
            settings = {"max_new_tokens": 20, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
            written = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), **settings)
            assert found == written[0, len(prompt) :].tolist()


def test_other_weights_in_the_same_folder(made, tmp_path):
    """A checkpoint of full fine-tuning decodes as the engine that wrote it computes."""
    folder, _ = made("gemma2")
    engine = open_engine(EngineSpec(model=folder, method=Method(type="full")))
    weights = np.r_[np.float32(0), np.ones(19, np.float32)]
    plan = engine.prepare([Example(np.arange(20, dtype=np.int32), weights, 0)])
    engine.step(plan, 1e-2)
    engine.save(tmp_path)
    decoder = open_decoder(DecoderSpec(folder, weights=tmp_path / "model.safetensors"))
    (scored,) = decoder.score(plan.examples, None)
    assert np.isclose(-scored.sum(), engine.loss(plan).loss, rtol=1e-5)

"""The engine of serving against transformers and PEFT, and under a load in which adapters come and go."""

from __future__ import annotations

import gc
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import psutil
import pytest

pytest.importorskip("torch")
pytest.importorskip("llguidance")

import torch

from truetune.engines.decoder import DecoderSpec, Sampling
from truetune.engines.torch import tiny
from truetune.engines.torch.decode import TorchDecoder
from truetune.models import tokenizer
from truetune.models.source import STARTER
from truetune.serve.requests import Limits, Request
from truetune.serve.scheduler import Scheduler

pytestmark = pytest.mark.slow
LOADS, ASKERS = 1000, 4


@pytest.fixture(scope="module")
def encode():
    return tokenizer.load(STARTER)


@pytest.fixture(scope="module")
def base(tmp_path_factory, encode):
    return tiny.make(tmp_path_factory.mktemp("served") / "base", "llama", vocab_size=encode.vocabulary)


def peft_adapters(base, root, count):
    """PEFT's own adapters of other ranks, scales and layers, and the model that has them all."""
    peft = pytest.importorskip("peft")
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    torch.manual_seed(0)
    kinds = ["all-linear", ["q_proj", "down_proj"], ["v_proj", "gate_proj", "o_proj"]]
    for number in range(count):
        config = peft.LoraConfig(
            task_type="CAUSAL_LM", r=2 + number, lora_alpha=8, target_modules=kinds[number % len(kinds)]
        )
        name = f"a{number}"
        model = peft.get_peft_model(model, config, adapter_name=name) if not number else model
        if number:
            model.add_adapter(name, config)
        for key, parameter in model.named_parameters():
            if f"lora_B.{name}." in key:
                parameter.data.normal_(0, 0.3)
    model.save_pretrained(root)
    return model.eval(), {f"a{number}": root / f"a{number}" for number in range(count)}


def generated(model, request):
    """PEFT's greedy answer with one adapter, or with none."""
    ids = torch.tensor([request.ids])
    settings = {"max_new_tokens": request.sampling.max_new_tokens, "do_sample": False, "eos_token_id": None}
    if request.adapter:
        model.set_adapter(request.adapter)
        grown = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), pad_token_id=0, **settings)
    else:
        with model.disable_adapter():
            grown = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), pad_token_id=0, **settings)
    return grown[0, len(request.ids) :].tolist()


def ids_of(handle):
    found = []
    for event in handle:
        assert event.reason in ("", "length"), event.error
        found += [said.id for said in event.tokens]
    return found


def test_greedy_answers_are_those_of_generate(base, encode, tmp_path):
    """Sixteen at once for eight of PEFT's adapters and the base, and each alone."""
    model, folders = peft_adapters(base, tmp_path, 8)
    rng = np.random.default_rng(0)
    names = [*folders, None, *folders][:16]
    requests = [
        Request(tuple(rng.integers(4, 4000, int(size)).tolist()), name, Sampling(max_new_tokens=16))
        for name, size in zip(names, rng.integers(1, 90, 16), strict=True)
    ]
    expected = [generated(model, request) for request in requests]
    spec = DecoderSpec(base, slots=16, chunk=32)
    with Scheduler(lambda: TorchDecoder(spec), encode, Limits(chunk=32)) as scheduler:
        for name, folder in folders.items():
            scheduler.load(name, folder)
        assert [ids_of(handle) for handle in [scheduler.submit(request) for request in requests]] == expected
        assert [ids_of(scheduler.submit(request)) for request in requests] == expected


def test_a_thousand_loads_under_load_mix_nothing_up(base, encode, tmp_path):
    """Four askers without a pause while names come, change hands and go: every answer is one that the name has stood
    for while it was asked, and the memory stays as it was."""
    _, folders = peft_adapters(base, tmp_path, 8)
    request = Request((11, 12, 13), None, Sampling(max_new_tokens=6))
    limits = Limits(on_device=6, on_host=8, chunk=32, queue=64)
    with Scheduler(lambda: TorchDecoder(DecoderSpec(base, slots=8, cache=2**20)), encode, limits) as scheduler:
        expected = {}
        for name, folder in folders.items():
            scheduler.load(name, folder)
            expected[name] = ids_of(scheduler.submit(Request(request.ids, name, request.sampling)))
            scheduler.unload(name)
        assert len({tuple(ids) for ids in expected.values()}) == 8
        stands, over, sure = {}, threading.Event(), []

        def ask(seed):
            draw = random.Random(seed)
            while not over.is_set():
                name = draw.choice(list(stands) or [None])
                before = stands.get(name)
                try:
                    found = ids_of(scheduler.submit(Request(request.ids, name, request.sampling)))
                except LookupError:
                    continue
                after = stands.get(name)
                if before and before == after:
                    sure.append(name)
                    assert found == expected[before[0]]
                elif name:
                    assert found in expected.values()

        def change(count):
            draw = random.Random(count)
            for number in range(count):
                name = f"n{draw.randrange(4)}"
                if name in stands and draw.random() < 0.5:
                    del stands[name]
                    scheduler.unload(name)
                else:
                    content = draw.choice(list(folders))
                    stands[name] = None  # from here until it is loaded it may be either
                    scheduler.load(name, folders[content])
                    stands[name] = content, number
                if number % 20 == 0 and any(stands.values()):  # names stand long enough to be asked
                    known, patience = len(sure), time.monotonic() + 5
                    while len(sure) == known and time.monotonic() < patience:
                        time.sleep(0.001)

        with ThreadPoolExecutor(ASKERS) as pool:
            askers = [pool.submit(ask, seed) for seed in range(ASKERS)]
            change(LOADS // 2)
            gc.collect()
            middle = psutil.Process().memory_info().rss
            change(LOADS // 2)
            gc.collect()
            grown = psutil.Process().memory_info().rss - middle
            over.set()
            for one in askers:
                one.result()
        assert len(sure) > 10
        assert grown < 32 * 2**20
        for name in list(stands):
            scheduler.unload(name)
        assert scheduler.stats()["adapters"] == {"names": 0, "versions": 0, "device": 0, "memory": 0}
        assert scheduler.stats()["totals"].get("answers_error", 0) == 0

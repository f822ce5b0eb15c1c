"""Unpacking ahead: on two simulated queues whose work is done in any order that their marks allow, and on a GPU."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("bitsandbytes")

import torch

from truetune.engines.base import EngineSpec, Method
from truetune.engines.torch import quantised, unpack
from truetune.engines.torch.engine import TorchEngine
from truetune.testing import examples

GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU: unpacking ahead is NOT tested here")
QLORA = Method(type="qlora", r=4, alpha=8, bits=4)


class Queues:
    """Work that is asked for and done later, in an order drawn at random."""

    def __init__(self, heedless=False):
        self.queues, self.current, self.heedless = ([], []), 0, heedless

    def ask(self, work):
        self.queues[self.current].append(work)

    @contextmanager
    def beside(self):
        self.current = 1
        yield
        self.current = 0

    def mark(self):
        mark = []
        self.ask(lambda: mark.append(True))
        return mark

    def wait(self, mark):
        if not self.heedless:
            self.ask(mark)  # a list, where work is a function: nothing behind it until it is filled

    def run(self, rng):
        while any(self.queues):
            ready = [q for q in self.queues if q and (callable(q[0]) or q[0])]
            assert ready, "both queues wait for one another"
            work = ready[rng.integers(len(ready))].pop(0)
            if callable(work):
                work()


def layers(sizes):
    made = []
    for number, (outside, inside) in enumerate(sizes):
        packed = torch.full((outside * inside // 2, 1), number, dtype=torch.uint8)
        made.append(quantised.Quantised(packed, object(), (outside, inside), torch.float32))
    return made


def step(lend, stack, recomputes):
    """How a training step asks: forward, then layer by layer backward, each layer computed again first."""
    for layer in stack:
        lend(layer, False)
    for group in reversed([stack[i : i + 2] for i in range(0, len(stack), 2)]):
        for layer in group if recomputes else ():
            lend(layer, False)
        for layer in reversed(group):
            lend(layer, True)


@pytest.mark.parametrize("recomputes", [False, True])
def test_every_product_reads_its_own_layer_in_any_order(recomputes):
    """Values are read when the device comes to it, long after they were asked for."""
    wrong = {False: 0, True: 0}
    for heedless in (False, True):
        for seed in range(20):
            rng, queues = np.random.default_rng(seed), Queues(heedless)
            stack = layers([(4, 6), (2, 8), (6, 6), (4, 4), (2, 2), (6, 4)])
            values = {id(layer): float(number + 1) for number, layer in enumerate(stack)}

            def unpacking(layer, place, queues=queues, values=values):
                queues.ask(lambda: place.fill_(values[id(layer)]))

            ahead = unpack.Ahead(stack, [torch.zeros(36) for _ in range(2)], queues, unpacking)
            read = []

            def lend(layer, backward, queues=queues, values=values, ahead=ahead, read=read):
                lent = ahead.lend(layer, backward=backward)
                assert lent.shape == (layer.out_features, layer.in_features)
                queues.ask(lambda: read.append(bool((lent == values[id(layer)]).all())))

            for _ in range(3):
                step(lend, stack, recomputes)
            lend(stack[3], False)  # what nobody expects
            lend(stack[0], False)
            queues.run(rng)
            wrong[heedless] += read.count(False)
    assert wrong[False] == 0
    assert wrong[True] > 0, "without the waits this test would see nothing"


def test_what_comes_next_is_known_after_one_step():
    """From the second step on a layer is unpacked once each time it is wanted, and before it is asked for."""
    asked, late = [], []
    stack = layers([(4, 4)] * 6)
    queues = Queues()
    ahead = unpack.Ahead(
        stack,
        [torch.zeros(16) for _ in range(2)],
        queues,
        lambda layer, place: (asked if queues.current else late).append(layer),
    )
    steps = []
    for _ in range(3):
        late.clear()
        asked.clear()
        step(lambda layer, backward: ahead.lend(layer, backward=backward), stack, recomputes=False)
        steps.append((len(late), len(asked)))
    assert steps[0][0] >= 6
    assert steps[1] == steps[2] and steps[2][0] == 0 and 8 <= steps[2][1] <= 12


def test_a_failure_leaves_nothing_that_looks_like_weights():
    (layer,), fails = layers([(4, 4)]), [True]

    def unpacking(layer, place):
        place.fill_(7)
        if fails.pop() if fails else False:
            raise torch.OutOfMemoryError("out of memory")

    ahead = unpack.Ahead([layer], [torch.zeros(16) for _ in range(2)], Queues(), unpacking)
    with pytest.raises(torch.OutOfMemoryError):
        ahead.lend(layer)
    assert all(slot.layer is None for slot in ahead.slots)
    assert float(ahead.lend(layer).sum()) == 7 * 16


class AtOnce:
    """Queues of a device that does everything at once."""

    @contextmanager
    def beside(self):
        yield

    def mark(self):
        return True

    def wait(self, mark):
        assert mark


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_training_is_the_same_to_the_bit(models, bits, checkpointing):
    """On the processor, with the real unpacking into kept buffers."""
    folder = models("llama", hidden_size=64)
    spec = EngineSpec(folder, replace(QLORA, bits=bits), token_budget=64, gradient_checkpointing=checkpointing)
    plain, ahead = TorchEngine(spec), TorchEngine(spec)
    found = [layer for _, layer in quantised.layers(ahead.model)]
    places = [torch.empty(max(layer.size for layer in found)) for _ in range(2)]
    lender = unpack.Ahead(found, places, AtOnce(), unpack.into)
    for layer in found:
        layer.ahead = lender
    for number in range(3):
        one, other = (engine.step(engine.prepare(examples(seed=number)), 1e-2) for engine in (plain, ahead))
        assert one == other
    assert lender.after


@GPU
@pytest.mark.parametrize("bits", [4, 8])
def test_on_a_gpu_training_is_the_same(models, bits):
    spec = EngineSpec(
        models("llama", hidden_size=64), replace(QLORA, bits=bits), token_budget=64, device="cuda", dtype="bfloat16"
    )
    ahead, plain = TorchEngine(spec), TorchEngine(spec)
    assert ahead.describe()["kernels"]["unpacking"].startswith("ahead")
    for _, layer in quantised.layers(plain.model):
        layer.ahead = None
    for number in range(4):
        one, other = (engine.step(engine.prepare(examples(seed=number)), 1e-2) for engine in (plain, ahead))
        assert one.loss == pytest.approx(other.loss, rel=1e-3)

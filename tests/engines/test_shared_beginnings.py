"""Rows that begin alike, with one system prompt for one: computed once, it gives what it gives computed for each."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("torch")

import torch
from compared import LORA, mistaken, spec

from truetune.data.example import Example
from truetune.engines.base import Objective
from truetune.engines.torch import attention, batch, model, tiny
from truetune.engines.torch.engine import TorchEngine

FAST = ("llama", "mistral-window", "gemma2")
PACKED = [name for name, (kind, _) in tiny.ARCHITECTURES.items() if model.packs(kind)]
EVERY = [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in PACKED]
ALWAYS, NEVER = 2, 10**9
SYSTEM, QUESTION = list(range(10, 30)), list(range(40, 52))


def text(row, *parts, trained=4):
    """An example of these ids, the last `trained` of which are trained."""
    ids = np.array([token for part in parts for token in part], np.int32)
    weights = (np.arange(len(ids)) >= max(1, len(ids) - trained)).astype(np.float32)
    return Example(ids, weights, row)


def rows():
    """One system prompt, one question under it asked twice, one text that is the beginning of another, two that are the
    same, a pair behind the same prompt, one of its own."""
    better, worse = [*SYSTEM, *QUESTION, 7, 8, 9], [*SYSTEM, *QUESTION, 8, 3]
    pair = np.array([*better, *worse], np.int32)
    trained = np.isin(np.arange(len(pair)), [32, 33, 34, len(pair) - 2, len(pair) - 1]).astype(np.float32)
    return [
        text(0, SYSTEM, [60, 61, 62, 63, 64, 65]),
        text(1, SYSTEM, QUESTION, [70, 71, 72]),
        text(2, SYSTEM, QUESTION, [80, 81, 82, 83]),
        text(3, SYSTEM, QUESTION),
        text(4, [200, 201, 202, 203, 204, 205]),
        text(5, SYSTEM, [60, 61, 62, 63, 64, 65]),
        Example(pair, trained, 6, second=len(better)),
        text(7, SYSTEM, QUESTION, [80, 81, 90, 91, 92], trained=40),
    ]


def step(folder, monkeypatch, shared, examples, **changes):
    """Loss and every gradient of one step over an adapter that has moved."""
    monkeypatch.setattr(batch, "SHARED", shared)
    settings = {"objective": Objective("sft"), "token_budget": 10_000} | changes
    engine = TorchEngine(replace(spec(folder), **settings))
    generator = torch.Generator().manual_seed(7)
    for parameter in engine.parameters.values():
        parameter.data.normal_(std=0.2, generator=generator)
    result = engine._gradient(engine.prepare(examples))
    return result, {name: parameter.grad.clone() for name, parameter in engine.parameters.items()}


def agree(one, other):
    (result, slopes), (expected, others) = one, other
    assert result.loss == pytest.approx(expected.loss, rel=1e-5)
    assert (result.tokens, result.supervised) == (expected.tokens, expected.supervised)
    for name, slope in slopes.items():
        assert torch.allclose(slope, others[name], rtol=1e-4, atol=1e-5 * float(others[name].abs().max())), name


@pytest.mark.parametrize("name", EVERY)
def test_shared_is_equal(models, monkeypatch, name):
    agree(*(step(models(name), monkeypatch, shared, rows()) for shared in (ALWAYS, NEVER)))


@pytest.mark.parametrize("changes", [{"gradient_checkpointing": True}, {"token_budget": 90}, {"token_budget": 1}])
def test_however_a_step_is_cut(llama, monkeypatch, changes):
    agree(step(llama, monkeypatch, ALWAYS, rows(), **changes), step(llama, monkeypatch, NEVER, rows()))


def test_full_training_too(llama, monkeypatch):
    method = replace(LORA, type="full")
    agree(*(step(llama, monkeypatch, shared, rows(), method=method) for shared in (ALWAYS, NEVER)))


def test_what_begins_alike_stands_once():
    row = batch.pack(rows()[:3], "cpu")
    assert row.ids.tolist() == [[*SYSTEM, 60, 61, 62, 63, 64, 65, *QUESTION, 70, 71, 72, 80, 81, 82, 83]]
    assert row.segments == ((0, 26), (26, 41, 0, 20), (41, 45, 0, 20, 26, 38))
    assert row.positions[0, 26:].tolist() == [*range(20, 35), *range(32, 36)]
    assert row.picked.tolist() == [21, 22, 23, 24, 36, 37, 38, 39, 37, 41, 42, 43]
    assert row.owners.tolist() == [0] * 4 + [1] * 4 + [2] * 4


def test_one_token_at_least_is_each_text_s_own():
    row = batch.pack([text(0, SYSTEM), text(1, SYSTEM)], "cpu")
    assert row.segments == ((0, 20), (20, 21, 0, 19))


def test_few_tokens_are_not_shared():
    for size, segments in ((batch.SHARED - 1, 2), (batch.SHARED, 4)):
        row = batch.pack([text(0, range(size), [300]), text(1, range(size), [301])], "cpu")
        assert len(row.segments[1]) == segments


def test_a_gpu_gets_whole_rows_and_shared_pairs():
    found = batch.beginnings(rows(), apart=True)
    assert [size for _, size in found] == [0, 0, 0, 0, 0, 0, 0, 32, 0]


def test_a_step_computes_fewer_tokens():
    """Twenty rows of 40 tokens behind a system prompt of 200."""
    system = np.arange(300) % 250
    made = [text(n, system[:200], [n, *range(39)]) for n in range(20)]
    assert batch.pack(made, "cpu").ids.shape[1] == 200 + 20 * 40


def test_dropout_is_the_same_again(llama, monkeypatch):
    method = replace(LORA, dropout=0.3)
    one, other = (step(llama, monkeypatch, ALWAYS, rows(), method=method)[0] for _ in range(2))
    assert one == other


TREES = st.lists(st.lists(st.integers(0, 2), min_size=2, max_size=12), min_size=1, max_size=6)


@given(TREES)
def test_every_text_is_found_again(made):
    """Walking a text's parts of the packed row gives its tokens, and places count up from 0."""
    examples = [text(n, [token + 5 for token in ids], trained=1) for n, ids in enumerate(made)]
    before = batch.SHARED
    batch.SHARED = 2
    try:
        row = batch.pack(examples, "cpu")
    finally:
        batch.SHARED = before
    spent = 0
    for example, (start, end, *lead) in zip(examples, row.segments, strict=True):
        assert start == spent < end
        spent = end
        line = [place for a, b in zip(lead[::2], lead[1::2], strict=True) for place in range(a, b)]
        assert all(place < start for place in line)
        line += range(start, end)
        assert row.ids[0, line].tolist() == example.ids.tolist()
        assert row.positions[0, line].tolist() == list(range(example.tokens))
    assert row.ids.shape[1] == spent
    assert sorted({*row.picked.tolist()}) == row.wanted.tolist()


@pytest.mark.parametrize("mistake", ["positions", "lead", "picked"])
def test_the_comparison_notices(llama, monkeypatch, mistake):
    """What could go wrong: rests counted from 0, blind for their beginning, or read from the wrong place."""
    other = step(llama, monkeypatch, NEVER, rows())[0]
    wrong = mistaken(batch.pack, mistake, lambda row: row.picked - (row.owners > 2).long())
    monkeypatch.setattr("truetune.engines.torch.engine.pack", wrong)
    assert step(llama, monkeypatch, ALWAYS, rows())[0].loss != pytest.approx(other.loss, rel=1e-4)


def test_attention_over_a_tree_of_beginnings():
    """The third text begins with parts of the first and of the second."""
    segments = ((0, 6), (6, 9, 0, 4), (9, 13, 0, 4, 6, 8))
    x = torch.arange(13.0).reshape(1, 1, 13, 1)
    found = [part.flatten().tolist() for part in attention.seen(x, segments)]
    assert found == [[*range(6)], [0, 1, 2, 3, 6, 7, 8], [0, 1, 2, 3, 6, 7, 9, 10, 11, 12]]

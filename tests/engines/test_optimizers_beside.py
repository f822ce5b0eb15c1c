"""What goes beside the optimizer: noise on the embeddings, frozen layers, a running mean of the weights."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from safetensors.torch import load_file, save_file

from truetune.data.example import Example
from truetune.engines.base import EngineSpec, Method
from truetune.engines.torch import noise
from truetune.engines.torch.batch import pack, pad
from truetune.engines.torch.engine import TorchEngine
from truetune.errors import InputError, UsageError
from truetune.models import facts, memory
from truetune.testing import examples
from truetune.testing.contract import LORA

FULL = Method(type="full")
LR = 5e-3


def engine(folder, **changes):
    return TorchEngine(replace(EngineSpec(model=folder, method=LORA, token_budget=128), **changes))


def train(engine, steps):
    return [engine.step(engine.prepare(examples(seed=step)), LR) for step in steps]


def saved(engine, folder):
    folder.mkdir()
    engine.save(folder)
    return folder


def values(engine):
    return {name: value.detach().clone() for name, value in engine.parameters.items()}


def same(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


# NEFTune


@pytest.mark.parametrize("name", ["llama", "gemma3", "gptj"])
def test_noise_changes_a_step_and_no_measurement(models, name):
    plain, noisy = engine(models(name)), engine(models(name), neftune_alpha=20.0)
    rows = plain.prepare(examples())
    assert noisy.loss(rows) == plain.loss(rows)
    assert np.array_equal(noisy.scores(rows, base=True), plain.scores(rows, base=True))
    assert noisy.rehearse(rows).loss != plain.rehearse(rows).loss
    assert noisy.step(rows, 0.0).loss != noisy.step(rows, 0.0).loss
    assert noisy.loss(rows) == plain.loss(rows)


def test_a_prompt_that_stands_once_counts_to_both_answers():
    """A pair of 16 + 4 and 16 + 3 tokens: the second answer is in a text of 19, not of 3."""
    ids = np.concatenate((np.arange(20), np.arange(16), np.arange(30, 33))).astype(np.int32)
    pair = Example(ids, np.ones(39, np.float32), 0, second=20)
    packed = pack([pair, *examples(1)], "cpu")
    assert len(packed.segments[1]) == 4, "the prompt stands once"
    last = packed.ids.shape[1] - 23
    assert noise.lengths(packed)[0].tolist() == [20.0] * 20 + [19.0] * 3 + [float(last)] * last


@pytest.mark.parametrize("cut", [pack, pad])
def test_noise_is_that_of_the_paper(models, cut):
    """Within ± alpha / √(L d) and evenly, L being the length of each text by itself."""
    trained = engine(models("llama"), neftune_alpha=5.0)
    rows = examples(8)
    batch = cut(rows, "cpu")
    table = trained.model.get_input_embeddings()
    with trained.noise.on(batch):
        added = (table(batch.ids) - table.weight[batch.ids]).detach()
    assert torch.equal(table(batch.ids), table.weight[batch.ids])
    texts = added[0].split([row.tokens for row in rows]) if cut is pack else [*added]
    for text, row in zip(texts, rows, strict=True):
        most = 5.0 / (row.tokens * added.shape[-1]) ** 0.5
        text = text[: row.tokens]
        assert 0.9 * most < text.abs().max() <= most * (1 + 1e-5)
        assert float(text.std()) == pytest.approx(most / 3**0.5, rel=0.2)
        assert abs(float(text.mean())) < 0.2 * most


def test_noise_on_one_text_is_as_large_as_that_of_transformers(models):
    """Its hook and ours, from the same state of the generator."""
    from transformers.integrations.neftune import neftune_post_forward_hook

    trained = engine(models("llama"), neftune_alpha=5.0)
    batch = pad(examples(1), "cpu")
    module = torch.nn.Embedding(320, 32)
    module.neftune_noise_alpha = 5.0
    plain = module(batch.ids)
    torch.manual_seed(7)
    theirs = neftune_post_forward_hook(module.train(), (batch.ids,), plain) - plain
    with trained.noise.on(batch):
        torch.manual_seed(7)
        ours = trained.noise.add(module, (batch.ids,), plain) - plain
    assert torch.allclose(ours, theirs, atol=1e-7)


def test_the_lengths_are_those_of_the_texts():
    rows = examples(3)
    sizes = [row.tokens for row in rows]
    packed = noise.lengths(pack(rows, "cpu"))
    assert packed.shape == (1, sum(sizes)) and packed[0].tolist() == [float(s) for s in sizes for _ in range(s)]
    assert noise.lengths(pad(rows, "cpu"))[:, 0].tolist() == sizes


@pytest.mark.parametrize("method", [LORA, FULL], ids=["lora", "full"])
def test_noise_goes_on_bit_by_bit_after_a_restore(models, tmp_path, method):
    first, second = (engine(models("llama"), method=method, neftune_alpha=5.0) for _ in range(2))
    train(first, range(3))
    second.restore(saved(first, tmp_path / "3"))
    second.loss(second.prepare(examples(seed=9)))
    assert train(second, range(3, 6)) == train(first, range(3, 6))


# Frozen layers


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma3"])
def test_the_lowest_layers_and_the_embedding_stay(models, name):
    trained = engine(models(name), method=replace(FULL, frozen_layers=1))
    before = {key: value.detach().clone() for key, value in trained.model.named_parameters()}
    train(trained, range(2))
    moved = {key for key, value in trained.model.named_parameters() if not torch.equal(value, before[key])}
    stayed = before.keys() - moved
    assert moved == trained.parameters.keys()
    assert any(".layers.0." in key or ".h.0." in key for key in stayed)
    assert not any(".layers.0." in key or ".h.0." in key or "embed" in key or "wte" in key for key in moved)
    assert any(".layers.1." in key or ".h.1." in key for key in moved)
    assert not any(".layers.1." in key or ".h.1." in key for key in stayed)


def test_frozen_layers_have_no_moments_and_change_the_step(models, tmp_path):
    whole, part = engine(models("llama"), method=FULL), engine(models("llama"), method=replace(FULL, frozen_layers=1))
    first = [one.step(one.prepare(examples()), LR) for one in (whole, part)]
    assert first[0].loss == first[1].loss and first[0].grad_norm > first[1].grad_norm
    names = {key.partition(".")[2] for key in load_file(saved(part, tmp_path / "1") / "optimizer.safetensors")}
    assert names == part.parameters.keys() < dict(part.model.named_parameters()).keys()
    assert part.describe()["trained_parameters"] < whole.describe()["trained_parameters"]


@pytest.mark.parametrize("name", ["llama", "qwen3", "gemma3"])
def test_the_plan_counts_what_is_trained_above_frozen_layers(models, name):
    trained = engine(models(name), method=replace(FULL, frozen_layers=1)).describe()["trained_parameters"]
    setup = memory.Setup("full", frozen=1)
    assert memory.trained(facts.read(models(name)), setup) == pytest.approx(trained, rel=0.05)
    count = memory.estimate(facts.read(models(name)), setup, 10)
    whole = memory.estimate(facts.read(models(name)), replace(setup, frozen=0, moments=12.0), 10)
    assert count.gradients < whole.gradients and count.optimizer < whole.optimizer


def test_a_frozen_training_restores_and_exports_whole(models, tmp_path):
    method = replace(FULL, frozen_layers=1)
    first, second = (engine(models("llama"), method=method) for _ in range(2))
    train(first, range(3))
    second.restore(saved(first, tmp_path / "3"))
    assert train(second, range(3, 6)) == train(first, range(3, 6))
    (tmp_path / "model").mkdir()
    first.export(tmp_path / "model")
    again = engine(tmp_path / "model")
    rows = again.prepare(examples(seed=50))
    assert again.loss(rows).loss == pytest.approx(first.loss(rows).loss, rel=1e-6)


def test_more_layers_than_there_are_is_an_error(models):
    with pytest.raises(UsageError) as error:
        engine(models("llama"), method=replace(FULL, frozen_layers=99))
    assert error.value.finding.code == "method.too_few_layers"


# The running mean


def mean_by_hand(folder, steps, decay, **changes):
    """In float64, from the weights after each step of a training without a mean."""
    plain = engine(folder, **changes)
    found = {name: value.double() for name, value in values(plain).items()}
    for step in range(steps):
        train(plain, range(step, step + 1))
        keep = min(decay, (2 + step) / (11 + step))
        found = {name: keep * found[name] + (1 - keep) * value.double() for name, value in values(plain).items()}
    return plain, found


@pytest.mark.parametrize("decay", [0.3, 0.999])
def test_the_mean_is_measured_and_exported_and_the_training_goes_its_way(models, tmp_path, decay):
    folder = models("llama")
    plain, expected = mean_by_hand(folder, 4, decay)
    meaning = engine(folder, ema=decay)
    assert train(meaning, range(4)) == train(engine(folder), range(4))
    assert same(values(meaning), values(plain))
    with meaning.mean.shown():
        shown = values(meaning)
    assert all(torch.allclose(shown[name].double(), expected[name], atol=1e-7) for name in shown)
    assert same(values(meaning), values(plain))
    rows = meaning.prepare(examples(seed=50))
    assert meaning.loss(rows).loss != plain.loss(rows).loss
    assert not np.array_equal(meaning.scores(rows), plain.scores(rows))
    for name, one in (("mean", meaning), ("plain", plain)):
        (tmp_path / name).mkdir()
        one.export(tmp_path / name)
        assert engine(folder, adapter=tmp_path / name).loss(rows).loss == one.loss(rows).loss
    assert meaning.describe()["ema"] == decay and plain.describe()["ema"] is None


def test_before_the_first_step_the_mean_is_the_start(models):
    one, other = engine(models("llama"), ema=0.9), engine(models("llama"))
    rows = one.prepare(examples())
    assert one.loss(rows) == other.loss(rows)


@pytest.mark.parametrize("method", [LORA, FULL], ids=["lora", "full"])
def test_the_mean_goes_on_bit_by_bit_after_a_restore(models, tmp_path, method):
    first, second = (engine(models("llama"), method=replace(method, dropout=0.3), ema=0.7) for _ in range(2))
    train(first, range(3))
    second.restore(saved(first, tmp_path / "3"))
    assert train(second, range(3, 6)) == train(first, range(3, 6))
    rows = first.prepare(examples(seed=50))
    assert second.loss(rows) == first.loss(rows)
    assert same(first.mean.values, second.mean.values)


def test_a_checkpoint_holds_the_mean_where_others_look(models, tmp_path):
    """Its adapter is what was measured at that step."""
    first = engine(models("llama"), ema=0.7)
    train(first, range(3))
    rows = first.prepare(examples(seed=50))
    opened = engine(models("llama"), adapter=saved(first, tmp_path / "3"))
    assert opened.loss(rows).loss == first.loss(rows).loss


def test_a_step_that_asks_for_scores_asks_the_weights_as_they_are(models):
    trained = engine(models("llama"), ema=0.999)
    train(trained, range(3))
    rows = trained.prepare(examples(seed=50))
    mean = trained.scores(rows)
    with trained.mean.hidden():
        own = trained.scores(rows)
    plain = engine(models("llama"))
    train(plain, range(3))
    assert np.array_equal(own, plain.scores(rows)) and not np.array_equal(own, mean)


def cut_off(path):
    tensors = load_file(path)
    key = next(key for key in sorted(tensors) if key.startswith("mean."))
    save_file(tensors | {key: tensors[key].flatten()[:1].clone()}, path)


@pytest.mark.parametrize("damage", [cut_off, lambda path: path.unlink(), lambda path: path.write_bytes(b"\0" * 100)])
def test_a_damaged_mean_is_refused(models, tmp_path, damage):
    first = engine(models("llama"), ema=0.7)
    train(first, range(1))
    damage(saved(first, tmp_path / "1") / "mean.safetensors")
    with pytest.raises(InputError) as error:
        engine(models("llama"), ema=0.7).restore(tmp_path / "1")
    assert error.value.finding.code == "checkpoint.damaged"

"""Models that give scores: their heads, how they are cut into micro-batches, saved, read again; who else reads them."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from labelled import CLASSES, LORA, ONE, SEVERAL, rows, spec
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification

from truetune.engines.base import Method, Objective
from truetune.engines.torch.engine import TorchEngine
from truetune.errors import InputError

LR = 5e-3
FULL = Method(type="full")
WRITERS, READERS = ("llama", "gpt2", "gemma2", "gptj"), ("bert", "roberta", "deberta-v2", "modernbert", "distilbert")


def train(engine, steps=3, **kind):
    return [engine.step(engine.prepare(rows(8, seed=step, **kind)), LR) for step in range(steps)]


def own_scores(model, examples):
    """transformers' logits, one text at a time."""
    model.eval()
    found = []
    with torch.no_grad():
        for example in examples:
            ids = torch.tensor(example.ids.astype(np.int64))[None]
            kinds = torch.zeros_like(ids)
            if example.second:
                kinds[0, example.second :] = 1
            typed = getattr(model.config, "type_vocab_size", 0) > 1
            found.append(model(input_ids=ids, **({"token_type_ids": kinds} if typed else {})).logits[0].numpy())
    return np.array(found)


def test_new_tokens_beside_a_classifier_that_has_no_head_of_tokens(models, tmp_path):
    """Their rows of the embedding train; what is read again gives the same scores."""
    made = rows(8)
    for one in made:
        one.ids[1::3] = 5
    engine = TorchEngine(spec(models("llama"), new_tokens=(5,), token_budget=1000))
    before = engine.model.get_input_embeddings().weight.detach().clone()
    for _ in range(2):
        engine.step(engine.prepare(made), LR)
    moved = (engine.model.get_input_embeddings().weight.detach() - before).abs().sum(1).nonzero().flatten()
    assert moved.tolist() == [5]
    engine.export(tmp_path)
    again = TorchEngine(spec(models("llama"), new_tokens=(5,), token_budget=1000, adapter=tmp_path))
    assert np.allclose(engine.scores(engine.prepare(made)), again.scores(again.prepare(made)), atol=1e-6)


@pytest.mark.parametrize("name", [*WRITERS, *READERS])
def test_the_cut_changes_nothing_and_others_read_the_result(models, name, tmp_path):
    """All weights are trained: the result's scores are those of transformers' own class."""
    folder = models(name)
    alone, together = (TorchEngine(spec(folder, method=FULL, token_budget=budget)) for budget in (1, 1000))
    for one, other in zip(train(alone), train(together), strict=True):
        assert np.isclose(one.loss, other.loss, rtol=1e-5) and np.isclose(one.grad_norm, other.grad_norm, rtol=1e-4)
        assert (one.supervised, one.figures) == (8, other.figures)
    together.export(tmp_path)
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert list(again.config.id2label.values()) == list(CLASSES)
    held = rows(6, seed=9, pair=name == "bert")
    ours = together.scores(together.prepare(held))
    assert ours.shape == (6, 3) and np.abs(ours - own_scores(again, held)).max() < 1e-5


@pytest.mark.parametrize("name", ["llama", "gpt2", "bert", "roberta", "deberta-v2", "modernbert"])
def test_peft_reads_the_adapter_with_its_head(models, name, tmp_path):
    peft = pytest.importorskip("peft")
    engine = TorchEngine(spec(models(name)))
    train(engine)
    engine.export(tmp_path)
    held = rows(6, seed=9)
    ours = engine.scores(engine.prepare(held))

    def theirs():
        torch.manual_seed(5)  # what the base lacks is theirs to draw, and the adapter's to replace
        base = AutoModelForSequenceClassification.from_pretrained(models(name), num_labels=3, torch_dtype=torch.float32)
        base.config.pad_token_id = base.config.pad_token_id or 2
        return own_scores(peft.PeftModel.from_pretrained(base, tmp_path), held)

    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["task_type"] == "SEQ_CLS" and config["modules_to_save"]
    assert np.abs(ours - theirs()).max() < 1e-5
    # A head that is not saved is missed, and one of other numbers gives other scores.
    path = tmp_path / "adapter_model.safetensors"
    tensors = load_file(path)
    save_file({name: tensor if "lora_" in name else tensor + 0.1 for name, tensor in tensors.items()}, path)
    assert np.abs(ours - theirs()).max() > 1e-3
    save_file({name: tensor for name, tensor in tensors.items() if "lora_" in name}, path)
    with pytest.raises(KeyError):
        theirs()


@pytest.mark.parametrize("method", [LORA, FULL])
@pytest.mark.parametrize("name", ["llama", "bert"])
def test_restore_undoes_save(models, name, method, tmp_path):
    first, second = (TorchEngine(spec(models(name), method=replace(method, dropout=0.3))) for _ in range(2))
    train(first)
    first.save(tmp_path)
    second.restore(tmp_path)
    assert train(second) == train(first)


def test_a_training_goes_on_from_an_adapter(models, tmp_path):
    first = TorchEngine(spec(models("llama")))
    train(first)
    first.export(tmp_path)
    again = TorchEngine(spec(models("llama"), adapter=tmp_path))
    plan = again.prepare(rows(6, seed=9))
    assert np.array_equal(again.scores(plan), first.scores(plan))


def test_the_head_begins_the_same_everywhere_and_as_the_seed_says(models):
    one, same, other = (TorchEngine(spec(models("bert"), seed=seed)) for seed in (1, 1, 2))
    heads = [engine.model.classifier.weight for engine in (one, same, other)]
    assert torch.equal(heads[0], heads[1]) and not torch.equal(heads[0], heads[2])
    assert 0.01 < heads[0].std() < 0.03 and not one.model.classifier.bias.any()
    assert one.model.bert.pooler.dense.weight.requires_grad, "what the base lacks is trained"


def test_a_base_with_these_classes_keeps_its_head(models, tmp_path):
    engine = TorchEngine(spec(models("bert"), method=FULL))
    train(engine)
    engine.export(tmp_path)
    same = TorchEngine(spec(tmp_path))
    other = TorchEngine(spec(tmp_path, replace(ONE, classes=("x", "y", "z"))))
    more = TorchEngine(spec(tmp_path, replace(ONE, classes=("a", "b", "c", "d"))))
    trained = engine.model.classifier.weight
    assert torch.equal(same.model.classifier.weight, trained)
    assert not torch.equal(other.model.classifier.weight, trained) and more.model.classifier.weight.shape[0] == 4


def test_weights_that_are_missing_inside_are_an_error(models, tmp_path):
    (tmp_path / "config.json").write_bytes((models("bert") / "config.json").read_bytes())
    tensors = load_file(models("bert") / "model.safetensors")
    lost = next(name for name in tensors if "layer.1.attention" in name)
    save_file({name: tensor for name, tensor in tensors.items() if name != lost}, tmp_path / "model.safetensors")
    with pytest.raises(InputError, match="is missing"):
        TorchEngine(spec(tmp_path))


def test_only_the_past_and_the_own_text_are_scored(models):
    """A writer's score is that of the last token: a text's neighbours in the row change nothing, its end does."""
    engine = TorchEngine(spec(models("llama"), token_budget=1000))
    train(engine, 1)
    some = rows(5)
    together = engine.scores(engine.prepare(some))
    assert np.allclose(together[2:3], engine.scores(engine.prepare(some[2:3])), atol=1e-6)
    ids = some[2].ids.copy()
    ids[-1] += 1
    assert not np.allclose(together[2:3], engine.scores(engine.prepare([replace(some[2], ids=ids)])), atol=1e-4)


def test_which_text_of_a_pair_is_which_matters_to_bert(models):
    engine = TorchEngine(spec(models("bert")))
    (row,) = rows(1, pair=True)
    one, other = (engine.scores(engine.prepare([replace(row, second=at)])) for at in (row.second, row.second + 1))
    assert not np.allclose(one, other, atol=1e-5)


@pytest.mark.parametrize("objective", [ONE, SEVERAL])
def test_the_loss_is_the_formula(models, objective):
    """In float64, by hand; weights count, and the loss is divided by the rows."""
    several, weights = objective.several, (1.0, 2.0, 0.5)
    engine = TorchEngine(spec(models("llama"), replace(objective, class_weights=weights, threshold=0.4)))
    held = rows(12, several=several)
    plan = engine.prepare(held)
    scores = engine.scores(plan).astype(np.float64)
    shares = 1 / (1 + np.exp(-scores))
    losses, right = [], []
    for row, example in enumerate(held):
        if several:
            holds = np.isin(range(3), example.label)
            each = -np.where(holds, np.array(weights) * np.log(shares[row]), np.log(1 - shares[row]))
            losses.append(each.mean())
            right.append(bool(((shares[row] >= 0.4) == holds).all()))
        else:
            (label,) = example.label
            losses.append(weights[label] * (np.log(np.exp(scores[row]).sum()) - scores[row, label]))
            right.append(scores[row].argmax() == label)
    found = engine.loss(plan)
    assert np.isclose(found.loss, sum(losses), rtol=1e-5) and found.denominator == found.supervised == 12
    assert found.figures["accuracy"] == sum(right)
    plain = TorchEngine(spec(models("llama"), objective)).loss(plan)
    assert not np.isclose(plain.loss, found.loss, rtol=1e-3)


def test_a_row_may_have_no_class_at_all(models):
    engine = TorchEngine(spec(models("bert"), SEVERAL))
    none = [replace(example, label=()) for example in rows(4)]
    first = engine.step(engine.prepare(none), LR)
    assert first.supervised == 4 and engine.step(engine.prepare(none), LR).loss < first.loss


def test_reward_is_told_from_pairs(models):
    engine = TorchEngine(spec(models("gpt2"), Objective("reward")))
    pairs = []
    for one, other in zip(rows(8), rows(8, seed=1), strict=True):
        ids = np.concatenate((one.ids, other.ids))
        ids[1], ids[one.tokens + 1] = 11, 12
        weights = np.ones(len(ids), np.float32)
        weights[[0, one.tokens]] = 0
        pairs.append(replace(one, ids=ids, weights=weights, second=one.tokens, label=()))
    plan = engine.prepare(pairs)
    values = engine.scores(plan)
    assert values.shape == (8, 2)
    lead = (values[:, 0] - values[:, 1]).astype(np.float64)
    found = engine.loss(plan)
    assert np.isclose(found.loss, np.log1p(np.exp(-lead)).sum(), rtol=1e-5)
    assert np.isclose(found.figures["reward_margin"], lead.sum(), rtol=1e-4)
    for _ in range(8):
        last = engine.step(plan, 2e-2)
    assert last.loss < 0.3 * found.loss / 8 and last.figures["reward_accuracy"] == 1


@pytest.mark.parametrize("name", ["llama", "bert"])
def test_a_packed_base_has_a_head_that_is_not_packed(models, name, tmp_path):
    pytest.importorskip("bitsandbytes")
    method = replace(LORA, type="qlora", bits=4)
    engine = TorchEngine(spec(models(name), method=method))
    losses = [engine.step(engine.prepare(rows(8)), LR).loss for _ in range(4)]
    assert losses[-1] < losses[0] and engine.changed()[0] == engine.changed()[1]
    engine.export(tmp_path)
    again = TorchEngine(spec(models(name), method=method, adapter=tmp_path))
    plan = again.prepare(rows(6, seed=9))
    assert np.array_equal(again.scores(plan), engine.scores(plan))


def test_a_head_on_a_base_of_fewer_bits_is_float32(models):
    engine = TorchEngine(spec(models("llama"), dtype="bfloat16"))
    assert engine.model.score.weight.dtype == torch.float32 and engine.model.model.norm.weight.dtype == torch.bfloat16
    first = engine.step(engine.prepare(rows(8)), LR)
    assert engine.step(engine.prepare(rows(8)), LR).loss < first.loss

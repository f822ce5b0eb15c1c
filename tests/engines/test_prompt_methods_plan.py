"""Prompt methods and IA³ before a run: what is counted, what is refused, and what the guide promises."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("peft")

from truetune.engines import prompts
from truetune.engines.base import EngineSpec, Method
from truetune.engines.torch.engine import TorchEngine
from truetune.errors import ResourceError, UsageError
from truetune.models import facts, fit, memory

VIRTUAL = 4
EVERY = (*prompts.PROMPTS, "ia3")


@pytest.mark.parametrize(
    ("virtual", "longest", "changes", "code"),
    [
        (20, 100, {}, ""),
        (20, 500, {}, "method.no_room"),
        (20, 100, {"sliding_window": 20}, "method.no_room"),
        (20, 100, {"model_type": "mamba"}, "method.not_for_model"),
    ],
)
def test_what_a_model_cannot_do_is_refused(llama, virtual, longest, changes, code):
    known = replace(facts.read(llama), **changes)
    prompts.refuse("lora", virtual, known, longest)
    if not code:
        return prompts.refuse("prefix", virtual, known, longest)
    with pytest.raises(UsageError) as error:
        prompts.refuse("prefix", virtual, known, longest)
    assert error.value.code == code
    return None


@pytest.mark.parametrize(
    ("virtual", "longest", "hint"),
    [
        (100, 500, "Set method.virtual_tokens to 12 or less, or data.max_length to 412 or less."),
        (600, 100, "Set method.virtual_tokens to 412 or less."),
        (20, 600, "Set data.max_length to 492 or less."),
        (600, 600, "Set both data.max_length and method.virtual_tokens lower."),
    ],
)
def test_what_is_advised_makes_room(llama, virtual, longest, hint):
    known = replace(facts.read(llama), positions=512)
    with pytest.raises(UsageError) as error:
        prompts.refuse("prefix", virtual, known, longest)
    assert error.value.hint == hint


def test_without_peft_the_extra_is_named(llama, monkeypatch):
    monkeypatch.setattr(prompts, "find_spec", lambda name: None)
    prompts.refuse("lora", VIRTUAL, facts.read(llama), 100)
    for kind in EVERY:
        with pytest.raises(ResourceError) as error:
            prompts.refuse(kind, VIRTUAL, facts.read(llama), 100)
        assert error.value.code == "method.not_installed"
        assert "truetune[peft]" in error.value.hint


def test_a_head_is_not_theirs(llama):
    for objective in prompts.HEADED:
        with pytest.raises(UsageError) as error:
            prompts.refuse("ia3", VIRTUAL, facts.read(llama), 100, objective)
        assert error.value.code == "method.not_for_objective"


@pytest.mark.parametrize("kind", EVERY)
@pytest.mark.parametrize("hidden", [None, 8])
def test_what_is_trained_is_counted_before(llama, kind, hidden):
    one = TorchEngine(EngineSpec(llama, Method(type=kind, virtual_tokens=VIRTUAL, encoder_hidden=hidden)))
    setup = memory.Setup(kind, virtual=VIRTUAL, encoder=hidden)
    assert memory.trained(facts.read(llama), setup) == one.describe()["trained_parameters"]


def test_smaller_micro_batches_in_place_of_checkpointing(llama):
    """Where other methods compute activations again, a prefix takes fewer tokens at once, and says so."""
    known = replace(facts.read(llama), layers=24, hidden=1024, intermediate=4096, heads=16, kv_heads=16, head_dim=64)
    setup = memory.Setup("ptuning_v2", virtual=VIRTUAL, packed=False)
    case = fit.Case(known, setup, 250, int(memory.estimate(known, setup, 300).total / fit.SHARE) + 1)
    found = fit.budget(case)
    assert found.tokens >= 250 and not found.checkpointing
    assert "in place of gradient checkpointing, which ptuning_v2 rules out" in found.reason
    tight = replace(case, longest=found.tokens + 50)
    with pytest.raises(ResourceError):
        fit.budget(tight)
    lora = replace(tight, setup=replace(tight.setup, method="prompt"))
    assert fit.budget(lora).checkpointing


def test_the_guide_names_the_models():
    text = (Path(__file__).parents[2] / "docs" / "guide" / "prompt-methods.md").read_text("utf-8")
    named = text.partition("## Models")[2].partition("\n\n")[2].partition("\n\n")[2].partition("\n\n")[0]
    assert named.replace("\n", " ").split(", ") == sorted(prompts.TESTED)

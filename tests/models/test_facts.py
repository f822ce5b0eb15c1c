"""Facts from configs in the words of many architectures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from truetune.errors import InputError
from truetune.models import facts

LLAMA = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 3,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "vocab_size": 100,
    "max_position_embeddings": 512,
}
GPT2 = {
    "model_type": "gpt2",
    "architectures": ["GPT2LMHeadModel"],
    "n_embd": 64,
    "n_layer": 3,
    "n_head": 8,
    "n_inner": None,
    "n_positions": 1024,
    "vocab_size": 100,
}


def read(tmp_path: Path, config: dict[str, Any]) -> facts.Facts:
    (tmp_path / "config.json").write_text(json.dumps(config))
    arrays = {"embed.weight": np.zeros((100, 64), np.float16), "norm.weight": np.zeros(64, np.float32)}
    save_file(arrays, tmp_path / "model.safetensors")
    return facts.read(tmp_path)


def test_llama(tmp_path: Path) -> None:
    found = read(tmp_path, LLAMA)
    assert (found.hidden, found.layers, found.heads, found.kv_heads, found.head_dim) == (64, 3, 8, 2, 8)
    assert (found.intermediate, found.gated, found.vocabulary, found.positions) == (160, True, 100, 512)
    assert (found.tied, found.causal, found.sliding_window) == (False, True, None)
    assert (found.parameters, found.dtype) == (100 * 64 + 64, "F16")
    assert found.layer_parameters == 64 * (2 * 64 + 2 * 16) + 3 * 64 * 160


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"model_type": "mistral", "sliding_window": 128}, {"sliding_window": 128}),
        ({"model_type": "qwen2", "sliding_window": 128, "use_sliding_window": False}, {"sliding_window": None}),
        ({"model_type": "qwen3", "head_dim": 32}, {"head_dim": 32}),
        ({"model_type": "gemma2", "head_dim": 16, "sliding_window": 64}, {"tied": True, "sliding_window": 64}),
        ({"model_type": "phi3", "num_key_value_heads": None}, {"kv_heads": 8, "gated": True}),
        ({"model_type": "falcon", "multi_query": True, "num_key_value_heads": None}, {"kv_heads": 1}),
        ({"tie_word_embeddings": True}, {"tied": True}),
    ],
)
def test_relatives_of_llama(changes: dict[str, Any], expected: dict[str, Any], tmp_path: Path) -> None:
    found = read(tmp_path, LLAMA | changes)
    assert {name: getattr(found, name) for name in expected} == expected


@pytest.mark.parametrize(
    "config",
    [
        GPT2,
        GPT2 | {"model_type": "gptj", "architectures": ["GPTJForCausalLM"]},
        LLAMA
        | {"model_type": "gpt_neox", "architectures": ["GPTNeoXForCausalLM"], "intermediate_size": 256}
        | {"num_key_value_heads": None, "max_position_embeddings": 1024},
    ],
)
def test_gpt_style_names(config: dict[str, Any], tmp_path: Path) -> None:
    found = read(tmp_path, config)
    assert (found.hidden, found.layers, found.heads, found.kv_heads) == (64, 3, 8, 8)
    assert (found.intermediate, found.gated, found.positions, found.causal) == (256, False, 1024, True)
    assert found.tied == (config["model_type"] == "gpt2")


def test_bert_is_read_but_not_causal(tmp_path: Path) -> None:
    found = read(tmp_path, LLAMA | {"model_type": "bert", "architectures": ["BertForMaskedLM"]})
    assert not found.causal
    assert not found.gated


def test_the_language_part_of_a_larger_model(tmp_path: Path) -> None:
    outer = {"model_type": "gemma3", "architectures": ["Gemma3ForConditionalGeneration"], "vision_config": {}}
    found = read(tmp_path, outer | {"text_config": LLAMA | {"model_type": "gemma3_text"}})
    assert (found.hidden, found.model_type) == (64, "gemma3_text")


@pytest.mark.parametrize("key", ["hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size"])
@pytest.mark.parametrize("value", [None, 0, "many"])
def test_a_config_that_does_not_say_its_sizes(key: str, value: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=key) as caught:
        read(tmp_path, LLAMA | {key: value})
    assert caught.value.finding.code == "model.bad_config"

"""Parameters counted from config.json alone are those that the model has."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from truetune.models import counting

PUBLISHED: dict[str, tuple[int, dict[str, Any]]] = {
    "Llama-3-8B": (8_030_261_248, {
        "model_type": "llama", "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32,
        "num_key_value_heads": 8, "intermediate_size": 14336, "vocab_size": 128256, "tie_word_embeddings": False,
    }),
    "Mistral-7B": (7_241_732_096, {
        "model_type": "mistral", "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32,
        "num_key_value_heads": 8, "intermediate_size": 14336, "vocab_size": 32000, "tie_word_embeddings": False,
    }),
    "Mixtral-8x7B": (46_702_792_704, {
        "model_type": "mixtral", "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32,
        "num_key_value_heads": 8, "intermediate_size": 14336, "vocab_size": 32000, "num_local_experts": 8,
        "tie_word_embeddings": False,
    }),
    "Qwen2.5-0.5B": (494_032_768, {
        "model_type": "qwen2", "hidden_size": 896, "num_hidden_layers": 24, "num_attention_heads": 14,
        "num_key_value_heads": 2, "intermediate_size": 4864, "vocab_size": 151936, "tie_word_embeddings": True,
    }),
    "Qwen3-0.6B": (596_049_920, {
        "model_type": "qwen3", "hidden_size": 1024, "num_hidden_layers": 28, "num_attention_heads": 16,
        "num_key_value_heads": 8, "head_dim": 128, "intermediate_size": 3072, "vocab_size": 151936,
        "tie_word_embeddings": True, "attention_bias": False,
    }),
    "gemma-2-2b": (2_614_341_888, {
        "model_type": "gemma2", "hidden_size": 2304, "num_hidden_layers": 26, "num_attention_heads": 8,
        "num_key_value_heads": 4, "head_dim": 256, "intermediate_size": 9216, "vocab_size": 256000,
    }),
    "Phi-3-mini": (3_821_079_552, {
        "model_type": "phi3", "hidden_size": 3072, "num_hidden_layers": 32, "num_attention_heads": 32,
        "num_key_value_heads": 32, "intermediate_size": 8192, "vocab_size": 32064, "tie_word_embeddings": False,
    }),
    "gpt2": (124_439_808, {
        "model_type": "gpt2", "n_embd": 768, "n_layer": 12, "n_head": 12, "n_positions": 1024, "vocab_size": 50257,
    }),
}  # fmt: skip
"""What the hub says of them, and what their config.json does."""

TINY: dict[str, Any] = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 512, "pad_token_id": 0, "eos_token_id": 1,
}  # fmt: skip
SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
EXPERTS = {"num_experts": 4, "moe_intermediate_size": 16, "num_experts_per_tok": 2}
BUILT: dict[str, tuple[str, dict[str, Any]]] = {
    "llama-biased": ("llama", TINY | {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True}),
    "qwen3-biased": ("qwen3", TINY | {"head_dim": 8, "attention_bias": True}),
    "mixtral": ("mixtral", TINY | {"num_local_experts": 4, "num_experts_per_tok": 2}),
    "qwen2_moe": ("qwen2_moe", TINY | EXPERTS | {"shared_expert_intermediate_size": 24, "decoder_sparse_step": 2}),
    "qwen3_moe": ("qwen3_moe", TINY | EXPERTS | {"head_dim": 8, "mlp_only_layers": [0]}),
    "falcon": ("falcon", SMALL),
    "falcon-new": ("falcon", SMALL | {"new_decoder_architecture": True, "num_kv_heads": 2}),
    "opt": ("opt", SMALL | {"ffn_dim": 64, "word_embed_proj_dim": 32, "max_position_embeddings": 512}),
    "starcoder2": ("starcoder2", TINY),
    "stablelm": ("stablelm", TINY | {"use_qkv_bias": True}),
    "gpt_neo": (
        "gpt_neo",
        {"hidden_size": 32, "num_layers": 2, "num_heads": 4, "attention_types": [[["global", "local"], 1]]},
    ),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_models(tmp_path: Path, name: str) -> None:
    number, values = PUBLISHED[name]
    (tmp_path / "config.json").write_text(json.dumps(values))
    assert counting.sketch(tmp_path).parameters == number


def test_every_build_equals_the_model_that_transformers_makes(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    import torch
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM

    from truetune.engines.torch import tiny

    seen = set()
    for name, (kind, settings) in (tiny.ARCHITECTURES | BUILT).items():
        config = CONFIG_MAPPING[kind](**{"vocab_size": 320, **settings})
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
        config.save_pretrained(tmp_path / name)
        found = counting.sketch(tmp_path / name)
        assert found.parameters == sum(parameter.numel() for parameter in model.parameters()), name
        assert counting.known(kind)
        seen.add(kind)
    assert seen == counting.BUILDS.keys() - {"ministral"}  # Mistral's by another name


def test_an_unknown_type_is_counted_about(tmp_path: Path) -> None:
    values = PUBLISHED["Llama-3-8B"][1] | {"model_type": "brandnew"}
    (tmp_path / "config.json").write_text(json.dumps(values))
    assert counting.sketch(tmp_path).parameters == PUBLISHED["Llama-3-8B"][0]
    assert not counting.known("brandnew")

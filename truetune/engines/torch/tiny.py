"""Tiny random models of real architectures, seeded and untrained, for the contract suite and tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, AutoModelForMaskedLM

VOCAB = 320
LLAMA = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
}
GPT2 = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 512, "resid_pdrop": 0, "embd_pdrop": 0, "attn_pdrop": 0}
PHI = {key: value for key, value in LLAMA.items() if key != "num_key_value_heads"}
FALCON = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 512}
FALCON |= {"hidden_dropout": 0, "attention_dropout": 0}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}

ARCHITECTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", LLAMA),
    "mistral-window": ("mistral", LLAMA | {"sliding_window": 6}),
    "qwen2": ("qwen2", LLAMA),
    "qwen3": ("qwen3", LLAMA | {"head_dim": 8}),
    "gemma": ("gemma", LLAMA | {"head_dim": 8}),
    "gemma2": ("gemma2", LLAMA | {"head_dim": 8, "sliding_window": 6, "query_pre_attn_scalar": 8}),
    "gemma3": ("gemma3_text", LLAMA | {"head_dim": 8, "num_hidden_layers": 6, "sliding_window": 6}),
    "phi3": ("phi3", LLAMA | {"pad_token_id": 0, "eos_token_id": 1}),
    "phi": ("phi", PHI | {"partial_rotary_factor": 0.5}),
    "gpt2": ("gpt2", GPT2),
    "gpt_neox": ("gpt_neox", PHI),
    "olmo2": ("olmo2", LLAMA | {"pad_token_id": 0, "eos_token_id": 1}),
    "smollm3": ("smollm3", LLAMA | {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1}),
    "granite": ("granite", LLAMA | {"logits_scaling": 2.0}),
    "gptj": ("gptj", {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 512, "rotary_dim": 4}),
    "mistral": ("mistral", LLAMA | {"sliding_window": None}),
    "phi4": ("phi3", LLAMA | {"pad_token_id": 0, "eos_token_id": 1, "partial_rotary_factor": 0.75}),
    "falcon": ("falcon", FALCON),
    "falcon-new": ("falcon", FALCON | {"num_kv_heads": 2, "new_decoder_architecture": True, "bias": True}),
    "mixtral": ("mixtral", LLAMA | {"num_local_experts": 4, "num_experts_per_tok": 2}),
    "qwen2_moe": ("qwen2_moe", LLAMA | EXPERTS | {"shared_expert_intermediate_size": 24}),
    "qwen3_moe": ("qwen3_moe", LLAMA | EXPERTS | {"head_dim": 8}),
}
"""Name -> (model type, configuration). `granite` and `gptj` stand for those that train padded."""

BERT = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "hidden_dropout_prob": 0,
    "attention_probs_dropout_prob": 0,
}
MODERN = {
    "bos_token_id": 2,
    "cls_token_id": 2,
    "eos_token_id": 3,
    "sep_token_id": 3,
    "local_attention": 8,
    "max_position_embeddings": 512,
}
DISTIL = {"dim": 32, "hidden_dim": 64, "n_layers": 2, "n_heads": 4, "pad_token_id": 0}
DISTIL |= {"dropout": 0, "attention_dropout": 0, "seq_classif_dropout": 0}
RELATIVE = {"relative_attention": True, "position_buckets": 16, "pos_att_type": ["c2p", "p2c"], "type_vocab_size": 0}
ENCODERS: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("bert", BERT),
    "roberta": ("roberta", BERT | {"pad_token_id": 1, "type_vocab_size": 1}),
    "deberta-v2": ("deberta-v2", BERT | RELATIVE),
    "modernbert": ("modernbert", BERT | MODERN),
    "distilbert": ("distilbert", DISTIL),
}
"""Those that read and do not write, with heads for masked words."""


def make(folder: Path, architecture: str = "llama", *, seed: int = 0, **overrides: Any) -> Path:
    """Write a tiny model (config.json, model.safetensors) of an architecture into `folder`; returns the folder."""
    kind, settings = (ARCHITECTURES | ENCODERS)[architecture]
    task = AutoModelForMaskedLM if architecture in ENCODERS else AutoModelForCausalLM
    config = CONFIG_MAPPING[kind](**({"vocab_size": VOCAB} | settings | overrides))
    torch.manual_seed(seed)
    model = task.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            scale = 0.02 if "norm" in name or "ln_" in name else 0.08
            parameter.add_(torch.randn(parameter.shape) * scale)
    model.save_pretrained(folder)
    return folder

"""The same function, written so that customary learning rates fit.

Learning rates such as 2e-4 suit models thousands wide; one of width 256 wants about ten times more, since a weight's
update moves its output by the width times the learning rate (Yang et al. 2022, arXiv 2203.03466). Instead of asking
for other settings, the starter carries the factor itself: norms and the inner activations are scaled up, the weights
that read them scaled down. With a power of two this is exact even in bf16: the model computes what it did before.
"""

from __future__ import annotations

import torch
from transformers import LlamaForCausalLM

FACTOR = 8.0


@torch.no_grad()
def scale(model: LlamaForCausalLM, factor: float = FACTOR) -> None:
    """Scale every layer in place. `v_proj` and `up_proj` keep their weights: their outputs carry the factor on."""
    for layer in model.model.layers:
        for norm in (layer.input_layernorm, layer.post_attention_layernorm):
            norm.weight *= factor
        attention, mlp = layer.self_attn, layer.mlp
        for linear in (attention.q_proj, attention.k_proj, attention.o_proj, mlp.gate_proj, mlp.down_proj):
            linear.weight /= factor

"""An adapter from disk folded into its base, whatever method made it: PEFT does the folding, in float32.

A packed base is unpacked first: the adapter was trained on what the packed weights read back as, not on the original
ones, and packing the sum again would round the adapter away. PEFT takes seconds to import, so this stands apart.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from peft import PeftModel
from torch import nn

from truetune.engines.base import EngineSpec, Method
from truetune.engines.torch import merge, model, tokens


@torch.no_grad()
def folded(base: Path, adapter: Path, *, bits: int = 0, rows: int = 0) -> nn.Module:
    """The model in float32 with the adapter in it. `bits` packs the base as it was for training, `rows` are those its
    embedding needs at least. Raises as `model.load`, and what PEFT raises for files that are not of this base."""
    plain = merge.merge(model.load(EngineSpec(model=base, method=Method(bits=bits))))
    tokens.grow(plain, rows)
    with warnings.catch_warnings():  # PEFT asks transformers by a name that is to go: nothing that a user can mend
        warnings.simplefilter("ignore", FutureWarning)
        return PeftModel.from_pretrained(plain, str(adapter), trust_remote_code=False).merge_and_unload(safe_merge=True)

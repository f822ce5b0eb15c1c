"""transformers, and PEFT over it, as programs that an export is for: their own loaders, tokenizer and generation."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from peft import PeftModel

from truetune.errors import InputError
from truetune.export.runtime import Ids, Logs, Messages, Refused, Runtime
from truetune.models.template import LARGEST

hf: Any = transformers
"""Half of it is untyped."""
SETTINGS = "generation_config.json"
PACKING: dict[int, dict[str, Any]] = {
    4: {
        "load_in_4bit": True,
        "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_use_double_quant": True,
        "bnb_4bit_compute_dtype": torch.float32,
    },
    8: {"load_in_8bit": True},
}
"""Bits of a packed base -> bitsandbytes' settings, as the training packs it."""


class Transformers(Runtime):
    """A whole model in a folder, or with `base` an adapter in PEFT's layout over its base, in float32.

    Raises InputError `export.unloadable` where transformers or PEFT does not load it.
    """

    def __init__(self, folder: Path, base: Path | None = None, bits: int = 0, rows: int = 0) -> None:
        """`bits`: of a base that is packed while it loads; `rows`: those that its embedding needs at least."""
        hf.utils.logging.set_verbosity_error()
        hf.utils.logging.disable_progress_bar()
        self.name = "PEFT" if base else "transformers"
        try:
            self.tokenizer = hf.AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
            packing = {"quantization_config": hf.BitsAndBytesConfig(**PACKING[bits])} if bits else {}
            how = {"dtype": torch.float32, "local_files_only": True, **packing}
            model = hf.AutoModelForCausalLM.from_pretrained(base or folder, trust_remote_code=False, **how)
            exact(model)
            if rows > model.get_input_embeddings().weight.shape[0]:
                model.resize_token_embeddings(rows, mean_resizing=False)
            own = settings(folder)
            self.settings = own or model.generation_config
            model.generation_config = hf.GenerationConfig()  # what it leaves out would be put into every other one
            self.model = (adapted(model, folder) if base else model).eval()
        except (MemoryError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # files can be wrong in any way that these libraries may meet
            raise unloadable(self.name, folder, error) from error

    def ids(self, messages: Messages) -> list[int]:
        if sum(len(one["content"]) for one in messages) > LARGEST:
            raise Refused("it is too long")
        try:
            found = self.tokenizer.apply_chat_template(
                list(map(dict, messages)), add_generation_prompt=True, tokenize=True, return_dict=False
            )
        except Exception as error:  # a template raises what it likes
            raise Refused(str(error)) from error
        return list(map(int, found))

    def encode(self, text: str) -> list[int]:
        return list(map(int, self.tokenizer(text, add_special_tokens=False)["input_ids"]))

    def ends(self) -> frozenset[int]:
        found = self.settings.eos_token_id
        return frozenset(found if isinstance(found, list) else [] if found is None else [found])

    def stops(self, ids: Ids, token: int) -> bool:
        """By `generate` under the settings that the folder brings."""
        forced = hf.LogitsProcessorList([OneToken(token)])
        how = {"do_sample": False, "max_new_tokens": 3, "logits_processor": forced}
        return len(self.generate(ids, generation_config=self.settings, **how)) == 1

    def answer(self, ids: Ids, limit: int) -> list[int]:
        return self.generate(ids, generation_config=hf.GenerationConfig(do_sample=False, max_new_tokens=limit))

    def generate(self, ids: Ids, **how: Any) -> list[int]:
        prompt = torch.tensor([list(ids)])
        with torch.no_grad():
            found = self.model.generate(input_ids=prompt, attention_mask=torch.ones_like(prompt), **how)
        return [int(token) for token in found[0, len(ids) :]]

    def logs(self, texts: Sequence[Ids]) -> list[Logs]:
        with torch.no_grad():  # virtual tokens give logits, too
            return [
                self.model(input_ids=torch.tensor([list(ids)])).logits[0, -len(ids) :].float().log_softmax(-1).numpy()
                for ids in texts
            ]

    def close(self) -> None:
        del self.model


def adapted(model: Any, folder: Path) -> Any:
    """PEFT over a model. It asks transformers by a name that is to go: nothing that a user can mend."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return PeftModel.from_pretrained(model, str(folder), trust_remote_code=False)


def settings(folder: Path) -> Any:
    """How a folder wants answers to be drawn; None where it does not say."""
    if not (folder / SETTINGS).is_file():
        return None
    return hf.GenerationConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)


def exact(model: Any) -> None:
    """Have bitsandbytes' layers compute in float32 here, too; on some processors they answer in bfloat16."""
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


class OneToken(transformers.LogitsProcessor):
    """One token, whatever the model says."""

    def __init__(self, token: int) -> None:
        self.token = token

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        found = torch.full_like(scores, float("-inf"))
        found[:, self.token] = 0
        return found


def unloadable(name: str, folder: Path, error: Exception) -> InputError:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return InputError(
        f"{name} does not load the export: {lines[0] if lines else type(error).__name__}",
        code="export.unloadable",
        where=str(folder),
        hint="Nothing was written. Check that what you export loads by itself: ft chat.",
    )

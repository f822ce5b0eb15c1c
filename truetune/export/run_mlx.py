"""mlx_lm as the program that an export is for: its own loaders, tokenizer and generation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from mlx_lm import utils
from mlx_lm.generate import generate_step, stream_generate
from mlx_lm.tuner.utils import load_adapters

from truetune.engines.mlx import device
from truetune.errors import InputError
from truetune.export.origin import Origin
from truetune.export.runtime import Ids, Logs, Messages, Refused, Runtime

tokenizer_of: Any = utils.load_tokenizer


def trained(origin: Origin) -> MlxLm:
    """The trained side of an adapter that mlx_lm made."""
    return MlxLm(origin.side.model, origin.side.adapter)


class MlxLm(Runtime):
    """A model's folder, with an adapter in mlx_lm's layout over it. `exact`: in float32, else in the number type of the
    stored weights, as mlx_lm does by itself. Tokenizer, template and ends are the model's: an adapter brings none.

    Raises InputError `adapter.mismatch` where mlx_lm does not take the adapter, `export.unloadable` for a model.
    """

    name = "mlx_lm"

    def __init__(self, model: Path, adapter: Path | None = None, exact: bool = True) -> None:
        self.model = opened(model, adapter, exact)
        ends = listed(utils.load_config(model).get("eos_token_id"))
        self.tokenizer = tokenizer_of(model, eos_token_ids=ends)

    def ids(self, messages: Messages) -> list[int]:
        try:
            found = self.tokenizer.apply_chat_template(list(map(dict, messages)), add_generation_prompt=True)
        except Exception as error:  # a template raises what it likes
            raise Refused(str(error)) from error
        return list(map(int, found))

    def encode(self, text: str) -> list[int]:
        return list(map(int, self.tokenizer.encode(text, add_special_tokens=False)))

    def ends(self) -> frozenset[int]:
        return frozenset(self.tokenizer.eos_token_ids)

    def stops(self, ids: Ids, token: int) -> bool:
        def forced(tokens: mx.array, logits: mx.array) -> mx.array:
            return mx.where((mx.arange(logits.shape[-1]) == token)[None], 0.0, -1e9)

        prompt = list(ids)
        *_, last = stream_generate(self.model, self.tokenizer, prompt, max_tokens=3, logits_processors=[forced])
        return bool(last.finish_reason == "stop" and last.generation_tokens == 1)

    def answer(self, ids: Ids, limit: int) -> list[int]:
        return [int(token) for token, _ in generate_step(mx.array(list(ids)), self.model, max_tokens=limit)]

    def logs(self, texts: Sequence[Ids]) -> list[Logs]:
        return [logs(self.model(mx.array([list(ids)]))[0].astype(mx.float32)) for ids in texts]

    def close(self) -> None:
        del self.model
        mx.clear_cache()


def opened(folder: Path, adapter: Path | None, exact: bool) -> Any:
    """mlx_lm's own model, on the CPU."""
    device.use("cpu")
    try:
        model, _ = utils.load_model(folder)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RuntimeError, OSError) as error:
        raise InputError(
            f"mlx_lm does not load this model ({last(error)})",
            code="export.unloadable",
            where=str(folder),
            hint="Nothing was written. Use another format: --format merged, or peft.",
        ) from error
    try:
        model = load_adapters(model, str(adapter)) if adapter else model
    except (ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise InputError(
            f"mlx_lm does not load this adapter over this model ({last(error)})",
            code="adapter.mismatch",
            where=str(adapter),
            hint="Name the model that the adapter was trained on.",
        ) from error
    if exact:
        model.set_dtype(mx.float32)
    model.eval()
    return model


def last(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[-1].strip()


def logs(logits: mx.array) -> Logs:
    return np.array(logits - mx.logsumexp(logits, -1, keepdims=True))


def listed(ids: int | list[int] | None) -> list[int]:
    return ids if isinstance(ids, list) else [] if ids is None else [ids]

"""Which optimizer runs where, asked before anything is loaded."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.util import find_spec

from truetune.engines.base import Method
from truetune.errors import ResourceError

PACKED = ("adamw_8bit", "paged_adamw", "paged_adamw_8bit")
"""Those of bitsandbytes."""
MLX = ("adamw", "adafactor", "lion", "sgd")
"""Those that MLX has and computes as torch does."""

KEPT = {"adamw": 8.0, "adamw_8bit": 2.04, "adafactor": 0.1, "lion": 4.0, "muon": 4.0, "sgd": 4.0}
"""Bytes that each keeps of a trained number, about; what is paged makes room where room is wanted."""


def kept(name: str, *, mean: bool = False) -> float:
    """Bytes that a training keeps of a trained number, beside it and its gradient; `mean` is the running one."""
    return KEPT.get(name, 0.0) + 4 * mean


def rates(parameters: Iterable[str], method: Method) -> dict[str, float]:
    """Shares of the learning rate that are not 1, by PEFT's names. LoRA+ (Hayou et al. 2024, arXiv 2402.12354): B
    learns `lora_plus` times as fast as A."""
    return {name: method.lora_plus for name in parameters if method.lora_plus and ".lora_B." in name}


def refuse_optimizer(name: str, device: str) -> None:
    """Raises ResourceError `device.optimizer` where the device has no such thing, `engine.not_installed` where the
    library is missing."""
    if name not in PACKED:
        return
    if device == "mps":
        what = f"{name} runs on CUDA and on the processor, not on mps"
        raise refused(what, "Write `optimizer: adafactor`, which needs little memory too, or `optimizer: adamw`.")
    if name.startswith("paged") and not device.startswith("cuda"):
        what = f"{name} moves what a GPU does not hold into the host's memory, and the device is {device}"
        raise refused(what, f"Write `optimizer: {name.removeprefix('paged_')}`, the same without paging.")
    if find_spec("bitsandbytes") is None:
        raise ResourceError(
            f"{name} needs bitsandbytes, which is not installed",
            code="engine.not_installed",
            where="training.optimizer",
            hint='Install it: pip install "truetune[qlora]"; or write `optimizer: adamw`.',
        )


def refused(what: str, hint: str) -> ResourceError:
    return ResourceError(what, code="device.optimizer", where="training.optimizer", hint=hint)

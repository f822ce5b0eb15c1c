"""The torch engine: transformers' models, LoRA layers of our own, on CUDA and the CPU (Apple's `mps` is untested)."""

from truetune.engines.torch.config import ignored
from truetune.engines.torch.decode import open_decoder
from truetune.engines.torch.device import Choice, choose, free
from truetune.engines.torch.distributions import distributions
from truetune.engines.torch.engine import open_engine
from truetune.engines.torch.model import packs
from truetune.engines.torch.reading import open_reader

__all__ = [
    "Choice",
    "choose",
    "distributions",
    "free",
    "ignored",
    "open_decoder",
    "open_engine",
    "open_reader",
    "packs",
]

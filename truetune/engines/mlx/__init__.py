"""The MLX engine: mlx_lm's models, LoRA layers of our own, on Apple's GPU (untested) and on CPUs."""

from truetune.engines.mlx import blas, exchange
from truetune.engines.mlx.decode import open_decoder
from truetune.engines.mlx.device import choose, free
from truetune.engines.mlx.distributions import distributions
from truetune.engines.mlx.engine import open_engine
from truetune.engines.mlx.family import ignored, lacks, packs

__all__ = [
    "blas",
    "choose",
    "distributions",
    "exchange",
    "free",
    "ignored",
    "lacks",
    "open_decoder",
    "open_engine",
    "packs",
]

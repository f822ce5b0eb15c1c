"""Shipped with TrueTune: what a third-party engine is held against."""

from truetune.testing.contract import EngineContract, examples
from truetune.testing.decoder import DecoderContract

__all__ = ["DecoderContract", "EngineContract", "examples"]

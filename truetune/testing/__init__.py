"""Shipped with TrueTune: what a third-party engine is held against."""

from truetune.testing.contract import EngineContract, examples

__all__ = ["EngineContract", "examples"]

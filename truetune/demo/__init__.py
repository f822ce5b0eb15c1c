"""The rows and settings of `ft demo`; `examples/support` links here."""

from pathlib import Path

FOLDER = Path(__file__).parent

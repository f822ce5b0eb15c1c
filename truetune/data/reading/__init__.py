"""What stands behind `readers`: files as streams of UTF-8, and the values, tables and texts in them.

Libraries that only some kinds of files need are imported here, when the first such file is read.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

from truetune.errors import InputError

EXTRAS = {"pyarrow": "tables", "trafilatura": "html"}
"""Which extra of this package brings a library."""


def library(module: str, path: Path) -> Any:
    """A module of a library that reading this file needs. Raises InputError (`data.not_installed`)."""
    try:
        return import_module(module)
    except ImportError as error:
        name = module.partition(".")[0]
        raise InputError(
            f"this file needs {name}, which is not installed",
            code="data.not_installed",
            where=str(path),
            hint=f"pip install 'truetune[{EXTRAS[name]}]'",
        ) from error

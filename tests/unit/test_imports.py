"""What a start costs: the help and `import truetune` import none of the heavy libraries."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import truetune
from truetune import api

HEAVY = ["torch", "transformers", "numpy", "pydantic", "rich", "fastapi", "tokenizers", "ruamel"]

HELP = "from truetune.cli import run; assert run(['--help']) == 0"
VERSION = "from truetune.cli import run; assert run(['--version']) == 0"
LIBRARY = "import truetune; dir(truetune); truetune.__version__"
TOKENIZER = "import truetune.models.tokenizer"


def loaded(code: str) -> set[str]:
    """Top-level names of `sys.modules` after `code` ran in a process of its own."""
    script = f"{code}\nimport sys; print(*{{name.partition('.')[0] for name in sys.modules}}, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return set(done.stderr.split())


@pytest.mark.parametrize("code", [HELP, VERSION, LIBRARY])
def test_nothing_heavy_is_imported(code: str) -> None:
    assert loaded(code).isdisjoint(HEAVY)


def test_the_assertion_can_fail() -> None:
    assert not loaded("import numpy").isdisjoint(HEAVY)


def test_tokenising_needs_no_torch() -> None:
    assert loaded(TOKENIZER).isdisjoint({"torch", "transformers"})


def test_the_verbs_of_python_exist_and_editors_know_them() -> None:
    source = Path(truetune.__file__).read_text("utf-8")
    named = set(re.findall(r"^    from ([\w.]+) import (\w+) as \2$", source, re.MULTILINE))
    assert named == {(module, name) for name, module in (api.VERBS | api.TOOLS).items()}
    assert all(inspect.isfunction(api.load(name)) for name in api.VERBS)
    assert all(inspect.isclass(api.load(name)) for name in api.TOOLS)

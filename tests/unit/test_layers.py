"""The architecture, held by reading the sources: layers, framework rooms, and calls that nobody may make.

Each rule is a function from a module to its violations, and each has snippets that it must catch and must let pass.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "truetune"

ORDER = [
    {"errors", "paths", "listener", "demo"},
    {"plugins"},
    {"config"},
    {"models"},
    {"data"},
    {"engines"},
    {"runs"},
    {"train"},
    {"evaluate"},
    {"augment"},
    {"report"},
    {"registry"},
    {"tune"},
    {"export", "serve", "jobs"},
    {"api"},
    {"cli", "dashboard"},
    {"testing"},
    {"__init__", "__main__"},
]
"""A package imports from those above it. The last row is the root's own two files, which only open the doors."""

ROOMS = {
    "torch": ("engines/torch/", "export/"),
    "transformers": ("engines/torch/", "export/"),
    "peft": ("engines/torch/", "export/"),
    "bitsandbytes": ("engines/torch/", "export/"),
    "accelerate": ("engines/torch/", "export/"),
    "mlx": ("engines/mlx/", "export/"),
    "mlx_lm": ("engines/mlx/", "export/"),
    "fastapi": ("serve/", "dashboard/"),
    "starlette": ("serve/", "dashboard/"),
    "ray": ("jobs/",),
    "trl": (),
    "requests": (),
    "httpx": (),
    "httpx2": ("augment/",),
    "urllib.request": (),
    "http.client": ("data/remote.py", "engines/gguf/worker.py", "export/gguf/worker.py", "serve/client.py"),
    "gguf": ("export/",),
    "xllamacpp": ("engines/gguf/worker.py", "export/gguf/worker.py"),
    "llama_cpp": ("export/gguf/quantiser.py",),
}
"""The only places a framework may be imported in; the tools of the network have none."""

LAZY = (
    "cli/__init__.py",
    "engines/__init__.py",
    "data/reading/__init__.py",
    "api/",
    "engines/torch/methods/__init__.py",
    "engines/torch/quantised.py",
    "engines/torch/liger.py",
    "engines/torch/varlen.py",
    "engines/torch/optimizers.py",
)
"""Where a function may import: the tables of verbs, of engines, of methods and of readers' libraries, the bodies of the
verbs, bitsandbytes and a GPU's kernels, which are not everywhere, and Adafactor, which takes a second."""

UNSAFE_MODULES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
UNSAFE_MODULES |= {"code", "codeop", "ftplib", "pty", "runpy", "smtplib", "telnetlib", "xmlrpc"}
UNSAFE_CALLS = {
    "eval",
    "exec",
    "__import__",
    "builtins.eval",
    "builtins.exec",
    "os.system",
    "os.popen",
    "os.path.expandvars",
    "subprocess.getoutput",
    "subprocess.getstatusoutput",
    "asyncio.create_subprocess_shell",
    "importlib.util.spec_from_file_location",
    "torch.load",
    "torch.jit.load",
    "torch.hub.load",
    "np.load",
    "numpy.load",
    "pandas.read_pickle",
    "pd.read_pickle",
    "yaml.load",
    "yaml.unsafe_load",
    "tempfile.mktemp",
    "jinja2.Template",
    "jinja2.Environment",
    "Environment",
    "SandboxedEnvironment",
}


UNSAFE_ENDS = (".extractall", ".unpack_archive", ".expandvars")
UNSAFE_STARTS = ("os.exec", "os.spawn", "os.posix_spawn")


@dataclass(frozen=True)
class Module:
    file: str
    """Path below truetune/, `runs/status.py`."""
    tree: ast.Module

    @property
    def unit(self) -> str:
        """The package, or the module that stands beside the packages."""
        return self.file.split("/")[0].removesuffix(".py")


def parse(file: str, source: str) -> Module:
    return Module(file, ast.parse(source))


def imports(module: Module) -> Iterator[tuple[int, str]]:
    """Line and full name of all that is imported, by statement or by `import_module("…")`."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = module.file.split("/")[: -node.level] if node.level else []
            above = ".".join(["truetune", *package]) + "." if node.level else ""
            yield from (
                (node.lineno, f"{above}{node.module or ''}.{alias.name}".replace("..", ".")) for alias in node.names
            )
        elif isinstance(node, ast.Call) and dotted(node.func).endswith("import_module"):
            first = node.args[0]
            if isinstance(first, ast.Constant):
                yield node.lineno, str(first.value)


def dotted(node: ast.expr) -> str:
    """`a.b.c` of a name or attribute; of anything else `?`."""
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else "?"


def layers(module: Module) -> Iterator[str]:
    """Imports go to the left only."""
    ranks = {unit: rank for rank, units in enumerate(ORDER) for unit in units}
    if module.unit not in ranks:
        yield f"{module.file}: `{module.unit}` has no place in the order of the packages"
        return
    for line, name in imports(module):
        parts = name.split(".")
        if parts[0] != "truetune" or len(parts) < 2:
            continue
        unit = parts[1]
        if unit in ranks and unit != module.unit and ranks[unit] >= ranks[module.unit]:
            yield f"{module.file}:{line}: {module.unit} may not import {unit}"


def rooms(module: Module) -> Iterator[str]:
    """A framework is imported in its own room."""
    for line, name in imports(module):
        for framework, places in ROOMS.items():
            if f"{name}.".startswith(f"{framework}.") and not module.file.startswith(places):
                yield f"{module.file}:{line}: {framework} may not be imported here"


def environment(module: Module) -> Iterator[str]:
    """Only paths.py reads environment variables."""
    if module.file == "paths.py":
        return
    names = {"os.environ", "os.environb", "os.getenv", "os.putenv"}
    yield from (f"{module.file}:{line}: {name}" for line, name in imports(module) if name in names)
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Attribute) and dotted(node) in names:
            yield f"{module.file}:{node.lineno}: {dotted(node)}"


def lazy(module: Module) -> Iterator[str]:
    """Imports stand at the top of a file, but for these places."""
    if module.file.startswith(LAZY):
        return
    for node in ast.walk(module.tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            for inner in ast.walk(node):
                late = isinstance(inner, ast.Call) and dotted(inner.func).endswith(("import_module", "__import__"))
                if late or isinstance(inner, (ast.Import, ast.ImportFrom)):
                    yield f"{module.file}:{inner.lineno}: import inside a function"


def unsafe(module: Module) -> Iterator[str]:
    """No pickle, no code out of data, no shell, no archive that leaves its folder."""
    for line, name in imports(module):
        whole = {name, name.split(".")[0], ".".join(name.split(".")[:2])}
        if whole & (UNSAFE_MODULES | UNSAFE_CALLS) or name.startswith(UNSAFE_STARTS):
            yield f"{module.file}:{line}: {name}"
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Call):
            name = dotted(node.func)
            if name in UNSAFE_CALLS or name.endswith(UNSAFE_ENDS) or name.startswith(UNSAFE_STARTS):
                yield f"{module.file}:{node.lineno}: {name}()"
            if name.endswith(".from_pretrained") and "trust_remote_code" not in {word.arg for word in node.keywords}:
                yield f"{module.file}:{node.lineno}: {name}() without trust_remote_code=False"
            for keyword in node.keywords:
                yield from unsafe_keyword(module, keyword)


def unsafe_keyword(module: Module, keyword: ast.keyword) -> Iterator[str]:
    value = keyword.value.value if isinstance(keyword.value, ast.Constant) else ...
    if (
        (keyword.arg in {"shell", "allow_pickle", "trust_remote_code"} and value is not False)
        or (keyword.arg == "weights_only" and value is not True)
        or (keyword.arg == "typ" and value == "unsafe")
    ):
        yield f"{module.file}:{keyword.lineno}: {keyword.arg}={ast.unparse(keyword.value)}"


RULES: list[Callable[[Module], Iterator[str]]] = [layers, rooms, environment, lazy, unsafe]

BAD = [
    (layers, "config/load.py", "from truetune.data import readers"),
    (layers, "config/load.py", "import truetune.runs.status"),
    (layers, "errors.py", "from truetune import paths"),
    (layers, "runs/run.py", "from ..train import loop"),
    (layers, "runs/run.py", "from .. import train"),
    (layers, "data/a.py", "def f():\n    from truetune.engines import base"),
    (layers, "data/a.py", "importlib.import_module('truetune.cli')"),
    (layers, "serve/app.py", "from truetune.export import gguf"),
    (layers, "api/train.py", "from truetune.testing import tiny"),
    (layers, "misc.py", ""),
    (rooms, "train/loop.py", "import torch"),
    (rooms, "engines/base.py", "from torch import nn"),
    (rooms, "api/doctor.py", "def f():\n    import torch.cuda"),
    (rooms, "models/tokenizer.py", "from transformers import AutoTokenizer"),
    (rooms, "engines/torch/lora.py", "import trl"),
    (rooms, "engines/torch/lora.py", "import mlx.core as mx"),
    (rooms, "cli/ui.py", "from fastapi import FastAPI"),
    (rooms, "tune/study.py", "import ray"),
    (rooms, "models/source.py", "from urllib.request import urlopen"),
    (rooms, "cli/chat.py", "import httpx2"),
    (rooms, "api/doctor.py", "importlib.import_module('torch')"),
    (environment, "cli/train.py", "import os\nos.environ['A']"),
    (environment, "cli/train.py", "import os\nos.getenv('A')"),
    (environment, "cli/train.py", "from os import environ"),
    (lazy, "train/loop.py", "def f():\n    import json"),
    (lazy, "train/loop.py", "class A:\n    def f(self):\n        from a import b"),
    (lazy, "train/loop.py", "def f():\n    importlib.import_module(name)"),
    (lazy, "cli/train.py", "async def f():\n    import json"),
    (unsafe, "runs/run.py", "import pickle"),
    (unsafe, "runs/run.py", "from pickle import loads"),
    (unsafe, "runs/run.py", "eval(text)"),
    (unsafe, "runs/run.py", "exec(text)"),
    (unsafe, "runs/run.py", "subprocess.run(line, shell=True)"),
    (unsafe, "runs/run.py", "subprocess.run(line, shell=flag)"),
    (unsafe, "runs/run.py", "os.system(line)"),
    (unsafe, "runs/run.py", "yaml.load(text)"),
    (unsafe, "runs/run.py", "from yaml import load"),
    (unsafe, "runs/run.py", "YAML(typ='unsafe')"),
    (unsafe, "engines/torch/x.py", "torch.load(file, weights_only=True)"),
    (unsafe, "engines/torch/x.py", "load(file, weights_only=False)"),
    (unsafe, "engines/torch/x.py", "AutoModel.from_pretrained(p, trust_remote_code=True)"),
    (unsafe, "engines/torch/x.py", "AutoModel.from_pretrained(p, trust_remote_code=spec.trust)"),
    (unsafe, "data/x.py", "np.load(file, allow_pickle=True)"),
    (unsafe, "data/x.py", "archive.extractall(folder)"),
    (unsafe, "runs/run.py", "__import__(name)"),
    (unsafe, "runs/run.py", "builtins.exec(text)"),
    (unsafe, "runs/run.py", "from builtins import eval"),
    (unsafe, "runs/run.py", "os.popen(line)"),
    (unsafe, "runs/run.py", "from os import system"),
    (unsafe, "runs/run.py", "os.execvp(name, line)"),
    (unsafe, "runs/run.py", "from os import spawnl"),
    (unsafe, "runs/run.py", "subprocess.getoutput(line)"),
    (unsafe, "runs/run.py", "asyncio.create_subprocess_shell(line)"),
    (unsafe, "runs/run.py", "import marshal"),
    (rooms, "runs/run.py", "import http.client"),
    (unsafe, "runs/run.py", "runpy.run_path(name)\nimport runpy"),
    (unsafe, "runs/run.py", "importlib.util.spec_from_file_location(name, path)"),
    (unsafe, "runs/run.py", "shutil.unpack_archive(file)"),
    (unsafe, "runs/run.py", "tempfile.mktemp()"),
    (unsafe, "config/load.py", "os.path.expandvars(text)"),
    (unsafe, "config/load.py", "path.expandvars(text)"),
    (unsafe, "config/load.py", "yaml.unsafe_load(text)"),
    (unsafe, "data/x.py", "np.load(file)"),
    (unsafe, "data/x.py", "pd.read_pickle(file)"),
    (unsafe, "engines/torch/x.py", "torch.jit.load(file)"),
    (unsafe, "engines/torch/x.py", "torch.hub.load(name)"),
    (unsafe, "engines/torch/x.py", "AutoModel.from_pretrained(p)"),
    (unsafe, "models/template.py", "from jinja2 import Environment"),
    (unsafe, "models/template.py", "jinja2.Template(text)"),
    (unsafe, "models/template.py", "SandboxedEnvironment()"),
]

GOOD = [
    (layers, "cli/train.py", "from truetune.api.train import train"),
    (layers, "runs/run.py", "from . import status\nfrom truetune import paths, __version__\nfrom .. import errors"),
    (layers, "__init__.py", "from truetune import api"),
    (rooms, "engines/torch/lora.py", "import torch\nfrom transformers import AutoModel"),
    (rooms, "data/x.py", "import torchlight\nfrom truetune.engines.torch import x"),
    (environment, "paths.py", "import os\nos.environ['A']"),
    (environment, "runs/run.py", "import os\nos.replace(a, b)\nself.environ"),
    (lazy, "cli/__init__.py", "def f():\n    import json"),
    (lazy, "api/train.py", "def f():\n    import json"),
    (lazy, "data/x.py", "if TYPE_CHECKING:\n    import json"),
    (unsafe, "engines/torch/x.py", "model.eval()\nAutoModel.from_pretrained(p, trust_remote_code=False)"),
    (unsafe, "models/template.py", "from jinja2.sandbox import ImmutableSandboxedEnvironment\nre.compile('a')"),
    (unsafe, "runs/run.py", "subprocess.run(['ls'], shell=False)\norjson.loads(b)\nYAML(typ='rt').load(text)"),
]


def sources() -> list[Module]:
    return [parse(str(path.relative_to(PACKAGE)), path.read_text("utf-8")) for path in sorted(PACKAGE.rglob("*.py"))]


@pytest.mark.parametrize("rule", RULES)
def test_the_tree_keeps_the_rule(rule: Callable[[Module], Iterator[str]]) -> None:
    assert [violation for module in sources() for violation in rule(module)] == []


@pytest.mark.parametrize(("rule", "file", "source"), BAD)
def test_the_rule_catches(rule: Callable[[Module], Iterator[str]], file: str, source: str) -> None:
    assert list(rule(parse(file, source)))


@pytest.mark.parametrize(("rule", "file", "source"), GOOD)
def test_the_rule_lets_pass(rule: Callable[[Module], Iterator[str]], file: str, source: str) -> None:
    assert list(rule(parse(file, source))) == []


def test_every_rule_is_shown_to_catch() -> None:
    assert {rule for rule, _, _ in BAD} == set(RULES) == {rule for rule, _, _ in GOOD}

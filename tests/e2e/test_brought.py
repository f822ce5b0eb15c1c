"""The package that docs/extending.md shows, made from its code as it stands there and really installed, through the
real command: its rows, its objective, its method and its model type in one run."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from real_ft import Ft

pytest.importorskip("torch")

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs" / "extending.md"
RUN: dict[str, Any] = {
    "model": "./ticket",
    "data": {"path": "rows.jsonl", "format": "ticket"},
    "method": {"type": "orthogonal", "r": 4},
    "training": {"objective": "focal", "max_steps": 3, "epochs": 9, "gradient_accumulation_steps": 1},
    "preference": {"margin": 2},
    "evaluation": {"samples": 1},
    "resources": {"memory": "2GB"},
}


def site(folder: Path) -> Path:
    """The package of the docs, as pip would lay it out."""
    text = DOCS.read_text("utf-8")
    modules = dict(re.findall(r"```python\n# (\w+\.py)\n(.*?)```", text, re.DOTALL))
    assert len(modules) == text.count("```python") == 6
    info = folder / "tickets-1.0.dist-info"
    info.mkdir(parents=True)
    for name, code in modules.items():
        (folder / name).write_text(code)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: tickets\nVersion: 1.0\n")
    blocks = re.findall(r'```toml\n\[project\.entry-points\."([\w.]+)"\]\n(.*?)```', text, re.DOTALL)
    (info / "entry_points.txt").write_text("".join(f"[{name}]\n{body}".replace('"', "") for name, body in blocks))
    return folder


def model(folder: Path) -> None:
    """The starter as a model of the type that the package brings."""
    shutil.copytree(ROOT / "truetune" / "models" / "starter", folder)
    body = json.loads((folder / "config.json").read_text())
    body |= {"model_type": "ticket", "architectures": ["TicketForCausalLM"]}
    (folder / "config.json").write_text(json.dumps(body))


@pytest.fixture
def ft(tmp_path: Path) -> Ft:
    made = Ft(tmp_path / "work")
    model(made.folder / "ticket")
    rows = [{"ticket": {"asks": f"What is code {n}?", "gets": f"Code {n} is part {n * 7 % 13}."}} for n in range(24)]
    made.write("rows.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    made.config(**RUN)
    return made


def installed(ft: Ft) -> None:
    ft.env["PYTHONPATH"] = str(site(ft.folder.parent / "site"))


@pytest.mark.slow
def test_a_run_with_everything_from_a_package(ft: Ft) -> None:
    installed(ft)
    done = ft("train", "--json")
    assert done.code == 0, done.out + done.err
    run = ft.run()
    values = json.loads((run / "resolved.json").read_text())["config"]
    assert (values["training"]["objective"], values["method"]["type"]) == ("focal", "orthogonal")
    assert values["data"]["format"] == "ticket"
    receipt = json.loads((run / "receipts" / "train.json").read_text())
    assert receipt["supervised"]["promised"] == receipt["supervised"]["counted"] > 0
    steps = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in steps if line["kind"] == "train"]
    assert len(steps) == 3 and all(0 < line["known"] < 1 for line in steps)
    adapter = json.loads((run / "adapter" / "adapter_config.json").read_text())
    assert sorted(adapter["target_modules"]) == ["q_proj", "v_proj"]
    assert ft("receipt", "verify", "last", "--json").code == 0
    checked = ft("evaluate", "last", "--json")
    assert checked.code == 0, checked.out + checked.err
    schema = ft("config", "schema")
    assert "focal" in schema.out and "orthogonal" in schema.out


@pytest.mark.slow
def test_its_method_begins_at_right_angles_and_its_loss_is_the_formula(ft: Ft) -> None:
    """Of the first step, and only with the package: a process that sees it, so that nothing of it stays here."""
    installed(ft)
    code = """
import torch
from pathlib import Path
from truetune.engines.base import EngineSpec, Method, Objective
from truetune.engines.torch.engine import TorchEngine
from truetune.testing import examples
spec = EngineSpec(model=Path("ticket"), method=Method(type="orthogonal", r=4), objective=Objective("focal", margin=2.0))
engine, plain = TorchEngine(spec), TorchEngine(EngineSpec(model=Path("ticket")))
for name, one in engine.parameters.items():
    if name.endswith("lora_A.weight"):
        assert torch.allclose(one @ one.t(), torch.eye(4), atol=1e-5)
rows = examples(2)
batches = [next(plain._batches(plain.prepare([row]))) for row in rows]
with torch.no_grad():
    logps = [plain.forward.logps(batch) for batch in batches]
wanted = sum(float((-((1 - l.exp()) ** 2) * l * b.weights).sum()) for l, b in zip(logps, batches))
found = engine.loss(engine.prepare(rows)).loss
assert abs(found - wanted) < 1e-4 * wanted, (found, wanted)
assert engine.describe()["micro_batches"] == "packed" and len(engine.adapted.layers) == 8
"""
    done = ft.python(code)
    assert done.code == 0, done.err


@pytest.mark.slow
def test_without_the_package(ft: Ft) -> None:
    """Each name is an error of its own, without a traceback."""
    done = ft("train", "--json")
    assert done.code == 2 and "Traceback" not in done.err
    assert "config.choice" in done.out + done.err
    ft.config(**{**RUN, "method": {}, "training": {}, "preference": {}, "data": "rows.jsonl"})
    done = ft("train", "--json")
    assert done.code == 3 and "data.unknown_format" in done.out + done.err
    ft.rows(24)
    done = ft("train", "--json")
    assert done.code == 3 and "model.unloadable" in done.out + done.err
    assert "Traceback" not in done.out + done.err and "ticket" in done.out + done.err

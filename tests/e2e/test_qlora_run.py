"""QLoRA with the real `ft` on a processor: train, kill, resume, prove, evaluate, ask, export, and use without us."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest
from real_ft import Ft, kill, ready, started

pytestmark = pytest.mark.slow
pytest.importorskip("bitsandbytes")

SECTIONS = {
    "method": {"type": "qlora", "dropout": 0.05},
    "training": {"max_steps": 12, "epochs": 20},
    "evaluation": {"every": "6 steps", "samples": 1},
    "checkpoints": {"every": "3 steps", "keep": 2},
    "resources": {"memory": "3GB", "device": "cpu"},
}


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Ft:
    ft = ready(tmp_path_factory.mktemp("straight"), **SECTIONS)
    said = ft("train", "-q")
    assert said.code == 0, said.err
    return ft


def figures(folder: Path) -> dict[tuple[str, int], float]:
    """Every loss by kind and step; where a step was done twice, the later attempt counts."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {(row["kind"], row["step"]): row["loss"] for row in rows if "loss" in row}


def test_killed_and_resumed_it_is_the_straight_run(straight: Ft, tmp_path: Path) -> None:
    ft = ready(tmp_path, **SECTIONS)
    kill(started(ft))
    said = ft("train", "train.yml", "--resume")
    assert said.code == 0, said.err
    assert figures(ft.run()) == figures(straight.run())
    file = Path("adapter") / "adapter_model.safetensors"
    assert (ft.run() / file).read_bytes() == (straight.run() / file).read_bytes()
    assert ft("receipt", "verify", "last").code == 0


def losses(ft: Ft, *args: str) -> dict[str, float]:
    """Held-out loss of base and tuned."""
    said = ft("evaluate", *args, "--no-generate", "--json")
    assert said.code == 0, said.err
    return {side: figure["value"] for side, figure in said.document["figures"]["loss"].items() if side in SIDES}


SIDES = ("base", "tuned")


def test_it_is_measured_and_asked_beside_the_packed_base(straight: Ft) -> None:
    trained = json.loads((straight.run() / "receipts" / "eval.json").read_text())
    found = losses(straight, "last")
    assert found == {side: pytest.approx(trained[side]["loss"], rel=1e-5) for side in SIDES}
    assert found["tuned"] < found["base"]
    assert straight("test", "last", "What does code 3 mean?").out.strip()


def test_a_copied_adapter_finds_its_packed_base(straight: Ft) -> None:
    """Its file notes the bits; where it lies does not matter."""
    for path in (straight.run() / "adapter").iterdir():
        straight.write(f"copied/{path.name}", path.read_bytes())
    rows = ("--data", "rows.jsonl")
    assert losses(straight, "./copied", *rows) == pytest.approx(losses(straight, "last", *rows), rel=1e-6)


def test_exports_are_held_against_the_packed_base(straight: Ft) -> None:
    said = straight("export", "last", "--format", "peft", "--json")
    assert said.code == 0, said.err
    assert said.document["parity"]["ok"]
    refused = straight("export", "last", "--format", "mlx", "--json")
    assert json.loads(refused.out)["error"]["code"] == "export.packed"


def test_the_cards_program_runs(straight: Ft) -> None:
    """transformers and PEFT alone, over the base packed as the card says."""
    pytest.importorskip("peft")
    card = (straight.run() / "adapter" / "README.md").read_text()
    program = re.search(r"```python\n(.*?)```", card, re.DOTALL)
    assert program and "BitsAndBytesConfig(load_in_4bit=True" in program[1]
    code = program[1].replace('"..."', '"What does code 3 mean?"')
    folder = str(straight.run() / "adapter")
    done = straight.python(code.replace('folder = "adapter"', f"folder = {folder!r}"))
    assert done.code == 0, done.err
    assert done.out.strip()


@pytest.mark.parametrize(
    ("method", "code"),
    [({"type": "lora", "bits": 4}, "config.contradiction"), ({"type": "qlora", "bits": 3}, "config.")],
)
def test_what_contradicts_itself_is_refused(tmp_path: Path, method: dict[str, object], code: str) -> None:
    said = ready(tmp_path, **SECTIONS | {"method": method})("train", "--json")
    assert said.code == 2
    assert code in json.dumps(said.document if "error" not in said.out else json.loads(said.out))


def test_eight_bits_train_too(tmp_path: Path) -> None:
    ft = ready(tmp_path, **SECTIONS | {"method": {"type": "qlora", "bits": 8}, "training": {"max_steps": 3}})
    said = ft("train", "--json")
    assert said.code == 0, said.err
    assert json.loads((ft.run() / "resolved.json").read_text())["config"]["method"]["bits"] == 8


def test_without_the_library_it_says_what_to_install(tmp_path: Path) -> None:
    ft = ready(tmp_path, **SECTIONS)
    code = (
        "import sys, importlib.util as u; find = u.find_spec\n"
        "u.find_spec = lambda name, *rest: None if name == 'bitsandbytes' else find(name, *rest)\n"
        "from truetune.cli import run; sys.exit(run(['train', '--json']))"
    )
    done = subprocess.run(
        ["env", *(f"{key}={value}" for key, value in ft.env.items()), *python(), "-c", code],
        cwd=tmp_path, text=True, capture_output=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 4, done.stderr
    error = json.loads(done.stdout)["error"]
    assert error["code"] == "engine.not_installed" and "truetune[qlora]" in error["hint"]
    assert not ft.runs()


def python() -> list[str]:
    import sys

    return [sys.executable]

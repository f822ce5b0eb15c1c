"""A secret goes to the hub and nowhere else: not to the screen, a run, a receipt, an error or a traceback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

CANARIES = {"HF_TOKEN": "hf_CanaryOfTheEnvironment", "TRUETUNE_API_KEY": "tt_CanaryOfTheEnvironment"}
FILED = {"huggingface": {"token": "hf_CanaryOfTheFile"}, "server": {"api_key": "tt_CanaryOfTheFile"}}
TRAIN = {"model": "starter", "data": "rows.jsonl", "training": {"max_steps": 1}}
ERRORS = {
    "no such model": TRAIN | {"model": "nobody/nothing-at-all"},
    "no such file": TRAIN | {"data": "none.jsonl"},
    "unknown key": TRAIN | {"taining": {}},
    "wrong value": TRAIN | {"training": {"max_steps": "hf_many"}},
    "no such template": TRAIN | {"data": {"path": "rows.jsonl", "template": "none.jinja"}},
    "bad rows": TRAIN | {"data": "passwords.yml"},
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    row = '{"prompt": "What is %d?", "completion": "It is %d."}\n'
    (tmp_path / "rows.jsonl").write_text("".join(row % (number, number) for number in range(24)))
    (tmp_path / "passwords.yml").write_text(json.dumps(FILED))
    (tmp_path / "passwords.yml").chmod(0o600)
    return tmp_path


def run(folder: Path, *line: str, environment: bool = True) -> str:
    """All that a command says."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("TRUETUNE", "HF_"))}
    kept |= CANARIES if environment else {}
    kept |= {"TRUETUNE_HOME": str(folder / "home"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "truetune", *line]
    done = subprocess.run(command, cwd=folder, env=kept, capture_output=True, timeout=600)
    return (done.stdout + done.stderr).decode()


def traces(folder: Path, said: str) -> list[str]:
    """Where a canary was found: in what was said, or in a file that is not the user's own."""
    places = {"output": said.encode()}
    for path in folder.rglob("*"):
        if path.is_file() and path.name != "passwords.yml":
            places[path.relative_to(folder).as_posix()] = path.read_bytes()
    return [name for name, data in places.items() if b"Canary" in data]


@pytest.mark.parametrize("environment", [True, False])
@pytest.mark.parametrize("case", ERRORS)
def test_errors_do_not_tell(case: str, environment: bool, folder: Path) -> None:
    (folder / "train.yml").write_text(json.dumps(ERRORS[case]))
    said = run(folder, "train", "--debug", environment=environment)
    said += run(folder, "train", "--dry-run", "--json", environment=environment)
    assert said and traces(folder, said) == []


@pytest.mark.parametrize(
    "text",
    ["huggingface: hf_Canary: [", "huggingface:\n  token: [hf_Canary]\n"],
)
def test_a_file_of_secrets_that_cannot_be_read_is_not_shown(text: str, folder: Path) -> None:
    (folder / "train.yml").write_text(json.dumps(TRAIN | {"model": "nobody/nothing-at-all"}))
    (folder / "passwords.yml").write_text(text)
    said = run(folder, "train", "--debug", environment=False)
    assert "passwords.yml" in said and traces(folder, said) == []


@pytest.mark.slow
@pytest.mark.parametrize("environment", [True, False])
def test_a_training_keeps_them(environment: bool, folder: Path) -> None:
    (folder / "train.yml").write_text(json.dumps(TRAIN | {"resources": {"device": "cpu"}}))
    said = run(folder, "train", "--json", "--debug", environment=environment)
    said += run(folder, "receipt", "show", "--json", environment=environment) + run(folder, "doctor", "--json")
    assert list((folder / "runs").glob("*/adapter/adapter_model.safetensors"))
    assert traces(folder, said) == []

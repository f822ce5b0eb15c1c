"""Hostile models and adapters through `ft chat` and `ft evaluate`: refused with a code and exit 3, never a traceback;
where a folder can be used, what is hostile in it has no effect."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hostile import CASES, Case, copy, pickled, program, put
from safetensors.numpy import save_file
from watched import watching

from truetune import cli
from truetune.engines import adapter

pytest.importorskip("torch")

FAST = {"auto_map-unknown", "attn", "pickle-model.pt", "offsets-beyond", "os", "backtracking", "template-to-secret"}
FOLDERS = [case if case.name in FAST else pytest.param(case, marks=pytest.mark.slow) for case in CASES]
OTHERWISE = {
    "layers-without-end": "model.unloadable",  # nothing is planned, so the engine is who finds out
    "adapter-beside": "adapter.missing",
    "config-to-device": "run.missing",  # neither a run, nor an adapter, nor a model
    "config-to-itself": "run.missing",
}
"""Where an answer meets something else first than a training does."""
ADAPTERS: dict[str, tuple[dict[str, object], str]] = {
    "code": ({"auto_mapping": {"base_model_class": "Mine", "parent_library": "mine"}}, "adapter.custom_code"),
    "kind-as-path": ({"peft_type": "../mine"}, "adapter.unsupported"),
    "rank-huge": ({"r": 10**12}, "adapter.damaged"),
    "another-shape": ({}, "adapter.mismatch"),
    "base-as-path": ({"base_model_name_or_path": "../../etc"}, "model.missing"),
    "base-on-the-net": ({"base_model_name_or_path": "evil/repo"}, "model.offline"),
    "base-of-words": ({"base_model_name_or_path": ["starter"]}, "model.missing"),
}


def asked(verb: str, folder: Path, capfd: pytest.CaptureFixture[str]) -> tuple[int, str | None]:
    """Exit code and the error's code of one answer, or of an evaluation of three rows."""
    rows = folder.parent / "rows.jsonl"
    rows.write_text("".join(json.dumps({"prompt": f"Aa {n}?", "completion": f"It is {n}."}) + "\n" for n in range(3)))
    rest = ["Hello"] if verb == "chat" else ["--data", str(rows)]
    code = cli.run([verb, str(folder), *rest, "--max-new-tokens", "2", "--device", "cpu", "--json"])
    said = capfd.readouterr()
    assert "Traceback" not in said.out + said.err
    error = json.loads(said.out).get("error")
    assert error is None or (error["message"].isprintable() and error["hint"]), error
    return code, error and error["code"]


@pytest.mark.parametrize("verb", ["chat", "evaluate"])
@pytest.mark.parametrize("case", FOLDERS, ids=str)
def test_a_model(verb: str, case: Case, tmp_path: Path, canary: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = copy(tmp_path / "model")
    case.change(folder, canary)
    watching.append(folder)
    expected = OTHERWISE.get(case.name, case.code)
    if verb == "evaluate" and expected == "data.template":
        expected = "data.no_rows"  # each row is refused for it, and none is left
    assert asked(verb, folder, capfd) == (3 if expected else 0, expected)


@pytest.mark.parametrize("verb", ["chat", "evaluate"])
@pytest.mark.parametrize("case", ADAPTERS)
def test_an_adapter(verb: str, case: str, tmp_path: Path, canary: Path, capfd: pytest.CaptureFixture[str]) -> None:
    values, code = ADAPTERS[case]
    folder = adapter_folder(tmp_path / "adapter", **values)
    put(folder / "mine.py", program(canary))
    watching.append(folder)
    assert asked(verb, folder, capfd) == (3, code)


@pytest.mark.parametrize("verb", ["chat", "evaluate"])
def test_a_pickled_adapter(verb: str, tmp_path: Path, canary: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = adapter_folder(tmp_path / "adapter")
    (folder / adapter.WEIGHTS).rename(folder / "weights")
    put(folder / "adapter_model.bin", pickled(canary))
    watching.append(folder)
    assert asked(verb, folder, capfd) == (3, "adapter.pickle_weights")


def adapter_folder(folder: Path, **values: object) -> Path:
    """An adapter of the starter whose one layer is of another shape than the model's."""
    folder.mkdir()
    targets = ["model.layers.0.self_attn.q_proj"]
    good = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": targets}
    put(folder / adapter.CONFIG, json.dumps(good | {"base_model_name_or_path": "starter"} | values))
    save_file({adapter.key(targets[0], side): np.ones((4, 4), np.float32) for side in "AB"}, folder / adapter.WEIGHTS)
    return folder

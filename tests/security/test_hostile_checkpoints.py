"""Runs and adapters that somebody changed: a resume or a start from one opens no pickle, follows no link and no import,
and ends with an error that names the place. The attacker also rewrites the manifest, which is no signature."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hostile import header, pickled, program, put, resize
from safetensors.numpy import load_file, save_file

import truetune as ft
from truetune.engines import adapter
from truetune.errors import InputError, TrueTuneError
from truetune.runs import durable, jsonfile

Change = Callable[[Path, Path], None]


def place(name: str, content: Callable[[Path], str | bytes]) -> Change:
    return lambda folder, canary: put(folder / name, content(canary))


def weights(name: str, change: Change) -> Change:
    """A change of hostile.py, which knows only `model.safetensors`, on another file."""

    def apply(folder: Path, canary: Path) -> None:
        aside = folder.parent / "aside"
        aside.mkdir()
        (folder / name).rename(aside / "model.safetensors")
        change(aside, canary)
        (aside / "model.safetensors").rename(folder / name)
        aside.rmdir()

    return apply


def reshaped(name: str, size: int) -> Change:
    """Every tensor cut to so many numbers, with an honest header."""

    def apply(folder: Path, _: Path) -> None:
        small = {key: np.ravel(value)[:size].copy() for key, value in load_file(folder / name).items()}
        (folder / name).unlink()
        save_file(small, folder / name)

    return apply


def without(name: str) -> Change:
    return lambda folder, _: (folder / name).unlink()


def linked(name: str, target: str) -> Change:
    def apply(folder: Path, _: Path) -> None:
        (folder / name).unlink()
        (folder / name).symlink_to(target)

    return apply


ADAPTER, OPTIMIZER, RNG = "adapter_model.safetensors", "optimizer.safetensors", "rng.safetensors"
CHECKPOINTS: dict[str, Change] = {
    "adapter-pickle": place(ADAPTER, pickled),
    "optimizer-pickle": place(OPTIMIZER, pickled),
    "rng-pickle": place(RNG, pickled),
    "adapter-header": weights(ADAPTER, resize(2**62)),
    "optimizer-header": weights(OPTIMIZER, resize(2**62)),
    "rng-header": weights(RNG, resize(2**62)),
    "optimizer-nested": weights(OPTIMIZER, header(lambda body: b"[" * 10**6)),
    "adapter-of-one-number": reshaped(ADAPTER, 1),
    "optimizer-of-one-number": reshaped(OPTIMIZER, 1),
    "rng-of-one-number": reshaped(RNG, 1),
    "no-optimizer": without(OPTIMIZER),
    "no-rng": without(RNG),
    "optimizer-device": linked(OPTIMIZER, "/dev/zero"),
    "adapter-secret": linked(ADAPTER, "/etc/passwd"),
    "state-nested": place("state.json", lambda _: "[" * 10**6),
    "state-of-words": place("state.json", lambda _: '{"step": "many"}'),
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("trained")
    rows = folder / "rows.jsonl"
    talk = ({"prompt": f"What is {number}?", "completion": f"It is {number}."} for number in range(24))
    rows.write_text("".join(json.dumps(row) + "\n" for row in talk))
    settings = {
        "model": "starter",
        "data": {"path": str(rows), "validation": None},
        "training": {"max_steps": 3},
        "checkpoints": {"every": "1 steps", "keep": 3},
        "resources": {"device": "cpu"},
        "output": {"dir": str(folder / "run")},
    }
    ft.train(settings)
    return folder / "run"


def sign(folder: Path) -> None:
    """A manifest that agrees with what is there now."""
    there = [path for path in folder.iterdir() if path.is_file() and path.name != durable.MANIFEST]
    files = {path.name: {"sha256": durable.digest(path), "bytes": path.stat().st_size} for path in there}
    put(folder / durable.MANIFEST, jsonfile.dumps({"schema": 1, "files": files}))


@pytest.mark.slow
@pytest.mark.parametrize("case", CHECKPOINTS)
def test_resume(case: str, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run, canary = tmp_path / "runs" / "mine", tmp_path / "canary"
    shutil.copytree(trained, run)
    folder = run / "checkpoints" / "step-000002"
    CHECKPOINTS[case](folder, canary)
    sign(folder)
    with pytest.raises(TrueTuneError) as caught:
        ft.train(resume=True, from_=f"{run}:step-2")
    finding = caught.value.finding
    assert finding.code != "bug" and finding.hint, finding
    assert not canary.exists()


@pytest.mark.slow
def test_a_resume_of_what_was_not_changed(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cases above fail for what they change, not for the way they are made."""
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "runs" / "mine"
    shutil.copytree(trained, run)
    sign(run / "checkpoints" / "step-000002")
    ft.train(resume=True, from_=f"{run}:step-2")


GOOD = {
    "peft_type": "LORA",
    "r": 4,
    "lora_alpha": 8,
    "target_modules": ["q_proj"],
    "base_model_name_or_path": "starter",
}
ADAPTERS: dict[str, tuple[dict[str, Any], str]] = {
    "auto_mapping": ({"auto_mapping": {"base_model_class": "Mine", "parent_library": "mine"}}, "adapter.custom_code"),
    "auto_mapping-path": ({"auto_mapping": {"parent_library": "transformers/../mine"}}, "adapter.custom_code"),
    "auto_mapping-odd": ({"auto_mapping": ["mine"]}, "adapter.custom_code"),
    "unknown-kind": ({"peft_type": "MINE"}, "adapter.unsupported"),
    "kind-as-path": ({"peft_type": "../mine"}, "adapter.unsupported"),
    "replication": ({"layer_replication": [[0, 10**9]]}, "adapter.unsupported"),
    "megatron": ({"megatron_config": {"a": 1}, "megatron_core": "mine"}, "adapter.unsupported"),
    "biases": ({"bias": "all"}, "adapter.unsupported"),
    "rank-huge": ({"r": 10**12}, "adapter.damaged"),
    "rank-negative": ({"r": -1}, "adapter.damaged"),
    "rank-of-words": ({"r": "4"}, "adapter.damaged"),
    "alpha-not-a-number": ({"lora_alpha": float("nan")}, "adapter.damaged"),
    "alpha-infinite": ({"lora_alpha": float("inf")}, "adapter.damaged"),
}


def adapter_folder(folder: Path, **values: Any) -> Path:
    folder.mkdir()
    (folder / adapter.CONFIG).write_text(json.dumps(GOOD | values))
    matrix = {adapter.key("model.layers.0.self_attn.q_proj", side): np.zeros((4, 4), np.float32) for side in "AB"}
    save_file(matrix, folder / adapter.WEIGHTS)
    return folder


@pytest.mark.parametrize("case", ADAPTERS)
def test_an_adapters_configuration(case: str, tmp_path: Path) -> None:
    values, code = ADAPTERS[case]
    folder = adapter_folder(tmp_path / "adapter", **values)
    put(folder / "mine.py", program(tmp_path / "canary"))
    with pytest.raises(InputError) as caught:
        adapter.read_config(folder)
    assert caught.value.finding.code == code and not (tmp_path / "canary").exists()


@pytest.mark.parametrize("content", ["[" * 10**6, "[]", "null", "\x00", '{"r": 1e400}'])
def test_an_adapters_configuration_that_is_none(content: str, tmp_path: Path) -> None:
    folder = adapter_folder(tmp_path / "adapter")
    put(folder / adapter.CONFIG, content)
    with pytest.raises(InputError):
        adapter.read_config(folder)


def test_an_adapters_pickle_is_not_opened(tmp_path: Path) -> None:
    folder = adapter_folder(tmp_path / "adapter")
    (folder / adapter.WEIGHTS).unlink()
    put(folder / "adapter_model.bin", pickled(tmp_path / "canary"))
    with pytest.raises(InputError) as caught:
        adapter.read_config(folder)
    assert caught.value.finding.code == "adapter.pickle_weights" and not (tmp_path / "canary").exists()


def test_a_strangers_pattern_is_not_matched(tmp_path: Path) -> None:
    """It would take for ever on the first name; the tensors say which modules they belong to."""
    folder = adapter_folder(tmp_path / "adapter", target_modules="(([a-z_.0-9])+)+!")
    assert adapter.read_config(folder)["target_modules"] == ["model.layers.0.self_attn.q_proj"]


def test_what_peft_writes_by_itself_passes(tmp_path: Path) -> None:
    """`auto_mapping` to transformers' own modules is a note, and nothing is imported for it."""
    library = "transformers.models.llama.modeling_llama"
    mapping = {"base_model_class": "LlamaForCausalLM", "parent_library": library}
    assert adapter.read_config(adapter_folder(tmp_path / "adapter", auto_mapping=mapping))["r"] == 4

"""Who answers: addresses to files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from truetune.config import load
from truetune.data.turns import stop_ids
from truetune.errors import InputError, UsageError
from truetune.evaluate.subject import find_subject, settings
from truetune.models import source, tokenizer
from truetune.runs import durable, receipt
from truetune.runs.run import Run
from truetune.runs.status import Status


def test_the_starter_answers_by_its_name() -> None:
    subject = find_subject("starter")
    assert subject.base.folder == source.STARTER
    assert not subject.tuned and subject.template is not None


def test_a_folder_of_a_model_is_a_base(tmp_path: Path) -> None:
    (tmp_path / "mine").symlink_to(source.STARTER)
    assert find_subject("mine", folder=tmp_path).base.kind == "folder"


def test_an_adapter_brings_its_base(tmp_path: Path) -> None:
    body = {"peft_type": "LORA", "base_model_name_or_path": str(source.STARTER), "r": 4, "lora_alpha": 8}
    (tmp_path / "adapter_config.json").write_text(json.dumps(body))
    shapes = {"A": (4, 8), "B": (8, 4)}
    layer = "base_model.model.model.layers.0.self_attn.q_proj.lora_{}.weight"
    tensors = {layer.format(name): np.ones(shape, np.float32) for name, shape in shapes.items()}
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    subject = find_subject(str(tmp_path))
    assert subject.adapter == tmp_path and subject.tuned
    assert subject.base.folder == source.STARTER


def test_what_is_no_run_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError) as error:
        find_subject("nothing-here")
    assert error.value.finding.code == "run.missing"


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"temperature": 0.2, "top_p": 0.5}, {"temperature": 0.2, "top_p": 0.5}),
        ({"temperature": 0.2, "do_sample": False}, {"temperature": 0.0}),
        ({"max_new_tokens": "many"}, {}),
    ],
)
def test_settings_travel_in_generation_config(tmp_path: Path, body: dict[str, object], expected: object) -> None:
    (tmp_path / "generation_config.json").write_text(json.dumps(body))
    assert settings(tmp_path) == expected


def test_the_end_of_a_turn_stops_even_where_the_tokenizer_names_another(tmp_path: Path) -> None:
    """A ChatML template over a tokenizer whose only end is that of the text."""
    for path in source.STARTER.glob("*.json"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    config["eos_token"] = "<|endoftext|>"
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    (tmp_path / "chat_template.jinja").write_bytes((source.STARTER / "chat_template.jinja").read_bytes())
    for name in ("generation_config.json", "config.json"):
        (tmp_path / name).unlink()
    encode = tokenizer.load(tmp_path)
    assert encode.template is not None
    end = encode.id("<|im_end|>")
    assert end not in encode.eos_ids
    assert end in stop_ids(encode.template, encode)


def test_a_model_has_no_checkpoints() -> None:
    with pytest.raises(UsageError) as error:
        find_subject("starter", checkpoint="best")
    assert error.value.finding.code == "subject.no_checkpoints"


def test_a_name_that_is_a_run_and_a_folder_is_ambiguous(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run(tmp_path / "runs" / "both-x")
    (tmp_path / "both").symlink_to(source.STARTER)
    with pytest.raises(UsageError) as error:
        find_subject("both")
    assert error.value.finding.code == "subject.ambiguous"
    assert find_subject("./both").run is None


@pytest.mark.parametrize("address", ["last:best", "some:step-3", ":best"])
def test_a_checkpoint_that_is_named_twice(address: str) -> None:
    with pytest.raises(UsageError, match="named twice") as error:
        find_subject(address, checkpoint="last")
    assert error.value.finding.code == "subject.two_checkpoints"


@pytest.mark.parametrize("state", ["running", "stopped", "failed"])
def test_a_run_without_a_checkpoint_cannot_answer(tmp_path: Path, state: str) -> None:
    begun = run(tmp_path / "begun")
    Status.update(begun, state=state)
    with pytest.raises(InputError) as error:
        find_subject(str(begun.folder))
    assert error.value.finding.code == "run.unfinished"


def test_a_base_that_is_gone_is_named(tmp_path: Path) -> None:
    begun = run(tmp_path / "begun", base=tmp_path / "gone")
    with pytest.raises(InputError) as error:
        find_subject(str(begun.folder))
    assert str(tmp_path / "gone") in str(error.value)
    assert error.value.finding.hint


def test_a_base_that_has_changed_does_not_answer(tmp_path: Path) -> None:
    base = tmp_path / "base"
    shutil.copytree(source.STARTER, base)
    trained = run(tmp_path / "trained", base)
    receipt.write(trained, "train", {"base": {"files": durable.digests([base / "config.json"], base)}})
    (base / "config.json").write_text((base / "config.json").read_text() + "\n")
    with pytest.raises(InputError, match=r"config\.json differs") as error:
        find_subject(str(trained.folder))
    assert error.value.finding.code == "model.changed"


def run(folder: Path, base: Path = source.STARTER) -> Run:
    """A run that was created and no more."""
    config = load(None, (), {"model": "starter", "data": "rows.jsonl"}).config
    written = config.model_dump(mode="json")
    resolved = {
        "written": written,
        "folder": str(folder.parent),
        "model": {"folder": str(base), "name": "starter", "kind": "starter", "revision": None},
        "config": {**written, "training": {"objective": "sft"}, "method": {"type": "lora"}},
    }
    return Run.create(folder, train_yml=b"", resolved=resolved, env={})

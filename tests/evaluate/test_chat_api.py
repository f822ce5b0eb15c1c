"""The verbs that speak, from Python: what they take, what they refuse, and a checkpoint that is pruned meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import truetune as ft
from truetune import engines
from truetune.api.chat import opened
from truetune.api.handle import TrainedRun
from truetune.api.wanted import address
from truetune.config import load
from truetune.errors import InputError, TrueTuneError, UsageError
from truetune.evaluate.voice import Voice
from truetune.models import source
from truetune.runs.checkpoints import Checkpoints
from truetune.runs.run import Run


def run(folder: Path, *steps: int) -> Run:
    """A run that trains, with these checkpoints."""
    written = load(None, (), {"model": "starter", "data": "rows.jsonl"}).config.model_dump(mode="json")
    resolved = {
        "written": written,
        "folder": str(folder.parent),
        "model": {"folder": str(source.STARTER), "name": "starter", "kind": "starter", "revision": None},
        "config": {**written, "training": {"objective": "sft"}, "method": {"type": "lora"}},
    }
    made = Run.create(folder, train_yml=b"", resolved=resolved, env={})
    for step in steps:
        Checkpoints(made).save(step, lambda place: None, {"step": step})
    return made


def prune(voice: Voice) -> None:
    assert voice.subject.adapter
    for path in voice.subject.adapter.iterdir():
        path.unlink()
    voice.subject.adapter.rmdir()


def test_a_checkpoint_that_is_pruned_while_it_is_opened(tmp_path: Path) -> None:
    trained, seen = run(tmp_path / "one", 5, 10), list[Any]()
    Checkpoints(trained).mark_best(5, 1.0)

    def begin(voice: Voice) -> str:
        seen.append(voice.subject.step)
        if len(seen) > 1:
            return "answered"
        prune(voice)
        Checkpoints(trained).mark_best(10, 0.5)
        raise InputError("there is no adapter_config.json", code="adapter.missing", hint="-")

    assert opened(str(trained.folder), None, "cpu", begin) == "answered"
    assert seen == [5, 10]


def test_a_second_time_is_said(tmp_path: Path) -> None:
    trained = run(tmp_path / "one", 5, 10, 15)

    def begin(voice: Voice) -> None:
        prune(voice)
        raise FileNotFoundError("adapter_config.json")

    with pytest.raises(InputError, match="was removed while it was opened") as error:
        opened(str(trained.folder), None, "cpu", begin)
    assert error.value.code == "checkpoint.missing"


def test_other_errors_are_not_tried_again(tmp_path: Path) -> None:
    trained, seen = run(tmp_path / "one", 5), list[Any]()

    def begin(voice: Voice) -> None:
        seen.append(voice)
        raise InputError("damaged", code="adapter.damaged", hint="-")

    with pytest.raises(InputError, match="damaged"):
        opened(str(trained.folder), None, "cpu", begin)
    assert len(seen) == 1


def test_what_train_returned_is_an_address(tmp_path: Path) -> None:
    trained = TrainedRun("one", tmp_path / "one", tmp_path / "one" / "adapter", {})
    assert address(trained) == str(tmp_path / "one")
    assert address(tmp_path) == str(tmp_path) and address("last") == "last"
    for verb in (ft.chat, ft.report, ft.side_by_side, ft.open_run, ft.run_show, ft.receipt_show, ft.receipt_verify):
        with pytest.raises(TrueTuneError) as error:
            verb(trained)
        assert error.value.code == "run.missing", verb
    with pytest.raises(InputError) as missing:
        ft.generate("Hello", trained)
    assert missing.value.code == "run.missing"


@pytest.mark.parametrize(
    ("call", "code"),
    [
        (lambda: ft.chat(3), "usage.bad_value"),
        (lambda: ft.chat("starter", device="foo"), "usage.bad_value"),
        (lambda: ft.side_by_side("last", device="foo"), "usage.bad_value"),
        (lambda: ft.train(3), "usage.bad_value"),
        (lambda: ft.generate(None, "starter"), "generation.messages"),
        (lambda: ft.generate(3, "starter"), "generation.messages"),
        (lambda: ft.generate({"role": "user", "content": "x"}, "starter"), "generation.messages"),
        (lambda: ft.generate([3], "starter"), "generation.messages"),
        (lambda: ft.generate([{"role": "assistant", "content": "x"}], "starter"), "generation.messages"),
        (lambda: ft.generate(["Hello", ""], "starter"), "generation.empty"),
        (lambda: ft.generate("Hello", "starter", max_tokens=3), "usage.unknown_option"),
        (lambda: ft.side_by_side("last", count=0), "generation.bad_value"),
        (lambda: ft.side_by_side("last", count=-1), "generation.bad_value"),
    ],
)
def test_what_is_refused_with_a_sentence(call: Callable[[], Any], code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """And before an engine is imported."""
    monkeypatch.setattr(engines, "module", None)
    with pytest.raises(UsageError) as error:
        call()
    assert error.value.code == code and error.value.hint


def test_the_option_that_was_meant_is_named() -> None:
    with pytest.raises(UsageError, match="no option max_tokens") as error:
        ft.generate("Hello", "starter", max_tokens=3)
    assert error.value.hint == "Did you mean max_new_tokens?"

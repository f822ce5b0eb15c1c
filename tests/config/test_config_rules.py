"""Contradictions: keys that are right by themselves, and wrong together. Defaults never contradict."""

from __future__ import annotations

from pathlib import Path

import pytest

from truetune.config.load import load, loads
from truetune.errors import ConfigErrors

BASE = {"model": "{path: m}", "data": "{path: d}"}


def text(**sections: str) -> bytes:
    return "".join(f"{name}: {value}\n" for name, value in (BASE | sections).items()).encode()


@pytest.mark.parametrize(
    ("sections", "keys"),
    [
        ({"method": "{type: full, r: 8}"}, ["method.r"]),
        ({"method": "{type: full, alpha: 8, target_modules: [q]}"}, ["method.alpha", "method.target_modules"]),
        ({"method": "{type: lora, bits: 4}"}, ["method.bits"]),
        ({"method": "{type: lora, init: loftq}"}, ["method.init"]),
        ({"method": "{type: auto, init: loftq}"}, ["method.init"]),
        ({"method": "{type: full, init: loftq}"}, ["method.init"]),
        ({"method": "full", "model": "{path: m, adapter: a}"}, ["model.adapter"]),
        ({"model": "{path: starter, revision: abc}"}, ["model.revision"]),
        ({"model": "{path: ./m, revision: abc}"}, ["model.revision"]),
        ({"data": "{path: d, validation: none}", "evaluation": "{every: 1 epoch}"}, ["evaluation.every"]),
        (
            {"data": "{path: d, validation: null}", "evaluation": "{early_stopping: {patience: 1}}"},
            ["evaluation.early_stopping"],
        ),
        ({"data": "{path: d, validation: 0}", "checkpoints": "{best: true}"}, ["checkpoints.best"]),
        (
            {"evaluation": "{every: null, early_stopping: {patience: 1}, samples: 3}"},
            ["evaluation.samples", "evaluation.early_stopping"],
        ),
        ({"evaluation": "{every: null}", "checkpoints": "{best: true}"}, ["checkpoints.best"]),
        ({"training": "{objective: pretrain}", "data": "{path: d, train_on: all}"}, ["data.train_on"]),
        ({"training": "{warmup: 10, max_steps: 10}"}, ["training.warmup"]),
        ({"data": "{path: [d, e], validation: e}"}, ["data.validation"]),
    ],
)
def test_contradictions(sections: dict[str, str], keys: list[str]) -> None:
    with pytest.raises(ConfigErrors) as caught:
        loads(text(**sections), Path("train.yml"))
    assert {finding.code for finding in caught.value.findings} == {"config.contradiction"}
    assert sorted(finding.where.split()[1] for finding in caught.value.findings) == sorted(keys)
    assert all(finding.hint and ":" in finding.where for finding in caught.value.findings)


@pytest.mark.parametrize(
    "sections",
    [
        {"method": "full"},
        {"method": "full", "profile": "code"},  # the profile sets method.r
        {"method": "{bits: 4}"},
        {"method": "{type: qlora, bits: 8, init: loftq}"},
        {"data": "{path: d, validation: none}"},
        {"evaluation": "{every: null, samples: 0}", "checkpoints": "{best: false}"},
        {"training": "{objective: pretrain}"},
        {"training": "{warmup: 9, max_steps: 10}"},
        {"model": "{path: org/m, revision: abc}"},
    ],
)
def test_what_is_no_contradiction(sections: dict[str, str]) -> None:
    loads(text(**sections), Path("train.yml"))


@pytest.mark.parametrize("settings", ["data.overlap=1025", "data.overlap=8 training.objective=sft"])
def test_windows_go_on(settings: str) -> None:
    texts = {"model": "starter", "data": "texts.txt"}
    with pytest.raises(ConfigErrors) as error:
        load(None, settings.split(), texts)
    assert "data.overlap" in error.value.findings[0].where
    load(None, ["data.overlap=1024"], texts)

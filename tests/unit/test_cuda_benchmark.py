"""The GPU's benchmark, rehearsed on the processor with a tiny model; and what it must not let through."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EVIDENCE = ROOT / "docs" / "evidence" / "cuda.json"


@pytest.fixture
def cuda(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return import_module("cuda")


def run(*options):
    line = [sys.executable, str(ROOT / "benchmarks" / "cuda.py"), *options]
    return subprocess.run(line, capture_output=True, text=True, timeout=600, env=os.environ | {"OMP_NUM_THREADS": "1"})


@pytest.mark.slow
def test_the_rehearsal_runs_through():
    """Every contender that needs no card trains, learns, and agrees with ours; nothing is written."""
    for package in ("torch", "peft", "bitsandbytes"):
        pytest.importorskip(package)
    before = EVIDENCE.read_bytes() if EVIDENCE.exists() else None
    done = run("--tiny", "--device", "cpu")
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [line.split() for line in done.stdout.splitlines() if "tokens/s" in line]
    assert [line[0] for line in lines] == ["truetune", "peft", "truetune", "truetune-host", "peft"]
    assert all(float(line[line.index("loss") + 1]) > float(line[-1]) for line in lines)
    assert (EVIDENCE.read_bytes() if EVIDENCE.exists() else None) == before


def test_a_rehearsal_writes_nothing():
    done = run("--tiny", "--device", "cpu", "--write")
    assert done.returncode == 2 and "--write is for the whole shape on a GPU" in done.stderr


def runs(**losses):
    return {"runs": {name: {"losses": list(one), "grad_norms": [1.0] * len(one)} for name, one in losses.items()}}


def test_it_fails_where_something_is_wrong(cuda):
    """Nothing learned, another loss, no number, and a training that did not run."""
    shape = cuda.TINY
    good = [6.0, 5.9, 5.8]
    assert cuda.wrong(shape, {"lora": runs(truetune=good, peft=good)}) == []
    assert "nothing was learned" in cuda.wrong(shape, {"lora": runs(truetune=[6.0, 6.0, 6.0])})[0]
    assert "is 1.7% off ours" in cuda.wrong(shape, {"lora": runs(truetune=good, peft=[6.0, 5.8, 5.8])})[0]
    assert len(cuda.wrong(shape, {"lora": runs(truetune=good, peft=[6.0, float("nan"), 5.8])})) == 1
    lost = runs(peft=good)
    lost["runs"]["truetune"] = {"left_out": "OutOfMemory"}
    assert cuda.wrong(shape, {"qlora": lost}) == ["qlora: TrueTune did not train: OutOfMemory"]


def test_the_whole_shape_is_llama_3_8b(cuda):
    shape = cuda.Shape()
    frozen = shape.layers * sum(outside * inside for outside, inside in shape.linears)
    assert frozen == 6_979_321_856
    assert frozen + 2 * shape.hidden * shape.vocabulary + (2 * shape.layers + 1) * shape.hidden == 8_030_261_248


def test_evidence_is_a_gpus():
    if EVIDENCE.exists():
        body = json.loads(EVIDENCE.read_text("utf-8"))
        assert body["machine"]["card"] and body["date"] and body["commit"] and body["shape"]["layers"] == 32

"""The main ways through TrueTune, from rows to a verified receipt, by the real `ft` and by Python."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import pytest
from real_ft import Ft, rows

SHORT = {"training": {"max_steps": 3}, "evaluation": {"samples": 1}}


def flip(path: Path) -> Callable[[], int]:
    """Change one byte in the middle of a file; returns what puts it back."""
    kept = path.read_bytes()
    changed = bytearray(kept)
    changed[len(kept) // 2] ^= 1
    path.write_bytes(changed)
    return partial(path.write_bytes, kept)


def test_from_rows_to_a_verified_receipt(ft: Ft) -> None:
    ft.rows()
    ft.config(**SHORT)

    # 1. The dry run shows everything and writes nothing.
    before = ft.tree()
    plan = ft("train", "--dry-run", "--json")
    assert plan.code == 0, plan.err
    assert (plan.document["plan"]["steps"], plan.document["plan"]["step"]) == (3, 16)
    assert plan.document["data"]["rows"]["train"] == 32
    assert plan.document["reasons"]["method.type"]
    assert plan.document["measured"]["seconds"] > 0
    assert ft.tree() == before

    # 2. The training: one document, progress on stderr.
    said = ft("train", "train.yml", "--json")
    assert said.code == 0, said.err
    end = said.document
    promised = plan.document["plan"]["promised"]["supervised"]
    assert end["receipt"] == {"verdict": "ok", "supervised": {"promised": promised, "counted": promised}}
    assert (end["state"], end["figures"]["steps"]) == ("finished", 3)
    assert end["figures"]["eval_loss"] < end["figures"]["base_loss"]
    assert "step 3/3" in said.err
    assert {name: (ft.folder / name).read_bytes() for name in before} == before

    # 3. It can be found again.
    (run,) = ft("runs", "list", "--json").document["runs"]
    assert (run["id"], run["state"], run["step"], run["steps"]) == (end["run"], "finished", 3, 3)
    folder = Path(run["folder"])
    assert (folder / "train.yml").read_bytes() == (ft.folder / "train.yml").read_bytes()
    assert str(promised) in ft("receipt", "last").out.replace(",", "")

    # 4. The receipt holds, and says which single byte has changed.
    assert ft("receipt", "verify", "last").code == 0
    for path, item in {
        folder / "adapter" / "adapter_model.safetensors": "adapter/adapter_model.safetensors",
        ft.folder / "rows.jsonl": "rows.jsonl",
        folder / "train.yml": "train.yml",
        folder / "resolved.json": "resolved.json",
    }.items():
        restore = flip(path)
        verdict = ft("receipt", "verify", "last", "--json")
        changed = [entry["name"] for entry in verdict.document["items"] if entry["state"] != "ok"]
        assert (verdict.code, changed) == (1, [item])
        assert verdict.document["error"]["code"] == "receipt.changed"
        assert verdict.document["error"]["message"].endswith(f": {item}")
        restore()
    again = ft("receipt", "verify", "last", "--json")
    assert (again.code, again.document["verdict"]) == (0, "ok")


def test_the_same_by_python(ft: Ft) -> None:
    ft.rows()
    ft.config(**SHORT)
    said = ft.python(
        "import json, truetune as ft\n"
        "run = ft.train('train.yml', overrides=['training.max_steps=2'])\n"
        "train, held_out = run.metrics('train'), run.metrics('eval')\n"
        "verdict = ft.receipt_verify(run.id)['verdict']\n"
        "print(json.dumps([run.id, str(run.adapter), [row['step'] for row in train], [row['step'] for row in held_out],"
        " run.figures['loss'] == train[-1]['loss'], verdict, len(run.samples()), sorted(run.receipt())]))"
    )
    assert said.code == 0, said.err
    name, adapter, steps, measured, agree, verdict, samples, stages = json.loads(said.out)
    assert Path(adapter) == ft.folder / "runs" / name / "adapter"
    assert sorted(path.name for path in Path(adapter).glob("adapter_*")) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    assert (steps, measured, agree, verdict) == ([1, 2], [0, 2], True, "ok")
    assert (samples, stages) == (2, ["data", "eval", "train"])


def jsonl(items: Iterable[dict[str, str]]) -> str:
    return "".join(json.dumps(item) + "\n" for item in items)


def array(items: Iterable[dict[str, str]]) -> str:
    return json.dumps(list(items), indent=1)


def table(items: Iterable[dict[str, str]]) -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, ["prompt", "completion"])
    writer.writeheader()
    writer.writerows(items)
    return out.getvalue()


def text(items: Iterable[dict[str, str]]) -> str:
    return "".join(f"{item['prompt']} {item['completion']}\n" for item in items)


FILES = {"rows.jsonl": jsonl, "rows.json": array, "rows.csv": table, "rows.txt": text}


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_each_kind_of_file_is_trained_on(ft: Ft, name: str) -> None:
    ft.write(name, FILES[name](rows(40)))
    said = ft("train", "--model", "starter", "--data", name, "--set", "training.max_steps=2", "--json")
    assert said.code == 0, said.err
    receipt = ft("receipt", "--json").document["stages"]
    assert (receipt["data"]["rows"]["read"], receipt["data"]["rows"]["used"]) == (40, 40)
    assert receipt["data"]["objective"] == ("pretrain" if name == "rows.txt" else "sft")
    assert receipt["train"]["supervised"]["promised"] == receipt["train"]["supervised"]["counted"] > 0
    assert ft("receipt", "verify").code == 0


@pytest.mark.slow
def test_one_step_is_a_training_too(ft: Ft) -> None:
    """Few rows and one pass: the warm-up must not take the only step there is."""
    ft.rows(20)
    said = ft("train", "--model", "starter", "--data", "rows.jsonl", "--set", "training.epochs=1", "--json")
    assert said.code == 0, said.err
    assert said.document["figures"]["steps"] == 1
    assert said.document["figures"]["eval_loss"] < said.document["figures"]["base_loss"]


@pytest.mark.slow
def test_the_demo(ft: Ft) -> None:
    said = ft("demo", "--set", "training.max_steps=4", "--json")
    assert said.code == 0, said.err
    assert said.document["receipt"]["verdict"] == "ok"
    assert {"question", "before", "after", "row"} <= set(said.document["answers"][0])


@pytest.mark.slow
def test_what_init_writes_can_be_trained(ft: Ft) -> None:
    ft.rows()
    assert ft("init", "--model", "starter", "--data", "rows.jsonl").code == 0
    said = ft("train", "--set", "training.max_steps=2", "--set", "output.dir=mine", "--json")
    assert said.code == 0, said.err
    assert Path(said.document["folder"]) == ft.folder / "mine"
    assert ft("receipt", "verify", "last").code == 0

"""`ft train --prove-resume` and `ft runs prove`: real kills, a verdict for people, for programs and in the receipt."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from real_ft import Ft

pytestmark = pytest.mark.slow

SETTINGS = {
    "method": {"dropout": 0.05},
    "training": {"max_steps": 6, "epochs": 3},
    "resources": {"memory": "3GB"},
}
PARTS = ["data", "log", "optimizer", "parameters", "rng", "state"]


@pytest.fixture
def ready(ft: Ft) -> Ft:
    ft.rows(40)
    ft.config(**SETTINGS)
    return ft


def proof(ft: Ft) -> dict[str, object]:
    found = json.loads((ft.run() / "receipts" / "prove.json").read_text())
    assert isinstance(found, dict)
    return found


def clean(folder: Path) -> bool:
    return not [path.name for path in folder.rglob(".*")]


def test_the_proof_before_a_run(ready: Ft) -> None:
    said = ready("train", "--prove-resume")
    assert said.code == 0, said.err
    assert "proof of the resume: identical" in said.err
    body = proof(ready)
    assert (body["verdict"], body["steps"], sorted(body["compared"])) == ("identical", 6, PARTS)
    assert set(body["compared"].values()) == {None}
    assert 1 <= body["killed"]["resumed_from"] <= 6
    assert "✓ identical" in ready("receipt", "last").out
    assert ready("receipt", "verify", "last").code == 0
    assert clean(ready.run())
    assert len((ready.folder / "home" / "registry.jsonl").read_text().splitlines()) == 1
    (run,) = ready("runs", "list", "--json").document["runs"]
    (adapter,) = ready("adapters", "list", "--json").document["adapters"]
    assert run["state"] == "finished" and adapter["run"] == run["id"]


def test_the_proof_of_a_run_that_stands(ready: Ft) -> None:
    assert ready("train", "-q").code == 0
    before = ready.tree()
    said = ready("runs", "prove", "last", "--steps", "4", "--json")
    assert said.code == 0, said.err
    document = said.document
    assert (document["verdict"], document["steps"], document["first_difference"]) == ("identical", 4, None)
    assert ready("receipt", "verify", "last").code == 0
    after = ready.tree()
    assert after.keys() - before.keys() <= {f"runs/{document['id']}/receipts/prove.json", f"runs/{document['id']}/lock"}
    changed = {name for name in before if after[name] != before[name] and "/lock" not in name}
    assert changed == set()
    assert clean(ready.run())


def test_data_that_changed_proves_nothing(ready: Ft) -> None:
    assert ready("train", "-q").code == 0
    (ready.folder / "rows.jsonl").unlink()
    said = ready("runs", "prove", "--json")
    assert said.code == 5, said.err
    assert said.document["error"]["code"] == "prove.failed"
    assert not (ready.run() / "receipts" / "prove.json").exists()
    assert clean(ready.run())


def test_a_proof_is_not_asked_of_a_resume(ready: Ft) -> None:
    said = ready("train", "--resume", "--prove-resume", "--json")
    assert (said.code, said.document["error"]["code"]) == (2, "usage.contradiction")

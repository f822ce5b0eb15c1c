"""Receipts: the chain, and verification that names whatever was changed."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from proven_run import ADAPTER, BASE, CONFIG, EVAL, card, data_body, train_body

from truetune.errors import InputError
from truetune.runs import durable, receipt
from truetune.runs.run import Run
from truetune.runs.verify import verdict, verify


def failed(run: Run, **where: Path) -> list[tuple[str, str, str]]:
    return [(item.stage, item.name, item.state) for item in verify(run, **where) if item.failed]


def edit(run: Run, stage: str, change: Callable[[dict[str, Any]], None]) -> None:
    body = json.loads(receipt.path(run, stage).read_text())
    change(body)
    durable.write_json(receipt.path(run, stage), body)


def test_the_chain_is_of_digests(proven: Run) -> None:
    stages = receipt.read(proven)
    assert list(stages) == ["data", "train", "eval"]
    assert stages["data"]["parent"] is None
    for stage in ("train", "eval"):
        before = (proven.folder / "receipts" / f"{receipt.parent(stage)}.json").read_bytes()
        assert stages[stage]["parent"] == hashlib.sha256(before).hexdigest()
    assert all(body["schema"] == 1 and body["stage"] == stage for stage, body in stages.items())


def test_an_export_follows_from_the_training(proven: Run) -> None:
    (proven.folder / "exports").mkdir()
    (proven.folder / "exports" / "a.gguf").write_text("x")
    files = durable.digests([proven.folder / "exports" / "a.gguf"], proven.folder)
    receipt.write(proven, "export-gguf", {"files": files})
    assert list(receipt.read(proven)) == ["data", "train", "eval", "export-gguf"]
    assert receipt.read(proven)["export-gguf"]["parent"] == receipt.digest(proven, "train")
    assert failed(proven) == []
    (proven.folder / "exports" / "a.gguf").write_text("y")
    assert failed(proven) == [("export-gguf", "exports/a.gguf", "changed")]


@pytest.mark.parametrize("stage", ["../x", "", "A", "a/b"])
def test_a_stage_is_a_name(run: Run, stage: str) -> None:
    with pytest.raises(ValueError):
        receipt.write(run, stage, {})


def test_what_is_as_it_was_is_ok(proven: Run) -> None:
    items = verify(proven)
    assert {item.state for item in items} == {"ok"} and verdict(items) == "ok"
    seen = {item.name for item in items}
    assert {*ADAPTER, *CONFIG, "rows.jsonl", "base/model.safetensors", "chain", "adapter/README.md"} <= seen
    assert {"rows", "split", "supervised", "examples", "tensors", "gradient"} <= seen


@pytest.mark.parametrize("name", [*ADAPTER, *CONFIG])
def test_one_changed_byte_of_the_run_is_named(proven: Run, name: str) -> None:
    path, stage = proven.folder / name, "train" if name in ADAPTER else "data"
    data = path.read_bytes()
    path.write_bytes(bytes([data[0] ^ 1]) + data[1:])
    assert failed(proven) == [(stage, name, "changed")]
    path.unlink()
    assert failed(proven) == [(stage, name, "absent")]


def test_one_changed_byte_of_an_input_is_named(proven: Run, rows: Path, base: Path) -> None:
    rows.write_text(rows.read_text().replace("h", "j"))
    (base / "model.safetensors").write_text("other")
    assert failed(proven) == [("data", "rows.jsonl", "changed"), ("train", "base/model.safetensors", "changed")]


def test_inputs_that_moved_are_absent_until_rebound(proven: Run, rows: Path, base: Path, tmp_path: Path) -> None:
    shutil.move(rows.parent, tmp_path / "moved")
    shutil.move(base, tmp_path / "model")
    items = verify(proven)
    assert verdict(items) == "ok"
    absent = [item for item in items if item.state == "absent"]
    assert [item.name for item in absent] == ["rows.jsonl", *(f"base/{name}" for name in BASE)]
    assert "--data" in absent[0].detail and "--base" in absent[1].detail
    for data in (tmp_path / "moved", tmp_path / "moved" / "rows.jsonl"):
        assert {item.state for item in verify(proven, data=data, base=tmp_path / "model")} == {"ok"}
    renamed = shutil.move(tmp_path / "moved" / "rows.jsonl", tmp_path / "another.jsonl")
    assert failed(proven, data=Path(renamed)) == []
    Path(renamed).write_text("other rows")
    assert failed(proven, data=Path(renamed)) == [("data", "rows.jsonl", "changed")]


@pytest.mark.parametrize(
    ("stage", "name", "change"),
    [
        ("data", "rows", lambda body: body["rows"].update(used=7, train=5)),
        ("data", "rows", lambda body: body["rows"].update(rejected=0)),
        ("data", "split", lambda body: body["rows"].update(validation=3)),
        ("train", "supervised", lambda body: body["supervised"].update(counted=299)),
        ("train", "examples", lambda body: body["examples"].update(counted=7)),
        ("train", "tensors", lambda body: body["changed_tensors"].update(changed=3)),
        ("train", "gradient", lambda body: body["grad_norm"].update(min=0.0)),
    ],
)
def test_arithmetic_that_does_not_add_up_is_named(
    proven: Run, stage: str, name: str, change: Callable[[dict[str, Any]], None]
) -> None:
    edit(proven, stage, change)
    assert (stage, name, "changed") in failed(proven)


def test_a_receipt_that_says_less_is_not_checked(proven: Run) -> None:
    edit(proven, "train", lambda body: (body.pop("supervised"), body.update(grad_norm={"min": None})))
    states = {item.name: item.state for item in verify(proven)}
    assert states["supervised"] == states["gradient"] == "not checked"


def test_an_edited_receipt_breaks_the_link_after_it(proven: Run) -> None:
    edit(proven, "data", lambda body: body["tokens"].update(train=601))
    assert failed(proven) == [("train", "chain", "changed")]


def test_an_edited_last_receipt_is_not_what_the_card_names(proven: Run) -> None:
    edit(proven, "eval", lambda body: body["tuned"].update(loss=0.1))
    assert failed(proven) == [("card", "adapter/README.md", "changed")]


def test_a_chain_rewritten_as_a_whole_shows_against_the_card(proven: Run, rows: Path, base: Path) -> None:
    (proven.folder / ADAPTER[1]).write_text("another adapter")
    receipt.write(proven, "data", data_body(proven, rows))
    receipt.write(proven, "train", train_body(proven, base))
    receipt.write(proven, "eval", EVAL)
    assert failed(proven) == [("card", "adapter/README.md", "changed")]


def test_a_card_of_an_earlier_link_and_one_without_a_line(proven: Run) -> None:
    digest = receipt.digest(proven, "train")
    assert digest
    card(proven, digest)
    assert failed(proven) == []
    (proven.folder / "adapter" / "README.md").write_text("my own words")
    (item,) = [item for item in verify(proven) if item.stage == "card"]
    assert (item.state, item.failed) == ("absent", False)


@pytest.mark.parametrize(("gone", "found"), [("data", "train"), ("train", "eval")])
def test_a_receipt_that_is_gone_is_missed(proven: Run, gone: str, found: str) -> None:
    receipt.path(proven, gone).unlink()
    missed = failed(proven)
    assert (gone, "receipt", "absent") in missed and (found, "chain", "absent") in missed


def test_a_run_that_is_not_finished_has_fewer_receipts(run: Run, rows: Path) -> None:
    (run.folder / "rejects.jsonl").write_text("")
    receipt.write(run, "data", data_body(run, rows))
    items = verify(run)
    assert verdict(items) == "ok"
    assert [item.stage for item in items if item.state == "not checked"] == ["train", "eval"]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"stage": "eval"}'])
def test_a_damaged_receipt_is_changed(proven: Run, text: str) -> None:
    receipt.path(proven, "train").write_text(text)
    assert ("train", "chain", "changed") in failed(proven)


def test_a_receipt_with_the_wrong_shapes_is_no_crash(proven: Run) -> None:
    edit(proven, "train", lambda body: body.update(base=[1], files="x", supervised=None, grad_norm=3))
    edit(proven, "data", lambda body: body.update(inputs={"a": 1}, rows=[1], files=None))
    assert failed(proven)


def test_a_receipt_cannot_point_outside_the_run(proven: Run) -> None:
    edit(proven, "train", lambda body: body["files"].update({"../../../etc/hostname": "00"}))
    assert ("train", "../../../etc/hostname", "changed") in failed(proven)


def test_no_receipt_yet(run: Run) -> None:
    for look in (receipt.read, verify):
        with pytest.raises(InputError) as caught:
            look(run)
        assert caught.value.finding.code == "receipt.missing"


def test_a_base_that_has_changed_is_refused(proven: Run, base: Path) -> None:
    receipt.refuse_changed_base(proven, base)
    (base / "tokenizer.json").write_text("another")
    (base / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"model\.safetensors, tokenizer\.json differ") as error:
        receipt.refuse_changed_base(proven, base)
    assert error.value.finding.code == "model.changed"
    (base / "model.safetensors").write_text("model.safetensors")
    with pytest.raises(InputError, match=r"tokenizer\.json differs"):
        receipt.refuse_changed_base(proven, base)


def test_a_run_that_names_no_base_yet_is_let_through(run: Run, base: Path) -> None:
    receipt.refuse_changed_base(run, base)


def test_a_base_that_changes_before_the_first_receipt_is_noticed(make: Callable[..., Run], base: Path) -> None:
    run = make(base={"files": durable.digests([base / "model.safetensors"], base)})
    receipt.refuse_changed_base(run, base)
    (base / "model.safetensors").write_text("another")
    with pytest.raises(InputError, match=r"model\.safetensors differs") as error:
        receipt.refuse_changed_base(run, base)
    assert error.value.finding.code == "model.changed"

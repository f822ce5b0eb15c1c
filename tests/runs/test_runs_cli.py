"""`ft runs` and `ft receipt` as a person and a program call them."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from proven_run import ADAPTER

from truetune import cli
from truetune.runs import durable, receipt
from truetune.runs.checkpoints import Checkpoints
from truetune.runs.run import Run
from truetune.runs.status import Status

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def ft(capfd: pytest.CaptureFixture[str]) -> Call:
    def call(*args: str) -> tuple[int, str, str]:
        code = cli.run(args)
        return code, *capfd.readouterr()

    return call


def document(text: str) -> Any:
    body = json.loads(text)
    assert body["schema"] == 1
    return body


def test_no_run_yet(ft: Call) -> None:
    code, out, _ = ft("runs", "list")
    assert code == 0 and "ft demo" in out
    assert document(ft("runs", "list", "--json")[1])["runs"] == []
    assert ft("runs", "show")[0] == 3


def test_the_list_shows_state_and_figures(ft: Call, run: Run) -> None:
    Status.update(run, state="running", steps=10)
    Status.update(run, step=4, figures={"loss": 1.23456, "eval_loss": None})
    code, out, _ = ft("runs", "list")
    assert code == 0 and all(word in out for word in ("one", "running", "4/10", "1.235"))
    (row,) = document(ft("runs", "list", "--json")[1])["runs"]
    assert (row["id"], row["state"], row["step"]) == ("one", "running", 4)


def test_show_says_what_ended_a_run_and_how_to_go_on(ft: Call, run: Run) -> None:
    Checkpoints(run).save(3, lambda folder: None, {})
    Checkpoints(run).mark_best(3, 0.5)
    Status.update(run, state="failed", error={"code": "train.nan", "message": "the loss is NaN", "hint": "lower it"})
    code, out, _ = ft("runs", "show", "one")
    assert code == 0
    assert all(text in out for text in ("failed", "the loss is NaN", "lower it", "step-3", "ft train --from one"))
    body = document(ft("runs", "show", "one", "--json")[1])
    assert body["checkpoints"] == ["step-3"] and body["best"] == {"step": 3, "eval_loss": 0.5}


def test_stop_asks_a_running_run_only(ft: Call, run: Run) -> None:
    code, _, err = ft("runs", "stop")
    assert code == 2 and "created" in err
    Status.update(run, state="running")
    code, out, _ = ft("runs", "stop", "one")
    assert code == 0 and "ft train --from one" in out
    assert run.stop_requested()


@pytest.mark.parametrize("args", [(), ("last",), ("show",), ("show", "last"), ("one",), ("./runs/one",)])
def test_every_way_to_ask_for_the_page(ft: Call, proven: Run, args: tuple[str, ...]) -> None:
    code, out, _ = ft("receipt", *args)
    assert code == 0
    assert all(text in out for text in ("10 read → 8 used", "1 duplicates", "300 supervised", "loss 3 → 2 (−33%)"))


def test_the_page_as_a_document(ft: Call, proven: Run) -> None:
    body = document(ft("receipt", "--json")[1])
    assert body["stages"] == receipt.read(proven)


def test_a_page_that_cannot_be_read(ft: Call, proven: Run) -> None:
    durable.write_json(receipt.path(proven, "train"), {"stage": "train"})
    code, _, err = ft("receipt")
    assert code == 3 and "receipts/train.json" in err


def test_verify_is_quiet_success_or_names_what_changed(ft: Call, proven: Run) -> None:
    code, out, _ = ft("receipt", "verify", "last")
    assert code == 0 and "✓" in out and "✗" not in out
    assert document(ft("receipt", "verify", "--json")[1])["verdict"] == "ok"
    (proven.folder / ADAPTER[1]).write_text("changed")
    code, out, err = ft("receipt", "verify", "last")
    assert code == 1 and "✗" in out and ADAPTER[1] in err
    code, out, _ = ft("receipt", "verify", "--json")
    body = document(out)
    assert code == 1 and body["verdict"] == "changed" and body["error"]["code"] == "receipt.changed"
    assert [item["name"] for item in body["items"] if item["state"] == "changed"] == [ADAPTER[1]]


def test_verify_takes_the_places_of_inputs(ft: Call, proven: Run, rows: Any, base: Any) -> None:
    base.rename(base.parent / "moved")
    page = ft("receipt", "verify")[1]
    assert "–" in page and "could not be checked" in page
    code, out, _ = ft("receipt", "verify", "--base", str(base.parent / "moved"), "--data", str(rows))
    assert code == 0 and "–" not in out
    assert ft("receipt", "verify", "--data", "nowhere")[0] == 2

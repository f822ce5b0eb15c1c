"""`ft evaluate` on real runs: figures that agree with the training's, files, receipts, and every way out."""

from __future__ import annotations

import hashlib
import json
import signal
from pathlib import Path

import pytest
from real_ft import Ft, rows, wait

pytestmark = pytest.mark.slow

SHORT = {"data": {"path": "rows.jsonl", "validation": 12}, "training": {"max_steps": 6}, "evaluation": {"samples": 0}}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Ft:
    """A finished run of 48 rows, 12 of them held out."""
    ft = Ft(tmp_path_factory.mktemp("trained"))
    ft.rows(48)
    ft.config(**SHORT)
    said = ft("train", "--json")
    assert said.code == 0, said.err
    return ft


def test_the_best_checkpoint_has_the_loss_of_its_receipt(trained: Ft) -> None:
    said = trained("evaluate", "last", "--checkpoint", "best", "--json")
    assert said.code == 0, said.err
    found, receipt = said.document, trained("receipt", "--json").document["stages"]
    for side in ("base", "tuned"):
        assert found["figures"]["loss"][side]["value"] == pytest.approx(receipt["eval"][side]["loss"], rel=1e-5)
    assert (found["checkpoint"], found["task"], found["data"]["rows"]) == ("step-6", "instruction", 12)
    assert found["data"]["supervised"] == receipt["eval"]["supervised"]
    assert found["figures"]["loss"]["verdict"] == "better"
    assert found["order"][:4] == ["loss", "perplexity", "exact_match", "chrf"]
    assert "answers 12/12" in said.err

    # It stands in the run, and is proven.
    path = trained.run() / "eval" / "step-6.json"
    assert json.loads(path.read_bytes()) == found
    proof = receipt["evaluate-step-6"]
    assert proof["parent"] == sha256(trained.run() / "receipts" / "train.json")
    assert list(proof["files"]) == ["eval/step-6.json"]
    assert proof["figures"][0]["title"] == "loss"
    assert "measured" in trained("receipt").out

    # A changed file is named, and measuring again puts it right.
    path.write_text(path.read_text().replace("better", "worse"))
    verdict = trained("receipt", "verify", "--json")
    assert verdict.code == 1
    assert [item["name"] for item in verdict.document["items"] if item["state"] == "changed"] == ["eval/step-6.json"]
    assert trained("evaluate").code == 0
    assert trained("receipt", "verify").code == 0
    assert [path.name for path in path.parent.iterdir()] == ["step-6.json"]

    # A quick look stands beside it.
    before = path.read_bytes()
    said = trained("evaluate", "--no-generate")
    assert said.code == 0, said.err
    assert "12 held-out rows of rows.jsonl" in said.out and "better" in said.out
    assert len(list(path.parent.iterdir())) == 2 and path.read_bytes() == before
    assert trained("receipt", "verify").code == 0
    for place in path.parent.glob("step-6-*.json"):
        (trained.run() / "receipts" / f"evaluate-{place.name}").unlink()
        place.unlink()


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_rows_of_another_file(trained: Ft) -> None:
    """Rows that were learned are counted; the result stands beside the run's own."""
    fresh = [{"instruction": f"Say {number}.", "output": f"It is {number}."} for number in range(4)]
    path = trained.write("more.jsonl", "".join(json.dumps(row) + "\n" for row in [*rows(48), *fresh, {"output": 1}]))
    said = trained("evaluate", "--data", "more.jsonl", "--no-generate", "--json")
    assert said.code == 0, said.err
    data = said.document["data"]
    assert (data["rows"], data["contaminated"], data["held_out"]) == (48, 36, False)
    assert data["left_out"] == {"rejected": 5}
    assert "36 of these 48 rows were trained on" in said.err
    name = [path.stem for path in (trained.run() / "eval").glob("step-6-*.json")]
    assert len(name) == 1 and (trained.run() / "receipts" / f"evaluate-{name[0]}.json").exists()
    path.write_text("changed")
    assert trained("receipt", "verify").code == 1
    for place in (path, trained.run() / "eval" / f"{name[0]}.json"):
        place.unlink()
    (trained.run() / "receipts" / f"evaluate-{name[0]}.json").unlink()


def test_python_gives_the_same(trained: Ft) -> None:
    asked = "checkpoint='best', limit=7, max_new_tokens=8"
    said = trained.python(f"import json, truetune as ft\nprint(json.dumps(ft.evaluate('last', {asked})))")
    assert said.code == 0, said.err
    again = trained("evaluate", "--limit", "7", "--max-new-tokens", "8", "--json")
    assert json.loads(said.out) | {"subject": {}} == again.document | {"subject": {}}
    lengths = [row["tuned"]["tokens"] for row in again.document["rows"]]
    assert len(lengths) == 7 and max(lengths) <= 8


def test_a_model_and_an_adapter_alone(trained: Ft) -> None:
    """Nothing is written but what was asked for."""
    before = trained.tree()
    said = trained("evaluate", "starter", "--data", "rows.jsonl", "--limit", "6", "--no-generate", "--out", "b.json")
    assert said.code == 0, said.err
    written = json.loads((trained.folder / "b.json").read_bytes())
    assert written["figures"]["loss"]["tuned"] is None and written["checkpoint"] is None
    (trained.folder / "b.json").unlink()
    assert trained.tree() == before
    for args, code, name in (
        (("evaluate", "starter"), 2, "evaluate.no_data"),
        (("evaluate", "--data", "none.jsonl"), 3, "data.missing"),
        (("evaluate", "--checkpoint", "step-99"), 3, "checkpoint.missing"),
        (("evaluate", "nobody"), 3, "run.missing"),
        (("evaluate", "--temperature", "9"), 2, "generation.bad_value"),
    ):
        said = trained(*args, "--json")
        assert (said.code, said.document["error"]["code"]) == (code, name), said.err


def test_ctrl_c_leaves_nothing_behind(trained: Ft) -> None:
    before = trained.tree()
    # Answers that go on and on, one after the other: they have not begun when the base's loss is known.
    process = trained.start("evaluate", "--max-new-tokens", "900", "--temperature", "5", "--slots", "1")
    lines = iter(process.stderr)  # type: ignore[arg-type]
    wait(lambda: "base: loss" in next(lines), process)
    process.send_signal(signal.SIGINT)
    said = trained.end(process)
    assert said.code == 130
    assert trained.tree() == before


@pytest.mark.parametrize(
    ("name", "sections", "figure"),
    [
        ("full", {"method": "full", "training": {"max_steps": 2, "learning_rate": 1e-4}}, "chrf"),
        ("none", {"data": {"path": "rows.jsonl", "validation": None}, "training": {"max_steps": 2}}, ""),
        ("texts", {"data": {"path": "texts.txt"}, "training": {"max_steps": 2}}, "bits_per_byte"),
    ],
)
def test_other_runs(ft: Ft, name: str, sections: dict[str, object], figure: str) -> None:
    ft.rows()
    ft.write("texts.txt", "".join(f"{row['prompt']} {row['completion']}\n" for row in rows(40)))
    ft.config(**({"evaluation": {"samples": 0}} | sections))
    said = ft("train", "--json")
    assert said.code == 0, said.err
    said = ft("evaluate", "--json", "--max-new-tokens", "12")
    if not figure:
        assert (said.code, said.document["error"]["code"]) == (3, "evaluate.no_rows")
        assert "--data" in said.document["error"]["hint"]
        return
    assert said.code == 0, said.err
    receipt = ft("receipt", "--json").document["stages"]["eval"]
    figures = said.document["figures"]
    assert figures["loss"]["tuned"]["value"] == pytest.approx(receipt["tuned"]["loss"], rel=1e-5)
    assert figures["loss"]["base"]["value"] == pytest.approx(receipt["base"]["loss"], rel=1e-5)
    assert figures[figure]["tuned"]["value"] > 0
    assert ft("receipt", "verify").code == 0

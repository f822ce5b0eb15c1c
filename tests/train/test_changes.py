"""A run goes on with more steps, other cadences or less memory, and with nothing else; and with no checkpoint that is
another run's."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

from test_every_field import PROOFS
from test_loop import EVERY_TWO, loop, losses

import truetune as ft
from truetune.config import load
from truetune.engines.base import EngineSpec, Method
from truetune.engines.torch import tiny
from truetune.engines.torch.engine import TorchEngine
from truetune.errors import InputError, TrueTuneError, UsageError
from truetune.runs import alike
from truetune.runs.checkpoints import Checkpoints
from truetune.runs.metrics import Metrics
from truetune.runs.run import Run
from truetune.runs.verify import verify
from truetune.train import changes, session, surroundings, whereabouts
from truetune.train.session import version
from truetune.train.settings import ALLOWED
from truetune.train.state import State


def settings(folder: Path, name: str, steps: int, **sections: Any) -> dict[str, Any]:
    rows = ({"prompt": f"What does code {i} mean?", "completion": f"Oil part {i * 7 % 13}."} for i in range(24))
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {
        "model": "starter",
        "data": str(folder / "rows.jsonl"),
        "method": {"r": 4, "dropout": 0.0},
        "training": {"max_steps": steps, "epochs": 100, "scheduler": "constant", "warmup": 0, "batch_size": 2},
        "evaluation": {"every": None, "samples": 0},
        "checkpoints": {"every": "2 steps", "best": False},
        "output": {"dir": str(folder / name), "log": []},
    } | sections


def trained(folder: Path, name: str, steps: int, **sections: Any) -> Run:
    return Run(ft.train(settings(folder, name, steps, **sections)).folder)


def test_more_steps_are_as_if_they_had_been_asked_for_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a finished run, with a constant rate; two times, the second with another cadence, less memory, and by another
    version of torch (as it seems)."""
    straight, run = trained(tmp_path, "straight", 6), trained(tmp_path, "run", 2)
    said = list[str]()

    def heard(kind: str, figures: dict[str, Any]) -> None:
        if kind == "warning":
            said.append(figures["text"])

    ft.train(from_=str(run.folder), overrides=["training.max_steps=4"], listener=heard)
    assert "training.max_steps (2 → 4)" in said[0] and "4 steps now" in said[0]
    more = ["training.max_steps=6", "checkpoints.every=1 steps", "resources.memory=900MB"]
    monkeypatch.setattr(surroundings, "version", lambda name: "0.1" if name == "torch" else version(name))
    ft.train(from_=str(run.folder), overrides=more, listener=heard)
    assert "→ 0.1)" in said[-1] and "from step 4 on: torch (" in said[-1]
    run = Run(run.folder)
    differs = {part: name for part, name in alike.compare(straight, run).items() if name}
    assert differs == {"state": "changes", "log": "eval 2"}  # it was measured where it ended first
    logged, own = dict(alike.log(straight)), dict(alike.log(run))
    assert logged.items() <= own.items()
    assert run.resolved["memory"]["free"] == 900_000_000 and run.resolved["plan"]["steps"] == 6
    receipt = json.loads((run.folder / "receipts/train.json").read_text())
    assert [(each["step"], sorted(each["fields"])) for each in receipt["changes"]] == [
        (2, ["training.max_steps"]),
        (4, ["checkpoints.every", "resources.memory", "training.max_steps"]),
        (4, ["torch"]),
    ]
    assert "changes.json" in receipt["files"]
    assert receipt["supervised"]["promised"] == receipt["supervised"]["counted"]
    assert [item for item in verify(run) if item.failed] == []
    events = Metrics(run.folder / "metrics.jsonl").read("event")
    assert [(row["step"], row["event"]) for row in events] == [(2, "settings"), (4, "settings"), (4, "surroundings")]

    with pytest.raises(UsageError) as error:
        ft.train(from_=str(run.folder), overrides=["training.learning_rate=1e-3", "method.r=8", "training.epochs=9"])
    assert error.value.code == "resume.changed"
    assert "method.r (4 → 8), training.learning_rate (0.0002 → 0.001)" in error.value.message
    assert "epochs" not in error.value.message
    for overrides, code in ((["training.max_steps=3"], "resume.over"), ([], "resume.finished")):
        with pytest.raises(UsageError) as error:
            ft.train(from_=str(run.folder), overrides=overrides)
        assert error.value.code == code
    assert json.loads((run.folder / "changes.json").read_text())["resolved"] == run.resolved

    other = trained(tmp_path, "other", 1, method={"r": 8, "dropout": 0.0})
    shutil.copytree(run.folder / "checkpoints/step-000006", other.folder / "checkpoints/step-000006")
    with pytest.raises(InputError, match=r"method\.r is 4 there and 8 here") as refused:
        ft.train(from_=f"{other.folder}:step-6", overrides=["training.max_steps=9"])
    assert refused.value.code == "checkpoint.other_run"
    there = f"{other.folder}:step-6"
    looks: list[Callable[[], Any]] = [
        lambda: ft.evaluate(there, generate=False),
        lambda: ft.generate("What does code 3 mean?", there),
        lambda: ft.export(there, format="merged", out=tmp_path / "out"),
        lambda: ft.export(there, format="peft", out=tmp_path / "out"),
        lambda: ft.adapters_merge([there, str(run.folder)], name="both"),
    ]
    for look in looks:
        with pytest.raises(InputError, match=r"method\.r is 4 there and 8 here") as refused:
            look()
        assert refused.value.code == "checkpoint.other_run"
    assert not (tmp_path / "out").exists()


def test_every_key_may_change_or_is_refused_by_name(tmp_path: Path) -> None:
    """Each key of train.yml alone, by `--set`: 11 are taken, every other is refused, and named with both values."""
    loaded = load(None, (), settings(tmp_path, "run", 4, evaluation={"every": "1 steps", "samples": 0}))
    run = session.create(session.gather(loaded.config, loaded.folder), loaded, tmp_path / "run")
    taken, refused = set[str](), set[str]()
    values = {key: proof.value for key, proof in PROOFS.items()} | {
        "training.gradient_accumulation_steps": 2,
        "training.scheduler": "linear",
        "checkpoints.every": "5 steps",
    }
    for key, value in values.items():
        try:
            fields = changes.asked(run, None, [f"{key}={json.dumps(value)}"]).fields
        except TrueTuneError as error:
            if error.code == "resume.changed":
                assert f"{key} (" in error.message and " → " in error.message, key
            assert error.exit_code == 2, (key, error.code)
            refused.add(key)
        else:
            assert [*fields] == [key], (key, fields)
            taken.add(key)
    assert taken == ALLOWED
    assert taken | refused == PROOFS.keys() and len(refused) > 40


def test_a_resume_under_another_token_budget_is_equal_within_rounding(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tiny.make(tmp_path_factory.mktemp("model"), "llama")
    straight, run = (Run.create(tmp_path / name, train_yml=b"", resolved={}, env={}) for name in ("a", "b"))

    def part(into: Run, budget: int, state: State) -> Any:
        made = loop(into, folder, rules=EVERY_TWO, state=state)
        method = Method(r=4, alpha=8, dropout=0.0)
        made.engine = TorchEngine(EngineSpec(model=folder, method=method, token_budget=budget))
        return made

    part(straight, 64, State(token_budget=64)).fit()
    first = part(run, 64, State(token_budget=64))
    first.journal.listener = lambda kind, figures: run.request_stop() if figures.get("step") == 4 else None
    assert first.fit() == "the stop file"
    run.clear_stop()
    kept = Checkpoints(run)
    last = kept.find("last")
    again = part(run, 20, State.from_json(kept.load_state(last)))
    again.engine.restore(last.folder)
    again.journal.log.resume(last.step)
    plans = [each.engine.prepare(each.train[:5]) for each in (first, again)]
    assert len(plans[0].micro_batches) < len(plans[1].micro_batches)
    assert again.fit() == "done"
    one, other = losses(straight), losses(run)
    assert one.keys() == other.keys() and one != other
    assert np.allclose([*one.values()], [*other.values()], rtol=1e-5)


def test_rows_are_named_by_file_and_line(tmp_path: Path) -> None:
    """Of two files, with an empty line between rows; by number once a file is gone."""
    (tmp_path / "one.jsonl").write_text('{"text": "a"}\n\n{"text": "b"}\n')
    (tmp_path / "two.jsonl").write_text('{"text": "c"}\n{"text": "d"}\n')
    files = [tmp_path / "one.jsonl", tmp_path / "two.jsonl"]
    inputs = [{"resolved": str(path), "path": path.name, "bytes": path.stat().st_size} for path in files]
    where = whereabouts.of({"inputs": inputs})
    assert where([3, 1, 1]) == ["one.jsonl:3", "two.jsonl:2"]
    files[1].unlink()
    assert where([3, 1]) == ["row 2", "row 4"]
    assert whereabouts.listed(["a", "b", "c", "d", "e", "f"]) == "a, b, c, d and 2 more"

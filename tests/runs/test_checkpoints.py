"""Checkpoints: whole, found by name, kept in number, quarantined when damaged."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from truetune.errors import InputError, UsageError
from truetune.runs import durable
from truetune.runs.checkpoints import Checkpoints
from truetune.runs.run import Run

FILES = ("adapter.safetensors", "optimizer.safetensors", "rng.json")


def fill(folder: Path) -> None:
    for name in FILES:
        (folder / name).write_bytes(name.encode() * 9)


@pytest.fixture
def kept(run: Run) -> Checkpoints:
    """Steps 100, 200, 300."""
    checkpoints = Checkpoints(run)
    for step in (100, 200, 300):
        checkpoints.save(step, fill, {"step": step, "loss": 0.1})
    return checkpoints


def silent(text: str) -> None:
    raise AssertionError(text)


def steps(checkpoints: Checkpoints) -> list[int]:
    return [checkpoint.step for checkpoint in checkpoints.list()]


def test_state_comes_back_bit_for_bit(run: Run) -> None:
    state = {"loss": 0.1 + 0.2, "tiny": 5e-324, "best": None, "order": [1, 2], "seed": 2**63}
    saved = Checkpoints(run).save(7, fill, state)
    assert saved.folder.name == "step-000007" and saved.name == "step-7"
    assert Checkpoints(run).load_state(saved) == state


def test_steps_beyond_six_digits_sort_by_number(run: Run) -> None:
    for step in (1_000_000, 999_999):
        Checkpoints(run).save(step, fill, {})
    assert steps(Checkpoints(run)) == [999_999, 1_000_000]


def test_the_newest_good_one(kept: Checkpoints) -> None:
    found = kept.newest_good(silent)
    assert found and found.step == 300


@pytest.mark.parametrize("name", [*FILES, "state.json", "manifest.json"])
@pytest.mark.parametrize("damage", ["flip", "cut", "gone"])
def test_a_damaged_one_is_passed_over_named_and_kept(kept: Checkpoints, name: str, damage: str) -> None:
    path = kept.root / "step-000300" / name
    data = path.read_bytes()
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(data[:-1] if damage == "cut" else data[:-2] + bytes([data[-2] ^ 1]) + data[-1:])
    said: list[str] = []
    found = kept.newest_good(said.append)
    assert found and found.step == 200
    assert len(said) == 1 and "step-300" in said[0] and name in said[0]
    assert (kept.root / "quarantine" / "step-000300").is_dir()
    assert steps(kept) == [100, 200]


def test_two_damaged_ones_of_a_step_are_both_kept(kept: Checkpoints) -> None:
    for _ in range(2):
        kept.save(300, fill, {})
        (kept.root / "step-000300" / FILES[0]).unlink()
        kept.newest_good(lambda text: None)
    assert sorted(os.listdir(kept.root / "quarantine")) == ["step-000300", "step-000300.2"]


def test_none_when_none_is_good(run: Run) -> None:
    assert Checkpoints(run).newest_good(silent) is None


def test_names(kept: Checkpoints) -> None:
    kept.mark_best(200, 1.5)
    assert kept.best() == {"step": 200, "eval_loss": 1.5}
    named = {"best": 200, "last": 300, None: 300, "step-100": 100, "step-000100": 100}
    assert {name: kept.find(name).step for name in named} == named


def test_a_name_that_leads_nowhere(kept: Checkpoints) -> None:
    for name, error, code in [
        ("step-150", InputError, "checkpoint.missing"),
        ("best", InputError, "checkpoint.missing"),
        ("newest", UsageError, "checkpoint.name"),
        ("step-../../x", UsageError, "checkpoint.name"),
    ]:
        with pytest.raises(error) as caught:
            kept.find(name)
        assert caught.value.finding.code == code
    with pytest.raises(InputError) as caught:
        kept.find("step-150")
    assert "step-100, step-200, step-300" in caught.value.finding.hint


def test_a_damaged_one_asked_for_by_name_is_refused(kept: Checkpoints) -> None:
    (kept.root / "step-000200" / FILES[0]).write_bytes(b"other")
    with pytest.raises(InputError) as caught:
        kept.find("step-200")
    assert caught.value.finding.code == "checkpoint.damaged" and FILES[0] in caught.value.finding.message


@pytest.mark.parametrize(
    ("keep", "best", "left"),
    [(2, None, [200, 300]), (1, 100, [100, 300]), (0, None, [300]), (9, None, [100, 200, 300])],
)
def test_collect_keeps_the_newest_and_the_best(kept: Checkpoints, keep: int, best: int | None, left: list[int]) -> None:
    kept.collect(keep, best)
    assert steps(kept) == left
    assert kept.newest_good(silent)


def damage(kept: Checkpoints, step: int) -> None:
    (kept.root / f"step-{step:06d}" / FILES[0]).write_bytes(b"other")


@pytest.mark.parametrize(("damaged", "left"), [([300], [200, 300]), ([200, 300], [100, 300]), ([], [300])])
def test_collect_never_removes_the_last_whole_one(kept: Checkpoints, damaged: list[int], left: list[int]) -> None:
    for step in damaged:
        damage(kept, step)
    Checkpoints(kept.run).collect(1)
    assert steps(kept) == left
    assert kept.newest_good(lambda text: None)


def test_rewind_sets_a_given_up_future_aside(kept: Checkpoints) -> None:
    kept.mark_best(300, 1.0)
    said: list[str] = []
    kept.rewind(100, said.append)
    assert steps(kept) == [100] and len(said) == 2
    assert kept.best() is None
    assert sorted(os.listdir(kept.root / "quarantine")) == ["step-000200", "step-000300"]


def test_saving_a_step_again_replaces_it(kept: Checkpoints) -> None:
    again = kept.save(300, fill, {"step": 300, "loss": 0.2})
    assert kept.load_state(again)["loss"] == 0.2 and durable.check(again.folder) == []


def test_a_kill_in_the_middle_of_a_save(kept: Checkpoints) -> None:
    code = (
        "import os, sys\nfrom pathlib import Path\n"
        "from truetune.runs.checkpoints import Checkpoints\nfrom truetune.runs.run import Run\n"
        "def fill(folder):\n    (folder / 'half').write_bytes(b'1')\n    os._exit(9)\n"
        "Checkpoints(Run(Path(sys.argv[1]))).save(400, fill, {})\n"
    )
    assert subprocess.run([sys.executable, "-c", code, str(kept.run.folder)]).returncode == 9
    assert any(name.startswith(".tmp-") for name in os.listdir(kept.root))
    with kept.run.lock():
        found = kept.newest_good(silent)
    assert found and found.step == 300
    assert sorted(os.listdir(kept.root)) == ["step-000100", "step-000200", "step-000300"]

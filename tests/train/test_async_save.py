"""Checkpoints are written beside the training: told only when they are on the disk, one at a time, as the state was."""

from __future__ import annotations

import errno
import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

from test_loop import loop  # the loop over a tiny model

from truetune.config import Cadence
from truetune.engines.base import Snapshot, snapshot
from truetune.engines.torch import tiny
from truetune.errors import Forced, ResourceError
from truetune.runs import alike, durable
from truetune.runs.checkpoints import Checkpoints
from truetune.runs.disk import Disk
from truetune.runs.metrics import Metrics
from truetune.runs.run import Run
from truetune.train import keeper
from truetune.train.plan import Rules
from truetune.train.saver import GivenUp, Saver

EVERY_THREE = Rules(evaluate=None, save=Cadence(3, "steps"), keep=9, best=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.make(tmp_path_factory.mktemp("model"), "llama")


def made(folder: Path) -> Run:
    return Run.create(folder, train_yml=b"", resolved={}, env={}, listed=False)


class Gate(Disk):
    """A disk on which the rename of a checkpoint waits until it is let through."""

    def __init__(self, name: str) -> None:
        self.name, self.reached, self.open = name, threading.Event(), threading.Event()

    def rename(self, source: Path, target: Path) -> None:
        if target.name == self.name:
            self.reached.set()
            assert self.open.wait(30)
        super().rename(source, target)


def test_training_goes_on_and_a_checkpoint_is_told_when_it_stands(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The checkpoint of step 3 is held back until step 5 is done: it holds step 3, and is told after step 5."""
    straight, run = made(tmp_path / "straight"), made(tmp_path / "run")
    monkeypatch.setattr(keeper, "snapshot", lambda engine: Snapshot((engine.save,), copied=False))
    loop(straight, folder, rules=EVERY_THREE).fit()
    monkeypatch.setattr(keeper, "snapshot", snapshot)
    gate, heard = Gate("step-000003"), list[tuple[str, int]]()
    monkeypatch.setattr(durable, "disk", gate)

    def listen(kind: str, figures: dict[str, Any]) -> None:
        heard.append((kind, figures["step"]))
        if (kind, figures["step"]) == ("train", 5):
            assert gate.reached.wait(30)
            assert [each.step for each in Checkpoints(run).list()] == []
            gate.open.set()

    loop(run, folder, rules=EVERY_THREE, listener=listen).fit()
    assert heard.index(("checkpoint", 3)) > heard.index(("train", 5))
    assert [row["step"] for row in Metrics(run.folder / "metrics.jsonl").read("checkpoint")] == [3, 6, 8]
    for step in ("step-000003", "step-000008"):
        for name in ("adapter_model.safetensors", "optimizer.safetensors", "rng.safetensors"):
            one, other = ((each.folder / "checkpoints" / step / name).read_bytes() for each in (straight, run))
            assert one == other, (step, name)
    assert not any(alike.compare(straight, run).values())


@pytest.mark.parametrize(("number", "code"), [(errno.ENOSPC, "disk.full"), (errno.EIO, "disk.failed")])
def test_what_the_disk_reports_to_the_thread_ends_the_run(
    number: int, code: str, tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken(Disk):
        def rename(self, source: Path, target: Path) -> None:
            if target.name == "step-000006":
                raise OSError(number, os.strerror(number))
            super().rename(source, target)

    run = made(tmp_path / "run")
    monkeypatch.setattr(durable, "disk", Broken())
    with pytest.raises(ResourceError) as error:
        loop(run, folder, rules=EVERY_THREE).fit()
    assert error.value.code == code
    assert [row["step"] for row in Metrics(run.folder / "metrics.jsonl").read("checkpoint")] == [3]
    assert [each.step for each in Checkpoints(run).list()] == [3]
    assert list((run.folder / "checkpoints").glob(".*")) == []


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_waits_for_the_last_checkpoint(
    sign: signal.Signals, tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGTERM once: step 4 is saved. Ctrl-C twice while it is being written: out, and step 3 stands."""
    run, gate = made(tmp_path / "run"), Gate("step-000004")
    monkeypatch.setattr(durable, "disk", gate)

    def wait_and_open() -> None:
        assert gate.reached.wait(30)
        if sign == signal.SIGINT:
            os.kill(os.getpid(), sign)
        gate.open.set()

    helper = threading.Thread(target=wait_and_open)
    helper.start()

    def listen(kind: str, figures: dict[str, Any]) -> None:
        if (kind, figures["step"]) == ("train", 4):
            os.kill(os.getpid(), sign)

    each = loop(run, folder, rules=EVERY_THREE, listener=listen)
    if sign == signal.SIGTERM:
        assert each.fit() == "SIGTERM"
        assert [each.step for each in Checkpoints(run).list()] == [3, 4]
    else:
        with pytest.raises(Forced):
            each.fit()
    helper.join()
    told = [row["step"] for row in Metrics(run.folder / "metrics.jsonl").read("checkpoint")]
    assert told == ([3, 4] if sign == signal.SIGTERM else [3])
    assert [thread.name for thread in threading.enumerate() if thread.name.startswith("save-step")] == []
    assert list((run.folder / "checkpoints").glob(".*")) == []


def test_a_snapshot_is_not_changed_by_later_steps(tmp_path: Path, folder: Path) -> None:
    each = loop(made(tmp_path / "run"), folder)
    for _ in range(2):
        each.step()
    (tmp_path / "now").mkdir()
    (tmp_path / "later").mkdir()
    each.engine.save(tmp_path / "now")
    taken = each.engine.snapshot()
    assert taken.copied
    each.step()
    taken.write(tmp_path / "later")
    now, later = ({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("now", "later"))
    assert now == later


def test_without_room_for_a_copy_the_next_step_waits(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("truetune.models.memory.available", lambda: 1000)
    run, heard = made(tmp_path / "run"), list[tuple[str, int]]()
    each = loop(run, folder, rules=EVERY_THREE, listener=lambda kind, figures: heard.append((kind, figures["step"])))
    each.fit()
    assert not each.engine.snapshot().copied
    assert heard.index(("checkpoint", 3)) == heard.index(("train", 3)) + 1


def test_the_work_of_a_forked_child_is_its_parents(tmp_path: Path) -> None:
    """A process that is forked while a save is in flight has no part of it, and ends at once."""
    saver, gate = Saver(), threading.Event()
    saver.start(7, lambda: gate.wait(30) and None)
    child = os.fork()
    if child == 0:
        saver.join()
        os._exit(3 if saver.done else 0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    gate.set()
    assert saver.wait() == 7
    assert saver.wait() is None


def test_what_is_given_up_is_cleared(tmp_path: Path) -> None:
    """After the first of two files of a checkpoint the program is told to end at once."""
    kept, saver = Checkpoints(made(tmp_path / "run")), Saver()

    def first(folder: Path) -> None:
        durable.create(folder / "one", b"1")
        saver.give_up()

    taken = Snapshot((first, lambda folder: pytest.fail("the second file is written")))
    saver.start(1, lambda: kept.save(1, lambda folder: taken.write(folder, saver.check), {}) and None)
    with pytest.raises(GivenUp):
        saver.wait()
    assert [path.name for path in kept.root.iterdir()] == []


def test_without_threads_the_work_is_done_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", none_left)
    saver, done = Saver(), list[int]()
    saver.start(1, lambda: done.append(1))
    assert saver.ended()
    assert (done, saver.wait()) == ([1], 1)

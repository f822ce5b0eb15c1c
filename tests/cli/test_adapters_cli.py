"""`ft adapters` as a person and a program call it, and adapters by their names elsewhere."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from finished import finished

from truetune import api, cli
from truetune.errors import InputError, UsageError

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def ft(capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Call:
    monkeypatch.setenv("TRUETUNE_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)

    def call(*args: str) -> tuple[int, str, str]:
        code = cli.run(("adapters", *args))
        return code, *capfd.readouterr()

    return call


def made(ft: Call, name: str, weights: str = "w", adapter: str | None = None) -> Path:
    run = finished(Path(f"made/{name}-{weights}").absolute(), weights, adapter)
    assert ft("add", str(run.folder), "--name", name)[0] == 0
    return run.folder


def test_none_yet(ft: Call) -> None:
    code, out, _ = ft("list")
    assert code == 0 and "`ft train`" in out
    assert json.loads(ft("list", "--json")[1])["adapters"] == []
    code, _, err = ft("show", "support")
    assert code == 3 and "there is no adapter `support`" in err and "Traceback" not in err


def test_the_list_is_newest_first_and_cut_short(ft: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    from truetune.cli import adapters

    for name, weights in (("a", "1"), ("b", "1"), ("a", "2")):
        made(ft, name, weights)
    lines = ft("list")[1].splitlines()
    assert [line.split()[0] for line in lines] == ["adapter", "a@2", "b@1", "a@1"]
    assert "2.000" in lines[1] and "lora" in lines[1] and "starter" in lines[1]
    monkeypatch.setattr(adapters, "SHOWN", 2)
    assert ft("list")[1].splitlines()[-1] == "… and 1 more: --all"
    assert len(ft("list", "--all")[1].splitlines()) == 4
    assert len(json.loads(ft("list", "--json")[1])["adapters"]) == 3
    assert [line.split()[0] for line in ft("list", "a")[1].splitlines()[1:]] == ["a@2", "a@1"]


def test_show_has_the_lineage(ft: Call) -> None:
    first = made(ft, "first", "1")
    folder = made(ft, "second", "2", str(first / "adapter"))
    out = ft("show", "second")[1]
    assert "second@1" in out and str(folder) in out
    assert out.splitlines()[-3:] == ["lineage", "second@1  lora on starter", "  first@1  lora on starter"]
    found = json.loads(ft("show", "first", "--json")[1])
    assert found["children"] == ["second@1"] and found["present"]
    shutil.rmtree(first)
    assert "(gone)" in ft("show", "first")[1]


def test_stages(ft: Call) -> None:
    made(ft, "a")
    assert "a@1 is in production" in ft("promote", "a", "--note", "held-out loss 2.0")[1]
    assert "held-out loss 2.0" in ft("show", "a@production")[1]
    code, _, err = ft("remove", "a")
    assert code == 2 and "--stage none" in err
    assert "in no stage" in ft("promote", "a@1", "--stage", "none")[1]
    code, _, err = ft("promote", "a", "--stage", "live")
    assert code == 2 and "staging, production, none" in err


def test_compare_rename_remove(ft: Call) -> None:
    one, two = made(ft, "a", "1"), made(ft, "a", "2")
    body = json.loads((two / "resolved.json").read_text())
    body["config"]["training"]["learning_rate"] = 1e-3
    (two / "resolved.json").write_text(json.dumps(body))
    found = json.loads(ft("compare", "a@1", "a@2", "--json")[1])
    assert found["differ"] == {"training.learning_rate": [2e-4, 1e-3]}
    assert "0.0002" in ft("compare", "a@1", "a@2")[1]
    assert "in the same way" in ft("compare", "a@1", "a@1")[1]
    assert ft("rename", "a", "b")[1].split() == ["b@2,", "b@1"]
    assert str(one) in ft("remove", "b@1")[1] and one.is_dir()
    shutil.rmtree(two)
    code, _, err = ft("compare", "b", "b")
    assert code == 3 and "gone" in err and "ft adapters add" in err


def test_a_name_stands_for_the_run_elsewhere(ft: Call) -> None:
    folder = made(ft, "support")
    assert api.load("receipt_show")("support@1")["id"] == folder.name
    assert api.load("run_show")("support")["folder"] == str(folder)
    with pytest.raises(InputError, match="there is no adapter `support@9`"):
        api.load("run_show")("support@9")
    Path("support").mkdir()
    with pytest.raises(UsageError, match="is the adapter support@1 and a folder"):
        api.load("run_show")("support")
    assert api.load("run_show")("support@1")["id"] == folder.name
    shutil.rmtree(folder)
    with pytest.raises(InputError, match="are gone from where they were"):
        api.load("run_show")("support@1")

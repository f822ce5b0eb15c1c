"""`ft export` on a real run: the receipt follows it, a change of it is seen, --force and --dry-run do what they say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from real_ft import Ft

pytest.importorskip("torch")
pytest.importorskip("peft")

from truetune import cli

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    ft = Ft(tmp_path_factory.mktemp("run"))
    ft.rows(24)
    ft.config(method="lora", training={"max_steps": 2, "learning_rate": 0.01}, evaluation={"samples": 0})
    assert ft("train", "--json").code == 0
    (folder,) = (ft.folder / "runs").iterdir()
    return folder


def asked(capsys: pytest.CaptureFixture[str], *args: object) -> tuple[int, dict[str, Any]]:
    code = cli.run([*map(str, args), "--json"])
    body: dict[str, Any] = json.loads(capsys.readouterr().out)
    return code, body


def test_an_export_is_a_link_of_the_chain(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, planned = asked(capsys, "export", "starter", "--format", "merged", "--dry-run")
    assert code == 0 and planned["dry_run"] and planned["folder"] is None
    code, found = asked(capsys, "export", run, "--format", "merged")
    assert code == 0 and found["receipt"] == "export-merged"
    assert {one["state"] for one in found["parity"]["stages"]} == {"ok"}
    assert found["stored"]["dtype"] == "bfloat16" and found["stored"]["kl"] <= found["stored"]["bound"]["kl"]
    assert found["parity"]["stages"][0]["conversations"] > 4, "held-out rows are asked, too"
    card = (run / "exports" / "merged" / "README.md").read_text("utf-8")
    assert "| quantisation | ok |" in card and found["template"] in card and str(run) not in card

    receipt = json.loads((run / "receipts" / "export-merged.json").read_bytes())
    assert receipt["parent"] and receipt["export"]["folder"] == "exports/merged" and receipt["forced"] is None
    assert asked(capsys, "receipt", "verify", run)[0] == 0
    settings = run / "exports" / "merged" / "generation_config.json"
    before = settings.read_bytes()
    settings.write_text("{}")
    code, changed = asked(capsys, "receipt", "verify", run)
    assert code == 1 and "generation_config.json" in changed["error"]["message"]
    settings.write_bytes(before)


def test_what_fails_is_forced_or_not_there(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """mlx_lm reads the base's template, whatever template an adapter was trained with."""
    pytest.importorskip("mlx_lm")
    template = run / "adapter" / "chat_template.jinja"
    template.write_text(template.read_text("utf-8") + " ")
    code, found = asked(capsys, "export", run, "--format", "mlx")
    assert (code, found["error"]["code"], found["error"]["stage"]) == (1, "export.parity", "template")
    assert not (run / "exports" / "mlx").exists()

    assert cli.run(["export", str(run), "--format", "mlx", "--force"]) == 0
    assert "FORCED" in capsys.readouterr().err
    assert json.loads((run / "receipts" / "export-mlx.json").read_bytes())["forced"] == "template"
    assert cli.run(["receipt", str(run)]) == 0 and "forced: template failed" in capsys.readouterr().out

    code, whole = asked(capsys, "export", run, "--format", "mlx", "--quant", "8bit")
    assert code == 0 and whole["stored"]["dtype"] == "8bit" and whole["whole"]
    assert Path(whole["folder"]).name == "mlx-8bit"

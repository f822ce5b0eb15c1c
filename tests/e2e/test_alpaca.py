"""999 real rows, one epoch, the starter model, every default: the figures that the first run is held to."""

from __future__ import annotations

from pathlib import Path

import pytest
from real_ft import Ft

ROWS = Path(__file__).parents[3] / "shared" / "data" / "alpaca_en_demo.json"


@pytest.mark.slow
@pytest.mark.skipif(not ROWS.is_file(), reason="the rows of alpaca_en_demo.json are not at ../shared/data")
def test_an_epoch_of_alpaca(ft: Ft) -> None:
    del ft.env["OMP_NUM_THREADS"]
    process = ft.start("train", "--model", "starter", "--data", str(ROWS), "--set", "training.epochs=1", "--json")
    said = ft.end(process, limit=900)
    assert said.code == 0, said.err
    figures = said.document["figures"]
    fall = 1 - figures["eval_loss"] / figures["base_loss"]
    assert fall >= 0.2, f"held-out loss {figures['base_loss']:.4f} → {figures['eval_loss']:.4f}, {fall:.1%} less"
    stages = ft("receipt", "--json").document["stages"]
    assert stages["data"]["rows"]["read"] == 999
    for what in ("supervised", "examples"):
        assert stages["train"][what]["promised"] == stages["train"][what]["counted"] > 0
    assert ft("receipt", "verify", "last").code == 0

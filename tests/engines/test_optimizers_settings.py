"""From train.yml to the optimizer: what each key changes, and where it is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from truetune import engines
from truetune.config.load import load
from truetune.errors import ConfigErrors, ResourceError
from truetune.train.resolve import engine_spec, plan
from truetune.train.session import gather, torch_only

BASE = {"model": "starter", "data": "rows.jsonl"}


def config(*settings):
    return load(None, list(settings), BASE).config


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("rows")
    rows = [{"prompt": f"What is {n}?", "completion": f"It is {n} and no more."} for n in range(20)]
    (path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def resolved(folder, *settings):
    torch = ("resources.engine=torch", "resources.device=cpu")
    data = f"data.path={folder / 'rows.jsonl'}"
    return gather(config(data, *torch, *settings), folder).resolved


CLASHES = [
    (("method.frozen_layers=2",), "method.frozen_layers"),
    (("method.type=lora", "method.frozen_layers=1"), "method.frozen_layers"),
    (("training.scheduler=constant", "training.min_lr_ratio=0.1"), "training.min_lr_ratio"),
    (("training.scheduler=one_cycle", "training.min_lr_ratio=0.1"), "training.min_lr_ratio"),
    (("training.scheduler=one_cycle", "training.warmup=5%"), "training.warmup"),
]


@pytest.mark.parametrize(("settings", "key"), CLASHES)
def test_keys_that_nothing_would_read_are_refused(settings, key):
    with pytest.raises(ConfigErrors) as error:
        config(*settings)
    (finding,) = error.value.findings
    assert finding.code == "config.contradiction" and key in finding.where and finding.hint


BAD = ("training.ema=1", "training.ema=0", "training.neftune_alpha=0", "training.min_lr_ratio=1")


@pytest.mark.parametrize("setting", BAD)
def test_values_out_of_bounds_are_refused(setting):
    with pytest.raises(ConfigErrors):
        config(setting)


def test_schedule_and_floor_change_the_rate_of_a_step():
    def rates(*settings):
        path = plan(config("training.max_steps=20", "training.epochs=100", *settings), 64)
        return tuple(path.lr(step) for step in range(path.total))

    schedules = ("cosine", "linear", "constant", "polynomial", "wsd", "one_cycle")
    found = {rates(f"training.scheduler={name}") for name in schedules}
    assert len(found) == len(schedules)
    for name in ("cosine", "linear", "polynomial", "wsd"):
        low, high = (rates(f"training.scheduler={name}", f"training.min_lr_ratio={floor}") for floor in (0.0, 0.5))
        assert low[:2] == high[:2] and low[-1] < high[-1]


def test_what_is_written_reaches_the_engine_and_the_plan(folder):
    settings = ("training.optimizer=lion", "training.ema=0.9", "training.neftune_alpha=5")
    plain, written = resolved(folder), resolved(folder, *settings)
    spec = engine_spec(written)
    assert (spec.optimizer.type, spec.ema, spec.neftune_alpha) == ("lion", 0.9, 5.0)
    assert (engine_spec(plain).optimizer.type, engine_spec(plain).ema) == ("adamw", None)
    # Lion keeps half of what AdamW does, the mean as much again.
    assert written["memory"]["estimate"]["optimizer"] == plain["memory"]["estimate"]["optimizer"]
    light = resolved(folder, "training.optimizer=adafactor")
    assert light["memory"]["estimate"]["optimizer"] < 0.1 * plain["memory"]["estimate"]["optimizer"]


def test_frozen_layers_reach_the_engine_and_the_plan(folder):
    whole, part = (resolved(folder, "method.type=full", f"method.frozen_layers={n}") for n in (0, 2))
    assert engine_spec(part).method.frozen_layers == 2 and engine_spec(whole).method.frozen_layers == 0
    assert part["memory"]["estimate"]["gradients"] < whole["memory"]["estimate"]["gradients"]


def test_paging_on_a_processor_is_refused_before_anything_is_loaded(folder):
    with pytest.raises(ResourceError) as error:
        resolved(folder, "training.optimizer=paged_adamw_8bit")
    assert error.value.finding.code == "device.optimizer" and "adamw_8bit" in error.value.finding.hint


@pytest.mark.parametrize("setting", ["training.optimizer=muon", "training.ema=0.9", "training.neftune_alpha=5"])
def test_what_mlx_lacks_torch_computes_and_says_so(setting):
    pytest.importorskip("mlx_lm", reason="MLX is not installed")
    starter = Path(engines.__file__).parents[1] / "models" / "starter"
    lacking = [*torch_only(config(setting))]
    chosen = engines.choose("mlx", starter, "lora", "sft", lacking)
    assert chosen.name == "torch" and lacking[0] in chosen.warning
    assert engines.choose("mlx", starter, "lora", "sft", [*torch_only(config("training.optimizer=lion"))]).name == "mlx"

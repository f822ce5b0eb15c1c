"""Adapters merged and compressed: the formulas against numpy, the wiring of weights and scales, and what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("peft")

import torch
from safetensors import safe_open

import truetune as ft
from truetune import cli
from truetune.engines.base import EngineSpec, Method
from truetune.engines.torch import folded, tiny
from truetune.engines.torch.engine import TorchEngine
from truetune.errors import InputError, UsageError
from truetune.evaluate.subject import find_subject
from truetune.export import combine, compress, lowrank
from truetune.models.source import STARTER
from truetune.registry import made as registry
from truetune.runs import receipt
from truetune.runs.run import Run

LAYER = "model.layers.0.self_attn.q_proj"
METHODS = {
    "one": Method(r=4, alpha=10),
    "two": Method(r=4, alpha=2),
    "small": Method(r=2, alpha=6),
    "rs": Method(type="rslora", r=4, alpha=6),
    "some": Method(r=4, alpha=8, target_modules=("q_proj",)),
    "dora": Method(type="dora", r=4, alpha=8),
    "whole": Method(r=4, alpha=8, modules_to_save=("lm_head",)),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Adapters of noise over one tiny model, a folder each, named as `METHODS`; `model` is their base."""
    folder = tmp_path_factory.mktemp("adapters")
    model = tiny.make(folder / "model")
    shutil.copyfile(STARTER / "tokenizer.json", model / "tokenizer.json")
    shutil.copyfile(STARTER / "chat_template.jinja", model / "chat_template.jinja")
    for number, (name, method) in enumerate(METHODS.items()):
        save(model, method, folder / name, number)
    return folder


def save(model: Path, method: Method, place: Path, seed: int, new_tokens: tuple[int, ...] = ()) -> None:
    engine = TorchEngine(EngineSpec(model=model, method=method, new_tokens=new_tokens))
    generator = torch.Generator().manual_seed(seed)
    for parameter in engine.parameters.values():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    place.mkdir()
    engine.export(place)
    engine.close()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("TRUETUNE_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return tmp_path  # type: ignore[return-value]


def read(made: Path, *names: str) -> list[lowrank.Part]:
    return [lowrank.read(made / name) for name in names]


def pair(part: lowrank.Part, name: str = LAYER) -> tuple[np.ndarray, np.ndarray, float]:
    """A, B and PEFT's scale, from the files alone."""
    with safe_open(part.folder / "adapter_model.safetensors", "np") as file:
        A, B = (file.get_tensor(f"base_model.model.{name}.lora_{side}.weight").astype(np.float64) for side in "AB")
    body = json.loads((part.folder / "adapter_config.json").read_text())
    return A, B, body["lora_alpha"] / (body["r"] ** 0.5 if body["use_rslora"] else body["r"])


def change(part: lowrank.Part, name: str = LAYER) -> np.ndarray:
    A, B, scale = pair(part, name)
    return scale * B @ A


def product(found: combine.Combined | compress.Compressed, name: str = LAYER) -> np.ndarray:
    A, B = found.layers[name]
    return B.double().numpy() @ A.double().numpy()


@pytest.mark.parametrize("names", [("one", "two"), ("one", "small"), ("one", "rs", "small")])
def test_cat_is_the_weighted_sum_whatever_the_ranks(made: Path, names: tuple[str, ...]) -> None:
    parts, weights = read(made, *names), [0.7, -0.3, 1.5][: len(names)]
    found = combine.combine(parts, weights, "cat")
    wanted = sum(weight * change(part) for weight, part in zip(weights, parts, strict=True))
    np.testing.assert_allclose(product(found), wanted, rtol=1e-5, atol=1e-7)
    assert found.rank == sum(part.rank for part in parts) and found.distance < 1e-6


def test_svd_is_the_nearest_of_its_rank(made: Path) -> None:
    parts = read(made, "one", "small")
    wanted = 0.7 * change(parts[0]) + 0.3 * change(parts[1])
    U, S, Vh = np.linalg.svd(wanted)
    for rank in (None, 3):
        found = combine.combine(parts, [0.7, 0.3], "svd", rank=rank)
        kept = rank or 4
        np.testing.assert_allclose(product(found), U[:, :kept] * S[:kept] @ Vh[:kept], rtol=1e-4, atol=1e-6)
        assert found.rank == kept and 0 < found.distance < 1


def linear(parts: list[lowrank.Part], weights: list[float], masks: Any = None) -> np.ndarray:
    """PEFT's: A = Σ √(w s) A with the sign of w, B = Σ √(w s) B."""
    sides = []
    for side in (0, 1):
        total: Any = 0.0
        for part, weight in zip(parts, weights, strict=True):
            share = weight * pair(part)[2]
            total = total + pair(part)[side] * np.sqrt(abs(share)) * (np.sign(share) if side == 0 else 1)
        sides.append(total)
    return np.asarray(sides[1] @ sides[0])


@pytest.mark.parametrize("weights", [[0.7, 0.3], [0.3, 0.7], [1.0, -0.5]])
def test_linear_adds_the_matrices_with_the_roots_of_weight_and_scale(made: Path, weights: list[float]) -> None:
    parts = read(made, "one", "rs")
    found = combine.combine(parts, weights, "linear")
    np.testing.assert_allclose(product(found), linear(parts, weights), rtol=1e-4, atol=1e-6)
    assert found.rank == 4
    wanted = sum(weight * change(part) for weight, part in zip(weights, parts, strict=True))
    alone = combine.combine([parts[0]] * 2, [1.0, 0.0], "linear")  # one adapter, its scale folded in
    np.testing.assert_allclose(product(alone), change(parts[0]), rtol=1e-5, atol=1e-7)
    assert found.distance == pytest.approx(distance(parts, weights, found), rel=1e-4) and not np.allclose(
        product(found), wanted, atol=1e-3
    )


def distance(parts: list[lowrank.Part], weights: list[float], found: combine.Combined) -> float:
    """‖ΔW − Σ w ΔW‖ ÷ ‖Σ w ΔW‖ over all layers, with ΔW as whole matrices."""
    between, whole = 0.0, 0.0
    for name in found.layers:
        wanted = sum(w * change(part, name) for w, part in zip(weights, parts, strict=True))
        between += ((product(found, name) - wanted) ** 2).sum()
        whole += (wanted**2).sum()
    return float(np.sqrt(between / whole))


def test_equal_adapters_by_linear_count_once_each(made: Path) -> None:
    """Two halves are twice the adapter, as PEFT has it: the note says how far that is from the sum."""
    (part,) = read(made, "one")
    found = combine.combine([part, part], [0.5, 0.5], "linear")
    np.testing.assert_allclose(product(found), 2 * change(part), rtol=1e-4, atol=1e-6)
    assert found.distance == pytest.approx(1, rel=1e-4)


def test_ties_keeps_the_largest_numbers_where_most_agree(made: Path) -> None:
    parts, weights, density = read(made, "one", "two"), [0.6, 0.4], 0.4
    sides = []
    for side in (0, 1):
        shares = [np.sqrt(weight * pair(part)[2]) for weight, part in zip(weights, parts, strict=True)]
        tensors = []
        for part in parts:
            values = pair(part)[side]
            least = np.sort(np.abs(values), axis=None)[::-1][int(density * values.size) - 1]
            tensors.append(np.where(np.abs(values) >= least, values, 0))
        elected = np.where(sum(tensors) >= 0, 1, -1)
        agree = [np.sign(values) == elected for values in tensors]
        total = sum(share * values * mask for share, values, mask in zip(shares, tensors, agree, strict=True))
        sides.append(total / np.maximum(sum(mask.astype(float) for mask in agree), 1))
    found = combine.combine(parts, weights, "ties", density=density)
    np.testing.assert_allclose(product(found), sides[1] @ sides[0], rtol=1e-4, atol=1e-6)


def test_dare_draws_what_it_leaves_out_from_the_seed(made: Path) -> None:
    parts = read(made, "one", "two")
    first, again, other = (combine.combine(parts, [1.0, 0.0], "dare", density=0.5, seed=seed) for seed in (1, 1, 2))
    assert all(torch.equal(first.layers[name][0], again.layers[name][0]) for name in first.layers)
    assert not torch.equal(first.layers[LAYER][0], other.layers[LAYER][0])
    A, _, scale = pair(parts[0])
    ratio = first.layers[LAYER][0].numpy() / (A * np.sqrt(scale))
    kept = np.isclose(ratio, 2, rtol=1e-4)
    assert (kept | (ratio == 0)).all() and 0.3 < kept.mean() < 0.7
    whole = combine.combine(parts, [0.7, 0.3], "dare", density=1.0)
    np.testing.assert_allclose(product(whole), linear(parts, [0.7, 0.3]), rtol=1e-4, atol=1e-6)


def test_layers_that_one_of_them_lacks_are_the_others(made: Path) -> None:
    parts = read(made, "one", "some")
    found = combine.combine(parts, [0.5, 0.5], "cat")
    other = "model.layers.0.mlp.up_proj"
    np.testing.assert_allclose(product(found, other), 0.5 * change(parts[0], other), rtol=1e-5, atol=1e-7)
    assert {A.shape[0] for A, _ in found.layers.values()} == {8} and found.distance < 1e-6


@pytest.mark.parametrize(
    ("names", "method", "more", "code"),
    [
        (("one", "small"), "linear", {}, "merge.ranks"),
        (("one", "small"), "ties", {"density": 0.5}, "merge.ranks"),
        (("one", "two"), "svd", {"rank": 99}, "merge.rank"),
        (("one", "dora"), "cat", {}, "merge.unsupported"),
        (("whole", "one"), "cat", {}, "merge.unsupported"),
    ],
)
def test_what_cannot_be_merged(
    made: Path, names: tuple[str, ...], method: str, more: dict[str, Any], code: str
) -> None:
    with pytest.raises(UsageError) as caught:
        combine.combine(read(made, *names), [0.5, 0.5], method, **more)
    assert caught.value.code == code and caught.value.hint


def test_an_adapter_without_its_other_half_is_damaged(made: Path, tmp_path: Path) -> None:
    place = shutil.copytree(made / "one", tmp_path / "half")
    body = json.loads((place / "adapter_config.json").read_text())
    (place / "adapter_config.json").write_text(json.dumps(body | {"r": 5}))
    with pytest.raises(InputError, match="does not map"):
        lowrank.read(place)


@pytest.mark.parametrize("name", ["one", "rs"])
def test_compressed_is_the_nearest_of_the_rank_at_the_same_scale(made: Path, tmp_path: Path, name: str) -> None:
    (part,) = read(made, name)
    found = compress.compress(part, 2)
    compress.write(found, part, tmp_path)
    (again,) = read(tmp_path, "")
    assert again.rank == 2 and again.layout.scale == pytest.approx(part.layout.scale)
    U, S, Vh = np.linalg.svd(change(part))
    np.testing.assert_allclose(change(again), U[:, :2] * S[:2] @ Vh[:2], rtol=1e-4, atol=1e-6)
    assert found.energy[LAYER] == pytest.approx((S[:2] ** 2).sum() / (S**2).sum(), rel=1e-6)
    lost = sum((np.linalg.svd(change(part, layer))[1][2:] ** 2).sum() for layer in part.layers)
    assert found.distance == pytest.approx(
        np.sqrt(lost / sum((change(part, n) ** 2).sum() for n in part.layers)), rel=1e-4
    )
    same = compress.compress(part, None)
    assert same.distance < 1e-6 and min(same.energy.values()) == pytest.approx(1)


def test_number_types_and_what_they_do_not_reach(made: Path, tmp_path: Path) -> None:
    (part,) = read(made, "one")
    found = compress.compress(part, 3, "bf16")
    compress.write(found, part, tmp_path)
    with safe_open(tmp_path / "adapter_model.safetensors", "pt") as file:
        assert {file.get_tensor(name).dtype for name in file.keys()} == {torch.bfloat16}  # noqa: SIM118
    assert compress.compress(part, 3).distance < found.distance
    huge = lowrank.Part(part.folder, part.body, part.layout, {k: v * 1e6 for k, v in part.tensors.items()})
    for call, code in (
        (lambda: compress.compress(part, 5), "compress.rank"),
        (lambda: compress.compress(part, 0), "compress.rank"),
        (lambda: compress.compress(part, 2, "int4"), "compress.dtype"),
        (lambda: compress.compress(huge, 2, "f16"), "compress.range"),
    ):
        with pytest.raises(UsageError) as caught:
            call()
        assert caught.value.code == code


def test_dora_keeps_its_lengths(made: Path, tmp_path: Path) -> None:
    (part,) = read(made, "dora")
    compress.write(compress.compress(part, 4), part, tmp_path)
    before, after = (folded.folded(made / "model", place).state_dict() for place in (made / "dora", tmp_path))
    for name, tensor in before.items():
        torch.testing.assert_close(after[name], tensor, rtol=1e-4, atol=1e-5)


def test_a_merge_is_a_run_with_receipt_card_and_lineage(made: Path, home: Path) -> None:
    found = ft.adapters_merge([str(made / "one"), str(made / "two")], weights=[0.7, 0.3], name="both")
    assert found["adapter"]["address"] == "both@1" and found["figures"]["distance"] < 1e-6
    run = Run.open(Path(found["folder"]))
    assert run.folder.parent == home / "runs"
    body = receipt.read(run)["made"]
    assert body["settings"] == {"method": "cat", "weights": [0.7, 0.3]} and body["how"] == "merged"
    assert [parent["folder"] for parent in body["parents"]] == [str(made / "one"), str(made / "two")]
    assert ft.receipt_verify(run.folder)["verdict"] == "ok"
    card = (run.folder / "adapter/README.md").read_text()
    assert "weights | 0.7, 0.3" in card and str(made / "two") in card and "distance" in card
    # PEFT loads it, and it computes the sum.
    model = folded.folded(made / "model", run.folder / "adapter").state_dict()
    base = folded.merge.merge(folded.model.load(EngineSpec(model=made / "model"))).state_dict()
    wanted = 0.7 * change(lowrank.read(made / "one")) + 0.3 * change(lowrank.read(made / "two"))
    moved = (model[f"{LAYER}.weight"] - base[f"{LAYER}.weight"]).numpy()
    np.testing.assert_allclose(moved, wanted, rtol=1e-3, atol=1e-6)
    # It goes on like any adapter: smaller, as a child of the merge, which must stay.
    small = ft.adapter_compress("both", rank=3, dtype="bf16")
    assert small["adapter"]["address"] == "both@2" and 0 < small["figures"]["kl"] < 1
    assert small["figures"]["bytes"] < small["figures"]["bytes_before"] / 3
    assert min(small["layers"].values()) == small["figures"]["energy_min"] > 0.3
    tree = ft.adapter_show("both@2")
    (parent,) = tree["parents"]
    assert parent["adapter"]["address"] == "both@1" and parent["how"] == "compressed" and len(parent["parents"]) == 2
    for remove in (lambda: ft.adapter_remove("both@1"), lambda: ft.run_remove("both@1")):
        with pytest.raises(UsageError, match="both@2 went on from it"):
            remove()
    assert run.folder.is_dir()
    gone = ft.run_remove("both@2")
    assert gone["adapters"] == ["both@2"] and not Path(gone["folder"]).exists()
    assert ft.run_remove("both@1")["adapters"] == ["both@1"] and ft.adapters_list() == []


def test_what_a_made_run_cannot_do_is_said(made: Path, home: Path) -> None:
    found = ft.adapters_merge([made / "one", made / "small"], method="svd", name="both")
    for call, code in (
        (lambda: ft.evaluate(found["folder"]), "evaluate.no_data"),
        (lambda: ft.report(found["folder"]), "run.made"),
        (lambda: ft.run_prove(found["folder"]), "run.made"),
        (lambda: ft.open_run(found["folder"]), "run.made"),
        (lambda: ft.side_by_side(found["folder"]), "generation.no_rows"),
    ):
        with pytest.raises((UsageError, InputError)) as caught:
            call()
        assert caught.value.code == code
    (Path(found["folder"]) / "adapter/adapter_model.safetensors").write_bytes(b"changed")
    assert ft.receipt_verify(found["folder"])["verdict"] == "changed"


def test_another_packing_is_another_base(made: Path) -> None:
    one = find_subject(str(made / "one"))
    assert registry.refuse_other_bases([one, one])["files"]
    with pytest.raises(UsageError, match="packed to 4 bits") as caught:
        registry.refuse_other_bases([one, replace(one, bits=4)])
    assert caught.value.code == "made.other_packing"


def test_the_command_line(made: Path, home: Path, capfd: pytest.CaptureFixture[str]) -> None:
    def call(*args: str) -> tuple[int, str, str]:
        return cli.run(("adapters", *args)), *capfd.readouterr()

    one = str(made / "one")
    code, out, err = call("merge", one, one, "--method", "linear", "--weights", "0.5,0.5", "--name", "twice")
    assert code == 0 and "twice@1" in out and "100.00% from the weighted sum" in out and "--method svd" in err
    code, out, err = call("merge", one, str(made / "two"), "--weights", "0.7,much")
    assert code == 2 and "are no numbers" in err and "Traceback" not in err
    code, out, _ = call("compress", "twice", "--rank", "2", "-v")
    assert code == 0 and "twice@2" in out and LAYER in out and "nats" in out
    found = json.loads(call("merge", "twice@1", "twice@2", "--json")[1])
    assert found["adapter"]["address"] == "twice@3" and found["figures"]["rank"] == 6
    assert found["adapter"]["parents"][0]["how"] == "merged"
    code, out, _ = call("merge", "--help")
    assert code == 0 and "weighted sum" in out


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"weights": [1.0]}, "usage.bad_value"),
        ({"weights": [0.0, 0.0]}, "usage.bad_value"),
        ({"weights": [float("nan"), 1.0]}, "usage.bad_value"),
        ({"method": "slerp"}, "usage.bad_value"),
        ({"density": 0.5}, "usage.bad_value"),
        ({"method": "ties", "density": 1.5}, "usage.bad_value"),
        ({"rank": 4}, "usage.bad_value"),
        ({"weights": [1.0, -1.0], "adapters": ["one", "one"]}, "merge.cancels"),
        ({"adapters": ["one"]}, "usage.bad_value"),
        ({"adapters": ["one", "model"]}, "made.no_adapter"),
        ({"adapters": ["one", "stranger"]}, "made.other_bases"),
    ],
)
def test_a_refused_merge_leaves_nothing(made: Path, home: Path, options: dict[str, Any], code: str) -> None:
    if "stranger" in options.get("adapters", ()) and not (made / "stranger").exists():
        save(tiny.make(made / "other", seed=1), METHODS["one"], made / "stranger", 9)
        shutil.copyfile(STARTER / "tokenizer.json", made / "other/tokenizer.json")
    adapters = [made / name for name in options.get("adapters", ("one", "two"))]
    with pytest.raises(UsageError) as caught:
        ft.adapters_merge(adapters, **{key: value for key, value in options.items() if key != "adapters"})
    assert caught.value.code == code and caught.value.hint
    assert not any((home / "runs").glob("*")) and ft.adapters_list() == []

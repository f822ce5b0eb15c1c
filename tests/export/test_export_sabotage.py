"""Exports that were sabotaged on their way: the gate refuses each, leaves nothing behind, and names what broke."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("peft")

import small_adapter
from safetensors.torch import load_file, save_file

import truetune as ft
from truetune.engines.base import EngineSpec, Method
from truetune.engines.torch import tiny
from truetune.engines.torch.engine import TorchEngine
from truetune.errors import CheckFailed, InputError, TrueTuneError
from truetune.export import merged, origin, peft
from truetune.models import source
from truetune.train import ancestry

WEIGHTS, ADAPTER = "model.safetensors", "adapter_model.safetensors"
Damage = Callable[[Path], None]


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_adapter.make(tmp_path_factory.mktemp("trained"))


def tensors(folder: Path, file: str, change: Callable[[dict[str, Any]], None]) -> None:
    found = load_file(folder / file)
    change(found)
    save_file({name: value.contiguous() for name, value in found.items()}, folder / file, {"format": "pt"})


def query(values: dict[str, Any]) -> str:
    return next(name for name in values if "layers.1.self_attn.q_proj" in name)


def transposed(folder: Path) -> None:
    tensors(folder, WEIGHTS, lambda values: values.update({query(values): values[query(values)].t()}))


def permuted(folder: Path) -> None:
    """The four heads in another order."""

    def change(values: dict[str, Any]) -> None:
        heads = values[query(values)].view(4, 8, 32)
        values[query(values)] = heads[[2, 0, 3, 1]].reshape(32, 32)

    tensors(folder, WEIGHTS, change)


def another_base(folder: Path) -> None:
    """The same change, folded into other weights of the same shapes."""
    other = tiny.make(folder / "other", vocab_size=small_adapter.VOCABULARY, seed=1)

    def change(values: dict[str, Any]) -> None:
        values.update({name: values[name] - right[name] + value for name, value in load_file(other / WEIGHTS).items()})

    right = load_file(RIGHT[0] / WEIGHTS)
    tensors(folder, WEIGHTS, change)
    shutil.rmtree(other)


def without_the_adapter(folder: Path) -> None:
    shutil.copyfile(RIGHT[0] / WEIGHTS, folder / WEIGHTS)


def swapped_template(folder: Path) -> None:
    path = folder / "chat_template.jinja"
    path.write_text(path.read_text("utf-8").replace("assistant", "Assistant"), "utf-8")


def lost_template(folder: Path) -> None:
    (folder / "chat_template.jinja").unlink()


def lost_end(folder: Path) -> None:
    path = folder / "generation_config.json"
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | {"eos_token_id": 0}), "utf-8")


def cut_otherwise(folder: Path) -> None:
    """A pre-tokenizer that takes digits together with what stands before them."""
    path = folder / "tokenizer.json"
    body = json.loads(path.read_text("utf-8"))
    body["pre_tokenizer"] = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
    path.write_text(json.dumps(body), "utf-8")


def renamed(folder: Path) -> None:
    """PEFT begins such a layer anew, and says nothing."""

    def change(values: dict[str, Any]) -> None:
        for name in [name for name in values if "q_proj" in name]:
            values[name.replace("q_proj", "query")] = values.pop(name)

    tensors(folder, ADAPTER, change)


def emptied(folder: Path) -> None:
    tensors(folder, ADAPTER, lambda values: [value.zero_() for name, value in values.items() if "lora_B" in name])


RIGHT: list[Path] = []
"""The base that was trained on."""


def sabotaged(monkeypatch: pytest.MonkeyPatch, target: Any, damage: Damage) -> None:
    real = target.write

    def write(origin: Any, folder: Path, options: Any) -> None:
        RIGHT[:] = [origin.side.model]
        real(origin, folder, options)
        damage(folder)

    monkeypatch.setattr(target, "write", write)


CASES = [
    (merged, transposed, "weights", "q_proj.weight is transposed"),
    (merged, swapped_template, "template", "has other ids"),
    (merged, lost_end, "ends", "does not stop at token 2"),
    (peft, renamed, "weights", "q_proj"),
]
MORE = [
    (merged, permuted, "weights", "rows in another order"),
    (merged, another_base, "merge base", "another base"),
    (merged, without_the_adapter, "merge base", "the adapter is not in it"),
    (merged, lost_template, "template", "does not render"),
    (merged, cut_otherwise, "tokenizer", "has other ids"),
    (peft, emptied, "merge base", "the adapter is not in it"),
]
ALL = [*CASES, *(pytest.param(*case, marks=pytest.mark.slow) for case in MORE)]


@pytest.mark.parametrize(("target", "damage", "stage", "said"), ALL, ids=lambda value: getattr(value, "__name__", ""))
def test_the_stage_that_broke_is_named(
    adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: Any, damage: Damage, stage: str, said: str
) -> None:
    sabotaged(monkeypatch, target, damage)
    name = "merged" if target is merged else "peft"
    with pytest.raises(CheckFailed) as caught:
        ft.export(adapter, format=name, out=tmp_path / "out")
    error = caught.value
    assert (error.code, error.beside["stage"]) == ("export.parity", stage)
    assert f"its {stage}: " in error.message and said in error.message
    assert not list(tmp_path.iterdir())
    failed = [one["name"] for one in error.beside["stages"] if one["state"] == "failed"]
    assert failed[0] == stage and error.to_json()["stage"] == stage


def test_what_is_forced_says_so(adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sabotaged(monkeypatch, merged, transposed)
    found = ft.export(adapter, format="merged", out=tmp_path / "out", force=True)
    assert found["forced"] == "weights" and not found["parity"]["ok"]
    assert json.loads((tmp_path / "out" / "report.json").read_bytes())["forced"] == "weights"
    assert "**Forced: this export is not what was trained." in (tmp_path / "out" / "README.md").read_text("utf-8")


def refused(verb: Callable[[], Any]) -> TrueTuneError:
    with pytest.raises(InputError) as caught:
        verb()
    assert caught.value.hint
    return caught.value


def test_an_adapter_that_is_none_of_this_base(adapter: Path, tmp_path: Path) -> None:
    """Without effect, with other names, on other weights than its card names: whoever loads it refuses it."""
    folder = shutil.copytree(adapter, tmp_path / "adapter")
    files = {path.name: source_digest(path) for path in source.files(adapter.parent / "model")}
    rows = "\n".join(f"| base `tiny` | `{name}` | `{digest}` |" for name, digest in files.items())
    (folder / "README.md").write_text(f"# mine\n\n| what | file | sha256 |\n| --- | --- | --- |\n{rows}\n", "utf-8")
    export = lambda: ft.export(folder, format="merged", out=tmp_path / "out")  # noqa: E731
    stages = {one["name"]: one["state"] for one in export()["parity"]["stages"]}
    assert stages["merge base"] == "ok"
    shutil.rmtree(tmp_path / "out")

    renamed(folder)
    assert refused(export).code == "adapter.mismatch"
    shutil.copyfile(adapter / ADAPTER, folder / ADAPTER)
    emptied(folder)
    assert refused(export).code == "adapter.no_effect"
    assert refused(lambda: ft.chat(folder)).code == "adapter.no_effect"

    shutil.copyfile(adapter / ADAPTER, folder / ADAPTER)
    wrong = rows.replace(files["model.safetensors"], "0" * 64)
    (folder / "README.md").write_text(wrong, "utf-8")
    other = refused(export)
    assert other.code == "adapter.other_base" and "000000000000…" in other.message
    assert files["model.safetensors"][:12] in other.message


@pytest.mark.parametrize(("kind", "refusing"), [("ia3", True), ("prompt", False), ("prefix", False)])
def test_other_methods_without_effect(tmp_path: Path, kind: str, refusing: bool) -> None:
    """Factors as before any training change nothing; virtual tokens always do, whatever they hold."""
    model = tiny.make(tmp_path / "model", vocab_size=small_adapter.VOCABULARY)
    engine = TorchEngine(EngineSpec(model=model, method=Method(type=kind)))
    folder = tmp_path / "adapter"
    folder.mkdir()
    engine.export(folder)
    engine.close()
    if not refusing:
        ancestry.refuse_no_effect(folder)
        return
    assert refused(lambda: ancestry.refuse_unfit(folder, model)).code == "adapter.no_effect"
    tensors(folder, ADAPTER, lambda values: values[next(iter(values))].add_(0.5))
    ancestry.refuse_no_effect(folder)
    (folder / "README.md").write_text(f"| base `tiny` | `config.json` | `{'0' * 64}` |\n", "utf-8")
    assert refused(lambda: ancestry.refuse_unfit(folder, model)).code == "adapter.other_base"


def test_the_card_of_an_adapter_pins_its_base(adapter: Path) -> None:
    found = origin.find(str(adapter))
    pinned = replace(found, base=replace(found.base, name="owner/base", kind="hub", revision="c0ffee" + "0" * 34))
    text = peft.usage(pinned, Path("there"))
    assert 'base = "owner/base"' in text and f'(base, revision="{pinned.base.revision}")' in text
    compile(text, "card", "exec")
    packed = replace(pinned, side=replace(pinned.side, bits=4))
    assert "load_in_4bit=True" in peft.usage(packed, Path("there"))


def source_digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()

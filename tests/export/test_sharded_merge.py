"""A merge that never holds the model: equal to PEFT's in memory, cut as the base is, and within little memory."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("peft")

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

import truetune as ft
from truetune.engines.base import EngineSpec, Method
from truetune.engines.torch import folded, tiny
from truetune.engines.torch.engine import TorchEngine
from truetune.errors import CheckFailed
from truetune.export import sampled, streamed
from truetune.models import header, memory, tensorfile, weights
from truetune.models.source import STARTER

CASES = {
    "llama lora": ("llama", Method(r=3, alpha=10)),
    "gpt2 lora": ("gpt2", Method(r=3, alpha=10)),
    "llama dora": ("llama", Method(type="dora", r=3, alpha=10)),
    "gpt2 dora": ("gpt2", Method(type="dora", r=3, alpha=10)),
    "qwen2 rslora": ("qwen2", Method(type="rslora", r=3, alpha=10)),
    "llama pissa": ("llama", Method(r=3, alpha=10, init="pissa")),
}


def noisy(folder: Path, method: Method, architecture: str = "llama", new_tokens: tuple[int, ...] = ()) -> Path:
    """A tiny model in `folder/model`, cut into three files, and an adapter of noise; returns the adapter's folder."""
    model = tiny.make(folder / "model", architecture)
    engine = TorchEngine(EngineSpec(model=model, method=method, new_tokens=new_tokens))
    generator = torch.Generator().manual_seed(1)
    for parameter in engine.parameters.values():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    place = folder / "adapter"
    place.mkdir()
    engine.export(place)
    engine.close()
    cut(model)
    return place


def cut(model: Path, dtype: torch.dtype | None = None) -> None:
    """Into three files with an index, the weights in another number type where one is given."""
    tensors = load_file(model / weights.SINGLE)
    names = sorted(tensors)
    where = {name: f"model-{place % 3 + 1:05}-of-00003.safetensors" for place, name in enumerate(names)}
    for file in sorted(set(where.values())):
        part = {name: tensors[name].to(dtype or tensors[name].dtype) for name in names if where[name] == file}
        save_file(part, model / file, {"format": "pt"})
    (model / weights.SINGLE).unlink()
    (model / weights.INDEX).write_text(json.dumps({"metadata": {"total_size": 0}, "weight_map": where}))


def streamed_into(folder: Path, *, exact: bool = True) -> tuple[streamed.Fold, Path]:
    fold = streamed.plan(folder / "model", folder / "adapter")
    assert fold is not None
    target = folder / f"made-{exact}"
    target.mkdir()
    shutil.copyfile(folder / "model/config.json", target / "config.json")
    streamed.write(fold, target, wide="changed" if exact else "")
    return fold, target


@pytest.mark.parametrize("case", CASES)
def test_it_is_the_same_model_as_the_one_folded_in_memory(tmp_path: Path, case: str) -> None:
    architecture, method = CASES[case]
    adapter = noisy(tmp_path, method, architecture)
    fold, target = streamed_into(tmp_path)
    wanted = folded.folded(tmp_path / "model", adapter).state_dict()
    found = AutoModelForCausalLM.from_pretrained(target, dtype=torch.float32).state_dict()
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-5, atol=1e-6)
    base = {
        place.tensor.name: place for path in weights.shards(tmp_path / "model") for place in tensorfile.places(path)
    }
    assert {path.name for path in weights.shards(target)} == {path.name for path in weights.shards(tmp_path / "model")}
    assert all(
        sampled.same(base[name], place) for name, place in sampled.every(target).items() if name not in fold.changed
    )
    told = sampled.check(fold, target)
    assert not told.failed and told.largest < 0.5 and told.changed == len(fold.changed) > 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_each_tensor_is_stored_as_it_was_and_rounded_once(tmp_path: Path, dtype: torch.dtype) -> None:
    adapter = noisy(tmp_path, Method(r=3, alpha=10))
    model = tmp_path / "model"
    save_file({k: v for path in weights.shards(model) for k, v in load_file(path).items()}, model / weights.SINGLE)
    cut(model, dtype)
    norm = "model.norm.weight"  # one that stays in float32, as in some models on the hub
    file = model / json.loads((model / weights.INDEX).read_text())["weight_map"][norm]
    save_file({k: v.float() if k == norm else v for k, v in load_file(file).items()}, file, {"format": "pt"})
    fold, target = streamed_into(tmp_path, exact=False)
    wanted = folded.folded(model, adapter).state_dict()
    found = {k: v for path in weights.shards(target) for k, v in load_file(path).items()}
    assert found[norm].dtype == torch.float32
    name = next(iter(fold.changed))
    assert found[name].dtype == dtype
    torch.testing.assert_close(found[name], wanted[name].to(dtype), rtol=2**-7, atol=1e-6)
    assert not sampled.check(fold, target).failed


def test_what_it_cannot_do_is_left_to_the_other_way(tmp_path: Path) -> None:
    for number, (method, more) in enumerate(
        ((Method(type="ia3"), {}), (Method(r=2, modules_to_save=("lm_head",)), {}), (Method(r=2), {"new_tokens": (5,)}))
    ):
        adapter = noisy(tmp_path / str(number), method, **more)
        assert streamed.plan(tmp_path / str(number) / "model", adapter) is None
    place = noisy(tmp_path / "plain", Method(r=2))
    assert streamed.plan(tmp_path / "plain/model", place) is not None
    assert streamed.plan(tmp_path / "plain/model", place, bits=4) is None
    assert streamed.plan(tmp_path / "0/model", place) is not None  # the same architecture: whose base it is, others ask
    assert streamed.plan(noisy(tmp_path / "gpt2", Method(r=2), "gpt2").parent / "model", place) is None


@pytest.mark.parametrize("how", ["transposed", "lost", "another base", "wrong scale"])
def test_the_check_finds_what_is_wrong(tmp_path: Path, how: str) -> None:
    noisy(tmp_path, Method(r=3, alpha=10))
    fold, target = streamed_into(tmp_path)
    name = "model.layers.1.self_attn.q_proj.weight"
    if how == "another base":
        name = "model.norm.weight"
    file = next(path for path in weights.shards(target) if name in load_file(path))
    tensors = load_file(file)
    base = {k: v for path in weights.shards(tmp_path / "model") for k, v in load_file(path).items()}
    tensors[name] = {
        "transposed": lambda: tensors[name].t().contiguous(),
        "lost": lambda: base[name],
        "another base": lambda: tensors[name] + 1e-3,
        "wrong scale": lambda: base[name] + 1.01 * (tensors[name] - base[name]),
    }[how]()
    save_file(tensors, file, {"format": "pt"})
    assert name in sampled.check(fold, target).failed


@pytest.mark.parametrize("fits", [True, False])
def test_the_gate_refuses_a_fold_that_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fits: bool) -> None:
    """By what the model says where the memory holds it, else by its tensors."""
    adapter = noisy(tmp_path, Method(r=3, alpha=10))
    shutil.copyfile(STARTER / "tokenizer.json", tmp_path / "model/tokenizer.json")
    if not fits:
        monkeypatch.setattr(memory, "available", lambda: 0)
    found = ft.export(adapter, format="merged", out=tmp_path / "good")
    states = {stage["name"]: stage["state"] for stage in found["parity"]["stages"]}
    assert states["weights"] == "ok" and states["runtime"] == ("ok" if fits else "not checked")
    assert ("did not hold the model" in (tmp_path / "good/README.md").read_text()) is not fits
    real = streamed.added
    monkeypatch.setattr(streamed, "added", lambda *args: real(*args).flip(0))
    with pytest.raises(CheckFailed) as caught:
        ft.export(adapter, format="merged", out=tmp_path / "bad")
    assert caught.value.code == "export.parity" and caught.value.beside["stage"] == "weights"
    assert not (tmp_path / "bad").exists()


MB = 2**20
LIMIT = 640 * MB
"""What `ulimit -d` allows the process: Python with its libraries takes 400 MB of it."""


def limited() -> None:
    resource.setrlimit(resource.RLIMIT_DATA, (LIMIT, LIMIT))


def large(folder: Path) -> tuple[list[str], int]:
    """A llama of zeros in files of 32 MB, which the disk keeps as holes, and a rank-2 adapter of noise for its q_proj;
    returns the names of the layers, and the model's bytes."""
    hidden, layers, model, place = 2048, 21, folder / "model", folder / "adapter"
    square = ("self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.up_proj")
    shapes = {f"model.layers.{at}.{name}.weight": [hidden, hidden] for at in range(layers) for name in square}
    names = [f"model.layers.{at}.self_attn.q_proj" for at in range(layers)]
    shapes |= {f"{name}.weight": [hidden, hidden] for name in names} | {"lm_head.weight": [tiny.VOCAB, hidden]}
    for path in (model, place):
        path.mkdir()
    every, where = sorted(shapes), {}
    cut = [every[at : at + 4] for at in range(0, len(every), 4)]
    for at, part in enumerate(cut, 1):
        file = f"model-{at:05}-of-{len(cut):05}.safetensors"
        tensors = [header.Tensor(name, "BF16", tuple(shapes[name])) for name in part]
        holes(model / file, tensors)
        where |= dict.fromkeys(part, file)
    (model / weights.INDEX).write_text(json.dumps({"metadata": {}, "weight_map": where}))
    facts = {"hidden_size": hidden, "intermediate_size": hidden, "num_hidden_layers": layers, "dtype": "bfloat16"}
    facts |= {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "num_attention_heads": 16}
    (model / "config.json").write_text(json.dumps(facts | {"vocab_size": tiny.VOCAB}))
    shutil.copyfile(STARTER / "tokenizer.json", model / "tokenizer.json")
    shutil.copyfile(STARTER / "chat_template.jinja", model / "chat_template.jinja")
    draw = torch.Generator().manual_seed(0)
    pairs = {f"base_model.model.{name}.lora_{side}.weight": torch.randn(shape, generator=draw)
             for name in names for side, shape in (("A", (2, hidden)), ("B", (hidden, 2)))}  # fmt: skip
    save_file(pairs, place / "adapter_model.safetensors", {"format": "pt"})
    body = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"], "fan_in_fan_out": False}
    body |= {"task_type": "CAUSAL_LM", "base_model_name_or_path": str(model)}
    (place / "adapter_config.json").write_text(json.dumps(body))
    return names, sum(path.stat().st_size for path in model.glob("*.safetensors"))


def holes(path: Path, tensors: list[header.Tensor]) -> None:
    """A file of zeros without writing any."""
    at, entries = 0, {}
    for tensor in tensors:
        entries[tensor.name] = {
            "dtype": tensor.dtype,
            "shape": tensor.shape,
            "data_offsets": [at, at + 2 * tensor.size],
        }
        at += 2 * tensor.size
    text = json.dumps(entries).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text)
    os.truncate(path, 8 + len(text) + at)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the limit on a process's data is Linux's")
def test_a_model_larger_than_the_memory_allowed_is_merged(tmp_path: Path) -> None:
    names, size = large(tmp_path)
    assert size > LIMIT
    env = os.environ | {"TRUETUNE_HOME": str(tmp_path / "home"), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "truetune", "export", "./adapter", "--format", "merged", "--out", "made", "--json"]
    settings: dict[str, Any] = {"cwd": tmp_path, "env": env, "preexec_fn": limited, "timeout": 300}
    done = subprocess.run(command, capture_output=True, text=True, **settings)
    assert done.returncode == 0, done.stdout + done.stderr
    stages = {stage["name"]: stage for stage in json.loads(done.stdout)["parity"]["stages"]}
    assert stages["weights"]["state"] == "ok" and stages["weights"]["changed"] == len(names)
    assert stages["runtime"]["state"] == "not checked" and "of memory" in stages["runtime"]["detail"]
    # The limit is real: what holds the weights does not get through.
    holding = f"import torch; kept = bytearray({size})"
    assert (
        "MemoryError"
        in subprocess.run([sys.executable, "-c", holding], stderr=subprocess.PIPE, text=True, **settings).stderr
    )
    made = tmp_path / "made"
    where = json.loads((made / weights.INDEX).read_text())["weight_map"]
    assert where == json.loads((tmp_path / "model" / weights.INDEX).read_text())["weight_map"]
    found = load_file(made / where[f"{names[3]}.weight"])[f"{names[3]}.weight"]
    pairs = load_file(tmp_path / "adapter/adapter_model.safetensors")
    A, B = (pairs[f"base_model.model.{names[3]}.lora_{side}.weight"] for side in "AB")
    torch.testing.assert_close(found, (2 * B @ A).bfloat16())
    shutil.rmtree(made)  # pytest keeps the folders of its last sessions, and this one is large

"""A merge that never holds the model: equal to PEFT's in memory, cut as the base is, and within little memory."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("peft")

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

import truetune as ft
from truetune.engines.base import EngineSpec, Method
from truetune.engines.torch import folded, tiny
from truetune.engines.torch.engine import TorchEngine
from truetune.errors import CheckFailed
from truetune.export import basis, changes, sampled, streamed
from truetune.export.run_transformers import PACKING
from truetune.models import header, memory, packed, weights
from truetune.models.source import STARTER

CASES = {
    "llama lora": ("llama", Method(r=3, alpha=10)),
    "llama ia3": ("llama", Method(type="ia3")),
    "gpt2 ia3": ("gpt2", Method(type="ia3")),
    "llama whole modules": ("llama", Method(r=3, alpha=10, modules_to_save=("lm_head", "norm"))),
    "gpt2 whole embedding": ("gpt2", Method(r=3, alpha=10, modules_to_save=("wte",))),
    "gpt2 lora": ("gpt2", Method(r=3, alpha=10)),
    "llama dora": ("llama", Method(type="dora", r=3, alpha=10)),
    "gpt2 dora": ("gpt2", Method(type="dora", r=3, alpha=10)),
    "qwen2 rslora": ("qwen2", Method(type="rslora", r=3, alpha=10)),
    "llama pissa": ("llama", Method(r=3, alpha=10, init="pissa")),
}


def noisy(
    folder: Path, method: Method, architecture: str = "llama", new_tokens: tuple[int, ...] = (), **sizes: int
) -> Path:
    """A tiny model in `folder/model`, cut into three files, and an adapter of noise; returns the adapter's folder."""
    model = tiny.make(folder / "model", architecture, **sizes)
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


def streamed_into(folder: Path, *, exact: bool = True, bits: int = 0) -> tuple[streamed.Fold, Path]:
    fold = streamed.plan(folder / "model", folder / "adapter", bits)
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
    base = sampled.every(tmp_path / "model")
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


def test_rows_of_new_tokens_and_a_vocabulary_that_grows(tmp_path: Path) -> None:
    adapter = noisy(tmp_path, Method(r=2), new_tokens=(5, 9))
    fold, target = streamed_into(tmp_path)
    wanted = folded.folded(tmp_path / "model", adapter).state_dict()
    found = {k: v for path in weights.shards(target) for k, v in load_file(path).items()}
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        torch.testing.assert_close(found[name], wanted[name], rtol=1e-5, atol=1e-6)
    assert not sampled.check(fold, target).failed
    body = json.loads((adapter / "adapter_config.json").read_text())
    body["trainable_token_indices"] = {name: [5, tiny.VOCAB] for name in body["trainable_token_indices"]}
    (adapter / "adapter_config.json").write_text(json.dumps(body))
    assert streamed.plan(tmp_path / "model", adapter) is None  # PEFT makes room for the new rows in memory


WIDE = {"llama": {"hidden_size": 64, "intermediate_size": 128}, "gpt2": {"n_embd": 64}}
"""Rows of whole blocks of 64 numbers, which are packed some rows at a time."""
PACKINGS = {
    "llama, 4 bits, blocks over the ends of rows": ("narrow", 4, False),
    "llama, 4 bits": ("llama", 4, False),
    "gpt2, 4 bits": ("gpt2", 4, False),
    "llama, 8 bits": ("llama", 8, False),
    "llama, stored in 4 bits": ("llama", 4, True),
    "gpt2, stored in 4 bits": ("gpt2", 4, True),
    "llama, stored in 8 bits": ("llama", 8, True),
}


@pytest.mark.parametrize("case", PACKINGS)
def test_a_packed_base_is_what_it_reads_back_as(tmp_path: Path, case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By transformers' loader and PEFT in memory, and here from the files, one weight at a time."""
    pytest.importorskip("bitsandbytes")
    architecture, bits, already = PACKINGS[case]
    monkeypatch.setattr(basis, "BLOCK", 640)
    kind = "llama" if architecture == "narrow" else architecture
    adapter, model = noisy(tmp_path, Method(r=3, alpha=10), kind, **WIDE.get(architecture, {})), tmp_path / "model"
    if already:
        loaded = AutoModelForCausalLM.from_pretrained(
            model, quantization_config=BitsAndBytesConfig(**PACKING[bits]), dtype=torch.float32
        )
        for path in model.glob("*.safetensors*"):
            path.unlink()
        loaded.save_pretrained(model, max_shard_size="60KB")
    fold, target = streamed_into(tmp_path, bits=0 if already else bits)
    wanted = folded.folded(model, adapter, bits=0 if already else bits).state_dict()
    found = {k: v for path in weights.shards(target) for k, v in load_file(path).items()}
    assert {name for name in wanted if name not in found} <= {"lm_head.weight"} and found.keys() <= wanted.keys()
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, wanted[name], rtol=1e-5, atol=1e-6)
    packed = [weight for weight in fold.weights.values() if weight.whole]
    assert len(packed) >= len(fold.changed) > 0
    told = sampled.check(fold, target)
    assert not told.failed and told.rows > 0
    if not already:  # what was packed is not the base any more
        plain = sampled.every(model)
        assert not any(sampled.same(plain[one.tensor.name], sampled.every(target)[one.tensor.name]) for one in packed)


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
    real = changes.LowRank.added
    monkeypatch.setattr(changes.LowRank, "added", lambda *args: real(*args).flip(0))
    with pytest.raises(CheckFailed) as caught:
        ft.export(adapter, format="merged", out=tmp_path / "bad")
    assert caught.value.code == "export.parity" and caught.value.beside["stage"] == "weights"
    assert not (tmp_path / "bad").exists()


MB = 2**20
WORDS = 4096
"""Of the starter's tokenizer."""
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
    shapes |= {f"{name}.weight": [hidden, hidden] for name in names}
    shapes |= {f"{name}.weight": [WORDS, hidden] for name in ("lm_head", "model.embed_tokens")}
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
    (model / "config.json").write_text(json.dumps(facts | {"vocab_size": WORDS}))
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copyfile(STARTER / name, model / name)
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


@pytest.fixture(scope="module")
def big(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, list[str]]]:
    """A folder with a model that is larger than the memory allowed, and the layers that its adapter changes."""
    folder = tmp_path_factory.mktemp("big")
    names, size = large(folder)
    assert size > LIMIT
    # The limit is real: what holds the weights does not get through.
    holding = f"import torch; kept = bytearray({size})"
    done = subprocess.run([sys.executable, "-c", holding], stderr=subprocess.PIPE, text=True, preexec_fn=limited)
    assert "MemoryError" in done.stderr
    yield folder, names
    shutil.rmtree(folder)  # pytest keeps the folders of its last sessions, and this one is large


def within_the_limit(folder: Path, *arguments: str) -> Any:
    """`ft export` of the adapter in a process that may not hold the model; its JSON."""
    env = os.environ | {"TRUETUNE_HOME": str(folder / "home"), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "truetune", "export", "./adapter", "--out", "made", "--json", *arguments]
    settings: dict[str, Any] = {"cwd": folder, "env": env, "preexec_fn": limited, "timeout": 300}
    done = subprocess.run(command, capture_output=True, text=True, **settings)
    assert done.returncode in (0, 4), done.stdout + done.stderr
    return json.loads(done.stdout)


def checked(found: Any, names: list[str]) -> None:
    stages = {stage["name"]: stage for stage in found["parity"]["stages"]}
    assert stages["weights"]["state"] == "ok" and stages["weights"]["changed"] == len(names)
    assert stages["runtime"]["state"] == "not checked" and "of memory" in stages["runtime"]["detail"]


def summed(folder: Path, name: str) -> torch.Tensor:
    """What the adapter makes of a weight of zeros."""
    pairs = load_file(folder / "adapter/adapter_model.safetensors")
    A, B = (pairs[f"base_model.model.{name}.lora_{side}.weight"] for side in "AB")
    return 2 * B @ A


limits = pytest.mark.skipif(sys.platform != "linux", reason="the limit on a process's data is Linux's")


@pytest.mark.slow
@limits
@pytest.mark.parametrize("bits", [0, 4])
def test_a_model_larger_than_the_memory_allowed_is_merged(big: tuple[Path, list[str]], bits: int) -> None:
    """Also where its base was packed for the training: one weight at a time is packed and unpacked."""
    folder, names = big
    path = folder / "adapter/adapter_model.safetensors"
    save_file(load_file(path), path, {"format": "pt"} | ({packed.NOTE: str(bits)} if bits else {}))
    found = within_the_limit(folder, "--format", "merged")
    checked(found, names)
    made = folder / "made"
    where = json.loads((made / weights.INDEX).read_text())["weight_map"]
    assert where == json.loads((folder / "model" / weights.INDEX).read_text())["weight_map"]
    stored = load_file(made / where[f"{names[3]}.weight"])[f"{names[3]}.weight"]
    torch.testing.assert_close(stored, summed(folder, names[3]).bfloat16())
    shutil.rmtree(made)


@pytest.mark.slow
@limits
def test_a_model_larger_than_the_memory_allowed_goes_to_gguf(big: tuple[Path, list[str]]) -> None:
    gguf = pytest.importorskip("gguf")
    pytest.importorskip("xllamacpp")
    folder, names = big
    path = folder / "adapter/adapter_model.safetensors"
    save_file(load_file(path), path, {"format": "pt"})
    checked(within_the_limit(folder, "--format", "gguf", "--quant", "q8_0"), names)
    stored = {each.name: each for each in gguf.GGUFReader(folder / "made/model.gguf").tensors}
    each = stored["blk.3.attn_o.weight" if "blk.3.attn_o.weight" in stored else "blk.3.attn_output.weight"]
    assert not gguf.quants.dequantize(each.data, each.tensor_type).any()
    query = stored["blk.3.attn_q.weight"]
    rows = torch.from_numpy(gguf.quants.dequantize(query.data[:2], query.tensor_type))
    wanted = summed(folder, "model.layers.3.self_attn.q_proj")[[0, 64]]
    torch.testing.assert_close(rows, wanted, rtol=0, atol=float(wanted.abs().max()) / 100)
    shutil.rmtree(folder / "made")


@pytest.mark.slow
@limits
def test_what_is_folded_in_memory_and_does_not_fit_is_refused(big: tuple[Path, list[str]]) -> None:
    """Before any of it is written, with what it needs and what there is."""
    folder, _ = big
    path = folder / "adapter/adapter_config.json"
    before = path.read_text()
    path.write_text(json.dumps(json.loads(before) | {"modules_to_save": ["lm_head"]}))
    weights_ = folder / "adapter/adapter_model.safetensors"
    kept = load_file(weights_)
    save_file(kept | {"base_model.model.lm_head.weight": torch.zeros(WORDS + 8, 2048)}, weights_, {"format": "pt"})
    error = within_the_limit(folder, "--format", "merged")["error"]
    assert error["code"] == "memory.export" and "GB of memory" in error["message"] and error["hint"]
    assert not (folder / "made").exists()
    path.write_text(before)
    save_file(kept, weights_, {"format": "pt"})

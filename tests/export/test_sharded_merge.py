"""A merge that never holds the model: equal to PEFT's in memory, cut as the base is, and within little memory."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("peft")

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from truetune.engines.base import EngineSpec, Method
from truetune.engines.torch import folded, tiny
from truetune.engines.torch.engine import TorchEngine
from truetune.export import sampled, streamed
from truetune.models import tensorfile, weights

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


LIMITED = """
import resource, sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from truetune.export import sampled, streamed
import re
data = int(re.search(r"VmData:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024
limit = data + 160 * 2**20
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
model, target = Path(sys.argv[1]) / "model", Path(sys.argv[1]) / "made"
if sys.argv[2] == "whole":
    kept = bytearray(sum(path.stat().st_size for path in model.glob("*.safetensors")))
else:
    fold = streamed.plan(model, Path(sys.argv[1]) / "adapter")
    streamed.write(fold, target)
    print(sampled.check(fold, target).failed or "equal")
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the limit on a process's data is Linux's")
def test_a_model_larger_than_the_memory_allowed_is_merged(tmp_path: Path) -> None:
    """Twelve files of 32 MB beside 160 MB of memory, of which a process that loads them runs out."""
    hidden, each = 2048, 4
    model, made, place = tmp_path / "model", tmp_path / "made", tmp_path / "adapter"
    for folder in (model, made, place):
        folder.mkdir()
    where, names = {}, [f"model.layers.{number}.self_attn.q_proj" for number in range(12 * each)]
    for shard in range(12):
        file = f"model-{shard + 1:05}-of-00012.safetensors"
        part = {f"{name}.weight": torch.full((hidden, hidden), 0.01, dtype=torch.bfloat16)
                for name in names[shard * each : (shard + 1) * each]}  # fmt: skip
        save_file(part, model / file, {"format": "pt"})
        where |= dict.fromkeys(part, file)
    (model / weights.INDEX).write_text(json.dumps({"metadata": {}, "weight_map": where}))
    facts = {"hidden_size": hidden, "intermediate_size": hidden, "num_hidden_layers": 48, "num_attention_heads": 16}
    facts |= {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": 320}
    (model / "config.json").write_text(json.dumps(facts))
    draw = torch.Generator().manual_seed(0)
    pairs = {f"base_model.model.{name}.lora_{side}.weight": torch.randn(shape, generator=draw) * 0.05
             for name in names for side, shape in (("A", (2, hidden)), ("B", (hidden, 2)))}  # fmt: skip
    save_file(pairs, place / "adapter_model.safetensors", {"format": "pt"})
    body = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"], "fan_in_fan_out": False}
    (place / "adapter_config.json").write_text(json.dumps(body))

    def run(way: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", LIMITED, str(tmp_path), way, str(Path(__file__).parents[2])]
        return subprocess.run(command, capture_output=True, text=True, timeout=300)

    done = run("streamed")
    assert done.stdout.strip() == "equal", done.stderr
    assert "MemoryError" in run("whole").stderr
    first = load_file(made / "model-00001-of-00012.safetensors")[f"{names[0]}.weight"]
    A, B = (pairs[f"base_model.model.{names[0]}.lora_{side}.weight"] for side in "AB")
    torch.testing.assert_close(first, (torch.full_like(first, 0.01).float() + 2 * B @ A).bfloat16())
    assert load_file(made / "model-00012-of-00012.safetensors").keys() <= where.keys()

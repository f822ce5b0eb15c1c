"""Training on a GPU: TrueTune beside PEFT under transformers' own Trainer, the card's matrix products, and 8 GB.

    python benchmarks/cuda.py --write                  a Llama-3-8B shape: docs/evidence/cuda.json (10 minutes, an H200)
    python benchmarks/cuda.py --tiny --device cpu      the same run with a model of a few thousand weights, anywhere

Weights are random, rows are random words of a small vocabulary, which is what there is to learn. Two trainings:

- `lora`: LoRA of rank 16 on all linear layers, rows of 4,096 tokens, bfloat16, all activations kept.
- `qlora`: the base in 4 bits, rows of 2,048 tokens, torch's allocator held to 8 GB (10⁹ bytes each).

Every contender is a process of its own and takes the same rows in the same order from the same adapter: `truetune`;
`peft` (transformers' Trainer, fused AdamW); `peft-liger` (the same with Liger's kernels) and `unsloth` where they are
installed; `truetune-compiled`, whose layers are compiled; of `qlora` also `truetune-host`, whose layers' inputs wait
in the host's memory. Tokens per second are of the median step behind `WARM` steps. The share is what the products with
frozen weights and the head take by themselves (4 FLOP per weight and token), measured on the same card at the same
shapes, over what a step takes. It fails where nothing is learned, where losses of a step differ by more than the bound,
or where 8 GB do not do.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[1]
EVIDENCE = ROOT / "docs" / "evidence" / "cuda.json"
LIBRARIES = ("truetune", "torch", "triton", "transformers", "peft", "bitsandbytes", "liger-kernel", "unsloth")
WARM = 3
LEAST_LEARNED = 0.02
LIMIT = 240
"""Seconds that a contender may take."""
WORDS = 64
"""Of the vocabulary, how many occur."""

Figures = dict[str, Any]


@dataclass(frozen=True)
class Shape:
    """A Llama. `rows` a step, each a micro-batch of its own."""

    hidden: int = 4096
    layers: int = 32
    heads: int = 32
    kv_heads: int = 8
    intermediate: int = 14336
    vocabulary: int = 128256
    dtype: str = "bfloat16"
    rows: int = 2
    steps: int = 10
    rate: float = 1e-3
    tolerance: float = 0.02
    """Of a step's loss, between contenders."""
    lengths: dict[str, int] = field(default_factory=lambda: {"lora": 4096, "qlora": 2048})
    memory: int = 8 * 10**9

    @property
    def linears(self) -> list[tuple[int, int]]:
        """(outputs, inputs) of a layer's frozen maps."""
        key = self.hidden // self.heads * self.kv_heads
        sizes = [(self.hidden, self.hidden)] * 2 + [(key, self.hidden)] * 2
        return sizes + [(self.intermediate, self.hidden)] * 2 + [(self.hidden, self.intermediate)]


TINY = Shape(
    64, 2, 4, 2, 128, 512, "float32", steps=6, rate=2e-2, tolerance=1e-3, lengths={"lora": 96, "qlora": 48}
)  # fmt: skip
CONTENDERS = {
    "lora": ("truetune", "truetune-compiled", "peft", "peft-liger", "unsloth"),
    "qlora": ("truetune", "truetune-host", "peft"),
}


def main() -> int:
    options = parser().parse_args()
    if options.write and (options.tiny or not options.device.startswith("cuda")):
        parser().error("--write is for the whole shape on a GPU")
    shape = TINY if options.tiny else Shape()
    if options.contender:
        print(json.dumps(contend(shape, options)))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        child(options, "make", "lora", folder)
        found: Figures = {task: bench(shape, task, options, folder) for task in CONTENDERS}
    body = circumstances(shape, options) | found
    problems = wrong(shape, found)
    print(report(body), *problems, sep="\n")
    if options.write and not problems:
        EVIDENCE.write_text(json.dumps(body, indent=1) + "\n")
    return 1 if problems else 0


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    found.add_argument("--device", default="cuda")
    found.add_argument("--tiny", action="store_true", help="a model of a few thousand weights: a rehearsal")
    found.add_argument("--write", action="store_true", help="docs/evidence/cuda.json, where a GPU computed")
    found.add_argument("--contender", help=argparse.SUPPRESS)
    found.add_argument("--task", help=argparse.SUPPRESS)
    found.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    return found


def child(options: argparse.Namespace, contender: str, task: str, folder: str) -> Figures:
    """What a process of its own prints last, or why there is nothing."""
    line = [sys.executable, __file__, "--device", options.device, "--contender", contender, "--task", task]
    line += ["--folder", folder, *(["--tiny"] if options.tiny else [])]
    quiet = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "TRUETUNE_HOME": folder}
    try:
        done = subprocess.run(line, capture_output=True, text=True, timeout=LIMIT, env=os.environ | quiet)
    except subprocess.TimeoutExpired:
        return {"left_out": f"took longer than {LIMIT} seconds"}
    if done.returncode:
        lines = [text for text in done.stderr.splitlines() if text.strip()]
        if contender == "make":
            raise SystemExit("\n".join(lines[-5:]))
        return {"left_out": lines[-1][:300] if lines else f"exit {done.returncode}"}
    found: Figures = json.loads(done.stdout.splitlines()[-1])
    return found


def bench(shape: Shape, task: str, options: argparse.Namespace, folder: str) -> Figures:
    """All contenders of a task, one after another, and what the products take by themselves."""
    runs = {name: child(options, name, task, folder) for name in CONTENDERS[task] if installed(name, options)}
    limit = child(options, "products", task, folder)
    for one in runs.values():
        if "step_seconds" in one:
            one["tokens_per_second"] = shape.rows * shape.lengths[task] / one["step_seconds"]
            one["share"] = limit["seconds"] / one["step_seconds"]
    return {"tokens": shape.lengths[task], "runs": runs, "products": limit}


def installed(name: str, options: argparse.Namespace) -> bool:
    package = {"peft-liger": "liger_kernel", "unsloth": "unsloth", "truetune-compiled": "triton"}.get(name)
    return package is None or (find_spec(package) is not None and options.device.startswith("cuda"))


def contend(shape: Shape, options: argparse.Namespace) -> Figures:
    """A child's work."""
    if options.contender == "make":
        make(shape, options.folder / "model", options.device)
        return {}
    if options.contender == "products":
        return products(shape, shape.lengths[options.task], options.device)
    way = truetune if options.contender.startswith("truetune") else trainer
    return way(shape, options) | peak(options.device)


def make(shape: Shape, folder: Path, device: str) -> None:
    """Random weights, drawn on the device and written layer by layer."""
    import torch
    from safetensors.torch import save_file
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        hidden_size=shape.hidden, num_hidden_layers=shape.layers, num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads, intermediate_size=shape.intermediate, vocab_size=shape.vocabulary,
        max_position_embeddings=8192, rope_parameters={"rope_type": "default", "rope_theta": 500000.0},
        tie_word_embeddings=False, bos_token_id=None, eos_token_id=2, pad_token_id=3,
        dtype=shape.dtype, architectures=["LlamaForCausalLM"],
    )  # fmt: skip
    folder.mkdir()
    config.save_pretrained(folder)
    with torch.device("meta"):
        parameters = {name: p.shape for name, p in LlamaForCausalLM(config).named_parameters()}
    draw, dtype = torch.Generator(device).manual_seed(0), getattr(torch, shape.dtype)
    parts: dict[str, dict[str, Any]] = {}
    for name, size in parameters.items():
        layer = name.split(".layers.")[1].split(".")[0] if ".layers." in name else "rest"
        drawn = torch.randn(size, generator=draw, device=device, dtype=dtype) * 0.02 if len(size) > 1 else None
        parts.setdefault(layer, {})[name] = torch.ones(size, dtype=dtype) if drawn is None else drawn.cpu()
    where = {}
    for number, tensors in enumerate(parts.values(), 1):
        file = f"model-{number:05d}-of-{len(parts):05d}.safetensors"
        save_file(tensors, folder / file, {"format": "pt"})
        where |= dict.fromkeys(tensors, file)
    total = sum(tensor.nbytes for tensors in parts.values() for tensor in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": where}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def rows(shape: Shape, task: str) -> np.ndarray:
    """Token ids [steps, rows, length]."""
    size = shape.steps, shape.rows, shape.lengths[task]
    return np.random.default_rng(7).integers(4, 4 + WORDS, size).astype(np.int32)


def truetune(shape: Shape, options: argparse.Namespace) -> Figures:
    """Our engine, step by step."""
    from truetune.data.example import Example
    from truetune.engines.base import EngineSpec, Method, Optimizer
    from truetune.engines.torch.engine import open_engine

    method = Method("lora", r=16, alpha=32)
    spec = EngineSpec(
        options.folder / "model", method, Optimizer(weight_decay=0.0), device=options.device, dtype=shape.dtype,
        token_budget=shape.lengths[options.task], compiled=options.contender == "truetune-compiled",
    )  # fmt: skip
    if options.task == "qlora":
        spec = replace(spec, method=replace(method, type="qlora", bits=4), memory=shape.memory)
        spec = replace(spec, gradient_checkpointing=True, offload=options.contender == "truetune-host")
    engine = open_engine(spec)
    weights = np.r_[0, np.ones(shape.lengths[options.task] - 1)].astype(np.float32)
    results, seconds = [], []
    for step in rows(shape, options.task):
        plan = engine.prepare([Example(ids, weights, number) for number, ids in enumerate(step)])
        began = time.perf_counter()
        results.append(engine.step(plan, shape.rate))
        finished(options.device)
        seconds.append(time.perf_counter() - began)
    losses, norms = [one.loss for one in results], [one.grad_norm for one in results]
    told = {"kernels": engine.describe().get("kernels", {}), "limit": engine.usage().limit}
    return {"losses": losses, "grad_norms": norms} | told | timed(seconds)


def trainer(shape: Shape, options: argparse.Namespace) -> Figures:
    """PEFT under transformers' Trainer, as a user would write it; the order of the rows and the start are ours."""
    import torch
    from peft import LoraConfig, get_peft_model
    from rivals import begin_as_ours
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig, Trainer, TrainerCallback, TrainingArguments

    gpu, packed, dtype = options.device.startswith("cuda"), options.task == "qlora", getattr(torch, shape.dtype)
    if packed and gpu:
        _, total = torch.cuda.mem_get_info()
        torch.cuda.set_per_process_memory_fraction(shape.memory / total)
    names = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    if options.contender == "unsloth":
        from unsloth import FastLanguageModel

        model, _ = FastLanguageModel.from_pretrained(
            str(options.folder / "model"), max_seq_length=shape.lengths[options.task], dtype=dtype, load_in_4bit=False
        )
        model = FastLanguageModel.get_peft_model(
            model, r=16, lora_alpha=32, lora_dropout=0, target_modules=names, use_gradient_checkpointing=False
        )
    else:
        bits = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
        )
        extra: dict[str, Any] = {"quantization_config": bits} if packed else {}
        base = AutoModelForCausalLM.from_pretrained(
            options.folder / "model", dtype=dtype, device_map={"": options.device}, attn_implementation="sdpa", **extra
        )
        if packed:
            base.enable_input_require_grads()
        lora = LoraConfig(r=16, lora_alpha=32, lora_dropout=0.0, target_modules=names, task_type="CAUSAL_LM")
        model = get_peft_model(base, lora)
    begin_as_ours(model, 42)
    seconds, began = [], [0.0]

    class Clock(TrainerCallback):
        def on_step_begin(self, *given: Any, **keys: Any) -> None:
            finished(options.device)
            began[0] = time.perf_counter()

        def on_step_end(self, *given: Any, **keys: Any) -> None:
            finished(options.device)
            seconds.append(time.perf_counter() - began[0])

    class InOrder(Trainer):
        def _get_train_sampler(self, *given: Any, **keys: Any) -> Any:
            return torch.utils.data.SequentialSampler(self.train_dataset)

    every = rows(shape, options.task).reshape(-1, shape.lengths[options.task]).tolist()
    arguments = TrainingArguments(
        output_dir=str(options.folder / f"{options.contender}-{options.task}"), use_cpu=not gpu, num_train_epochs=1,
        per_device_train_batch_size=1, gradient_accumulation_steps=shape.rows, learning_rate=shape.rate,
        lr_scheduler_type="constant", weight_decay=0.0, max_grad_norm=1.0, save_strategy="no", report_to=[],
        logging_steps=1, disable_tqdm=True, bf16=shape.dtype == "bfloat16", gradient_checkpointing=packed,
        optim="adamw_torch_fused" if gpu else "adamw_torch", use_liger_kernel=options.contender == "peft-liger",
    )  # fmt: skip
    data = [{"input_ids": ids, "labels": ids, "attention_mask": [1] * len(ids)} for ids in every]
    run = InOrder(model=model, args=arguments, train_dataset=data, callbacks=[Clock()])
    run.train()
    losses = [entry["loss"] for entry in run.state.log_history if "loss" in entry]
    norms = [entry["grad_norm"] for entry in run.state.log_history if "grad_norm" in entry]
    return {"losses": losses, "grad_norms": norms} | timed(seconds)


def finished(device: str) -> None:
    """Until the device has done all that it was asked for."""
    if device.startswith("cuda"):
        import torch

        torch.cuda.synchronize()


def timed(seconds: list[float]) -> Figures:
    return {"step_seconds": statistics.median(seconds[WARM:]), "all_steps": seconds}


def peak(device: str) -> Figures:
    """The most bytes that tensors took, and that torch's allocator held; of a processor what the process held."""
    if device.startswith("cuda"):
        import torch

        return {"peak_bytes": torch.cuda.max_memory_allocated(), "held_bytes": torch.cuda.max_memory_reserved()}
    return {"peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}


def products(shape: Shape, tokens: int, device: str) -> Figures:
    """Seconds of a step's products by themselves, forward and for the inputs' gradient, and their rate."""
    layers = sum(product(tokens, inside, outside, shape.dtype, device) for outside, inside in shape.linears)
    head = product(tokens, shape.hidden, shape.vocabulary, shape.dtype, device)
    frozen = shape.layers * sum(outside * inside for outside, inside in shape.linears)
    seconds = layers * shape.layers + head
    flop = 4 * tokens * (frozen + shape.hidden * shape.vocabulary)
    return {"seconds": shape.rows * seconds, "tflops": flop / seconds / 1e12}


def product(tokens: int, inside: int, outside: int, dtype: str, device: str) -> float:
    """Median seconds of x Wᵀ and grad W on random numbers, results into kept buffers."""
    import torch

    draw = {"dtype": getattr(torch, dtype), "device": device}
    x, weight, grad = (torch.randn(size, **draw) for size in ((tokens, inside), (outside, inside), (tokens, outside)))
    forward, backward, seconds = torch.empty_like(grad), torch.empty_like(x), []
    for _ in range(13):
        finished(device)
        began = time.perf_counter()
        torch.mm(x, weight.t(), out=forward)
        torch.mm(grad, weight, out=backward)
        finished(device)
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds[WARM:])


def wrong(shape: Shape, found: Figures) -> list[str]:
    """What must not be."""
    told = []
    for task, body in found.items():
        runs = {name: one for name, one in body["runs"].items() if "losses" in one}
        ours = [one for name, one in runs.items() if name.startswith("truetune")]
        if not ours:
            told.append(f"{task}: TrueTune did not train: {body['runs']['truetune']['left_out']}")
        for name, one in runs.items():
            if not one["losses"][-1] < one["losses"][0] - LEAST_LEARNED or not min(one["grad_norms"]) > 0:
                told.append(f"{task}, {name}: nothing was learned")
            offs = [abs(a / b - 1) for a, b in zip(one["losses"], ours[0]["losses"], strict=True)] if ours else []
            if not all(off <= shape.tolerance for off in offs):  # what is no number is off, too
                told.append(f"{task}, {name}: a step's loss is {max(offs):.1%} off ours")
    return told


def circumstances(shape: Shape, options: argparse.Namespace) -> Figures:
    import torch

    found = {name: version(name) for name in LIBRARIES if find_spec(name.replace("-", "_"))}
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, cwd=ROOT).stdout.strip()
    machine: Figures = {"processor": platform.machine(), "cores": os.cpu_count()}
    if options.device.startswith("cuda"):
        card = torch.cuda.get_device_properties(0)
        machine |= {"card": card.name, "bytes": card.total_memory, "cuda": torch.version.cuda}
    command = f"python benchmarks/cuda.py{' --tiny' if options.tiny else ''} --device {options.device}"
    return {
        "command": command, "date": datetime.now(UTC).date().isoformat(), "commit": commit, "versions": found,
        "machine": machine, "shape": asdict(shape),
    }  # fmt: skip


def report(body: Figures) -> str:
    lines = [f"{body['machine']}", f"{body['versions']}"]
    for task in CONTENDERS:
        rate = body[task]["products"]["tflops"]
        lines += ["", f"{task}, rows of {body[task]['tokens']} tokens; products alone: {rate:.3g} TFLOP/s"]
        for name, one in body[task]["runs"].items():
            if "left_out" in one:
                lines.append(f"  {name:14} left out: {one['left_out']}")
                continue
            speed, share, most = one["tokens_per_second"], one["share"], one["peak_bytes"] / 1e9
            lines.append(
                f"  {name:14} {speed:9.0f} tokens/s  {share:5.1%} of the products' rate  {most:6.2f} GB"
                f"  loss {one['losses'][0]:.4f} -> {one['losses'][-1]:.4f}"
            )
            lines += [f"  {'':14} {kind}: {how}" for kind, how in one.get("kernels", {}).items()]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())

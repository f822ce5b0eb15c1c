"""To a whole model: the adapter folded into its base, for all that loads a folder of safetensors.

It is folded in float32 and compared as such: that must be what was trained. Then it is stored in the number type of its
base, and what that rounds away is measured too, and bounded. It is folded tensor by tensor from the base's files into
ones that are cut in the same way (`streamed`); PEFT folds in memory what brings tokens that the base has no rows for.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from truetune.engines import adapter as adapters
from truetune.engines.prompts import PROMPTS
from truetune.engines.torch import files as tensors
from truetune.engines.torch import folded
from truetune.errors import UsageError
from truetune.export import files, streamed
from truetune.export import sampled as sampling
from truetune.export.origin import MLX_LM, Origin
from truetune.export.peft import rows
from truetune.export.run_transformers import Transformers
from truetune.export.runtime import Options, Part, Runtime
from truetune.export.sampled import Sampled
from truetune.models import facts, gate, header, packed, weights
from truetune.runs import jsonfile

QUANTS = ("f32", "f16", "bf16")
STORED = {"F16": "float16", "BF16": "bfloat16", "f16": "float16", "bf16": "bfloat16"}
"""Number types narrower than float32, by their names in safetensors and in `QUANTS`."""


def check(origin: Origin, options: Options) -> None:
    """Raises UsageError for what is no adapter that a weight can hold."""
    side = origin.side
    if side.adapter is None:
        if origin.planned:
            return
        raise UsageError(
            "this is a whole model already",
            code="export.no_adapter",
            where=origin.name,
            hint=f"Its folder is what transformers loads: {side.model}.",
        )
    if side.engine == MLX_LM:
        raise UsageError(
            "this adapter is in mlx_lm's layout",
            code="export.unmergeable",
            where=origin.name,
            hint="Export it as PEFT's first: --format peft.",
        )
    if adapters.read_config(side.adapter, adapters.KINDS)["peft_type"] in PROMPTS.values():
        raise UsageError(
            "virtual tokens stand before a text, and no weight can hold them",
            code="export.unmergeable",
            where=origin.name,
            hint="Export it as PEFT's: --format peft; or train with method.type lora.",
        )


def write(origin: Origin, folder: Path, options: Options) -> None:
    """Into an existing folder, what the adapter changes in float32, with `--quant f32` all of it. Raises what the
    loading of both raises."""
    fold = plan(origin)
    if fold is None:
        whole(origin, folder)
        return
    streamed.write(fold, folder, wide="all" if options.quant == "f32" else "changed")
    described(origin, folder)


def once(origin: Origin, folder: Path, options: Options) -> str | None:
    """As `write` and `reduce` after it, of what is folded file by file: straight into the number type of the base."""
    own, fold = STORED.get(facts.read(origin.side.model).dtype), plan(origin)
    if fold is None or own is None or (options.quant and STORED.get(options.quant) != own):
        write(origin, folder, options)
        return reduce(origin, folder, options)
    streamed.write(fold, folder)
    described(origin, folder)
    named(folder, own)
    return own


def described(origin: Origin, folder: Path) -> None:
    """The base's config.json, which packs nothing, and how it is asked."""
    path = folder / "config.json"
    shutil.copyfile(origin.side.model / "config.json", path)
    config = gate.parse(path)
    if config.pop(packed.KEY, None):
        path.write_bytes(jsonfile.dumps(config))
    older(path)
    files.spoken(origin, folder)


def plan(origin: Origin) -> streamed.Fold | None:
    """How it is folded without loading it; None where it can't be."""
    side = origin.side
    assert side.adapter is not None
    return streamed.plan(side.model, side.adapter, side.bits)


def sampled(origin: Origin, folder: Path) -> Sampled | None:
    """The check that needs no memory for the model; None for what is folded in memory."""
    fold = plan(origin)
    return sampling.check(fold, folder) if fold else None


def whole(origin: Origin, folder: Path) -> None:
    """Into an existing folder, all in float32 and by transformers' own names, folded in memory by PEFT. The gate has
    asked whether there is room for that."""
    side = origin.side
    assert side.adapter is not None
    made = folded.folded(side.model, side.adapter, bits=side.bits, rows=rows(side.adapter))
    made.save_pretrained(folder)
    older(folder / "config.json")
    files.spoken(origin, folder)


def older(path: Path) -> None:
    """Say the rotary embedding in the words of before transformers 5, too: mlx_lm and others read those, and take a
    default where they are missing."""
    config = gate.parse(path)
    rope = config.get("rope_parameters")
    if not isinstance(rope, dict) or "rope_theta" not in rope or "rope_theta" in config:
        return
    config["rope_theta"] = rope["rope_theta"]
    if rope.get("rope_type", "default") != "default":
        config["rope_scaling"] = {key: value for key, value in rope.items() if key != "rope_theta"}
    path.write_bytes(jsonfile.dumps(config))


def reduce(origin: Origin, folder: Path, options: Options) -> str | None:
    """Put the weights into the number type that was asked for, else that of the base; None where it is float32."""
    own = STORED.get(facts.read(origin.side.model).dtype)
    dtype = STORED.get(options.quant) if options.quant else own
    if dtype is None:
        named(folder, "float32")
        return None
    fold = plan(origin)
    if fold is not None and dtype == own:
        streamed.write(fold, folder, wide="")
        named(folder, dtype)
    else:
        narrow(folder, getattr(torch, dtype))
    return dtype


def narrow(folder: Path, dtype: torch.dtype) -> None:
    """Write every tensor of a model folder in `dtype`, a file at a time."""
    for path in sorted(folder.glob("*.safetensors")):
        stored = {name: tensor.to(dtype) for name, tensor in load_file(path).items()}
        save_file(stored, path, metadata={"format": "pt"})
    named(folder, str(dtype).removeprefix("torch."))


def named(folder: Path, dtype: str) -> None:
    """Say in config.json what the weights are stored in."""
    config = gate.parse(folder / "config.json")
    config.pop("torch_dtype", None)  # the older word for it
    (folder / "config.json").write_bytes(jsonfile.dumps(config | {"dtype": dtype}))


def runtime(origin: Origin, folder: Path, exact: bool) -> Runtime:
    """The stored numbers are computed with in float32 in any case, so that the figures are those of the rounding."""
    return Transformers(folder)


def parts(origin: Origin, folder: Path) -> Iterator[Part]:
    """Every tensor beside what PEFT folds from the run's own files."""
    side = origin.side
    assert side.adapter is not None
    changed = touched(side.adapter)
    made = folded.folded(side.model, side.adapter, bits=side.bits, rows=rows(side.adapter)).state_dict()
    for path in weights.shards(folder):
        for name, found in tensors.load(path, "model.damaged").items():
            wanted = made[name].float().numpy() if name in made else np.zeros(0, np.float32)
            yield Part(name, wanted, found.float().numpy(), any(one in name for one in changed))


def touched(adapter: Path) -> set[str]:
    """Names of the modules that an adapter changes."""
    names = [tensor.name.removeprefix(adapters.PREFIX) for tensor in header.read(adapter / adapters.WEIGHTS)]
    return {name.split(".lora_")[0].removesuffix(".ia3_l").removesuffix(".weight") for name in names}


def usage(origin: Origin, place: Path) -> str:
    return (
        "from transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
        f"folder = {str(place)!r}\ntokenizer = AutoTokenizer.from_pretrained(folder)\n"
        "model = AutoModelForCausalLM.from_pretrained(folder)"
    )

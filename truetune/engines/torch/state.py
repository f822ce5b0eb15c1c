"""Everything a resume needs, as safetensors and JSON: parameters, optimizer, random number generators."""

from __future__ import annotations

import hashlib
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from truetune.engines.base import Part, Snapshot
from truetune.engines.torch import files, mean, optimizers
from truetune.engines.torch.mean import Mean
from truetune.engines.torch.methods import Adapted
from truetune.engines.torch.optimizers import Optimizer
from truetune.errors import InputError

OPTIMIZER, RNG = "optimizer.safetensors", "rng.safetensors"
CONSTANT = ("qmap1", "qmap2")
"""Tables of numbers that bitsandbytes keeps with its moments."""
DAMAGED = "checkpoint.damaged"


def fingerprints(parameters: dict[str, nn.Parameter]) -> dict[str, str]:
    """Name -> sha256 of the parameter's bytes."""
    return {name: hashlib.sha256(raw(p)).hexdigest() for name, p in parameters.items()}


def raw(tensor: torch.Tensor) -> memoryview:
    flat = tensor.detach().cpu().contiguous().view(-1)
    return memoryview(flat.view(torch.uint8).numpy())


def save(folder: Path, adapted: Adapted, optimizer: Optimizer, rng: dict, average: Mean) -> None:
    """A checkpoint's tensors. Where the method's files are PEFT's, it is itself an adapter that PEFT loads."""
    with average.shown():
        adapted.save(folder)
    average.save(folder)
    files.write(folder / OPTIMIZER, moments(adapted.parameters, optimizer))
    generators(rng)(folder)


def snapshot(adapted: Adapted, optimizer: Optimizer, rng: dict, average: Mean) -> Snapshot:
    """What `save` writes, copied."""
    with average.shown():
        parts = adapted.snapshot()
    kept = files.part(OPTIMIZER, files.held(moments(adapted.parameters, optimizer)))
    return Snapshot((*parts, *average.snapshot(), kept, generators(rng)))


def size(adapted: Adapted, optimizer: Optimizer, average: Mean) -> int:
    """Bytes of the tensors of a checkpoint, about."""
    parts = (adapted.parameters, moments(adapted.parameters, optimizer), average.tensors())
    return sum(tensor.nbytes for part in parts for tensor in part.values())


def restore(folder: Path, adapted: Adapted, optimizer: Optimizer, average: Mean) -> dict[str, torch.Tensor]:
    """Undo `save`; returns the generators' state. Raises InputError `checkpoint.damaged` for files that do not fit."""
    weights = files.load(folder / adapted.file, DAMAGED)
    moments = files.load(folder / OPTIMIZER, DAMAGED)
    averaged = files.load(folder / mean.FILE, DAMAGED) if average.decay is not None else {}
    try:
        put_moments(moments, adapted.parameters, optimizer)
        adapted.put(weights)
        if averaged:
            average.restore(averaged)
        return read_rng(folder / RNG)
    except (KeyError, TypeError, ValueError, RuntimeError, OSError, SafetensorError) as error:
        raise InputError(
            f"the checkpoint does not fit its run: {error}",
            code=DAMAGED,
            where=str(folder),
            hint="Go on from another checkpoint; `ft runs show` lists them.",
        ) from error


def moments(parameters: dict, optimizer: Optimizer) -> dict[str, torch.Tensor]:
    """What the optimizer keeps of each parameter: `exp_avg.<name>`; a plain number as a tensor without dimensions."""
    return {
        f"{kind}.{name}": torch.as_tensor(value).detach()
        for name, parameter in parameters.items()
        for kind, value in optimizer.state.get(parameter, {}).items()
        if kind not in CONSTANT
    }


def put_moments(tensors: dict, parameters: dict, optimizer: Optimizer) -> None:
    """Undo `moments`. Raises ValueError, KeyError for tensors that are not this optimizer's of these parameters.

    The optimizer makes room for them by a step that changes nothing: only it knows the shapes, the number types and
    what lies in paged memory.
    """
    given: dict[str, dict[str, torch.Tensor]] = {}
    for key, tensor in tensors.items():
        kind, _, name = key.partition(".")
        given.setdefault(name, {})[kind] = tensor
    optimizer.state.clear()
    for name in given:
        parameters[name].grad = torch.zeros_like(parameters[name])
    optimizers.set_rate(optimizer, 0.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    for name, found in given.items():
        fill(optimizer.state[parameters[name]], found, name)


def fill(state: dict[str, Any], found: dict[str, torch.Tensor], name: str) -> None:
    if found.keys() != state.keys() - set(CONSTANT):
        raise ValueError(f"{name} has moments of another optimizer")
    for kind, tensor in found.items():
        place = torch.as_tensor(state[kind])
        if (place.shape, place.dtype) != (tensor.shape, tensor.dtype):
            raise ValueError(f"{name} is of another shape")
        if isinstance(state[kind], torch.Tensor):
            place.copy_(tensor)
        else:
            state[kind] = tensor.item()


def seed(number: int) -> None:
    """Every generator that training, or a library in it, may draw from begins at the same place in each process."""
    torch.manual_seed(number)
    np.random.seed(number % 2**32)
    random.seed(number)


def rng() -> dict[str, torch.Tensor]:
    """The state of every generator that training may draw from, as byte tensors."""
    states = {"torch": torch.get_rng_state()}
    if torch.cuda.is_available():
        states |= {f"cuda.{i}": value for i, value in enumerate(torch.cuda.get_rng_state_all())}
    return states


def set_rng(states: dict[str, torch.Tensor]) -> None:
    torch.set_rng_state(states["torch"])
    cuda = sorted(((int(k.partition(".")[2]), v) for k, v in states.items() if k.startswith("cuda.")))
    if cuda and torch.cuda.is_available():
        torch.cuda.set_rng_state_all([value for _, value in cuda][: torch.cuda.device_count()])


def generators(states: dict[str, torch.Tensor]) -> Part:
    """What writes the engine's torch and CUDA states, and Python's and NumPy's as they stand: libraries draw from
    these."""
    kind, keys, position, gauss, cached = np.random.get_state()
    version, numbers, spare = random.getstate()
    others = {"numpy": [kind, int(position), int(gauss), float(cached)], "python": [version, spare]}
    tensors = states | {
        "numpy.keys": torch.from_numpy(np.asarray(keys, dtype=np.int64)),
        "python.numbers": torch.tensor(numbers, dtype=torch.int64),
    }
    return lambda folder: save_file(tensors, folder / RNG, {"others": json.dumps(others)})


def read_rng(path: Path) -> dict[str, torch.Tensor]:
    """Undo `generators`."""
    with safe_open(path, framework="pt") as file:
        others = json.loads(file.metadata()["others"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    numpy_keys = tensors.pop("numpy.keys").numpy().astype(np.uint32)
    kind, position, gauss, cached = others["numpy"]
    np.random.set_state((kind, numpy_keys, position, gauss, cached))
    version, spare = others["python"]
    random.setstate((version, tuple(tensors.pop("python.numbers").tolist()), spare))
    return tensors

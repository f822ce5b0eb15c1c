"""Which device and number type to compute on, and how much memory is there."""

from __future__ import annotations

import ctypes
import gc
import math
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import torch

from truetune.engines.base import Choice, OutOfMemory, Usage
from truetune.engines.torch import waits
from truetune.errors import ResourceError


def choose(device: str = "auto", dtype: str = "auto") -> Choice:
    """Resolve `auto`; `cuda` without a GPU falls back to the CPU with a warning."""
    name, reason, warning = pick(device)
    if dtype != "auto":
        return Choice(name, dtype, reason, "as asked", warning or slow(name, dtype))
    if name.startswith("cuda") and torch.cuda.is_bf16_supported(including_emulation=False):
        return Choice(name, "bfloat16", reason, "this GPU computes bfloat16 natively", warning)
    return Choice(name, "float32", reason, f"float32 is the safe choice on {name}", warning)


def pick(device: str) -> tuple[str, str, str]:
    """(device, reason, warning)."""
    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    if device == "auto":
        if cuda:
            return "cuda", f"{torch.cuda.get_device_name(0)} found", ""
        return "cpu", "no CUDA GPU found", ""
    if device.startswith("cuda"):
        if not cuda:
            return "cpu", "no CUDA GPU found", f"{device} was asked for, but no CUDA GPU is usable: using the CPU"
        index = int(device.partition(":")[2] or 0)
        if index >= torch.cuda.device_count():
            raise ResourceError(
                f"there is no {device}: this machine has {torch.cuda.device_count()} GPU(s)",
                code="device.missing",
                where="resources.device",
                hint="Use cuda:0, or leave resources.device on auto.",
            )
        return device, "as asked", ""
    if device == "mps":
        if not mps:
            return "cpu", "no Apple GPU found", "mps was asked for, but is not usable here: using the CPU"
        return "mps", "as asked", "mps is untested with TrueTune: check the first losses against the CPU"
    return "cpu", "as asked", ""


def slow(device: str, dtype: str) -> str:
    """A warning where bfloat16 would crawl: CPUs without its instructions are 7 to 100 times slower with it."""
    if device == "cpu" and dtype == "bfloat16" and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return "this CPU has no fast bfloat16: float32 will be many times faster"
    return ""


def fit_threads(cgroup: Path = Path("/sys/fs/cgroup")) -> None:
    """No more threads than a container may use: torch counts the machine's cores, not the quota on them. And have them
    wait as it fits what else the machine does."""
    allowed = quota(cgroup)
    if allowed and allowed < torch.get_num_threads():
        torch.set_num_threads(max(1, math.floor(allowed)))
    waits.watch()


def quota(cgroup: Path) -> float | None:
    """CPUs that the control group allows (versions 2 and 1); None where there is no limit."""
    for names in (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):
        with suppress(OSError, ValueError):
            most, period = " ".join((cgroup / name).read_text() for name in names).split()
            if most != "max" and int(most) > 0:
                return int(most) / int(period)
    return None


def usage(device: str) -> Usage:
    """Bytes in use now, at the peak, and the most there is."""
    if device.startswith("cuda"):
        _, total = torch.cuda.mem_get_info(device)
        return Usage(torch.cuda.memory_allocated(device), torch.cuda.max_memory_allocated(device), total)
    unit = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return Usage(psutil.Process().memory_info().rss, peak, psutil.virtual_memory().total)


def hold(device: str, most: int) -> None:
    """Let torch use no more than so many bytes of a GPU: what goes beyond says that memory ran out, and micro-batches
    become smaller. 0 = no such bound."""
    if most and device.startswith("cuda"):
        _, total = torch.cuda.mem_get_info(device)
        index = torch.device(device).index
        torch.cuda.set_per_process_memory_fraction(min(1.0, most / total), index)


def give_back() -> None:
    """What was freed goes back to the system, where the C library can: packing a model leaves holes in the heap, and
    layers that hold themselves."""
    gc.collect()
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def free(device: str) -> int | None:
    """Free bytes of a GPU; None for the CPU, whose memory is asked for elsewhere."""
    return torch.cuda.mem_get_info(device)[0] if device.startswith("cuda") else None


@contextmanager
def running_out() -> Iterator[None]:
    """What says that memory ran out says it in the engines' words. Raises OutOfMemory."""
    try:
        yield
    except RuntimeError as error:
        if not (isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)):
            raise
        raise OutOfMemory(str(error)) from None

"""How much memory a training takes, estimated from a model's facts, and how much there is.

Everything is counted in bytes. With P parameters of the base, T trained ones, b bytes per number of the base's dtype,
L layers of hidden size h, query width Q, key width K and feed-forward width I, and n tokens in a micro-batch:

    weights      P · b     LoftQ holds them beside the packed ones at first: what they exceed a step by counts here
    trained      T · 4     LoRA's matrices, or a float32 copy where the whole model trains in a narrower dtype
    gradients    T · 4
    optimizer    T · m     m = 8 for AdamW's two moments, see `truetune.engines.optimizers`
    activations  s · n · b · (L · a + h + 4 I)   a: what one layer keeps for the backward pass, see `layer_width`
                 s · n · b · (L · h + c · a + 4 I)   with gradient checkpointing: each layer's input, and one whole
                 layer (c = 1; 2 on a processor, where a layer's holes in the heap do not fit the next one's tensors);
                 with offload 2 h for L · h: the input that is used and the one on its way, the others are the host's
    head         logits of one chunk, three float32 copies; n rows of them where the engine pads instead of packing
    runtime      RUNTIME   Python and the libraries, without a model

4 I stands for what the backward pass holds at the widest place, s for SLACK: an allocator keeps more than it hands
out. With glibc's, a process's measured peaks lay within 15% of the total (`benchmarks/memory.py`,
docs/evidence/memory.json). On a GPU only torch's own allocations count; there SLACK and RUNTIME are the smaller ones,
and are not measured yet.
"""

from __future__ import annotations

import resource
from dataclasses import astuple, dataclass, replace
from pathlib import Path

import psutil

from truetune.models import virtual
from truetune.models.facts import Facts

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
PACKED = {4: 0.5 + 1 / 64 + 4 / (64 * 256), 8: 1.0}
"""Bytes per packed number: of 4 bits with a byte-sized scale for 64, and a float32 scale for 256 of these."""
CHUNK = 4 * 1024 * 1024
"""Most logits that the engine's head holds at once."""
SLACK, PACKED_SLACK, GPU_SLACK = 1.7, 2.2, 1.6
"""The second where layers are unpacked and dropped all the time, which cuts a processor's heap up further."""
RUNTIME, GPU_RUNTIME = 420_000_000, 250_000_000
TABLES = ("embed_tokens", "lm_head", "wte", "embed_in", "embed_out", "word_embeddings")
"""What modules with a row for each token are called."""


@dataclass(frozen=True)
class Memory:
    """Bytes of one training set-up, by what they are for."""

    weights: int
    trained: int
    gradients: int
    optimizer: int
    activations: int
    head: int
    runtime: int

    @property
    def total(self) -> int:
        return sum(astuple(self))


@dataclass(frozen=True)
class Setup:
    """What is trained and how: all that the estimate needs beside the model's facts."""

    method: str = "lora"
    r: int = 16
    targets: tuple[str, ...] | None = None
    """Projections that LoRA adapts, None for all linear layers."""
    dtype: str = "float32"
    packed: bool = True
    checkpointing: bool = False
    bits: int = 0
    """Of the frozen base's linear layers; 0 = they are of `dtype` too."""
    virtual: int = 0
    """Tokens before every text that are trained."""
    encoder: int | None = None
    """Width of the network that makes them, None for the model's own."""
    whole: tuple[str, ...] = ()
    """Modules that are trained whole beside the adapter."""
    rows: int = 0
    """Tokens whose rows of the embedding and the head are trained."""
    scores: bool = False
    """Whether a text gets a score for each of a few classes, and no token any for the vocabulary."""
    gpu: bool = False
    """Whether it is a GPU's memory that counts, else the machine's."""
    moments: float = 8.0
    """Bytes that the optimizer keeps of each trained number."""
    frozen: int = 0
    """Of the whole model: the lowest layers that are not trained, and the embedding with them."""
    offload: bool = False
    """With checkpointing: whether the layers' inputs wait in the host's memory."""
    original: bool = False
    """Whether the weights as they were stand beside the packed ones before the first step: LoftQ looks at both."""


def projections(facts: Facts) -> dict[str, tuple[int, int]]:
    """Name -> (inputs, outputs) of a layer's linear maps, in Llama's words."""
    hidden, inner = facts.hidden, facts.intermediate
    query, key = facts.heads * facts.head_dim, facts.kv_heads * facts.head_dim
    found = {
        "q_proj": (hidden, query),
        "k_proj": (hidden, key),
        "v_proj": (hidden, key),
        "o_proj": (query, hidden),
    }
    if facts.experts:  # their matrices are no layers of their own
        return found
    found |= {"up_proj": (hidden, inner), "down_proj": (inner, hidden)}
    return found | {"gate_proj": (hidden, inner)} if facts.gated else found


def adapted(facts: Facts, targets: tuple[str, ...] | None) -> list[tuple[int, int]]:
    """Shapes of the maps of a layer that get LoRA; names of other architectures count as all of them."""
    known = projections(facts)
    if targets is None or not set(targets) <= known.keys():
        return list(known.values())
    return [known[name] for name in targets]


def trained(facts: Facts, setup: Setup) -> int:
    """Number of trained parameters."""
    if setup.method == "full":
        return facts.parameters - resting(facts, setup.frozen)
    if setup.method in virtual.METHODS:
        return virtual.trained(facts, setup.method, setup.virtual, setup.encoder)
    maps = adapted(facts, setup.targets)
    lengths = sum(outside for _, outside in maps) if setup.method == "dora" else 0
    layer = setup.r * sum(inside + outside for inside, outside in maps) + lengths
    return facts.layers * layer + beside(facts, setup)


def resting(facts: Facts, layers: int) -> int:
    """Parameters of the embedding and of so many layers; 0 for none of them."""
    maps = sum(inside * outside for inside, outside in projections(facts).values())
    return facts.vocabulary * facts.hidden + layers * maps if layers else 0


def beside(facts: Facts, setup: Setup) -> int:
    """Parameters trained beside the adapter: rows of new tokens, and modules by what their names say: the embedding or
    the head, one matrix where they are tied; a layer's map; else a norm of each layer."""
    tables = [name for name in setup.whole if name.rpartition(".")[2] in TABLES]
    others = [name.rpartition(".")[2] for name in setup.whole if name not in tables]
    known, count = projections(facts), 1 if facts.tied else 2
    shapes = [known.get(name, (facts.hidden, 1)) for name in others]
    large = facts.vocabulary * facts.hidden * min(len(tables), count)
    rows = setup.rows * facts.hidden * max(0, count - len(tables))
    return large + rows + facts.layers * sum(inside * outside for inside, outside in shapes)


def layer_width(facts: Facts, setup: Setup) -> float:
    """Numbers per token that one layer keeps for the backward pass.

    Two norms with their inputs and outputs (4 h) and the residual sums (2 h); queries, keys and values before and
    after rotation and repetition, and the attention's output (4 Q + 4 K); gate, its activation, up and their product
    (4 I). LoRA adds the rank-r product and, for dropout, a byte-sized mask per input; DoRA its output before it is
    stretched, and its input as dropout leaves it.
    """
    query, key = facts.heads * facts.head_dim, facts.kv_heads * facts.head_dim
    width = 6.0 * facts.hidden + 4 * query + 4 * key + 4 * (facts.passed or facts.intermediate)
    if setup.method == "full" or setup.method in virtual.METHODS:
        return width
    size = BYTES[setup.dtype]
    maps = adapted(facts, setup.targets)
    stretched = sum(inside + outside for inside, outside in maps) if setup.method == "dora" else 0
    return width + sum(setup.r + inside / size for inside, _ in maps) + stretched


def per_token(facts: Facts, setup: Setup) -> float:
    """Bytes of activations that one more token in the micro-batch costs."""
    width, peak = layer_width(facts, setup), 4 * (facts.passed or facts.intermediate)
    slack = GPU_SLACK if setup.gpu else PACKED_SLACK if setup.bits else SLACK
    if setup.checkpointing:
        inputs = min(2, facts.layers) if setup.offload else facts.layers
        return slack * BYTES[setup.dtype] * (inputs * facts.hidden + (1 if setup.gpu else 2) * width + peak)
    return slack * BYTES[setup.dtype] * (facts.layers * width + facts.hidden + peak)


def host_bytes(facts: Facts, setup: Setup, tokens: int) -> int:
    """Bytes of the host's memory for the layers' inputs of so many tokens."""
    return tokens * facts.layers * facts.hidden * BYTES[setup.dtype] if setup.offload else 0


def head_bytes(facts: Facts, setup: Setup, tokens: int) -> int:
    """Logits with their gradient and one temporary, float32, and the hidden state's gradient; where rows of the head
    are trained, the whole of it with them in it, and its gradient."""
    logits = 0 if setup.scores else tokens * facts.vocabulary
    if setup.packed:
        logits = min(logits, max(CHUNK, facts.vocabulary))
    table = facts.vocabulary * facts.hidden * (BYTES[setup.dtype] + 4) if setup.rows else 0
    return 3 * 4 * logits + tokens * facts.hidden * 4 + table


def base_bytes(facts: Facts, setup: Setup) -> int:
    """The base's weights: embeddings, head and norms stay in `dtype` where the linear layers are packed."""
    if not setup.bits:
        return facts.parameters * BYTES[setup.dtype]
    maps = [inside * outside for inside, outside in projections(facts).values()]
    linear, size = min(facts.parameters, facts.layers * sum(maps)), BYTES[setup.dtype]
    unpacked = 2 if setup.gpu and not setup.offload else 1  # a GPU unpacks the next layer beside the one that computes
    return int(linear * PACKED[setup.bits]) + (facts.parameters - linear) * size + unpacked * max(maps) * size


def read_again(facts: Facts, setup: Setup) -> int:
    """Bytes of the weights as they were, which are gone before the first step; beside a GPU they are the host's."""
    return facts.parameters * BYTES[setup.dtype] if setup.original and not setup.gpu else 0


def estimate(facts: Facts, setup: Setup, tokens: int) -> Memory:
    """Memory of training with micro-batches of `tokens` tokens."""
    count = trained(facts, setup)
    narrow = setup.method == "full" and BYTES[setup.dtype] < 4
    found = Memory(
        weights=base_bytes(facts, setup),
        trained=(facts.parameters if narrow else count) * 4 if setup.method != "full" or narrow else 0,
        gradients=count * 4,
        optimizer=int(count * setup.moments),
        activations=int(tokens * per_token(facts, setup)),
        head=head_bytes(facts, setup, tokens),
        runtime=GPU_RUNTIME if setup.gpu else RUNTIME,
    )
    of_steps = found.gradients + found.optimizer + found.activations + found.head
    return replace(found, weights=found.weights + max(0, read_again(facts, setup) - of_steps))


def readable(size: float) -> str:
    """`3.1 GB`, in powers of ten."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if size >= 100 or unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def available(device: int | None = None, cgroups: Path = Path("/sys/fs/cgroup")) -> int:
    """Bytes that training may use: a GPU's free memory as given, else the machine's, within the container's limit."""
    if device is not None:
        return device
    return min([int(psutil.virtual_memory().available), *(free for _, free in _limits(cgroups)), *_allowed()])


def installed(cgroups: Path = Path("/sys/fs/cgroup")) -> int:
    """Bytes of memory that the machine has, or that the container may use."""
    return min([int(psutil.virtual_memory().total), *(most for most, _ in _limits(cgroups))])


def _limits(root: Path) -> list[tuple[int, int]]:
    """What the control groups (version 2, then 1) allow, and what of it is free; file cache that can be dropped is."""
    own = _own_group()
    files = [
        *((folder / "memory.max", folder / "memory.current", "inactive_file") for folder in _upward(root, own)),
        (root / "memory/memory.limit_in_bytes", root / "memory/memory.usage_in_bytes", "total_inactive_file"),
    ]
    found = []
    for limit, used, key in files:
        try:
            most, now = int(limit.read_text()), int(used.read_text())
            pairs = (line.split() for line in limit.with_name("memory.stat").read_text().splitlines())
            cache = next((int(value) for name, value in pairs if name == key), 0)
        except (OSError, ValueError):  # no such group, or "max": no limit
            continue
        found.append((most, max(0, most - now + cache)))
    return found


def _allowed() -> list[int]:
    """What `ulimit -v` and `-d` leave this process."""
    try:
        used = [int(pages) * resource.getpagesize() for pages in Path("/proc/self/statm").read_text().split()]
    except OSError:  # not on Linux
        return []
    limits = ((resource.RLIMIT_AS, used[0]), (resource.RLIMIT_DATA, used[5]))
    most = [(resource.getrlimit(kind)[0], now) for kind, now in limits]
    return [max(0, limit - now) for limit, now in most if limit != resource.RLIM_INFINITY]


def _own_group() -> str:
    """This process's group of version 2, `/` where there is none."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return "/"
    return next((line[3:] for line in lines if line.startswith("0::")), "/")


def _upward(root: Path, group: str) -> list[Path]:
    """The group's folder and those above it, up to the root."""
    folder = root / group.strip("/")
    return [place for place in (folder, *folder.parents) if place == root or root in place.parents]

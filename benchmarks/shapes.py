"""What is trained in `train.py`: models of random weights, each of a stated shape, and rows of mixed length.

Random weights and words are enough to measure speed and memory, and there is something to learn: which few of the
vocabulary's tokens occur at all.
"""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

SEED = 42
HELD_OUT = 8
LONGEST = 1024
"""Tokens: the rivals' longest row, and the length to which TRL packs."""
TEMPLATE = (
    "{%- for message in messages %}{{- ('' if loop.first else '\\n') + '<|im_start|>' + message['role'] + '\\n' "
    "+ message['content'] + '<|im_end|>' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '\\n<|im_start|>assistant\\n' }}{%- endif %}"
)
"""The starter's, with nothing behind the last turn: TRL takes all of an answer's text, the line break too."""


@dataclass(frozen=True)
class Shape:
    """`prompt` and `answer` are (median tokens, spread) of log-normal lengths; without a prompt rows are plain text."""

    about: str
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    intermediate: int
    vocabulary: int
    rows: int
    batch: int
    prompt: tuple[float, float] | None
    answer: tuple[float, float]
    tied: bool = True
    rate: float = 6e-3
    system: int = 0
    """Words of a system prompt that all rows begin with."""

    @property
    def linears(self) -> dict[tuple[int, int], int]:
        """(outputs, inputs) of the frozen layers that carry an adapter -> how many there are."""
        key = self.hidden // self.heads * self.kv_heads
        sizes = [(self.hidden, self.hidden)] * 2 + [(key, self.hidden)] * 2
        sizes += [(self.intermediate, self.hidden)] * 2 + [(self.hidden, self.intermediate)]
        return {size: sizes.count(size) * self.layers for size in dict.fromkeys(sizes)}

    @property
    def frozen(self) -> int:
        """Parameters of these layers."""
        return sum(outputs * inputs * count for (outputs, inputs), count in self.linears.items())

    @property
    def steps(self) -> int:
        return -(-self.rows // self.batch)


SHAPES = {
    "chat": Shape("chats of mixed length, 71M", 576, 12, 9, 3, 1536, 49152, 24, 8, (70, 0.6), (85, 0.6), rate=2e-3),
    "short": Shape("short chats, hidden 256", 256, 8, 4, 2, 704, 32768, 64, 16, (14, 0.5), (18, 0.5)),
    "prompts": Shape("long prompts, short answers", 512, 8, 8, 4, 1408, 32768, 12, 4, (450, 0.4), (30, 0.5)),
    "system": Shape("one long system prompt", 512, 8, 8, 4, 1408, 32768, 24, 8, (40, 0.5), (50, 0.5), system=250),
    "documents": Shape("long documents, plain text", 512, 6, 8, 4, 1408, 32768, 6, 2, None, (850, 0.15)),
    "wide": Shape("hidden 2048", 2048, 2, 32, 8, 5632, 32768, 12, 4, (50, 0.5), (60, 0.5)),
    "vocabulary": Shape("vocabulary of 150,000", 384, 4, 6, 2, 1024, 150_016, 16, 4, (60, 0.5), (70, 0.5)),
}


def make(shape: Shape, folder: Path, rows: int, seed: int = 7) -> None:
    """Model, rows and train.yml in a folder that is begun anew: what `ft train` and the rivals read."""
    from truetune.data import steps

    shutil.rmtree(folder, ignore_errors=True)
    model(shape, folder / "model")
    train, held_out = texts(shape, rows, seed), texts(shape, HELD_OUT, seed + 1)
    lines(folder / "train.jsonl", train)
    lines(folder / "ordered.jsonl", [apart(train[i]) for i in steps.order(rows, SEED, 0)])
    lines(folder / "held_out.jsonl", held_out)
    (folder / "train.yml").write_text(json.dumps(settings(shape), indent=1))  # JSON is YAML too


def model(shape: Shape, folder: Path) -> None:
    """A random Llama with the starter's tokenizer, whose 4,096 tokens are the first of the vocabulary."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from truetune.models.source import STARTER

    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=shape.hidden, num_hidden_layers=shape.layers, num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads, intermediate_size=shape.intermediate, vocab_size=shape.vocabulary,
        tie_word_embeddings=shape.tied, max_position_embeddings=2048, bos_token_id=None, eos_token_id=2,
        pad_token_id=3,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(STARTER / name, folder / name)
    (folder / "chat_template.jinja").write_text(TEMPLATE)


def texts(shape: Shape, count: int, seed: int) -> list[dict[str, Any]]:
    rng = np.random.default_rng(seed)
    found = words()

    def text(size: tuple[float, float]) -> str:
        length = int(np.clip(rng.lognormal(np.log(size[0]), size[1]), 4, LONGEST * 0.6 if shape.prompt else 1000))
        return "".join(found[i] for i in rng.integers(0, len(found), length)).strip()

    if shape.prompt is None:
        return [{"text": text(shape.answer)} for _ in range(count)]
    before = "".join(
        found[place] for place in np.random.default_rng(SEED).integers(0, len(found), shape.system)
    ).strip()
    system = [{"role": "system", "content": before}] if before else []
    return [
        {
            "messages": [
                *system,
                {"role": "user", "content": text(shape.prompt)},
                {"role": "assistant", "content": text(shape.answer)},
            ]
        }
        for _ in range(count)
    ]


def apart(row: dict[str, Any]) -> dict[str, Any]:
    """A row as TRL takes it, so that its loss is on the answer alone."""
    if "text" in row:
        return row
    return {"prompt": row["messages"][:-1], "completion": row["messages"][-1:]}


def words() -> list[str]:
    """Words that are one token of the starter's tokenizer each, with the space before them."""
    from truetune.models.source import STARTER

    vocabulary = json.loads((STARTER / "tokenizer.json").read_text("utf-8"))["model"]["vocab"]
    return [" " + word[1:] for word in vocabulary if word[:1] == "Ġ" and word[1:].isalpha()]


def lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def settings(shape: Shape) -> dict[str, Any]:
    """train.yml: the hyperparameters that the rivals get too; nothing is held out, saved or sampled on the way."""
    return {
        "model": {"path": "model"},
        "data": {"path": "train.jsonl", "validation": None, "max_length": LONGEST},
        "method": {"type": "lora", "r": 16, "alpha": 32, "dropout": 0.0},
        "training": {
            "learning_rate": shape.rate,
            "batch_size": shape.batch,
            "gradient_accumulation_steps": 1,
            "epochs": 1,
            "scheduler": "constant",
            "warmup": 0,
            "weight_decay": 0.0,
            "seed": SEED,
        },
        "evaluation": {"every": None, "samples": 0},
        "checkpoints": {"every": None},
        "resources": {"engine": "torch", "device": "cpu"},
        "output": {"dir": "run", "log": []},
    }


if __name__ == "__main__":
    make(SHAPES[sys.argv[1]], Path(sys.argv[2]), int(sys.argv[3]))
    print("{}")

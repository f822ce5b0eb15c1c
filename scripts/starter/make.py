"""Make the starter model: generate the text, train the tokenizer, train the model, write the folder.

    python scripts/starter/make.py --minutes 55 --bf16
    python scripts/starter/make.py --minutes 65 --bf16 --start FOLDER --seed 20 --peak 2e-3

The second goes on from the weights and the tokenizer of a folder, with the text of another seed. The text, the
tokenizer and the initial weights follow from `--seed`; how far training gets depends on the machine, and the figures
are written into the model's README.md. Plain torch and transformers; of TrueTune it uses only the questions that
measure the demo, to leave them out (`clean.py`).
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import torch
import vocabulary
from card import stages, write_card
from muon import Muon
from scale import FACTOR, scale
from text import chat, documents
from tokenizers import Tokenizer
from topics import TOPICS
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

FOLDER = Path(__file__).parents[2] / "truetune" / "models" / "starter"
VOCABULARY, CONTEXT = 4096, 1024
TOKENIZER_TEXTS, HELD_OUT = 30_000, 400
PROMPT_WEIGHT = 0.3  # answers teach more than random prompts


def build() -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=256, intermediate_size=576, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=CONTEXT, tie_word_embeddings=True, rms_norm_eps=1e-5,
        bos_token_id=None, eos_token_id=2, pad_token_id=3,
    )  # fmt: skip
    return LlamaForCausalLM(config)


def resume(folder: Path) -> LlamaForCausalLM:
    """The model of a folder, its scale undone: the learning rates here are for the plain weights."""
    model: LlamaForCausalLM = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    scale(model, 1 / FACTOR)
    return model


def encode(tokenizer: Tokenizer, document: list[tuple[str, str]] | str) -> tuple[list[int], list[float]]:
    """Token ids and loss weights of a document: 1 for answers with their end of turn and for plain text."""
    if isinstance(document, str):
        ids = [*tokenizer.encode(document).ids, 0]
        return ids, [1.0] * len(ids)
    ids, weights = [], []
    for role, text in document:
        head = tokenizer.encode(f"<|im_start|>{role}\n").ids
        body = tokenizer.encode(f"{text}<|im_end|>").ids
        tail = tokenizer.encode("\n").ids
        ids += head + body + tail
        weight = 1.0 if role == "assistant" else PROMPT_WEIGHT
        weights += [0.1] * len(head) + [weight] * len(body) + [0.1] * len(tail)
    return [*ids, 0], [*weights, 0.1]


Encoded = tuple[int, list[int], list[float]]


def encoded(tokenizer: Tokenizer, seed: int) -> Iterator[Encoded]:
    """(number, ids, weights) of each document of the stream, numbered from 1."""
    for number, document in enumerate(documents(seed), 1):
        yield number, *encode(tokenizer, document)


def batch(stream: Iterator[Encoded], count: int, length: int) -> tuple[int, torch.Tensor, torch.Tensor]:
    """The number of the last document read, int64 [count, length] ids and float32 [count, length] weights.

    Every row begins with a document and is filled with whole ones, the last of them cut: nothing is asked to follow
    from a beginning that is not there.
    """
    ids, weights, number = [], [], 0
    for _ in range(count):
        row: list[int] = []
        weight: list[float] = []
        while len(row) < length:
            number, more, heavy = next(stream)
            row, weight = row + more, weight + heavy
        ids.append(row[:length])
        weights.append(weight[:length])
    return number, torch.tensor(ids), torch.tensor(weights)


def loss_of(model: LlamaForCausalLM, ids: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Weighted mean of the token losses."""
    logits = model(input_ids=ids).logits[:, :-1]
    losses = torch.nn.functional.cross_entropy(logits.reshape(-1, VOCABULARY), ids[:, 1:].reshape(-1), reduction="none")
    weight = weights[:, 1:].reshape(-1)
    return (losses * weight).sum() / weight.sum()


def optimizers(model: LlamaForCausalLM, peak: float) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the layers, AdamW for the embedding and the norms."""
    named = dict(model.named_parameters())
    matrices = [p for name, p in named.items() if p.ndim == 2 and "embed" not in name]
    rest = [p for name, p in named.items() if p.ndim != 2 or "embed" in name]
    return [Muon(matrices, peak), torch.optim.AdamW(rest, lr=peak, betas=(0.9, 0.95), weight_decay=0.01)]


def schedule(progress: float) -> float:
    """Share of the peak learning rate: a short warm-up, then cosine to a twentieth."""
    if progress < 0.02:
        return progress / 0.02
    return 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * (progress - 0.02) / 0.98))


def held_out(model: LlamaForCausalLM, tokenizer: Tokenizer, seed: int) -> float:
    """Loss per answer token on conversations of another seed."""
    total, count = 0.0, 0.0
    model.eval()
    with torch.no_grad():
        for document in islice(documents(seed + 1), HELD_OUT):
            ids, weights = encode(tokenizer, document)
            only = torch.tensor([[float(w == 1.0) for w in weights]])
            total += float(loss_of(model, torch.tensor([ids]), only)) * float(only[:, 1:].sum())
            count += float(only[:, 1:].sum())
    model.train()
    return total / count


def fit(
    model: LlamaForCausalLM, tokenizer: Tokenizer, seed: int, minutes: float, bf16: bool, peak: float
) -> dict[str, float]:
    """Train until the minutes are over; with `bf16` the matrix products are computed in bfloat16 (autocast)."""
    stream, began, step, tokens, number = encoded(tokenizer, seed + 2), time.monotonic(), 0, 0, 0
    engines = optimizers(model, peak)
    while (progress := (time.monotonic() - began) / 60 / minutes) < 1:
        count, length = (8, 384) if progress < 0.85 else (3, CONTEXT)
        for group in (group for engine in engines for group in engine.param_groups):
            group["lr"] = peak * schedule(progress)
        number, ids, weights = batch(stream, count, length)
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = loss_of(model, ids, weights)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            for engine in engines:
                engine.step()
                engine.zero_grad()
        step, tokens = step + 1, tokens + count * length
        if step % 50 == 0:
            print(f"step {step} tokens {tokens} loss {loss.item():.3f} at {progress:.1%}", flush=True)
        if step % 500 == 0:
            print(f"held out {held_out(model, tokenizer, seed):.4f}", flush=True)
    measured = round(held_out(model, tokenizer, seed), 4)
    return {"steps": step, "tokens": tokens, "documents": number, "held_out_loss": measured}


def save(model: LlamaForCausalLM, folder: Path) -> None:
    model.generation_config = GenerationConfig(eos_token_id=2, pad_token_id=3)
    model.to(torch.bfloat16)
    scale(model)
    model.save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=55)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--bf16", action="store_true", help="faster where the CPU multiplies bfloat16")
    parser.add_argument("--peak", type=float, default=3e-3, help="the highest learning rate")
    parser.add_argument("--start", type=Path, help="go on from this folder; take another seed, for other text")
    parser.add_argument("--out", type=Path, default=FOLDER)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    options.out.mkdir(parents=True, exist_ok=True)
    if options.start:
        tokenizer, model = Tokenizer.from_file(str(options.start / "tokenizer.json")), resume(options.start)
    else:
        texts = (d if isinstance(d, str) else chat(d) for d in islice(documents(options.seed), TOKENIZER_TEXTS))
        tokenizer, model = vocabulary.train(texts, VOCABULARY), build()
    vocabulary.save(tokenizer, options.out, CONTEXT)
    earlier = stages(options.start) if options.start else []
    figures = fit(model, tokenizer, options.seed, options.minutes, options.bf16, options.peak)
    save(model, options.out)
    going_on = f" --start FOLDER --peak {options.peak:g}" if options.start else ""
    command = f"--minutes {options.minutes:g} --seed {options.seed} --threads {options.threads}" + (
        " --bf16" * options.bf16 + going_on
    )
    write_card(options.out, figures | {"parameters": model.num_parameters(), "topics": len(TOPICS)}, command, earlier)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()

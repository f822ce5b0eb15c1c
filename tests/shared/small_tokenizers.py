"""Tokenizers of the kinds that models have, as small as a tiny model's vocabulary: trained here on a few sentences."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, trainers

from truetune.engines.torch import tiny
from truetune.export.gguf import pre

TEXT = [
    "Hello, how are you? I'm fine, thanks; they'll say it's what we've done.",
    "The capital of France is Paris, and a spider has eight legs in 2026 or 12345.",
    "def f(x):\n    return x  # a comment\n\nuser assistant system question answer",
] * 4
CHATML = "chatml"
TEMPLATES = {
    CHATML: "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
    "headers": "{{ bos_token }}{% for m in messages %}<|start|>{{ m.role }}<|end|>\n\n{{ m.content | trim }}<|eot|>"
    "{% endfor %}{% if add_generation_prompt %}<|start|>assistant<|end|>\n\n{% endif %}",
    "turns": "{{ bos_token }}{% for m in messages %}[{{ m.role }}] {{ m.content }}{% if m.role == 'assistant' %}"
    "{{ eos_token }}{% endif %}\n{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}",
}
PATTERNS = {name: pattern for pattern, names in pre.PATTERNS.items() for name in names if name}
BYTES = [f"<0x{number:02X}>" for number in range(256)]


def write(folder: Path, kind: str, template: str | None = None, size: int = tiny.VOCAB) -> Path:
    """tokenizer.json, tokenizer_config.json and a chat template into a model folder; `kind` is one of llama.cpp's names
    for byte-level BPE, or `prefixed` or `bare`: SentencePiece with and without a space before a text."""
    sentence = kind in ("prefixed", "bare")
    marks = {"bos": "<s>", "eos": "</s>"} if sentence else {"bos": "<|begin|>", "eos": "<|im_end|>"}
    if kind == "llama-bpe":
        marks["eos"] = "<|eot|>"
    body = pieces(kind, size) if sentence else byte_level(kind, size, marks)
    (folder / "tokenizer.json").write_text(json.dumps(body), "utf-8")
    begins = sentence or kind == "llama-bpe"
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "add_bos_token": begins, "eos_token": marks["eos"]}
    config |= {"bos_token": marks["bos"]} if begins else {}
    (folder / "tokenizer_config.json").write_text(json.dumps(config), "utf-8")
    name = template or ("turns" if sentence else "headers" if begins else CHATML)
    (folder / "chat_template.jinja").write_text(TEMPLATES[name], "utf-8")
    return folder


def byte_level(kind: str, size: int, marks: dict[str, str]) -> dict[str, Any]:
    made = tokenizers.Tokenizer(models.BPE(ignore_merges=kind in ("llama-bpe", "tekken")))
    plain = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=kind not in PATTERNS)
    if kind in PATTERNS:
        made.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Split(Regex(PATTERNS[kind]), behavior="isolated"), plain]
        )
    elif kind == "smollm":
        made.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), plain])
    else:
        made.pre_tokenizer = plain
    if kind == "qwen2":
        made.normalizer = normalizers.NFC()
    made.decoder = decoders.ByteLevel()
    special = [*marks.values(), "<|im_start|>", "<|start|>", "<|end|>", "<|pad|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=size - 4,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator(TEXT, trainer)
    made.add_tokens(["<note>"])
    found: dict[str, Any] = json.loads(made.to_str())
    return found


def pieces(kind: str, size: int) -> dict[str, Any]:
    """As Llama 2's (`prefixed`) and Gemma's (`bare`) tokenizer.json."""
    made = tokenizers.Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    space = normalizers.Replace(" ", "▁")
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), space]) if kind == "prefixed" else space
    if kind == "bare":
        made.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    special = ["<unk>", "<s>", "</s>"]
    trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=[*special, *BYTES], show_progress=False)
    made.train_from_iterator(TEXT, trainer)
    found: dict[str, Any] = json.loads(made.to_str())
    found["added_tokens"] = [each for each in found["added_tokens"] if each["content"] in special]
    return found

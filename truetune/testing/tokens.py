"""Tiny tokenizers on disk, in the two families that matter, for tests of rendering."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import orjson
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

SPECIALS = ("<s>", "</s>", "<pad>", "<|im_start|>", "<|im_end|>")
TEXT = [
    "How do I train a small model on my own machine? Write the rows, run the command and read the receipt.",
    "The answer is short: seven of nine people said yes, and the other two were asleep.",
    "user assistant system ### User: ### Assistant: [INST] [/INST] hello there, general answer",
]


def byte_level(
    folder: Path, *, template: str | None = None, specials: Sequence[str] = SPECIALS, bos: bool = False
) -> Path:
    """A byte-level BPE, as GPT-2, Llama 3 and Qwen have it; `bos` makes it begin texts with <s>. Returns `folder`."""
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    backend.train_from_iterator(
        TEXT, trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
    )
    backend.add_special_tokens(list(specials))
    if bos:
        backend.post_processor = _begin(backend)
    return save(backend, folder, template)


def metaspace(folder: Path, *, template: str | None = None, specials: Sequence[str] = SPECIALS) -> Path:
    """A SentencePiece-like BPE with byte fallback, as Llama 2 and Mistral have it; begins texts with <s>."""
    trained = tokenizers.Tokenizer(models.BPE())
    trained.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    trained.train_from_iterator(TEXT, trainers.BpeTrainer(vocab_size=200, show_progress=False))
    learned = orjson.loads(trained.to_str())["model"]
    names = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *learned["vocab"]]
    vocab = {name: place for place, name in enumerate(dict.fromkeys(names))}
    merges = [tuple(merge) for merge in learned["merges"]]
    backend = tokenizers.Tokenizer(
        models.BPE(vocab=vocab, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    backend.normalizer = trained.normalizer
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    backend.decoder = decoders.Sequence(steps)
    backend.add_special_tokens(list(specials))
    backend.post_processor = _begin(backend)
    return save(backend, folder, template, {"unk_token": "<unk>"})


def save(
    backend: tokenizers.Tokenizer, folder: Path, template: str | None, names: Mapping[str, str] | None = None
) -> Path:
    """Write the files of a model folder that concern its tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    backend.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "pad_token": "<pad>",
    }
    (folder / "tokenizer_config.json").write_bytes(orjson.dumps({**config, **(names or {})}))
    if template is not None:
        (folder / "chat_template.jinja").write_text(template, "utf-8")
    return folder


def _begin(backend: tokenizers.Tokenizer) -> tokenizers.processors.TemplateProcessing:
    start = ("<s>", backend.token_to_id("<s>"))
    return tokenizers.processors.TemplateProcessing(single="<s> $A", pair="<s> $A $B", special_tokens=[start])

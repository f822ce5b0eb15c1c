"""Small encoders with a tokenizer of letters and words, which puts a text as its family does: `[CLS] text [SEP]`."""

from __future__ import annotations

from pathlib import Path

from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from truetune.engines.torch import tiny

WORDS = (
    "the",
    "a",
    "my",
    "your",
    "where",
    "is",
    "parcel",
    "order",
    "late",
    "money",
    "back",
    "please",
    "help",
    "return",
)


def make(folder: Path, architecture: str = "bert", seed: int = 0) -> Path:
    """A tiny random encoder (of `tiny.ENCODERS`) that reads `WORDS`, letters and digits."""
    tiny.make(folder, architecture, seed=seed)
    marks = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    if "roberta" in architecture:  # its padding is the token 1
        marks[:2] = marks[1::-1]
    letters = [chr(number) for number in range(33, 123)]
    pieces = dict.fromkeys([*marks, *letters, *(f"##{one}" for one in letters), *WORDS])
    vocabulary = {piece: at for at, piece in enumerate(pieces)}
    assert len(vocabulary) <= tiny.VOCAB
    backend = Tokenizer(WordPiece(vocabulary, unk_token="[UNK]"))
    backend.normalizer, backend.pre_tokenizer = BertNormalizer(), BertPreTokenizer()
    backend.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])],
    )
    roles = {"cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]", "unk_token": "[UNK]"}
    PreTrainedTokenizerFast(tokenizer_object=backend, **roles).save_pretrained(folder)
    return folder

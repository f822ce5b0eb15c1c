"""Texts to classify have the ids that anybody's call of the same tokenizer gives."""

from __future__ import annotations

from pathlib import Path

import pytest
from tokenizers import Tokenizer as Backend
from tokenizers import models, normalizers, pre_tokenizers, processors

from truetune.data import framed
from truetune.data.fit import fit
from truetune.data.render import Renderer
from truetune.data.rows import Labelled, RowError
from truetune.models import tokenizer
from truetune.models.source import STARTER
from truetune.models.tokenizer import Tokenizer

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS += ["the", "cat", "sat", "on", "mat", "a", "dog", "ran", "far", "away", "?"]
SPECIAL = {"cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]", "unk_token": "[UNK]"}
ROBERTA = {"bos_token": "[CLS]", "cls_token": "[CLS]", "sep_token": "[SEP]", "eos_token": "[SEP]"}
TEXT, PAIR = "The cat sat on the mat", "A dog ran far away ?"


def make(folder: Path, kind: str) -> Path:
    """A word-level tokenizer that frames texts as BERT's or RoBERTa's does, or with a BOS alone."""
    from transformers import PreTrainedTokenizerFast

    backend = Backend(models.WordLevel({word: at for at, word in enumerate(WORDS)}, unk_token="[UNK]"))
    backend.normalizer = normalizers.Lowercase()
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    ends = ("[SEP]", 3), ("[CLS]", 2)
    if kind == "bert":
        backend.post_processor = processors.BertProcessing(*ends)
    elif kind == "roberta":
        backend.post_processor = processors.RobertaProcessing(*ends)
    else:
        backend.post_processor = processors.TemplateProcessing(
            single="[CLS] $A", pair="[CLS] $A $B", special_tokens=[("[CLS]", 2)]
        )
    roles = {"bert": SPECIAL, "roberta": ROBERTA, "llama": {"bos_token": "[CLS]", "eos_token": "[SEP]"}}[kind]
    PreTrainedTokenizerFast(tokenizer_object=backend, **roles).save_pretrained(folder)
    return folder


def rendered(encode: Tokenizer, row: Labelled) -> tuple[list[int], int]:
    (part,) = Renderer(encode, encode.plain()).one(row).parts
    return part.ids.tolist(), part.second


@pytest.mark.parametrize("kind", ["bert", "roberta", "llama", "starter"])
def test_ids_are_those_of_transformers(tmp_path: Path, kind: str) -> None:
    from transformers import AutoTokenizer

    folder = STARTER if kind == "starter" else make(tmp_path, kind)
    theirs, encode = AutoTokenizer.from_pretrained(folder), tokenizer.load(folder)
    assert rendered(encode, Labelled(TEXT, ("x",))) == (theirs(TEXT)["input_ids"], 0)
    ids, second = rendered(encode, Labelled(TEXT, ("x",), PAIR))
    if kind in ("llama", "starter"):  # nothing would stand between the texts
        assert (ids, second) == (theirs(f"{TEXT}\n{PAIR}")["input_ids"], 0)
    else:
        assert ids == theirs(TEXT, PAIR)["input_ids"]
        assert encode.text(ids[second - 1]) == "[SEP]" and encode.decode(ids[second:-1]) == PAIR.lower()


def test_token_kinds_are_berts(tmp_path: Path) -> None:
    from transformers import BertTokenizerFast

    folder = make(tmp_path, "bert")
    _, second = rendered(tokenizer.load(folder), Labelled(TEXT, ("x",), PAIR))
    kinds = BertTokenizerFast.from_pretrained(folder)(TEXT, PAIR, return_token_type_ids=True)["token_type_ids"]
    assert kinds == [0] * second + [1] * (len(kinds) - second)


def test_a_cut_text_keeps_its_end(tmp_path: Path) -> None:
    encode = tokenizer.load(make(tmp_path, "bert"))
    renderer = Renderer(encode, encode.plain())
    whole = renderer.one(Labelled(TEXT, ("x",)))
    fitted = fit(whole, 6, "truncate")
    (part,) = fitted.parts
    assert encode.decode(part.ids.tolist()) == "[CLS] the cat sat on [SEP]" and fitted.lost == 2
    assert (part.supervised, len(part.weights)) == (1, 6)
    pair = renderer.one(Labelled("the cat", ("x",), PAIR))
    (part,) = fit(pair, 8, "truncate").parts
    assert encode.decode(part.ids.tolist()) == "[CLS] the cat [SEP] a dog ran [SEP]"
    with pytest.raises(RowError, match="nothing of the second text"):
        fit(pair, 5, "truncate")
    with pytest.raises(RowError, match="more than max_length"):
        fit(pair, 8, "drop")


@pytest.mark.parametrize("row", [Labelled("a [SEP] b", ("x",)), Labelled("a", ("x",), "b [CLS]")])
def test_control_tokens_inside_are_refused(tmp_path: Path, row: Labelled) -> None:
    encode = tokenizer.load(make(tmp_path, "bert"))
    with pytest.raises(RowError) as caught:
        Renderer(encode, encode.plain()).one(row)
    assert caught.value.code == "data.control_token"


def test_tokenizer_config_goes_before_the_tokenizer(tmp_path: Path) -> None:
    path = make(tmp_path, "llama") / "tokenizer_config.json"
    assert framed.frame(tokenizer.load(tmp_path)).lead == (2,)
    path.write_text(path.read_text().replace("{", '{"add_bos_token": false,', 1))
    assert framed.frame(tokenizer.load(tmp_path)).lead == ()

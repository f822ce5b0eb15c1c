"""Labelled rows by the real `ft`: from a CSV file to classes that others read, on the starter and on a BERT."""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from intents import WANTS, requests, table
from real_ft import Ft, kill, started

pytestmark = pytest.mark.slow

SHORT: dict[str, Any] = {
    "data": "rows.csv",
    "training": {"max_steps": 6, "learning_rate": 1e-3},
    "checkpoints": {"every": "2 steps"},
    "resources": {"memory": "3GB"},
}
ASKED = """
import json, sys, torch
from peft import PeftModel
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

folder, base, texts = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
settings = AutoConfig.from_pretrained(folder)
model = AutoModelForSequenceClassification.from_pretrained(base or folder, config=settings)
model = (PeftModel.from_pretrained(model, folder) if base else model).eval()
tokenizer, found = AutoTokenizer.from_pretrained(folder), []
for text in texts:
    shares = model(**tokenizer(text, return_tensors="pt")).logits[0].softmax(0).tolist()
    found.append({model.config.id2label[number]: share for number, share in enumerate(shares)})
print(json.dumps(found))
"""


def bert(folder: Path) -> Path:
    """A BERT of random weights whose words are those of the requests."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordPiece
    from tokenizers.normalizers import BertNormalizer
    from tokenizers.pre_tokenizers import BertPreTokenizer
    from tokenizers.processors import BertProcessing
    from transformers import BertConfig, BertForMaskedLM, PreTrainedTokenizerFast

    words = sorted({word.lower() for text, _ in requests(400, 1) for word in re.findall(r"\w+|[^\w\s]", text)})
    vocabulary = {word: at for at, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words])}
    backend = Tokenizer(WordPiece(vocabulary, unk_token="[UNK]"))
    backend.normalizer, backend.pre_tokenizer = BertNormalizer(), BertPreTokenizer()
    backend.post_processor = BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    roles = {"cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]", "unk_token": "[UNK]"}
    PreTrainedTokenizerFast(tokenizer_object=backend, **roles).save_pretrained(folder)
    sizes = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96}
    BertForMaskedLM(BertConfig(vocab_size=len(vocabulary), max_position_embeddings=64, **sizes)).save_pretrained(folder)
    return folder


def given(ft: Ft, count: int = 120) -> Path:
    return ft.write("rows.csv", table(requests(count, 1)))


def asked(ft: Ft, folder: Path, base: str, texts: list[str]) -> list[dict[str, float]]:
    """What transformers and PEFT make of the result, without us."""
    said = ft.python(f"import sys; sys.argv[1:] = {[str(folder), base, json.dumps(texts)]!r}\n{ASKED}")
    assert said.code == 0, said.err
    return list(json.loads(said.out.splitlines()[-1]))


def measured(ft: Ft, *more: str) -> dict[str, Any]:
    said = ft("evaluate", "last", *more, "--json")
    assert said.code == 0, said.err
    return said.document


def same_as_others(ft: Ft, folder: Path, base: str) -> None:
    document = measured(ft)
    rows = document["rows"][:6]
    for row, shares in zip(rows, asked(ft, folder, base, [row["question"] for row in rows]), strict=True):
        ours = row["tuned"]["shares"]
        assert ours.keys() == shares.keys() == WANTS.keys()
        assert max(abs(ours[name] - shares[name]) for name in ours) < 1e-5


def test_from_a_table_to_classes(ft: Ft) -> None:
    given(ft)
    ft.config(**SHORT)
    checked = ft("dataset", "check", "rows.csv", "--no-estimate", "--json")
    assert checked.code == 0 and checked.document["objective"] == "classification"
    shown = ft("dataset", "show", "rows.csv")
    assert shown.code == 0, shown.err
    prepared = ft("dataset", "prepare", "rows.csv", "--out", "clean.jsonl", "--json")
    assert prepared.code == 0 and prepared.document["next"].startswith("ft train"), prepared.err
    assert ft("train", "--dry-run", "--json").document["config"]["training"]["objective"] == "classification"

    said = ft("train", "--json")
    assert said.code == 0, said.err
    assert "4 classes: cancel, exchange, refund and repair" in said.err
    assert said.document["receipt"] == {"verdict": "ok", "supervised": {"promised": 96, "counted": 96}}
    run = ft.run()
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert all(0 <= line["accuracy"] <= 1 for line in lines if line["kind"] == "train")
    starter = Path(json.loads((run / "resolved.json").read_text())["model"]["folder"])
    same_as_others(ft, run / "adapter", str(starter))

    card = (run / "adapter" / "README.md").read_text()
    assert "AutoModelForSequenceClassification" in card and "text-classification" in card
    assert not (run / "adapter" / "generation_config.json").exists() and not (run / "samples.jsonl").exists()
    table = ft("evaluate", "last")
    assert all(part in table.out for part in ("commonest class", "macro F1", "precision", "was taken for"))
    document = measured(ft)
    assert [one["name"] for one in document["classes"]] == ["cancel", "exchange", "refund", "repair"]
    assert sum(map(sum, document["confusion"])) == document["data"]["rows"] == 8
    right = sum(row["tuned"]["answer"] == row["reference"] for row in document["rows"])
    assert document["figures"]["accuracy"]["tuned"]["value"] == right / 8
    assert ft("receipt", "verify", "last").code == 0 and ft("receipt", "last").code == 0

    # What it cannot do is said in one sentence.
    talk = ft("chat", "last", "hello", "--json")
    assert (talk.code, talk.document["error"]["code"]) == (2, "subject.scores")
    assert measured(ft, "--data", "clean.jsonl")["data"]["rows"] == 120
    ft.write("new.csv", "text,label\nI am hungry,food\n")
    other = ft("evaluate", "last", "--data", "new.csv", "--json")
    assert (other.code, other.document["error"]["code"]) == (3, "evaluate.unknown_class")
    assert other.document["error"]["where"] == "new.csv:2" and "'food'" in other.document["error"]["message"]
    for form in ("peft", "mlx"):
        export = ft("export", "last", "--format", form, "--json").document["error"]
        assert export["code"] == "export.scores" and f"{run / 'adapter'} is PEFT's layout" in export["hint"]
    ft.rows(4)
    other = ft("evaluate", "last", "--data", "rows.jsonl", "--json")
    assert (other.code, other.document["error"]["code"]) == (2, "evaluate.other_rows")


@pytest.mark.parametrize("method", ["lora", "full", "dora"])
def test_a_bert_is_trained_measured_and_read_by_others(ft: Ft, method: str) -> None:
    given(ft)
    folder = bert(ft.folder / "bert")
    training = {"epochs": 4, "learning_rate": 5e-3}  # its weights are random: what it learns is not looked at
    ft.config(**SHORT | {"model": str(folder), "method": method, "training": training})
    said = ft("train", "--json")
    assert said.code == 0, said.err
    assert said.document["receipt"]["verdict"] == "ok"
    result = ft.run() / ("model" if method == "full" else "adapter")
    same_as_others(ft, result, "" if method == "full" else str(folder))
    at = measured(ft, "--checkpoint", "step-28")
    assert at["checkpoint"] == "step-28" and at["figures"]["loss"]["tuned"]["value"] > 0
    assert ft("receipt", "verify", "last").code == 0


def test_a_killed_run_goes_on_bit_by_bit(tmp_path: Path) -> None:
    found = []
    for name in ("straight", "killed"):
        ft = Ft(tmp_path / name)
        given(ft)
        ft.config(**SHORT | {"training": {"max_steps": 12}, "evaluation": {"every": "4 steps"}})
        if name == "killed":
            kill(started(ft))
        said = ft("train", "--resume" if name == "killed" else "--quiet")
        assert said.code == 0, said.err
        rows = [json.loads(line) for line in (ft.run() / "metrics.jsonl").read_text().splitlines()]
        losses = {(row["kind"], row["step"]): row["loss"] for row in rows if row["kind"] in ("train", "eval")}
        found.append((losses, (ft.run() / "adapter" / "adapter_model.safetensors").read_bytes()))
    assert found[0] == found[1]


def test_a_reward_is_learned_and_measured(ft: Ft) -> None:
    rows = [
        {
            "prompt": f"Please tell me about thing {n}.",
            "chosen": f"Gladly: thing {n} is useful.",
            "rejected": f"No {n}.",
        }
        for n in range(48)
    ]
    ft.write("rows.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    ft.config(
        **SHORT | {"data": "rows.jsonl", "training": {"objective": "reward", "max_steps": 8, "learning_rate": 1e-3}}
    )
    said = ft("train", "--json")
    assert said.code == 0, said.err
    figures = said.document["figures"]
    assert figures["eval_loss"] < figures["base_loss"] < 1.5
    document = measured(ft)
    assert document["task"] == "reward" and document["figures"]["accuracy"]["tuned"]["value"] > 0.5
    assert all(row["tuned"]["chosen"] != row["tuned"]["rejected"] for row in document["rows"])
    assert ft("evaluate", "last").code == 0 and ft("receipt", "verify", "last").code == 0
    assert ft("chat", "last", "hello").code == 2


@pytest.mark.parametrize(
    ("rows", "sections", "code", "says"),
    [
        ("text,label\n" + "".join(f"text {n},same\n" for n in range(12)), {}, "data.one_class", "'same'"),
        ("text,label\n" + "".join(f"text {n},{n % 2}\n" for n in range(12)), {"held": "7"}, "data.unseen_class", "'7'"),
        ("text,label\n" + "".join(f"text {n},{'ab' if n % 3 else ''}\n" for n in range(12)), {}, None, "label"),
        (
            "text,label\n" + "".join(f"text {n},\n" for n in range(12)),
            {"training": {"objective": "classification"}},
            "data.objective",
            "plain texts",
        ),
        (
            table(requests(12, 1)),
            {"classification": {"class_weights": {"refunds": 2}}},
            "classification.unknown_class",
            "refunds",
        ),
        (table(requests(12, 1)), {"classification": {"threshold": 0.3}}, "classification.threshold", "one class each"),
        (table(requests(12, 1)), {"preference": {"beta": 0.2}}, "config.contradiction", "classification"),
        (table(requests(12, 1)), {"method": "prefix"}, "method.not_for_objective", "head"),
        (table(requests(12, 1)), {"training": {"objective": "sft"}}, "data.objective", "labelled texts"),
    ],
)
def test_what_cannot_be_sorted(ft: Ft, rows: str, sections: dict[str, Any], code: str | None, says: str) -> None:
    ft.write("rows.csv", rows)
    held = sections.pop("held", None)
    more = {"data": {"path": "rows.csv", "validation": "held.csv"}} if held else {}
    ft.write("held.csv", f"text,label\nsomething else,{held}\nand more,0\n")
    ft.config(**{"data": "rows.csv"} | more | sections)
    said = ft("train", "--json")
    assert said.code in (2, 3), said.err
    error = said.document["error"]
    assert says in json.dumps(said.document) and error["hint"]
    assert code is None or error["code"] == code
    assert not ft.runs()


def test_an_encoder_learns_nothing_else(ft: Ft) -> None:
    ft.rows(20)
    ft.config(model=str(bert(ft.folder / "bert")))
    said = ft("train", "--json")
    assert (said.code, said.document["error"]["code"]) == (3, "model.not_causal")
    long = "text,label\n" + "".join(f"{'refund ' * 90},{n % 2}\n" for n in range(12))
    ft.write("rows.csv", long.replace("refund", "refund x"))
    ft.config(model=str(ft.folder / "bert"), data={"path": "rows.csv", "dedupe": "none"})
    said = ft("train", "--json")
    assert (said.code, said.document["error"]["code"]) == (3, "data.beyond_context")
    assert "64" in said.document["error"]["hint"]


# TF-IDF with logistic regression by numpy: as scikit-learn's TfidfVectorizer and LogisticRegression are by default.


def words(text: str) -> list[str]:
    return re.findall(r"\b\w\w+\b", text.lower())


def vectors(texts: list[str], known: dict[str, int], weights: np.ndarray) -> np.ndarray:
    found = np.zeros((len(texts), len(known)))
    for row, text in enumerate(texts):
        for word, count in Counter(words(text)).items():
            if word in known:
                found[row, known[word]] = count * weights[known[word]]
    return found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-12)


def regression(x: np.ndarray, y: np.ndarray, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Least cross-entropy plus half the squared weights, by accelerated gradient descent to its end."""
    w, b = np.zeros((x.shape[1], classes)), np.zeros(classes)
    holds, rate = np.eye(classes)[y], 2.0 / len(x)
    before = (w, b)
    for step in range(4000):
        ahead = (step - 1) / (step + 2) if step else 0.0
        wa, ba = w + ahead * (w - before[0]), b + ahead * (b - before[1])
        scores = x @ wa + ba
        shares = np.exp(scores - scores.max(1, keepdims=True))
        error = shares / shares.sum(1, keepdims=True) - holds
        before = (w, b)
        w, b = wa - rate * (x.T @ error + wa), ba - rate * error.sum(0)
    return w, b


def baseline(train: list[tuple[str, str]], test: list[tuple[str, str]]) -> float:
    """Accuracy on the test rows."""
    known = {word: at for at, word in enumerate(sorted({word for text, _ in train for word in words(text)}))}
    rows = np.zeros(len(known))
    for text, _ in train:
        rows[[known[word] for word in set(words(text))]] += 1
    weights = np.log((1 + len(train)) / (1 + rows)) + 1
    names = sorted({label for _, label in train})
    x, y = vectors([text for text, _ in train], known, weights), np.array([names.index(label) for _, label in train])
    w, b = regression(x, y, len(names))
    found = (vectors([text for text, _ in test], known, weights) @ w + b).argmax(1)
    return float(np.mean([names[number] == label for number, (_, label) in zip(found, test, strict=True)]))


def test_it_is_at_least_as_good_as_tfidf(ft: Ft) -> None:
    """On a fixed split of requests, half of which name what is not wanted as well."""
    ft.write("train.csv", table(requests(480, 1)))
    ft.write("test.csv", table(requests(120, 2)))
    data = {"path": "train.csv", "validation": "test.csv"}
    ft.config(data=data, training={"epochs": 6, "learning_rate": 1e-3}, evaluation={"every": "1 epoch"})
    said = ft("train", "-q")
    assert said.code == 0, said.err
    ours = measured(ft)["figures"]["accuracy"]
    files = [list(csv.reader((ft.folder / name).open()))[1:] for name in ("train.csv", "test.csv")]
    train, test = ([(text, label) for text, label in rows] for rows in files)
    theirs = baseline(train, test)
    print(f"held-out accuracy: ours {ours['tuned']['value']:.3f}, TF-IDF with logistic regression {theirs:.3f}")
    assert theirs > 0.4 and ours["tuned"]["value"] >= theirs

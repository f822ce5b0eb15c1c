"""Every key of train.yml changes what a run does, or is refused: shown for each by a training with it and one without.

A value that is only written down again (resolved.json, env.json, the receipt's digest of both) shows nothing, so what
is compared are the rates and losses of the steps, the measurements, the samples, the trained weights, and the files.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from truetune.api import load as verb
from truetune.config import fields
from truetune.errors import TrueTuneError
from truetune.runs import durable
from truetune.testing.templates import CHATML
from truetune.testing.tokens import byte_level

OTHER = CHATML.replace("<|im_start|>", "<|im_start|>dear ")
WORDS = ("amber", "basket", "cedar", "dragon", "ember", "falcon", "garden", "harbor", "island", "jacket")
Row = Mapping[str, Any]


def chats(count: int = 24) -> list[Row]:
    """Questions; every second is asked again behind its answer."""
    rows = []
    for n in range(count):
        talk = [("user", f"What is number {n * 37 % 101}?"), ("assistant", f"It is {n}, and {n * 7 % 13} more.")]
        talk += [("user", "And then?"), ("assistant", f"Then comes {n + 1}.")] * (n % 2)
        rows.append({"messages": [{"role": role, "content": text} for role, text in talk]})
    return rows


def near(count: int = 12) -> Iterator[Row]:
    """Each twice, the second time with a word more."""
    for n in range(count):
        text = " ".join(f"{word}{chr(97 + n)}" for word in WORDS)
        yield from ({"prompt": f"What of {text}?", "completion": text + end} for end in ("", " indeed"))


ROWS: dict[str, list[Row]] = {
    "rows.jsonl": chats(),
    "more.jsonl": [{"prompt": f"Who has {n}?", "response": f"Nobody has {n} of them."} for n in range(12)],
    "held.jsonl": [{"prompt": f"Where is {n}?", "response": f"Behind {n + 2}."} for n in range(6)],
    "named.jsonl": [
        {"prompt": f"Who has {n}?", "completion": f"It was {n}.", "frage": f"Wer {n}?", "antwort": f"Du {n}."}
        for n in range(24)
    ],
    "either.jsonl": [
        {"prompt": f"Who has {n}?", "completion": f"It was {n}.", "text": f"Text {n}."} for n in range(24)
    ],
    "texts.jsonl": [{"text": " ".join(f"word {n} {k}" for k in range(30))} for n in range(16)],
    "bad.jsonl": [*chats(), {"messages": []}],
    "near.jsonl": [*near()],
    "pairs.jsonl": [{"prompt": f"Say {n}", "chosen": f"It is {n}.", "rejected": f"No {n}!"} for n in range(20)],
    "rated.jsonl": [{"prompt": f"Say {n}", "completion": f"It is {n}.", "label": n % 3 > 0} for n in range(24)],
    "classes.jsonl": [{"text": f"a text {n}", "label": "ab"[n % 3 == 0]} for n in range(24)],
    "several.jsonl": [{"text": f"a text {n}", "labels": list("abc"[: n % 4])} for n in range(24)],
}
BASE: dict[str, dict[str, Any]] = {
    "model": {"path": "llama", "dtype": "float32"},
    "data": {"path": "rows.jsonl", "validation": 4},
    "method": {"type": "lora", "r": 4, "alpha": 8, "dropout": 0.0},
    "training": {"max_steps": 3, "batch_size": 2, "gradient_accumulation_steps": 2, "learning_rate": 1e-2, "warmup": 0},
    "evaluation": {"every": "1 step", "samples": 1},
    "checkpoints": {"every": "1 step", "keep": 5, "best": False},
    "generation": {"max_new_tokens": 4, "temperature": 0.0},
    "resources": {"device": "cpu", "engine": "torch", "memory": "2GB"},
}


@dataclass(frozen=True)
class Shown:
    """A run with `value` differs in `what` from one without; both have what is `beside` (dotted keys; None = out)."""

    value: Any
    what: str
    beside: dict[str, Any] = field(default_factory=dict)


class Refused(Shown):
    """A run with `value` ends in the code `what` before it begins."""


def rows(name: str, **more: Any) -> dict[str, Any]:
    return {"data.path": name, **more}


def objective(name: str) -> dict[str, Any]:
    return rows("rated.jsonl" if name == "kto" else "pairs.jsonl", **{"training.objective": name})


SCORES = {"evaluation.samples": None, "generation.max_new_tokens": None, "generation.temperature": None}
CLASSES = rows("classes.jsonl", **SCORES)
FULL = {"method.type": "full", "method.r": None, "method.alpha": None, "method.dropout": None}
PREFIX = {**FULL, "method.type": "prefix"}
QLORA = {"method.type": "qlora"}
TEXTS = rows("texts.jsonl")

PROOFS: dict[str, Shown] = {
    "version": Refused(2, "config.choice"),
    "profile": Shown("code", "weights", {"method.r": None, "method.alpha": None}),
    "model.path": Shown("other", "losses"),
    "model.revision": Refused("main", "config.contradiction", {"model.path": "./llama"}),
    "model.adapter": Shown("made", "losses"),
    "model.new_tokens": Shown(["number"], "losses"),
    "model.dtype": Shown("bfloat16", "losses"),
    "data.path": Shown("more.jsonl", "losses"),
    "data.weights": Shown([2, 1], "losses", {"data.path": ["rows.jsonl", "more.jsonl"]}),
    "data.format": Shown("text", "losses", rows("either.jsonl")),
    "data.columns": Shown({"prompt": "frage", "response": "antwort"}, "losses", rows("named.jsonl")),
    "data.template": Shown("other.jinja", "losses"),
    "data.train_on": Shown("last", "supervised"),
    "data.split": Shown("second", "losses", rows("split")),
    "data.validation": Shown("held.jsonl", "measured"),
    "data.max_length": Shown(40, "supervised", {"data.too_long": "truncate"}),
    "data.too_long": Shown("truncate", "supervised", {"data.max_length": 40}),
    "data.overlap": Shown(8, "losses", {**TEXTS, "data.max_length": 32}),
    "data.max_rejects": Refused(0, "data.too_many_rejects", rows("bad.jsonl")),
    "data.dedupe": Shown("near", "losses", rows("near.jsonl")),
    "method.type": Shown("rslora", "losses"),
    "method.r": Shown(2, "weights"),
    "method.alpha": Shown(16, "losses"),
    "method.dropout": Shown(0.5, "losses"),
    "method.target_modules": Shown(["q_proj"], "losses"),
    "method.init": Shown("pissa", "losses"),
    "method.lora_plus": Shown(8, "losses"),
    "method.modules_to_save": Shown(["lm_head"], "losses"),
    "method.virtual_tokens": Shown(3, "losses", PREFIX),
    "method.encoder_hidden": Shown(8, "losses", PREFIX),
    "method.frozen_layers": Shown(1, "losses", FULL),
    "method.bits": Shown(8, "losses", QLORA),
    "training.objective": Shown("orpo", "losses", rows("pairs.jsonl")),
    "training.learning_rate": Shown(1e-3, "rates"),
    "training.batch_size": Shown(4, "losses"),
    "training.gradient_accumulation_steps": Shown(4, "losses"),
    "training.epochs": Shown(0.2, "rates"),
    "training.max_steps": Shown(2, "rates"),
    "training.scheduler": Shown("constant", "rates"),
    "training.min_lr_ratio": Shown(0.5, "rates"),
    "training.warmup": Shown(2, "rates"),
    "training.weight_decay": Shown(0.5, "weights"),
    "training.max_grad_norm": Shown(0.001, "weights", {"training.optimizer": "sgd"}),
    "training.not_finite": Refused("skip", "train.nothing_learned", {"method.alpha": 1e38}),
    "training.optimizer": Shown("lion", "losses"),
    "training.neftune_alpha": Shown(20, "losses"),
    "training.ema": Shown(0.5, "weights"),
    "training.seed": Shown(7, "losses"),
    "preference.loss": Shown("hinge", "losses", objective("dpo")),
    "preference.beta": Shown(0.5, "losses", objective("dpo")),
    "preference.label_smoothing": Shown(0.3, "losses", objective("dpo")),
    "preference.margin": Shown(2, "losses", objective("simpo")),
    "preference.sft_weight": Shown(0.2, "losses", objective("cpo")),
    "preference.desirable_weight": Shown(2, "losses", objective("kto")),
    "preference.undesirable_weight": Shown(2, "losses", objective("kto")),
    "classification.class_weights": Shown("balanced", "losses", CLASSES),
    "classification.threshold": Shown(0.9, "accuracy", rows("several.jsonl", **SCORES)),
    "evaluation.every": Shown("3 steps", "measured"),
    "evaluation.samples": Shown(3, "samples"),
    "evaluation.early_stopping": Shown({"patience": 1, "min_delta": 50.0}, "rates"),
    "checkpoints.every": Shown("2 steps", "checkpoints"),
    "checkpoints.keep": Shown(1, "checkpoints"),
    "checkpoints.best": Shown(True, "weights", {"training.learning_rate": 1.0, "training.max_steps": 2}),
    "generation.temperature": Shown(1.5, "generation_config.json"),
    "generation.top_p": Shown(0.5, "generation_config.json"),
    "generation.max_new_tokens": Shown(2, "samples"),
    "resources.engine": Shown("mlx", "engine") if find_spec("mlx_lm") else Refused("mlx", "engine.not_installed"),
    "resources.device": Shown("mps", "device"),
    "resources.memory": Refused("300MB", "memory.too_small"),
    "resources.workers": Refused(2, "config.range"),
    "output.dir": Shown("elsewhere", "folder"),
    "output.name": Shown("fox", "folder"),
    "output.log": Shown(["tensorboard"], "events", {"output.log": []}),
}
"""Key -> what shows that it is not passed over."""


def test_every_key_has_a_proof() -> None:
    assert PROOFS.keys() == {key for key, _ in fields()}


Seen = dict[str, Any]
"""What a run did: rates, losses, … as `seen` has it; or `code`, where it was refused."""


class Bench:
    """A folder with two models and all rows; what was trained there once is not trained again."""

    def __init__(self, folder: Path) -> None:
        from truetune.engines.torch import tiny

        self.folder = folder
        self.known: dict[str, Seen] = {}
        for seed, name in enumerate(("llama", "other")):
            byte_level(folder / name, template=CHATML)
            tiny.make(folder / name, "llama", vocab_size=420, seed=seed)
        (folder / "other.jinja").write_text(OTHER)
        for name, content in ROWS.items():
            self.write(name, content)
        for name, content in (("train", ROWS["rows.jsonl"]), ("second", ROWS["more.jsonl"])):
            self.write(f"split/{name}.jsonl", content)

    def write(self, name: str, content: list[Row]) -> None:
        place = self.folder / name
        place.parent.mkdir(exist_ok=True)
        place.write_text("".join(json.dumps(row) + "\n" for row in content))

    def run(self, changes: Mapping[str, Any]) -> Seen:
        body = dict(BASE)
        for key, value in changes.items():
            section, _, name = key.rpartition(".")
            if not section:
                body[name] = value
            else:
                body[section] = {**body.get(section, {}), name: value}
                body[section] = {each: it for each, it in body[section].items() if it is not None}
        key = json.dumps(body, sort_keys=True)
        if key not in self.known:
            self.known[key] = self.trained(body)
        return self.known[key]

    def trained(self, body: Mapping[str, Any]) -> Seen:
        (self.folder / "train.yml").write_text(json.dumps(body))
        warnings: list[str] = []

        def hear(kind: str, figures: dict[str, Any]) -> None:
            if kind == "warning":
                warnings.append(figures["text"])

        try:
            run = verb("train")(self.folder / "train.yml", listener=hear)
        except TrueTuneError as error:
            return {"code": error.code}
        return seen(Path(run.folder), Path(run.result), warnings)


def lines(place: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in place.read_text("utf-8").splitlines()] if place.is_file() else []


def seen(run: Path, result: Path, warnings: list[str]) -> Seen:
    metrics = lines(run / "metrics.jsonl")
    steps, held = ([row for row in metrics if row["kind"] == kind] for kind in ("train", "eval"))
    receipt = json.loads((run / "receipts" / "train.json").read_text())
    settings = result / "generation_config.json"
    return {
        "folder": run.name,
        "rates": [row["lr"] for row in steps],
        "losses": [row["loss"] for row in steps],
        "supervised": receipt["supervised"]["counted"],
        "engine": receipt["engine"]["engine"],
        "device": (receipt["engine"]["device"], warnings),
        "measured": [(row["step"], row["loss"], row["rows"]) for row in held],
        "accuracy": [row.get("accuracy") for row in held],
        "weights": [durable.digest(place) for place in sorted(result.glob("*.safetensors"))],
        "samples": [(row["step"], row["answer"]) for row in lines(run / "samples.jsonl")],
        "checkpoints": sorted(place.name for place in (run / "checkpoints").iterdir() if place.is_dir()),
        "generation_config.json": settings.read_text() if settings.is_file() else "",
        "events": len(list(run.rglob("*tfevents*"))),
    }


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    for package in ("torch", "peft", "bitsandbytes", "tensorboard"):
        pytest.importorskip(package)
    folder = tmp_path_factory.mktemp("fields")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRUETUNE_HOME", str(folder / "home"))
        patch.chdir(folder)
        made = Bench(folder)
        made.run({})
        shutil.copytree(next(folder.glob("runs/*/adapter")), folder / "made")
        yield made


@pytest.mark.slow
def test_nothing_differs_where_nothing_is_changed(bench: Bench) -> None:
    first, again = bench.run({}), bench.run({"version": 1})
    assert {**first, "folder": ""} == {**again, "folder": ""}
    assert first["losses"] and first["measured"] and first["samples"] and first["weights"] and first["checkpoints"]


@pytest.mark.slow
@pytest.mark.parametrize("key", PROOFS)
def test_it_is_not_passed_over(bench: Bench, key: str) -> None:
    proof = PROOFS[key]
    now = bench.run({**proof.beside, key: proof.value})
    if isinstance(proof, Refused):
        assert now == {"code": proof.what}
        return
    before = bench.run(proof.beside)
    assert "code" not in before and "code" not in now, (before, now)
    if proof.what == "folder":
        assert proof.value in now["folder"] and proof.value not in before["folder"]
    else:
        assert now[proof.what] != before[proof.what]

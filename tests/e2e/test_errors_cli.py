"""What goes wrong for a user, through the real `ft`: one clear sentence, a hint, the right exit code, nothing lost."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from os import geteuid, mkfifo
from pathlib import Path

import numpy as np
import pytest
from real_ft import Ft, kill, ready, rows, started
from safetensors.numpy import save_file

from truetune.models.source import STARTER

Prepare = Callable[[Ft], object]


@dataclass(frozen=True)
class Case:
    """A command line that must fail: what is there before, and what is said."""

    name: str
    code: str
    exit: int
    says: tuple[str, ...]
    """What stands somewhere in where, message and hint."""
    prepare: Prepare = lambda ft: None
    args: tuple[str, ...] = ("train.yml",)


def sections(**values: object) -> Prepare:
    return lambda ft: ft.config(**values)


def data(name: str, content: str | bytes) -> Prepare:
    def prepare(ft: Ft) -> None:
        ft.write(name, content)
        ft.config(data=name)

    return prepare


def model(**files: str) -> Prepare:
    """A model folder with these files, a Llama's config.json among them."""

    def prepare(ft: Ft) -> None:
        ft.write("my-model/config.json", (STARTER / "config.json").read_bytes())
        for name, content in files.items():
            ft.write(f"my-model/{name.replace('__', '.')}", content)
        ft.config(model="./my-model")

    return prepare


def bert(ft: Ft) -> None:
    config = {
        "model_type": "bert",
        "architectures": ["BertForMaskedLM"],
        "hidden_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
        "vocab_size": 32,
    }
    ft.write("my-model/config.json", json.dumps(config))
    save_file({"bert.embeddings.word_embeddings.weight": np.zeros((32, 8))}, ft.folder / "my-model/model.safetensors")
    ft.config(model="./my-model")


def foreign_tokenizer(ft: Ft) -> None:
    shutil.copytree(STARTER, ft.folder / "my-model", ignore=shutil.ignore_patterns("__pycache__", "*.py"))
    values = json.loads((STARTER / "config.json").read_text()) | {"vocab_size": 2048}
    ft.write("my-model/config.json", json.dumps(values))
    ft.config(model="./my-model")


def rejects(ft: Ft) -> None:
    good = [json.dumps(row) for row in rows(20)]
    ft.write("many.jsonl", "\n".join([*good, '{"prompt": "x"', '{"prompt": "x"}', "[1]"]))
    ft.config(data="many.jsonl")


def used(*names: str) -> Prepare:
    def prepare(ft: Ft) -> None:
        for name in names:
            ft.write(f"results/{name}", '{"schema": 1}')
        ft.config(output={"dir": "results"})

    return prepare


def pipe(ft: Ft) -> None:
    mkfifo(ft.folder / "pipe.jsonl")
    ft.config(data="pipe.jsonl")


SHORT = {"path": "rows.jsonl", "max_length": 8}
TEMPLATE = {"path": "rows.jsonl", "template": "gone.jinja"}


def mistakes(ft: Ft) -> None:
    ft.write(
        "train.yml",
        "model: starter\ndata: rows.jsonl\ntraining:\n  learning_rat: 1e-4\n  epochs: many\n"
        "num_train_epochs: 3\nmethod:\n  type: full\n  r: 8\n",
    )


BEFORE_TRAINING = [
    Case("no train.yml", "config.no_file", 3, ("train.yml", "`ft init` writes a train.yml"), args=()),
    Case("model path", "model.missing", 3, ("./nope",), sections(model="./nope")),
    Case("hub model", "model.offline", 3, ("nobody/nothing", "HF_HUB_OFFLINE"), sections(model="nobody/nothing")),
    Case("no weights", "model.no_weights", 3, ("my-model", "model.safetensors"), model()),
    Case("pickle", "model.pickle_weights", 3, ("pytorch_model.bin", "safetensors"), model(pytorch_model__bin="x")),
    Case("not causal", "model.not_causal", 3, ("BertForMaskedLM", "causal language model"), bert),
    Case("tokenizer", "model.vocabulary", 3, ("4096", "2048"), foreign_tokenizer),
    Case("data path", "data.missing", 3, ("row.jsonl", "Did you mean rows.jsonl?"), sections(data="row.jsonl")),
    Case("spreadsheet", "data.unsupported_format", 3, ("rows.xlsx", ".csv", ".parquet"), data("rows.xlsx", "PK")),
    Case("empty", "data.empty", 3, ("empty.jsonl",), data("empty.jsonl", "")),
    Case("all bad", "data.no_rows", 3, ("bad.jsonl:1", "not valid JSON"), data("bad.jsonl", "one\ntwo\n")),
    Case(
        "too many bad rows",
        "data.too_many_rejects",
        3,
        ("many.jsonl:21: ", "many.jsonl:22: ", "many.jsonl:23: ", "3 of 23 rows", "data.max_rejects"),
        rejects,
    ),
    Case(
        "typo",
        "config.unknown_key",
        2,
        ("train.yml:3 training.learning_rat", "`learning_rate`"),
        sections(training={"learning_rat": 1e-4}),
    ),
    Case(
        "foreign key",
        "config.unknown_key",
        2,
        ("train.yml:3 num_train_epochs", "training.epochs"),
        sections(num_train_epochs=3),
    ),
    Case(
        "contradiction",
        "config.contradiction",
        2,
        ("train.yml:3 method.r", "method.type is full"),
        sections(method={"type": "full", "r": 8}),
    ),
    Case("folder of a run", "run.exists", 2, ("results", "--resume"), used("resolved.json")),
    Case("folder in use", "run.folder_in_use", 2, ("results", "output.dir"), used("thesis.txt")),
    Case("too short", "data.no_rows", 3, ("more than max_length 8", "data.max_length"), sections(data=SHORT)),
    Case("pattern", "data.missing", 3, ("*.json", "looked for"), sections(data="*.json")),
    Case("pipe", "data.unreadable", 3, ("pipe.jsonl", "Save the rows"), pipe),
    Case("template", "data.template", 3, ("gone.jinja", "Jinja"), sections(data=TEMPLATE)),
    Case("dry resume", "usage.invalid", 2, ("--dry-run",), args=("--dry-run", "--resume")),
    Case("nothing to resume", "resume.nothing", 2, ("train.yml", "ft runs list"), args=("train.yml", "--resume")),
    Case("resume without a file", "config.no_file", 3, ("gone.yml",), args=("gone.yml", "--resume")),
    Case("run that is none", "run.missing", 3, ("nope",), args=("--from", "nope:step-2")),
]
CASES = [pytest.param(case, id=case.name) for case in BEFORE_TRAINING]


def prepared(ft: Ft, case: Case) -> dict[str, bytes]:
    ft.rows()
    if case.name != "no train.yml":
        ft.config()
    case.prepare(ft)
    return ft.tree()


@pytest.mark.parametrize("case", CASES)
def test_an_error_as_a_document(ft: Ft, case: Case) -> None:
    before = prepared(ft, case)
    said = ft("train", *case.args, "--json")
    error = said.document["error"]
    assert (said.code, error["code"]) == (case.exit, case.code), error
    assert set(said.document) == {"schema", "error"}
    assert error["message"] and error["hint"] and error["where"] is not None
    text = " ".join(map(str, error.values()))
    assert [part for part in case.says if part not in text] == []
    assert "Traceback" not in said.err
    assert ft.tree() == before


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_an_error_as_a_sentence(ft: Ft, case: Case) -> None:
    before = prepared(ft, case)
    said = ft("train", *case.args)
    sentence(said, case.exit, *case.says)
    assert ft.tree() == before


def sentence(said: object, code: int, *says: str) -> None:
    """One error and one hint on stderr, nothing on stdout."""
    lines = said.err.splitlines()
    assert (said.code, said.out) == (code, ""), said.err
    assert [line for line in lines if line.startswith("error: ")] == lines[:1]
    assert [line for line in lines if line.startswith("hint: ")] == lines[-1:]
    assert [part for part in says if part not in said.err] == []
    assert "Traceback" not in said.err


def test_the_sentence_and_its_hint(ft: Ft) -> None:
    ft.rows()
    ft.config(model="./nope")
    sentence(ft("train"), 3, "./nope", "no model folder")


def test_all_mistakes_of_a_file_at_once(ft: Ft) -> None:
    ft.rows()
    mistakes(ft)
    before = ft.tree()
    error = ft("train", "--json").document["error"]
    places = [finding["where"] for finding in error["findings"]]
    assert places == [
        "train.yml:4 training.learning_rat",
        "train.yml:5 training.epochs",
        "train.yml:6 num_train_epochs",
        "train.yml:9 method.r",
    ]
    assert all(finding["message"] and finding["code"].startswith("config.") for finding in error["findings"])
    said = ft("train")
    assert said.code == 2
    assert said.err.count("error: ") == 4
    assert ft.tree() == before


@pytest.mark.slow
def test_a_target_that_the_model_does_not_have(ft: Ft) -> None:
    ft.rows()
    ft.config(method={"target_modules": ["query_key_value"]})
    before = ft.tree()
    said = ft("train", "--json")
    error = said.document["error"]
    assert (said.code, error["code"], error["where"]) == (2, "method.no_target", "method.target_modules")
    assert "query_key_value" in error["message"] and "q_proj" in error["hint"]
    assert ft.tree() == before, "a run that never started has left something"


@pytest.mark.slow
def test_weights_that_do_not_fit_their_config(ft: Ft) -> None:
    ft.rows()
    shutil.copytree(STARTER, ft.folder / "my-model", ignore=shutil.ignore_patterns("__pycache__", "*.py"))
    values = json.loads((STARTER / "config.json").read_text()) | {"intermediate_size": 64}
    ft.write("my-model/config.json", json.dumps(values))
    ft.config(model="./my-model")
    before = ft.tree()
    said = ft("train", "--json")
    assert (said.code, said.document["error"]["code"]) == (3, "model.weights"), said.err
    assert ft.tree() == before, "a run that never started has left something"


@pytest.mark.slow
def test_cuda_without_a_gpu_falls_back_with_a_warning(ft: Ft) -> None:
    ft.rows()
    ft.config(training={"max_steps": 2}, evaluation={"samples": 0})
    said = ft("train", "--device", "cuda")
    assert said.code == 0, said.err
    assert "warning: cuda was asked for" in said.err and "CPU" in said.err
    resolved = json.loads((ft.run() / "resolved.json").read_text())
    assert resolved["config"]["resources"]["device"] == "cpu"
    assert resolved["reasons"]["resources.device"]


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Ft:
    """A folder with one run that was killed after its first checkpoint."""
    sections = {"checkpoints": {"every": "1 steps"}, "training": {"epochs": 500}, "evaluation": {"samples": 0}}
    ft = ready(tmp_path_factory.mktemp("stopped"), **sections)
    kill(started(ft))
    return ft


@pytest.fixture
def restored(stopped: Ft) -> Iterator[Ft]:
    """`stopped`, whose inputs may be changed."""
    kept = {name: (stopped.folder / name).read_bytes() for name in ("rows.jsonl", "train.yml")}
    yield stopped
    for name, content in kept.items():
        stopped.write(name, content)


@pytest.mark.parametrize("resume", [("train.yml", "--resume"), ("train.yml", "--from", "last")])
def test_a_resume_with_another_train_yml_names_the_field(restored: Ft, resume: tuple[str, ...]) -> None:
    path = restored.folder / "train.yml"
    path.write_text(path.read_text().replace("500", "400") + "method: {r: 8, alpha: 8}\n")
    before = restored.tree()
    said = restored("train", *resume, "--json")
    error = said.document["error"]
    assert (said.code, error["code"], error["where"]) == (2, "resume.changed", "train.yml")
    assert "method.alpha (32.0 → 8.0), method.r (16 → 8)" in error["message"]
    assert "epochs" not in error["message"]  # that may change
    assert restored.tree() == before


def test_a_comment_in_train_yml_is_no_change(restored: Ft) -> None:
    """…so that what is refused next is the data, whose file is named."""
    path = restored.folder / "train.yml"
    path.write_text("# a comment\n" + path.read_text())
    data = restored.folder / "rows.jsonl"
    data.write_text(data.read_text().replace("code 3 ", "code 4 "))
    before = restored.tree()
    said = restored("train", "--resume", "--json")
    error = said.document["error"]
    assert (said.code, error["code"]) == (2, "resume.data_changed")
    assert str(data) in error["message"]
    assert restored.tree() == before


def test_a_resume_without_the_data_names_it(restored: Ft) -> None:
    (restored.folder / "rows.jsonl").unlink()
    said = restored("train", "--resume", "--json")
    assert (said.code, said.document["error"]["code"]) == (3, "data.missing")


def test_a_checkpoint_that_is_not_there(stopped: Ft) -> None:
    before = stopped.tree()
    said = stopped("train", "--from", "last:step-9999", "--json")
    error = said.document["error"]
    assert (said.code, error["code"]) == (3, "checkpoint.missing")
    kept = [int(path.name.removeprefix("step-")) for path in (stopped.run() / "checkpoints").glob("step-*")]
    assert "step-9999" in error["message"] and all(f"step-{step}" in error["hint"] for step in kept)
    assert stopped.tree() == before


def test_a_resume_takes_no_other_settings(stopped: Ft) -> None:
    before = stopped.tree()
    options = {
        ("--set", "training.seed=2"): "changed",
        ("--model", "starter"): "settings",
        ("--device", "cpu"): "changed",
    }
    for option, code in options.items():
        said = stopped("train", "train.yml", "--resume", *option, "--json")
        assert (said.code, said.document["error"]["code"]) == (2, f"resume.{code}"), option
    assert stopped.tree() == before


@pytest.fixture
def disk(ft: Ft) -> Iterator[Callable[[str], Path]]:
    """`disk("5m")` is a disk of that size in the working folder."""
    folder = ft.folder / "disk"
    folder.mkdir()

    def mount(size: str) -> Path:
        line = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
        if not sys.platform.startswith("linux") or geteuid() or subprocess.run(line, capture_output=True).returncode:
            pytest.skip("a full disk needs the right to mount a tmpfs")
        return folder

    yield mount
    subprocess.run(["umount", str(folder)], capture_output=True)


@pytest.mark.slow
def test_a_disk_that_does_not_take_the_start(ft: Ft, disk: Callable[[str], Path]) -> None:
    folder = disk("8k")
    ft.rows()
    ft.config(output={"dir": "disk/run"})
    said = ft("train", "--json")
    error = said.document["error"]
    assert (said.code, error["code"]) == (4, "disk.full"), said.err
    assert "disk/run" in error["where"] and "MB are free" in error["hint"]
    assert list(folder.iterdir()) == []


@pytest.mark.slow
def test_a_disk_that_is_read_only(ft: Ft, disk: Callable[[str], Path]) -> None:
    folder = disk("1m")
    subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
    ft.rows()
    ft.config(output={"dir": "disk/run"})
    said = ft("train", "--json")
    assert (said.code, said.document["error"]["code"]) == (4, "disk.denied"), said.err
    assert "output.dir" in said.document["error"]["hint"]


def fill(folder: Path) -> None:
    """Leave no room on a disk as soon as the first checkpoint is on it."""
    while not (folder / "run/checkpoints/step-000002").exists():
        time.sleep(0.002)
    with suppress(OSError), (folder / "filler").open("wb", buffering=0) as file:
        while True:
            file.write(bytes(2**20))


@pytest.mark.slow
def test_a_disk_that_fills_up_keeps_the_checkpoint_before(ft: Ft, disk: Callable[[str], Path]) -> None:
    """First it is too small for what the run will save; then somebody else fills it while the run goes on."""
    folder = disk("5m")
    ft.rows()
    often = {"checkpoints": {"every": "2 steps"}, "evaluation": {"samples": 0}}
    ft.config(output={"dir": "disk/run"}, training={"max_steps": 8, "epochs": 100}, **often)
    said = ft("train")
    assert said.code == 4, said.err
    assert "the run will save" in said.err and "lower checkpoints.keep" in said.err and "Traceback" not in said.err
    subprocess.run(["mount", "-o", "remount,size=60m", str(folder)], check=True)
    filler = threading.Thread(target=fill, args=(folder,))
    filler.start()
    said = ft("train", "--resume")
    filler.join()
    assert said.code == 4, said.err
    assert "error: " in said.err and "no space is left" in said.err and "Traceback" not in said.err
    assert said.err.splitlines()[-1].startswith("hint: ")
    kept = [path.name for path in (folder / "run/checkpoints").iterdir() if path.is_dir()]
    assert "step-000002" in kept and not any(name.startswith(".") for name in kept)
    (listed,) = ft("runs", "list", "--json").document["runs"]
    assert listed["state"] in ("failed", "interrupted")
    (folder / "filler").unlink()
    again = ft("train", "--resume", "--json")
    assert again.code == 0, again.err
    assert again.document["figures"]["steps"] == 8
    assert ft("receipt", "verify", "disk/run", "--json").code == 0

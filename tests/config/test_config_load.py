"""Loading: every finding at once, each with its code, its line, its key and a way out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from truetune.config import Loaded, load
from truetune.config.load import loads
from truetune.errors import ConfigErrors, Finding, InputError

SOUND = "model: starter\ndata: rows.jsonl\n"


def findings(text: str | bytes, overrides: Sequence[str] = (), name: str = "train.yml") -> Sequence[Finding]:
    data = text.encode() if isinstance(text, str) else text
    with pytest.raises(ConfigErrors) as caught:
        loads(data, Path(name), overrides)
    assert caught.value.exit_code == 2
    return caught.value.findings


def sound(text: str, overrides: Sequence[str] = ()) -> Loaded:
    return loads(text.encode(), Path("train.yml"), overrides)


@pytest.mark.parametrize(
    ("text", "code", "line", "says"),
    [
        ("", "config.empty", None, "empty"),
        ("# only a comment\n", "config.empty", None, "empty"),
        ("- model: starter\n", "config.shape", 1, "a list"),
        ("starter\n", "config.shape", 1, "plain text"),
        ("model: starter\ndata:\n\tpath: x\n", "config.syntax", 3, "a tab"),
        ("model: starter\ndata: a: b\n", "config.syntax", 2, "`:` too much"),
        ("model: starter\ndata: [a, b\n", "config.syntax", 2, "`[` is not closed"),
        ("model: starter\ndata: {path: a\n", "config.syntax", 2, "`{` is not closed"),
        ("data:\n    path: a\n  split: b\n", "config.syntax", 3, "indentation"),
        ("model: starter\n---\ndata: x\n", "config.syntax", 2, "second document"),
        ("model: 'starter\ndata: x\n", "config.syntax", 1, "quote is not closed"),
        ("model: starter\ndata: \x07\n", "config.syntax", 2, "control character"),
        ("? [a]\n: b\n", "config.syntax", 1, "key must be a name"),
        (f"{SOUND}model: other\n", "config.duplicate_key", 3, "after line 1"),
        (f"{SOUND}output: {{dir: a, dir: b}}\n", "config.duplicate_key", 3, "`dir`"),
        (f"{SOUND}output: &x {{dir: a}}\n", "config.unsafe", 3, "anchors"),
        ("model: starter\ndata: *x\n", "config.unsafe", 2, "anchors"),
        (f"{SOUND}output: !!python/object:os.system {{}}\n", "config.unsafe", 3, "tags"),
        ("%YAML 1.1\n---\nmodel: starter\ndata: no\n", "config.unsafe", 2, "YAML 1.2"),
        (f"{SOUND}output: {{dir: {'[' * 40}{']' * 40}}}\n", "config.unsafe", 3, "levels"),
        (b"model: starter\ndata: caf\xe9.jsonl\n", "config.encoding", 2, "UTF-8"),
        ('model: starter\ndata: "\\ud800"\n', "config.encoding", 2, "surrogate"),
        (b"#" * 256_001, "config.too_large", None, "bytes"),
    ],
)
def test_what_is_wrong_with_the_text(text: str | bytes, code: str, line: int | None, says: str) -> None:
    finding = next(one for one in findings(text) if one.code == code)
    assert finding.where == (f"train.yml:{line}" if line else "train.yml")
    assert says in finding.message


@pytest.mark.parametrize(
    ("line", "code", "says", "hint"),
    [
        ("training: {learning_rat: 1}", "config.unknown_key", "`learning_rat` in `training`", "`learning_rate`"),
        ("learning_rate: 1", "config.unknown_key", "at the top level", "(training.learning_rate)"),
        ("training.epochs: 1", "config.unknown_key", "at the top level", "`epochs` under `training:`"),
        ("every: 1 epoch", "config.unknown_key", "at the top level", "(checkpoints.every)"),
        ("evaluation: {early_stopping: {patient: 3}}", "config.unknown_key", "early_stopping", "`patience`"),
        ("banana: 1", "config.unknown_key", "at the top level", "known here: version, model"),
        ("tuning: {trials: 3}", "config.reserved", "later version", "leave it out"),
        ("cluster: null", "config.reserved", "later version", "leave it out"),
        ("method: {type: lroa}", "config.choice", "prompt or ia3, not 'lroa'", "`lora`"),
        ("version: 2", "config.choice", "must be 1, not 2", "the default, which is `1`"),
        ("method: {type: adapters}", "config.choice", "auto, lora, qlora", "which is `auto`"),
        ("profile: mine", "config.choice", "chat, instruction, code", "or leave it out for the default"),
        ("output: {log: [tensorbord]}", "config.choice", "must be tensorboard", "`tensorboard`"),
        ("training: {learning_rate: '1e-4'}", "config.type", "must be a number, not '1e-4'", "quotes"),
        ("training: {learning_rate: .nan}", "config.type", "ordinary number", ""),
        ("training: {batch_size: 2.5}", "config.type", "whole number, not 2.5", ""),
        ("training: {batch_size: true}", "config.type", "whole number, not true", ""),
        ("training: {seed: null}", "config.type", "whole number, not null", ""),
        ("checkpoints: {best: no}", "config.type", "true or false, not 'no'", ""),
        ("output: {dir: 2024}", "config.type", "must be text, not 2024", "quotes"),
        ("training: 5", "config.type", "group of keys", "keys: objective, learning_rate"),
        ("model: 5", "config.type", "in short, the path as text", "keys: path"),
        ("evaluation: {early_stopping: 3}", "config.type", "group of keys", "keys: patience, min_delta"),
        ("training: {learning_rate: 0}", "config.range", "more than 0, not 0", ""),
        ("training: {epochs: -1}", "config.range", "more than 0, not -1", ""),
        ("method: {dropout: 1}", "config.range", "less than 1, not 1", ""),
        ("method: {r: 0}", "config.range", "at least 1, not 0", ""),
        ("data: {path: x, max_length: 7}", "config.range", "at least 8, not 7", ""),
        ("generation: {top_p: 1.1}", "config.range", "at most 1, not 1.1", ""),
        ("resources: {workers: 2}", "config.range", "at most 1, not 2", "several devices"),
        ("training: {max_steps: 99999999999}", "config.range", "at most 2147483647", ""),
        ("evaluation: {every: 100}", "config.value", "such as `100 steps`", ""),
        ("training: {warmup: 120%}", "config.value", "at most 100%", ""),
        ("data: {path: x, max_rejects: lots}", "config.value", "percentage", ""),
        ("data: {path: x, validation: 100%}", "config.value", "leave rows", ""),
        ("data: {path: x, validation: 200%}", "config.value", "leave rows", ""),
        ("data: {path: [x, 3]}", "config.value", "a list of texts", ""),
        ("data: {path: []}", "config.value", "a list of texts", ""),
        ("resources: {device: gpu}", "config.value", "auto, cpu, cuda, cuda:1 or mps", ""),
        ("resources: {memory: 8}", "config.value", "with its unit", ""),
        ("output: {name: ../x}", "config.value", "small letters", ""),
        ('output: {dir: "a\\nb"}', "config.value", "control characters", ""),
    ],
)
def test_what_is_wrong_with_a_key(line: str, code: str, says: str, hint: str) -> None:
    section = line.partition(":")[0]
    others = [part for part in SOUND.splitlines() if not part.startswith(f"{section}:")]
    text = "\n".join(["# a comment", *others, line]) + "\n"
    (finding,) = findings(text)
    assert finding.code == code
    assert finding.where.startswith(f"train.yml:{len(others) + 2} {section}")
    assert says in finding.message
    assert hint in finding.hint


def test_everything_at_once_in_the_order_of_the_file() -> None:
    text = "lr: 3\ndata: {path: x, validation: none}\ntraining:\n  epochs: 0\n  seed: x\ncheckpoints: {best: true}\n"
    found = findings(text, ["resources.device=tpu"])
    assert [(one.code, one.where) for one in found] == [
        ("config.unknown_key", "train.yml:1 lr"),
        ("config.range", "train.yml:4 training.epochs"),
        ("config.type", "train.yml:5 training.seed"),
        ("config.contradiction", "train.yml:6 checkpoints.best"),
        ("config.missing", "train.yml model"),
        ("config.value", "--set resources.device"),
    ]


def test_what_is_missing() -> None:
    found = findings("data: {format: text}\n")
    assert [(one.code, one.where) for one in found] == [
        ("config.missing", "train.yml model"),
        ("config.missing", "train.yml data.path"),
    ]
    assert "--model" in found[0].hint


def test_the_file_itself(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        load(tmp_path / "train.yml")
    assert caught.value.finding.code == "config.no_file"
    assert caught.value.exit_code == 3
    with pytest.raises(InputError) as caught:
        load(tmp_path)
    assert caught.value.finding.code == "config.unreadable"


def test_numbers_as_people_write_them() -> None:
    training = sound(f"{SOUND}training: {{learning_rate: 1e-4, epochs: 2, max_steps: 1e3}}\n").config.training
    assert (training.learning_rate, training.epochs, training.max_steps) == (1e-4, 2, 1000)


def test_no_is_a_name_like_any_other() -> None:
    assert sound("model: no\ndata: 2024-01-01\n").config.data.path == "2024-01-01"


def test_a_section_without_keys_is_left_out() -> None:
    assert sound(f"{SOUND}training:\n  # epochs: 3\nmethod: null\n").config == sound(SOUND).config


def test_a_byte_order_mark_and_windows_lines_are_read() -> None:
    text = b"\xef\xbb\xbf" + SOUND.replace("\n", "\r\n").encode()
    assert loads(text, Path("train.yml")).config.data.path == "rows.jsonl"


def test_precedence() -> None:
    text = f"{SOUND}profile: small-gpu\ntraining: {{batch_size: 2}}\nmethod: {{r: 4}}\n"
    loaded = loads(text.encode(), Path("train.yml"), ["method.r=64"], {"method.r": 32, "data.max_length": 99})
    config = loaded.config
    assert config.training.gradient_accumulation_steps == 16  # the profile before the default
    assert config.training.batch_size == 2  # the file before the profile
    assert config.data.max_length == 99  # options before the file
    assert config.method.r == 64  # --set before all
    assert loaded.sources["training.gradient_accumulation_steps"] == "profile small-gpu"
    assert loaded.sources["training.batch_size"] == "train.yml:4"
    assert loaded.sources["data.max_length"] == "given"
    assert loaded.sources["method.r"] == "--set"
    assert "training.gradient_accumulation_steps" not in loaded.explicit
    assert {"training.batch_size", "method.r", "model.path"} <= loaded.explicit


def test_a_profile_from_the_command_line_goes_before_the_files() -> None:
    loaded = sound(f"{SOUND}profile: small-gpu\n", ["profile=code"])
    assert (loaded.config.method.r, loaded.config.training.batch_size) == (32, 4)


def test_set_takes_shorthands_lists_groups_and_null() -> None:
    sets = ["model=other", "data.path=[a, b]", "evaluation.early_stopping.patience=5", "training.max_grad_norm=null"]
    config = sound(SOUND, [*sets, "data.columns.prompt=question", "generation={top_p: 0.5}"]).config
    assert config.model.path == "other"
    assert config.data.paths == ("a", "b")
    assert config.evaluation.early_stopping is not None
    assert config.evaluation.early_stopping.patience == 5
    assert config.training.max_grad_norm is None
    assert config.data.columns == {"prompt": "question"}
    assert config.generation.top_p == 0.5


def test_a_shorthand_keeps_the_other_keys_of_its_section() -> None:
    config = sound("model: starter\ndata: {path: a, max_length: 64}\n", ["data=b"]).config
    assert (config.data.path, config.data.max_length) == ("b", 64)


@pytest.mark.parametrize(
    ("override", "code"),
    [
        ("training.seed", "config.set"),
        ("=3", "config.set"),
        ("training..seed=3", "config.set"),
        ("training.seed=[", "config.syntax"),
        ("training.seed=*a", "config.unsafe"),
        ("training.sead=3", "config.unknown_key"),
        ("training.seed.x=3", "config.type"),
        ("lr=3", "config.unknown_key"),
    ],
)
def test_what_is_wrong_with_a_set(override: str, code: str) -> None:
    (finding,) = findings(SOUND, [override])
    assert finding.code == code
    assert finding.where.startswith(f"--set {override.split('=')[0]}"[:18])


def test_without_a_file() -> None:
    values = {"model": "starter", "data": Path("rows.jsonl"), "method": None, "resources.device": "cpu"}
    loaded = load(None, ["training.learning_rate=1e-4"], values)
    assert loaded.path is None
    assert loaded.folder == Path()
    assert loads(loaded.text, Path("train.yml")).config == loaded.config
    assert loaded.text.startswith(b"version: 1\n")


def test_without_a_file_nothing_given() -> None:
    with pytest.raises(ConfigErrors) as caught:
        load(None)
    assert [finding.where for finding in caught.value.findings] == ["model", "data"]


def test_the_text_is_kept_byte_for_byte(tmp_path: Path) -> None:
    file = tmp_path / "train.yml"
    file.write_bytes(SOUND.replace("\n", "  # why\r\n").encode())
    loaded = load(file)
    assert loaded.text == file.read_bytes()
    assert (loaded.path, loaded.folder) == (file, tmp_path)


def test_one_override_may_be_a_text_of_its_own() -> None:
    assert loads(b"model: starter\ndata: a.jsonl\n", Path("train.yml"), "method.r=4").config.method.r == 4

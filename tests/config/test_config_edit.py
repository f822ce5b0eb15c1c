"""Writing and changing a train.yml: the written file is valid, and a change leaves everything else as it was."""

from __future__ import annotations

import difflib
import re
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from truetune.api.config import config_edit, config_schema, config_show, init
from truetune.config import fields
from truetune.config.edit import change
from truetune.config.load import from_overrides, loads
from truetune.config.profiles import PROFILES
from truetune.config.write import reference, template
from truetune.errors import ConfigErrors, UsageError

ROOT = Path(__file__).parents[2]

HANDMADE = """\
# my run
model: org/m   # ours
data: {path: rows.jsonl,   max_length: 64}

training:
    epochs:   3      # why three

    # seed: chosen with care
evaluation:
output:
  log:
    - tensorboard   # curves

# the end
"""


def values(text: str) -> object:
    return loads(text.encode(), Path("train.yml")).config


def changed(before: str, after: str) -> list[str]:
    """The lines that are only in one of the two, as `-old`, `+new`."""
    return [
        line
        for line in difflib.unified_diff(before.splitlines(), after.splitlines(), n=0, lineterm="")
        if line[:1] in "+-" and line[:3] not in ("+++", "---")
    ]


@pytest.mark.parametrize("profile", [None, *PROFILES])
def test_the_written_file_is_valid_and_says_the_defaults(profile: str | None) -> None:
    text = template("starter", "my rows.jsonl", {"profile": profile} if profile else {})
    short = f"model: starter\ndata: my rows.jsonl\nprofile: {profile or 'null'}\n"
    assert values(text) == values(short)
    every = re.sub(r"^( *)# (\w+: )", r"\1\2", text, flags=re.MULTILINE)
    assert values(every) == values(short), "a default behind # is not the default"
    keys = [name.rpartition(".")[2] for name, _ in fields()]
    assert sorted(re.findall(r"^(?:  (?:# )?|# )?(\w+): +\S", text, flags=re.MULTILINE)) == sorted(keys)


@given(st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=30))
def test_any_name_can_be_written(name: str) -> None:
    config = loads(template(name, name).encode(), Path("train.yml")).config
    assert (config.model.path, config.data.path) == (name, name)


def test_the_lines_of_the_written_file_are_not_too_long() -> None:
    lines = template("starter", "rows.jsonl").splitlines()
    assert max(map(len, lines)) <= 125


@pytest.mark.parametrize(
    ("place", "value", "old", "new"),
    [
        ("model.revision", "abc", "model: org/m   # ours", "model: {path: org/m, revision: abc}  # ours"),
        ("model.path", "other", "model: org/m   # ours", None),
        (
            "data.max_length",
            128,
            "data: {path: rows.jsonl,   max_length: 64}",
            "data: {path: rows.jsonl,   max_length: 128}",
        ),
        ("training.epochs", 0.5, "    epochs:   3      # why three", "    epochs:   0.5    # why three"),
        ("training.seed", 7, None, "    seed: 7"),
        ("evaluation.samples", 0, None, "  samples: 0"),
        ("evaluation.early_stopping.patience", 2, None, "  early_stopping: {patience: 2}"),
        ("output.log", [], "    - tensorboard   # curves", "    []              # curves"),
        ("output.name", "it", None, "  name: it"),
        ("profile", "chat", None, "profile: chat"),
        ("training.learning_rate", 1e-5, None, "    learning_rate: 1e-5"),
    ],
)
def test_a_change_of_a_handmade_file(place: str, value: object, old: str | None, new: str | None) -> None:
    new = new or "model: {path: other}  # ours"
    after = change(HANDMADE, tuple(place.split(".")), value)
    assert changed(HANDMADE, after) == [f"-{old}"] * bool(old) + [f"+{new}"]
    wanted = loads(HANDMADE.encode(), Path("train.yml"), [f"{place}={str(value).replace('None', 'null')}"]).config
    assert values(after) == wanted


def test_a_new_section_goes_to_the_end() -> None:
    after = change(HANDMADE, ("checkpoints", "keep"), 2)
    assert after == HANDMADE.rstrip() + "\ncheckpoints:\n  keep: 2\n"


SETS = [
    "model=other",
    "model.revision=abc",
    "data.path=[a, b]",
    "data.validation=10%",
    "data.columns={text: body}",
    "method.type=lora",
    "method.dropout=0",
    "training.learning_rate=1e-5",
    "training.max_steps=100",
    "training.max_grad_norm=null",
    "evaluation.every=1 epoch",
    "evaluation.early_stopping={patience: 2}",
    "checkpoints.keep=1",
    "generation.temperature=0.1",
    "resources.memory=7.5GB",
    "output.log=[]",
    "profile=code",
]


@given(st.lists(st.sampled_from(SETS), min_size=1, max_size=6, unique=True), st.booleans())
def test_changes_mean_what_set_means(sets: list[str], handmade: bool) -> None:
    text = HANDMADE if handmade else template("org/model", "rows.jsonl")
    wanted = loads(text.encode(), Path("train.yml"), sets).config
    after = text
    for setting in from_overrides(sets, []):
        after = change(after, setting.place, setting.value)
    assert values(after) == wanted
    notes = [line for line in text.splitlines() if line.startswith("# ") and ":" not in line]
    assert [line for line in after.splitlines() if line in notes] == notes


@pytest.mark.parametrize(
    ("before", "place", "value", "after"),
    [
        ("model:\n  path: m\ndata: d\n", "profile", "chat", "model:\n  path: m\ndata: d\nprofile: chat\n"),
        ("model:\n  path: m\ndata: d", "data.split", "a", "model:\n  path: m\ndata: {path: d, split: a}"),
        ("{model: m, data: d}\n", "method.type", "lora", "{method: {type: lora}, model: m, data: d}\n"),
        (
            "data: d\nmodel:\n  path:  # which\n\n# x\n",
            "model.path",
            "m",
            "data: d\nmodel:\n  path: m  # which\n\n# x\n",
        ),
        ("data: d\nmodel: m\nmethod:", "method.r", 8, "data: d\nmodel: m\nmethod:\n  r: 8\n"),
        ("data: d\nmodel: m\nmethod: null\n", "method.r", 8, "data: d\nmodel: m\nmethod: {r: 8}\n"),
        ("data: d\nmodel: m\noutput: {}\n", "output.name", "a", "data: d\nmodel: m\noutput: {name: a}\n"),
        ("data:\n  - a\n  - b\n# x\nmodel: m\n", "data.path", ["c"], "data:\n  {path: [c]}\n# x\nmodel: m\n"),
        ("data: [a, b]\nmodel: m\n", "data.split", "c", "data: {path: [a, b], split: c}\nmodel: m\n"),
    ],
)
def test_layouts(before: str, place: str, value: object, after: str) -> None:
    assert change(before, tuple(place.split(".")), value) == after
    values(after)


def test_init_does_not_overwrite(tmp_path: Path) -> None:
    path = init("starter", "rows.jsonl", tmp_path / "new" / "train.yml", profile="chat")
    first = path.read_text()
    with pytest.raises(UsageError) as caught:
        init("other", "rows.jsonl", path)
    assert caught.value.finding.code == "config.exists"
    assert path.read_text() == first
    init("other", "rows.jsonl", path, force=True)
    assert "other" in path.read_text()


def test_init_refuses_what_would_not_load(tmp_path: Path) -> None:
    with pytest.raises(ConfigErrors):
        init("starter", "rows.jsonl", tmp_path / "train.yml", profile="poetry")
    assert not list(tmp_path.iterdir())


def test_show_says_where_values_come_from(tmp_path: Path) -> None:
    path = init("starter", "rows.jsonl", tmp_path / "train.yml", profile="chat")
    shown = config_show(path, ["training.seed=3"])
    assert shown["values"]["training"]["seed"] == 3
    assert shown["sources"]["training.seed"] == "--set"
    assert shown["sources"]["data.max_length"] == "profile chat"
    assert re.fullmatch(r".*train\.yml:\d+", shown["sources"]["model.path"])
    assert "data.max_length" not in shown["explicit"]


def test_an_invalid_change_leaves_the_file(tmp_path: Path) -> None:
    path = tmp_path / "train.yml"
    path.write_text(HANDMADE)
    with pytest.raises(ConfigErrors) as caught:
        config_edit(path, ["training.epochs=0", "training.banana=1"])
    assert len(caught.value.findings) == 2
    assert path.read_text() == HANDMADE
    config_edit(path, ["training.epochs=2"])
    assert changed(HANDMADE, path.read_text())[1] == "+    epochs:   2      # why three"


def editor(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, old: str, new: str) -> None:
    """An editor that replaces `old` by `new`."""
    script = tmp_path / "editor.py"
    script.write_text(
        "import pathlib, sys\np = pathlib.Path(sys.argv[-1])\n"
        f"p.write_text(p.read_text().replace({old!r}, {new!r}, 1))\n"
    )
    monkeypatch.delenv("VISUAL", raising=False)
    monkeypatch.setenv("EDITOR", f"{sys.executable} {script}")


def test_an_editor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "train.yml"
    path.write_text(HANDMADE)
    editor(monkeypatch, tmp_path, "epochs:   3", "epochs:   4")
    assert config_edit(path).config.training.epochs == 4
    assert "epochs:   4" in path.read_text()


def test_an_editor_that_leaves_an_invalid_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "train.yml"
    path.write_text(HANDMADE)
    editor(monkeypatch, tmp_path, "epochs: ", "epochs: 0")
    asked: list[ConfigErrors] = []

    def again(errors: ConfigErrors) -> bool:
        asked.append(errors)
        editor(monkeypatch, tmp_path, "nothing", "nothing")
        return len(asked) < 2

    with pytest.raises(ConfigErrors):
        config_edit(path, again=again)
    assert len(asked) == 2
    assert path.read_text() == HANDMADE


@pytest.mark.parametrize(
    ("command", "code"), [("", "config.no_editor"), ("/no/such/editor", "config.editor"), ("false", "config.editor")]
)
def test_no_editor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, code: str) -> None:
    path = tmp_path / "train.yml"
    path.write_text(HANDMADE)
    monkeypatch.delenv("VISUAL", raising=False)
    monkeypatch.setenv("EDITOR", command)
    with pytest.raises(UsageError) as caught:
        config_edit(path)
    assert caught.value.finding.code == code


def test_the_schema_has_a_verb() -> None:
    assert config_schema()["title"] == "Config"


def test_the_reference_page_is_made_from_the_schema() -> None:
    page = ROOT / "docs" / "reference" / "train-yml.md"
    assert page.read_text(encoding="utf-8") == reference()

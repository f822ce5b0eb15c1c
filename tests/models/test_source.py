"""Where models come from, and every way in which a folder can be no model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from truetune.errors import InputError, UsageError
from truetune.models import hub, source

CONFIG = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 8}


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No network, and an empty hub cache."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))


def model(folder: Path, **config: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIG | config))
    save_file({"model.embed_tokens.weight": np.ones((16, 8), np.float32)}, folder / "model.safetensors")
    return folder


def snapshot(tmp_path: Path, name: str, commit: str = "a" * 40) -> Path:
    """A model in the hub's cache, laid out as huggingface_hub does."""
    root = tmp_path / "hub" / f"models--{name.replace('/', '--')}"
    (root / "refs").mkdir(parents=True)
    (root / "refs" / "main").write_text(commit)
    return model(root / "snapshots" / commit)


def code(name: str, folder: Path, revision: str | None = None) -> str:
    with pytest.raises(InputError) as caught:
        source.resolve(name, folder=folder, revision=revision)
    finding = caught.value.finding
    assert finding.hint
    assert caught.value.exit_code == 3
    return finding.code


def test_starter_is_the_bundled_model() -> None:
    found = source.resolve("starter", folder=Path("/nowhere"))
    assert (found.kind, found.revision, found.folder) == ("starter", None, source.STARTER)


def test_a_revision_of_something_that_has_none() -> None:
    with pytest.raises(UsageError, match="hub model") as caught:
        source.resolve("starter", revision="main", folder=Path())
    assert caught.value.finding.code == "model.revision_of_folder"


@pytest.mark.parametrize("name", ["./mine", "mine", "../work/mine"])
def test_folder_beside_train_yml(name: str, tmp_path: Path) -> None:
    folder = model(tmp_path / "work" / "mine")
    found = source.resolve(name, folder=tmp_path / "work")
    assert (found.kind, found.folder, found.name) == ("folder", folder.resolve(), name)


def test_absolute_and_home_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = model(tmp_path / "mine")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert source.resolve(str(folder), folder=Path("/")).folder == folder.resolve()
    assert source.resolve("~/mine", folder=Path("/")).folder == folder.resolve()


def test_bare_name_in_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = model(tmp_path / "cwd" / "mine")
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    assert source.resolve("mine", folder=tmp_path / "other").folder == folder.resolve()


def test_same_name_beside_train_yml_and_in_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model(tmp_path / "cwd" / "mine")
    model(tmp_path / "other" / "mine")
    monkeypatch.chdir(tmp_path / "cwd")
    assert code("mine", tmp_path / "other") == "model.ambiguous"


def test_cached_hub_model_is_pinned_to_its_commit(tmp_path: Path) -> None:
    folder = snapshot(tmp_path, "owner/small")
    found = source.resolve("owner/small", folder=tmp_path)
    assert (found.kind, found.revision) == ("hub", "a" * 40)
    assert found.folder.resolve() == folder.resolve()


def test_folder_and_cached_hub_model_of_one_name_lists_both(tmp_path: Path) -> None:
    snapshot(tmp_path, "owner/small")
    local = model(tmp_path / "owner" / "small")
    with pytest.raises(InputError, match="hub's owner/small") as caught:
        source.resolve("owner/small", folder=tmp_path)
    assert caught.value.finding.code == "model.ambiguous"
    assert str(local) in str(caught.value)
    assert source.resolve("./owner/small", folder=tmp_path).kind == "folder"


def test_half_a_snapshot_does_not_count(tmp_path: Path) -> None:
    (snapshot(tmp_path, "owner/small") / "model.safetensors").unlink()
    assert code("owner/small", tmp_path) == "model.offline"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("./nope", "model.missing"),
        ("no such model", "model.missing"),
        ("owner/name/more", "model.missing"),
        ("own--er/name", "model.missing"),
        ("owner/none", "model.offline"),
        ("model.gguf", "model.gguf"),
        ("./model.gguf", "model.gguf"),
        ("./file", "model.is_file"),
    ],
)
def test_what_is_no_model(name: str, expected: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    assert code(name, tmp_path) == expected


def test_a_typo_gets_the_nearest_names(tmp_path: Path) -> None:
    model(tmp_path / "my-llama")
    snapshot(tmp_path, "owner/small-model")
    for name, near in [("my-lama", "my-llama"), ("startr", "starter"), ("owner/smal-model", "owner/small-model")]:
        with pytest.raises(InputError) as caught:
            source.resolve(name, folder=tmp_path)
        assert f"`{near}`" in caught.value.finding.hint
    with pytest.raises(InputError) as caught:
        source.resolve("./my-lama", folder=tmp_path)
    assert "`my-llama`" in caught.value.finding.hint


def test_without_huggingface_hub_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "huggingface_hub", None)
    with pytest.raises(InputError, match="huggingface_hub") as caught:
        source.resolve("owner/none", folder=tmp_path)
    assert caught.value.finding.code == "model.hub_missing"
    assert "truetune[hub]" in caught.value.finding.hint


def test_folder_without_config_or_weights(tmp_path: Path) -> None:
    assert code(str(tmp_path), tmp_path) == "model.no_weights"
    (model(tmp_path / "m") / "config.json").unlink()
    assert code("./m", tmp_path) == "model.no_config"
    (model(tmp_path / "n") / "model.safetensors").unlink()
    assert code("./n", tmp_path) == "model.no_weights"


@pytest.mark.parametrize("file", ["pytorch_model.bin", "consolidated.00.pth", "model.pt", "model.ckpt"])
def test_pickle_weights(file: str, tmp_path: Path) -> None:
    (model(tmp_path / "m") / "model.safetensors").rename(tmp_path / "m" / file)
    assert code("./m", tmp_path) == "model.pickle_weights"


def test_pickles_that_are_no_weights_do_not_matter(tmp_path: Path) -> None:
    folder = model(tmp_path / "m")
    (folder / "training_args.bin").write_bytes(b"x")
    assert source.resolve("./m", folder=tmp_path).folder == folder.resolve()
    (folder / "model.safetensors").unlink()
    assert code("./m", tmp_path) == "model.no_weights"


def test_gguf_folder_and_adapter_folder(tmp_path: Path) -> None:
    (tmp_path / "g").mkdir()
    (tmp_path / "g" / "model-q4.gguf").write_bytes(b"GGUF")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "adapter_config.json").write_text("{}")
    assert code("./g", tmp_path) == "model.gguf"
    assert code("./a", tmp_path) == "model.is_adapter"


@pytest.mark.parametrize("text", ["{", "[]", '"x"'])
def test_unreadable_config(text: str, tmp_path: Path) -> None:
    (model(tmp_path / "m") / "config.json").write_text(text)
    assert code("./m", tmp_path) == "model.bad_config"


@pytest.mark.parametrize("cut", [1, 40, 100, 500])
def test_truncated_weights(cut: int, tmp_path: Path) -> None:
    path = model(tmp_path / "m") / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-cut])
    assert code("./m", tmp_path) == "model.damaged"


def test_shards(tmp_path: Path) -> None:
    folder = model(tmp_path / "m")
    (folder / "model.safetensors").rename(folder / "model-1.safetensors")
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"model.embed_tokens.weight": "model-1.safetensors"}}))
    assert source.resolve("./m", folder=tmp_path).kind == "folder"
    assert [path.name for path in source.files(folder)] == ["config.json", "model-1.safetensors", index.name]
    index.write_text(json.dumps({"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}))
    assert code("./m", tmp_path) == "model.damaged"
    for bad in ["{", "{}", '{"weight_map": []}', '{"weight_map": {"a": "../model-1.safetensors"}}']:
        index.write_text(bad)
        assert code("./m", tmp_path) == "model.damaged"


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "mystery", "auto_map": {"AutoModelForCausalLM": "modeling.Mine"}},
        {"vision_config": {"model_file": "mine.py"}},
        {"layers": [{"auto_map": {}}], "model_type": "mystery"},
        {"_attn_implementation_internal": "owner/kernel"},
        {"text_config": {"_attn_implementation": "owner/kernel:fn"}},
    ],
)
def test_code_from_the_folder_is_refused(config: dict[str, Any], tmp_path: Path) -> None:
    model(tmp_path / "m", **config)
    assert code("./m", tmp_path) == "model.custom_code"


@pytest.mark.parametrize("config", [{"_attn_implementation": "flash_attention_2"}, {"auto_map": {"AutoConfig": "x.Y"}}])
def test_settings_of_ordinary_models_pass(config: dict[str, Any], tmp_path: Path) -> None:
    """Phi-3 and others carry an auto_map from before transformers knew them; the code it names is never loaded."""
    model(tmp_path / "m", **config)
    assert source.resolve("./m", folder=tmp_path).kind == "folder"


def test_files_that_define_the_starter() -> None:
    names = [path.name for path in source.files(source.STARTER)]
    assert names == sorted(names)
    assert {"config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja"} <= set(names)
    assert "README.md" not in names

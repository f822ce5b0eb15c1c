"""`ft models fit`: from config.json alone, without torch, weights or the network."""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from truetune import api, cli
from truetune.engines.packing import PACKS
from truetune.errors import InputError

LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 4096, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 8, "intermediate_size": 14336, "vocab_size": 128256,
    "max_position_embeddings": 8192,
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    return tmp_path


def asked(capsys: pytest.CaptureFixture[str], *args: str) -> Any:
    code = cli.run(["models", "fit", *args, "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_one_memory(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, found = asked(capsys, str(folder), "--memory", "24GB")
    assert code == 0
    assert (found["parameters"], found["exact"]) == (8_030_261_248, True)
    (size,) = found["sizes"]
    methods = {(row["method"], row["bits"]): row for row in size["methods"]}
    assert list(methods) == [("qlora", 4), ("qlora", 8), ("lora", 0), ("full", 0)]
    assert methods["lora", 0]["weights"] == 2 * 8_030_261_248
    assert [row["fits"] for row in methods.values()] == [True, True, True, False]
    assert methods["full", 0]["longest"] == 0 and methods["qlora", 4]["longest"] == 8192
    for row in methods.values():
        parts = (row[part] for part in ("weights", "trained", "activations", "runtime"))
        assert sum(parts) == row["total"] and row["fits"] == (row["total"] <= size["room"])


def test_sizes_length_rank_and_type_count(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Longer examples, a higher rank and wider numbers need more; a larger memory holds longer examples."""

    def first(*args: str) -> dict[str, Any]:
        row: dict[str, Any] = asked(capsys, str(folder), *args)[1]["sizes"][-1]["methods"][2]
        return row

    plain = first()
    assert first("--length", "4096")["activations"] > plain["activations"]
    assert first("--r", "64")["trained"] == 4 * plain["trained"]
    assert first("--dtype", "float32")["weights"] == 2 * plain["weights"]
    _, every = asked(capsys, str(folder))
    longest = [[row["longest"] for row in size["methods"]] for size in every["sizes"]]
    assert all(now >= before for one, other in pairwise(longest) for before, now in zip(one, other, strict=True))
    assert longest[0] != longest[-1]


def test_the_page(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["models", "fit", str(folder)]) == 0
    page = capsys.readouterr().out
    assert "8,030,261,248 parameters" in page and "24.0 GB" in page and "qlora, 4 bits" in page
    assert cli.run(["models", "fit", "starter", "--memory", "8GB", "--dtype", "float32"]) == 0
    assert "yes" in capsys.readouterr().out


def test_a_base_that_comes_packed_has_one_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stored = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
    (folder / "config.json").write_text(json.dumps(LLAMA | {"quantization_config": stored}))
    (size,) = asked(capsys, str(folder), "--memory", "24GB")[1]["sizes"]
    assert [(row["method"], row["bits"]) for row in size["methods"]] == [("qlora", 4)]


@pytest.mark.parametrize(
    ("change", "args", "code"),
    [
        ({}, ("--memory", "much"), "usage.bad_value"),
        ({"quantization_config": {"quant_method": "gptq"}}, (), "model.quantized"),
        ({"auto_map": {"AutoModel": "x.Y"}, "model_type": "own"}, (), "model.custom_code"),
        ({"hidden_size": "many"}, (), "model.bad_config"),
    ],
)
def test_errors(
    folder: Path, capsys: pytest.CaptureFixture[str], change: dict[str, Any], args: tuple[str, ...], code: str
) -> None:
    (folder / "config.json").write_text(json.dumps(LLAMA | change))
    exit_code, found = asked(capsys, str(folder), *args)
    assert exit_code in (2, 3) and found["error"]["code"] == code


def test_a_hub_model_that_is_not_here_needs_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(InputError) as caught:
        api.load("models_fit")("owner/model")
    assert caught.value.finding.code in {"model.offline", "model.hub_missing"}


def test_it_imports_no_engine(folder: Path) -> None:
    code = (
        "import sys; from truetune.cli import run; run(sys.argv[1:]);"
        "sys.exit(bool({'torch', 'transformers', 'numpy.testing'} & sys.modules.keys()))"
    )
    line = [sys.executable, "-c", code, "models", "fit", str(folder), "--json"]
    assert subprocess.run(line, capture_output=True, timeout=120).returncode == 0


def test_what_packs_is_what_the_engine_packs() -> None:
    pytest.importorskip("torch")
    from truetune.engines.torch import model

    assert all(map(model.packs, PACKS)) and not model.packs("gptj")

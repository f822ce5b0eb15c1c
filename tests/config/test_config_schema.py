"""The schema: complete descriptions, the contract's own example, round trips, the JSON Schema."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from ruamel.yaml import YAML

from truetune.config import Amount, Cadence, Config, EarlyStopping, defaults, fields, load, schema
from truetune.config.load import loads

CONTRACT = """\
version: 1
model:        { path: Qwen/Qwen2.5-0.5B-Instruct, revision: null, adapter: null, dtype: auto }
data:         { path: support.jsonl, format: auto, columns: null, template: auto, train_on: assistant,
                split: train, validation: auto, max_length: 2048, too_long: drop, max_rejects: 5%, dedupe: exact }
method:       { type: auto, r: 16, alpha: 32, dropout: 0.05, target_modules: auto, bits: 4 }
training:     { objective: auto, learning_rate: 2e-4, batch_size: 4, gradient_accumulation_steps: 4, epochs: 3,
                max_steps: null, scheduler: cosine, warmup: 3%, weight_decay: 0.01,
                max_grad_norm: 1.0, optimizer: adamw, seed: 42 }
evaluation:   { every: 100 steps, samples: 4, early_stopping: null }
checkpoints:  { every: 100 steps, keep: 3, best: true }
generation:   { temperature: 0.7, top_p: 0.9, max_new_tokens: 256 }
resources:    { engine: auto, device: auto, memory: auto, workers: 1 }
output:       { dir: null, name: null, log: [tensorboard] }
profile: null
"""

texts = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=12)
names = st.from_regex(r"[a-z0-9][a-z0-9._-]{0,20}", fullmatch=True)
counts = st.integers(1, 1000)
often = st.one_of(st.none(), counts.map(lambda n: f"{n} steps"), st.sampled_from(["1 epoch", "0.25 epochs", "10 min"]))
shares = st.one_of(
    st.integers(0, 99).map(lambda n: f"{n}%"), st.integers(0, 10**6), st.sampled_from([0.05, 0.3, 0.125])
)
positive = st.floats(1e-9, 0.99)


def group(**keys: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Any of the keys, none of them needed."""
    return st.fixed_dictionaries({}, optional=keys)


trees = st.fixed_dictionaries(
    {
        "model": st.one_of(
            texts, st.fixed_dictionaries({"path": texts}, optional={"revision": texts, "adapter": texts})
        ),
        "data": st.one_of(
            texts,
            st.lists(texts, min_size=1, max_size=3),
            st.fixed_dictionaries(
                {"path": texts},
                optional={
                    "columns": st.one_of(st.none(), st.dictionaries(texts, texts, max_size=3)),
                    "template": texts,
                    "validation": st.one_of(st.none(), shares, st.sampled_from(["auto", "held.jsonl"])),
                    "max_length": st.integers(8, 10**6),
                    "max_rejects": shares,
                    "train_on": st.sampled_from(["assistant", "all", "last"]),
                },
            ),
        ),
    },
    optional={
        "method": st.one_of(
            st.sampled_from(["auto", "lora"]),
            group(r=counts, alpha=positive, dropout=positive, target_modules=st.lists(names, min_size=1, max_size=3)),
        ),
        "training": group(
            learning_rate=positive,
            epochs=st.one_of(counts, positive),
            max_steps=st.one_of(st.none(), counts),
            warmup=st.integers(0, 100).map(lambda n: f"{n}%"),
            max_grad_norm=st.one_of(st.none(), positive),
            seed=st.integers(0, 2**31 - 1),
        ),
        "evaluation": group(
            every=often, early_stopping=st.one_of(st.none(), group(patience=counts, min_delta=positive))
        ),
        "checkpoints": group(every=often, keep=counts, best=st.booleans()),
        "resources": group(memory=st.one_of(st.just("auto"), st.integers(1, 2**40).map(lambda n: f"{n} B"))),
        "output": group(dir=texts, name=names, log=st.sampled_from([[], ["tensorboard"]])),
        "profile": st.sampled_from([None, "chat", "code"]),
    },
)


def test_the_contracts_example_is_the_default() -> None:
    config = loads(CONTRACT.encode(), Path("train.yml")).config
    short = loads(b"model: Qwen/Qwen2.5-0.5B-Instruct\ndata: support.jsonl\n", Path("train.yml")).config
    assert config == short
    assert config.training.learning_rate == 2e-4
    assert config.evaluation.every == Cadence(100, "steps")
    assert config.data.max_rejects == Amount(5, percent=True)


@given(trees)
def test_a_config_dumps_and_loads_back_equal(tree: dict[str, Any]) -> None:
    config = Config.model_validate(tree)
    dumped = config.model_dump(mode="json")
    assert Config.model_validate(dumped) == config
    out = io.BytesIO()
    YAML().dump(dumped, out)
    again = Config.model_validate(YAML(typ="safe", pure=True).load(out.getvalue()))
    assert again == config


def test_every_key_has_a_description() -> None:
    for dotted, field in fields():
        assert field.description, dotted
        assert field.description.strip().endswith("."), dotted
    assert len(dict(fields())) > 45
    assert all(field.description for field in EarlyStopping.model_fields.values())


@pytest.mark.parametrize("name", ["model", "data", "method"])
def test_shorthands(name: str) -> None:
    tree: dict[str, Any] = {"model": {"path": "starter"}, "data": {"path": "x.jsonl"}, "method": {"type": "lora"}}
    full = Config.model_validate(tree)
    (tree[name],) = tree[name].values()
    assert Config.model_validate(tree) == full


def test_a_list_of_files() -> None:
    config = load(None, values={"model": "starter", "data": ["a.jsonl", Path("b.jsonl")]}).config
    assert config.data.paths == ("a.jsonl", "b.jsonl")


def test_a_config_does_not_change() -> None:
    config = load(None, values={"model": "starter", "data": "x"}).config
    with pytest.raises(ValidationError):
        config.training.seed = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("auto", "auto"),
        ("none", None),
        (None, None),
        (0, None),
        ("5%", Amount(5, percent=True)),
        (0.1, Amount(10, percent=True)),
        (200, Amount(200, percent=False)),
        ("2024.jsonl", "2024.jsonl"),
        ("held out.jsonl", "held out.jsonl"),
    ],
)
def test_validation_rows(value: object, expected: object) -> None:
    config = Config.model_validate({"model": "m", "data": {"path": "d", "validation": value}})
    assert config.data.validation == expected


def test_json_schema_knows_shorthands_defaults_and_texts() -> None:
    document = schema()
    properties = document["properties"]
    assert set(properties) == set(Config.model_fields)
    assert any(option.get("type") == "string" for option in properties["model"]["anyOf"])
    assert document["additionalProperties"] is False
    training = document["$defs"]["Training"]["properties"]
    assert training["warmup"]["default"] == "3%"
    assert training["learning_rate"]["exclusiveMinimum"] == 0
    assert all(part.get("description") for kind in document["$defs"].values() for part in kind["properties"].values())


def test_defaults_are_plain_json() -> None:
    values = defaults()
    assert values["evaluation"]["every"] == "100 steps"
    assert "path" not in values["model"]


def test_importing_the_schema_is_cheap() -> None:
    code = "import sys, truetune.config; print(sorted({'numpy', 'torch', 'transformers', 'rich'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("auto", "auto"),
        ("all-linear", "all-linear"),
        ("q_proj", ("q_proj",)),
        ("self_attn.q_proj", ("self_attn.q_proj",)),
        (".*[qv]_proj", ".*[qv]_proj"),
        (["q_proj", "v_proj"], ("q_proj", "v_proj")),
    ],
)
def test_one_target_is_a_list_of_one(written: Any, meant: Any) -> None:
    assert Config(model="m", data="d", method={"target_modules": written}).method.target_modules == meant  # type: ignore[arg-type]

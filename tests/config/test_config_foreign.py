"""Keys of other tools: each is refused with a key that exists here, or with a reason to leave it out."""

from __future__ import annotations

from pathlib import Path

import pytest

from truetune.config import fields
from truetune.config.foreign import FOREIGN, LATER_VALUES
from truetune.config.load import loads
from truetune.config.profiles import PROFILES
from truetune.config.schema import Config
from truetune.errors import ConfigErrors

KNOWN = {name for name, _ in fields()}

AXOLOTL = """\
base_model: NousResearch/Llama-3.2-1B
datasets:
  - path: teknium/GPT4-LLM-Cleaned
    type: alpaca
val_set_size: 0.1
adapter: lora
sequence_len: 2048
sample_packing: true
lora_r: 16
lora_alpha: 32
gradient_accumulation_steps: 2
micro_batch_size: 2
num_epochs: 1
lr_scheduler: cosine
learning_rate: 0.0002
bf16: auto
gradient_checkpointing: true
saves_per_epoch: 1
"""


@pytest.mark.parametrize("name", sorted(FOREIGN))
def test_each_leads_to_a_key_or_says_why_not(name: str) -> None:
    foreign = FOREIGN[name]
    assert foreign.key in KNOWN or (foreign.key is None and foreign.advice)
    assert name not in Config.model_fields


@pytest.mark.parametrize("name", sorted(FOREIGN))
def test_each_is_refused_with_its_way_out_at_any_level(name: str) -> None:
    foreign = FOREIGN[name]
    for text, where in ((f"{name}: 1\n", name), (f"output: {{{name}: 1}}\n", f"output.{name}")):
        with pytest.raises(ConfigErrors) as caught:
            loads(f"model: m\ndata: d\n{text}".encode(), Path("train.yml"))
        (finding,) = caught.value.findings
        assert (finding.code, finding.where) == ("config.unknown_key", f"train.yml:3 {where}")
        assert (foreign.key or foreign.advice) in finding.hint


def test_the_contracts_examples() -> None:
    wanted = {
        "lora_r": "method.r",
        "num_train_epochs": "training.epochs",
        "per_device_train_batch_size": "training.batch_size",
        "micro_batch_size": "training.batch_size",
        "max_seq_length": "data.max_length",
        "sequence_len": "data.max_length",
        "cutoff_len": "data.max_length",
        "train_on_inputs": "data.train_on",
        "lr": "training.learning_rate",
        "packing": None,
        "sample_packing": None,
    }
    assert {name: FOREIGN[name].key for name in wanted} == wanted


def test_a_whole_file_of_another_tool() -> None:
    with pytest.raises(ConfigErrors) as caught:
        loads(AXOLOTL.encode(), Path("train.yml"))
    codes = [finding.code for finding in caught.value.findings]
    assert codes.count("config.unknown_key") == 16
    assert codes.count("config.missing") == 2
    assert all(finding.hint for finding in caught.value.findings)


def test_writing_it_with_dashes_or_capitals_is_understood_too() -> None:
    with pytest.raises(ConfigErrors) as caught:
        loads(b"model: m\ndata: d\nLora-R: 1\n", Path("train.yml"))
    assert "method.r" in caught.value.finding.hint


@pytest.mark.parametrize("profile", sorted(PROFILES))
def test_profiles_set_keys_that_exist_to_values_that_are_valid(profile: str) -> None:
    assert set(PROFILES[profile]) <= KNOWN
    config = loads(f"model: m\ndata: d\nprofile: {profile}\n".encode(), Path("train.yml")).config
    dumped = config.model_dump(mode="json")
    for key, value in PROFILES[profile].items():
        section, name = key.split(".")
        assert dumped[section][name] == value


def test_profiles_of_the_schema_are_those_of_the_table() -> None:
    annotation = str(Config.model_fields["profile"].annotation)
    assert all(f"'{name}'" in annotation for name in PROFILES)
    assert annotation.count("'") == 2 * len(PROFILES)


def test_later_values_belong_to_keys_that_exist() -> None:
    assert set(LATER_VALUES) <= KNOWN

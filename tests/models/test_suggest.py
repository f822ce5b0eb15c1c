"""The budget keeps within what there is, and suggestions are keys of train.yml that do what they claim."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from truetune import api
from truetune.config import Config, load
from truetune.engines.base import Choice
from truetune.errors import ResourceError
from truetune.models import facts, fit, memory, smaller, source
from truetune.models.fit import Case, Suggestion
from truetune.train.resolve import case as case_of

STARTER = facts.read(source.STARTER)
LARGE = replace(
    STARTER, hidden=4096, layers=32, heads=32, kv_heads=8, head_dim=128, intermediate=14336, vocabulary=128256,
    parameters=8_030_000_000,
)  # fmt: skip
GB = 10**9


def config(**keys: object) -> Config:
    values = {"model": "starter", "data": "rows.jsonl"} | {key.replace("__", "."): value for key, value in keys.items()}
    return load(None, (), values).config


def on(dtype: str) -> Choice:
    return Choice("cpu", dtype, "", "")


def case(
    available: int, longest: int = 512, dtype: str = "bfloat16", shape: facts.Facts = LARGE, **keys: object
) -> Case:
    return case_of(config(**keys), shape, on(dtype), available, longest, packed=True)


@given(st.integers(30 * GB, 400 * GB), st.integers(1, 3000))
def test_budget_holds_the_longest_example_within_the_memory(available: int, longest: int) -> None:
    found = fit.budget(case(available, longest))
    assert longest <= found.tokens <= max(longest, fit.MOST_ON_CPU)
    assert found.estimate.total <= available
    wide = memory.estimate(LARGE, memory.Setup("lora", 16, dtype="bfloat16"), longest).total
    assert found.checkpointing == (wide > int(available * fit.SHARE))


def test_plenty_of_memory_gives_what_helps_and_no_more() -> None:
    plenty = case(400 * GB)
    assert fit.budget(plenty).tokens == fit.MOST_ON_CPU
    assert fit.budget(replace(plenty, setup=replace(plenty.setup, gpu=True))).tokens == fit.MOST
    assert fit.budget(case(400 * GB, longest=9000)).tokens == 9000
    assert "as large as brings speed" in fit.budget(case(400 * GB)).reason
    assert fit.suggest(case(400 * GB)) == []


def test_too_small_says_what_would_fit() -> None:
    wide = case(25 * GB, longest=100_000)
    with pytest.raises(ResourceError, match=r"25\.0 GB are available") as caught:
        fit.budget(wide)
    finding = caught.value.finding
    assert (finding.code, caught.value.exit_code) == ("memory.too_small", 4)
    length = int(finding.hint.split("--set data.max_length=")[1].split(" ")[0])
    assert fit.budget(replace(wide, longest=length)).tokens >= length
    with pytest.raises(ResourceError) as caught:
        fit.budget(case(60 * GB, method="full"))
    assert "--set method.type=lora (" in caught.value.finding.hint
    with pytest.raises(ResourceError) as caught:
        fit.budget(case(1 * GB))
    assert "data.max_length" not in caught.value.finding.hint
    with pytest.raises(ResourceError) as caught:
        fit.budget(case(GB // 4))
    assert caught.value.finding.hint == "what would fit: more memory"


def applied(told: Suggestion, dtype: str, before: Case, keys: dict[str, object]) -> Case:
    """The case of a train.yml to which the suggestion's own `--set` line has been added."""
    overrides = told.line.replace("--set ", "").split()
    after = load(None, overrides, {"model": "starter", "data": "rows.jsonl", **keys}).config
    longest = min(before.longest, after.data.max_length)
    dtype = dtype if after.model.dtype == "auto" else after.model.dtype
    made = case_of(after, before.facts, on(dtype), before.available, longest, packed=before.setup.packed)
    return made.checkpointing(before.setup.checkpointing)


@given(
    st.integers(1 * GB, 200 * GB),
    st.integers(8, 20_000),
    st.sampled_from(["float32", "bfloat16"]),
    st.sampled_from(["lora", "full"]),
    st.integers(1, 512),
    st.sampled_from([1, 33, 512]),
    st.booleans(),
)
def test_every_suggestion_does_what_it_claims(
    available: int, longest: int, dtype: str, method: str, r: int, alpha: float, checkpointing: bool
) -> None:
    rank = {"method.r": r, "method.alpha": alpha} if method == "lora" else {}
    keys: dict[str, object] = {"method.type": method, "data.max_length": 20_000, **rank}
    written = load(None, (), {"model": "starter", "data": "rows.jsonl", **keys}).config
    before = case_of(written, LARGE, on(dtype), available, longest, packed=True)
    before = before.checkpointing(checkpointing)
    assume(not before.fits)
    for told in fit.suggest(before):
        after = applied(told, dtype, before, keys) if told.settings else None
        if after is None:
            assert told.parameters and told.parameters < LARGE.parameters
            assert told.needs < before.needs and told.fits
            continue
        assert after.needs == told.needs < before.needs, told.line
        assert after.fits == told.fits, told.line
        assert (after.alpha / after.setup.r) == pytest.approx(before.alpha / before.setup.r, rel=1e-4)


def test_in_order_of_harm() -> None:
    keys = [list(told.settings) for told in fit.suggest(case(25 * GB, 100_000, "float32").checkpointing())]
    assert keys == [
        ["data.max_length"], ["method.r", "method.alpha"], ["model.dtype"],
        ["data.max_length", "method.type"], [],
    ]  # fmt: skip


def test_a_combination_where_nothing_alone_is_enough() -> None:
    told = fit.suggest(case(14 * GB, 4096, "float32", method="full").checkpointing())
    assert not any(one.fits for one in told[:-2]) and told[-2].fits and told[-1].parameters
    assert told[-2].line == "--set data.max_length=512 --set method.type=qlora"


def test_the_cost_is_said_in_rows() -> None:
    wide = replace(case(25 * GB, 100_000), lengths=[10, 100_000, 99_999]).checkpointing()
    assert fit.suggest(wide)[0].cost == "2 of 3 examples are longer"


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (1_234_000_000, "1.2 billion"),
        (70 * GB, "70 billion"),
        (560_400_000, "560 million"),
        (436_744, "430,000"),
        (9_999, "9,999"),
    ],
)
def test_counts_are_rounded_down(number: int, text: str) -> None:
    assert smaller.counted(number) == text


@pytest.mark.slow
def test_the_verb_says_what_would_fit_and_it_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRUETUNE_HOME", str(tmp_path))
    suggest = api.load("suggest")
    needs = suggest(model="starter", method="full", memory="500MB")["needs"]
    memory = f"{needs}B"
    found = suggest(model="starter", method="full", memory=memory)
    assert not found["fits"] and found["longest"] == 1024
    first = next(told for told in found["suggestions"] if told["fits"])
    again = suggest(model="starter", method="full", memory=memory, overrides=first["overrides"])
    assert again["fits"] and again["needs"] == first["needs"]
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"prompt": "a", "completion": "b"}\n{"prompt": "c", "completion": "d"}\n')
    small = suggest(model="starter", data=str(rows), memory="600MB", overrides=["data.validation=none"])
    assert small["fits"] and small["longest"] < 64 and small["suggestions"] == []

"""What `ft benchmark` measures: figures that add up, quality as `ft evaluate` has it, results that can be compared."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from served import made

import truetune as ft
from truetune import cli, paths
from truetune.errors import InputError, UsageError
from truetune.serve import questions, speed
from truetune.serve.speed import Measured, Timing

ROWS = [
    {"instruction": "Say yes.", "input": "", "output": "Yes, of course."},
    {"instruction": "Name a colour.", "input": "", "output": "Blue."},
    {"instruction": "Count to three.", "input": "", "output": "One, two, three."},
]
ASKED = {"requests": 3, "concurrency": 2, "max_new_tokens": 6}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("benchmark")
    made(place / "tuned", 1), made(place / "other", 2)
    (place / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return place


@pytest.fixture(scope="module")
def found(folder: Path) -> dict:
    heard: list[tuple[str, dict]] = []
    compare = ["base", str(folder / "other")]
    document = ft.benchmark(
        str(folder / "tuned"), compare=compare, prompts=str(folder / "rows.jsonl"), device="cpu", save="first", **ASKED,
        listener=lambda kind, figures: heard.append((kind, figures)),
    )  # fmt: skip
    assert {figures["side"] for kind, figures in heard if kind == "answer"} == {"tuned", "base", "other"}
    assert max(figures["done"] for kind, figures in heard if kind == "answer") == 6
    return document


def test_every_model_answers_what_was_asked(found: dict) -> None:
    assert [model["name"] for model in found["models"]] == ["tuned", "base", "other"]
    assert found["settings"]["questions"] == 3 and found["peak_bytes"] > 50e6
    for model in found["models"]:
        assert model["requests"] == 6  # two rounds
        assert 6 <= model["tokens"] <= 6 * 6
        assert model["tokens_per_second"] == pytest.approx(model["tokens"] / model["seconds"])
        for part in ("first_token", "request"):
            times = model[part]
            assert 0 < times["min"] <= times["p50"] <= times["p95"] <= times["p99"] <= times["max"]
        assert model["first_token"]["max"] <= model["request"]["max"]


def test_the_quality_is_that_of_an_evaluation(found: dict, folder: Path) -> None:
    measured = ft.evaluate(
        str(folder / "tuned"), data=str(folder / "rows.jsonl"), max_new_tokens=ASKED["max_new_tokens"], device="cpu"
    )["figures"]
    quality = {model["name"]: model["quality"] for model in found["models"]}
    for name, side in (("tuned", "tuned"), ("base", "base")):
        for figure in ("perplexity", "rougeL", "exact_match", "chrf"):
            assert quality[name][figure] == pytest.approx(measured[figure][side]["value"], rel=1e-3), (name, figure)
    assert quality["tuned"]["perplexity"] != pytest.approx(quality["other"]["perplexity"], rel=1e-3)


def test_results_are_kept_and_compared(found: dict, folder: Path, tmp_path: Path) -> None:
    assert json.loads(Path(found["saved"]).read_text())["models"] == found["models"]
    assert Path(found["plot"]).read_bytes()[:4] == b"\x89PNG"
    (folder / "prompts.txt").write_text("Hello?\n\nWho are you?\n")
    other = ft.benchmark(
        str(folder / "other"), prompts=folder / "prompts.txt", device="cpu", rounds=1, save="fir-2", **ASKED
    )
    assert other["settings"]["questions"] == 2 and other["models"][0]["quality"] is None
    both = ft.benchmark_compare("fir*", plot=tmp_path / "both.png")
    assert [result["name"] for result in both["results"]] == ["first", "fir-2"]
    assert both["differ"] == ["rounds", "prompts"] and not both["alike"]
    assert (tmp_path / "both.png").read_bytes()[:4] == b"\x89PNG"
    assert ft.benchmark_compare("first")["alike"]


def test_a_page_for_people(found: dict, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["benchmark", "compare", "firs*"]) == 0
    page = capsys.readouterr().out
    assert "tokens/s" in page and "perplexity" in page and "tuned" in page and "other" in page


def test_nothing_is_written_over(found: dict, folder: Path) -> None:
    before = Path(found["saved"]).read_bytes()
    with pytest.raises(UsageError) as refused:
        ft.benchmark(str(folder / "tuned"), save="first")
    assert refused.value.finding.code == "benchmark.exists" and Path(found["saved"]).read_bytes() == before


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"save": "../x"}, "benchmark.name"),
        ({"requests": 0}, "benchmark.bad_value"),
        ({"concurrency": True}, "benchmark.bad_value"),
        ({"compare": ["base", "base"]}, "benchmark.twice"),
        ({"subject": "starter", "compare": ["base"]}, "benchmark.base"),
        ({"prompts": "missing.txt"}, "benchmark.no_prompts"),
        ({"prompts": "missing.jsonl"}, "data.missing"),
    ],
    ids=str,
)
def test_what_cannot_be_measured(folder: Path, options: dict, code: str) -> None:
    with pytest.raises((UsageError, InputError)) as refused:
        ft.benchmark(**{"subject": str(folder / "tuned"), **options})
    assert refused.value.finding.code == code


def test_no_result_of_that_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["benchmark", "compare", "nobody*", "--json"]) == 3
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "benchmark.none"


def test_a_file_without_a_prompt(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "empty.txt").write_text("\n \n")
    with pytest.raises(InputError) as refused:
        questions.lines(tmp_path / "empty.txt")
    assert refused.value.finding.code == "benchmark.no_prompts"
    (tmp_path / "odd.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError):
        questions.lines(tmp_path / "odd.txt")


def test_percentiles() -> None:
    times = speed.spread([value / 100 for value in range(1, 101)])
    assert times == pytest.approx({"avg": 0.505, "min": 0.01, "max": 1.0, "p50": 0.505, "p95": 0.9505, "p99": 0.9901})
    assert speed.spread([]) is None


def test_gaps_are_those_within_an_answer() -> None:
    found = Measured(seconds=2.0, timings=[Timing([0.1, 0.3], 0.3, 2, "", True), Timing([0.5], 0.6, 1, "", True)])
    figures = speed.figures(found)
    assert figures["between_tokens"]["max"] == pytest.approx(0.2) and figures["tokens_per_second"] == 1.5
    assert figures["first_token"]["avg"] == pytest.approx(np.mean([0.1, 0.5]))


def test_results_lie_in_the_home(found: dict) -> None:
    assert Path(found["saved"]).is_relative_to(paths.home())

"""Metrics of texts and of losses: by hand, against the libraries, and what must hold of any text."""

from __future__ import annotations

import math
from random import Random

import numpy as np
import pytest
import sacrebleu
from hypothesis import given, settings
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer

from truetune.evaluate.metrics import METRICS, SCORED, Words, chrf, ngrams, of_answer
from truetune.evaluate.tasks import task_of

TEXTS = st.text(alphabet="ab cdé中文ไข\n.", max_size=40)
PAIRS = st.lists(st.tuples(TEXTS, TEXTS.filter(str.strip)), min_size=1, max_size=8)


def values(answer: str, reference: str, ended: bool = True) -> dict[str, float]:
    return {name: float(METRICS[name].of(np.array(sums))) for name, sums in of_answer(answer, reference, ended).items()}


def test_by_hand() -> None:
    found = values("the cat sat", "the cat sat on the mat", ended=False)
    # Three of three words, of six: F1 = 2·1·0.5/1.5. Pairs: both of two, of five.
    assert found["rouge1"] == pytest.approx(2 / 3)
    assert found["rouge2"] == pytest.approx(2 * 1 * 0.4 / 1.4)
    assert found["rougeL"] == pytest.approx(2 / 3)
    assert found["length"] == pytest.approx(11 / 22)
    assert (found["exact_match"], found["ended"]) == (0, 0)


def test_the_longest_common_subsequence_keeps_the_order() -> None:
    found = values("mat the on sat", "sat on the mat")
    assert found["rouge1"] == 1
    assert found["rougeL"] == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("answer", "loose", "strict"),
    [
        ("A café.\nOpen", 1, 1),
        ("A cafe\u0301.  Open ", 1, 0),
        ("a café. Open", 0, 0),
        ("", 0, 0),
    ],
)
def test_exact_match(answer: str, loose: float, strict: float) -> None:
    found = values(answer, "A café.\nOpen")
    assert (found["exact_match"], found["exact_match_strict"]) == (loose, strict)


@pytest.mark.parametrize(
    "text",
    ["我们在六点关门。", "Κλείνουμε στις έξι.", "Мы закрываемся в шесть.", "छह बजे बंद", "ปิดหกโมง", "6時に閉まります"],
)
def test_other_scripts_count(text: str) -> None:
    assert RougeScorer(["rouge1"]).score(text, text)["rouge1"].fmeasure in (0, 1)  # rouge-score's own words: none, or 6
    assert values(text, text)["rouge2"] == 1
    assert len(Words().tokenize(text)) >= 3
    assert values("x y", text)["rouge1"] == 0


def test_marks_belong_to_their_letters() -> None:
    assert Words().tokenize("हिन्दी cafe\u0301 中文字 don't") == ["हिन्दी", "café", "中", "文", "字", "don", "t"]


@settings(deadline=None)
@given(st.text(alphabet=st.characters(max_codepoint=127), max_size=60))
def test_on_ascii_the_words_are_rouge_scores(text: str) -> None:
    theirs = RougeScorer(["rouge1", "rougeL"]).score(text, "the a b 1")
    ours = values("the a b 1", text)
    assert ours["rouge1"] == pytest.approx(theirs["rouge1"].fmeasure)
    assert ours["rougeL"] == pytest.approx(theirs["rougeL"].fmeasure)


@settings(max_examples=50, deadline=None)
@given(PAIRS)
def test_chrf_is_sacrebleus(pairs: list[tuple[str, str]]) -> None:
    answers, references = map(list, zip(*pairs, strict=True))
    sums = np.array([ngrams(*pair) for pair in pairs])
    assert float(chrf(sums.sum(0))) == pytest.approx(sacrebleu.corpus_chrf(answers, [references]).score)
    for row, (answer, reference) in zip(sums, pairs, strict=True):
        assert float(chrf(row)) == pytest.approx(sacrebleu.sentence_chrf(answer, [reference]).score)


@settings(deadline=None)
@given(TEXTS.filter(lambda text: len(Words().tokenize(text)) > 1))
def test_a_text_equals_itself(text: str) -> None:
    found = values(text, text)
    assert found == {name: pytest.approx(100 if name == "chrf" else 1) for name in found}


@settings(max_examples=30, deadline=None)
@given(PAIRS, st.randoms(use_true_random=False))
def test_the_order_of_rows_changes_nothing(pairs: list[tuple[str, str]], random: Random) -> None:
    rows = [of_answer(*pair, True) for pair in pairs]
    shuffled = random.sample(rows, len(rows))
    for name in set(METRICS) - set(SCORED):
        first, second = (np.array([row[name] for row in some]).sum(0) for some in (rows, shuffled))
        assert float(METRICS[name].of(first)) == pytest.approx(float(METRICS[name].of(second)))


def test_losses() -> None:
    """Two rows: 6 nats over 3 tokens and 2 over 1; the mean is over tokens, not over rows."""
    sums = np.array([[6.0, 3.0], [2.0, 1.0], [0.0, 2.0]]).sum(0)
    assert float(METRICS["loss"].of(sums)) == pytest.approx(8 / 6)
    assert float(METRICS["perplexity"].of(sums)) == pytest.approx(math.exp(8 / 6))
    assert float(METRICS["bits_per_byte"].of(np.array([8.0, 4.0]))) == pytest.approx(2 / math.log(2))
    assert math.isnan(float(METRICS["loss"].of(np.zeros(2))))
    assert math.isfinite(float(METRICS["perplexity"].of(np.array([1e6, 1.0]))))


def test_a_summarisation_is_one_whatever_its_columns_are_called() -> None:
    assert task_of("prompt_completion", "sft") == "instruction"
    assert task_of("prompt_completion", "sft", "summarisation") == "summarisation"
    assert task_of("preference", "dpo", "dpo") == "preference"

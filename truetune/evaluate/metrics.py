"""What is measured of a row, as sums that add up over rows: a metric of any set of rows is a function of their sums.

That holds for a single row, for all of them, and for every resampling of them (`intervals.py`).

loss, perplexity     mean −log p of the trained tokens in nats, and its exponential
bits_per_byte        the same in bits, over the bytes of the text: comparable between tokenizers
exact_match          share of answers equal to the reference (Unicode NFC, runs of blanks as one)
rouge1, rouge2, rougeL   F1 of shared words, word pairs, longest common subsequence (Lin 2004; rouge-score)
preference_loss      the loss of the objective that was trained, of pairs or of rated answers
reward_margin        mean reward of better answers less that of worse ones
reward_accuracy      share of pairs, or of rated answers, on their right side; a tie counts as half
chrf                 F2 of shared character n-grams, 1 to 6, summed over rows (Popović 2015; sacrebleu's chrF2)
ended                share of answers that the model ended by itself
length               characters of the answers over those of the references
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import regex
from numpy.typing import NDArray
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics.helpers import extract_all_char_ngrams

Sums = NDArray[np.float64]
"""[…, k]: k sums of a metric, for one row or for many added up."""

ORDER = 6
"""Longest character n-gram of chrF."""
BETA = 2
"""chrF: how much more recall counts than precision."""
ROUGE = ("rouge1", "rouge2", "rougeL")
UNSPACED = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"
"""Scripts that put no blanks between words: each of their characters counts as a word."""
WORDS = regex.compile(rf"(?V1)[{UNSPACED}]\p{{M}}*|[[\p{{L}}\p{{M}}\p{{N}}]--[{UNSPACED}]]+")


@dataclass(frozen=True)
class Metric:
    """`of` turns sums into values; `better` is which way is good, empty where neither is."""

    title: str
    of: Callable[[Sums], NDArray[np.float64]]
    better: Literal["higher", "lower", ""]
    share: bool = False
    """Whether every row counts as 0 or 1."""
    width: int = 2


def ratio(sums: Sums) -> NDArray[np.float64]:
    """(a, b) to a / b; NaN where there is nothing to divide by."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(sums[..., 1] > 0, sums[..., 0] / sums[..., 1], np.nan)


def perplexity(sums: Sums) -> NDArray[np.float64]:
    """exp of the loss, as far as a float reaches."""
    return np.asarray(np.exp(np.minimum(ratio(sums), 700.0)))


def bits(sums: Sums) -> NDArray[np.float64]:
    return np.asarray(ratio(sums) / np.log(2))


def chrf(sums: Sums) -> NDArray[np.float64]:
    """chrF of n-gram counts: for each order those of the answer, of the reference, and those in both.

    Precision and recall are means over the orders that both texts are long enough for (Popović 2015, as sacrebleu
    counts); 0 to 100, NaN without a reference.
    """
    answer, reference, both = np.moveaxis(sums.reshape(*sums.shape[:-1], ORDER, 3), -1, 0)
    usable = (answer > 0) & (reference > 0)
    orders = np.maximum(usable.sum(-1), 1)
    precision = np.where(usable, both / np.maximum(answer, 1), 0).sum(-1) / orders
    recall = np.where(usable, both / np.maximum(reference, 1), 0).sum(-1) / orders
    shared = BETA**2 * precision + recall
    score = 100 * (1 + BETA**2) * precision * recall / np.where(shared > 0, shared, 1)
    return np.where(reference[..., 0] > 0, score, np.nan)


def apart(sums: Sums) -> NDArray[np.float64]:
    """(a, b, c, d) to a / b − c / d."""
    return np.asarray(ratio(sums[..., :2]) - ratio(sums[..., 2:]))


METRICS: Mapping[str, Metric] = {
    "preference_loss": Metric("preference loss", ratio, "lower"),
    "reward_margin": Metric("reward margin", apart, "higher", width=4),
    "reward_accuracy": Metric("told apart", ratio, "higher", share=True),
    "loss": Metric("loss", ratio, "lower"),
    "perplexity": Metric("perplexity", perplexity, "lower"),
    "bits_per_byte": Metric("bits per byte", bits, "lower"),
    "exact_match": Metric("exact match", ratio, "higher", share=True),
    "exact_match_strict": Metric("exact match, strict", ratio, "higher", share=True),
    "rouge1": Metric("ROUGE-1", ratio, "higher"),
    "rouge2": Metric("ROUGE-2", ratio, "higher"),
    "rougeL": Metric("ROUGE-L", ratio, "higher"),
    "chrf": Metric("chrF", chrf, "higher", width=3 * ORDER),
    "ended": Metric("ends by itself", ratio, "higher", share=True),
    "length": Metric("length / reference", ratio, ""),
}
SCORED = ("preference_loss", "reward_margin", "reward_accuracy", "loss", "perplexity", "bits_per_byte")
"""What needs no answers."""


class Words:
    """rouge-score's tokenizer for any script. On ASCII it gives what rouge-score's own gives, which drops the rest."""

    def tokenize(self, text: str) -> list[str]:
        return list(WORDS.findall(unicodedata.normalize("NFC", text).lower()))


SCORER = RougeScorer(list(ROUGE), tokenizer=Words())


def of_answer(answer: str, reference: str, ended: bool) -> dict[str, list[float]]:
    """Sums of every metric of one answer."""
    rouge: Any = SCORER.score(reference, answer)
    return {
        "exact_match": [float(normal(answer) == normal(reference)), 1.0],
        "exact_match_strict": [float(answer == reference), 1.0],
        **{name: [float(rouge[name].fmeasure), 1.0] for name in ROUGE},
        "chrf": ngrams(answer, reference),
        "ended": [float(ended), 1.0],
        "length": [float(len(answer)), float(len(reference))],
    }


def normal(text: str) -> str:
    return " ".join(unicodedata.normalize("NFC", text).split())


def ngrams(answer: str, reference: str) -> list[float]:
    """For each order: n-grams of the answer (none where the reference has none), of the reference, and in both."""
    counts: list[float] = []
    pairs = zip(extract_all_char_ngrams(answer, ORDER), extract_all_char_ngrams(reference, ORDER), strict=True)
    for ours, theirs in pairs:
        both: Counter[str] = ours & theirs
        counts += [float(ours.total() if theirs else 0), float(theirs.total()), float(both.total())]
    return counts

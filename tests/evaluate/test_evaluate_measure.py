"""Rows and what two sides make of them, over a decoder whose every number is known."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from truetune.data.example import Example
from truetune.data.formats import SHAPES
from truetune.engines.base import OutOfMemory
from truetune.engines.decoder import Sampling, Token
from truetune.errors import InputError, ResourceError, UsageError
from truetune.evaluate import confusion, measure, results, tasks
from truetune.evaluate.material import Material, gather, spread
from truetune.evaluate.metrics import METRICS
from truetune.evaluate.subject import Subject, find_subject
from truetune.evaluate.voice import Voice

ROWS = [
    {
        "messages": [
            {"role": "user", "content": "Where is the shop?"},
            {"role": "assistant", "content": "In the old mill."},
            {"role": "user", "content": "When does it close?"},
            {"role": "assistant", "content": "At six."},
        ]
    },
    *({"messages": [{"role": "user", "content": q}, {"role": "assistant", "content": "At six."}]} for q in "abcde"),
]


class Known:
    """Finds every token equally likely, and answers each prompt with one sentence."""

    context = 120
    slots = 2
    memory = 10**6
    """Tokens that fit."""

    def __init__(self, subject: Subject, sentence: str, likely: float) -> None:
        self.ids = [*subject.tokenizer.encode(sentence), subject.tokenizer.eos_ids[0]]
        self.likely, self.asked = likely, 0
        self.rows: dict[int, int] = {}

    def admit(self, ids: Sequence[int], adapter: str | None, sampling: Sampling) -> int:
        assert len(ids) < self.context and len(self.rows) < self.slots
        if self.memory < 100:
            raise OutOfMemory
        self.asked += 1
        self.rows[self.asked] = 0
        return self.asked

    def decode(self) -> list[Token]:
        tokens = [
            Token(slot, self.ids[at], "stop" if at + 1 == len(self.ids) else "") for slot, at in self.rows.items()
        ]
        self.rows = {token.slot: self.rows[token.slot] + 1 for token in tokens if not token.reason}
        return tokens

    def release(self, slot: int) -> None:
        self.rows.pop(slot, None)

    def score(self, examples: Sequence[Example], adapter: str | None) -> list[NDArray[np.float32]]:
        if sum(example.tokens for example in examples) > self.memory:
            raise OutOfMemory
        return [np.full(example.tokens, math.log(self.likely), np.float32) for example in examples]

    def close(self) -> None: ...


@pytest.fixture
def rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TRUETUNE_HOME", str(tmp_path / "home"))
    return write(tmp_path / "rows.jsonl", ROWS)


def write(path: Path, some: Sequence[object]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in some))
    return path


@pytest.fixture
def voice(tmp_path: Path) -> Iterator[Voice]:
    """The starter, said to be fully fine-tuned: base and tuned are two decoders."""
    base = find_subject("starter")
    subject = Subject(base.name, base.base, base.tokenizer, base.template, model=tmp_path)
    with Voice(subject, device="cpu", slots=2) as opened:
        opened.decoders = {False: Known(base, "At nine.", 0.25), True: Known(base, "At six.", 0.5)}
        yield opened


def gathered(voice: Voice, path: Path, limit: int | None = None) -> Material:
    return gather(voice.subject, [str(path)], limit)


def test_a_row_is_asked_up_to_its_last_answer(voice: Voice, rows: Path) -> None:
    found = gathered(voice, rows)
    assert found.task == "chat"
    assert [item.where.rpartition("/")[2] for item in found.items] == [f"rows.jsonl:{line}" for line in range(1, 7)]
    first = found.items[0]
    assert [turn["content"] for turn in first.messages] == [turn["content"] for turn in ROWS[0]["messages"][:3]]
    assert (first.question, first.reference) == ("When does it close?", "At six.")
    assert first.examples[0].supervised > found.items[1].examples[0].supervised  # both answers reach the loss
    assert found.data["contaminated"] is None


def test_two_sides_of_the_same_rows(voice: Voice, rows: Path) -> None:
    found = gathered(voice, rows)
    heard: list[tuple[str, str, int]] = []
    measured = measure.sides(
        voice, found, voice.sampling(), lambda kind, one: heard.append((kind, one["side"], one["done"]))
    )
    document = results.document(voice, found, voice.sampling(), measured, [])
    figures = document["figures"]
    assert figures["loss"]["base"]["value"] == pytest.approx(math.log(4))
    assert figures["perplexity"]["tuned"]["value"] == pytest.approx(2)
    assert (figures["exact_match"]["base"]["value"], figures["exact_match"]["tuned"]["value"]) == (0, 1)
    assert figures["rouge1"]["base"]["value"] == pytest.approx(0.5)
    assert (figures["ended"]["tuned"]["value"], figures["chrf"]["tuned"]["value"]) == (1, pytest.approx(100))
    assert {figure["verdict"] for figure in figures.values()} == {"better", "same", "lower"}
    assert document["order"] == list(figures)
    assert document["rows"][3]["tuned"]["answer"] == "At six."
    assert heard[-1] == ("answer", "tuned", 6) and ("score", "base", 6) in heard


def test_without_answers(voice: Voice, rows: Path) -> None:
    found = gathered(voice, rows)
    measured = measure.sides(voice, found, None, lambda kind, one: None)
    document = results.document(voice, found, None, measured, [])
    assert set(document["figures"]) == {"loss", "perplexity"}
    assert document["settings"]["generate"] is False
    assert "answer" not in document["rows"][0]["base"]


def test_what_the_memory_does_not_hold_together_is_scored_apart(voice: Voice, rows: Path) -> None:
    found = gathered(voice, rows)
    whole = measure.score(voice, found, True, lambda kind, done: None)
    longest = max(example.tokens for item in found.items for example in item.examples)
    voice.decoders[True].memory = longest  # type: ignore[attr-defined]
    assert (measure.score(voice, found, True, lambda kind, done: None)["loss"] == whole["loss"]).all()
    voice.decoders[True].memory = longest - 1  # type: ignore[attr-defined]
    with pytest.raises(ResourceError) as error:
        measure.score(voice, found, True, lambda kind, done: None)
    assert (error.value.finding.code, error.value.exit_code) == ("memory.example_too_long", 4)
    assert str(longest) in error.value.finding.message
    with pytest.raises(ResourceError) as error:
        measure.answer(voice, found.items, voice.sampling(), True, lambda kind, done: None)
    assert error.value.finding.code == "memory.slots"


def test_weights_of_tokens_count(voice: Voice, rows: Path) -> None:
    """A token of weight 0.5 counts half, in the loss and under the line."""
    found = gathered(voice, rows)
    (example,) = found.items[1].examples
    example.weights[example.weights > 0] = 0.5
    sums = measure.score(voice, found, False, lambda kind, done: None)["loss"][1]
    assert sums.tolist() == pytest.approx([example.supervised * 0.5 * math.log(4), example.supervised * 0.5])


def test_what_fills_the_context_is_not_asked(voice: Voice, rows: Path) -> None:
    long = {"messages": [{"role": "user", "content": "why " * 200}, {"role": "assistant", "content": "At six."}]}
    found = gathered(voice, write(rows, [*ROWS, long]))
    measured = measure.sides(voice, found, voice.sampling(), lambda kind, one: None)
    assert measured["base"].replies[6] is None
    document = results.document(voice, found, voice.sampling(), measured, [])
    assert document["figures"]["exact_match"]["tuned"]["value"] == 1  # of six
    told = measure.warnings(voice, found, voice.sampling(max_new_tokens=1), measured)
    assert told == [
        "7 references are longer than the 1 tokens that an answer may have",
        "1 prompt fills the model's context and was not answered",
    ]


def test_texts_have_bits_per_byte_and_no_answers(voice: Voice, tmp_path: Path, rows: Path) -> None:
    path = tmp_path / "texts.txt"
    path.write_text("Ölwechsel im März\nbikes and bells\n")
    found = gathered(voice, path)
    measured = measure.sides(voice, found, voice.sampling(), lambda kind, one: None)
    figures = results.document(voice, found, voice.sampling(), measured, [])["figures"]
    assert set(figures) == {"loss", "perplexity", "bits_per_byte"}
    bits = 2 * sum(example.supervised for item in found.items for example in item.examples)
    firsts = [voice.subject.tokenizer.decode([int(item.examples[0].ids[0])]) for item in found.items]
    assert firsts[0] == "\N{REPLACEMENT CHARACTER}"  # the first of the two bytes of Ö
    predicted = len("Ölwechsel im März".encode()) - 1 + len("bikes and bells") - len(firsts[1])
    assert figures["bits_per_byte"]["base"]["value"] == pytest.approx(bits / predicted)


def test_a_model_without_a_run_must_be_told_the_rows() -> None:
    with pytest.raises(UsageError) as error:
        gather(find_subject("starter"), [])
    assert error.value.finding.code == "evaluate.no_data"


def test_one_that_learned_texts_is_not_asked_questions(voice: Voice, rows: Path) -> None:
    base = voice.subject
    reader = Subject(base.name, base.base, base.tokenizer, None, model=base.model)
    with pytest.raises(UsageError) as error:
        gather(reader, [str(rows)])
    assert error.value.finding.code == "evaluate.texts"


@pytest.mark.parametrize(
    ("total", "limit", "expected"), [(4, None, [0, 1, 2, 3]), (4, 9, [0, 1, 2, 3]), (9, 3, [0, 3, 6])]
)
def test_a_limit_takes_rows_from_all_over(total: int, limit: int | None, expected: list[int]) -> None:
    assert spread(list(range(total)), limit) == expected


def test_every_shape_has_a_task_and_every_task_its_first_figures() -> None:
    assert set(tasks.TASKS) <= set(SHAPES)
    for shape in SHAPES:
        assert set(tasks.FIRST[tasks.task_of(shape)]) <= {*METRICS, *confusion.METRICS}
    assert tasks.order("summarisation", ["loss", "perplexity", "chrf", "rouge1", "rouge2", "rougeL"])[:3] == [
        "rouge1",
        "rouge2",
        "rougeL",
    ]


def test_summaries_are_told_by_their_columns(voice: Voice, tmp_path: Path, rows: Path) -> None:
    path = tmp_path / "days.csv"
    path.write_text("text,summary\n" + "".join(f"On day {n} it rained.,Rain.\n" for n in range(6)))
    found = gathered(voice, path)
    assert found.task == "summarisation"
    assert found.items[2].question == "Summarise this text:\n\nOn day 2 it rained."


def test_columns_of_other_names(voice: Voice, tmp_path: Path, rows: Path) -> None:
    path = write(tmp_path / "fragen.jsonl", [{"frage": f"Was ist {n}?", "antwort": "Eins."} for n in range(6)])
    found = gather(voice.subject, [str(path)], columns={"prompt": "frage", "response": "antwort"})
    assert (found.items[2].question, found.items[2].reference) == ("Was ist 2?", "Eins.")
    for columns in (None, {"prompt": "frage", "response": "antwrt"}, {"promt": "frage", "response": "antwort"}):
        with pytest.raises(InputError) as error:
            gather(voice.subject, [str(path)], columns=columns)
        said = error.value.finding
        assert said.where == str(path) and "--columns prompt=" in said.hint


@pytest.mark.parametrize(
    ("trained", "rows", "words"),
    [
        (1, 1, "this row was trained on: it is not held out"),
        (1, 4, "1 of these 4 rows was trained on: it is not held out"),
        (2, 4, "2 of these 4 rows were trained on: they are not held out"),
    ],
)
def test_one_row_is_spoken_of_as_one(trained: int, rows: int, words: str) -> None:
    assert measure.learned(trained, rows) == words

"""The contract suite of generation: any decoder must pass it, with pytest.

class TestMine(DecoderContract):
    @pytest.fixture(params=["llama", "gemma2"])
    def folder(self, request, tmp_path): ...             # a tiny model's folder, at least 16 tokens of context

    @pytest.fixture
    def adapters(self, folder, tmp_path): ...            # three adapters of it that change its answers much

    def open(self, spec): ...                            # a decoder

It needs no oracle: `score` and `decode` are held against each other, and a row in a crowd against the row alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from truetune.data.example import Example
from truetune.engines.decoder import Decoder, DecoderSpec, Full, Sampling, Token
from truetune.errors import InputError, UsageError
from truetune.testing.contract import VOCAB

SLOTS = 4
NAMES = ("first", "second", "third")


@dataclass(frozen=True)
class Ask:
    """A prompt, its adapter and how to go on."""

    ids: Sequence[int]
    adapter: str | None = None
    sampling: Sampling = field(default_factory=lambda: Sampling(max_new_tokens=8))


def asks(count: int = 9, *, seed: int = 0, adapters: Sequence[str | None] = (None,), **sampling: float) -> list[Ask]:
    """Prompts of ragged length, from a single token on, and answers of ragged length."""
    rng = np.random.default_rng(seed)
    made = []
    for row in range(count):
        size = 1 if row == 1 else int(rng.integers(2, 40))
        choice = Sampling(max_new_tokens=int(rng.integers(1, 12)), seed=row, **sampling)  # type: ignore[arg-type]
        made.append(Ask(rng.integers(0, VOCAB, size).tolist(), adapters[row % len(adapters)], choice))
    return made


def answer(decoder: Decoder, ask: Ask) -> list[int]:
    """The tokens of one row that has the decoder to itself."""
    decoder.admit(ask.ids, ask.adapter, ask.sampling)
    tokens = decoder.decode()
    while not tokens[-1].reason:
        tokens += decoder.decode()
    return [token.id for token in tokens]


def crowd(decoder: Decoder, rows: Sequence[Ask]) -> list[list[int]]:
    """The tokens of all rows: one joins before every step while there is room, and each leaves when it ends."""
    waiting = list(range(len(rows)))[::-1]
    here: dict[int, int] = {}
    found: list[list[int]] = [[] for _ in rows]
    while waiting or here:
        if waiting and len(here) < decoder.slots:
            row = waiting.pop()
            here[decoder.admit(rows[row].ids, rows[row].adapter, rows[row].sampling)] = row
        for token in decoder.decode():
            found[here[token.slot]].append(token.id)
            if token.reason:
                del here[token.slot]
    return found


def text(ids: Sequence[int]) -> Example:
    return Example(np.asarray(ids, np.int32), np.r_[np.float32(0), np.ones(len(ids) - 1, np.float32)], 0)


def chances(decoder: Decoder, ids: Sequence[int], adapter: str | None = None) -> NDArray[np.float64]:
    """The probability of every token after a prompt, by `score`."""
    scored = decoder.score([text([*ids, token]) for token in range(VOCAB)], adapter)
    return np.exp(np.array([row[-1] for row in scored], np.float64))


def loaded(decoder: Decoder, folders: Sequence[Path]) -> Decoder:
    for name, folder in zip(NAMES, folders, strict=True):
        decoder.load(name, folder)
    return decoder


def likely(drawn: NDArray[np.int64], expected: NDArray[np.float64]) -> bool:
    """Pearson's chi-square test, tokens joined until each bin expects at least five: false once in 10 000 good draws.

    The bound is Wilson and Hilferty's (1931) approximation, at 3.72 standard deviations.
    """
    bins: list[tuple[float, float]] = [(0.0, 0.0)]
    for seen, hoped in zip(drawn, expected * drawn.sum(), strict=True):
        bins[-1] = bins[-1][0] + float(seen), bins[-1][1] + float(hoped)
        if bins[-1][1] >= 5:
            bins.append((0.0, 0.0))
    rest = bins.pop()
    bins[-1] = bins[-1][0] + rest[0], bins[-1][1] + rest[1]
    free = len(bins) - 1
    square = sum((seen - hoped) ** 2 / hoped for seen, hoped in bins)
    spread = 2 / (9 * free)
    return square < free * float(1 - spread + 3.72 * spread**0.5) ** 3


class Only:
    """A constraint that lets through one token after another."""

    def __init__(self, tokens: Sequence[int]) -> None:
        self.tokens = list(tokens)

    def allowed(self) -> NDArray[np.bool_]:
        found = np.zeros(VOCAB, np.bool_)
        found[self.tokens[0]] = True
        return found

    def take(self, token: int) -> None:
        assert token == self.tokens.pop(0)


class DecoderContract:
    """Every promise of `Decoder`, over tiny models of `VOCAB` tokens. Subclasses say how to open one."""

    def open(self, spec: DecoderSpec) -> Decoder:
        raise NotImplementedError

    @pytest.fixture
    def decoder(self, folder: Path) -> Decoder:
        return self.open(DecoderSpec(folder, slots=SLOTS))

    def test_a_row_in_a_crowd_is_the_row_alone(self, decoder: Decoder) -> None:
        """Whoever joins, leaves or takes over a slot: greedy tokens stay."""
        rows = asks()
        assert crowd(decoder, rows) == [answer(decoder, row) for row in rows]

    def test_draws_stay_too(self, decoder: Decoder) -> None:
        rows = asks(temperature=1.0, top_p=0.9)
        together = crowd(decoder, rows)
        assert together == [answer(decoder, row) for row in rows]
        other = [replace(row, sampling=replace(row.sampling, seed=99)) for row in rows]
        assert crowd(decoder, other) != together

    def test_greedy_takes_what_score_calls_likeliest(self, decoder: Decoder) -> None:
        ask = asks()[0]
        found = answer(decoder, replace(ask, sampling=Sampling(max_new_tokens=4)))
        for place, token in enumerate(found):
            expected = chances(decoder, [*ask.ids, *found[:place]])
            assert expected[token] > expected.max() * 0.999
            assert np.isclose(expected.sum(), 1, atol=1e-4)

    @pytest.mark.parametrize("limits", [{}, {"top_k": 20}, {"top_p": 0.6}, {"temperature": 0.5, "top_k": 40}])
    def test_draws_follow_the_distribution(self, decoder: Decoder, limits: dict[str, float]) -> None:
        """A few hundred first tokens against the probabilities by `score`, cut as the limits say."""
        settings: dict[str, float] = {"temperature": 1.0, "top_k": 0, "top_p": 1.0} | limits
        ids = asks()[0].ids
        expected = chances(decoder, ids) ** (1 / settings["temperature"])
        order = np.argsort(-expected)
        expected[order[int(settings["top_k"]) or VOCAB :]] = 0
        expected /= expected.sum()
        expected[order[np.cumsum(expected[order]) - expected[order] >= settings["top_p"]]] = 0
        expected /= expected.sum()
        drawn = np.zeros(VOCAB, np.int64)
        for seed in range(0, 600, SLOTS):
            for extra in range(SLOTS):
                decoder.admit(ids, None, Sampling(max_new_tokens=1, seed=seed + extra, **settings))  # type: ignore[arg-type]
            np.add.at(drawn, [token.id for token in decoder.decode()], 1)
        assert not drawn[expected == 0].any()
        assert likely(drawn[expected > 0], expected[expected > 0])

    def test_scores_do_not_depend_on_their_neighbours(self, decoder: Decoder) -> None:
        texts = [text(ask.ids) for ask in asks()]
        for example, row in zip(texts, decoder.score(texts, None), strict=True):
            assert row.shape == example.ids.shape
            assert row.dtype == np.float32
            assert row[0] == 0
            assert np.allclose(row, decoder.score([example], None)[0], atol=1e-5)

    def test_rows_end(self, decoder: Decoder) -> None:
        """By a stop token, by their length, by the context; and say why."""
        ids = asks()[0].ids
        free = answer(decoder, Ask(ids))
        assert len(free) == 8
        stopped = Sampling(max_new_tokens=8, stops=frozenset([free[3]]))
        cut = free[: free.index(free[3]) + 1]
        assert answer(decoder, Ask(ids, None, stopped)) == cut
        decoder.admit(ids, None, replace(stopped, max_new_tokens=len(cut)))
        assert [token.reason for _ in cut for token in decoder.decode()] == [""] * (len(cut) - 1) + ["stop"]
        long = (list(ids) * decoder.context)[: decoder.context - 3]
        assert len(answer(decoder, Ask(long, None, Sampling(max_new_tokens=50)))) == 3
        assert decoder.decode() == []

    def test_a_prompt_needs_room(self, decoder: Decoder) -> None:
        with pytest.raises(UsageError) as error:
            decoder.admit([1] * decoder.context, None, Sampling())
        assert error.value.finding.code == "generation.too_long"
        assert [token.reason for token in self.last(decoder, [1] * (decoder.context - 1))] == ["length"]

    def last(self, decoder: Decoder, ids: Sequence[int]) -> list[Token]:
        decoder.admit(ids, None, Sampling())
        return decoder.decode()

    def test_slots_are_few_and_come_back(self, decoder: Decoder) -> None:
        rows = [replace(ask, sampling=Sampling(max_new_tokens=9)) for ask in asks(SLOTS + 1)]
        slots = [decoder.admit(row.ids, None, row.sampling) for row in rows[:SLOTS]]
        assert sorted(slots) == list(range(SLOTS))
        with pytest.raises(Full):
            decoder.admit([1], None, Sampling())
        found = [decoder.decode() for _ in range(3)]
        decoder.release(slots[1])
        assert decoder.admit(rows[-1].ids, None, rows[-1].sampling) == slots[1]
        found += [decoder.decode() for _ in range(6)]
        for row in (0, 2, 3):
            alone = [token.id for step in found for token in step if token.slot == slots[row]]
            assert alone == answer(self.cleared(decoder), rows[row])
        assert answer(decoder, rows[-1])[:6] == [t.id for step in found[3:] for t in step if t.slot == slots[1]]

    def test_prompts_read_in_parts_give_the_same_tokens(self, folder: Path) -> None:
        """With `most`, rows that go on get a token in every call while a long prompt is read beside them."""
        decoder = self.open(DecoderSpec(folder, slots=SLOTS, chunk=4))
        rows = [Ask(ask.ids[:3], None, Sampling(max_new_tokens=16)) for ask in asks(3)]
        expected = [answer(decoder, row) for row in rows]
        long = Ask(list(range(1, 40)), None, Sampling(max_new_tokens=2))
        expected.append(answer(decoder, long))
        slots = [decoder.admit(row.ids, None, row.sampling) for row in rows]
        found: dict[int, list[int]] = {slot: [] for slot in slots}
        while not all(found.values()):
            for token in decoder.decode(4):
                found[token.slot].append(token.id)
        slots.append(decoder.admit(long.ids, None, long.sampling))
        found[slots[-1]] = []
        calls = 0
        while not found[slots[-1]]:
            step = decoder.decode(4)
            calls += 1
            assert {slot for slot in slots[:-1] if len(found[slot]) < 16} <= {token.slot for token in step}
            for token in step:
                found[token.slot].append(token.id)
        assert calls >= 8
        while step := decoder.decode(4):
            for token in step:
                found[token.slot].append(token.id)
        assert [found[slot] for slot in slots] == expected

    def test_answers_to_one_prompt(self, decoder: Decoder) -> None:
        """Forked rows say what rows of their own would; giving one up leaves the others, the first one too."""
        ids = asks()[0].ids
        drawn = [Sampling(temperature=1.0, seed=seed, max_new_tokens=6) for seed in range(SLOTS)]
        expected = [answer(decoder, Ask(ids, None, one)) for one in drawn]
        for given_up in (None, 0, 2):
            first = decoder.admit(ids, None, drawn[0])
            slots = [first, *(decoder.fork(first, one) for one in drawn[1:])]
            if given_up is not None:
                decoder.release(slots[given_up])
            found: dict[int, list[int]] = {slot: [] for slot in slots}
            while step := decoder.decode():
                for token in step:
                    found[token.slot].append(token.id)
            hoped = [[] if place == given_up else one for place, one in enumerate(expected)]
            assert [found[slot] for slot in slots] == hoped
        begun = decoder.admit(ids, None, drawn[0])
        decoder.decode()
        with pytest.raises(ValueError):
            decoder.fork(begun, drawn[1])

    def test_log_probabilities_are_those_of_score(self, folder: Path) -> None:
        """Of the answer and of the prompt, with the likeliest tokens; whatever is done to the logits before a draw."""
        decoder = self.open(DecoderSpec(folder, slots=SLOTS, chunk=5))
        for ids in (asks()[0].ids, asks()[1].ids):
            sampling = Sampling(
                temperature=2.0, top_k=9, presence_penalty=1.0, max_new_tokens=4, logprobs=3, prompt_logprobs=2
            )
            decoder.admit(ids, None, sampling)
            said = [token for _ in range(4) for token in decoder.decode()]
            (expected,) = decoder.score([text([*ids, *(token.id for token in said)])], None)
            scores = [*said[0].prompt, *(token.scored for token in said)]
            assert scores[0] is None
            assert [len(token.prompt) for token in said] == [len(ids), 0, 0, 0]
            assert np.allclose([one.logprob for one in scores[1:] if one], expected[1:], atol=1e-4)
            for place, one in enumerate(scores[1:], 1):
                assert one is not None
                assert len(one.top) == (2 if place < len(ids) else 3)
                assert [value for _, value in one.top] == sorted((value for _, value in one.top), reverse=True)
                assert one.top[0][1] >= one.logprob
        whole = chances(decoder, ids)
        decoder.admit(ids, None, Sampling(max_new_tokens=1, logprobs=1))
        (token,) = decoder.decode()
        assert token.scored is not None
        assert token.scored.top == ((token.id, token.scored.logprob),)
        assert np.isclose(np.exp(token.scored.logprob), whole.max(), rtol=1e-3)

    def test_settings_change_what_is_said(self, decoder: Decoder) -> None:
        """A bias, the penalties, an end that may not come yet, and a constraint."""
        ids = asks()[0].ids
        free = answer(decoder, Ask(ids))
        assert answer(decoder, Ask(ids, None, Sampling(max_new_tokens=3, bias=((7, 1e4),)))) == [7, 7, 7]
        once = Sampling(max_new_tokens=3, bias=((7, 1e4),), presence_penalty=2e4)
        assert answer(decoder, Ask(ids, None, once)).count(7) == 1
        twice = Sampling(max_new_tokens=4, bias=((7, 3e4),), frequency_penalty=2e4)
        assert answer(decoder, Ask(ids, None, twice)).count(7) == 2
        repeated = Sampling(max_new_tokens=8, repetition_penalty=1e6)
        assert not {*answer(decoder, Ask(free * 3, None, repeated))} & {*free}
        early = Sampling(max_new_tokens=5, stops=frozenset(free[:1]))
        assert answer(decoder, Ask(ids, None, early)) == free[:1]
        late = answer(decoder, Ask(ids, None, replace(early, min_new_tokens=3)))
        assert len(late) >= 3 and free[0] not in late[:2]
        likeliest = Sampling(temperature=1.0, min_p=1.0, max_new_tokens=8)
        assert answer(decoder, Ask(ids, None, likeliest)) == free
        slot = decoder.admit(ids, None, Sampling(max_new_tokens=4), Only((3, 5, 9, 3)))
        assert [token.id for _ in range(4) for token in decoder.decode() if token.slot == slot] == [3, 5, 9, 3]

    def cleared(self, decoder: Decoder) -> Decoder:
        while decoder.decode():
            pass
        return decoder

    def test_adapters_side_by_side(self, decoder: Decoder, adapters: Sequence[Path]) -> None:
        """Rows of three adapters and of the base in one batch: each as if it were alone; and all of them differ."""
        loaded(decoder, adapters)
        rows = asks(12, adapters=[*NAMES, None])
        assert crowd(decoder, rows) == [answer(decoder, row) for row in rows]
        example = text(rows[0].ids)
        scores = [decoder.score([example], name)[0] for name in (*NAMES, None)]
        assert all(np.abs(one - other).max() > 0.1 for one, other in combinations(scores, 2))

    def test_scores_of_an_adapter_are_those_of_its_answers(self, decoder: Decoder, adapters: Sequence[Path]) -> None:
        loaded(decoder, adapters)
        ids = asks()[0].ids
        for name in (NAMES[0], None):
            (token,) = answer(decoder, Ask(ids, name, Sampling(max_new_tokens=1)))
            expected = chances(decoder, ids, name)
            assert expected[token] > expected.max() * 0.999

    def test_adapters_come_and_go(self, decoder: Decoder, adapters: Sequence[Path]) -> None:
        ids, plain = asks()[0].ids, answer(decoder, asks()[0])
        before = {name: answer(loaded(decoder, adapters), Ask(ids, name)) for name in NAMES}
        decoder.load(NAMES[0], adapters[1])
        assert answer(decoder, Ask(ids, NAMES[0])) == before[NAMES[1]]
        decoder.drop(NAMES[1])
        assert answer(decoder, Ask(ids, NAMES[2])) == before[NAMES[2]]
        assert answer(decoder, asks()[0]) == plain
        for call in (lambda: decoder.drop(NAMES[1]), lambda: decoder.admit(ids, NAMES[1], Sampling())):
            with pytest.raises(KeyError):
                call()
        decoder.admit(ids, NAMES[2], Sampling())
        with pytest.raises(ValueError):
            decoder.drop(NAMES[2])

    def test_a_folder_without_an_adapter_is_said(self, decoder: Decoder, tmp_path: Path) -> None:
        (tmp_path / "nothing").mkdir()
        with pytest.raises(InputError) as error:
            decoder.load("nothing", tmp_path / "nothing")
        assert error.value.finding.code == "adapter.missing"

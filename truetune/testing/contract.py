"""The contract suite: any engine must pass it, with pytest.

class TestMine(EngineContract):
    @pytest.fixture(params=["llama", "gemma2"])
    def folder(self, request, tmp_path): ...   # a tiny model's folder

    def open(self, spec): ...                  # an engine
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from truetune.data.example import Example
from truetune.engines.base import EngineSpec, Method, Objective, Optimizer, StepResult, TrainEngine, snapshot

VOCAB = 320
LORA = Method(type="lora", r=4, alpha=8, dropout=0.0)
LR = 5e-3


def examples(count: int = 6, *, seed: int = 0, longest: int = 40) -> list[Example]:
    """Examples of random length and random tokens; about half of the tokens supervised, some with weight 0.5."""
    rng = np.random.default_rng(seed)
    made = []
    for row in range(count):
        size = int(rng.integers(3, longest))
        weights = rng.choice([0.0, 0.5, 1.0, 1.0], size).astype(np.float32)
        weights[0], weights[-1] = 0, 1
        made.append(Example(rng.integers(0, VOCAB, size).astype(np.int32), weights, row))
    return made


def pairs(count: int = 6, *, seed: int = 0, longest: int = 40) -> list[Example]:
    """Preference pairs: a prompt of random tokens with two answers, both supervised whole."""
    rng = np.random.default_rng([seed, 1])
    made = []
    for row in range(count):
        prompt, *answers = (rng.integers(0, VOCAB, int(rng.integers(2, longest // 2))) for _ in range(3))
        texts = [np.concatenate([prompt, answer]) for answer in answers]
        weights = [np.arange(len(text)) >= len(prompt) for text in texts]
        ids, weight = np.concatenate(texts).astype(np.int32), np.concatenate(weights).astype(np.float32)
        made.append(Example(ids, weight, row, second=len(texts[0])))
    return made


def rated(count: int = 6, *, seed: int = 0, longest: int = 40) -> list[Example]:
    """Good and bad answers in turn, each with the answer of the row before as its contrast."""
    texts = [part for pair in pairs(count, seed=seed, longest=longest) for part in apart(pair)][:count]
    asked = [int(text.weights.argmax()) for text in texts]
    made = []
    for row, text in enumerate(texts):
        prompt, other = slice(0, asked[row]), slice(asked[row - 1], None)
        ids = np.concatenate([text.ids[prompt], texts[row - 1].ids[other]])
        weights = np.concatenate([text.weights[prompt], texts[row - 1].weights[other]])
        made.append(replace(text, row=row, label=(row % 2,), contrast=Example(ids, weights, row)))
    return made


def apart(pair: Example) -> list[Example]:
    """Both texts of a pair by themselves."""
    return [Example(pair.ids[part], pair.weights[part], pair.row) for part in pair.texts]


def referenced(engine: TrainEngine, rows: list[Example]) -> list[Example]:
    """The rows, and their contrasts, with what the model before training thinks of them."""
    table = engine.scores(engine.prepare(rows), base=True)
    return [
        replace(
            row,
            reference=tuple(values),
            contrast=row.contrast and referenced(engine, [row.contrast])[0],
        )
        for row, values in zip(rows, table.tolist(), strict=True)
    ]


class EngineContract:
    """Every promise of `TrainEngine`, over tiny models. Subclasses say how to open an engine."""

    def open(self, spec: EngineSpec) -> TrainEngine:
        raise NotImplementedError

    def engine(self, folder: Path, **changes: object) -> TrainEngine:
        return self.open(replace(EngineSpec(model=folder, method=LORA, token_budget=64), **changes))  # type: ignore[arg-type]

    def train(self, engine: TrainEngine, steps: range = range(4)) -> list[StepResult]:
        return [engine.step(engine.prepare(examples(seed=step)), LR) for step in steps]

    def test_the_cut_changes_nothing(self, folder: Path) -> None:
        """Packed = one by one: losses, gradient norms, and what is learned."""
        alone = self.train(self.engine(folder, token_budget=1))
        together = self.train(self.engine(folder, token_budget=10_000))
        for one, other in zip(alone, together, strict=True):
            assert np.isclose(one.loss, other.loss, rtol=1e-5)
            assert np.isclose(one.grad_norm, other.grad_norm, rtol=1e-4)
            assert (one.tokens, one.supervised) == (other.tokens, other.supervised)

    def test_the_loss_is_a_mean_over_the_step(self, folder: Path) -> None:
        """Weighted by tokens over the whole step, not a mean of means; a token of weight 0 does not count."""
        engine = self.engine(folder)
        rows = examples(5)
        parts = [engine.loss(engine.prepare([row])) for row in rows]
        whole = engine.loss(engine.prepare(rows))
        assert np.isclose(whole.loss, sum(part.loss for part in parts), rtol=1e-5)
        assert whole.denominator == sum(float(row.weights.sum()) for row in rows)
        assert whole.supervised == sum(row.supervised for row in rows)

    def test_pairs_are_told_apart(self, folder: Path) -> None:
        """DPO begins at log 2 and learns; the model before training stays; how a step is cut changes nothing."""
        found = []
        for budget in (1, 10_000):
            engine = self.engine(folder, objective=Objective("dpo"), token_budget=budget)
            rows = referenced(engine, pairs())
            plan = engine.prepare(rows)
            found.append([engine.step(plan, LR) for _ in range(6)])
            assert np.isclose(found[-1][0].loss, np.log(2), rtol=1e-6)
            before = np.array([row.reference for row in rows])
            assert np.allclose(engine.scores(plan, base=True), before, rtol=1e-6)
            margins = engine.loss(plan).means
            gains = (engine.scores(plan) - before) * engine.spec.objective.beta
            assert np.isclose(margins["reward_margin"], (gains[:, 0] - gains[:, 1]).mean(), rtol=1e-3)
        for one, other in zip(*found, strict=True):
            assert np.isclose(one.loss, other.loss, rtol=1e-4)
            assert one.supervised == other.supervised == sum(row.supervised for row in pairs())
        assert found[0][-1].loss < 0.6 and found[0][-1].figures["reward_accuracy"] > 0.8

    def test_weights_are_respected(self, folder: Path) -> None:
        engine = self.engine(folder)
        (row,) = examples(1)
        once, twice = (engine.loss(engine.prepare([Example(row.ids, row.weights * k, 0)])) for k in (1, 2))
        assert np.isclose(twice.loss, 2 * once.loss, rtol=1e-6)

    def test_only_the_past_is_seen(self, folder: Path) -> None:
        """Changing a later token leaves the loss of the earlier ones as it was."""
        engine = self.engine(folder)
        (row,) = examples(1, longest=30)
        weights = row.weights.copy()
        weights[-1] = 0
        other = row.ids.copy()
        other[-1] = (other[-1] + 1) % VOCAB
        losses = [engine.loss(engine.prepare([Example(ids, weights, 0)])).loss for ids in (row.ids, other)]
        assert np.isclose(losses[0], losses[1], rtol=1e-6)

    def test_it_learns(self, folder: Path) -> None:
        engine = self.engine(folder)
        plan = engine.prepare(examples())
        results = [engine.step(plan, 2e-2) for _ in range(12)]
        assert results[-1].loss < 0.95 * results[0].loss
        assert engine.changed()[0] == engine.changed()[1] > 0

    def test_a_learning_rate_of_zero_changes_nothing(self, folder: Path) -> None:
        engine = self.engine(folder)
        engine.step(engine.prepare(examples()), 0.0)
        assert engine.changed()[0] == 0

    def test_measuring_leaves_training_as_it_was(self, folder: Path) -> None:
        method = replace(LORA, dropout=0.3)
        straight, watched = (self.engine(folder, method=method) for _ in range(2))
        expected = self.train(straight)
        seen = []
        for step in range(4):
            watched.loss(watched.prepare(examples(seed=99)))
            seen += self.train(watched, range(step, step + 1))
        assert seen == expected

    def test_restore_undoes_save(self, folder: Path, tmp_path: Path) -> None:
        """Bit-identical losses after a restore in a fresh engine, dropout's draws included."""
        self.save_and_restore(folder, tmp_path, replace(LORA, dropout=0.3))

    def test_full_fine_tuning_restores_too(self, folder: Path, tmp_path: Path) -> None:
        self.save_and_restore(folder, tmp_path, Method(type="full"))

    def save_and_restore(self, folder: Path, tmp_path: Path, method: Method) -> None:
        first, second = (self.engine(folder, method=method) for _ in range(2))
        self.train(first, range(3))
        (tmp_path / "saved").mkdir()
        first.save(tmp_path / "saved")
        taken = snapshot(first)
        second.restore(tmp_path / "saved")
        expected = self.train(first, range(3, 6))
        assert self.train(second, range(3, 6)) == expected
        if taken.copied:  # it is written when the engine stands elsewhere already, and is the same
            (tmp_path / "later").mkdir()
            taken.write(tmp_path / "later")
            second.restore(tmp_path / "later")
            assert self.train(second, range(3, 6)) == expected

    def test_an_exported_adapter_is_where_training_stood(self, folder: Path, tmp_path: Path) -> None:
        trained = self.engine(folder)
        self.train(trained)
        (tmp_path / "adapter").mkdir()
        trained.export(tmp_path / "adapter")
        again = self.engine(folder, adapter=tmp_path / "adapter")
        rows = examples(seed=50)
        assert again.loss(again.prepare(rows)).loss == trained.loss(trained.prepare(rows)).loss

    def test_a_rehearsal_changes_nothing(self, folder: Path) -> None:
        method = replace(LORA, dropout=0.3)
        straight, rehearsed = (self.engine(folder, method=method) for _ in range(2))
        plan = rehearsed.prepare(examples())
        assert rehearsed.rehearse(plan) == rehearsed.rehearse(plan) == straight.step(plan, LR)
        assert rehearsed.changed()[0] == 0
        rehearsed.step(plan, LR)
        assert self.train(rehearsed) == self.train(straight)

    def test_answers_are_greedy_and_stop(self, folder: Path) -> None:
        """A row's continuation does not depend on its neighbours, and ends with the first stop token."""
        engine = self.engine(folder)
        prompts = [row.ids[:size].tolist() for row, size in zip(examples(3), (3, 9, 5), strict=True)]
        together = engine.answer(prompts, 6, frozenset())
        assert [len(answer) for answer in together] == [6, 6, 6]
        assert together == [engine.answer([prompt], 6, frozenset())[0] for prompt in prompts]
        stop = together[0][2]
        assert engine.answer(prompts[:1], 6, frozenset([stop]))[0] == together[0][: together[0].index(stop) + 1]

    def test_the_gradient_is_clipped(self, folder: Path) -> None:
        """A clipped step moves less than a free one; the norm that is told is the one before clipping."""
        norms = []
        for limit in (None, 1e-9):
            engine = self.engine(folder, optimizer=Optimizer(max_grad_norm=limit, epsilon=1e-3))
            plan = engine.prepare(examples())
            before = engine.loss(plan).loss
            norms.append(engine.step(plan, LR).grad_norm)
            moved = abs(engine.loss(plan).loss - before)
            assert moved > 1e-3 if limit is None else moved < 1e-3
        assert np.isclose(norms[0], norms[1], rtol=1e-6)

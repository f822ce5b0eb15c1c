"""Each recommendation at its borders: it speaks where the figures ask for it, and not one step before."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from made_run import HELD_OUT, data, falling, made, sample, trained

from truetune.report import learning, material
from truetune.report.advice import advise, verdict
from truetune.runs.status import Status

RULES = (*learning.RULES, *material.RULES)
CURVES = json.loads((Path(__file__).parent / "curves.json").read_text("utf-8"))


def codes(figures):
    return [advice.code for advice in advise(figures, RULES)]


def test_a_healthy_run_gets_one_sentence():
    figures = made()
    assert codes(figures) == []
    assert verdict(figures, []).tone == "good"
    assert "3 to 1.17 (−61%)" in verdict(figures, []).text


@pytest.mark.parametrize("name", list(CURVES))
def test_what_really_happened_in_healthy_runs_raises_no_alarm(name):
    """Loss, gradient norm and held-out loss of a whole `ft demo` and of an epoch of 999 Alpaca rows."""
    curve = CURVES[name]
    held_out = {int(step): loss for step, loss in curve["held_out"].items()}
    settings = {"training": {"learning_rate": curve["learning_rate"]}}
    assert (
        codes(made(curve["loss"], held_out, norms=curve["grad_norm"], per_epoch=curve["per_epoch"], **settings)) == []
    )


def after(last: float, **held_out: float):
    """A run whose last evaluation is `last`."""
    return made(held_out=HELD_OUT | {100: last})


def test_overfitting_is_a_rise_of_three_percent_and_of_two_hundredths():
    assert codes(after(1.19 * 1.029)) == []
    assert codes(after(1.19 * 1.031)) == ["overfitting"]
    small = {step: loss / 100 for step, loss in HELD_OUT.items()}
    losses = [loss / 100 for loss in falling()]
    assert codes(made(losses, small | {100: 0.0119 + 0.019})) == []
    assert codes(made(losses, small | {80: 0.0119, 100: 0.0119 + 0.021})) == ["overfitting"]


def test_overfitting_names_the_steps_and_what_to_change():
    (found,) = advise(after(1.5), RULES)
    assert "1.19 at step 80" in found.because and "1.5 at step 100" in found.because
    assert "`training.epochs: 1.6`" in found.change and "nothing is lost" in found.because
    assert not found.serious


def test_overfitting_is_serious_where_the_last_step_is_the_result():
    figures = made(held_out=HELD_OUT | {100: 1.5}, checkpoints={"best": False})
    (found,) = advise(figures, RULES)
    assert found.serious and found.change.startswith("Set `checkpoints.best: true`")


def test_a_rise_while_the_training_loss_rises_too_is_no_learning_by_heart():
    losses = falling()[:80] + [1.15] * 20
    assert "overfitting" not in codes(made(losses, HELD_OUT | {100: 1.3}))


def test_a_gap_is_four_times_and_a_nat():
    def run(end: float, level: float = 1.4, **changes: int) -> list[str]:
        return codes(made(falling()[:80] + [end] * 20, {0: 3.0, 50: level + 0.01, 100: level}, **changes))

    assert run(0.34) == ["gap"] and run(0.36) == []
    assert run(0.34, per_epoch=100) == []
    assert run(0.25, level=1.26) == ["gap"] and run(0.25, level=1.24) == []


def test_settled_when_the_best_was_nearly_there_before_three_fifths():
    held_out = {0: 3.0, 20: 1.8, 40: 1.5, 60: 1.201, 80: 1.195, 100: 1.19}
    assert codes(made(held_out=held_out)) == ["settled"]
    assert codes(made(held_out=held_out | {60: 1.203})) == []
    (found,) = advise(made(held_out=held_out), RULES)
    assert "`training.epochs: 1.2`" in found.change


def test_improving_when_a_quarter_more_would_take_off_five_percent():
    assert codes(made(held_out=HELD_OUT | {100: 1.19 * 0.961})) == []
    assert codes(made(held_out=HELD_OUT | {100: 1.19 * 0.959})) == ["improving"]
    early = made(held_out=HELD_OUT | {100: 1.1}, planned=200)
    assert codes(early) == []


def test_improving_counts_in_steps_where_the_steps_are_bounded():
    (found,) = advise(made(held_out=HELD_OUT | {100: 1.0}, training={"max_steps": 100}), RULES)
    assert "`training.max_steps: 200`" in found.change


def test_worse_than_the_start_is_serious_and_goes_first():
    figures = made(held_out=dict.fromkeys(HELD_OUT, 3.0))
    first = advise(figures, RULES)[0]
    assert first.code == "worse" and first.serious
    assert verdict(figures, [first]).tone == "bad"
    assert codes(made(held_out=dict.fromkeys(HELD_OUT, 2.9) | {0: 3.0})) != ["worse"]


def test_diverged_is_a_last_tenth_far_above_the_lowest():
    flat = falling(90)
    assert "diverged" in codes(made([*flat, *[1.4] * 10]))
    assert "diverged" not in codes(made([*flat, *[1.25] * 10]))
    assert "diverged" not in codes(made([loss / 100 for loss in [*flat, *[1.9] * 10]], {}))


def test_clipped_gradients_are_told_only_beside_a_divergence():
    assert codes(made(norms=[9.0] * 100)) == []
    (found,) = (item for item in advise(made([*falling(90), *[1.9] * 10], norms=[9.0] * 100), RULES) if item.serious)
    assert "100% of the gradients were longer than `training.max_grad_norm`" in found.because


def test_jolted_is_half_above_the_start_and_a_nat():
    def shot(peak: float) -> list[str]:
        return codes(made([3.0] * 3 + [peak] * 5 + falling(92)))

    assert shot(4.55) == ["jolted"] and shot(4.45) == []


def test_spikes_need_the_gradient_too_and_come_in_twos():
    def run(places, norm):
        losses, norms = falling(), [1.0] * 100
        for place in places:
            losses[place], norms[place] = losses[place] + 1.5, norm
        return codes(made(losses, norms=norms))

    assert run([50, 70], 5.0) == ["spikes"]
    assert run([50, 70], 2.9) == []
    assert run([50], 5.0) == []


def test_timid_is_a_loss_that_hardly_moved_at_a_low_rate():
    flat = [3.0 - 0.0004 * step for step in range(100)]
    held_out = {0: 3.0, 100: 2.96}
    low = {"training": {"learning_rate": 1e-6}}
    assert codes(made(flat, held_out, **low)) == ["timid"]
    assert codes(made(flat, {0: 3.0, 100: 2.93}, **low)) == []
    assert "2e-4 is worth a try" in advise(made(flat, held_out, **low), RULES)[0].change


def test_timid_holds_back_where_the_rate_is_customary_and_the_curve_is_not_straight():
    bent = [3.0, *[2.98] * 99]
    assert codes(made(bent, {0: 3.0, 100: 2.96})) == []
    straight = [3.0 - 0.0004 * step for step in range(100)]
    assert codes(made(straight, {0: 3.0, 100: 2.96})) == ["timid"]


def test_short_is_under_ten_steps():
    assert codes(made(falling(9), {0: 3.0, 9: 1.5}, per_epoch=3)) == ["short"]
    assert codes(made(falling(10), {0: 3.0, 10: 1.5}, per_epoch=3)) == []


def test_a_loss_that_is_no_number_is_serious():
    failed = Status(state="failed", step=100, error={"code": "train.not_finite", "message": "step 101 is not a number"})
    figures = made(status=failed)
    assert codes(figures) == ["not_finite"]
    assert verdict(figures, []).text == "Failed after 100 of 100 steps: step 101 is not a number."
    assert "not_finite" in codes(made(held_out=HELD_OUT | {60: None}))


def of(**changes):
    return {"data": data(**changes)}


def test_few_rows_and_of_texts_few_tokens():
    assert codes(made(receipts=of(rows={"train": 49}))) == ["few_rows"]
    assert codes(made(receipts=of(rows={"train": 50}))) == []
    texts = {"training": {"objective": "pretrain"}}
    assert codes(made(receipts=of(rows={"train": 3}, supervised={"train": 20_000}), **texts)) == []
    assert codes(made(receipts=of(supervised={"train": 19_999}), **texts)) == ["few_rows"]


@pytest.mark.parametrize(
    ("fate", "least"), [(fate, round(share * 1000)) for fate, (share, _, _) in material.LOST.items()]
)
def test_lost_rows_from_their_share_on(fate, least):
    assert codes(made(receipts=of(rows={fate: least - 1}))) == []
    (found,) = advise(made(receipts=of(rows={fate: least})), RULES)
    assert found.code == "lost_rows" and f"{least} of 1,000" in found.because


def test_an_end_that_is_not_learned():
    assert codes(made(receipts=of(end_of_turn_supervised=0.999))) == ["no_end"]
    assert advise(made(receipts=of(end_of_turn_supervised=0.49)), RULES)[0].serious


@pytest.mark.parametrize("code", list(material.DOUBTS))
def test_doubts_about_the_template(code):
    findings = [{"code": code, "message": "what was found"}, {"code": "data.lost", "message": "…"}]
    (found,) = advise(made(receipts=of(findings=findings)), RULES)
    assert found.because == "What was found."


def test_held_out_rows_none_few_and_too_few_for_the_difference():
    assert codes(made(held_out={}, receipts=of(rows={"validation": 0}))) == ["no_held_out"]
    assert codes(made(receipts=of(rows={"validation": 7}))) == ["few_held_out"]
    assert codes(made(receipts=of(rows={"validation": 8}))) == []
    near = {0: 1.2, 50: 1.18, 100: 1.16}
    assert codes(made(held_out=near, receipts=of(rows={"validation": 29}))) == ["few_held_out"]
    assert codes(made(held_out=near, receipts=of(rows={"validation": 30}))) == []


def test_answers_that_do_not_end():
    long = "this goes on and takes its time " * 2
    on = [sample(row, long + str(row), ended=False) for row in range(2)]
    rest = [sample(row, f"Answer {row}.") for row in (2, 3)]
    assert codes(made(samples=on + rest)) == ["endless"]
    assert codes(made(samples=on + rest + [sample(4, "Answer 4.")])) == []
    assert codes(made(samples=[row | {"reference": "a" * 60} for row in on] + rest)) == []
    assert codes(made(samples=on, training={"objective": "pretrain"})) == []


def test_answers_that_repeat_themselves_more_than_before():
    stuck = "Yes. " + "so it is so it is " * 6
    found = [sample(row, stuck + str(row)) for row in range(2)] + [sample(row, f"Answer {row}.") for row in (2, 3)]
    assert codes(made(samples=found)) == ["looping"]
    assert codes(made(samples=[row | {"base": stuck} for row in found])) == []
    assert not material.loops("A cat, a dog and a cow are on the farm, and a horse too.")
    assert material.loops("没有没有" * 20) and not material.loops("ha ha ha")


def test_one_answer_to_everything():
    assert codes(made(samples=[sample(row, "The same.") for row in range(3)])) == ["collapsed"]
    assert codes(made(samples=[sample(row, "The same.", reference="The same.") for row in range(3)])) == []
    assert "nothing" in advise(made(samples=[sample(row, " ") for row in range(3)]), RULES)[0].title


def test_memory_that_was_tight_or_short():
    assert codes(made(free=1_120_000_000)) == []
    assert codes(made(free=1_100_000_000)) == ["memory"]
    short = [{"kind": "event", "step": 7, "event": "out_of_memory", "token_budget": 512}]
    (found,) = advise(made(events=short), RULES)
    assert "at step 7" in found.because


def test_the_verdict_of_a_run_that_is_not_finished():
    for state, tone, words in (
        ("running", "note", "Still training: 100 of 200 steps"),
        ("stopped", "note", "`ft train --from a-run`"),
        ("interrupted", "note", "Stopped after 100 of 200 steps"),
    ):
        figures = made(planned=200, status=Status(state=state, step=100))
        assert verdict(figures, advise(figures, RULES)).tone == tone
        assert words in verdict(figures, []).text


def test_the_verdict_counts_the_recommendations_and_tells_of_an_early_stop():
    figures = made(planned=200, receipts=of(rows={"train": 20, "validation": 3}) | {"train": trained()})
    text = verdict(figures, advise(figures, RULES)).text
    assert "It stopped early, after 100 of 200 steps." in text and "2 recommendations below." in text

"""Rules about how a run learned: its losses, its learning rate, its length."""

from __future__ import annotations

import numpy as np

from truetune.engines.prompts import PROMPTS
from truetune.report import series
from truetune.report.advice import Advice
from truetune.report.gather import Figures, Point
from truetune.report.words import change, counted, figure, percent, written

RISE = 0.03
RISE_NATS = 0.02
"""A held-out loss has risen when it stands above its best by this share and by these nats: less is wiggling."""
GAP = 4
GAP_NATS = 1.0
"""The held-out loss is this many times the training loss, and this many nats above it."""
DIVERGED = 0.2
"""Share, and nats, by which the training loss ends above its lowest tenth."""
JOLT = 0.5
JOLT_NATS = 1.0
"""Share, and nats, by which the training loss climbs above the loss of the start."""
SPIKES = 2
"""Steps whose loss and gradient jumped together."""
JUMP = 3.0
"""A gradient norm jumped when it is this many times the median."""
SETTLED = 0.01
SETTLED_AT = 0.6
"""Within this share of the best loss before this share of the run: the rest brought nothing."""
PROMISE = 0.05
"""Share of the loss that a quarter more steps would take off at the last pace."""
MOVED = 0.02
"""A loss that fell by less has hardly moved."""
CUSTOMARY = {"full": 1e-5, "prefix": 5e-3, "ptuning_v2": 1e-2, "ptuning": 5e-3, "prompt": 1e-2, "ia3": 5e-3}
CUSTOMARY_ADAPTER = 2e-4
"""Learning rates that suit most models."""
FEW_STEPS = 10
PATIENT = "`evaluation.early_stopping: {patience: 3}`"


def broken(figures: Figures) -> Advice | None:
    """A loss that is not a number."""
    error = figures.status.error or {}
    lost = [row["step"] for row in figures.rows("eval") if row.get("loss") is None]
    if error.get("code") != "train.not_finite" and not lost:
        return None
    step = lost[0] if lost else figures.steps + 1
    number = "" if figures.get("model.dtype") == "float32" else " `model.dtype: float32` rules out the number format."
    return Advice(
        "not_finite",
        "The loss is not a number",
        f"First at step {step:,}, at a learning rate of up to {written(rate(figures))}.",
        f"Lower `training.learning_rate` to {gentler(figures)}, and look at the rows of that step.{number}",
        serious=True,
    )


def diverged(figures: Figures) -> Advice | None:
    """The training loss rose again."""
    if len(figures.losses) < 20:
        return None
    parts = series.levels(figures.losses, 10)
    lowest, last = min(parts), parts[-1]
    if last - lowest < DIVERGED or last < (1 + DIVERGED) * lowest:
        return None
    at = round((parts.index(lowest) + 1) / 10 * figures.steps)
    return Advice(
        "diverged",
        "The training loss rose again",
        f"It was down to {figure(lowest)} around step {at:,} and ended around {figure(last)}{clipped(figures)}.",
        f"Lower `training.learning_rate` from {written(rate(figures))} to {gentler(figures)}, "
        "or give it a longer `training.warmup`.",
        serious=True,
    )


def jolted(figures: Figures) -> Advice | None:
    """The loss shot up above where it began: the first full steps were too large."""
    losses = figures.losses
    if len(losses) < FEW_STEPS or diverged(figures):
        return None
    start = max(figures.base or 0.0, float(losses[0]))
    course = series.smooth(losses, 5)
    peak = float(course.max())
    if peak < max((1 + JOLT) * start, start + JOLT_NATS):
        return None
    return Advice(
        "jolted",
        "The training loss shot up",
        f"From {figure(start)} at the start to {figure(peak)} around step {figures.train[course.argmax()]['step']:,}, "
        f"at a learning rate of {written(rate(figures))}.",
        f"Lower `training.learning_rate`: {gentler(figures)} is worth a try.",
        serious=True,
    )


def worse(figures: Figures) -> Advice | None:
    """The result is no better on held-out rows than what it started from."""
    if figures.base is None or figures.result is None or figures.result[1] < figures.base:
        return None
    step, loss = figures.result
    return Advice(
        "worse",
        "The result is no better than its start",
        f"Held-out loss: {figure(figures.base)} before training, {figure(loss)} at step {step:,}.",
        f"Lower `training.learning_rate` (it was {written(rate(figures))}), "
        "and see that the held-out rows are of the kind that was trained.",
        serious=True,
    )


def overfitting(figures: Figures) -> Advice | None:
    """The held-out loss rises after its best while the training loss falls."""
    best, last = figures.best, figures.tuned[-1] if figures.tuned else None
    if not best or not last or worse(figures) or not risen(best, last):
        return None
    before, after = around(figures, best[0]), around(figures, last[0])
    if before is None or after is None or after >= before:
        return None
    kept = bool(figures.get("checkpoints.best", True))
    fewer = best[0] / max(1, last[0]) * figures.epochs
    return Advice(
        "overfitting",
        f"It learned its rows by heart after step {best[0]:,}",
        f"Held-out loss: best {figure(best[1])} at step {best[0]:,}, then {figure(last[1])} at step {last[0]:,} "
        f"({change(best[1], last[1])}), while the training loss went on falling from {figure(before)} to "
        f"{figure(after)}." + (" The result is the best checkpoint, so nothing is lost." if kept else ""),
        ("" if kept else "Set `checkpoints.best: true`: the result is the last step. ")
        + f"More rows help most; else `training.epochs: {fewer:.2g}` or {PATIENT}.",
        serious=not kept,
    )


def gap(figures: Figures) -> Advice | None:
    """The training loss is far below the held-out one, which did not rise."""
    if figures.result is None or not len(figures.losses) or figures.epochs <= 1 or overfitting(figures):
        return None
    step, held_out = figures.result
    own = around(figures, step)
    if own is None or own > held_out / GAP or held_out - own < GAP_NATS:
        return None
    return Advice(
        "gap",
        "It does far better on its own rows than on others",
        f"Loss around step {step:,}: {figure(own)} in training, {figure(held_out)} on held-out rows. The difference is "
        "memory of these rows.",
        f"More rows, and more varied ones, help most; {smaller(figures)}fewer `training.epochs` hold it back.",
    )


def settled(figures: Figures) -> Advice | None:
    """The held-out loss stopped falling long before the end."""
    tuned, best = figures.tuned, figures.best
    if len(tuned) < 4 or best is None or figures.base is None or figures.early or worse(figures):
        return None
    if risen(best, tuned[-1]) or jolted(figures) or diverged(figures):
        return None
    step, loss = next(point for point in tuned if point[1] <= best[1] * (1 + SETTLED))
    if step > SETTLED_AT * figures.steps:
        return None
    return Advice(
        "settled",
        f"It stopped improving around step {step:,}",
        f"Held-out loss: {figure(loss)} at step {step:,} of {figures.steps:,}, {figure(best[1])} at its best.",
        f"`training.epochs: {step / figures.steps * figures.epochs:.2g}` gives the same in less time, "
        f"and so does {PATIENT}.",
    )


def improving(figures: Figures) -> Advice | None:
    """The held-out loss was still falling when the steps ran out."""
    tuned = figures.tuned
    if len(tuned) < 2 or not figures.finished or figures.early or tuned[-1] != figures.best:
        return None
    (before, high), (after, low) = tuned[-2:]
    fall = (high - low) / high
    if fall * 0.25 * figures.steps / (after - before) < PROMISE:
        return None
    bound = figures.get("training.max_steps")
    more = f"`training.max_steps: {2 * bound}`" if bound else f"`training.epochs: {2 * figures.epochs:.3g}`"
    return Advice(
        "improving",
        "It was still improving when it ended",
        f"Held-out loss: {figure(high)} at step {before:,}, {figure(low)} at step {after:,} ({change(high, low)}), "
        "the lowest at the very end.",
        f"Train longer: {more}. A run with more steps has a course of its own; resuming this one adds none.",
    )


def spiked(figures: Figures) -> Advice | None:
    """Loss and gradient jumped together, several times."""
    norms = figures.column("grad_norm")
    if len(norms) < 40 or diverged(figures):
        return None
    jumps = series.spikes(figures.losses) & (norms > JUMP * np.nanmedian(norms))
    if jumps.sum() < SPIKES:
        return None
    steps = [figures.train[place]["step"] for place in np.flatnonzero(jumps)]
    return Advice(
        "spikes",
        f"The loss jumped {len(steps)} times",
        f"Loss and gradient together, first at step {steps[0]:,}, last at step {steps[-1]:,}{clipped(figures)}.",
        f"Lower `training.learning_rate` (it was {written(rate(figures))}), or look for odd rows in these steps.",
    )


def timid(figures: Figures) -> Advice | None:
    """The loss hardly moved, and a higher learning rate would move it."""
    if len(figures.losses) < FEW_STEPS or worse(figures) or not figures.finished:
        return None
    first, middle, last = series.levels(figures.losses, 3)
    before, after = (figures.base, figures.result[1]) if figures.base and figures.result else (first, last)
    if (before - after) / before >= MOVED or (first - last) / first >= MOVED:
        return None
    straight = middle - last >= (first - middle) / 2 > 0
    if not straight and rate(figures) >= customary(figures) / 2:
        return None
    pace = " and was falling as fast at the end as at the start" if straight else ""
    return Advice(
        "timid",
        "It hardly learned anything",
        f"The loss went from {figure(before)} to {figure(after)} ({change(before, after)}){pace}, "
        f"at a learning rate of {written(rate(figures))}.",
        f"Raise `training.learning_rate`: {written(max(3 * rate(figures), customary(figures)))} is worth a try.",
    )


def short(figures: Figures) -> Advice | None:
    """Hardly any steps at all."""
    if not figures.finished or figures.early or figures.steps >= FEW_STEPS:
        return None
    size = (figures.resolved.get("plan") or {}).get("step", 0)
    return Advice(
        "short",
        f"It took {counted(figures.steps, 'step')} only",
        f"{counted(figures.of('data', 'rows.train', 0), 'row')} in steps of {size:,} examples, "
        f"{figures.epochs:.3g} epochs.",
        "Raise `training.epochs`, or make smaller steps: `training.gradient_accumulation_steps: 1`.",
    )


def risen(best: Point, last: Point) -> bool:
    return last[1] - best[1] >= max(RISE * best[1], RISE_NATS)


def around(figures: Figures, step: int) -> float | None:
    """The training loss about a step: the mean of a tenth of the run up to it."""
    width = max(1, figures.steps // 10)
    near = [row["loss"] for row in figures.train if step - width < row["step"] <= step]
    return sum(near) / len(near) if near else None


def clipped(figures: Figures) -> str:
    """How many gradients were cut to `training.max_grad_norm`. Alone it means little: AdamW divides scale out."""
    bound, norms = figures.get("training.max_grad_norm"), figures.column("grad_norm")
    share = float(np.mean(norms > bound)) if bound and len(norms) else 0.0
    return f"; {percent(share)} of the gradients were longer than `training.max_grad_norm`" if share > 0.5 else ""


def rate(figures: Figures) -> float:
    return float(figures.get("training.learning_rate", 0.0))


def gentler(figures: Figures) -> str:
    """A learning rate to try instead of one that was too high."""
    usual = customary(figures)
    return written(usual if rate(figures) > 3 * usual else rate(figures) / 3)


def smaller(figures: Figures) -> str:
    """What makes an adapter hold less, where a setting does."""
    kind = figures.get("method.type")
    if kind in PROMPTS:
        return "fewer `method.virtual_tokens` or "
    return "" if kind in ("full", "ia3") else "a smaller `method.r` or "


def customary(figures: Figures) -> float:
    return CUSTOMARY.get(figures.get("method.type", ""), CUSTOMARY_ADAPTER)


RULES = (broken, diverged, jolted, worse, overfitting, gap, settled, improving, spiked, timid, short)

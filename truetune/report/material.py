"""Rules about what a run had to work with: its rows, their rendering, the held-out rows, samples, memory."""

from __future__ import annotations

import re
from collections.abc import Callable

from truetune.report import scores
from truetune.report.advice import Advice
from truetune.report.answers import answers
from truetune.report.gather import Figures, at
from truetune.report.words import counted, figure, line, listed, percent, size

FEW_ROWS = 50
FEW_TOKENS = 20_000
"""Fewer rows (or, of texts, tokens) teach a manner at best."""
FEW_HELD_OUT = 8
SCATTER_ROWS = 30
SCATTER = 0.05
"""With fewer held-out rows, a change of the loss by less than this share can be chance."""
CLOSE = 0.9
"""Share of the free memory from which on it is tight."""
LOOP = re.compile(r"(.{4,200}?)\1{2,}", re.DOTALL)
"""The same piece three times in a row, or more."""
LOOPED = 0.4
"""Share of an answer that such a loop makes up."""

LOST = {
    "rejected": (0.01, "were not readable as rows", "Mend them: `rejects.jsonl` names each with its line and reason."),
    "too_long": (0.02, "were longer than `data.max_length` and left out", "Raise `data.max_length`, or split them."),
    "truncated": (
        0.02,
        "were cut at `data.max_length` and lost their end",
        "Raise `data.max_length`, or set `data.too_long: drop`.",
    ),
    "unsupervised": (
        0.01,
        "held nothing to learn",
        "See how they are read with `ft dataset show`; `data.train_on` says what is learned.",
    ),
    "contaminated": (
        0.01,
        "also stand among the held-out rows and were left out",
        "Take them out of one of the two files.",
    ),
    "deduplicated": (0.2, "stood there more than once", "See where they come from; a copy teaches nothing new."),
}
"""Fate of rows -> the share of those read from which on it is worth a word, what happened, and what to do."""

DOUBTS = {
    "data.end_not_eos": (
        "Answers may not end where they should",
        "Serve it with this adapter's generation_config.json, or choose the model's own chat template.",
        True,
    ),
    "data.end_appended": (
        "The chat template does not end an answer",
        "Serve it with the chat template in the result's folder, and check with `ft dataset show` that an answer ends.",
        False,
    ),
    "data.per_turn": (
        "Each answer became an example of its own",
        "That is as it is served; a chat template that leaves earlier turns as they were would train them in one.",
        False,
    ),
    "data.template_date": (
        "The chat template writes the date",
        "Set `data.template` to a copy of it without the date, or every day's prompt differs from the trained one.",
        False,
    ),
    "data.no_eos": (
        "Texts have no end",
        "Choose a model whose tokenizer has an end-of-text token, or bound answers by `generation.max_new_tokens`.",
        False,
    ),
}
"""Finding about the rendering -> title, what to do, whether it is serious."""


def few(figures: Figures) -> Advice | None:
    rows, tokens = figures.of("data", "rows.train"), figures.of("data", "supervised.train", 0)
    enough = tokens >= FEW_TOKENS if figures.pretraining else (rows or 0) >= FEW_ROWS
    if rows is None or enough:
        return None
    what = f"{tokens:,} tokens of text" if figures.pretraining else counted(rows, "row")
    wanted = f"{FEW_TOKENS:,} tokens" if figures.pretraining else f"{FEW_ROWS} rows"
    return Advice(
        "few_rows",
        "There is little to learn from",
        f"{what} to train on.",
        f"Below {wanted} a model picks up a manner at best; more and more varied rows help most.",
    )


def lost(figures: Figures) -> Advice | None:
    """Rows that did not become examples as they stand."""
    read, found = figures.of("data", "rows.read", 0), []
    for fate, (least, what, todo) in LOST.items():
        count = figures.of("data", f"rows.{fate}", 0)
        if read and count / read >= least:
            found.append((f"{count:,} of {read:,} ({percent(count / read)}) {what}", todo))
    if not found:
        return None
    return Advice(
        "lost_rows",
        "Rows were lost on the way in",
        "; ".join(what for what, _ in found) + ".",
        " ".join(todo for _, todo in found),
    )


def unended(figures: Figures) -> Advice | None:
    """Answers whose end is not learned: a model that does not stop."""
    share = figures.of("data", "end_of_turn_supervised")
    if share is None or share >= 1:
        return None
    what = "texts" if figures.pretraining else "examples"
    return Advice(
        "no_end",
        f"Not all {what} learn where to stop",
        f"The end is a trained token in {percent(share)} of the {what}.",
        "Raise `data.max_length` where rows were cut, and look at the last tokens with `ft dataset show`.",
        serious=share < 0.5,
    )


def doubtful(code: str) -> Callable[[Figures], Advice | None]:
    """The rule for one finding about the rendering."""

    def rule(figures: Figures) -> Advice | None:
        found = {item["code"]: item["message"] for item in figures.of("data", "findings", [])}
        if code not in found:
            return None
        title, todo, serious = DOUBTS[code]
        message = line(found[code])
        message = message[:1].upper() + message[1:]
        return Advice(code.removeprefix("data."), title, f"{message}.", todo, serious)

    return rule


def blind(figures: Figures) -> Advice | None:
    """Nothing held out, or too little to judge by."""
    rows = figures.of("data", "rows.validation")
    if rows is None:
        return None
    if rows == 0:
        return Advice(
            "no_held_out",
            "Nothing was held out",
            "The training loss alone does not tell learning from learning by heart.",
            "Set `data.validation: auto`, or name a file of rows that are not trained.",
        )
    more = "More rows, or a larger `data.validation`, make the comparison firm."
    if rows < FEW_HELD_OUT:
        return Advice("few_held_out", "The held-out rows are too few to judge by", f"{counted(rows, 'row')}.", more)
    before, result = figures.base, figures.result
    if rows >= SCATTER_ROWS or not before or not result or abs(result[1] / before - 1) >= SCATTER:
        return None
    return Advice(
        "few_held_out",
        "The held-out rows are too few to judge by",
        f"{counted(rows, 'row')}, and the loss changed only from {figure(before)} to {figure(result[1])}: "
        "so small a difference on so few rows can be chance.",
        more,
    )


def outdone(figures: Figures) -> Advice | None:
    """`ft evaluate` found the result clearly worse than its base."""
    found = scores.worse(figures)
    if not found:
        return None
    return Advice(
        "outdone",
        f"It is worse than its base in {listed(found)}",
        "By `ft evaluate`: the 95 % interval of the difference leaves out zero.",
        "Read the answers that got worse with `ft evaluate`; fewer `training.epochs` or a lower "
        "`training.learning_rate` change less of the base.",
        serious=True,
    )


def endless(figures: Figures) -> Advice | None:
    """Answers that run on, far beyond what was asked for."""
    found = [] if figures.pretraining else answers(figures)
    on = [item for item in found if not item.ended and len(item.after) > 1.5 * len(item.reference)]
    if len(on) < 2 or len(on) * 2 < len(found):
        return None
    return Advice(
        "endless",
        "Answers do not end",
        f"{len(on)} of {len(found)} samples were still going on at one and a half times the length of their row.",
        "See with `ft dataset show` that the end of an answer is trained, and train longer if it is.",
    )


def looping(figures: Figures) -> Advice | None:
    """Answers that say the same again and again, more often than before the training."""
    found = answers(figures)
    now, before = sum(loops(item.after) for item in found), sum(loops(item.before) for item in found)
    if now < 2 or now * 4 < len(found) or now <= before:
        return None
    return Advice(
        "looping",
        "What it writes repeats itself",
        f"{now} of {len(found)} samples say the same piece three times in a row or more; {before} did before training.",
        "Lower `training.learning_rate` or `training.epochs`, and look for rows that repeat themselves.",
    )


def collapsed(figures: Figures) -> Advice | None:
    """One answer to everything, or none."""
    found = answers(figures)
    said = {item.after.strip() for item in found}
    wanted = {item.reference.strip() for item in found}
    if len(found) < 3 or len(said) > 1 or len(wanted) == 1:
        return None
    what = "nothing" if said == {""} else "the same"
    does = f"writes {what} after every text" if figures.pretraining else f"answers {what} to every question"
    kind = "texts" if figures.pretraining else "answers"
    return Advice(
        "collapsed",
        f"It {does}",
        f"All {len(found)} samples of step {found[0].step:,} are the same.",
        f"Lower `training.learning_rate`, and see with `ft dataset show` that the {kind} are what is trained.",
        serious=True,
    )


def tight(figures: Figures) -> Advice | None:
    """Memory that ran short, or nearly."""
    events = [row for row in figures.rows("event") if row.get("event") in ("out_of_memory", "samples_left_out")]
    free, peak = at(figures.resolved, "memory.free"), figures.memory
    near = bool(free and peak and peak >= CLOSE * free)
    if not events and not near:
        return None
    steps = listed([f"{row['step']:,}" for row in events])
    short = f"It ran short at step {steps}, and went on in smaller pieces. " if events else ""
    used = f"At its peak it used {size(peak)} of the {size(free)} that were free." if near and peak else ""
    return Advice(
        "memory",
        "Memory was tight",
        (short + used).strip(),
        "Free some, lower `data.max_length`, or set `resources.memory` to less, so that it starts in smaller pieces.",
    )


def loops(text: str) -> bool:
    """Whether a piece that repeats itself makes up much of a text."""
    part = text[:2000]
    longest = max((found.end() - found.start() for found in LOOP.finditer(part)), default=0)
    return longest >= 20 and longest >= LOOPED * len(part)


RULES = (few, lost, unended, *map(doubtful, DOUBTS), blind, outdone, collapsed, looping, endless, tight)

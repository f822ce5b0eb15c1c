"""The report as data, in the order it is read; `markdown.py` and `html.py` only set it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from shlex import quote

from truetune.data import objectives
from truetune.report import account, learning, material
from truetune.report.account import Compared, Line
from truetune.report.advice import Advice, Verdict, advise, verdict
from truetune.report.answers import Answer, answers
from truetune.report.gather import Figures
from truetune.report.scores import Scores, scores
from truetune.report.words import line, listed, plain, short
from truetune.runs.receipt import CHAIN
from truetune.train import card

ANSWERS = 6
"""Most samples on the page; all of them stand in samples.jsonl."""
LONGEST = 320
"""Most letters of a sample on the page."""
REJECTS = 10
UNDRAWN = 'The curves are not drawn: that needs matplotlib. `pip install "truetune[report]"` brings it.'


@dataclass(frozen=True)
class Page:
    """Plain texts, no markup. In `verdict`, `advice`, `answered` and `curves`, code stands between backticks."""

    id: str
    address: str
    """The run, as it is typed in a shell."""
    subject: str
    date: str
    verdict: Verdict
    answers: list[Answer]
    answered: str
    """What is to be said about the samples."""
    texts: bool
    """Whether the samples are of texts: a beginning, and how it goes on."""
    curves: str
    """What is to be said about the curves."""
    compared: list[Compared]
    ran: list[Line]
    scores: list[Scores]
    advice: list[Advice]
    data: list[Line]
    rejects: list[Line]
    more_rejects: int
    receipt: list[Line]
    digests: list[Line]
    anchor: str
    """The last receipt of the chain: the model card names its digest."""
    settings: list[tuple[str, str, str]]
    result: str
    """Folder of the result within the run; empty where there is none."""
    usage: str
    """Python that uses the result."""


def page(figures: Figures) -> Page:
    found = advise(figures, (*learning.RULES, *material.RULES))
    samples = answers(figures)
    rejects = [(line(item["where"]), line(item["reason"])) for item in figures.of("data", "rejects", [])]
    aside = figures.of("data", "rows.read", 0) - figures.of("data", "rows.used", 0)
    result = folder(figures)
    return Page(
        id=line(figures.id),
        address=quote(line(figures.id)),
        subject=subject(figures),
        date=date(figures),
        verdict=verdict(figures, found),
        answers=[trimmed(item) for item in samples[:ANSWERS]],
        answered=answered(figures, samples),
        texts=figures.pretraining,
        curves=curves(figures),
        compared=account.compared(figures),
        ran=list(account.ran(figures)),
        scores=scores(figures),
        advice=found,
        data=list(account.data(figures)),
        rejects=rejects[:REJECTS],
        more_rejects=max(0, aside - min(REJECTS, len(rejects))),
        receipt=list(account.receipt(figures)),
        digests=list(figures.digests.items()),
        anchor=next((stage for stage in reversed(CHAIN) if stage in figures.digests), ""),
        settings=account.settings(figures),
        result=result,
        usage=card.usage(figures.resolved, result) if result else "",
    )


def subject(figures: Figures) -> str:
    """`LoRA adapter for starter, trained on support.jsonl`."""
    model = line((figures.resolved.get("model") or {}).get("name", "a model"))
    entries = figures.of("data", "inputs") or [{"path": name} for name in paths(figures)]
    files = listed([Path(line(entry["path"])).name for entry in entries])
    if figures.get("method.type") == "full":
        what = f"{model}, all of its weights trained"
    else:
        before = figures.get("model.adapter")
        made = card.KINDS.get(str(figures.get("method.type")), "A LoRA adapter for")
        what = f"{made} {model}, trained" + (" further" if before else "")
    return f"{what} on {'the texts of ' if figures.pretraining else ''}{files or 'its rows'}"


def paths(figures: Figures) -> list[str]:
    found = figures.get("data.path", [])
    return [found] if isinstance(found, str) else list(found)


def date(figures: Figures) -> str:
    """When it ended, else when it was made: `21 November 2026, 10:57 UTC`."""
    moment = figures.status.finished or figures.status.created
    then = datetime.fromtimestamp(moment, UTC)
    return f"{then.day} {then:%B %Y, %H:%M} UTC" if moment else ""


def folder(figures: Figures) -> str:
    """Where the result stands: `adapter` or `model`; empty before there is one."""
    name = "model" if figures.get("method.type") == "full" else "adapter"
    return name if "train" in figures.receipts else ""


def answered(figures: Figures, found: list[Answer]) -> str:
    if not found and objectives.of(figures.get("training.objective", "sft")).scores:
        return "It gives scores, and writes nothing: `ft evaluate` measures them."
    if not found:
        what = "how four held-out texts go on" if figures.pretraining else "the answers to four held-out rows"
        return f"No samples were taken. `evaluation.samples: 4` asks for {what}."
    said = f"Held-out rows, never trained on; the likeliest answer before training and at step {found[0].step:,}."
    if figures.pretraining:
        said = (
            "How held-out texts, never trained on, go on after their beginning: by the model before training, by the "
            f"model at step {found[0].step:,}, and in truth. Many ways to go on are as good as the text's own."
        )
    same = sum(item.exact for item in found)
    if same:
        said += f" {same} of {len(found)} {'is' if same == 1 else 'are'} answered word for word as in the row."
    if len(found) > ANSWERS:
        said += f" {len(found) - ANSWERS:,} more stand in `samples.jsonl`."
    return said


def curves(figures: Figures) -> str:
    if len(figures.train) < 1:
        return "No step was taken."
    if len(figures.tuned) == 1:
        return (
            "The held-out loss was measured at the start and once after it; `evaluation.every` says how often, and the "
            "more often, the better the best checkpoint is found."
        )
    return ""


def trimmed(item: Answer) -> Answer:
    """An answer as the page shows it."""

    def cut(text: str) -> str:
        return short(plain(text).strip(), LONGEST)

    return replace(
        item,
        question=cut(item.question),
        before=cut(item.before),
        after=cut(item.after),
        reference=cut(item.reference),
    )

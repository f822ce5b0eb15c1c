"""The page of a data check as data, in the order it is read; `dataset.py` and `dataset_markdown.py` only set it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from truetune.report.account import Line
from truetune.report.advice import Verdict
from truetune.report.words import clock, counted, judged, line, listed, percent, plain, short, size

TOKENS = 500
"""Most tokens of an example on the page."""
PLACES = 3
"""Places of a finding that stand in the open; the others open on a click."""
BARS = 12
"""Classes and languages with a bar of their own."""
UNMARKED = {"document", "labelled"}
"""Modes of rows of which all is learned, window by window, or none but the label."""
LEVELS = ("error", "warning", "note")
FATES = (
    ("train", "to train on", "train"),
    ("validation", "held out", "rate"),
    ("rejected", "bad", "bad"),
    ("deduplicated", "twice", "muted"),
    ("contaminated", "also in what is measured on", "norm"),
    ("too_long", "too long", "held"),
    ("unsupervised", "with nothing to learn", "speed"),
    ("sampled_out", "left out by their weight", "muted"),
)
"""Every row once: its key in the result, words for it, its colour."""


@dataclass(frozen=True)
class Segment:
    label: str
    count: int
    share: float
    color: str


@dataclass(frozen=True)
class Tile:
    label: str
    big: str
    note: str


@dataclass(frozen=True)
class Item:
    """A finding. In `title` and `todo`, code stands between backticks."""

    level: str
    code: str
    title: str
    amount: str
    share: float
    places: list[str]
    more: list[str]
    unnamed: int
    """Rows that are counted and have no place here."""
    examples: list[str]
    todo: str

    @property
    def rank(self) -> int:
        return LEVELS.index(self.level)


@dataclass(frozen=True)
class Balance:
    title: str
    bars: list[tuple[str, str, float]]
    """Name, amount, length from 0 to 1."""
    more: str


@dataclass(frozen=True)
class Shown:
    """A row as a model learns it: runs of tokens of one kind (`trained`, `read`, `cut`)."""

    where: str
    note: str
    parts: list[list[tuple[str, list[str]]]]


@dataclass(frozen=True)
class Page:
    """Plain texts, no markup."""

    subject: str
    under: list[str]
    verdict: Verdict
    read: int
    segments: list[Segment]
    tiles: list[Tile]
    lengths: dict[str, Any]
    max_length: int
    documents: bool
    findings: list[Item]
    balances: list[Balance]
    words: list[Line]
    rows: list[Shown]
    kinds: list[str]
    """Of tokens in `rows`."""
    files: list[tuple[str, str, str, str]]


def page(result: Mapping[str, Any]) -> Page:
    """The document of `ft dataset check`, set for a reader; parts that it lacks are left out."""
    figures = result.get("figures") or {}
    rows = [shown(row) for row in (result.get("examples") or {}).get("rows", [])]
    kinds = {kind for row in rows for part in row.parts for kind, _ in part}
    return Page(
        subject=subject(result),
        under=list(under(result)),
        verdict=verdict(result),
        read=result["rows"].get("read", 0),
        segments=segments(result["rows"]),
        tiles=list(tiles(result)),
        lengths=figures.get("lengths") or {},
        max_length=result.get("max_length") or 0,
        documents=result.get("objective") == "pretrain",
        findings=[item(found) for found in ranked(result["findings"])],
        balances=list(balances(figures)),
        words=list(words(figures.get("complexity") or {})),
        rows=rows,
        kinds=[kind for kind in ("trained", "read", "cut") if kind in kinds],
        files=[filed(entry) for entry in result["files"]],
    )


def subject(result: Mapping[str, Any]) -> str:
    """`support.csv: 1,180 of 1,240 rows can be used`."""
    names = listed([Path(line(entry["path"])).name for entry in result["files"]])
    used, read = result["rows"].get("used", 0), result["rows"].get("read", 0)
    if used == read:
        return f"{names}: {counted(read, 'row')}, all of them usable"
    return f"{names}: {used:,} of {counted(read, 'row')} can be used"


def under(result: Mapping[str, Any]) -> Iterator[str]:
    form = result.get("format") or {}
    if form.get("name"):
        yield f"format {line(form['name'])}" + (f" ({percent(form['share'])} of the rows)" if form.get("share") else "")
    for name in ("objective", "model", "template"):
        if result.get(name):
            yield f"{name} {line(result[name])}"


def verdict(result: Mapping[str, Any]) -> Verdict:
    kinds = {level: sum(found["level"] == level for found in result["findings"]) for level in LEVELS}
    if result["verdict"] == "errors":
        rows = result["rows"].get("rejected", 0)
        bad = f": {counted(rows, 'row')} can't be used" if rows else ""
        return Verdict("bad", f"{counted(kinds['error'], 'kind')} of error{bad}. Each is named below with what to do.")
    if kinds["warning"]:
        worth = "is" if kinds["warning"] == 1 else "are"
        said = f"No errors. {counted(kinds['warning'], 'kind')} of warning {worth} worth a look before a training."
        return Verdict("note", said)
    notes = f" {counted(kinds['note'], 'note')} below." if kinds["note"] else ""
    return Verdict("good", f"Nothing speaks against training on these rows.{notes}")


def segments(rows: Mapping[str, int]) -> list[Segment]:
    total = max(1, sum(rows.get(key, 0) for key, _, _ in FATES))
    return [Segment(label, rows[key], rows[key] / total, color) for key, label, color in FATES if rows.get(key)]


def tiles(result: Mapping[str, Any]) -> Iterator[Tile]:
    tokens, trained = (sum((result.get(key) or {}).get(side, 0) for side in ("train", "validation"))
                       for key in ("tokens", "supervised"))  # fmt: skip
    yield Tile("tokens", f"{tokens:,}", f"in {counted(result['rows'].get('used', 0), 'row')}")
    if trained:
        yield Tile("learned", percent(trained / tokens), f"{trained:,} tokens reach the loss")
    if lengths := ((result.get("figures") or {}).get("lengths") or {}).get("total") or result.get("lengths"):
        spread = f"95 % below {lengths['p95']:,}, longest {lengths['max']:,}"
        yield Tile("half have at most", f"{lengths['median']:,}", f"tokens; {spread}")
    if estimate := result.get("estimate"):
        memory = f", {size(estimate['peak_memory'])} at the peak" if estimate.get("peak_memory") else ""
        yield Tile(
            "a training takes about", clock(estimate["seconds"]), f"{counted(estimate['steps'], 'step')}{memory}"
        )


def ranked(findings: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The gravest first, of those the commonest."""
    return sorted(findings, key=lambda found: (LEVELS.index(found["level"]), -(found.get("share") or 0)))


def item(found: Mapping[str, Any]) -> Item:
    places, share = [line(place) for place in found.get("where") or []], found.get("share") or 0.0
    amount = f"{counted(found['count'], 'row')}, {percent(share)}" if share else ""
    title, _, such = line(found["message"]).partition(", such as ")
    examples = found.get("examples") or such.split("; ")
    return Item(
        level=found["level"],
        code=line(found["code"]),
        title=title,
        amount=amount,
        share=min(1.0, share),
        places=places[:PLACES],
        more=places[PLACES:],
        unnamed=max(0, (found.get("count") or 0) - len(places)) if places else 0,
        examples=[short(line(text), 160) for text in examples if text],
        todo=line(found.get("hint") or ""),
    )


def balances(figures: Mapping[str, Any]) -> Iterator[Balance]:
    if labels := figures.get("labels"):
        yield bars("Classes", labels, lambda count, share: f"{count:,}")
    if shares := (figures.get("languages") or {}).get("shares"):
        sure = figures["languages"]["sure"]
        counts = {name: share * sure for name, share in shares.items()}
        yield bars("Languages", counts, lambda count, share: percent(share))
    if pairs := figures.get("pairs"):
        longer = {"the better answer is longer": pairs["longer"], "it is not": 1 - pairs["longer"]}
        yield bars("Pairs", longer, lambda count, share: percent(share))
    if ratings := figures.get("ratings"):
        yield bars("Ratings", ratings, lambda count, share: f"{count:,}")


def bars(title: str, counts: Mapping[str, float], write: Any) -> Balance:
    ordered = sorted(counts.items(), key=lambda entry: -entry[1])
    total, most = sum(counts.values()) or 1, max(counts.values()) or 1
    drawn = [(short(line(name), 48), write(count, count / total), count / most) for name, count in ordered[:BARS]]
    return Balance(title, drawn, f"and {len(ordered) - BARS:,} more" if len(ordered) > BARS else "")


def words(complexity: Mapping[str, Any]) -> Iterator[Line]:
    if not complexity:
        return
    distinct, all_of = complexity["distinct"], complexity["vocabulary"]
    yield "different tokens", f"{distinct:,} of the {all_of:,} that the tokenizer has ({percent(distinct / all_of)})"
    yield (
        "type/token ratio",
        f"{complexity['ratio']:.4f}: a token occurs {1 / complexity['ratio']:,.0f} times on average",
    )
    yield "rare tokens", f"{percent(complexity['rare'])} of all occur fewer than five times"
    yield (
        "parts of characters",
        f"{percent(complexity['pieces'])} of all: where it is much, the tokenizer knows the script badly",
    )
    if complexity["unknown"]:
        yield (
            "unknown",
            f"{percent(complexity['unknown'])} of all stand for characters that the tokenizer does not know",
        )


def shown(row: Mapping[str, Any]) -> Shown:
    if refused := row.get("refused"):
        return Shown(line(row["where"]), f"not used: {line(refused['reason'])}", [])
    examples = row.get("examples") or []
    length, trained = (sum(example[key] for example in examples) for key in ("length", "trained"))
    note = counted(length, "token") + (f", {trained:,} learned" if row.get("mode") not in UNMARKED else "")
    note += "".join(f"; {told}" for told in map(judged, examples) if told)
    if length > TOKENS:
        note += f"; the first {TOKENS:,} are shown"
    return Shown(line(row["where"]), note, [list(runs(example["tokens"][:TOKENS])) for example in examples])


def runs(tokens: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, list[str]]]:
    for kind, same in groupby(tokens, key=state):
        yield kind, [plain(token["text"]) for token in same]


def state(token: Mapping[str, Any]) -> str:
    if token.get("cut"):
        return "cut"
    return "trained" if token["weight"] else "read"


def filed(entry: Mapping[str, Any]) -> tuple[str, str, str, str]:
    """Path, rows, size, sha256."""
    return line(entry["path"]), f"{entry['rows']:,}", amount(entry["bytes"]), line(entry["sha256"])[:16]


def amount(number: int) -> str:
    return f"{number:,} B" if number < 10_000 else f"{number / 1000:,.0f} kB" if number < 1e6 else size(number)

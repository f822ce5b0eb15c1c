"""From seeds to new rows: ask in batches, check what comes back, count it, say how far it is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from truetune.augment.copies import copies
from truetune.augment.methods import Draft, Messages, Method, Origins
from truetune.augment.seeds import Seeds, plain
from truetune.augment.shapes import written
from truetune.augment.sieve import Sieve, asked
from truetune.augment.speakers import Speaker
from truetune.data.formats import Format
from truetune.data.rows import GENERATED
from truetune.listener import Listener

BATCH = 32
"""Prompts in one call of the speaker."""
EXAMPLES = 3


@dataclass(frozen=True)
class Wish:
    """How new rows are drawn: `per_row` of each seed, at this temperature, with answers of at most so many tokens."""

    per_row: int
    seed: int
    temperature: float
    max_new_tokens: int


@dataclass
class Harvest:
    """What has come of it so far: asked = kept + rejected."""

    how: dict[str, Any]
    """`generated` of the rows: method, model, seed."""
    kept: list[Draft] = field(default_factory=list)
    rejected: Counter[str] = field(default_factory=Counter)
    """Keys of `words.REASONS`."""
    asked: int = 0

    def rows(self, form: Format) -> Iterator[dict[str, Any]]:
        """As they are written, in the shape of those they are made from. `from` holds the digests of these: places
        change, contents do not."""
        rows = written(form, [draft.talk for draft in self.kept])
        for draft, row in zip(self.kept, rows, strict=True):
            digests = [one.conversation.digest.hex() for one in draft.origins]
            yield {**row, "origin": draft.where, GENERATED: {**self.how, "from": digests}}

    def examples(self) -> list[dict[str, str]]:
        """The first rows: origin, what that asks, what the new one asks and answers."""
        return [
            {
                "origin": draft.where,
                "before": draft.origins[0].question,
                "after": asked(draft.talk),
                "answer": draft.talk.turns[-1].content,
            }
            for draft in self.kept[:EXAMPLES]
        ]


def augment(seeds: Seeds, method: Method, speaker: Speaker, wish: Wish, harvest: Harvest, listener: Listener) -> None:
    """Fill the harvest, which is whole at any time: an error or Ctrl-C loses the batch alone that is asked for, and
    leaves out the search for near copies among all rows.

    Raises what the speaker raises.
    """
    sieve = Sieve(seeds.questions, speaker.special)
    groups = method.groups(seeds.rows, wish.per_row, wish.seed)
    for drafts in batches(groups, method, speaker, wish):
        for draft in drafts:
            harvest.asked += 1
            if fault := sieve.fault(draft, method.keeps):
                harvest.rejected[fault] += 1
            else:
                harvest.kept.append(draft)
        listener("answer", {"side": method.name, "done": harvest.asked, "total": len(groups)})
    found = copies(seeds.questions, [plain(asked(draft.talk)) for draft in harvest.kept])
    harvest.rejected.update(found.values())
    harvest.kept = [draft for place, draft in enumerate(harvest.kept) if place not in found]


def batches(groups: Sequence[Origins], method: Method, speaker: Speaker, wish: Wish) -> Iterator[list[Draft]]:
    for start in range(0, len(groups), BATCH):
        ask = partial(
            speaker.ask,
            seed=wish.seed + start,
            temperature=wish.temperature,
            max_new_tokens=wish.max_new_tokens,
        )
        yield method.write(groups[start : start + BATCH], ask)


def first_prompt(seeds: Seeds, method: Method, wish: Wish) -> str:
    """What the speaker is asked for the first row."""
    heard: list[Messages] = []

    def ask(prompts: Sequence[Messages]) -> list[str]:
        heard.extend(prompts)
        return [""] * len(prompts)

    method.write(method.groups(seeds.rows, wish.per_row, wish.seed)[:1], ask)
    return heard[0][-1]["content"]

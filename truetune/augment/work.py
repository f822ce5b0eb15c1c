"""From seeds to new rows: ask in batches, check what comes back, count it, say how far it is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from truetune.augment.methods import Draft, Messages, Method, Origins
from truetune.augment.seeds import GENERATED, Seeds
from truetune.augment.sieve import Sieve, asked
from truetune.augment.speakers import Speaker
from truetune.data.notations import to_row

Listener = Callable[[str, dict[str, Any]], None]
"""Called with `answer` and {side, done, total} in rows asked for."""
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
    """What has come of it so far: asked = rows + rejected."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    examples: list[dict[str, str]] = field(default_factory=list)
    """The first of the rows: origin, what that asks, what the new one asks and answers."""
    rejected: Counter[str] = field(default_factory=Counter)
    """Keys of `words.REASONS`."""
    asked: int = 0


def augment(seeds: Seeds, method: Method, speaker: Speaker, wish: Wish, harvest: Harvest, listener: Listener) -> None:
    """Fill the harvest, which is whole at any time: an error or Ctrl-C loses the batch alone that is asked for.

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
                keep(harvest, draft, {"method": method.name, "model": speaker.name, "seed": wish.seed})
        listener("answer", {"side": method.name, "done": harvest.asked, "total": len(groups)})


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


def keep(harvest: Harvest, draft: Draft, how: dict[str, Any]) -> None:
    """The draft as a row. `from` holds the digests of what it is made from: places change, contents do not."""
    assert draft.conversation is not None
    origin = ", ".join(one.where for one in draft.origins)
    digests = [one.conversation.digest.hex() for one in draft.origins]
    harvest.rows.append({**to_row(draft.conversation, "openai"), "origin": origin, GENERATED: {**how, "from": digests}})
    if len(harvest.examples) < EXAMPLES:
        new, old = draft.conversation, draft.origins[0]
        texts = {"before": old.question, "after": asked(new), "answer": new.turns[-1].content}
        harvest.examples.append({"origin": origin, **texts})

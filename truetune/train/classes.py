"""The classes of labelled rows, as a training takes them: names, whether a text has any number of them, weights."""

from __future__ import annotations

from collections import Counter
from typing import Any

from truetune.config import Config
from truetune.data.cache import Examples
from truetune.data.prepare import Prepared
from truetune.errors import InputError, UsageError


def settle(config: Config, prepared: Prepared) -> dict[str, Any]:
    """{names, several, weights, rows} with a value of the last two for each class; empty for other objectives.

    Raises InputError `data.one_class`, `data.unseen_class`, and UsageError `classification.unknown_class`,
    `classification.threshold`.
    """
    if prepared.objective != "classification":
        return {}
    names, several = list(prepared.report["classes"]), bool(prepared.report["several_labels"])
    counts = counted(prepared.train)
    rows = [counts[number] for number in range(len(names))]
    refuse_too_few(names, several)
    refuse_unseen(names, rows, counted(prepared.validation))
    refuse_threshold(config, several)
    weights = weighed(config, names, rows, len(prepared.train), several=several)
    return {"names": names, "several": several, "weights": weights, "rows": rows}


def counted(examples: Examples) -> Counter[int]:
    """How many rows each class has, by its number."""
    return Counter(number for place in range(len(examples)) for number in examples[place].label)


def weighed(config: Config, names: list[str], rows: list[int], total: int, *, several: bool) -> list[float]:
    """The weight of each class. Balanced: n / (k · rows of the class), so that the weights of all rows have the mean 1;
    where each class is decided by itself, the rows without it over those with it."""
    wish = config.classification.class_weights
    if isinstance(wish, dict):
        refuse_unknown(wish, names)
        return [wish.get(name, 1.0) for name in names]
    if wish == "none":
        return [1.0] * len(names)
    if several:
        return [max(1, total - count) / count for count in rows]
    return [total / (len(names) * count) for count in rows]


def refuse_too_few(names: list[str], several: bool) -> None:
    if len(names) < (1 if several else 2):
        what = f"every row has the label {names[0]!r}" if names else "no row has a label"
        raise InputError(
            f"{what}, so there is nothing to tell apart",
            code="data.one_class",
            where="data.path",
            hint="Give rows of at least two classes. Is it the right column? `data.columns` names another.",
        )


def refuse_unseen(names: list[str], rows: list[int], held: Counter[int]) -> None:
    """A class that only held-out rows have."""
    unseen = [name for name, count in zip(names, rows, strict=True) if not count]
    if unseen:
        number = sum(held[names.index(name)] for name in unseen)
        raise InputError(
            f"no row that is trained has the class {', '.join(map(repr, unseen[:5]))}, which stands only in "
            f"{number} held-out row{'s' if number > 1 else ''}",
            code="data.unseen_class",
            where="data.validation",
            hint="Give rows of this class to train on, or leave those of it out.",
        )


def refuse_unknown(wish: dict[str, float], names: list[str]) -> None:
    if unknown := [name for name in wish if name not in names]:
        raise UsageError(
            f"no row has the class {unknown[0]!r}",
            code="classification.unknown_class",
            where="classification.class_weights",
            hint=f"The classes are {', '.join(names[:20])}.",
        )


def refuse_threshold(config: Config, several: bool) -> None:
    if not several and "threshold" in config.classification.model_fields_set:
        raise UsageError(
            "the rows have one class each, of which the likeliest is taken: there is no threshold",
            code="classification.threshold",
            where="classification.threshold",
            hint="Leave it out; it is for rows with lists of labels.",
        )

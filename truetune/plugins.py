"""What other packages bring: entry points of the groups `truetune.…`, by name.

They are code of their own, so they are loaded only when a name is none of ours (see docs/extending.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from truetune.errors import InputError

OBJECTIVES, METHODS, MODELS = "truetune.objectives", "truetune.methods", "truetune.models"
WORDS = {OBJECTIVES: "objective", METHODS: "method", MODELS: "model type"}


@cache
def points(group: str) -> Mapping[str, EntryPoint]:
    """The entry points of a group by name. Nothing is loaded."""
    return {point.name: point for point in entry_points(group=group)}


def names(group: str) -> list[str]:
    return sorted(points(group))


def load(group: str, name: str) -> Any:
    """What a package brings under this name. Raises InputError `plugin.missing`, `plugin.unusable`."""
    if name not in points(group):
        raise InputError(
            f"there is no {WORDS[group]} {name!r}: no installed package brings it",
            code="plugin.missing",
            hint="Install the package that it came from.",
        )
    return loaded(points(group)[name], group, name)


def part(group: str, name: str, reference: str) -> Any:
    """What a package names by `module:attribute` and wants loaded later. Raises InputError `plugin.unusable`."""
    return loaded(EntryPoint(name, reference, group), group, name)


def loaded(point: EntryPoint, group: str, name: str) -> Any:
    try:
        return point.load()
    except Exception as error:  # whatever a package of somebody else's does when it is imported
        raise unusable(group, name, f"it can't be loaded: {type(error).__name__}: {error}") from error


def unusable(group: str, name: str, reason: str) -> InputError:
    """The error for what a package brings and nobody can use; it names the package."""
    point = points(group)[name]
    package = point.dist.name if point.dist else point.value
    return InputError(
        f"the {WORDS[group]} {name!r} of the package {package} can't be used: {reason}",
        code="plugin.unusable",
        where=package,
        hint="Update the package or uninstall it.",
    )

"""Shapes that other packages bring: entry points of the group `truetune.formats`, each a `Shape`.

They are code of their own, so they are loaded only when a name or a row is none of ours (see docs/extending.md).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from importlib.metadata import EntryPoint, entry_points

from truetune.data.rows import Content, RowError
from truetune.data.shapes import KINDS, Shape, Value
from truetune.data.shapes.table import SHAPES
from truetune.errors import InputError

GROUP = "truetune.formats"


@cache
def shapes() -> Mapping[str, Shape]:
    """The shapes of all installed packages by name. Raises InputError (`data.format_package`) for one that is none."""
    found: dict[str, Shape] = {}
    for point in sorted(entry_points(group=GROUP), key=lambda point: point.name):
        shape = _loaded(point)
        if shape.name in SHAPES or shape.name in found:
            raise _bad(point, f"it brings a format {shape.name!r}, and there is one of this name already")
        found[shape.name] = shape
    return found


def _loaded(point: EntryPoint) -> Shape:
    try:
        shape = point.load()
    except Exception as error:  # whatever a package of somebody else's does when it is imported
        raise _bad(point, f"it can't be loaded: {type(error).__name__}: {error}") from error
    if not isinstance(shape, Shape):
        raise _bad(point, f"it is no Shape but {type(shape).__name__}")
    if shape.kind not in KINDS or not shape.columns:
        raise _bad(point, f"its kind must be one of {', '.join(KINDS)}, and it must name the columns it needs")
    return replace(shape, read=_guarded(shape.read), fits=_careful(shape.fits))


def _guarded(read: Callable[[Value], Content]) -> Callable[[Value], Content]:
    """An error in it costs one row."""

    def guarded(value: Value) -> Content:
        try:
            return read(value)
        except RowError:
            raise
        except Exception as error:  # of somebody else's code, see above
            raise RowError("data.format_failed", f"the format failed: {type(error).__name__}: {error}") from error

    return guarded


def _careful(fits: Callable[[Value], bool]) -> Callable[[Value], bool]:
    def careful(value: Value) -> bool:
        try:
            return bool(fits(value))
        except Exception:  # of somebody else's code, see above: a row that it can't look at is none of its own
            return False

    return careful


def _bad(point: EntryPoint, reason: str) -> InputError:
    package = point.dist.name if point.dist else point.value
    return InputError(
        f"the format {point.name!r} of the package {package} can't be used: {reason}",
        code="data.format_package",
        where=package,
        hint="Update the package or uninstall it.",
    )

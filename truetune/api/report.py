"""The verb `report`: the page about a run, written again. A training and an evaluation write it at their end."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

from truetune.api import wanted
from truetune.errors import UsageError
from truetune.listener import Listener


def report(run: Any = "last") -> Path:
    """Write finetune_report.md (its path is returned), finetune_report.html and the curves of a run in any state.

    Raises InputError, UsageError for the address, UsageError `run.made`, ResourceError where the disk is full.
    """
    from truetune.runs import receipt
    from truetune.runs.find import find

    found = find(wanted.address(run))
    receipt.refuse_made(found)
    return written(found)


def written(run: Any) -> Path:
    """The report; first, what a crash has left in the run's folder goes, unless somebody works there."""
    from truetune.report.write import write

    with suppress(UsageError), run.lock():
        pass
    return write(run)


def renew(run: Any, listener: Listener) -> None:
    """The report of a run whose result is safe. Whatever goes wrong here takes nothing from it: it is a warning."""
    try:
        written(run)
    except (Exception, KeyboardInterrupt) as error:
        reason = str(error) or type(error).__name__
        listener("warning", {"text": f"the result is safe, but the report could not be written: {reason}"})

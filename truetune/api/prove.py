"""The verb `runs prove`: whether a killed run, resumed, ends as the straight one, to the last bit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from truetune.api import wanted
from truetune.errors import CheckFailed


def run_prove(
    run: Any = "last", *, steps: int | None = None, watch: Callable[[str], None] = lambda text: None
) -> dict[str, Any]:
    """{id, folder, verdict: "identical" | "differs", first_difference, steps, killed, compared}, as the run's receipt
    `prove` now says.

    steps  of each of the two runs that are made, 8 or all that the run has
    watch  is told what is done next

    Raises TrainingError where the proof could not be made, InputError and UsageError for the address.
    """
    from truetune.runs import receipt
    from truetune.runs.find import find
    from truetune.train.prove import STEPS, prove

    found = find(wanted.address(run))
    receipt.refuse_made(found)
    body = prove(found, steps or STEPS, watch)
    return {"id": found.id, "folder": str(found.folder)} | body


def differing(run: str, body: dict[str, Any]) -> CheckFailed:
    """What to say where the two runs are not alike."""
    return CheckFailed(
        f"the resumed run differs from the straight one, first in {body['first_difference']}",
        code="prove.differs",
        where=run,
        hint="The device or a library computes otherwise each time: two straight runs would differ as well. A resume "
        "goes on from what was saved all the same.",
    )

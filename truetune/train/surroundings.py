"""What the last bits of a training depend on besides its settings: versions, device, threads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from truetune.train.session import version
from truetune.train.settings import listed
from truetune.train.state import State

COMPUTING = {"torch": ("torch", "transformers", "peft", "bitsandbytes"), "mlx": ("mlx", "mlx-lm")}
"""Engine -> the libraries that compute for it."""
FACTS = ("device", "threads", "blas")
"""Of `TrainEngine.describe`."""


def of(facts: Mapping[str, Any]) -> dict[str, str]:
    """{name: value} as the engine, which describes itself by `facts`, has them here."""
    names = ("truetune", "numpy", *COMPUTING.get(str(facts.get("engine")), ()))
    versions = {name: version(name) for name in names} | {name: facts.get(name) for name in FACTS}
    return {name: str(value) for name, value in versions.items() if value is not None}


def noted(state: State, now: dict[str, str]) -> str:
    """Take what holds now into the state; one line for people where it is not what held before."""
    before, state.surroundings = state.surroundings, now
    names = [name for name in {**before, **now} if before and before.get(name) != now.get(name)]
    if not names:
        return ""
    fields = {name: [before.get(name), now.get(name)] for name in names}
    state.moves.append({"step": state.step, "fields": fields})
    return f"from step {state.step} on: {listed(fields)}; the run is from there on equal up to rounding, not to the bit"

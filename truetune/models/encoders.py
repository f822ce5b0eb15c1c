"""Models that read and do not write: which they are, and how the states of a text become one embedding.

The pooling is that of sentence-transformers' files where a folder has them (`modules.json`, `1_Pooling/config.json`,
`sentence_bert_config.json`), else the mean over a text's tokens (Reimers and Gurevych 2019).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from truetune.errors import InputError
from truetune.models import facts, gate

KINDS = frozenset(
    {
        "albert", "bert", "camembert", "deberta", "deberta-v2", "distilbert", "electra", "ernie", "eurobert",
        "flaubert", "modernbert", "mpnet", "nomic_bert", "roberta", "roberta-prelayernorm", "xlm", "xlm-roberta",
        "xlm-roberta-xl",
    }
)  # fmt: skip
"""Model types of encoders."""
MODE = "pooling_mode_"
POOLINGS = {
    "mean_tokens": "mean",
    "mean": "mean",
    "cls_token": "cls",
    "cls": "cls",
    "max_tokens": "max",
    "max": "max",
    "mean_sqrt_len_tokens": "root",
}
"""sentence-transformers' names, older and newer, for what is done here."""
TOLD = "config_sentence_transformers.json"
MODULES = ("Transformer", "Pooling", "Normalize")
"""Its steps that are done here."""


@dataclass(frozen=True)
class Pooling:
    """`mean`: over the text's tokens; `cls`: the first token's state; `max`: the largest of each number; `root`: the
    sum over the root of how many there are."""

    kind: str = "mean"
    normalised: bool = False
    """Whether embeddings have the length 1."""
    longest: int | None = None
    """Most tokens of a text, where the folder says so."""
    lower: bool = False
    """Whether texts are read in small letters."""


def reads(folder: Path) -> bool:
    """Whether a model is an encoder. Raises InputError as `facts.config`."""
    values = facts.config(folder)
    return values.get("model_type") in KINDS and not values.get("is_decoder")


def pooling(folder: Path) -> Pooling:
    """How embeddings are made of a model's states. Raises InputError `model.pooling`."""
    if not (folder / "modules.json").is_file():
        return Pooling()
    steps = [step for step in parsed(folder / "modules.json", list) if isinstance(step, dict)]
    kinds = [str(step.get("type", "")).rpartition(".")[2] for step in steps]
    if odd := [kind for kind in kinds if kind not in MODULES]:
        raise refused(folder / "modules.json", f"it has a step that is not done here, {odd[0][:40]!r}")
    place = next((str(step.get("path", "")) for step in steps if str(step.get("type")).endswith("Pooling")), "")
    chosen = kind(folder, place) if place else "mean"
    about = folder / "sentence_bert_config.json"
    more = parsed(about, dict) if about.is_file() else {}
    longest = more.get("max_seq_length")
    if told(folder).get("default_prompt_name"):
        raise refused(folder / TOLD, "it puts a text of its own before every text")
    return Pooling(
        chosen,
        "Normalize" in kinds,
        longest if isinstance(longest, int) and longest > 0 else None,
        bool(more.get("do_lower_case")),
    )


def told(folder: Path) -> dict[str, Any]:
    """What else sentence-transformers writes, if anything."""
    found: dict[str, Any] = parsed(folder / TOLD, dict) if (folder / TOLD).is_file() else {}
    return found


def kind(folder: Path, place: str) -> str:
    path = folder / place / "config.json"
    if Path(place).name != place or place == "..":
        raise refused(folder / "modules.json", "its pooling lies outside of the folder")
    values = parsed(path, dict)
    wanted = [name.removeprefix(MODE) for name, value in values.items() if name.startswith(MODE) and value is True]
    if isinstance(values.get("pooling_mode"), str):
        wanted = [values["pooling_mode"]]
    if len(wanted) != 1 or wanted[0] not in POOLINGS:
        names = " and ".join(wanted)[:120] or "none"
        raise refused(path, f"its pooling is {names}, and one of {', '.join(POOLINGS)} is done here")
    return POOLINGS[wanted[0]]


def parsed(path: Path, wanted: type) -> Any:
    try:
        found = gate.parse(path)
    except (ValueError, OSError) as error:
        raise refused(path, f"it cannot be read ({error})") from None
    if not isinstance(found, wanted):
        raise refused(path, "it is not what it is called")
    return found


def refused(path: Path, reason: str) -> InputError:
    return InputError(
        f"sentence-transformers' settings cannot be followed: {reason}",
        code="model.pooling",
        where=str(path),
        hint="Without modules.json the embedding is the mean over a text's tokens.",
    )

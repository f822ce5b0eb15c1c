"""Model types that other packages bring: entry points of the group `truetune.models`, each a `Kind`.

Such a package registers its classes with transformers; what TrueTune cannot ask transformers stands here.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from truetune import plugins


@dataclass(frozen=True)
class Kind:
    """A `model_type` of config.json that transformers does not have.

    `register` is `module:function`; the function is called once, before the first model of this type is made, and
    gives the classes to transformers' `AutoConfig` and `AutoModelForCausalLM`.
    """

    name: str
    register: str
    packs: bool = False
    """Whether its attention goes through transformers' table of attention functions with all keywords handed on, so
    that several texts in one row do not see each other."""
    targets: tuple[str, ...] = ()
    """Layers that `target_modules: auto` adapts, by the end of their names; none = every linear one."""


@cache
def of(name: str) -> Kind | None:
    """The type of this name, if an installed package brings it. Raises InputError `plugin.unusable`."""
    if name not in plugins.points(plugins.MODELS):
        return None
    found = plugins.load(plugins.MODELS, name)
    if not isinstance(found, Kind):
        raise plugins.unusable(plugins.MODELS, name, f"it is no Kind but {type(found).__name__}")
    if found.name != name or ":" not in found.register:
        raise plugins.unusable(plugins.MODELS, name, "it must have this name, and `register` as module:function")
    return found

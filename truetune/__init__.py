"""TrueTune: fine-tune language models on the machine you have, with a receipt for every row.

    import truetune as ft
    run = ft.train("train.yml")

The verbs are those of `truetune.api`; each is imported when it is first used, so importing this costs nothing.
What a user can cause is raised as a `TrueTuneError`: a sentence, a place and a hint in `finding`, and an `exit_code`.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

from truetune import api
from truetune.errors import TrueTuneError as TrueTuneError

if TYPE_CHECKING:  # what `__getattr__` gives, for editors and type checkers
    from truetune.api.adapters import adapter_add as adapter_add
    from truetune.api.adapters import adapter_promote as adapter_promote
    from truetune.api.adapters import adapter_remove as adapter_remove
    from truetune.api.adapters import adapter_rename as adapter_rename
    from truetune.api.adapters import adapter_show as adapter_show
    from truetune.api.adapters import adapters_compare as adapters_compare
    from truetune.api.adapters import adapters_list as adapters_list
    from truetune.api.arithmetic import adapter_compress as adapter_compress
    from truetune.api.arithmetic import adapters_merge as adapters_merge
    from truetune.api.benchmark import benchmark as benchmark
    from truetune.api.benchmark import benchmark_compare as benchmark_compare
    from truetune.api.chat import chat as chat
    from truetune.api.chat import generate as generate
    from truetune.api.chat import open_run as open_run
    from truetune.api.chat import side_by_side as side_by_side
    from truetune.api.config import config_edit as config_edit
    from truetune.api.config import config_schema as config_schema
    from truetune.api.config import config_show as config_show
    from truetune.api.config import init as init
    from truetune.api.dataset.augment import dataset_augment as dataset_augment
    from truetune.api.dataset.check import dataset_check as dataset_check
    from truetune.api.dataset.convert import dataset_convert as dataset_convert
    from truetune.api.dataset.prepare import dataset_prepare as dataset_prepare
    from truetune.api.dataset.show import dataset_show as dataset_show
    from truetune.api.doctor import doctor as doctor
    from truetune.api.evaluate import evaluate as evaluate
    from truetune.api.export import export as export
    from truetune.api.library import models_info as models_info
    from truetune.api.library import models_list as models_list
    from truetune.api.library import models_remove as models_remove
    from truetune.api.memory import models_fit as models_fit
    from truetune.api.memory import suggest as suggest
    from truetune.api.models import models_pull as models_pull
    from truetune.api.models import models_search as models_search
    from truetune.api.prove import run_prove as run_prove
    from truetune.api.report import report as report
    from truetune.api.runs import receipt_show as receipt_show
    from truetune.api.runs import receipt_verify as receipt_verify
    from truetune.api.runs import run_remove as run_remove
    from truetune.api.runs import run_show as run_show
    from truetune.api.runs import run_stop as run_stop
    from truetune.api.runs import runs_compare as runs_compare
    from truetune.api.runs import runs_list as runs_list
    from truetune.api.serve import adapter_load as adapter_load
    from truetune.api.serve import adapter_switch as adapter_switch
    from truetune.api.serve import adapter_unload as adapter_unload
    from truetune.api.serve import serve as serve
    from truetune.api.shell import load_into as load_into
    from truetune.api.shell import open_session as open_session
    from truetune.api.status import status as status
    from truetune.api.train import preview as preview
    from truetune.api.train import train as train
    from truetune.runs.monitor import MemoryMonitor as MemoryMonitor

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name in api.VERBS or name in api.TOOLS:
        return api.load(name)
    raise AttributeError(f"module 'truetune' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *api.VERBS, *api.TOOLS})


class _Verb(ModuleType):
    """A package with the name of a verb: `truetune.train` is the package of the loop and `ft.train(...)` works too."""

    def __call__(self, *args: Any, **values: Any) -> Any:
        return api.load(self.__name__.rpartition(".")[2])(*args, **values)


class _Root(ModuleType):
    """Importing a package binds its name here, in the verb's place: such a package is made callable."""

    def __setattr__(self, name: str, value: object) -> None:
        if name in api.VERBS and isinstance(value, ModuleType):
            value.__class__ = _Verb
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Root

"""The verbs as Python functions; the command line and the other faces are thin callers of these.

`truetune.train` is `truetune.api.train.train`, and so on: the table names each verb's module, which is imported when
the verb is first used.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

VERBS = {
    "train": "truetune.api.train",
    "preview": "truetune.api.train",
    "evaluate": "truetune.api.evaluate",
    "init": "truetune.api.config",
    "config_schema": "truetune.api.config",
    "config_show": "truetune.api.config",
    "config_edit": "truetune.api.config",
    "dataset_augment": "truetune.api.dataset.augment",
    "dataset_check": "truetune.api.dataset.check",
    "dataset_convert": "truetune.api.dataset.convert",
    "dataset_prepare": "truetune.api.dataset.prepare",
    "dataset_show": "truetune.api.dataset.show",
    "chat": "truetune.api.chat",
    "generate": "truetune.api.chat",
    "side_by_side": "truetune.api.chat",
    "open_run": "truetune.api.chat",
    "open_session": "truetune.api.shell",
    "load_into": "truetune.api.shell",
    "report": "truetune.api.report",
    "export": "truetune.api.export",
    "adapters_list": "truetune.api.adapters",
    "adapters_compare": "truetune.api.adapters",
    "adapter_show": "truetune.api.adapters",
    "adapter_add": "truetune.api.adapters",
    "adapter_promote": "truetune.api.adapters",
    "adapter_rename": "truetune.api.adapters",
    "adapter_remove": "truetune.api.adapters",
    "adapters_merge": "truetune.api.arithmetic",
    "adapter_compress": "truetune.api.arithmetic",
    "benchmark": "truetune.api.benchmark",
    "benchmark_compare": "truetune.api.benchmark",
    "serve": "truetune.api.serve",
    "adapter_load": "truetune.api.serve",
    "adapter_switch": "truetune.api.serve",
    "adapter_unload": "truetune.api.serve",
    "runs_list": "truetune.api.runs",
    "run_show": "truetune.api.runs",
    "run_stop": "truetune.api.runs",
    "run_remove": "truetune.api.runs",
    "runs_compare": "truetune.api.runs",
    "run_prove": "truetune.api.prove",
    "receipt_show": "truetune.api.runs",
    "receipt_verify": "truetune.api.runs",
    "doctor": "truetune.api.doctor",
    "status": "truetune.api.status",
    "suggest": "truetune.api.memory",
    "models_fit": "truetune.api.memory",
    "models_info": "truetune.api.library",
    "models_list": "truetune.api.library",
    "models_pull": "truetune.api.models",
    "models_remove": "truetune.api.library",
    "models_search": "truetune.api.models",
}
"""Verb -> its module."""
TOOLS = {"MemoryMonitor": "truetune.runs.monitor"}
"""What Python has beside the verbs, in the same way."""


def load(name: str) -> Callable[..., Any]:
    """The function of a verb, or a tool; KeyError for a name that is none."""
    function: Callable[..., Any] = getattr(importlib.import_module((VERBS | TOOLS)[name]), name)
    return function

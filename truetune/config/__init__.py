"""`train.yml`: its schema, loading it with all findings at once, writing one, and secrets."""

from truetune.config.load import Loaded, load
from truetune.config.schema import (
    Checkpoints,
    Config,
    Data,
    EarlyStopping,
    Evaluation,
    Generation,
    Method,
    Model,
    Output,
    Resources,
    Training,
    defaults,
    fields,
    schema,
)
from truetune.config.values import Amount, Cadence

__all__ = [
    "Amount",
    "Cadence",
    "Checkpoints",
    "Config",
    "Data",
    "EarlyStopping",
    "Evaluation",
    "Generation",
    "Loaded",
    "Method",
    "Model",
    "Output",
    "Resources",
    "Training",
    "defaults",
    "fields",
    "load",
    "schema",
]

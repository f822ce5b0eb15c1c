"""The schema of `train.yml`: one frozen class per section, its defaults, and what each key means.

The text under a field is its only description: the file that `ft init` writes, the reference page and the JSON Schema
are generated from it. Its first sentence stands alone as the short description. `auto` stays `auto` here; it is
resolved by those who know the data, the model and the machine.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
    StrictBool,
    WithJsonSchema,
    field_validator,
    model_validator,
)
from pydantic.fields import FieldInfo

from truetune import plugins
from truetune.config.brought import Brought
from truetune.config.values import Amount, Cadence, parse_memory, print_memory, shown

SHORTHANDS = {"model": "path", "data": "path", "method": "type"}
"""`model: starter` is `model: {path: starter}`."""

NAME = r"^[a-z0-9][a-z0-9._-]{0,63}$"
DEVICE = r"^(auto|cpu|cuda|cuda:[0-9]{1,2}|mps)$"
LAYER = re.compile(r"\w+(\.\w+)*")
CONTROL = re.compile(r"[\x00-\x1f\x7f]")
NUMERIC = re.compile(r"[\d.\s-]+(%|rows?)?|.*%")
PERCENT = re.compile(r"\s*\d+(\.\d*)?\s*%\s*")


def whole(value: object) -> object:
    """1e3 and 1000.0 are whole numbers too."""
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) < 2**53 else value


def one_or_more(value: object) -> object:
    """A text, or a list of texts as a tuple."""
    texts = value if isinstance(value, list | tuple) else [value]
    if not texts or not all(isinstance(text, str) and text and not CONTROL.search(text) for text in texts):
        raise ValueError(f"must be text or a list of texts, not {shown(value)}")
    return tuple(value) if isinstance(value, list | tuple) else value


def several(value: object) -> object:
    """A list of numbers above 0 as a tuple, or None."""
    numbers = value if isinstance(value, list | tuple) else [value]
    fine = all(
        isinstance(number, int | float) and not isinstance(number, bool) and 0 < number <= 100 for number in numbers
    )
    if value is not None and not (isinstance(value, list | tuple) and numbers and fine):
        raise ValueError(f"must be a list of numbers above 0 and up to 100, not {shown(value)}")
    return None if value is None else tuple(map(float, numbers))


def held_out(value: object) -> object:
    """`auto`, None, an `Amount`, or a path: text that does not look like a number."""
    if value is None or value == "none":
        return None
    if isinstance(value, str) and (value == "auto" or not NUMERIC.fullmatch(value)):
        return one_or_more(value)
    try:
        amount = Amount.parse(value)
    except ValueError:
        if isinstance(value, str) and PERCENT.fullmatch(value):
            raise ValueError(f"must leave rows to train on: less than 100%, not {shown(value)}") from None
        wanted = "`auto`, `none`, a percentage such as `5%`, a number of rows or a path"
        raise ValueError(f"must be {wanted}, not {shown(value)}") from None
    if amount.percent and amount.value >= 100:
        raise ValueError("must leave rows to train on: less than 100%")
    return amount if amount.value else None


def memory(value: object) -> object:
    """`auto`, or bytes."""
    return value if value == "auto" else parse_memory(value)


def strength(value: object) -> object:
    """`auto`, or a number above 0."""
    if value == "auto":
        return value
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 100:
        raise ValueError(f"must be `auto`, or a number above 0 and at most 100, not {shown(value)}")
    return float(value)


def class_weights(value: object) -> object:
    """`none`, `balanced`, or numbers above 0 by class; YAML reads a class 1 or true as no text."""
    if value in ("none", "balanced"):
        return value
    if not isinstance(value, dict) or not value:
        raise ValueError(f"must be `none`, `balanced` or {{name: number}}, not {shown(value)}")
    for number in value.values():
        if isinstance(number, bool) or not isinstance(number, int | float) or not 0 < number <= 1000:
            raise ValueError(f"must have numbers above 0 and at most 1000, not {shown(number)}")
    return {str(name).lower() if isinstance(name, bool) else str(name): float(n) for name, n in value.items()}


def plain(value: object) -> object:
    """As JSON and YAML hold it."""
    return value.plain() if isinstance(value, Amount) else list(value) if isinstance(value, tuple) else value


Text = Annotated[str, Field(strict=True, min_length=1, max_length=4096, pattern=r"^[^\x00-\x1f\x7f]+$")]
Count = Annotated[int, BeforeValidator(whole), Field(strict=True, ge=1, le=2**31 - 1)]
Natural = Annotated[int, BeforeValidator(whole), Field(strict=True, ge=0, le=2**31 - 1)]
Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Texts = Annotated[
    str | tuple[str, ...],
    PlainValidator(one_or_more),
    PlainSerializer(plain),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}),
]
Weights = Annotated[
    tuple[float, ...] | None,
    PlainValidator(several),
    PlainSerializer(plain),
    WithJsonSchema(
        {"anyOf": [{"type": "array", "items": {"type": "number", "exclusiveMinimum": 0}}, {"type": "null"}]}
    ),
]
Often = Annotated[
    Cadence,
    PlainValidator(Cadence.parse),
    PlainSerializer(str, return_type=str),
    WithJsonSchema({"type": "string", "examples": ["100 steps", "1 epoch", "10 min"]}),
]
Part = Annotated[
    Amount,
    PlainValidator(Amount.parse),
    PlainSerializer(plain),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "number", "minimum": 0}], "examples": ["5%", 100]}),
]
HeldOut = Annotated[
    Literal["auto"] | Amount | str | None,
    PlainValidator(held_out),
    PlainSerializer(plain),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "number", "minimum": 0}, {"type": "null"}]}),
]
Memory = Annotated[
    int | Literal["auto"],
    PlainValidator(memory),
    PlainSerializer(lambda size: size if size == "auto" else print_memory(size), return_type=str),
    WithJsonSchema({"type": "string", "examples": ["auto", "7.5GB", "512MiB"]}),
]

Strength = Annotated[
    float | Literal["auto"],
    PlainValidator(strength),
    PlainSerializer(plain),
    WithJsonSchema({"anyOf": [{"const": "auto"}, {"type": "number", "exclusiveMinimum": 0, "maximum": 100}]}),
]

ClassWeights = Annotated[
    dict[str, float] | Literal["none", "balanced"],
    PlainValidator(class_weights),
    WithJsonSchema(
        {
            "anyOf": [
                {"enum": ["none", "balanced"]},
                {"type": "object", "additionalProperties": {"type": "number", "exclusiveMinimum": 0, "maximum": 1000}},
            ]
        }
    ),
]


class Section(BaseModel):
    """What all sections share: frozen, unknown keys refused, descriptions from the text under a field."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, protected_namespaces=())


class Model(Section):
    """The model to start from."""

    path: Text
    """`starter`, a hub id such as Qwen/Qwen2.5-0.5B-Instruct, or a folder."""

    revision: Text | None = None
    """Commit, tag or branch on the hub. null = the newest, pinned to its commit when the run starts."""

    adapter: Text | None = None
    """Adapter to continue from, as a folder. null = a fresh one."""

    new_tokens: Texts | None = None
    """Tokens to add to the vocabulary, as ["<city>", "<date>"]. Their rows are trained beside the adapter."""

    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Number format of the weights. auto = bfloat16 where the device is fast at it, else float32."""


class Data(Section):
    """The rows to learn from."""

    path: Texts
    """File, folder, pattern or address with the rows, or a list. Relative to this file, then to where you stand."""

    weights: Weights = None
    """How often each epoch sees the rows, for every entry of path: [2, 1, 0.5]. null = once."""

    format: Text = "auto"
    """Shape of the rows, such as messages, sharegpt, alpaca or text. auto = found by looking over many rows."""

    columns: dict[Text, Text] | None = None
    """Your column names, as {prompt: question, response: answer}. null = the usual names."""

    template: Text = "auto"
    """Chat template: auto, none, a name as chatml, or a Jinja file. auto = the model's own; none = text as it is."""

    train_on: Literal["assistant", "all", "last"] = "assistant"
    """Tokens that are learned: assistant, all or last. assistant = every answer and its end; last = the last one."""

    split: Text = "train"
    """Which files of a data folder to train on, by the start of their name."""

    validation: HeldOut = "auto"
    """Rows held out to measure on: auto, none, 5%, 200, or a file. auto = 5%, at least 8 and at most 500 rows."""

    max_length: Annotated[Count, Field(ge=8)] = 2048
    """Longest example, in tokens."""

    too_long: Literal["drop", "truncate", "split", "error"] = "drop"
    """What happens to a longer conversation: drop, truncate, split or error. truncate = its end is lost; split = it
    becomes several, parted where a question begins."""

    overlap: Natural = 0
    """Tokens of a long text that its next window begins with again, as context. For plain texts."""

    max_rejects: Part = Amount(5, percent=True)
    """Most bad rows that are skipped, as 5% or a number. With more, the run does not start."""

    dedupe: Literal["exact", "near", "none"] = "exact"
    """Whether a row that stands twice is learned once: exact, near or none. near = also one nearly the same."""

    @property
    def paths(self) -> tuple[str, ...]:
        """`path` as a tuple, be it one or many."""
        return (self.path,) if isinstance(self.path, str) else self.path


class Method(Section):
    """How the model is changed."""

    type: Annotated[
        Literal["auto", "lora", "qlora", "dora", "rslora", "full", "prefix", "ptuning_v2", "ptuning", "prompt", "ia3"],
        Brought(plugins.METHODS),
    ] = "auto"
    """auto, lora, qlora, dora, rslora, full, prefix, ptuning_v2, ptuning, prompt or ia3. lora = a small adapter beside
    the frozen model; qlora = the same beside a model packed into 4 or 8 bits; dora = with lengths of their own for
    rows; rslora = for high ranks, its output scaled by alpha / √r; full = all weights; ia3 = a factor for some numbers;
    the others = virtual tokens before every text; auto = lora, or qlora where a GPU's memory does not hold the whole
    model."""

    r: Annotated[Count, Field(le=4096)] = 16
    """Rank of the adapter: how much it can hold."""

    alpha: Annotated[Number, Field(gt=0)] = 32
    """Strength of the adapter. Its output is scaled by alpha / r."""

    dropout: Annotated[Number, Field(ge=0, lt=1)] = 0.05
    """Share of the adapter's inputs set to 0 in training."""

    target_modules: Texts = "auto"
    """Layers that get an adapter, by the end of their names, as [q_proj, v_proj]. auto = every linear one inside, but
    none beside experts; all-linear = those too. Other text is a pattern for whole names."""

    @field_validator("target_modules")
    @classmethod
    def _one_name(cls, value: str | tuple[str, ...]) -> str | tuple[str, ...]:
        """A single name is a list of one; other text is a pattern for whole names."""
        single = isinstance(value, str) and value not in ("auto", "all-linear") and LAYER.fullmatch(value)
        return (value,) if single else value  # type: ignore[return-value]

    init: Literal["default", "pissa", "olora", "loftq"] = "default"
    """Where a fresh adapter starts: default, pissa, olora or loftq. pissa and olora = as the main part of each weight;
    loftq = as what packing rounds off, for qlora."""

    lora_plus: Annotated[Number, Field(gt=0, le=1000)] | None = None
    """LoRA+: how many times as fast the second matrix learns, as 16. null = as fast as the first."""

    modules_to_save: Texts | None = None
    """Modules trained whole beside the adapter, as [embed_tokens, lm_head]. By the end of their names; null = none."""

    virtual_tokens: Annotated[Count, Field(le=4096)] = 20
    """Tokens before every text, for prefix, ptuning_v2, ptuning and prompt."""

    encoder_hidden: Annotated[Count, Field(le=2**16)] | None = None
    """Width of the network that makes them, for prefix and ptuning. null = the model's own."""

    frozen_layers: Natural = 0
    """For full: this many of the lowest layers, and the embedding, stay as they are. 0 = all are trained."""

    bits: Literal[4, 8] = 4
    """Bits per weight of the frozen model, for qlora: 4 or 8."""


class Training(Section):
    """How long and how fast it learns. A step is batch_size × gradient_accumulation_steps examples over all devices."""

    objective: Annotated[
        Literal[
            "auto", "sft", "summarisation", "pretrain", "dpo", "orpo", "simpo", "cpo", "kto", "reward", "classification"
        ],
        Brought(plugins.OBJECTIVES),
    ] = "auto"
    """sft, summarisation, pretrain, dpo, orpo, simpo, cpo, kto, reward, classification. sft = answers; summarisation =
    answers, measured by ROUGE; pretrain = whole texts; dpo, orpo, simpo and cpo = the better of two answers; kto = good
    and bad answers; reward = a score for answers; classification = the class of a text; auto = from the shape of the
    rows."""

    learning_rate: Annotated[Number, Field(gt=0, le=10)] = 2e-4
    """Highest learning rate, reached after the warm-up. Typical: 2e-4 for lora, 1e-5 for full."""

    batch_size: Annotated[Count, Field(le=2**20)] = 4
    """Examples that go together; the engine cuts them so that they fit into memory."""

    gradient_accumulation_steps: Annotated[Count, Field(le=2**20)] = 4
    """Batches that make one step of the optimizer."""

    epochs: Annotated[Number, Field(gt=0, le=1e6)] = 3
    """Passes over the rows; 0.5 is half of them."""

    max_steps: Count | None = None
    """Most optimizer steps, even if epochs are left. null = no such bound."""

    scheduler: Literal["cosine", "linear", "constant", "polynomial", "wsd", "one_cycle"] = "cosine"
    """Learning rate over time: cosine, linear, constant, polynomial, wsd or one_cycle. polynomial = falls with
    the square; wsd = constant, then down in the last fifth; one_cycle = up for 30% of the steps, then down."""

    min_lr_ratio: Annotated[Number, Field(ge=0, lt=1)] = 0.0
    """Where the learning rate ends, as a share of learning_rate."""

    warmup: Part = Amount(3, percent=True)
    """Steps in which the learning rate rises from 0: 3% or a number of steps."""

    weight_decay: Annotated[Number, Field(ge=0, le=1)] = 0.01
    """Pull of the matrices towards 0, decoupled from the gradient."""

    max_grad_norm: Annotated[Number, Field(gt=0)] | None = 1.0
    """Longest gradient; a longer one is scaled down to it. null = never."""

    not_finite: Literal["stop", "skip"] = "stop"
    """A step whose loss or gradient is no number: stop or skip. skip = it changes nothing, and is counted; five in a
    row stop the run."""

    optimizer: Literal["adamw", "adamw_8bit", "paged_adamw", "paged_adamw_8bit", "adafactor", "lion", "muon", "sgd"] = (
        "adamw"
    )
    """adamw, adamw_8bit, paged_adamw, paged_adamw_8bit, adafactor, lion, muon or sgd. 8bit = a quarter of the memory;
    paged = what a GPU does not hold waits in the host's memory."""

    neftune_alpha: Annotated[Number, Field(gt=0, le=1000)] | None = None
    """Noise on the embeddings in training (NEFTune): 5 is customary. null = none."""

    ema: Annotated[Number, Field(gt=0, lt=1)] | None = None
    """Decay of a running mean of the trained weights, such as 0.99. The mean is measured and shipped. null = none."""

    seed: Annotated[Natural, Field(le=2**31 - 1)] = 42
    """Seed of the order of rows, the held-out rows, the fresh adapter and dropout."""


class Preference(Section):
    """How answers are compared, for the objectives that learn from better and worse ones."""

    loss: Literal["sigmoid", "ipo", "hinge"] = "sigmoid"
    """Loss of dpo: sigmoid, ipo or hinge."""

    beta: Strength = "auto"
    """Scale of the comparison. dpo and kto: higher = closer to the model before training; orpo: weight of the
    comparison. auto = 0.1, for simpo 2."""

    label_smoothing: Annotated[Number, Field(ge=0, lt=0.5)] = 0.0
    """Share of the pairs that may be the wrong way round. For dpo with sigmoid, simpo and cpo."""

    margin: Annotated[Number, Field(ge=0, le=100)] = 0.5
    """By how much the better answer is to lead. For simpo."""

    sft_weight: Annotated[Number, Field(ge=0, le=100)] = 1.0
    """Weight of learning the better answer itself. For orpo and cpo."""

    desirable_weight: Annotated[Number, Field(ge=0, le=100)] = 1.0
    """Weight of good answers. For kto."""

    undesirable_weight: Annotated[Number, Field(ge=0, le=100)] = 1.0
    """Weight of bad answers. For kto."""


class Classification(Section):
    """How texts are sorted into classes, for the objective classification."""

    class_weights: ClassWeights = "none"
    """How much a row of each class counts: none, balanced, or {name: 2}. balanced = rare classes count more."""

    threshold: Annotated[Number, Field(gt=0, lt=1)] = 0.5
    """Probability from which a class is taken to hold. For rows with lists of labels."""


class EarlyStopping(Section):
    """Stop when the held-out loss no longer falls."""

    patience: Count = 3
    """Evaluations without improvement before it stops."""

    min_delta: Annotated[Number, Field(ge=0)] = 0.0
    """How much lower the held-out loss must be to count as improvement."""


class Evaluation(Section):
    """Measuring on the held-out rows while it trains."""

    every: Often | None = Cadence(100, "steps")
    """How often: 100 steps, 1 epoch or 10 min. null = only before the first step and after the last."""

    samples: Annotated[Natural, Field(le=1000)] = 4
    """Held-out prompts that are answered each time, for you to read. 0 = none."""

    early_stopping: EarlyStopping | None = None
    """When to stop early, as {patience: 3, min_delta: 0}. null = never."""


class Checkpoints(Section):
    """Saving on the way, so that a run can go on after a stop or a crash."""

    every: Often | None = Cadence(100, "steps")
    """How often: 100 steps, 1 epoch or 10 min. null = only at the end or when stopped."""

    keep: Count = 3
    """How many of the newest are kept; the best is kept besides."""

    best: StrictBool = True
    """The result is the checkpoint with the lowest held-out loss. false = the last one."""


class Generation(Section):
    """How answers are drawn. These values travel with the adapter."""

    temperature: Annotated[Number, Field(ge=0, le=5)] = 0.7
    """Freedom of the choice of words. 0 = always the likeliest."""

    top_p: Annotated[Number, Field(gt=0, le=1)] = 0.9
    """Share of the probability that is drawn from, the likeliest words first."""

    max_new_tokens: Count = 256
    """Longest answer, in tokens."""


class Resources(Section):
    """The machine."""

    engine: Literal["auto", "torch", "mlx"] = "auto"
    """What computes: torch or mlx. auto = mlx on Apple silicon where it is installed and has the model, else torch."""

    device: Annotated[str, Field(strict=True, pattern=DEVICE)] = "auto"
    """auto, cpu, cuda, cuda:1 or mps. auto = a GPU where there is one."""

    memory: Memory = "auto"
    """Memory that training may use, such as 7.5GB. auto = what is free on the device, less a reserve."""

    workers: Annotated[Count, Field(le=1)] = 1
    """Machines or processes that train together: 1."""


class Output(Section):
    """Where the run goes."""

    dir: Text | None = None
    """The run's own folder. null = a new one under ./runs."""

    name: Annotated[str, Field(strict=True, pattern=NAME)] | None = None
    """Name of the run and its adapter. null = made from the model and the data."""

    log: tuple[Literal["tensorboard"], ...] = ("tensorboard",)
    """Logs besides the run's own: [tensorboard], or [] for none."""


class Config(Section):
    """A whole `train.yml`."""

    version: Literal[1] = 1
    """Version of this file's format: 1."""

    model: Model
    data: Data
    method: Method = Method()
    training: Training = Training()
    preference: Preference = Preference()
    classification: Classification = Classification()
    evaluation: Evaluation = Evaluation()
    checkpoints: Checkpoints = Checkpoints()
    generation: Generation = Generation()
    resources: Resources = Resources()
    output: Output = Output()

    profile: Literal["chat", "instruction", "code", "classification", "small-gpu"] | None = None
    """Set of defaults: chat, instruction, code, classification or small-gpu. What you write here goes before it."""

    @model_validator(mode="before")
    @classmethod
    def _expand(cls, value: object) -> object:
        if not isinstance(value, dict):
            return value
        return {key: expand(key, part) for key, part in value.items()}


def expand(section: str, value: object) -> object:
    """A shorthand as the section it stands for; other values as they are."""
    if section in SHORTHANDS and isinstance(value, str | list | tuple):
        return {SHORTHANDS[section]: value}
    return value


def sections() -> dict[str, type[Section]]:
    """The keys of `train.yml` that hold keys themselves, in order."""
    found = {name: field.annotation for name, field in Config.model_fields.items()}
    return {name: kind for name, kind in found.items() if isinstance(kind, type) and issubclass(kind, Section)}


def fields() -> Iterator[tuple[str, FieldInfo]]:
    """Every key with a value of its own, dotted (`training.learning_rate`), in the order of the file."""
    nested = sections()
    for name, field in Config.model_fields.items():
        if name not in nested:
            yield name, field
        else:
            yield from ((f"{name}.{key}", inner) for key, inner in nested[name].model_fields.items())


def schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of `train.yml` for editors, shorthands included."""
    document = Config.model_json_schema()
    document["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    values = defaults()
    for name, kind in sections().items():
        full = document["$defs"][kind.__name__]["properties"]
        for key in full.keys() & values[name].keys():
            full[key]["default"] = values[name][key]
        short = [full[SHORTHANDS[name]]] if name in SHORTHANDS else []
        whole = {"$ref": f"#/$defs/{kind.__name__}"}
        empty = [] if name in document["required"] else [{"type": "null"}]
        document["properties"][name] = {"description": kind.__doc__, "anyOf": [*short, whole, *empty]}
    return document


def defaults() -> dict[str, Any]:
    """Every default as JSON holds it, by section; `model.path` and `data.path` have none."""
    values = Config(model=Model(path="-"), data=Data(path="-")).model_dump(mode="json")
    del values["model"]["path"], values["data"]["path"]
    return values

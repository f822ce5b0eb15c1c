"""Load a configuration: `train.yml`, the values of a command line, `--set`; all findings at once.

Layers, later ones before earlier ones: defaults of the schema < profile < file < values < `--set`.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from ruamel.yaml import YAML

from truetune.config import document, problems
from truetune.config.profiles import PROFILES
from truetune.config.rules import contradictions
from truetune.config.schema import Config, expand, sections
from truetune.errors import ConfigErrors, Finding, InputError

Place = tuple[str, ...]

REQUIRED = (("model", "path"), ("data", "path"))


@dataclass(frozen=True)
class Setting:
    """One value of one layer: where it goes, and where it was written (`train.yml:12`)."""

    place: Place
    value: Any
    where: str


@dataclass(frozen=True)
class Loaded:
    """A configuration and where it came from.

    config    the values, defaults included
    text      the file byte for byte; without a file, YAML of the given values
    path      the file, if there is one
    folder    the file's folder, else the working folder: relative paths start here
    sources   dotted key -> `train.yml:12`, `given`, `--set`, `profile chat`; an absent key has its default
    explicit  dotted keys that the user wrote (not those of a profile)
    """

    config: Config
    text: bytes
    path: Path | None
    folder: Path
    sources: Mapping[str, str]
    explicit: frozenset[str]


@dataclass
class Layers:
    """The values so far, and for each place where it was written."""

    tree: dict[str, Any] = field(default_factory=dict)
    origins: dict[Place, str] = field(default_factory=dict)

    def put(self, setting: Setting) -> None:
        """Set a value and forget what an earlier layer had at and below its place."""
        *above, last = setting.place
        spot = self.tree
        for key in above:
            if not isinstance(spot.get(key), dict):
                spot[key] = {}
            spot = spot[key]
        if last in spot:
            size = len(setting.place)
            self.origins = {place: at for place, at in self.origins.items() if place[:size] != setting.place}
        spot[last] = setting.value
        self.origins[setting.place] = setting.where

    def where(self, place: Place, name: str) -> str:
        """The line of the nearest place that was written, else the file's `name`; and the dotted key."""
        above = (place[:size] for size in range(len(place), 0, -1))
        below = (part for part in self.origins if part[: len(place)] == place)
        at = next((self.origins[part] for part in (*above, *below) if part in self.origins), name)
        return f"{at} {'.'.join(place)}".strip()


def load(path: Path | None, overrides: Sequence[str] = (), values: Mapping[str, object] | None = None) -> Loaded:
    """Read and check a configuration.

    overrides  `key=value` texts of `--set`, the key dotted, the value YAML
    values     what other options say (`{"model": "starter", "resources.device": "cpu"}`); None = not given

    Raises ConfigErrors with all findings, InputError where the file cannot be read.
    """
    return loads(read(path) if path else b"", path, overrides, values)


def loads(
    data: bytes, path: Path | None, overrides: Sequence[str] = (), values: Mapping[str, object] | None = None
) -> Loaded:
    """`load` for the bytes of a file that is, or will be, at `path`."""
    name = str(path) if path else ""
    overrides = [overrides] if isinstance(overrides, str) else overrides
    source = document.read(data, name) if path else document.Document(value={})
    findings = list(source.findings) or list(shape(source, name))
    settings = [*from_file(source, name), *from_values(values or {}), *from_overrides(overrides, findings)]
    if not isinstance(source.value, dict):
        raise ConfigErrors(findings)
    layers, explicit = stack(settings)
    config, wrong = check(layers, explicit, name)
    if findings or wrong or config is None:
        raise ConfigErrors(in_order([*findings, *wrong], name))
    text = data if path else written(settings)
    return Loaded(config, text, path, path.parent if path else Path(), sources(layers), frozenset(explicit))


def read(path: Path) -> bytes:
    """The bytes of the file, at most a little more than a configuration may have."""
    try:
        with path.open("rb") as file:
            return file.read(document.LARGEST + 1)
    except FileNotFoundError:
        raise InputError(
            "there is no such file", code="config.no_file", where=str(path), hint="`ft init` writes a train.yml"
        ) from None
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        hint = "check that it is a file and that you may read it"
        raise InputError(f"cannot be read: {reason}", code="config.unreadable", where=str(path), hint=hint) from None


def shape(source: document.Document, name: str) -> Iterator[Finding]:
    """The top of the file must be keys."""
    hint = "a small one: `model: starter` and `data: rows.jsonl`, each on its line; `ft init` writes a full one"
    if source.value is None:
        yield Finding(code="config.empty", message="the file is empty", where=name, hint=hint)
    elif not isinstance(source.value, dict):
        kind = "a list" if isinstance(source.value, list) else "plain text"
        message = f"the file must hold keys such as `model:`, not {kind}"
        yield Finding(code="config.shape", message=message, where=f"{name}:{source.lines[()]}", hint=hint)


def from_file(source: document.Document, name: str) -> Iterator[Setting]:
    """The file's settings, each with its line."""
    for place, value in flatten(source.value if isinstance(source.value, dict) else {}):
        for spot, inner in leaves(place, value):
            above = (spot[:size] for size in range(len(spot), 0, -1))
            yield Setting(spot, inner, f"{name}:{next(source.lines[part] for part in above if part in source.lines)}")


def leaves(place: Place, value: Any) -> Iterator[tuple[Place, Any]]:
    """A group of keys as its keys, so that each has its own line."""
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from leaves((*place, key), inner)
    else:
        yield place, value


def from_values(values: Mapping[str, object]) -> Iterator[Setting]:
    """Options of a command line or arguments of the Python API, keys dotted or nested."""
    for key, value in values.items():
        if value is not None:
            yield from (Setting(place, plain(inner), "") for place, inner in assign(tuple(key.split(".")), value))


def from_overrides(overrides: Iterable[str], findings: list[Finding]) -> Iterator[Setting]:
    """The settings of `--set`; what cannot be read is added to `findings`."""
    for override in overrides:
        key, equals, text = override.partition("=")
        place = tuple(key.strip().split("."))
        if not equals or not all(place):
            hint = "write it as `--set training.learning_rate=1e-4`"
            findings.append(Finding(code="config.set", message="not a key=value", where=f"--set {override}", hint=hint))
            continue
        parsed = document.parse(text, "--set")
        findings += (replace(finding, where=f"--set {key.strip()}") for finding in parsed.findings)
        if not parsed.findings:
            yield from (Setting(spot, value, "--set") for spot, value in assign(place, parsed.value))


def assign(place: Place, value: object) -> Iterable[tuple[Place, Any]]:
    """A value as the settings it stands for: a shorthand or a whole section as its keys."""
    return flatten({place[0]: value}) if len(place) == 1 and value is not None else [(place, value)]


def flatten(values: Mapping[str, Any]) -> Iterator[tuple[Place, Any]]:
    """Section by section into keys; shorthands expanded."""
    known = sections()
    for name, value in values.items():
        full = expand(name, plain(value))
        if name not in known or not (full is None or isinstance(full, dict)):
            yield (name,), full
        else:
            yield from (((name, key), inner) for key, inner in (full or {}).items())


def plain(value: object) -> Any:
    """Paths as text, tuples as lists; everything else is checked by the schema."""
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def stack(settings: Sequence[Setting]) -> tuple[Layers, set[str]]:
    """All layers on one another, the profile that they name at the bottom."""
    layers = Layers()
    profile = next((setting.value for setting in reversed(settings) if setting.place == ("profile",)), None)
    if isinstance(profile, str):
        for key, value in PROFILES.get(profile, {}).items():
            layers.put(Setting(tuple(key.split(".")), value, f"profile {profile}"))
    for setting in settings:
        layers.put(setting)
    return layers, {".".join(setting.place[:2]) for setting in settings}


def in_order(findings: Iterable[Finding], name: str) -> list[Finding]:
    """By line of the file; what stands elsewhere, or nowhere, goes last."""

    def line(finding: Finding) -> float:
        number = finding.where.removeprefix(f"{name}:").partition(" ")[0]
        return int(number) if number.isdecimal() else math.inf

    return sorted(findings, key=line)


def sources(layers: Layers) -> dict[str, str]:
    """Dotted key -> where it was written."""
    found: dict[str, str] = {}
    for place, at in layers.origins.items():
        found.setdefault(".".join(place[:2]), at or "given")
    return found


def check(layers: Layers, explicit: set[str], name: str) -> tuple[Config | None, list[Finding]]:
    """The configuration and all that is wrong with it, contradictions among its sound keys included."""
    config, errors = validate(layers.tree)
    findings = [problems.finding(error, layers.where(tuple(map(str, error["loc"])), name)) for error in errors]
    if errors:
        config, _ = validate(sound(layers.tree, errors))
    failed = {".".join(map(str, error["loc"][:2])) for error in errors}
    for clash in contradictions(config, explicit - failed) if config else ():
        where = layers.where(tuple(clash.key.split(".")), name)
        findings.append(Finding(code="config.contradiction", message=clash.message, where=where, hint=clash.hint))
    return config, findings


def validate(tree: Mapping[str, Any]) -> tuple[Config | None, list[dict[str, Any]]]:
    try:
        return Config.model_validate(tree), []
    except ValidationError as error:
        return None, [dict(one) for one in error.errors(include_url=False)]


def sound(tree: Mapping[str, Any], errors: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The tree without the keys that failed, so that the others can be checked against each other."""
    bad = {tuple(map(str, error["loc"]))[:2] for error in errors}
    left: dict[str, Any] = {}
    for key, value in tree.items():
        if (key,) not in bad:
            left[key] = {k: v for k, v in value.items() if (key, k) not in bad} if isinstance(value, dict) else value
    for section, key in REQUIRED:
        left.setdefault(section, {}).setdefault(key, "-")
    return left


def written(settings: Iterable[Setting]) -> bytes:
    """The given values as YAML: what stands in the run folder where there was no file."""
    layers = Layers()
    for setting in settings:
        layers.put(setting)
    out = io.BytesIO()
    YAML().dump({"version": 1, **layers.tree}, out)
    return out.getvalue()

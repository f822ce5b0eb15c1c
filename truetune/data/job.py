"""One preparation: what the user asked for, and the files, template and tokenizer that it comes to."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from truetune.data import cache, sources
from truetune.data.sources import Source
from truetune.data.split import Amount
from truetune.models import named
from truetune.models.template import Template
from truetune.models.tokenizer import Tokenizer

VERSION = 19
"""Part of the cache's keys: counts up when the same input would give other examples or another report."""


class Options(Protocol):
    """What `truetune.config.Data` says."""

    @property
    def paths(self) -> tuple[str, ...]: ...
    @property
    def weights(self) -> tuple[float, ...] | None: ...
    @property
    def format(self) -> str: ...
    @property
    def columns(self) -> Mapping[str, str] | None: ...
    @property
    def template(self) -> str: ...
    @property
    def train_on(self) -> str: ...
    @property
    def split(self) -> str: ...
    @property
    def validation(self) -> Any: ...
    @property
    def max_length(self) -> int: ...
    @property
    def too_long(self) -> str: ...
    @property
    def overlap(self) -> int: ...
    @property
    def max_rejects(self) -> Amount: ...
    @property
    def dedupe(self) -> str: ...


@dataclass(frozen=True)
class Job:
    """One preparation: options and what they resolved to."""

    options: Options
    objective: str
    seed: int
    tokenizer: Tokenizer
    template: Template
    train: Sequence[Source]
    validation: Sequence[Source]
    """Files of an explicit validation set; empty where rows are held out of the training files."""
    against: Sequence[Source] = ()
    """Files whose rows must not be trained."""
    left_out: Sequence[str] = ()
    """Files of a folder that nobody reads (`sources.left_out`)."""

    @property
    def sides(self) -> tuple[Sequence[Source], Sequence[Source], Sequence[Source]]:
        return self.train, self.validation, self.against

    @property
    def key(self) -> str:
        """The name in the cache: everything that shapes the examples or the report."""
        options = self.options
        return cache.key(
            {
                "version": VERSION,
                "files": [[_described(source) for source in part] for part in self.sides],
                "left_out": list(self.left_out),
                "tokenizer": self.tokenizer.digest,
                "template": [self.template.digest, self.template.origin],
                "objective": [self.objective, self.seed],
                "options": [
                    [options.format, dict(options.columns) if options.columns else None, options.train_on],
                    [str(options.validation), options.max_length, options.too_long, options.overlap],
                    [str(options.max_rejects), options.dedupe],
                ],
            }
        )


def plan(
    options: Options,
    *,
    objective: str,
    seed: int,
    folder: Path,
    tokenizer: Tokenizer,
    template: Template | None = None,
    against: Sequence[str] = (),
) -> Job:
    """Find the files and the template."""
    validation = options.validation
    held_out = sources.find([validation], folder, "validation") if _is_path(validation) else []
    template = template or choose(options.template, tokenizer, folder)
    train = sources.find(options.paths, folder, options.split, options.weights or ())
    foreign = sources.find(against, folder)
    named = {source.path for source in (*train, *held_out, *foreign)}
    others = sources.left_out(options.paths, folder, options.split)
    unread = [shown for path, shown in others if Path(os.path.abspath(path)) not in named]
    return Job(options, objective, seed, tokenizer, template, train, held_out, foreign, unread)


def choose(name: str, tokenizer: Tokenizer, folder: Path) -> Template:
    """The template for `data.template`: `auto`, `none`, a name or a file. Raises InputError (`data.template`)."""
    if name == "none":
        return tokenizer.raw()
    if name == "auto":
        return tokenizer.template or tokenizer.plain()
    if name in named.TOKENS:
        return tokenizer.named(name)
    path = Path(name).expanduser()
    return tokenizer.custom(folder / path if (folder / path).exists() else path)


def _is_path(validation: Any) -> bool:
    return isinstance(validation, str) and validation != "auto"


def _described(source: Source) -> list[str | float]:
    weight = [source.weight] if source.weight != 1 else []
    return [source.name, str(source.path), source.sha256, *weight]

"""Answers that follow a JSON schema: llguidance says after each token which may come next.

A schema is a stranger's text. Its size is bounded here; what compiling and following it costs is bounded by fuel, which
llguidance counts, so that no schema holds up others.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Mapping
from functools import cached_property
from threading import Lock
from typing import Any

import llguidance
import numpy as np
from numpy.typing import NDArray

from truetune.errors import TrueTuneError, UsageError
from truetune.models.tokenizer import Tokenizer

SIZE = 2**16
"""Most bytes of a schema."""
DEPTH = 64
FUEL = llguidance.LLParserLimits(
    initial_lexer_fuel=1_000_000,
    step_lexer_fuel=200_000,
    step_max_items=50_000,
    max_items_in_row=2_000,
    max_lexer_states=50_000,
    max_grammar_size=100_000,
    verbose_errors=False,
)
"""About 20 ms to begin and 15 ms at each token at most, by llguidance's own figures."""


class Schema:
    """A compiled schema; each answer that follows it begins anew."""

    def __init__(self, matcher: llguidance.LLMatcher, vocabulary: int, eos: int) -> None:
        self.matcher, self.vocabulary, self.eos = matcher, vocabulary, eos
        self.lock = Lock()

    def begin(self, stops: frozenset[int]) -> Following:
        """For an answer that ends with one of these tokens."""
        with self.lock:
            return Following(self.matcher.deep_copy(), self.vocabulary, self.eos, stops)


class Following:
    """A schema on its way through one answer."""

    def __init__(self, matcher: llguidance.LLMatcher, vocabulary: int, eos: int, stops: frozenset[int]) -> None:
        self.matcher, self.vocabulary, self.eos = matcher, vocabulary, eos
        self.ends = np.array([token for token in sorted(stops) if token < vocabulary], np.int64)
        self.stops = stops
        self.failed: TrueTuneError | None = None
        self.done = False
        """Whether nothing can follow any more."""

    def allowed(self) -> NDArray[np.bool_] | None:
        """bool [tokens]: which may come next; None once it has failed."""
        bits = np.frombuffer(self.matcher.compute_bitmask(), np.uint8)
        if self.matcher.is_error():
            self.fail()
            return None
        found = np.unpackbits(bits, bitorder="little")[: self.vocabulary].view(np.bool_)
        whole = found[self.eos]
        found[self.eos] = False
        found[self.ends] = whole
        return found

    def take(self, token: int) -> None:
        if self.failed or token in self.stops:
            return
        if not self.matcher.consume_token(token):
            self.fail()
        self.done = not self.failed and self.matcher.is_stopped()

    def fail(self) -> None:
        self.failed = UsageError(
            f"the schema cannot be followed: {said(self.matcher.get_error())}",
            code="generation.schema",
            hint="Make the schema simpler: fewer alternatives, shorter patterns.",
        )


class Grammars:
    """The compiled schemas of one tokenizer, as many as are kept; any thread may ask."""

    def __init__(self, tokenizer: Tokenizer, vocabulary: int, most: int) -> None:
        self.tokenizer, self.most = tokenizer, most
        self.vocabulary = min(vocabulary, tokenizer.vocabulary)
        self.kept: OrderedDict[str, Schema] = OrderedDict()
        self.lock = Lock()

    def compile(self, schema: Mapping[str, Any]) -> Schema:
        """Raises UsageError `generation.schema`."""
        text = checked(schema)
        with self.lock:
            if text in self.kept:
                self.kept.move_to_end(text)
                return self.kept[text]
        found = Schema(matcher(text, self.words), self.vocabulary, self.words.eos_token)
        with self.lock:
            self.kept[text] = found
            while len(self.kept) > self.most:
                self.kept.popitem(last=False)
        return found

    @cached_property
    def words(self) -> llguidance.LLTokenizer:
        """The vocabulary as llguidance wants it; its end-of-text token stands for whatever ends an answer."""
        eos = self.tokenizer.eos_ids[0] if self.tokenizer.eos_ids else None
        return llguidance.LLTokenizer(self.tokenizer.backend.to_str(), n_vocab=self.vocabulary, eos_token=eos)


def matcher(text: str, words: llguidance.LLTokenizer) -> llguidance.LLMatcher:
    try:
        grammar = llguidance.LLMatcher.grammar_from_json_schema(text, overrides={"whitespace_flexible": False})
        found = llguidance.LLMatcher(words, grammar, log_level=0, limits=FUEL)
    except ValueError as error:
        raise refused(str(error)) from None
    first = found.deep_copy()
    first.compute_bitmask()
    if first.is_error():  # as it was made, or at the first token already
        raise refused(first.get_error())
    return found


def checked(schema: Mapping[str, Any]) -> str:
    """The schema as text, the same for the same schema. Raises UsageError."""
    if deep(schema) > DEPTH:
        raise refused(f"it is nested more than {DEPTH} deep")
    try:
        text = json.dumps(schema, allow_nan=False)
    except (TypeError, ValueError):
        raise refused("it is no JSON") from None
    if len(text) > SIZE:
        raise refused(f"it has more than {SIZE} characters")
    return text


def deep(value: Any) -> int:
    """How deep a value is nested, as far as is allowed."""
    level, here = 0, [value]
    while here and level <= DEPTH:
        inner = [list(one.values()) if isinstance(one, Mapping) else one for one in here]
        here = [part for one in inner if isinstance(one, list) for part in one]
        level += 1
    return level


def refused(reason: str) -> UsageError:
    return UsageError(
        f"this JSON schema cannot be used: {said(reason)}",
        code="generation.schema",
        where="schema",
        hint="Use JSON Schema's own keywords, and references within the schema only.",
    )


def said(reason: str) -> str:
    """The first line of what a library says, without what a terminal would obey."""
    line = reason.strip().splitlines()[0] if reason.strip() else "it has no answer"
    return "".join(letter for letter in line if letter.isprintable())[:200]

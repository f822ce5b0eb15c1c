"""Conversations and documents to token ids and weights. The rule: training ids equal serving ids, or a row is refused.

A conversation becomes one example if the ids of its whole text begin with the ids of every prompt as it would be
served (*whole*). Otherwise each answer becomes an example of its own behind its served prompt (*per turn*): a template
that rewrites history, or a tokenizer that would join the end of a prompt with the start of an answer. An answer is
trained through its end-of-turn token; what the template writes after that is not part of the example.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from truetune.data import framed
from truetune.data.prefix import Ids, Prefix, begins
from truetune.data.rows import Content, Conversation, Document, Labelled, Preference, Rated, RowError, Turn
from truetune.data.turns import Answer, check_document, talk, trained, written
from truetune.models.template import Template, TemplateError
from truetune.models.tokenizer import Tokenizer

AHEAD = 2
"""Chunks that are encoded at a time: while the ids of one become arrays, the cores have the next."""


Piece = Conversation | Document | Labelled
"""What is rendered by itself."""
Plan = list[Answer] | Document | Labelled | RowError
"""What is encoded of a piece."""


@dataclass(frozen=True, eq=False)
class Part:
    """An example before it has a row: ids int32 [T], weights float32 [T] with weights[0] = 0."""

    ids: NDArray[np.int32]
    weights: NDArray[np.float32]
    ends: bool
    """Whether its last token ends an answer (or a document)."""
    second: int = 0
    """Where the second text of a pair begins."""
    labelled: bool = False
    """Whether its label is learned, and none of its tokens."""
    tail: int = 0
    """Tokens that close the text of a labelled row: they stay where it is cut."""

    @cached_property
    def supervised(self) -> int:
        return 1 if self.labelled else int(np.count_nonzero(self.weights))

    @property
    def closed(self) -> bool:
        """Whether the end-of-turn token is trained."""
        return self.ends and bool(self.weights[-1]) and bool(self.weights[self.second - 1])


@dataclass(frozen=True)
class Rendered:
    """The examples of one row; none if nothing in it is trained."""

    parts: list[Part]
    mode: str
    """`whole`, `per_turn` or `document`; `pair` = the better side, then the worse; `labelled` = a text to classify."""
    end: str = ""
    appended: bool = False


@dataclass(frozen=True)
class _Chunk:
    """Rows that are being encoded: how many pieces each has, the plan of each piece, and the texts of all."""

    rows: Sequence[Content]
    counts: list[int]
    plans: list[Plan]
    texts: list[str]
    encoded: Future[list[Ids]]


@dataclass
class Renderer:
    """Renders rows for one model and one choice of what is trained (`assistant`, `all` or `last`)."""

    tokenizer: Tokenizer
    template: Template
    train_on: str = "assistant"
    _encoded: dict[str, Ids] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._prefix = Prefix(self.tokenizer)

    def chunk(self, rows: Sequence[Content]) -> list[Rendered | RowError]:
        """One result per row, in order. The whole chunk is rendered at once, and encoded in one parallel call."""
        return next(self.stream([rows]))

    def stream(self, chunks: Iterable[Sequence[Content]]) -> Iterator[list[Rendered | RowError]]:
        """As `chunk` for each in turn. While `AHEAD` of them are encoded, the next is taken and rendered."""
        with ThreadPoolExecutor(AHEAD) as threads:
            begun: deque[_Chunk] = deque()
            for rows in chunks:
                begun.append(self._begin(rows, threads))
                if len(begun) > AHEAD:
                    yield self._end(begun.popleft())
            while begun:
                yield self._end(begun.popleft())

    def _begin(self, rows: Sequence[Content], threads: ThreadPoolExecutor) -> _Chunk:
        pieces = [_pieces(row) for row in rows]
        plans = self._plans([piece for some in pieces for piece in some])
        texts = list(dict.fromkeys(text for plan in plans for text in self._texts(plan)))
        encoded = threads.submit(self.tokenizer.encode_batch, texts)
        return _Chunk(rows, [len(some) for some in pieces], plans, texts, encoded)

    def _end(self, begun: _Chunk) -> list[Rendered | RowError]:
        self._encoded = dict(zip(begun.texts, begun.encoded.result(), strict=True))
        results = (self._finish(plan) for plan in begun.plans)
        return [_joined(row, [*islice(results, count)]) for row, count in zip(begun.rows, begun.counts, strict=True)]

    def one(self, row: Content) -> Rendered:
        """Render a single row. Raises RowError."""
        result = self.chunk([row])[0]
        if isinstance(result, RowError):
            raise result
        return result

    def _plans(self, rows: Sequence[Piece]) -> list[Plan]:
        places = [self._places(row) for row in rows]
        pairs = list(zip(rows, places, strict=True))
        talks = {
            at: talk(row, found)
            for at, (row, found) in enumerate(pairs)
            if isinstance(row, Conversation) and not isinstance(found, RowError)
        }
        texts = dict(zip(talks, self.template.render_all(list(talks.values())), strict=True))
        return [self._plan(row, found, texts.get(at, [])) for at, (row, found) in enumerate(pairs)]

    def _places(self, row: Piece) -> list[int] | RowError:
        """The turns that are trained; none in a document."""
        try:
            if isinstance(row, Conversation):
                return trained(row, self.tokenizer, self.train_on)
            if isinstance(row, Labelled):
                framed.check(row, self.tokenizer)
            else:
                check_document(row, self.tokenizer)
            return []
        except RowError as error:
            return error

    def _plan(self, row: Piece, places: list[int] | RowError, texts: Sequence[str | TemplateError]) -> Plan:
        if isinstance(places, RowError):
            return places
        if not isinstance(row, Conversation):
            return row
        try:
            return written(row, places, texts, self.tokenizer)
        except RowError as error:
            return error

    def _finish(self, plan: Plan) -> Rendered | RowError:
        try:
            if isinstance(plan, RowError):
                return plan
            if isinstance(plan, Labelled):
                return self._labelled(plan)
            result = self._document(plan) if isinstance(plan, Document) else self._conversation(plan)
            self._check_known(result)
            return result
        except RowError as error:
            return error

    def _document(self, document: Document) -> Rendered:
        start, end = self.tokenizer.encode_document(""), self.tokenizer.eos_id
        ids = np.concatenate([_ids(start), self._encode(document.text), _ids([] if end is None else [end])])
        part = _part(ids, [(1, len(ids), 1.0)], ends=end is not None)
        return Rendered([part], "document", self.tokenizer.eos or "")

    def _labelled(self, row: Labelled) -> Rendered:
        """As the tokenizer itself frames a text or a pair; nothing in it is trained but its label."""
        ids, second = self._frame.ids([self._encode(text) for text in self._frame.texts(row)])
        if not len(ids):
            raise RowError("data.empty", "the tokenizer has no token for this text")
        part = Part(ids, np.zeros(len(ids), np.float32), True, second, labelled=True, tail=len(self._frame.tail))
        return Rendered([part], "labelled")

    @cached_property
    def _frame(self) -> framed.Frame:
        return framed.frame(self.tokenizer)

    def _conversation(self, plan: list[Answer]) -> Rendered:
        if not plan:
            return Rendered([], "whole")
        whole = self._whole(plan) if _nested(plan) else None
        parts = [whole] if whole else [self._turn(answer) for answer in plan]
        return Rendered(parts, "whole" if whole else "per_turn", plan[-1].end, plan[-1].appended)

    def _whole(self, plan: list[Answer]) -> Part | None:
        """One example for all answers, or None where the ids of a prompt change in the longer text."""
        text = plan[-1].full
        ids, spans = self._encode(text), []
        for answer in plan:
            start = self._start(answer.prompt, text, ids)
            last = len(ids) - 1 if answer is plan[-1] else self._last(answer, text, ids)
            if start is None or last is None or last < start:
                return None
            if ids[last] != self.tokenizer.id(answer.end):
                return None
            spans.append((start, last + 1, answer.weight))
        return _part(ids, self._widen(spans, ids), ends=True)

    def _turn(self, answer: Answer) -> Part:
        """One example for one answer behind its prompt as served."""
        text = answer.full
        ids = self._encode(text)
        start = self._start(answer.prompt, text, ids)
        if start is None or ids[-1] != self.tokenizer.id(answer.end):
            prompt = self._encode(answer.prompt).tolist()
            start, ids = len(prompt), _ids(self._join(prompt, answer, ids.tolist()))
        return _part(ids, self._widen([(start, len(ids), answer.weight)], ids), ends=True)

    def _start(self, prompt: str, text: str, ids: Ids) -> int | None:
        """How many ids of a text are those of its prompt as it is served; None if it does not begin with them."""
        rest = self._prefix.rest(prompt)
        size = self._prefix.size(prompt, self._encode(rest), text, ids) if rest else None
        if size is not None:
            return size
        served = self._encode(prompt)
        return len(served) if begins(ids, served) else None

    def _last(self, answer: Answer, text: str, ids: Ids) -> int | None:
        """The place of the token that ends an answer in a text that goes on behind it."""
        place = self._prefix.last(answer.end, answer.full, text, ids)
        if place is not None:
            return place
        at = len(answer.full) - 1
        _, offsets = self.tokenizer.encode_with_offsets(text)
        return next((place for place, (start, stop) in enumerate(offsets) if start <= at < stop), None)

    def _join(self, prompt: list[int], answer: Answer, full: list[int]) -> list[int]:
        """Ids of the prompt, then of the answer encoded by itself, such that they read as the whole text does.

        A tokenizer may treat the start of a text in its own way (SentencePiece puts a space there), so the answer is
        also tried behind a special token and behind a line break. A result counts only if it decodes to the text.
        """
        wanted, end = self.tokenizer.decode(full), self.tokenizer.id(answer.end)
        for lead in ("", answer.end, "\n"):
            head, tail = self.tokenizer.encode(lead), self.tokenizer.encode(lead + answer.text)
            ids = prompt + tail[len(head) :]
            if tail[: len(head)] == head and ids[-1] == end and self.tokenizer.decode(ids) == wanted:
                return ids
        raise RowError(
            "data.token_boundary",
            f"the tokenizer has no ids for the answer that follow the prompt's last characters {answer.prompt[-20:]!r}",
        )

    def _widen(self, spans: list[tuple[int, int, float]], ids: Ids) -> list[tuple[int, int, float]]:
        return [(1, len(ids), 1.0)] if self.train_on == "all" else spans

    def _check_known(self, result: Rendered) -> None:
        """Refuse to train the token that stands for characters the tokenizer does not know."""
        unknown = self.tokenizer.unk_id
        if unknown is None or unknown in self.tokenizer.eos_ids:
            return
        for part in result.parts:
            if np.any((part.ids == unknown) & (part.weights != 0)):
                raise RowError("data.unknown_characters", "the tokenizer has no tokens for some characters of this row")

    def _texts(self, plan: Plan) -> Iterator[str]:
        """What must be encoded to judge a plan."""
        if isinstance(plan, Labelled):
            yield from self._frame.texts(plan)
        elif isinstance(plan, Document):
            yield plan.text
        elif isinstance(plan, list):
            for answer in plan:
                yield self._prefix.rest(answer.prompt) or answer.prompt
            yield from (answer.full for answer in (plan[-1:] if _nested(plan) else plan))

    def _encode(self, text: str) -> Ids:
        found = self._encoded.get(text)
        return found if found is not None else self.tokenizer.encode_batch([text])[0]


def _nested(plan: list[Answer]) -> bool:
    """Whether the last served text contains every earlier prompt and answer as they were served."""
    return bool(plan) and all(plan[-1].full.startswith(answer.full) for answer in plan)


def _ids(numbers: Sequence[int]) -> Ids:
    return np.array(numbers, np.int32)


def _part(ids: Ids, spans: list[tuple[int, int, float]], ends: bool) -> Part:
    weights = np.zeros(len(ids), np.float32)
    for start, stop, weight in spans:
        weights[start:stop] = weight
    weights[:1] = 0
    return Part(ids, weights, ends)


def _pieces(row: Content) -> list[Piece]:
    """What is rendered of a row: of a pair both sides, of a rated conversation the last answer."""
    if isinstance(row, Preference):
        return [Conversation((*_context(row.prompt), *side), row.tools) for side in (row.chosen, row.rejected)]
    if isinstance(row, Rated):
        turns = row.conversation.turns
        return [replace(row.conversation, turns=(*_context(turns[:-1]), *turns[-1:]))]
    return [row]


def _context(turns: Sequence[Turn]) -> list[Turn]:
    """The turns, none of them trained."""
    return [replace(turn, weight=0.0) if turn.role == "assistant" else turn for turn in turns]


def _joined(row: Content, results: list[Rendered | RowError]) -> Rendered | RowError:
    """The one result of a row, from those of its pieces."""
    for side, result in zip(("chosen", "rejected"), results, strict=False):
        if isinstance(result, RowError):
            return RowError(result.code, f"{side}: {result.reason}") if isinstance(row, Preference) else result
    good = [result for result in results if isinstance(result, Rendered)]
    if isinstance(row, Preference):
        return _pair(good)
    return good[0]


def _pair(sides: list[Rendered]) -> Rendered | RowError:
    if any(len(side.parts) > 1 for side in sides):
        reason = "a side has several answers, which this chat template does not keep in one text"
        return RowError("data.pair_turns", reason)
    parts = [part for side in sides for part in side.parts]
    return Rendered(parts, "pair", sides[0].end, any(side.appended for side in sides))

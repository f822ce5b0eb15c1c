"""What the quality checks can find: per code how grave it is, what it says and what to do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from truetune.data.quality.limits import EXAMPLES, PLACES

LEVELS = ("error", "warning", "note")


@dataclass(frozen=True)
class Finding:
    """Something that is so in `count` rows, a `share` of those that were looked at. `where` names the first of them,
    `examples` shows some, secrets masked."""

    code: str
    level: str
    count: int
    share: float
    where: list[str]
    message: str
    hint: str
    examples: list[str]

    @property
    def weight(self) -> tuple[int, float]:
        """Sorts the gravest first, and of those the commonest."""
        return LEVELS.index(self.level), -self.share


@dataclass(frozen=True)
class Kind:
    """The constant part of a finding."""

    code: str
    level: str
    message: str
    hint: str

    def found(
        self, count: int, share: float, where: Sequence[str] = (), examples: Sequence[str] = (), message: str = ""
    ) -> Finding:
        return Finding(
            self.code, self.level, count, share, list(where), message or self.message, self.hint, list(examples)
        )


@dataclass
class Tally:
    """Counts the rows of one code, and keeps the first of them."""

    count: int = 0
    where: list[str] = field(default_factory=list)
    examples: list[str] = field(default_factory=list)

    def add(self, where: str, example: str = "") -> None:
        self.count += 1
        if len(self.where) < PLACES:
            self.where.append(where)
        if example and len(self.examples) < EXAMPLES and example not in self.examples:
            self.examples.append(example)


_CLEAN = "`ft dataset prepare --clean` mends it."
_MASK = "Take them out, or put an invented one in their place: a model repeats what it has learned."

KINDS = {
    kind.code: kind
    for kind in (
        Kind(code="data.control_characters", level="warning",
             message="control characters stand in the text", hint=_CLEAN),
        Kind(code="data.invisible_characters", level="note",
             message="characters that nobody sees stand in the text", hint=_CLEAN),
        Kind(code="data.replacement_character", level="warning",
             message="characters were lost: � stands in their place",
             hint="Read the original once more in its real encoding; what is lost can't be mended here."),
        Kind(code="data.mojibake", level="warning",
             message="text was read in the wrong encoding (`Ã©` for `é`)", hint=_CLEAN),
        Kind(code="data.not_normalized", level="note",
             message="accents are written as characters of their own (not Unicode NFC), which makes other tokens",
             hint=_CLEAN),
        Kind(code="data.trailing_space", level="note",
             message="white space at the end of an answer is learned with it", hint=_CLEAN),
        Kind(code="data.placeholder", level="warning",
             message="the answer is a placeholder", hint="Write the answer, or remove the row."),
        Kind(code="data.disclaimer", level="warning",
             message="the answer talks about being an AI model",
             hint="Rewrite these answers, or remove the rows: a few are enough for a model to pick up the phrase."),
        Kind(code="data.echo", level="warning",
             message="the answer equals the question", hint="Write the answer, or remove the row."),
        Kind(code="data.repeated_text", level="warning",
             message="the text goes round in a loop",
             hint="Remove these rows: a model learns loops faster than anything else."),
        Kind(code="data.open_fence", level="note",
             message="a code block is opened with three backticks and not closed",
             hint="Close it, or look whether text is missing."),
        Kind(code="data.cut_off", level="note",
             message="the answer stops in the middle of a sentence",
             hint="Look whether an export cut it; a model learns to stop there."),
        Kind(code="data.private_key", level="warning", message="a private key stands in the text",
             hint="Take it out and make a new key: this one has been copied."),
        Kind(code="data.api_key", level="warning", message="something that looks like an API key or a password",
             hint="Take it out and have it replaced: a model repeats what it has learned."),
        Kind(code="data.card", level="warning", message="card numbers whose check digit is right", hint=_MASK),
        Kind(code="data.iban", level="warning", message="bank accounts (IBAN) whose check digits are right",
             hint=_MASK),
        Kind(code="data.email", level="warning", message="e-mail addresses", hint=_MASK),
        Kind(code="data.phone", level="warning", message="what looks like phone numbers", hint=_MASK),
        Kind(code="data.short_answer", level="note", message="texts far shorter than the others",
             hint="Look at these rows: an export may have cut them."),
        Kind(code="data.long_answer", level="note", message="texts far longer than the others",
             hint="Look at these rows: several may have run into one."),
        Kind(code="data.same_sentence", level="note", message="the same sentence stands in many answers",
             hint="Boilerplate is learned first. Remove it, unless every answer shall have it."),
        Kind(code="data.html", level="note", message="HTML stands in many answers",
             hint="Right for a model that is to write HTML; else turn it into text, entities as well."),
        Kind(code="data.languages", level="note", message="several languages",
             hint="Right for a model of several languages; else remove these rows."),
        Kind(code="data.class_imbalance", level="warning", message="the classes differ much in size",
             hint="Add rows of the small classes, or give their file a weight: `{path: FILE, weight: 3}`."),
        Kind(code="data.rare_class", level="warning", message="classes with very few rows",
             hint="Add rows, or join the class with another."),
        Kind(code="data.many_classes", level="warning", message="nearly every row has a label of its own",
             hint="Is it the right column? Numbers on a scale are no classes; `data.columns` names another column."),
        Kind(code="data.similar_labels", level="warning", message="labels that differ only in case or white space",
             hint="Write each in one way: they count as classes of their own."),
        Kind(code="data.length_bias", level="note", message="the better answer is mostly the longer one",
             hint="Add pairs whose shorter answer is the better one, or length is what is learned."),
        Kind(code="data.one_sided", level="note", message="nearly all ratings are the same",
             hint="Add rows of the other side: KTO learns from the difference."),
        Kind(code="data.unknown_tokens", level="warning", message="the tokenizer has no token for some characters",
             hint="The model can't read these. Replace them, or choose a model whose tokenizer knows them."),
        Kind(code="data.small_pieces", level="note", message="the tokenizer splits characters of this text into bytes",
             hint="Training works and costs more tokens; a model made for this script does better."),
        Kind(code="data.few_rows", level="note", message="few rows",
             hint="Enough to learn a tone or a format; facts and skills need hundreds."),
        Kind(code="data.not_looked", level="note", message="not looked for", hint="pip install 'truetune[quality]'"),
    )
}  # fmt: skip
"""What used rows can have."""

SETTLED = {"data.duplicate": "note", "data.near_duplicate": "warning", "data.contaminated": "warning",
           "data.too_long": "warning", "data.unsupervised": "warning"}  # fmt: skip
"""Levels of unused rows that are not bad; all others are errors."""

SAID = {
    "data.duplicate": "rows that stand twice",
    "data.near_duplicate": "rows that are nearly the same as another",
    "data.contaminated": "rows that also stand in what is measured on",
    "data.too_long": "rows that are longer than `max_length`",
    "data.unsupervised": "rows with nothing to learn",
    "data.empty": "rows with an empty text",
    "data.no_answer": "rows without an answer",
    "data.role_order": "conversations whose messages are in the wrong order",
    "data.role": "messages with a role that is not known",
    "data.type": "values of another type than is asked for",
    "data.content_part": "messages with a part that is not text",
    "data.weight": "weights of messages that can't be used",
    "data.ragged_row": "rows whose cells are not as many as the header's",
    "data.nul": "rows with a NUL character",
    "data.control_token": "texts that contain a control token of the model",
    "data.tool_calls": "calls of tools that can't be read",
    "data.template_drops_text": "rows of which the template leaves out or changes a part",
    "data.prompts_differ": "pairs whose sides have different prompts",
    "data.label": "labels that can't be used",
    "data.other_shape": "rows of another shape than most",
    "data.notation": "rows that this kind of file can't hold",
    "json.syntax": "rows that are not valid JSON",
    "csv.syntax": "rows that are not valid CSV",
}
"""Words for several rows that are not used, each with a reason of its own."""

OPEN = "`ft dataset show` shows how a row is read; mend the rows that are named here."
HINTS = {
    "data.duplicate": "Nothing to do: each stands once. `dedupe: none` keeps them.",
    "data.near_duplicate": "Nothing to do if they are copies; `dedupe: exact` keeps rows that resemble each other.",
    "data.contaminated": "Nothing to do: what is measured on is not learned.",
    "data.too_long": "Raise data.max_length. `data.too_long: split` parts longer talks, `truncate` cuts the end.",
    "data.unsupervised": "Look at `data.train_on` and at the weights of the messages.",
    "data.empty": "Write what is missing, or remove the row.",
    "data.no_answer": "Add the assistant's answer, or remove the row.",
    "data.role_order": "A system message comes first, then user and assistant in turns.",
    "data.role": "Roles are system, user, assistant and tool.",
    "data.missing": "Fill the column, or name another in `data.columns`.",
    "data.type": "Write the value in the type that is asked for.",
    "data.ragged_row": "Quote cells that contain the separator or a line break.",
    "data.encoding": "Save the file as UTF-8.",
    "data.nul": "Remove the NUL characters: the file may be UTF-16, or damaged.",
    "data.control_token": "Remove the model's control tokens from the text: the template writes them.",
    "data.tool_calls": "A call has a name and arguments that are a JSON object.",
    "data.unknown_characters": "Replace these characters, or choose a model whose tokenizer knows them.",
    "data.template_drops_text": "Choose another `data.template`, or leave out what this one can't write.",
    "data.same_answers": "Remove the pair: nothing is learned from it.",
    "data.prompts_differ": "Both sides of a pair answer the same prompt: mend or remove the row.",
    "data.no_prompt": "Add the prompt, in a column of its own or before both answers.",
    "data.label": "Write labels as names or whole numbers, each once; ratings as true or false.",
    "data.notation": "Write such rows to .jsonl or .parquet.",
    "data.content_part": "Replace the part by text, or remove the row.",
    "data.weight": "A weight of a message is 0, 1 or another number above 0.",
    "data.other_shape": "Put rows of another shape into a file of their own.",
    "data.not_an_object": "Each row is an object of columns.",
    "data.broken_file": "Mend the file here: nothing after it is read.",
    "csv.syntax": "Close each quote, and write a quote inside a cell twice.",
    "json.syntax": "Write the row as valid JSON.",
    "json.surrogate": "Write the whole character: half of a pair stands alone.",
    "json.number": "Write the number smaller, or as text.",
}
"""What to do about unused rows."""


def level(code: str) -> str:
    """Of a reason not to use a row."""
    return SETTLED.get(code, "error")


def unused(code: str, tally: Tally, total: int) -> Finding:
    """The finding about rows that are not used for this reason."""
    first, *others = tally.examples
    several = tally.count > 1 if code in SETTLED else bool(others)
    message, examples = (SAID[code], tally.examples) if several and code in SAID else (first, others)
    hint = HINTS.get(code, OPEN)
    return Finding(code, level(code), tally.count, tally.count / total, tally.where, message, hint, examples)

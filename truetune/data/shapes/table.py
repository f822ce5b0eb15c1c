"""The shapes that are known without any other package. Their order is the one in which a row is tried: the more telling
columns first."""

from __future__ import annotations

from truetune.data.chat import from_sharegpt
from truetune.data.shapes import Shape
from truetune.data.shapes.choices import preference, rated, rates
from truetune.data.shapes.labels import document, has_label, has_labels, labelled, several
from truetune.data.shapes.talks import SYSTEM, alpaca, messages, pair, summary

ASIDE = ("context", *SYSTEM)
"""What may stand beside a prompt."""
TALKS = (
    Shape("messages", ("messages",), messages, ("tools",)),
    Shape("sharegpt", ("conversations",), from_sharegpt, (*SYSTEM, "tools")),
    Shape("alpaca", ("instruction", "output"), alpaca, ("input", "history", *ASIDE)),
    Shape("instruction_response", ("instruction", "response"), pair("instruction", "response"), (*ASIDE, "tools")),
    Shape("prompt_completion", ("prompt", "completion"), pair("prompt", "completion"), (*ASIDE, "tools")),
    Shape("prompt_response", ("prompt", "response"), pair("prompt", "response"), (*ASIDE, "tools")),
    Shape("input_output", ("input", "output"), pair("input", "output"), (*ASIDE, "tools")),
    Shape("question_response", ("question", "response"), pair("question", "response"), (*ASIDE, "tools")),
    Shape("question_answer", ("question", "answer"), pair("question", "answer"), (*ASIDE, "tools")),
    Shape("text_summary", ("text", "summary"), summary("text", "summary"), SYSTEM),
    Shape("document_summary", ("document", "summary"), summary("document", "summary"), SYSTEM),
    Shape("dialogue_summary", ("dialogue", "summary"), summary("dialogue", "summary"), SYSTEM),
    Shape("article_highlights", ("article", "highlights"), summary("article", "highlights"), SYSTEM),
)
PAIRS = (("premise", "hypothesis"), ("sentence1", "sentence2"), ("question1", "question2"), ("text1", "text2"))
"""Columns of two texts that one label is about."""
PROMPT = ("prompt", "question", "instruction", "input", "conversations", "tools", *ASIDE)

LABELS = (
    *(
        Shape(f"{one}_{other}_label", (one, other, "label"), labelled(one, other), (), "labelled", has_label)
        for one, other in PAIRS
    ),
    Shape("text_label", ("text", "label"), labelled("text"), (), "labelled", has_label),
    Shape("sentence_label", ("sentence", "label"), labelled("sentence"), (), "labelled", has_label),
    Shape("text_labels", ("text", "labels"), several, (), "labelled", has_labels),
)

KTO = Shape("kto", ("label",), rated("label", TALKS), PROMPT, "rated", rates("label", TALKS), TALKS)

SHAPES = {
    shape.name: shape
    for shape in (
        Shape("preference", ("chosen", "rejected"), preference, PROMPT, "preference"),
        KTO,
        Shape("kto_tag", ("kto_tag",), rated("kto_tag", TALKS), PROMPT, "rated", rates("kto_tag", TALKS), TALKS),
        *TALKS,
        *LABELS,
        Shape("text", ("text",), document, (), "document"),
    )
}

"""The shapes that are known without any other package. Their order is the one in which a row is tried: the more telling
columns first."""

from __future__ import annotations

from truetune.data.chat import from_sharegpt
from truetune.data.shapes import Shape
from truetune.data.shapes.choices import preference, rated, rates
from truetune.data.shapes.labels import document, has_label, has_labels, labelled, several
from truetune.data.shapes.talks import alpaca, messages, pair, summary

TALKS = (
    Shape("messages", ("messages",), messages, ("tools",)),
    Shape("sharegpt", ("conversations",), from_sharegpt, ("system", "tools")),
    Shape("alpaca", ("instruction", "output"), alpaca, ("input", "system", "history")),
    Shape("instruction_response", ("instruction", "response"), pair("instruction", "response"), ("system",)),
    Shape("prompt_completion", ("prompt", "completion"), pair("prompt", "completion"), ("system", "tools")),
    Shape("prompt_response", ("prompt", "response"), pair("prompt", "response"), ("system",)),
    Shape("input_output", ("input", "output"), pair("input", "output"), ("system",)),
    Shape("question_answer", ("question", "answer"), pair("question", "answer"), ("system",)),
    Shape("text_summary", ("text", "summary"), summary("text", "summary"), ("system",)),
    Shape("document_summary", ("document", "summary"), summary("document", "summary"), ("system",)),
    Shape("dialogue_summary", ("dialogue", "summary"), summary("dialogue", "summary"), ("system",)),
    Shape("article_highlights", ("article", "highlights"), summary("article", "highlights"), ("system",)),
)
PAIRS = (("premise", "hypothesis"), ("sentence1", "sentence2"), ("question1", "question2"), ("text1", "text2"))
"""Columns of two texts that one label is about."""
PROMPT = ("prompt", "question", "instruction", "input", "conversations", "system", "tools")

LABELS = (
    *(
        Shape(f"{one}_{other}_label", (one, other, "label"), labelled(one, other), (), "labelled", has_label)
        for one, other in PAIRS
    ),
    Shape("text_label", ("text", "label"), labelled("text"), (), "labelled", has_label),
    Shape("sentence_label", ("sentence", "label"), labelled("sentence"), (), "labelled", has_label),
    Shape("text_labels", ("text", "labels"), several, (), "labelled", has_labels),
)

SHAPES = {
    shape.name: shape
    for shape in (
        Shape("preference", ("chosen", "rejected"), preference, PROMPT, "preference"),
        Shape("kto", ("label",), rated("label", TALKS), PROMPT, "rated", rates("label", TALKS)),
        Shape("kto_tag", ("kto_tag",), rated("kto_tag", TALKS), PROMPT, "rated", rates("kto_tag", TALKS)),
        *TALKS,
        *LABELS,
        Shape("text", ("text",), document, (), "document"),
    )
}

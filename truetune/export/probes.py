"""What both sides of an export are asked: conversations, plain texts, and token ids drawn from the whole vocabulary.

The texts are those on which tokenizers and templates are known to differ: digits, contractions, spaces, other scripts,
emoji of several parts, control characters, and what looks like a control token.
"""

from __future__ import annotations

import numpy as np

from truetune.errors import TrueTuneError
from truetune.evaluate import material
from truetune.evaluate.subject import Subject
from truetune.export.runtime import Messages

LENGTHS = (7, 24, 33, 64)
HELD_OUT = 8
"""Conversations of the run's own held-out rows."""

TEXTS = (
    "Hello, world!",
    " leading space, two  spaces,   three",
    "trailing space ",
    "I'm sure they'll say it's what we've done; you'd DON'T WE'RE",
    "0 1 12 123 1234 12345 123456 3.14159 1,000,000 2026-11-22 0x1F 1e-5 ½ ²³",
    "line one\nline two\r\nline three\n\n\nafter blanks\ttab\t\ttabs",
    "def f(x):\n    return x**2  # comment\n\n\tif a!=b: pass",
    "Grüße aus Köln, naïve café, façade, Ångström, ßẞ",
    "Привет, как дела? Γειά σου Κόσμε",
    "你好,世界。日本語のテキスト、カタカナ ひらがな 한국어",
    "مرحبا بالعالم שלום עולם",
    "नमस्ते दुनिया สวัสดีชาวโลก",
    "👍🏽 👨‍👩‍👧‍👦 🇩🇪 ❤️ 🏳️‍🌈",
    "e\u0301 \u00e9 \u212b \ufb01 \u200b zero\u200dwidth \ufeffmark",
    "Z̶a̶l̶g̶o̶ Ṱ̺̺̕o͞ ̷i̲̬͇̪͙n̝̗͕v̟̜̘̦͟o̶̙̰̠kè͚̮̺̪̹̱̤",
    "<|im_start|>user <|endoftext|> </s> <s> [INST] <<SYS>> <bos> <pad> <unk>",
    "'; DROP TABLE users;-- $(touch x) `id` %s %n {{7*7}} ${x} <script>alert(1)</script>",
    "undefined null NaN -1 True False 1/0 INF",
    "https://example.org/a?b=c&d=%20#e user@example.org C:\\path\\file",
    "ALLCAPS MixedCase snake_case kebab-case CamelCase123 x1y2z3",
    "…—–-“quotes” ‘single’ «guillemets» !!!???...,,,;;;",
    "a" * 40 + " " * 20 + "=" * 30,
)
"""Of the kinds of the Big List of Naughty Strings, written for this."""

TALKS: tuple[Messages, ...] = (
    ({"role": "user", "content": "What is the capital of France?"},),
    (
        {"role": "system", "content": "You are terse. Answer in one word."},
        {"role": "user", "content": "How many legs does a spider have?"},
    ),
    (
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello! How can I help you?"},
        {"role": "user", "content": "  Add 1234567 and 89.5, please.  "},
    ),
    (
        {"role": "system", "content": "Antworte auf Deutsch.\n\nSei höflich."},
        {"role": "user", "content": "Wie heißt „Straße“ auf 日本語?"},
        {"role": "assistant", "content": "道 (みち) 👍🏽"},
        {"role": "user", "content": "And what's <|not_a_token|> or </think> or [/INST]?\n```py\nx = {'a': 1}\n```"},
    ),
)


def talks(subject: Subject | None) -> list[Messages]:
    """Conversations up to a question: the built-in ones, and what the subject's run held out."""
    return [*TALKS, *held_out(subject)]


def held_out(subject: Subject | None) -> list[Messages]:
    """The questions of the run's held-out rows, a few from all over them; none where they cannot be had any more."""
    if subject is None or subject.run is None or subject.template is None:
        return []
    try:
        found = material.gather(subject, (), HELD_OUT)
    except TrueTuneError:  # it held none out, or its files have moved
        return []
    return [item.messages for item in found.items if plain(item.messages)]


def plain(messages: Messages) -> bool:
    """Turns of a role and a text and nothing else, which every program takes."""
    return bool(messages) and all(set(one) == {"role", "content"} for one in messages)


def ids(vocabulary: int) -> list[list[int]]:
    """Texts of tokens drawn from all of a vocabulary, the same ones every time."""
    draw = np.random.default_rng(0)
    return [draw.integers(0, vocabulary, length).tolist() for length in LENGTHS]

"""`ft dataset show` through the real command line."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest

from truetune.cli import run

ROWS = [
    {"prompt": "How are you?", "completion": "I am well."},
    {"prompt": "And now?", "completion": ""},
    {"prompt": "Still?", "completion": "Yes. " * 30},
]


@pytest.fixture
def data(tmp_path: Path) -> str:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\n".join(map(orjson.dumps, ROWS)))
    return str(path)


def test_marks_what_is_trained_and_what_is_cut(data: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["dataset", "show", data, "--max-length", "40"]) == 0
    out = capsys.readouterr().out
    assert "⟦I am well.<|im_end|>⟧" in out
    assert "rows.jsonl:2  refused:" in out and "data.empty" in out
    assert out.count("✂") == 4


def test_json_has_every_token_with_its_weight(data: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["dataset", "show", data, "-n", "1", "--json"]) == 0
    document = orjson.loads(capsys.readouterr().out)
    (row,) = document["rows"]
    tokens = row["examples"][0]["tokens"]
    assert document["schema"] == 1 and document["format"]["name"] == "prompt_completion"
    assert "".join(token["text"] for token in tokens if token["weight"]) == "I am well.<|im_end|>"
    assert row["examples"][0]["trained"] == sum(token["weight"] > 0 for token in tokens)


def test_what_is_learned_can_be_chosen(data: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["dataset", "show", data, "-n", "1", "--train-on", "all"]) == 0
    assert "⟦user\nHow are you?" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("row", "said", "known"),
    [
        (
            {"prompt": "Hi?", "chosen": "Hello there.", "rejected": "No."},
            ["trained: the better answer\n<|im_start|>user", "trained: the worse answer\n<|im_start|>user"],
            [{"side": "chosen"}, {"side": "rejected"}],
        ),
        ({"prompt": "Hi?", "completion": "Hello.", "label": True}, ["trained: rated good\n"], [{"rating": "good"}]),
        ({"prompt": "Hi?", "completion": "No.", "label": False}, ["trained: rated bad\n"], [{"rating": "bad"}]),
        (
            {"text": "It broke.", "label": "re\u202epair"},
            ["tokens: label re\ufffdpair\n"],
            [{"labels": ["re\u202epair"]}],
        ),
        ({"text": "It broke.", "labels": ["a", "b"]}, ["tokens: labels a, b\n"], [{"labels": ["a", "b"]}]),
        ({"text": "It broke.", "labels": []}, ["tokens: no label\n"], [{"labels": []}]),
    ],
)
def test_what_is_better_rated_or_labelled_is_said(
    row: dict[str, object],
    said: list[str],
    known: list[dict[str, object]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(orjson.dumps(row))
    assert run(["dataset", "show", str(path)]) == 0
    out = capsys.readouterr().out
    assert all(text in out for text in said) and "0 trained" not in out
    assert run(["dataset", "show", str(path), "--json"]) == 0
    examples = orjson.loads(capsys.readouterr().out)["rows"][0]["examples"]
    assert [example | more for example, more in zip(examples, known, strict=True)] == examples


def test_a_missing_file_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["dataset", "show", "nowhere.jsonl"]) == 3
    assert "nowhere.jsonl" in capsys.readouterr().err


SCRIPTS = [
    "😀👍🏽 👩‍👩‍👧 done",
    "مرحبا كيف الحال؟",
    "你好,世界。",
    "नमस्ते दुनिया",
    "สวัสดี",
    "Zoë 😀",
    "a\ufffdb\ufffd\ufffd",
    "\ufffd",
]


@pytest.mark.parametrize("text", SCRIPTS)
def test_characters_of_several_tokens_are_shown_whole(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(orjson.dumps({"prompt": text, "completion": text}))
    assert run(["dataset", "show", str(path), "--json"]) == 0
    (example,) = orjson.loads(capsys.readouterr().out)["rows"][0]["examples"]
    tokens = example["tokens"]
    assert "".join(token["text"] for token in tokens if token["weight"]) == f"{text}<|im_end|>"
    assert "".join(token["text"] for token in tokens).count("\ufffd") == 2 * text.count("\ufffd")
    assert len(tokens) == example["length"]
    assert run(["dataset", "show", str(path)]) == 0
    assert f"⟦{text}<|im_end|>⟧" in capsys.readouterr().out

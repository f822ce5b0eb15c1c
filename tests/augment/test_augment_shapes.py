"""New rows are read together with those they are made from, whatever shape those have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest

import truetune as ft

SYSTEM = {"role": "system", "content": "Be kind."}
LONG = [
    SYSTEM,
    *({"role": role, "content": f"{role} {place}?"} for place in "ab" for role in ("user", "assistant")),
]
SHAPES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "messages": ({"messages": LONG}, {}),
    "sharegpt": ({"conversations": [{"from": "human", "value": "Hi?"}, {"from": "gpt", "value": "Yes."}]}, {}),
    "alpaca": ({"instruction": "Say it?", "input": "word", "output": "Word.", "system": "Be kind."}, {}),
    "alpaca with history": (
        {"instruction": "Say it?", "input": "", "output": "Word.", "history": [["Hello?", "Hello."]]}, {},
    ),
    "prompt and completion": ({"prompt": "Hi?", "completion": "Yes."}, {}),
    "prompt and completion of messages": ({"prompt": LONG[:-1], "completion": LONG[-1:]}, {}),
    "question and answer": ({"question": "Hi?", "answer": "Yes.", "system": "Be kind."}, {}),
    "own columns": (
        {"frage": "Hi?", "antwort": "Yes.", "prompt": "no"},
        {"columns": {"prompt": "frage", "completion": "antwort"}},
    ),
}  # fmt: skip


def augmented(server: Any, folder: Path, row: dict[str, Any], **options: Any) -> tuple[dict[str, Any], list[str]]:
    (folder / "rows.jsonl").write_bytes(orjson.dumps(row))
    server.say = lambda prompt: "Would you, please?"
    warnings: list[str] = []

    def listener(kind: str, figures: dict[str, Any]) -> None:
        warnings.extend([figures["text"]] if kind == "warning" else [])

    chosen = {"per_row": 1, "endpoint": server.address, "folder": folder, "listener": listener, "validation": "none"}
    ft.dataset_augment("rows.jsonl", "paraphrase", "large", folder / "more.jsonl", **chosen, **options)
    return orjson.loads((folder / "more.jsonl").read_bytes()), warnings


@pytest.mark.parametrize("name", SHAPES)
def test_a_training_reads_old_and_new_rows_together(server: Any, tmp_path: Path, name: str) -> None:
    row, options = SHAPES[name]
    new, warnings = augmented(server, tmp_path, row, **options)
    assert set(new) - {"origin", "generated"} <= set(row) | {"input", "system"} and not warnings
    shown = ft.dataset_show(["rows.jsonl", "more.jsonl"], n=2, folder=tmp_path, **options)
    texts = ["".join(token["text"] for token in row["examples"][0]["tokens"]) for row in shown["rows"]]
    assert len(texts) == 2 and "Would you, please?" in texts[1]
    assert texts[0].rpartition("<|im_start|>")[2] == texts[1].rpartition("<|im_start|>")[2]


def test_where_the_shape_cannot_hold_them_all_are_messages(server: Any, tmp_path: Path) -> None:
    row = {"text": "A long text?", "summary": "Short."}
    new, warnings = augmented(server, tmp_path, row)
    assert new["messages"][0]["content"] == "Would you, please?" and not warnings
    shown = ft.dataset_show(["rows.jsonl", "more.jsonl"], n=2, folder=tmp_path)
    assert all(row["examples"] for row in shown["rows"])
    _, warnings = augmented(server, tmp_path, row, format="text_summary", yes=True)
    assert len(warnings) == 1 and "`text_summary` rows" in warnings[0]


def test_files_of_several_shapes_are_read_together(server: Any, tmp_path: Path) -> None:
    (tmp_path / "chats.jsonl").write_bytes(orjson.dumps({"messages": LONG}))
    (tmp_path / "pairs.jsonl").write_bytes(orjson.dumps({"question": "Hi?", "answer": "Yes."}))
    server.say = lambda prompt: f"Please, {prompt.rpartition(chr(10))[2]}"
    chosen = {"per_row": 1, "endpoint": server.address, "folder": tmp_path, "validation": "none"}
    result = ft.dataset_augment(["chats.jsonl", "pairs.jsonl"], "paraphrase", "m", tmp_path / "more.jsonl", **chosen)
    assert result["written"] == 2
    shown = ft.dataset_show([str(tmp_path / "more.jsonl")], n=2)
    assert all(row["examples"] for row in shown["rows"])

"""What vLLM is told, and what is refused because it would answer otherwise than it was trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from served import made

from truetune.engines import adapter
from truetune.errors import UsageError
from truetune.evaluate.subject import find_subject
from truetune.models.source import STARTER
from truetune.serve.opening import Wanted
from truetune.serve.outgrown import vllm


def test_what_it_would_answer_otherwise_is_refused(tmp_path: Path) -> None:
    place = made(tmp_path / "one", 1)
    body = json.loads((place / adapter.CONFIG).read_text())

    def plan(**changes: Any) -> vllm.Plan:
        (place / adapter.CONFIG).write_text(json.dumps(body | changes))
        return vllm.planned([Wanted(("one",), find_subject(str(place)))])

    assert plan().names == ["starter", "one"]
    assert plan(use_rslora=True).rank == 8
    for changes in ({"use_dora": True}, {"modules_to_save": ["lm_head"]}):
        with pytest.raises(UsageError) as refused:
            plan(**changes)
        assert refused.value.code == "serve.not_vllm"
        assert next(iter(changes)) in refused.value.message
    with pytest.raises(UsageError):
        plan(r=4000)
    plan()
    other = made(tmp_path / "two", 2)
    (other / "tokenizer.json").write_bytes((STARTER / "tokenizer.json").read_bytes())
    (other / "tokenizer_config.json").write_bytes((STARTER / "tokenizer_config.json").read_bytes())
    (other / "chat_template.jinja").write_text("{{ messages[0]['content'] }}")
    wanted = [Wanted((each.name,), find_subject(str(each))) for each in (place, other)]
    with pytest.raises(UsageError) as refused:
        vllm.planned(wanted)
    assert "chat templates" in refused.value.message
    assert vllm.planned([Wanted((), find_subject("starter"))]).adapters == ()

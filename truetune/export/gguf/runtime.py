"""llama.cpp with a GGUF file loaded, as the gate asks it: ids, distributions, greedy tokens, ends."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from truetune.errors import CheckFailed
from truetune.export.bounds import TABLE, TOLERANCE
from truetune.export.gguf.child import Child, need
from truetune.export.runtime import Ids, Logs, Messages, Refused, Runtime
from truetune.models import gguf_header

CONTEXT = 512
"""Tokens that the program is opened for: more than the gate's texts have."""
TOLD = 256
"""Tokens of each place whose likelihood is asked for, of a larger vocabulary the likeliest."""
SMALL = 2**28
"""Bytes of a file below which one thread is faster than several that wait for each other."""
GELU = ("gpt2", "gemma2", "gemma3")
"""Architectures with an activation that llama.cpp looks up in a table of float16."""
FORCED = 1e4
"""Logit that makes a token certain."""


class LlamaCpp(Runtime):
    """The file at `path`, which is checked before native code sees it; with the first of `adapters` at full strength.

    `composes`: the tokenizer composes accents first, which the program does not; that is stated with the export, so
    texts in which it would show are not asked.

    Raises InputError `model.bad_gguf`, ResourceError `export.not_installed`, CheckFailed `export.runtime`.
    """

    name = "llama.cpp"

    def __init__(
        self, path: Path, adapters: Sequence[Path] = (), *, composes: bool = False, context: int = CONTEXT
    ) -> None:
        need("xllamacpp", "gguf", "the comparison with llama.cpp")
        head = gguf_header.check(path)
        for each in adapters:
            gguf_header.check(each)
        self.rows = int(head.keys["tokenizer.ggml.tokens"][1])
        architecture = head.keys["general.architecture"]
        self.declared = [head.keys.get(f"tokenizer.ggml.{name}_token_id") for name in ("eos", "eot", "eom")]
        self.speaks = "tokenizer.chat_template" in head.keys
        self.composes = composes
        self.lora: dict[str, Any] = {"lora": [{"id": 0, "scale": 1.0}]} if adapters else {}
        small = path.stat().st_size < SMALL
        self.tolerance = TABLE if architecture in GELU else TOLERANCE
        self.child = Child("worker")
        settings = {
            "model": str(path.resolve()),
            "context": min(context, int(head.keys[f"{architecture}.context_length"])),
            "threads": 1 if small else max(1, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 2),
            "adapters": [str(each.resolve()) for each in adapters],
        }
        try:
            self.child.ask(settings)
            self.anchor = self.tokens("a", start=False)[-1]
        except BaseException:
            self.close()
            raise

    def post(self, path: str, body: dict[str, Any]) -> Any:
        status, answer = self.child.ask([path, body])
        if status != 200:
            reason = answer.get("error", {}).get("message", answer) if isinstance(answer, dict) else answer
            if path == "/apply-template":
                raise Refused(str(reason)[:300])
            raise CheckFailed(
                f"llama.cpp refuses what it is asked: {str(reason)[:300]}",
                code="export.runtime",
                where=path,
                hint="Nothing was written. Export with --format merged, and say which model this is.",
            )
        return answer

    def ids(self, messages: Messages) -> list[int] | None:
        if not self.speaks:
            raise Refused("the file has no chat template")
        if not all(self.plain(each["content"]) for each in messages):
            return None
        prompt = self.post("/apply-template", {"messages": [dict(each) for each in messages]})["prompt"]
        return self.tokens(prompt, start=True)

    def encode(self, text: str) -> list[int] | None:
        return self.tokens(text, start=False) if self.plain(text) else None

    def plain(self, text: str) -> bool:
        return not self.composes or unicodedata.is_normalized("NFC", text)

    def tokens(self, text: str, *, start: bool) -> list[int]:
        found = self.post("/tokenize", {"content": text, "add_special": start, "parse_special": True})["tokens"]
        return [int(each) for each in found]

    def ends(self) -> frozenset[int]:
        return frozenset(int(each) for each in self.declared if each is not None)

    def stops(self, ids: Ids, token: int) -> bool:
        asked = self.complete(ids, 2, logit_bias=[[int(token), FORCED]])
        return bool(asked["stop_type"] == "eos" and asked["tokens_predicted"] <= 1)

    def logs(self, texts: Sequence[Ids]) -> list[Logs]:
        return [np.stack([self.log(text[: at + 1]) for at in range(len(text))]) for text in texts]

    def log(self, ids: Ids) -> Logs:
        """float32 [V]: what may come after a text."""
        found = np.full(self.rows, np.nan, np.float32)
        told = self.told(ids, min(self.rows, TOLD))
        found[[each["id"] for each in told]] = [each["logprob"] for each in told]
        return found

    def answer(self, ids: Ids, limit: int) -> list[int]:
        """One token at a time, because the program would stop at an end."""
        found = [int(each) for each in ids]
        for _ in range(limit):
            found.append(int(self.told(found, 1)[0]["id"]))
        return found[len(ids) :]

    def told(self, ids: Ids, count: int) -> list[dict[str, Any]]:
        """The likeliest tokens after a text, best first: {id, logprob}, before any bias. What is written is always the
        same whole letter: the program tells nothing of a token that is a part of one."""
        asked = self.complete(ids, 1, n_probs=count, logit_bias=[[self.anchor, FORCED]])
        found: list[dict[str, Any]] = asked["completion_probabilities"][0]["top_logprobs"]
        return found

    def complete(self, ids: Ids, limit: int, **asked: Any) -> dict[str, Any]:
        body = {"prompt": [int(each) for each in ids], "n_predict": limit, "temperature": 0, "cache_prompt": True}
        answer: dict[str, Any] = self.post("/completion", {**body, **self.lora, **asked})
        return answer

    def close(self) -> None:
        self.child.close()

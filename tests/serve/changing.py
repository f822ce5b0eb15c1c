"""Adapters that are loaded, pointed elsewhere and unloaded while others ask: whose answers are whose."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from typing import Any

import httpx2
from under_load import LIMIT, Process, body


class Changing:
    """Names that come, change hands and go, and those who ask for them meanwhile."""

    def __init__(self, server: Process, contents: dict[str, str]) -> None:
        self.server, self.contents = server, contents
        self.stands: dict[str, tuple[str, int] | None] = {}
        """Name -> its content and the load that put it there; None while that changes."""
        self.calls: Counter[str] = Counter()
        self.times: list[float] = []
        self.over, self.wrong = threading.Event(), list[str]()
        self.sure: list[str] = []
        self.either = 0
        self.expected = {name: self.known(path) for name, path in contents.items()}
        self.fixed = {name: self.said(name)[1] for name in ("starter", "stays")}
        assert len({*self.expected.values(), *self.fixed.values()}) == len(contents) + 2

    def known(self, path: str) -> str:
        self.tell("load", lora_name="probe", lora_path=path)
        status, text = self.said("probe")
        assert status == 200, text
        self.tell("unload", lora_name="probe")
        return text

    def tell(self, verb: str, **asked: Any) -> None:
        began = time.monotonic()
        answer = httpx2.post(f"{self.server.url}/v1/{verb}_lora_adapter", json=asked, timeout=LIMIT)
        if verb == "load":
            self.times.append(1000 * (time.monotonic() - began))
        self.calls[verb] += 1
        if answer.status_code != 200:
            self.wrong.append(f"{verb}: {answer.text}")

    def said(self, name: str) -> tuple[int, str]:
        asked = body(name, 1, max_tokens=6)
        answer = httpx2.post(f"{self.server.url}/v1/chat/completions", json=asked, timeout=LIMIT)
        found = answer.json()
        return answer.status_code, found["choices"][0]["message"]["content"] if "choices" in found else answer.text

    def some(self, count: int, seed: int) -> None:
        """So many loads, and about as many unloads."""
        draw = random.Random(seed)
        for number in range(count):
            name, content = f"moves-{draw.randrange(4)}", draw.choice([*self.contents])
            if name in self.stands and draw.random() < 0.9:
                del self.stands[name]
                self.tell("unload", lora_name=name)
            inplace = name in self.stands
            self.stands[name] = None
            self.tell("load", lora_name=name, lora_path=self.contents[content], load_inplace=inplace)
            self.stands[name] = content, seed * count + number

    def ask(self, seed: int) -> None:
        draw = random.Random(f"asker {seed}")
        while not self.over.is_set():
            if seed % 2:
                name = draw.choice([*self.fixed])
                self.check(self.said(name) == (200, self.fixed[name]), name)
                continue
            name = draw.choice([*self.stands] or ["moves-0"])
            before = self.stands.get(name)
            status, text = self.said(name)
            if before and before == self.stands.get(name):
                self.check((status, text) == (200, self.expected[before[0]]), name)
            else:
                self.either += status == 200
                gone = status == 404 and "model_not_found" in text
                if not gone and (status != 200 or text not in self.expected.values()):
                    self.wrong.append(f"{name}: {status} {text}")

    def check(self, right: bool, name: str) -> None:
        self.sure.append(name)
        if not right:
            self.wrong.append(f"another answer than {name}'s")

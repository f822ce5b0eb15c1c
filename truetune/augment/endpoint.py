"""A model behind an address that speaks OpenAI's protocol (`POST …/chat/completions`), named by the user.

What holds for it: https, or http to this very machine; never another address than the one that was named (a redirect
is an error); the key goes there and nowhere else; every wait and every answer has a limit. With `HF_HUB_OFFLINE=1` only
this machine is asked.
"""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable, Sequence
from typing import Any

import httpx2
import orjson

from truetune.augment.address import checked, headers
from truetune.augment.methods import Messages
from truetune.augment.threads import together
from truetune.config.secrets import Secret
from truetune.errors import InputError, TrueTuneError

LARGEST = 4_000_000
"""Bytes of an answer."""
PATIENCE = 300.0
"""Seconds for a whole answer."""
CONNECT = 20.0
"""Seconds for a connection."""
PAUSES = (1.0, 2.0, 4.0, 8.0)
"""Seconds before another try, where the endpoint is busy and does not say how many."""
LONGEST_PAUSE = 60.0
FAULTS = 3
"""So many answers in a row that cannot be used end the work."""
BUSY = {408, 409, 425, 429}
SECONDS = re.compile(r"\d{1,6}(\.\d{1,6})?")
SAID = 200
"""Characters of what the endpoint says about an error that are shown."""


class Busy(Exception):
    """It may well answer a little later. `error` is for the case that it does not."""

    def __init__(self, error: TrueTuneError, after: float | None = None) -> None:
        super().__init__(str(error))
        self.error, self.after = error, after


class Fault(Exception):
    """This one answer cannot be used; another prompt may well get one."""

    def __init__(self, error: TrueTuneError) -> None:
        super().__init__(str(error))
        self.error = error


class Endpoint:
    """Raises UsageError `augment.endpoint`, `augment.key`; InputError `augment.offline`, `augment.unreachable`,
    `augment.redirect`, `augment.refused`, `augment.busy`, `augment.answer`."""

    special = None

    def __init__(
        self,
        address: str,
        model: str,
        key: Secret | None = None,
        *,
        slots: int = 8,
        patience: float = PATIENCE,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self.address, self.local = checked(address)
        self.name, self.slots, self.patience, self.pause = model, slots, patience, pause
        self.key = key
        self.limit = "max_tokens"
        """What the endpoint calls the longest answer."""
        self.answered = False
        self.faults = 0
        """Answers that could not be used since the last that could."""
        self.client = httpx2.Client(
            headers=headers(key),
            follow_redirects=False,
            trust_env=not self.local,
            timeout=httpx2.Timeout(patience, connect=min(patience, CONNECT)),
            limits=httpx2.Limits(max_connections=slots),
        )

    def ask(self, prompts: Sequence[Messages], *, seed: int, temperature: float, max_new_tokens: int) -> list[str]:
        """Answers of at most `slots` prompts at a time. A prompt that can't be answered gets an empty one, as long as
        others can."""

        def one(item: tuple[int, Messages]) -> str:
            place, messages = item
            body = {"model": self.name, "messages": list(messages), "temperature": temperature, "seed": seed + place}
            return self.answer(body, max_new_tokens)

        return together(one, list(enumerate(prompts)), self.slots)

    def answer(self, body: dict[str, Any], most: int) -> str:
        try:
            text = self.patiently(body, most)
        except Fault as fault:
            self.faults += 1
            if self.faults >= FAULTS or not self.answered:
                raise fault.error from None
            return ""
        self.answered, self.faults = True, 0
        return text

    def patiently(self, body: dict[str, Any], most: int) -> str:
        """An answer, asked for again where the endpoint is busy; Fault where it stays so."""
        for pause in (*PAUSES, None):
            try:
                return self.once(body, most)
            except Busy as busy:
                if pause is None:
                    raise Fault(busy.error) from None
                self.pause(busy.after if busy.after is not None else pause * random.uniform(0.5, 1.5))
        raise AssertionError("the last try returns or raises")

    def once(self, body: dict[str, Any], most: int) -> str:
        """Ask. Raises Busy, Fault, and InputError where no prompt would be answered."""
        limit = self.limit
        try:
            status, head, data = self.post(orjson.dumps({**body, limit: most}))
        except httpx2.TimeoutException:
            raise Fault(self.silent(f"there is no answer within {self.patience:g} seconds")) from None
        except httpx2.TransportError as error:
            raise self.unreachable(error) from None
        if status == 400 and limit == "max_tokens" and b"max_completion_tokens" in data:
            self.limit = "max_completion_tokens"  # newer models of OpenAI refuse the older name
            return self.once(body, most)
        if status != 200:
            raise self.refusal(status, head, data)
        return self.text(data)

    def post(self, data: bytes) -> tuple[int, httpx2.Headers, bytes]:
        """Status, headers and body of the answer. Raises Fault for one that is too large or too slow."""
        end, body = time.monotonic() + self.patience, bytearray()
        with self.client.stream("POST", self.address, content=data) as response:
            for piece in response.iter_raw():
                body += piece
                if len(body) > LARGEST:
                    raise Fault(self.useless(f"an answer is larger than {LARGEST:,} bytes"))
                if time.monotonic() > end:
                    raise Fault(self.useless(f"an answer takes longer than {self.patience:g} seconds"))
            return response.status_code, response.headers, bytes(body)

    def text(self, data: bytes) -> str:
        """The message in an answer; empty where there is none, or its end is missing. Raises Fault."""
        try:
            choice = orjson.loads(data)["choices"][0]
            text, reason = choice["message"]["content"], choice.get("finish_reason")
        except (orjson.JSONDecodeError, LookupError, TypeError):
            raise Fault(self.useless("what comes back is no chat completion")) from None
        return text if isinstance(text, str) and reason in (None, "stop") else ""

    def refusal(self, status: int, head: httpx2.Headers, data: bytes) -> Exception:
        """What another status than 200 means: an error, or a reason to ask again."""
        if 300 <= status < 400:
            where = head.get("location", "nowhere")[:SAID]
            hint = "Name that address as the endpoint, if you trust it."
            message = f"the endpoint sends on to {where}, where nothing of yours is sent"
            return InputError(message, code="augment.redirect", where=str(self.address), hint=hint)
        if status in (401, 403):  # what it says may hold a part of the key
            return self.refused(f"the endpoint does not let you in (status {status})")
        said = f"the endpoint answers with status {status}: {self.said(data)}"
        if status in BUSY or status >= 500:
            return Busy(self.busy(said), after(head))
        return Fault(self.refused(said))

    def unreachable(self, error: Exception) -> Exception:
        """An endpoint that has never answered is not asked again and again."""
        reason = " ".join(str(error).split())[:SAID] or type(error).__name__
        found = self.silent(f"the endpoint can't be reached: {reason}")
        return Busy(found) if self.answered else found

    def said(self, data: bytes) -> str:
        """What the endpoint says about an error, in one line and without the key."""
        try:
            value = orjson.loads(data)
        except orjson.JSONDecodeError:
            return "it does not say why"
        error = value.get("error", value) if isinstance(value, dict) else None
        text = error.get("message", error.get("detail")) if isinstance(error, dict) else error
        line = " ".join(text.split()) if isinstance(text, str) else ""
        key = self.key.reveal() if self.key else ""
        return (line.replace(key, "***") if key else line)[:SAID] or "it does not say why"

    def silent(self, message: str) -> InputError:
        hint = "Check the address, and whether it runs."
        return InputError(message, code="augment.unreachable", where=str(self.address), hint=hint)

    def useless(self, message: str) -> InputError:
        hint = "Is it an endpoint for chat completions? Its address mostly ends with /v1."
        return InputError(message, code="augment.answer", where=str(self.address), hint=hint)

    def refused(self, message: str) -> InputError:
        hint = "Check the key (--key), the model's name and the address."
        return InputError(message, code="augment.refused", where=str(self.address), hint=hint)

    def busy(self, message: str) -> InputError:
        hint = "Try again later, or ask for less at once: --slots 1."
        return InputError(message, code="augment.busy", where=str(self.address), hint=hint)

    def close(self) -> None:
        self.client.close()


def after(head: httpx2.Headers) -> float | None:
    """The seconds that `Retry-After` asks for, as far as anybody waits."""
    text = head.get("retry-after", "")
    return min(float(text), LONGEST_PAUSE) if SECONDS.fullmatch(text) else None

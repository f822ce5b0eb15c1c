"""Whatever goes wrong as a status and OpenAI's error body; 5xx is for bugs of ours alone, and for a server that ends.

400  the request cannot be answered as it is      408  it came too slowly     413  it is too large
401  the key is missing or wrong                  403  Host or Origin is not ours
404  no such model or route                       409  the name is taken
429  there is no room: come back later            503  the server is ending
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from truetune.errors import InputError, ResourceError, TrueTuneError, UsageError
from truetune.serve import openai

TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    408: "timeout_error",
    409: "conflict_error",
    413: "invalid_request_error",
    429: "rate_limit_error",
    503: "overloaded_error",
}
LONGEST = 1000
"""Characters of a message."""


class Refusal(Exception):
    """An answer other than the one that was asked for."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.param = status, message, code, param
        self.headers = dict(headers or {})

    @property
    def body(self) -> openai.Json:
        return openai.error(
            plain(self.message), TYPES.get(self.status, "server_error"), param=self.param, code=self.code
        )


def plain(text: str) -> str:
    """Cut, and without halves of characters, which JSON cannot hold."""
    return text[:LONGEST].encode("utf-8", "backslashreplace").decode()


def unknown_model(name: str) -> Refusal:
    return Refusal(404, f"The model `{name[:256]}` does not exist.", code="model_not_found", param="model")


def busy(seconds: int = 1) -> Refusal:
    message = "The server has as many requests as it can hold. Try again later."
    return Refusal(429, message, code="queue_full", headers={"retry-after": str(seconds)})


def draining() -> Refusal:
    return Refusal(
        503, "The server is ending and takes no new requests.", code="draining", headers={"retry-after": "5"}
    )


def of_error(error: TrueTuneError, param: str | None = None) -> Refusal:
    """One of our errors. What a request causes is 400; memory that ran out is 429, because it comes back;
    an answer that the server's end cut off is 503."""
    finding = error.finding
    message = " ".join(part for part in (sentence(finding.message), finding.hint) if part)
    if finding.code == "serve.closed":
        return Refusal(503, message, code=finding.code, headers={"retry-after": "5"})
    if isinstance(error, ResourceError):
        return Refusal(429, message, code=finding.code, headers={"retry-after": "5"})
    known = isinstance(error, UsageError | InputError)
    if not known:
        return Refusal(500, "The server failed at this request.", code=finding.code)
    code = "context_length_exceeded" if finding.code == "generation.too_long" else finding.code
    return Refusal(400, message, code=code, param=finding.where or param if finding.code.startswith("gen") else param)


def sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}{'' if text.endswith(('.', '!', '?')) else '.'}"


def of_validation(findings: Sequence[Mapping[str, Any]]) -> Refusal:
    """What pydantic says about a body: the first finding, and how many more there are."""
    if not findings:
        return Refusal(400, "The request is not valid.")
    first = findings[0]
    place = [str(part) for part in first.get("loc", ()) if part not in ("body", "query", "path")]
    param = ".".join(place)[:256] or None
    kind = str(first.get("type", ""))
    if kind == "extra_forbidden":
        message = f"This server does not know the field `{param}`, and leaves nothing out silently."
    elif kind in ("json_invalid", "json_type"):
        message, param = "The body is not valid JSON.", None
    else:
        message = sentence(str(first.get("msg", "not valid"))) + (f" (`{param}`)" if param else "")
    more = f" {len(findings) - 1} more findings." if len(findings) > 1 else ""
    return Refusal(
        400, message + more, code="invalid_value" if kind != "extra_forbidden" else "unknown_parameter", param=param
    )

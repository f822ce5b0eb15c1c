"""Every error that a user can cause: a sentence, a place, a hint, an exit code.

TrueTuneError
├── CheckFailed      1   checked and found wrong (data findings, parity, verify)
├── UsageError       2   the command line or train.yml
│   └── ConfigErrors     all findings of one train.yml at once
├── InputError       3   an input is missing or cannot be read
├── ResourceError    4   memory, disk or device
├── TrainingError    5   training failed
├── Stopped         75   stopped on request; `--resume` goes on
└── Forced         130   stopped at once (second Ctrl-C)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong. `code` is stable (`config.unknown_key`) and listed in the docs."""

    code: str
    message: str
    where: str = ""
    hint: str = ""

    def __str__(self) -> str:
        return f"{self.where}: {self.message}" if self.where else self.message


class TrueTuneError(Exception):
    """What is wrong (`message`), where (`train.yml:12 training.learning_rate`), what to do (`hint`), and its stable
    `code`; of several findings the first one's."""

    exit_code = 5
    beside: Mapping[str, Any] = {}
    """What its JSON tells besides, for programs."""

    def __init__(self, message: str, *, code: str, where: str = "", hint: str = "") -> None:
        super().__init__(message)
        self.finding = Finding(code, message, where, hint)

    @property
    def findings(self) -> Sequence[Finding]:
        return (self.finding,)

    @property
    def code(self) -> str:
        return self.finding.code

    @property
    def message(self) -> str:
        return self.finding.message

    @property
    def where(self) -> str:
        return self.finding.where

    @property
    def hint(self) -> str:
        return self.finding.hint

    def to_json(self) -> dict[str, Any]:
        """The `error` object of the JSON contract; several findings stand in `findings`."""
        body = asdict(self.findings[0]) | dict(self.beside)
        if len(self.findings) > 1:
            body["findings"] = [asdict(finding) for finding in self.findings]
        return body

    def __str__(self) -> str:
        return str(self.finding)


class CheckFailed(TrueTuneError):
    """Something was checked and found wrong."""

    exit_code = 1


class UsageError(TrueTuneError):
    """The command line or the configuration is not usable."""

    exit_code = 2


class ConfigErrors(UsageError):
    """All findings of a configuration at once."""

    def __init__(self, findings: Sequence[Finding]) -> None:
        first = findings[0]
        super().__init__(first.message, code=first.code, where=first.where, hint=first.hint)
        self._findings = tuple(findings)

    @property
    def findings(self) -> Sequence[Finding]:
        return self._findings

    def __str__(self) -> str:
        return "\n".join(map(str, self._findings))


def together(errors: Sequence[TrueTuneError]) -> TrueTuneError:
    """One error with the findings of all and the highest of their exit codes."""
    if len(errors) == 1:
        return errors[0]
    found = ConfigErrors([finding for error in errors for finding in error.findings])
    found.exit_code = max(error.exit_code for error in errors)
    return found


class InputError(TrueTuneError):
    """An input (model, data, run, adapter) is missing or cannot be read."""

    exit_code = 3


class ResourceError(TrueTuneError):
    """Memory, disk or device."""

    exit_code = 4


class TrainingError(TrueTuneError):
    """Training failed: a loss that is not a number, nothing learned, a receipt that does not add up."""

    exit_code = 5


class Stopped(TrueTuneError):
    """Stopped on request after a saved step; the run can be resumed."""

    exit_code = 75


class Forced(TrueTuneError):
    """Stopped at once by a second signal."""

    exit_code = 130

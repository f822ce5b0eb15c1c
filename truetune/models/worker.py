"""The process in which chat templates run: it can open nothing, and has a bounded share of memory and time.

Templates come with models. `sandbox.py` keeps them from reaching out, as far as Jinja's sandbox holds; should it not
hold, there is nothing here to reach: no environment, no open file but two pipes, no way to open one. Should a template
find a way to grow or to go on that the sandbox does not count, the kernel ends this process and not the training.

One JSON document per line. In: {"name", "source"} compiles, {"name", "tokens", "talks": [[messages, tools, cuts], …]}
renders; a cut [n, prompt] is the first n messages, with or without the generation prompt. Out: one line for each cut, a
text, or [kind, reason, line] where it is none.
"""

from __future__ import annotations

import contextlib
import json
import resource
import signal
import sys
from collections.abc import Iterator
from typing import Any, BinaryIO

import jinja2
import jinja2.exceptions

from truetune.models.sandbox import TURNS, Endless, Room

MEMORY = 2**28
"""Bytes that this process may grow by."""
SECONDS, EACH = 2.0, 0.05
"""CPU time of a request, and what each of its renderings adds."""

WARM = """{% macro m(x) %}{% for a in [x] %}{{ a | pprint | urlize }}{% endfor %}{% endmacro %}
{{ m('a\\n') ~ lipsum(1) | random | striptags | wordwrap(9) | tojson ~ strftime_now('%A %B') }}{{ none.x.y }}"""
"""Uses, and then fails in, what Python and Jinja import when it is first used: later no file can be opened."""

Answer = str | list[Any]


def main() -> None:
    """Serve until the other side closes the pipe, which it also does by dying."""
    requests, answers = sys.stdin.buffer, sys.stdout.buffer
    text(Room().template(WARM), {})
    close_doors()
    serve(requests, answers)


def close_doors() -> None:
    """No new file, socket or process, a bounded memory; stops are for the process that asks."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    limit(resource.RLIMIT_CORE, 0)
    limit(resource.RLIMIT_NPROC, 0)
    limit(resource.RLIMIT_FSIZE, 0)
    if grown := size():
        limit(resource.RLIMIT_AS, grown + MEMORY)
    limit(resource.RLIMIT_NOFILE, 0)


def limit(what: int, most: int) -> None:
    """As far as the system knows this limit; the process that asks watches time and memory, too."""
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(what, (most, most))


def size() -> int:
    """Bytes of address space; 0 where the system does not say."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[0]) * resource.getpagesize()
    except OSError:
        return 0


def serve(requests: BinaryIO, answers: BinaryIO) -> None:
    room, known = Room(), dict[str, jinja2.Template]()
    for line in requests:
        request = json.loads(line)
        # Its default is to end the process, whatever C code that is in.
        signal.setitimer(signal.ITIMER_PROF, SECONDS + EACH * sum(len(cuts) for *_, cuts in request.get("talks", ())))
        found = render(room, known, request) if "talks" in request else compile(room, known, request)
        for answer in found:
            answers.write(json.dumps(answer).encode() + b"\n")
        signal.setitimer(signal.ITIMER_PROF, 0)
        answers.flush()


def compile(room: Room, known: dict[str, jinja2.Template], request: dict[str, Any]) -> Iterator[Answer]:
    try:
        known[request["name"]] = room.template(request["source"])
        yield ""
    except jinja2.exceptions.TemplateSyntaxError as error:
        yield ["syntax", str(error.message), error.lineno]
    except MemoryError:
        raise
    except Exception as error:  # a template is a program: anything can go wrong in translating it
        yield ["syntax", reason(error), 1]


def render(room: Room, known: dict[str, jinja2.Template], request: dict[str, Any]) -> Iterator[Answer]:
    template, tokens = known[request["name"]], request["tokens"]
    for messages, tools, cuts in request["talks"]:
        for stop, prompt in cuts:
            room.turns = TURNS
            given = {"messages": messages[:stop], "tools": tools or None, "documents": None}
            yield text(template, {**given, "add_generation_prompt": prompt, **tokens})


def text(template: jinja2.Template, values: dict[str, Any]) -> Answer:
    try:
        return template.render(values)
    except Endless as error:
        return ["endless", str(error), 0]
    except MemoryError:
        raise
    except Exception as error:  # a template is a program: anything can go wrong in it
        return ["refused", reason(error), 0]


def reason(error: Exception) -> str:
    return str(error) or type(error).__name__

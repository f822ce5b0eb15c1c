"""Templates are programs of strangers: whatever one does, it ends with one error, and who asked is whole."""

from __future__ import annotations

import datetime
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from truetune.data.rows import Conversation, RowError, Turn
from truetune.data.turns import answers
from truetune.models import booth, source, tokenizer
from truetune.models.booth import BOOTH, Booth, Breach
from truetune.models.template import BATCH, LARGEST, Template, TemplateEndless, TemplateError
from truetune.testing.templates import CHATML

TALK = [{"role": "user", "content": "Hello"}]
needs_proc = pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="the system has no /proc")


def render(text: str) -> str:
    return Template(text, {}, "hostile.jinja").render(TALK)


GROWING = [
    "{{ 'a' * 2000000000 }}",
    "{{ 'a' | center(10**9) }}",
    "{{ 'a'.center(1000000000) }}",
    "{{ ('a' * 1000000) | replace('a', 'b' * 100) }}",
    "{{ '%1000000000d' % 3 }}",
    "{{ '%1000000000d' | format(3) }}",
    "{{ '{:>1000000000}'.format(1) }}",
    "{{ 'a'.zfill(10**10) }}",
    "{{ ('\t' * 10**6).expandtabs(10**6) }}",
    "{% set x = 'a' * 9000000 %}{{ x }}{{ x }}",
    "{% set n = namespace(x='a') %}{% for i in range(40) %}{% set n.x = n.x + n.x %}{% endfor %}",
    "{% set x = 'a' * 9000000 %}{% macro m() %}{{ x }}{{ x }}{% endmacro %}{{ m() | length }}",
    "{% set x = 'a' * 9000000 %}{% set y %}{{ x }}{{ x }}{% endset %}",
]
LASTING = [
    "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "{% set n = namespace(x=7) %}{% for i in range(99) %}{% set n.x = n.x * n.x %}{% endfor %}",
]
ESCAPING = [
    "{{ cycler.__init__.__globals__.os.system('true') }}",
    "{{ messages.__class__.__mro__[1].__subclasses__() }}",
    "{{ ''.__class__.__base__.__subclasses__() }}",
    "{% set f = ''.format %}{{ f.__self__.__class__.__mro__ }}",
    "{{ lipsum.__globals__['os'].popen('true').read() }}",
    "{{ raise_exception.__globals__.json }}",
    "{{ messages[0].update(content='x') }}",
    "{{ messages.append(1) }}",
    "{% include '/etc/passwd' %}",
    "{% import '/etc/passwd' as x %}",
    "{% extends '/etc/passwd' %}",
    "{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}",
    "{{ " + "(" * 5000 + ")" * 5000 + " }}",
    "{% if 1 %}" * 3000 + "{% endif %}" * 3000,
    "{{ 'x'.encode('idna') }}",
    "{{ (7 ** 1000) ** 1000 }}",
]


@pytest.mark.parametrize("text", GROWING)
def test_what_grows_is_ended(text: str) -> None:
    with pytest.raises(TemplateEndless) as caught:
        render(text)
    finding = caught.value.finding
    assert (finding.code, finding.where) == ("model.template", "hostile.jinja") and finding.hint


@pytest.mark.slow
@pytest.mark.parametrize("text", LASTING)
def test_what_lasts_is_ended(text: str) -> None:
    with pytest.raises(TemplateEndless):
        render(text)


@pytest.mark.parametrize("text", ESCAPING)
def test_what_reaches_out_is_refused(text: str) -> None:
    with pytest.raises(TemplateError):
        render(text)


def test_after_a_breach_others_are_served_and_nothing_is_left_over() -> None:
    good = Template("{{ messages[0].content }}!", {}, "good")
    for _ in range(2):
        with pytest.raises(TemplateEndless):
            render("{{ 'a'.center(1000000000) }}")
        assert good.render(TALK) == "Hello!"
    workers = [child for child in psutil.Process().children() if "truetune.models" in " ".join(child.cmdline())]
    assert [child.pid for child in workers] == [BOOTH.process.pid if BOOTH.process else 0]


def test_a_worker_that_is_killed_by_another_is_not_held_against_the_template() -> None:
    good = Template("{{ messages[0].content }}!", {}, "good")
    assert BOOTH.process
    BOOTH.process.kill()
    BOOTH.process.wait()
    assert good.render(TALK) == "Hello!"


def test_a_stop_meant_for_the_training_leaves_the_worker() -> None:
    good = Template("{{ messages[0].content }}!", {}, "good")
    assert BOOTH.process
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        BOOTH.process.send_signal(number)
    before = BOOTH.process
    assert good.render(TALK) == "Hello!" and BOOTH.process is before


def test_a_worker_holds_so_many_templates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(booth, "KEPT", 3)
    templates = [Template(f"{number}", {}, "t") for number in range(9)]
    assert [template.render(TALK) for template in templates * 2] == [str(number) for number in range(9)] * 2
    assert len(BOOTH.known) <= 3


def test_threads_get_their_own_answers() -> None:
    template, found = Template("{{ messages[0].content }}", {}, "t"), dict[int, set[str]]()

    def ask(number: int) -> None:
        found[number] = {template.render([{"content": str(number)}]) for _ in range(50)}

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {number: {str(number)} for number in range(4)}


def test_a_fork_gets_a_worker_of_its_own() -> None:
    template = Template("{{ messages[0].content }}", {}, "t")
    child = os.fork()
    if not child:
        os._exit(0 if template.render([{"content": "child"}]) == "child" else 1)
    assert template.render([{"content": "parent"}]) == "parent"
    assert os.waitpid(child, 0)[1] == 0


@needs_proc
def test_the_worker_has_nothing_that_is_ours(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_canary")
    with (tmp_path / "open").open("w") as file:
        os.set_inheritable(file.fileno(), True)
        mine = Booth()
        assert mine.compile("name", "x") == ""
    assert mine.process
    folder = Path("/proc") / str(mine.process.pid)
    assert (folder / "environ").read_bytes() == b""
    assert sorted(path.name for path in (folder / "fd").iterdir()) == ["0", "1", "2"]
    assert os.readlink(folder / "cwd") == "/"
    limits = {line[:26].strip(): line[26:].split()[:2] for line in (folder / "limits").read_text().splitlines()}
    for name in ("Max open files", "Max processes", "Max file size", "Max core file size"):
        assert limits[name] == ["0", "0"]
    assert 2**28 < int(limits["Max address space"][1]) < 2**29 + 2**28
    mine.close()


def gone(process: psutil.Process) -> bool:
    """Ended; whether anybody has taken note of it is not ours."""
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_the_worker_ends_with_a_parent_that_is_killed() -> None:
    code = (
        "from truetune.models.template import Template; from truetune.models.booth import BOOTH\n"
        "Template('x', {}, 't'); print(BOOTH.process.pid, flush=True); input()"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert parent.stdout and parent.stdin
    worker = psutil.Process(int(parent.stdout.readline()))
    parent.kill()
    parent.communicate()
    limit = time.monotonic() + 120
    while not gone(worker):
        assert time.monotonic() < limit
        time.sleep(0.05)


def test_an_answer_that_is_none_ends_the_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    for line in ("{}", "[1]", "[" * 100_000, "nonsense"):
        monkeypatch.setattr(booth, "START", f"import sys; sys.stdin.readline(); print({line!r}, flush=True)")
        mine = Booth()
        with pytest.raises(Breach):
            mine.compile("name", "x")
        assert mine.process is None


def test_a_worker_that_grows_is_ended_where_no_limit_holds_it(monkeypatch: pytest.MonkeyPatch) -> None:
    code = "import sys, time; sys.stdin.readline(); a = b'x' * 2**27; time.sleep(60)"
    monkeypatch.setattr(booth, "START", code)
    monkeypatch.setattr(booth, "MEMORY", 0)
    with pytest.raises(Breach):
        Booth().compile("name", "x")


def test_a_template_speaks_without_what_a_terminal_obeys() -> None:
    with pytest.raises(TemplateError) as caught:
        render("{{ raise_exception('\x1b]0;title\x07' * 999) }}")
    message = caught.value.finding.message
    assert message.isprintable() and len(message) < 400


def test_a_conversation_beyond_measure_is_its_own_fault() -> None:
    """The others of its batch are rendered."""
    template = Template("{{ messages[0].content | length }}", {}, "t")
    sizes = [5, LARGEST + 1, BATCH + 1, 7]
    found = template.render_all([([{"content": "a" * size}], [], [(1, False), (1, True)]) for size in sizes])
    assert [texts[1] if isinstance(texts[1], str) else type(texts[1]) for texts in found] == [
        "5",
        TemplateError,
        str(BATCH + 1),
        "7",
    ]
    ((text,),) = template.render_all([([{"content": "a"}], [{"function": {"about": ["a" * LARGEST]}}], [(1, False)])])
    assert isinstance(text, TemplateError)


def test_a_message_that_is_not_json_is_refused() -> None:
    for value in (object(), datetime.datetime(2026, 1, 1), Turn("user", "x")):
        with pytest.raises(TemplateError, match="JSON"):
            Template("x", {}, "t").render([{"content": value}])


@pytest.mark.parametrize("value", ["é 🙂 \u2028 \n", "half \ud800", 2**70, [1.5, None, True], {"a": {"b": "c"}}])
def test_what_python_takes_for_json_is_rendered(value: Any) -> None:
    """A half character comes back from a template, too."""
    found = Template("{{ messages[0].content }} {{ '\\udc00' }}", {}, "t").render([{"content": value}])
    assert found == f"{value} \udc00"


def test_a_message_cannot_bring_a_template() -> None:
    talk = [{"role": "user", "content": "{{ 1 + 1 }}", "chat_template": "no", "source": "no"}]
    assert Template("{{ messages[0].content }}{{ chat_template }}", {}, "t").render(talk) == "{{ 1 + 1 }}"


def test_a_breach_stops_the_whole_preparation_and_a_refusal_one_row() -> None:
    encode = tokenizer.load(source.STARTER)
    talk = Conversation((Turn("user", "Hello"), Turn("assistant", "Hi")))
    assert answers(talk, Template(CHATML, {}, "t"), encode, "all")
    with pytest.raises(TemplateEndless):
        answers(talk, Template("{{ 'a'.center(1000000000) }}", {}, "t"), encode, "all")
    with pytest.raises(RowError):
        answers(talk, Template("{{ raise_exception('no') }}", {}, "t"), encode, "all")

"""`ft serve --engine vllm`, as far as it can be tested without vLLM, which cannot be installed beside this torch: what
it is told, how its process is started, waited for and ended. A small program stands in for it; it answers /health and
writes down what it was given. Nothing here says that vLLM itself answers as it should.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from real_ft import LIMIT, Ft, kill
from served import made

from truetune.evaluate.subject import find_subject
from truetune.models.source import STARTER

pytestmark = pytest.mark.slow
KEY = "the-key-of-a-test"
STANDS_IN = """#!{python}
import http.server, json, os, subprocess, sys, time
words = sys.argv[1:]
if os.path.exists({folder!r} + "/broken"):
    sys.exit("out of memory")
helper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
template = words[words.index("--chat-template") + 1] if "--chat-template" in words else None
kept = {{name: os.environ.get(name) for name in {names!r}}}
told = {{"words": words, "env": kept, "helper": helper.pid, "template": template and open(template).read()}}
began = time.monotonic()
class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if time.monotonic() - began > 0.5 else 503)
        self.end_headers()
    def log_message(self, *_):
        pass
address = words[words.index("--host") + 1], int(words[words.index("--port") + 1])
server = http.server.HTTPServer(address, Answer)
with open({folder!r} + "/told.json", "w") as file:
    json.dump(told, file)
server.serve_forever()
"""
NAMES = ["VLLM_API_KEY", "TRUETUNE_API_KEY", "HF_TOKEN", "VLLM_NO_USAGE_STATS", "HF_HUB_OFFLINE"]


@pytest.fixture
def ft(tmp_path: Path) -> Iterator[Ft]:
    """A folder with an adapter, and a `vllm` that comes first on PATH."""
    ft = Ft(tmp_path / "work")
    made(ft.folder / "one", 1)
    program = tmp_path / "bin" / "vllm"
    program.parent.mkdir()
    program.write_text(STANDS_IN.format(python=sys.executable, folder=str(tmp_path), names=NAMES))
    program.chmod(0o755)
    ft.env |= {"PATH": f"{program.parent}:{ft.env['PATH']}", "TRUETUNE_API_KEY": KEY, "HF_TOKEN": "hf_secret"}
    yield ft


def told(ft: Ft) -> dict[str, Any]:
    found = json.loads((ft.folder.parent / "told.json").read_text())
    assert isinstance(found, dict)
    return found


def started(ft: Ft, *more: str) -> tuple[subprocess.Popen[str], str]:
    process = ft.start("serve", "./one", "--engine", "vllm", "--port", "0", *more)
    assert process.stdout
    said = [process.stdout.readline() for _ in range(3)]
    assert said[2].startswith("curl "), (said, process.stderr and process.poll() is not None and process.stderr.read())
    return process, said[0].strip().removesuffix("/v1")


def ends(pid: int) -> None:
    end = time.monotonic() + LIMIT
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < end, "it goes on"
        time.sleep(0.02)


def test_its_process(ft: Ft) -> None:
    """Names, key and address as ours; and nothing of it is left behind, however we end."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        process, url = started(ft, "--slots", "3")
        try:
            found = told(ft)
            words, env = found["words"], found["env"]
            assert words[:2] == ["serve", str(STARTER)]
            assert url == f"http://{words[3]}:{words[5]}" and words[3] == "127.0.0.1"
            assert words[words.index("--served-model-name") + 1] == "starter"
            assert words[words.index("--lora-modules") + 1 :][0] == f"one={ft.folder / 'one'}"
            assert (words[words.index("--max-lora-rank") + 1], words[words.index("--max-num-seqs") + 1]) == ("8", "3")
            template = find_subject(str(ft.folder / "one")).template
            assert template and found["template"] == template.source
            assert env == {
                "VLLM_API_KEY": KEY,
                "TRUETUNE_API_KEY": None,
                "HF_TOKEN": None,
                "VLLM_NO_USAGE_STATS": "1",
                "HF_HUB_OFFLINE": "1",
            }
            lines = [" ".join(each.cmdline()) for each in psutil.Process(process.pid).children(recursive=True)]
            assert len(lines) >= 2
            assert not any(KEY in line for line in [*lines, " ".join(psutil.Process(process.pid).cmdline())])
            server = next(each for each in psutil.Process(process.pid).children() if "vllm" in " ".join(each.cmdline()))
            assert os.getpgid(server.pid) == server.pid != os.getpgid(process.pid)
            process.send_signal(number)
            ends(server.pid)
            if number == signal.SIGKILL:
                os.kill(found["helper"], signal.SIGKILL)  # vLLM ends its own; the program that stands in does not
            done = ft.end(process)
            ends(found["helper"])
            if number != signal.SIGKILL:
                assert (done.code, "Traceback" in done.err) == (0, False), done.err
                assert "no Host and no Origin" in done.err
        finally:
            kill(process)


def test_what_goes_wrong(ft: Ft) -> None:
    (ft.folder.parent / "broken").write_text("")
    process = ft.start("serve", "./one", "--engine", "vllm", "--port", "0", "--json")
    done = ft.end(process)
    assert (done.code, done.document["error"]["code"]) == (4, "serve.ended")
    assert "with code 1 before it took requests" in done.document["error"]["message"]
    assert "out of memory" in done.err
    ft.env["PATH"] = "/usr/bin:/bin"
    absent = ft("serve", "./one", "--engine", "vllm", "--json")
    assert (absent.code, absent.document["error"]["code"]) == (4, "serve.no_vllm")
    assert "pip install vllm" in absent.document["error"]["hint"]
    odd = ft("serve", "./one", "--engine", "vllm", "--allow", "x", "--json").document["error"]
    assert (odd["code"], odd["message"]) == ("serve.not_vllm", "vLLM's server has nothing that is --allow")

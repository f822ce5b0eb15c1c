"""Two replicas on Ray beside one server: `python tests/serve/every_replica.py [--write]`, where Ray is installed.

The real `ft serve` alone, then `--engine ray` with the same adapters: the same requests must have the same answers,
from both replicas; loading and unloading must reach both; a replica that is killed under load must come back with its
adapters, and every request meanwhile must be answered or told that it is not. `--write` puts the figures into
docs/evidence/serve-ray.json. All of it runs in a network namespace with a loopback device alone, whatever Ray opens.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "tests" / "shared")]

import httpx2  # noqa: E402
import psutil  # noqa: E402
from prometheus_client.parser import text_string_to_metric_families  # noqa: E402
from served import KEY, made  # noqa: E402

EVIDENCE = ROOT / "docs" / "evidence" / "serve-ray.json"
LIMIT = 300
"""Seconds after which something has hung."""
TOGETHER = 8
QUESTIONS = [f"How do I return item {number}?" for number in range(12)]
MB = 2**20
Asked = tuple[str, str]
"""Model and question."""


class Server:
    """A real `ft serve` of its own, asked by HTTP."""

    def __init__(self, folder: Path, *more: str) -> None:
        env = os.environ | {"TRUETUNE_HOME": str(folder / "home"), "TRUETUNE_API_KEY": KEY, "HF_HUB_OFFLINE": "1"}
        line = [
            sys.executable,
            "-m",
            "truetune",
            "serve",
            "./one",
            "--port",
            "0",
            "--slots",
            "4",
            "--allow",
            "more",
            *more,
        ]
        self.folder, self.began = folder, time.monotonic()
        self.err = (folder / "err.txt").open("w+")
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(
            line,
            cwd=folder,
            env=env | {"OMP_NUM_THREADS": "1"},
            stdout=pipe,
            stderr=self.err,
            text=True,
            start_new_session=True,
        )
        assert self.process.stdout
        self.said: list[str] = []
        for text in self.process.stdout:
            self.said.append(text.strip())
            if text.startswith("curl "):
                break
        assert self.said and self.said[-1].startswith("curl "), self.errors()
        self.seconds = time.monotonic() - self.began
        self.url = self.said[0].removesuffix("/v1")
        headers = {"authorization": f"Bearer {KEY}"}
        self.client = httpx2.Client(base_url=self.url, headers=headers, timeout=LIMIT)

    def errors(self) -> str:
        self.err.seek(0)
        return self.err.read()

    def ask(self, asked: Asked) -> httpx2.Response:
        model, question = asked
        messages = [{"role": "user", "content": question}]
        body = {"model": model, "messages": messages, "temperature": 0, "max_tokens": 16, "ignore_eos": True}
        return self.client.post("/v1/chat/completions", json=body)

    def text(self, asked: Asked) -> str:
        found = self.ask(asked)
        assert found.status_code == 200, found.text
        return str(found.json()["choices"][0]["message"]["content"])

    def texts(self, asked: Sequence[Asked]) -> list[str]:
        """All of them, eight at a time."""
        with ThreadPoolExecutor(TOGETHER) as pool:
            return list(pool.map(self.text, asked))

    def load(self, name: str, place: str) -> None:
        found = self.client.post("/v1/load_lora_adapter", json={"lora_name": name, "lora_path": place})
        assert found.status_code == 200, found.text

    def unload(self, name: str) -> None:
        found = self.client.post("/v1/unload_lora_adapter", json={"lora_name": name})
        assert found.status_code == 200, found.text

    def figures(self, name: str) -> list[float]:
        """One of Prometheus' figures, summed for each replica."""
        found: Counter[str] = Counter()
        for family in text_string_to_metric_families(self.client.get("/metrics").text):
            for sample in family.samples:
                if sample.name == name and sample.labels.get("route", "/v1/chat") != "/v1/models":
                    found[sample.labels["replica"]] += sample.value  # type: ignore[assignment]
        return [float(found[key]) for key in sorted(found)]

    def tree(self) -> list[psutil.Process]:
        """It and all that it has started."""
        head = psutil.Process(self.process.pid)
        return [head, *head.children(recursive=True)]

    def stop(self, tree: Sequence[psutil.Process]) -> float:
        """Seconds of its end; nothing of it may be left."""
        began = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(LIMIT) == 0, self.errors()
        _, left = psutil.wait_procs(tree, timeout=30)
        assert not left, left
        assert "Traceback" not in self.errors(), self.errors()
        return time.monotonic() - began


@contextmanager
def serving(folder: Path, *more: str) -> Iterator[Server]:
    server = Server(folder, *more)
    tree = server.tree()
    try:
        yield server
    finally:
        for each in [*tree, *server.tree()] if server.process.poll() is None else tree:
            if each.is_running():
                each.kill()
        server.process.wait()
        server.client.close()


def until(happened: Callable[[], Any]) -> float:
    """Seconds until it has."""
    began = time.monotonic()
    while not happened():
        assert time.monotonic() < began + LIMIT, "nothing happened"
        time.sleep(0.1)
    return time.monotonic() - began


def memory(tree: Sequence[psutil.Process]) -> dict[str, Any]:
    """Megabytes that are each process's own, by what it is for."""
    found: Counter[str] = Counter()
    replicas = []
    for each in tree:
        own = round(each.memory_full_info().uss / MB)
        title = " ".join(each.cmdline())
        if "ray::ServeReplica" in title:
            replicas.append(own)
        elif each == tree[0]:
            found["door"] = own
        else:
            found["ray" if "ray" in title else "templates"] += own
    return {**found, "replicas": sorted(replicas)}


def outside() -> list[str]:
    """Addresses that are listened on in this namespace, in which the server's socket is, and Ray's must not be."""
    found = psutil.net_connections("inet")
    return [f"{one.laddr.ip}:{one.laddr.port}" for one in found if one.status == psutil.CONN_LISTEN]


def compared(folder: Path) -> dict[str, Any]:
    """The whole. AssertionError where the two differ, or something is lost."""
    made(folder / "one", 1)
    made(folder / "more" / "two", 2)
    asked = [(model, question) for question in QUESTIONS for model in ("starter", "one")]
    second = [("two", question) for question in QUESTIONS]
    with serving(folder) as alone:
        alone.load("two", "./more/two")
        began = time.monotonic()
        wanted = dict(zip([*asked, *second], alone.texts([*asked, *second]), strict=True))
        figures: dict[str, Any] = {"alone": {"start_seconds": round(alone.seconds, 1)}}
        figures["alone"]["answers_seconds"] = round(time.monotonic() - began, 1)
        figures["alone"]["memory_mb"] = round(psutil.Process(alone.process.pid).memory_full_info().uss / MB)
        alone.stop(alone.tree())
    assert len({wanted[model, QUESTIONS[0]] for model in ("starter", "one", "two")}) == 3
    with serving(folder, "--engine", "ray", "--replicas", "2") as server:
        figures["ray"] = {"start_seconds": round(server.seconds, 1)}
        figures["listening"] = outside()
        assert figures["listening"] == [server.url.removeprefix("http://")], figures["listening"]
        server.load("two", "./more/two")
        assert server.figures("truetune_adapters") == [2, 2]
        began = time.monotonic()
        assert dict(zip([*asked, *second], server.texts([*asked, *second]), strict=True)) == wanted
        figures["ray"]["answers_seconds"] = round(time.monotonic() - began, 1)
        figures["ray"]["answers_of_replicas"] = server.figures("truetune_answers_total")
        assert min(figures["ray"]["answers_of_replicas"]) >= len(wanted) / 4
        figures["ray"]["memory_mb"] = memory(server.tree())
        figures["killed"] = killed(server, wanted)
        assert server.texts(second * 2) == [wanted[each] for each in second * 2]
        server.unload("two")
        assert server.figures("truetune_adapters") == [1, 1]
        assert [server.ask(each).status_code for each in second] == [404] * len(second)
        figures["ray"]["end_seconds"] = round(server.stop(server.tree()), 1)
    assert not list(Path(tempfile.gettempdir()).glob("ft-ray-*"))
    return figures | {"answers_equal": True}


def killed(server: Server, wanted: dict[Asked, str]) -> dict[str, Any]:
    """A replica is killed while eight clients ask on and on; until it is back, and some answers more."""
    over, answers = threading.Event(), Counter[str]()
    pairs = [*wanted]

    def keep(number: int) -> None:
        while not over.is_set():
            asked = pairs[(number * 5) % len(pairs)]
            number += 1
            found = server.ask(asked)
            if found.status_code == 200:
                answers["right" if found.json()["choices"][0]["message"]["content"] == wanted[asked] else "wrong"] += 1
            else:
                answers[f"{found.status_code} {found.json()['error']['code']}"] += 1

    with ThreadPoolExecutor(TOGETHER) as pool:
        works = [pool.submit(keep, number) for number in range(TOGETHER)]
        until(lambda: answers["right"] > TOGETHER)
        victim = next(each for each in server.tree() if "ray::ServeReplica" in " ".join(each.cmdline()))
        victim.kill()
        away = until(lambda: sum(server.figures("truetune_replica_up")) == 1)
        back = until(lambda: sum(server.figures("truetune_replica_up")) == 2)
        more = answers["right"]
        until(lambda: answers["right"] > more + 2 * TOGETHER)
        over.set()
        for work in works:
            work.result(LIMIT)
    assert server.figures("truetune_adapters") == [2, 2]
    assert set(answers) <= {"right", "503 replica_lost"}, answers
    assert answers["right"] > 0
    return {
        "clients": TOGETHER,
        "answers": dict(answers),
        "noticed_seconds": round(away, 1),
        "back_seconds": round(back, 1),
    }


def apart() -> list[str]:
    """This program again, in a namespace of its own; whoever is in one has no way out."""
    return ["unshare", "-rn", "sh", "-c", 'ip link set lo up && exec "$@"', "sh", sys.executable, *sys.argv, "--apart"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help=f"write {EVIDENCE.relative_to(ROOT)}")
    parser.add_argument("--apart", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if not given.apart:
        return subprocess.run(apart(), check=False).returncode
    assert {name for _, name in socket.if_nameindex()} == {"lo"}
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    load = os.getloadavg()
    with tempfile.TemporaryDirectory() as folder:
        figures = compared(Path(folder))
    body = {
        "command": " ".join(
            ["python", "tests/serve/every_replica.py", *[one for one in sys.argv[1:] if one != "--apart"]]
        ),
        "commit": head,
        "versions": {"python": platform.python_version()} | {name: version(name) for name in ("ray", "torch")},
        "machine": {"processor": platform.machine(), "cores": os.cpu_count(), "load": [round(one, 1) for one in load]},
        "requests": len(QUESTIONS) * 3,
        **figures,
    }
    print(json.dumps(body, indent=2))
    if given.write:
        EVIDENCE.write_text(json.dumps(body, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())

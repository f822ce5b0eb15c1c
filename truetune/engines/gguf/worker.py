"""The process in which llama.cpp decodes: what it breaks is this process, and its answers come as they are written.

Lines of JSON. In, first: {"model", "context", "slots", "threads", "exact", "adapters": [path, …]}; out: true. Then
[number, path, body], which goes to llama.cpp's own server on a port of 127.0.0.1 that only this process knows the key
of; out: [number, answer] once, or for a body with `stream` one for each of its events, the last with `stop` or `error`.
[number] gives a stream up. It ends when the other side closes the pipe, which it also does by dying.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import secrets
import socket
import sys
import threading
from typing import Any
from urllib.parse import urlsplit

import xllamacpp

TIMEOUT = 3600
"""Seconds between two events of one answer."""
KEPT = ("content", "tokens", "tokens_predicted", "stop", "stop_type", "error")
"""Of an event; the last one would repeat the prompt."""


def main() -> None:
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # llama.cpp writes what it does to standard output
    requests = sys.stdin.buffer
    settings, key = json.loads(requests.readline()), secrets.token_hex(16)
    server = xllamacpp.Server(parameters(settings, key))
    address = urlsplit(server.listening_address)
    desk = Desk(str(address.hostname), address.port or 0, key, out)
    desk.say(True)
    for line in requests:
        desk.take(*json.loads(line))
    os._exit(0)  # nobody waits for what is still written


def parameters(settings: dict[str, Any], key: str) -> xllamacpp.CommonParams:
    """`exact`: keys and values in float32 and attention as it is defined, for files in float32."""
    found = xllamacpp.CommonParams()
    found.model.path = settings["model"]
    found.n_ctx = settings["context"] * settings["slots"]
    found.n_parallel = settings["slots"]
    found.cpuparams.n_threads = found.cpuparams_batch.n_threads = settings["threads"]
    if settings["exact"]:
        found.cache_type_k = found.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
        found.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    found.offline = found.cont_batching = True
    found.ui = found.warmup = found.ctx_shift = found.fit_params = False
    found.n_gpu_layers = found.cache_ram_mib = found.port = 0
    found.hostnames = ["127.0.0.1"]
    found.api_keys = [key]
    if settings["adapters"]:
        found.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(path, 0.0) for path in settings["adapters"]]
        found.lora_init_without_apply = True
    return found


class Desk:
    """Takes requests, each in a thread of its own, and gives one up when it is told to."""

    def __init__(self, host: str, port: int, key: str, out: Any) -> None:
        self.host, self.port, self.key, self.out = host, port, key, out
        self.lock = threading.Lock()
        self.going: dict[int, http.client.HTTPConnection] = {}

    def say(self, value: Any) -> None:
        with self.lock:
            self.out.write(json.dumps(value).encode() + b"\n")
            self.out.flush()

    def take(self, number: int, path: str | None = None, body: Any = None) -> None:
        if path is None:
            self.give_up(number)
            return
        connection = http.client.HTTPConnection(self.host, self.port, timeout=TIMEOUT)
        connection.connect()
        self.going[number] = connection
        threading.Thread(target=self.run, args=(number, connection, path, body), daemon=True).start()

    def give_up(self, number: int) -> None:
        connection = self.going.pop(number, None)
        if connection and connection.sock:
            with contextlib.suppress(OSError):
                connection.sock.shutdown(socket.SHUT_RDWR)

    def run(self, number: int, connection: http.client.HTTPConnection, path: str, body: Any) -> None:
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {self.key}"}
        try:
            connection.request("POST", path, json.dumps(body), headers)
            self.pass_on(number, connection.getresponse(), bool(body.get("stream")))
        except Exception as error:  # a connection can break in many ways; who has given it up hears nothing
            if number in self.going:
                self.say([number, {"error": {"message": f"{type(error).__name__}: {error}"}}])
        finally:
            self.going.pop(number, None)
            connection.close()

    def pass_on(self, number: int, answer: http.client.HTTPResponse, stream: bool) -> None:
        if answer.status != 200 or not stream:
            self.say([number, json.loads(answer.read())])
            return
        for line in answer:
            if line.startswith((b"data: {", b"error: {")) and number in self.going:
                event = json.loads(line.partition(b": ")[2])
                event = event if line.startswith(b"data") else {"error": event}
                self.say([number, {name: event[name] for name in KEPT if name in event}])

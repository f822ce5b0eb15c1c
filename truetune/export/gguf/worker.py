"""The process in which llama.cpp runs: its parser sees checked files only, and what it breaks is this process.

One JSON document per line. In, first: {"model", "context", "threads", "adapters": [path, …]}; out: true. Then
[path, body], which goes to llama.cpp's own server on a port of 127.0.0.1 that only this process knows the key of; out:
[status, answer]. It ends when the other side closes the pipe, which it also does by dying.
"""

from __future__ import annotations

import http.client
import json
import os
import secrets
import sys
from typing import Any, BinaryIO
from urllib.parse import urlsplit

import xllamacpp

TIMEOUT = 600
"""Seconds for one answer."""


def main() -> None:
    requests, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # llama.cpp writes what it does to standard output
    settings = json.loads(requests.readline())
    key = secrets.token_hex(16)
    server = xllamacpp.Server(parameters(settings, key))
    address = urlsplit(server.listening_address)
    connection = http.client.HTTPConnection(str(address.hostname), address.port or 0, timeout=TIMEOUT)
    say(answers, b"true\n")
    for line in requests:
        path, body = json.loads(line)
        say(answers, ask(connection, key, path, body))


def parameters(settings: dict[str, Any], key: str) -> xllamacpp.CommonParams:
    """Exact: keys and values in float32 and attention as it is defined, one text at a time."""
    found = xllamacpp.CommonParams()
    found.model.path = settings["model"]
    found.n_ctx = settings["context"]
    found.n_batch = found.n_ubatch = max(32, min(512, settings["context"]))
    found.cpuparams.n_threads = found.cpuparams_batch.n_threads = settings["threads"]
    found.cache_type_k = found.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    found.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    found.swa_full = found.use_jinja = found.offline = True
    found.ui = found.warmup = found.ctx_shift = found.fit_params = False
    found.n_gpu_layers = found.cache_ram_mib = found.port = 0
    found.n_parallel = 1
    found.hostnames = ["127.0.0.1"]
    found.api_keys = [key]
    if settings["adapters"]:
        found.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(path, 0.0) for path in settings["adapters"]]
        found.lora_init_without_apply = True
    return found


def ask(connection: http.client.HTTPConnection, key: str, path: str, body: Any) -> bytes:
    """A line: the server's JSON, which has no line breaks, goes on as it is."""
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {key}"}
    connection.request("POST", path, json.dumps(body), headers)
    answer = connection.getresponse()
    return b"[%d,%s]\n" % (answer.status, answer.read())


def say(answers: BinaryIO, line: bytes) -> None:
    answers.write(line)
    answers.flush()

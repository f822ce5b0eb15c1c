"""The process in which llama.cpp's own quantiser runs: the one program that writes K-quants.

In: a line of JSON, {"source", "target", "kind": "Q4_K_M"}. Out: a line, once the target stands; none where it fails.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys

import llama_cpp


def main() -> None:
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # llama.cpp writes what it does to standard output
    asked = json.loads(sys.stdin.buffer.readline())
    settings = llama_cpp.llama_model_quantize_default_params()
    settings.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{asked['kind']}")
    settings.nthread = 0
    code = llama_cpp.llama_model_quantize(asked["source"].encode(), asked["target"].encode(), ctypes.byref(settings))
    if code:
        sys.exit(f"error: llama.cpp's quantiser ends with {code}")
    answers.write(b"true\n")
    answers.flush()

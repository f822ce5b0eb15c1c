"""Huge files, most of them one endless row: prepared within a fraction of their size."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import orjson
import pytest
from real_rows import messages

from truetune.testing import tokens
from truetune.testing.templates import CHATML

SCRIPT = """
import re, resource, sys
from pathlib import Path
from truetune.config.schema import Data
from truetune.data.prepare import prepare
from truetune.models.tokenizer import load
data = Data(path=sys.argv[1], max_rejects="5%")
found = prepare(data, objective="auto", seed=1, folder=Path(), tokenizer=load(Path(sys.argv[2])))
own = Path("/proc/self/status")  # ru_maxrss would begin with the peak of the process that started this one
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
if own.exists():
    peak = int(re.search(r"VmHWM:\\s*(\\d+) kB", own.read_text())[1]) * 1024
lines = [item["line"] for item in found.rejects if item["code"] == "data.too_big"]
print(peak, found.report["rows"]["read"], found.report["rows"]["used"], lines)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("name", "size", "limit"), [("rows.jsonl", 2**31, 2**29), ("rows.json", 2**28, 2**29)])
def test_a_huge_file_takes_little_memory(tmp_path: Path, name: str, size: int, limit: int) -> None:
    tokenizer = tokens.byte_level(tmp_path, template=CHATML)
    rows = [orjson.dumps({**messages(place % 50), "id": "x" * 2**10}) for place in range(5000)]
    with (tmp_path / name).open("wb") as stream:
        array = name.endswith(".json")
        stream.write(b"[\n" if array else b"")
        stream.write((b",\n" if array else b"\n").join(rows) + (b',\n{"text": ' if array else b"\n"))
        stream.seek(size)  # the hole reads as zeros
        stream.write((b"},\n" if array else b"\n") + rows[0] + (b"]" if array else b"\n"))
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path / name), str(tokenizer)], capture_output=True, text=True
    )
    (tmp_path / name).unlink()
    assert done.returncode == 0, done.stderr
    peak, read, used, lines = done.stdout.split(maxsplit=3)
    assert int(peak) < limit, done.stdout
    assert (int(read), int(used)) == (5002, 50)
    assert lines.strip() == ("[5002]" if array else "[5001]")
    print(done.stdout)

"""A million rows, a fifth of them nearly the same as another: looked through within 1 GB."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import orjson
import pytest

from truetune.testing import tokens
from truetune.testing.templates import CHATML

ROWS = 1_000_000
SCRIPT = """
import re, resource, sys, tempfile
from pathlib import Path
from truetune.config.schema import Data
from truetune.data.dedupe import FOREIGN, TRAIN, VALIDATION, Near
from truetune.data.formats import named
from truetune.data.intake import read, survey
from truetune.data.job import plan
from truetune.models.tokenizer import load
data = Data(path=sys.argv[1], dedupe="near", validation=None)
job = plan(data, objective="sft", seed=1, folder=Path(), tokenizer=load(Path(sys.argv[2])))
form = named("prompt_completion")
with tempfile.TemporaryDirectory(dir=sys.argv[2]) as folder:
    found = survey(job, {TRAIN: form, VALIDATION: form, FOREIGN: form}, Path(folder))
    near, dropped = Near(found, Path(folder)), 0
    for row in read(job.train):
        content = form.read(row.value)
        if near.find(row.index, content):
            dropped += 1
        else:
            near.keep(row.index, content)
        near.done(row.index)
    near.close()
own = Path("/proc/self/status")  # ru_maxrss would begin with the peak of the process that started this one
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
if own.exists():
    peak = int(re.search(r"VmHWM:\\s*(\\d+) kB", own.read_text())[1]) * 1024
print(peak, dropped)
"""


def write(path: Path, count: int) -> None:
    rng = random.Random(1)
    words = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(3, 9))) for _ in range(20_000)]
    kept: list[tuple[str, str]] = []
    with path.open("wb") as stream:
        for number in range(count):
            asked, said = (" ".join(rng.choices(words, k=length)) for length in (8, 20))
            if number % 5 == 4:
                asked, said = rng.choice(kept)
                said += " indeed"
            elif len(kept) < 50_000:
                kept.append((asked, said))
            else:
                kept[rng.randrange(len(kept))] = asked, said
            stream.write(orjson.dumps({"prompt": asked, "completion": said}) + b"\n")


@pytest.mark.slow
def test_a_million_rows_take_little_memory(tmp_path: Path) -> None:
    tokenizer = tokens.byte_level(tmp_path, template=CHATML)
    write(tmp_path / "rows.jsonl", ROWS)
    arguments = [sys.executable, "-c", SCRIPT, str(tmp_path / "rows.jsonl"), str(tokenizer)]
    done = subprocess.run(arguments, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    peak, dropped = map(int, done.stdout.split())
    assert peak < 2**30 and dropped > 0.999 * ROWS / 5
    print(done.stdout)

"""Two processes that register, promote and remove a thousand adapters at once lose none of it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from finished import finished

from truetune.registry.catalog import Catalog
from truetune.registry.index import Index
from truetune.registry.journal import Journal

EACH, PROCESSES = 500, 2
WORKER = """
import json, sys
from pathlib import Path
from truetune.errors import UsageError
from truetune.registry import catalog as module, entry
from truetune.registry.catalog import Catalog
from truetune.runs.run import Run

# The thousand are one run's files under other contents: writing a thousand run folders is not what is tested.
run, number, each = Run(Path(sys.argv[1])), int(sys.argv[2]), int(sys.argv[3])
real = entry.describe(run)
catalog, told = Catalog(), []
for place in range(each):
    parents = [{"how": "continued", "folder": "gone", "content": f"{number} {place - 1}"}] if place % 10 == 5 else []
    body = {"run": f"{number}-{place}", "content": f"{number} {place}", "folder": f"/gone/{number}-{place}"}
    module.entry.describe = lambda run: real | body | {"parents": parents}
    found = catalog.register(run, "shared" if place % 2 else f"own-{number}")
    doing = ["register"]
    if place % 4 == 0:
        catalog.promote(found["address"], "production" if place % 8 else "staging", f"by {number}")
        doing.append("promote")
    if place % 5 == 3:
        try:
            catalog.promote(found["address"], None)
            catalog.remove(found["address"])
            doing.append("remove")
        except UsageError as error:
            doing.append(error.code)
    told.append([found["address"], body["content"], doing])
print(json.dumps(told))
"""


@pytest.mark.slow
def test_a_thousand_adapters_by_two_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRUETUNE_HOME", str(tmp_path / "home"))
    run = finished(tmp_path / "run")
    command = [sys.executable, "-c", WORKER, str(run.folder)]
    began = [
        subprocess.Popen([*command, str(number), str(EACH)], stdout=subprocess.PIPE) for number in range(PROCESSES)
    ]
    done = [process.communicate(timeout=300)[0] for process in began]
    assert [process.returncode for process in began] == [0] * PROCESSES
    told: list[Any] = [one for text in done for one in json.loads(text)]

    found = {each["address"]: each for each in Catalog().all()}
    kept = {address: content for address, content, doing in told if "remove" not in doing}
    # No lost update: every process's own account of what it did is what the registry says.
    assert len(told) == EACH * PROCESSES and len(kept) == 800
    assert {address: each["content"] for address, each in found.items()} == kept
    assert len({address for address, _, _ in told}) == len(told), "no number was given twice"
    versions = sorted(int(address.partition("@")[2]) for address, _, _ in told if address.startswith("shared@"))
    assert versions == list(range(1, EACH * PROCESSES // 2 + 1))
    stages = [(each["name"], each["stage"]) for each in found.values() if each["stage"]]
    assert len(stages) == len(set(stages)) and ("own-0", "staging") in stages
    # No broken link: the parent of each child is there, or was removed before the child came.
    events = [event for _, event in Journal().read()]
    assert sum(event["event"] == "register" for event in events) == EACH * PROCESSES
    alive: set[str] = set()
    for event in events:
        if event["event"] == "register":
            alive.add(event["content"])
        elif event["event"] == "remove":
            gone = next(content for address, content, _ in told if address == f"{event['name']}@{event['version']}")
            children = [each for each in events if any(p["content"] == gone for p in each.get("parents", ()))]
            assert not any(child["content"] in alive for child in children)
            alive.discard(gone)
    # The index that two processes followed is the one that is made anew from the journal.
    assert dump(Index(Journal())) == dump(Index(Journal(), tmp_path / "anew.sqlite"))


def dump(index: Index) -> list[str]:
    with index.open() as connection:
        return [line for line in connection.iterdump() if not line.startswith('INSERT INTO "progress"')]

"""Pulling from the hub: one commit, files held to their hashes, breaks that are gone on from, and hubs that lie."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
import small_hub
from safetensors.numpy import save
from small_hub import COMMIT, Hub, entry

from truetune.errors import TrueTuneError
from truetune.models import hub as hubs
from truetune.models import library, pull

SHAPE = (400, 256)
WEIGHTS = save({"model.embed_tokens.weight": np.arange(np.prod(SHAPE), dtype=np.float32).reshape(SHAPE)})
CONFIG = json.dumps({"model_type": "llama", "hidden_size": 8}).encode()
FILES = {"config.json": CONFIG, "tokenizer.json": b"{}", "README.md": b"---\nlicense: mit\n---\n"}
NAME = "owner/small"
CUT = 6 * 2**14


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with small_hub.running({NAME: FILES | {"model.safetensors": WEIGHTS}}) as found:
        small_hub.here(found, tmp_path, monkeypatch)
        yield found


def code(*args: Any, **how: Any) -> str:
    """Of the error that a pull ends in."""
    with pytest.raises(TrueTuneError) as caught:
        pull.pull(*args, **how)
    assert caught.value.hint and caught.value.message.isprintable()
    return caught.value.code


def weights(hub: Hub) -> list[dict[str, str]]:
    """Headers of the requests for the weights' content."""
    return [headers for method, path, headers in hub.requests if method == "GET" and path.endswith(".safetensors")]


def test_what_was_pulled_is_pinned_recorded_and_found_by_other_programs(hub: Hub, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    folder = pull.pull(NAME, progress=lambda *bytes: told.append(bytes))
    assert (folder.name, {path.name for path in folder.iterdir()}) == (COMMIT, {*FILES, "model.safetensors"})
    assert told == sorted(told) and told[-1] == (sum(map(len, FILES.values())) + len(WEIGHTS),) * 2
    files = library.recorded(NAME, COMMIT)["files"]
    assert {name: each["sha256"] for name, each in files.items()} == {
        name: hashlib.sha256(body).hexdigest() for name, body in hub.repos[NAME].items()
    }
    found = huggingface_hub.snapshot_download(NAME, local_files_only=True, cache_dir=tmp_path / "cache")
    assert Path(found).resolve() == folder.resolve() and hubs.cached(NAME) == folder
    assert (library.state(NAME) or {})["state"] == "finished"
    del hub.asked[:]
    assert pull.pull(NAME, COMMIT) == folder
    assert not any("/resolve/" in path for path in hub.asked)
    assert not any("agent" in path for path in hub.asked)  # nothing is told beside what is asked for


def test_a_broken_transfer_goes_on_where_it_stopped(hub: Hub) -> None:
    hub.cut["model.safetensors"] = CUT
    assert code(NAME) == "model.unreachable"
    assert hubs.cached(NAME) is None and library.entry(NAME).partial == CUT
    assert (library.state(NAME) or {})["state"] == "failed"
    hub.cut.clear()
    del hub.requests[:]
    begun: list[int] = []
    folder = pull.pull(NAME, progress=lambda here, _: begun.append(here))
    (headers,) = weights(hub)
    assert headers["range"] == f"bytes={CUT}-" and min(begun[1:]) >= CUT
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS and library.entry(NAME).partial == 0


def test_a_server_that_sends_all_of_it_again_is_no_harm(hub: Hub) -> None:
    hub.cut["model.safetensors"] = CUT
    assert code(NAME) == "model.unreachable"
    hub.cut.clear()
    hub.whole = True
    told: list[tuple[int, int]] = []
    folder = pull.pull(NAME, progress=lambda *bytes: told.append(bytes))
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS and told[-1][0] == told[-1][1]


@pytest.mark.parametrize("sent", [WEIGHTS[:-1] + b"\1", WEIGHTS + b"more", WEIGHTS[:-9]], ids=["other", "more", "less"])
def test_another_content_than_announced_is_refused(sent: bytes, hub: Hub, tmp_path: Path) -> None:
    hub.sent["model.safetensors"] = sent
    assert code(NAME) == "model.changed"
    assert hubs.cached(NAME) is None and not list((tmp_path / "cache").rglob("*.safetensors"))
    assert library.entry(NAME).size == 0
    hub.sent.clear()
    hub.sent["config.json"] = CONFIG.replace(b"8", b"9")
    assert code(NAME) == "model.changed"


def test_a_file_that_never_ends_is_cut_off(hub: Hub) -> None:
    hub.endless = {"config.json"}
    assert code(NAME) == "model.changed" and library.entry(NAME).size == 0
    hub.endless = {"model.safetensors"}
    assert code(NAME) == "model.changed" and library.entry(NAME).size == 0


def test_a_commit_never_changes(hub: Hub) -> None:
    folder = pull.pull(NAME)
    hub.repos[NAME]["model.safetensors"] = WEIGHTS[:-1] + b"\1"
    assert code(NAME) == "model.changed"
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS


def test_what_was_damaged_here_is_loaded_again(hub: Hub) -> None:
    folder = pull.pull(NAME)
    blob = (folder / "model.safetensors").resolve()
    blob.write_bytes(WEIGHTS[:-1] + b"\1")
    del hub.requests[:]
    pull.pull(NAME)
    assert len(weights(hub)) == 1 and blob.read_bytes() == WEIGHTS


def test_credentials_go_to_the_hub_alone(hub: Hub) -> None:
    hub.private[NAME] = "hf_secret"
    assert code(NAME) == "model.missing"
    with small_hub.running({"x/y": {"model.safetensors": WEIGHTS}}) as other:
        hub.elsewhere = other.address
        del hub.requests[:]
        folder = pull.pull(NAME, token="hf_secret")
        assert (folder / "model.safetensors").read_bytes() == WEIGHTS
        assert all(headers["authorization"] == "Bearer hf_secret" for _, _, headers in hub.requests)
        assert other.requests and not any("authorization" in headers for _, _, headers in other.requests)
    for path in (library.notes(NAME), library.storage(NAME)):
        assert not [each for each in path.rglob("*") if each.is_file() and b"hf_secret" in each.read_bytes()]
    library.remove(NAME)
    hub.elsewhere = "ftp://127.0.0.1"
    assert code(NAME, token="hf_secret") == "model.changed"


def test_one_pull_of_a_model_at_a_time(hub: Hub) -> None:
    with pull.lock(NAME, wait=False):
        assert code(NAME) == "model.busy"
    assert pull.pull(NAME).name == COMMIT


def test_the_disk_is_asked_first(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pull, "SPARE", 2**60)
    assert code(NAME) == "disk.full"
    assert not weights(hub)


def test_shards_are_those_of_the_index(hub: Hub) -> None:
    parts = {f"model-{part}.safetensors": save({f"{part}": np.ones(4, np.float32)}) for part in ("a", "b")}
    index = json.dumps({"weight_map": {part[6]: part for part in parts}}).encode()
    hub.repos["owner/parts"] = FILES | parts | {"model.safetensors.index.json": index, "other.safetensors": WEIGHTS}
    folder = pull.pull("owner/parts")
    assert {path.name for path in folder.glob("*.safetensors")} == set(parts)
    del hub.repos["owner/parts"]["model-b.safetensors"]
    library.remove("owner/parts")
    assert code("owner/parts") == "model.damaged"


def lie(name: str = "extra.json", **values: Any) -> list[dict[str, Any]]:
    return [entry("config.json", CONFIG), entry("model.safetensors", WEIGHTS), entry(name, b"{}") | values]


LISTINGS: dict[str, tuple[Any, str]] = {
    "upward": (lie("../../../evil.json"), "model.listing"),
    "upward-inside": (lie("a/../../evil.json"), "model.listing"),
    "absolute": (lie("/tmp/evil.json"), "model.listing"),
    "backslashes": (lie("..\\..\\evil.json"), "model.listing"),
    "nothing": (lie(""), "model.listing"),
    "control": (lie("a\x1b[2J.json"), "model.listing"),
    "null": (lie("a\0.json"), "model.listing"),
    "double": (lie("a//b.json"), "model.listing"),
    "hash-as-path": (lie(blobId="../../../../evil"), "model.listing"),
    "hash-of-large-as-path": (lie(lfs={"sha256": "../evil", "size": 2, "pointerSize": 1}), "model.listing"),
    "no-hash": (lie(blobId=None), "model.listing"),
    "no-size": (lie(size=None), "model.listing"),
    "negative": (lie(size=-1), "model.listing"),
    "large-text": (lie(size=2**40), "model.too_large"),
    "large-weights": (
        lie(lfs={"sha256": "a" * 64, "size": 2**62, "pointerSize": 1}, rfilename="model-2.safetensors"),
        "model.too_large",
    ),
    "many": ([{"rfilename": f"{number}.txt"} for number in range(20_001)], "model.listing"),
    "no-list": (["config.json"], "model.listing"),
}


@pytest.mark.parametrize("case", LISTINGS)
def test_lists_that_no_repository_has(case: str, hub: Hub, tmp_path: Path) -> None:
    hub.siblings, expected = LISTINGS[case]
    assert code(NAME) == expected
    assert not any("/resolve/" in path for path in hub.asked)
    assert not [path for path in tmp_path.rglob("*") if "evil" in path.name]


@pytest.mark.parametrize("commit", ["../../evil", "main", "", None, "C0FFEE" + "0" * 34])
def test_a_commit_is_its_digits(commit: Any, hub: Hub, tmp_path: Path) -> None:
    hub.commit = commit
    assert code(NAME) == "model.listing"


@pytest.mark.parametrize("revision", ["../../evil", "/tmp", "a\0b", "-x", "a" * 200])
def test_a_revision_is_no_path(revision: str, hub: Hub) -> None:
    assert code(NAME, revision) == "model.no_revision"
    assert not hub.asked


def test_a_tag_of_the_server_names_no_file(hub: Hub, tmp_path: Path) -> None:
    hub.etag = "../../../../evil"
    pull.pull(NAME)
    assert not [path for path in tmp_path.rglob("*") if "evil" in path.name]


def test_only_config_json_for_what_needs_no_weights(hub: Hub) -> None:
    folder = pull.config(NAME)
    assert [path.name for path in folder.iterdir()] == ["config.json"] and hubs.cached(NAME) is None
    del hub.repos[NAME]["config.json"]
    with pytest.raises(TrueTuneError, match=r"no config\.json"):
        pull.config(NAME)

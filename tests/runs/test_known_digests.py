"""Digests that are remembered: used while a file is as it was, never where it may have changed."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path

import pytest

from truetune import paths
from truetune.errors import InputError
from truetune.runs import durable, known, receipt
from truetune.runs.run import Run
from truetune.runs.verify import verdict, verify


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file that has been left alone for a while, as far as the memory can tell."""
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"a" * known.SMALLEST)
    return path


@pytest.fixture(autouse=True)
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known, "SETTLED", -3600.0)


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """What was really hashed."""
    seen: list[Path] = []
    real = durable.digest

    def digest(path: Path) -> str:
        seen.append(path)
        return real(path)

    monkeypatch.setattr(durable, "digest", digest)
    return seen


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_file_is_hashed_once(file: Path, hashed: list[Path]) -> None:
    small = file.with_name("config.json")
    small.write_text("{}")
    for _ in range(3):
        assert known.digests([file, small, file.with_name("none")]) == {
            file: sha256(file),
            small: sha256(small),
            file.with_name("none"): None,
        }
    assert hashed.count(file) == 1 and hashed.count(small) == 3
    known.digests([file], trust=False)
    assert hashed.count(file) == 2


def test_a_changed_file_is_hashed_again(file: Path) -> None:
    """Bytes changed in place with the old time put back, and another file moved to its place."""
    seen, before = file.stat(), known.digests([file])[file]
    file.write_bytes(b"b" * known.SMALLEST)
    while file.stat().st_ctime_ns == seen.st_ctime_ns:  # the disk's clock may tick in hundredths of a second
        os.utime(file, ns=(seen.st_atime_ns, seen.st_mtime_ns))
    os.utime(file, ns=(seen.st_atime_ns, seen.st_mtime_ns))
    changed = known.digests([file])[file]
    assert changed == sha256(file) != before
    other = file.with_name("other")
    other.write_bytes(b"c" * known.SMALLEST)
    os.utime(other, ns=(seen.st_atime_ns, seen.st_mtime_ns))
    os.replace(other, file)
    assert known.digests([file])[file] == sha256(file) != changed


def test_a_file_that_was_just_written_is_not_remembered(
    file: Path, hashed: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(known, "SETTLED", 2.0)
    os.utime(file, (time.time() - 100,) * 2)  # its bytes look old, its change does not
    for _ in range(2):
        known.digests([file])
    assert hashed == [file, file] and known.read() == {}


@pytest.mark.parametrize("memory", [b"{", b"[]", b'{"files": 3}', b'{"files": [3, {"place": 4}, {"place": "x"}]}'])
def test_a_damaged_memory_is_none(file: Path, memory: bytes) -> None:
    paths.cache().mkdir(parents=True)
    (paths.cache() / "digests.json").write_bytes(memory)
    assert known.digests([file]) == {file: sha256(file)}
    assert str(file.resolve()) in known.read()


def test_the_memory_is_bounded(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known, "MOST", 3)
    files = [file.with_name(str(number)) for number in range(5)]
    for place in files:
        place.write_bytes(file.read_bytes())
        known.digests([place])
    assert list(known.read()) == [str(place.resolve()) for place in files[2:]]


def test_a_home_that_cannot_be_written_is_no_reason_to_fail(file: Path) -> None:
    paths.home().mkdir(parents=True, exist_ok=True)
    paths.cache().write_text("a file where the folder should be")
    assert known.digests([file]) == {file: sha256(file)}


def test_a_proof_does_not_ask_the_memory(proven: Run, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A memory that lies: whoever talks to the run believes it, `ft receipt verify` hashes."""
    monkeypatch.setattr(known, "SMALLEST", 0)
    receipt.refuse_changed_base(proven, base)
    place = paths.cache() / "digests.json"
    place.write_text(place.read_text().replace(sha256(base / "model.safetensors"), "0" * 64))
    with pytest.raises(InputError, match=r"model\.safetensors differs"):
        receipt.refuse_changed_base(proven, base)
    assert verdict(verify(proven)) == "ok"

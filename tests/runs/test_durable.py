"""Durable writes: whole or not at all, whatever happens in between."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from truetune.errors import ResourceError
from truetune.runs import durable
from truetune.runs.disk import Disk

CONTENT = {"weights.safetensors": b"0123456789" * 50, "state.json": b"{}", "deep/inner.txt": b"x"}


def fill(folder: Path) -> None:
    for name, data in CONTENT.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(data)


def names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


def test_write_replaces_and_leaves_nothing_aside(tmp_path: Path) -> None:
    durable.write(tmp_path / "a", b"old")
    durable.write(tmp_path / "a", b"new")
    assert (tmp_path / "a").read_bytes() == b"new"
    assert names(tmp_path) == ["a"]


def test_write_that_fails_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    durable.write(tmp_path / "a", b"old")

    def fail(handle: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(ResourceError) as caught:
        durable.write(tmp_path / "a", b"new")
    assert caught.value.finding.code == "disk.failed"
    assert (tmp_path / "a").read_bytes() == b"old"
    assert names(tmp_path) == ["a"]


def test_equal_values_give_equal_bytes(tmp_path: Path) -> None:
    first = durable.write_json(tmp_path / "a.json", {"b": 1, "a": [1.5, None, "ä"]})
    second = durable.write_json(tmp_path / "b.json", {"a": [1.5, None, "ä"], "b": 1})
    assert first == second == (tmp_path / "a.json").read_bytes()


def test_commit_is_whole(tmp_path: Path) -> None:
    manifest = durable.commit(tmp_path / "c", fill)
    assert sorted(manifest["files"]) == sorted(CONTENT)
    assert manifest["files"]["state.json"] == {
        "sha256": "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a",
        "bytes": 2,
    }
    assert durable.check(tmp_path / "c") == []
    assert names(tmp_path) == ["c"]


def test_files_of_a_folder_are_as_readable_as_the_folder(tmp_path: Path) -> None:
    """Some libraries make private files; what a run leaves is for whoever may read the run."""

    def fill(folder: Path) -> None:
        (folder / "weights").touch(mode=0o600)

    before = os.umask(0o027)
    try:
        durable.commit(tmp_path / "done", fill)
    finally:
        os.umask(before)
    assert (tmp_path / "done" / "weights").stat().st_mode & 0o777 == 0o640


def test_every_file_is_synced_before_the_rename_and_the_parent_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    sync, rename = os.fsync, os.rename

    def seen(handle: int) -> None:
        events.append(os.path.basename(os.readlink(f"/proc/self/fd/{handle}")))
        sync(handle)

    def moved(source: Path, target: Path) -> None:
        events.append("rename")
        rename(source, target)

    if not Path("/proc/self/fd").exists():
        pytest.skip("needs /proc to name a handle's file")
    monkeypatch.setattr(os, "fsync", seen)
    monkeypatch.setattr(os, "rename", moved)
    durable.commit(tmp_path / "c", fill)
    cut = events.index("rename")
    before = [name for name in events[:cut] if not name.startswith(".tmp-")]
    assert set(before) == {"weights.safetensors", "state.json", "inner.txt", "manifest.json", "deep"}
    files = [name for name in before if name != "deep"]
    assert files[-1] == "manifest.json"
    assert any(name.startswith(".tmp-c-") for name in events[:cut]), "the folder itself"
    assert events[cut + 1 :] == [tmp_path.name]


def test_a_fill_that_raises_leaves_nothing(tmp_path: Path) -> None:
    def broken(folder: Path) -> None:
        fill(folder)
        raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError):
        durable.commit(tmp_path / "c", broken)
    assert names(tmp_path) == []


def test_an_existing_target_is_kept_unless_replaced(tmp_path: Path) -> None:
    durable.commit(tmp_path / "c", fill)
    with pytest.raises(FileExistsError):
        durable.commit(tmp_path / "c", lambda folder: None)
    assert durable.check(tmp_path / "c") == []
    durable.commit(tmp_path / "c", lambda folder: (folder / "only").write_bytes(b"1"), replace=True)
    assert names(tmp_path / "c") == ["manifest.json", "only"]
    assert names(tmp_path) == ["c"]


CRASHES = {
    "in fill": "def fill(folder):\n    (folder / 'half').write_bytes(b'1'); os._exit(9)\n",
    "before the rename": "os.rename = lambda *a: os._exit(9)\nfill = lambda f: (f / 'new').write_bytes(b'1')\n",
    "between two renames": (
        "rename, calls = os.rename, []\n"
        "def once(*a):\n    calls.append(a)\n    os._exit(9) if len(calls) == 2 else rename(*a)\n"
        "os.rename = once\nfill = lambda f: (f / 'new').write_bytes(b'1')\n"
    ),
}


@pytest.mark.parametrize("moment", CRASHES)
def test_a_crash_leaves_the_old_folder_and_sweep_clears_the_rest(tmp_path: Path, moment: str) -> None:
    durable.commit(tmp_path / "c", fill)
    code = (
        "import os, sys\nfrom pathlib import Path\nfrom truetune.runs import durable\n"
        f"{CRASHES[moment]}durable.commit(Path(sys.argv[1]), fill, replace=True)\n"
    )
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path / "c")]).returncode == 9
    assert [name for name in names(tmp_path) if name.startswith(".")], "the crash left something"
    durable.sweep(tmp_path)
    assert names(tmp_path) == ["c"]
    assert durable.check(tmp_path / "c") == []


def test_sweep_prefers_the_replacement_that_arrived(tmp_path: Path) -> None:
    durable.commit(tmp_path / "c", fill)
    durable.commit(tmp_path / ".old-c-0123abcd", lambda folder: None)
    durable.sweep(tmp_path)
    assert names(tmp_path) == ["c"]
    assert durable.check(tmp_path / "c") == []


def test_remove_and_a_folder_that_is_not_there(tmp_path: Path) -> None:
    durable.commit(tmp_path / "c", fill)
    durable.remove(tmp_path / "c")
    durable.remove(tmp_path / "c")
    assert names(tmp_path) == []


def large(*tails: bytes) -> dict[str, bytes]:
    """Files of a commit that are large enough to be linked."""
    return {f"{tail.decode()}.bin": b"0" * durable.LINKED + tail for tail in tails}


def filled(files: dict[str, bytes]) -> Callable[[Path], None]:
    return lambda folder: [(folder / name).write_bytes(data) for name, data in files.items()] and None


def test_a_large_file_that_did_not_change_is_kept_once(tmp_path: Path) -> None:
    durable.commit(tmp_path / "a", filled(large(b"same", b"old") | {"small": b"1"}))
    durable.commit(
        tmp_path / "b",
        filled(large(b"same") | {"old.bin": large(b"new")["new.bin"], "small": b"1"}),
        like=tmp_path / "a",
    )
    links = {name: (tmp_path / "b" / name).stat().st_nlink for name in ("same.bin", "old.bin", "small")}
    assert links == {"same.bin": 2, "old.bin": 1, "small": 1}
    assert durable.check(tmp_path / "a") == durable.check(tmp_path / "b") == []
    durable.remove(tmp_path / "a")
    assert durable.check(tmp_path / "b") == []


@pytest.mark.parametrize("number", [errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP])
def test_on_a_disk_without_links_a_file_is_kept_twice(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Plain(Disk):
        def link(self, source: Path, target: Path) -> None:
            raise OSError(number, os.strerror(number))

    durable.commit(tmp_path / "a", filled(large(b"same")))
    monkeypatch.setattr(durable, "disk", Plain())
    durable.commit(tmp_path / "b", filled(large(b"same")), like=tmp_path / "a")
    assert (tmp_path / "b" / "same.bin").stat().st_nlink == 1
    assert durable.check(tmp_path / "b") == [] and names(tmp_path) == ["a", "b"]


def test_a_link_that_cannot_be_put_in_place_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of it stays, neither then nor where a disk links and says that it has not."""

    class Broken(Disk):
        links = True

        def link(self, source: Path, target: Path) -> None:
            super().link(source, target)
            if self.links:
                raise OSError(errno.EEXIST, os.strerror(errno.EEXIST))

        def rename(self, source: Path, target: Path) -> None:
            if source.name.startswith(".link-"):
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            super().rename(source, target)

    durable.commit(tmp_path / "a", filled(large(b"same")))
    monkeypatch.setattr(durable, "disk", broken := Broken())
    durable.commit(tmp_path / "b", filled(large(b"same")), like=tmp_path / "a")
    assert durable.check(tmp_path / "b") == []
    broken.links = False
    with pytest.raises(ResourceError):
        durable.commit(tmp_path / "c", filled(large(b"same")), like=tmp_path / "a")
    assert names(tmp_path) == ["a", "b"]


def test_a_damaged_file_is_not_linked(tmp_path: Path) -> None:
    durable.commit(tmp_path / "a", filled(large(b"same")))
    (tmp_path / "a" / "same.bin").write_bytes(b"1" * (durable.LINKED + 4))
    durable.commit(tmp_path / "b", filled(large(b"same")), like=tmp_path / "a")
    assert durable.check(tmp_path / "b") == []
    durable.commit(tmp_path / "c", filled(large(b"same")), like=tmp_path / "nowhere")
    assert durable.check(tmp_path / "c") == []


@pytest.mark.parametrize("name", [*CONTENT, "manifest.json"])
def test_a_flipped_bit_in_every_byte_is_found(tmp_path: Path, name: str) -> None:
    durable.commit(tmp_path / "c", fill)
    path = tmp_path / "c" / name
    whole = path.read_bytes()
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        found = durable.check(tmp_path / "c")
        assert found if name == "manifest.json" else found == [name]
    path.write_bytes(whole)
    assert durable.check(tmp_path / "c") == []


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_damage_is_found_by_name(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    folder = tmp_path_factory.mktemp("damage") / "c"
    durable.commit(folder, fill)
    name = data.draw(st.sampled_from(sorted(CONTENT)))
    path = folder / name
    kind = data.draw(st.sampled_from(["cut", "grown", "gone", "link", "extra", "folder"]))
    if kind == "cut":
        os.truncate(path, data.draw(st.integers(0, len(CONTENT[name]) - 1)))
    elif kind == "grown":
        path.write_bytes(CONTENT[name] + data.draw(st.binary(min_size=1, max_size=9)))
    elif kind == "extra":
        name = "extra"
        (folder / name).write_bytes(b"")
    else:
        path.unlink()
        if kind == "link":
            other = folder.parent / "same"
            other.write_bytes(CONTENT[name])
            path.symlink_to(other)
        elif kind == "folder":
            path.mkdir()
    assert durable.check(folder) == [name]


@pytest.mark.parametrize("text", [b"", b"[]", b"{", b'{"files": 3}', b'{"files": {"state.json": null}}'])
def test_a_damaged_manifest_is_never_whole(tmp_path: Path, text: bytes) -> None:
    durable.commit(tmp_path / "c", fill)
    (tmp_path / "c" / "manifest.json").write_bytes(text)
    assert durable.check(tmp_path / "c")


def test_digests_are_named_from_their_root(tmp_path: Path) -> None:
    fill(tmp_path)
    found = durable.digests([tmp_path / "deep" / "inner.txt"], tmp_path)
    assert found == {"deep/inner.txt": "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"}


@pytest.fixture
def tiny(tmp_path: Path) -> Iterator[Path]:
    """A disk of 256 KiB."""
    folder = tmp_path / "tiny"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    if (
        not sys.platform.startswith("linux")
        or os.geteuid() != 0
        or subprocess.run(mount, capture_output=True).returncode
    ):
        pytest.skip("a full disk needs the right to mount a tmpfs")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_loses_nothing_and_says_what_to_do(tiny: Path) -> None:
    durable.commit(tiny / "good", fill)
    durable.write(tiny / "note", b"old")
    big = b"1" * 300_000
    attempts = [
        lambda: durable.commit(tiny / "next", lambda folder: (folder / "w").write_bytes(big)),
        lambda: durable.commit(tiny / "next", lambda folder: save_file({"w": np.zeros(90_000)}, folder / "w")),
        lambda: durable.commit(tiny / "good", lambda folder: (folder / "w").write_bytes(big), replace=True),
        lambda: durable.write(tiny / "note", big),
        lambda: durable.append(tiny / "note", big),
    ]
    for attempt in attempts:
        with pytest.raises(ResourceError) as caught:
            attempt()
        finding = caught.value.finding
        assert (finding.code, caught.value.exit_code) == ("disk.full", 4)
        assert "MB are free" in finding.hint and "checkpoints.keep" in finding.hint
        assert names(tiny) == ["good", "note"]
        assert durable.check(tiny / "good") == []
        assert (tiny / "note").read_bytes() == b"old"


def test_a_disk_that_is_read_only(tiny: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(tiny)], check=True)
    for attempt in (lambda: durable.write(tiny / "a", b"1"), lambda: durable.commit(tiny / "c", fill)):
        with pytest.raises(ResourceError) as caught:
            attempt()
        assert caught.value.finding.code == "disk.denied"

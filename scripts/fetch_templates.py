"""Fetch the chat templates and vocabularies that tests read: `python scripts/fetch_templates.py`.

They are files of a source package. `pip download` would prepare a build of it, which takes a compiler and more
packages; so pip is only asked where the package is, with the user's own settings for index, proxy and certificates, and
for its bytes. Two folders of it are kept, under `truetune.testing.field.folder()`. Ends with 1, and a sentence, where
it can't: tests go on without.
"""

from __future__ import annotations

import hashlib
import io
import shutil
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from pip._internal.commands import create_command

from truetune.testing import field

SHA256 = "832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e"
MODELS = "vendor/llama.cpp/models"


def main() -> int:
    place = field.folder()
    if place.is_dir():
        return 0
    try:
        keep(download(), place)
    except Exception as error:  # pip's own, a network's, a disk's: whatever it is, the set-up goes on
        print(f"no real templates for the tests ({type(error).__name__}: {error}); they go on without", file=sys.stderr)
        return 1
    print(f"{len(field.templates())} templates and {len(field.vocabularies())} vocabularies in {place}")
    return 0


def download() -> bytes:
    """The source package. Raises ValueError if there is none, or another one than the tests were written with."""
    command = create_command("download")
    with command.main_context():
        options, _ = command.parse_args(["--no-deps", "--no-binary", ":all:", "--quiet", field.PACKAGE])
        session = command.get_default_session(options)  # type: ignore[attr-defined]
        finder = command._build_package_finder(options, session)  # type: ignore[attr-defined]
        found = [each for each in finder.find_all_candidates(field.PACKAGE) if str(each.version) == field.VERSION]
        if not found:
            raise ValueError(f"the index has no source package of {field.PACKAGE} {field.VERSION}")
        answer = session.get(found[0].link.url_without_fragment, headers={"Accept-Encoding": "identity"})
        answer.raise_for_status()
    if hashlib.sha256(answer.content).hexdigest() != SHA256:
        raise ValueError("the source package is not the one that the tests were written with")
    return bytes(answer.content)


def keep(package: bytes, place: Path) -> None:
    """Write the two folders, all or nothing."""
    new = place.with_name(place.name + ".new")
    shutil.rmtree(new, ignore_errors=True)
    with tarfile.open(fileobj=io.BytesIO(package)) as archive:
        for folder, name, data in wanted(archive):
            (new / folder).mkdir(parents=True, exist_ok=True)
            (new / folder / name).write_bytes(data)
    new.rename(place)


def wanted(archive: tarfile.TarFile) -> Iterator[tuple[str, str, bytes]]:
    """(folder, name, bytes) of each template, and of each vocabulary with its texts and ids."""
    for member in archive:
        path = PurePosixPath(member.name)
        if not member.isfile() or MODELS not in path.as_posix():
            continue
        file = archive.extractfile(member)
        assert file
        if path.suffix == ".jinja":
            yield field.TEMPLATES, path.name, file.read()
        elif path.name.startswith("ggml-vocab-"):
            yield field.VOCABULARIES, path.name.removeprefix("ggml-vocab-"), file.read()


if __name__ == "__main__":
    sys.exit(main())

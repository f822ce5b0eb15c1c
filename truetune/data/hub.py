"""Data sets of the Hugging Face hub, `hf://datasets/OWNER/NAME[@REVISION][/file or folder]`: files of rows, pinned to
one commit. Scripts are never run, and nothing else of the data set is loaded.

Which commit and files an address means is noted, so that the same address means the same offline.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from truetune import paths
from truetune.data.downloads import Store
from truetune.data.reading import packed
from truetune.errors import InputError, ResourceError, TrueTuneError
from truetune.models import hub

try:
    import huggingface_hub  # its parts load on first use
    from huggingface_hub import errors
except ImportError:  # the extra `hub` is not installed
    huggingface_hub = None  # type: ignore[assignment]

SCHEME = "hf://"
ADDRESS = re.compile(r"hf://datasets/([^/@]+/[^/@]+)(?:@([^/]+))?(?:/(.*))?")
KINDS = (".parquet", ".jsonl", ".json", ".csv")
"""Files that may hold rows; of a set that is there in several kinds, the first is taken."""
ABOUT = re.compile(r"dataset_infos?\.json|.*(?:config|metadata|schema|index)\.json")
SPLITS = ("train", "validation", "valid", "dev", "eval", "test")
PART = re.compile(r"(?:[-_]?\d+)?(?:[-_]of[-_]\d+)?(?:-[0-9a-f]{16})?$")
"""What follows the name of a split in the name of one of its parts: `train-00000-of-00002`."""
LIMIT = 8 * 2**30
"""Most bytes that are downloaded for one address."""


def fetch(address: str, split: str) -> list[tuple[Path, str]]:
    """The files of an address, each with how it is shown; of a folder or a whole set those of the split.

    Raises InputError: `data.address`, `data.hub_missing`, `data.offline`, `data.missing`, `data.ambiguous`,
    `data.gated`, `data.unreachable`, `data.download_size`; ResourceError `disk.full`.
    """
    match = ADDRESS.fullmatch(address)
    if not match or not hub.is_name(match[1]):
        hint = "Write hf://datasets/OWNER/NAME, with @REVISION or /FILE after it if need be."
        raise InputError("this is no address of a data set", code="data.address", where=address, hint=hint)
    if huggingface_hub is None:
        hint = 'Install it with pip install "truetune[hub]", or download the files and write their path.'
        message = "data sets of the hub need the package huggingface_hub, which is not installed"
        raise InputError(message, code="data.hub_missing", where=address, hint=hint)
    try:
        commit, files = _known(address, split) if paths.offline() else _asked(address, match, split)
        return [(_loaded(match[1], commit, file), f"{SCHEME}datasets/{match[1]}/{file}") for file in files]
    except hub.NETWORK as error:
        raise _explained(error, address) from error


def chosen(files: Iterable[str], place: str, split: str) -> list[str]:
    """The files with rows at a place of the set (a file, a folder, or empty for all of it) for a split.

    Raises InputError: `data.missing`, `data.ambiguous`, `data.unsupported_format`.
    """
    inside = sorted(file for file in files if not place or file == place or file.startswith(f"{place}/"))
    if place in inside:
        return [_row_file(place)]
    kinds = [[file for file in inside if _rows(file) and packed.suffix(Path(file)) == kind] for kind in KINDS]
    found = next(filter(None, kinds), [])
    named = [file for file in found if _split(file).startswith(split.lower())]
    named = [file for file in named if _split(file) == split.lower()] or named
    if not named and split in ("train", "validation") and not any(_split(file).startswith(SPLITS) for file in found):
        named = found
    if not named:
        hint = f"It has: {', '.join(inside[:12]) or 'no files'}. Files that are read: {', '.join(KINDS)}."
        message = f"the data set has no file of rows for the split {split!r} there"
        raise InputError(message, code="data.missing", where=place, hint=hint)
    _check_one(named, split, place)
    return named


def _row_file(file: str) -> str:
    if packed.suffix(Path(file)) not in KINDS:
        message, hint = "this is no file of rows", f"Files that are read: {', '.join(KINDS)}."
        raise InputError(message, code="data.unsupported_format", where=file, hint=hint)
    return file


def _check_one(files: list[str], split: str, place: str) -> None:
    """Refuse files of several splits or configurations: together they may hold the same rows twice."""
    splits = {_split(file) for file in files if _split(file).startswith(split.lower())}
    if len(splits) > 1:
        hint = f"Write one of them as data.split: {', '.join(sorted(splits))}."
        raise InputError(f"several splits begin with {split!r}", code="data.ambiguous", where=place, hint=hint)
    folders = {str(PurePosixPath(file).parent) for file in files}
    if len(folders - {"."}) > 1:
        hint = f"Write one of these folders at the end of the address: {', '.join(sorted(folders)[:12])}."
        raise InputError("the data set has rows in several folders", code="data.ambiguous", where=place, hint=hint)


def _asked(address: str, match: re.Match[str], split: str) -> tuple[str, list[str]]:
    """What the hub says the address means now, noted for later."""
    info = huggingface_hub.HfApi().dataset_info(match[1], revision=match[2], files_metadata=True)
    sizes = {entry.rfilename: entry.size or 0 for entry in info.siblings or []}
    try:
        files = chosen(sizes, (match[3] or "").strip("/"), split)
    except InputError as error:
        raise InputError(error.message, code=error.code, where=address, hint=error.hint) from error
    if sum(sizes[file] for file in files) > LIMIT:
        message, hint = f"these files have more than {LIMIT // 2**30} GiB", "Name some of them, one address for each."
        raise InputError(message, code="data.download_size", where=address, hint=hint)
    _store(address, split).write({"address": address, "commit": info.sha, "files": files})
    return str(info.sha), files


def _known(address: str, split: str) -> tuple[str, list[str]]:
    """What the address meant when it was last asked for."""
    noted = _store(address, split).noted()
    if not noted:
        message = "the data set has not been fetched yet, and HF_HUB_OFFLINE forbids the network"
        hint = "Fetch it once with the network on, or write the path of a file."
        raise InputError(message, code="data.offline", where=address, hint=hint)
    return noted["commit"], noted["files"]


def _store(address: str, split: str) -> Store:
    return Store(f"{address} {split}", "")


def _loaded(name: str, commit: str, file: str) -> Path:
    return Path(huggingface_hub.hf_hub_download(name, file, repo_type="dataset", revision=commit))


def _rows(file: str) -> bool:
    name = PurePosixPath(file).name.lower()
    return packed.suffix(Path(name)) in KINDS and not name.startswith(".") and not ABOUT.fullmatch(name)


def _split(file: str) -> str:
    """The split that a file is named after, without the number of its part; else that of its folder."""
    path = PurePosixPath(file.lower())
    name = PART.sub("", path.name.partition(".")[0])
    return path.parent.name if not name.startswith(SPLITS) and path.parent.name.startswith(SPLITS) else name


def _explained(error: Exception, address: str) -> TrueTuneError:
    """What the hub, the network or the disk said, in our words."""
    if isinstance(error, errors.GatedRepoError):
        hint = "Accept its terms on its page and set HF_TOKEN."
        return InputError("the data set is gated", code="data.gated", where=address, hint=hint)
    if isinstance(error, errors.RevisionNotFoundError):
        hint = "Check what stands behind the @."
        return InputError("the data set has no such revision", code="data.missing", where=address, hint=hint)
    if isinstance(error, errors.RepositoryNotFoundError):
        hint = "Check the name; a private one needs HF_TOKEN."
        return InputError("there is no such data set on the hub", code="data.missing", where=address, hint=hint)
    if isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT}:
        hint = "Free some space and run again: what was loaded stays."
        return ResourceError("the disk is full", code="disk.full", where=address, hint=hint)
    if isinstance(error, errors.LocalEntryNotFoundError) and paths.offline():
        message, hint = "a file of the data set is not in the cache", "Fetch it once with the network on."
        return InputError(message, code="data.offline", where=address, hint=hint)
    message = f"the hub could not be reached or the download broke off ({type(error).__name__})"
    hint = "Check the connection and try again: what was loaded stays."
    return InputError(message, code="data.unreachable", where=address, hint=hint)

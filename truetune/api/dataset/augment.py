"""The verb `dataset augment`: more rows from rows, written by a model that the user names."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from truetune.api import wanted
from truetune.api.dataset.settings import settings
from truetune.api.evaluate import refuse_none_at_all
from truetune.augment.words import METHODS
from truetune.config import Loaded, secrets
from truetune.errors import InputError, ResourceError, UsageError
from truetune.listener import Listener, unheard

if TYPE_CHECKING:
    from truetune.augment.methods import Method
    from truetune.augment.seeds import Seeds
    from truetune.augment.speakers import Speaker
    from truetune.augment.work import Harvest, Wish
    from truetune.data.formats import Format

LANGUAGE = re.compile(r"\w[\w ()-]{0,39}")
KEY = re.compile(r"[a-z][a-z0-9_-]*(\.[a-z][a-z0-9_-]*)+")
MOST_SEED = 2**32


def dataset_augment(
    data: str | Sequence[str],
    method: str,
    model: Any,
    out: str | Path,
    *,
    per_row: int = 2,
    limit: int | None = None,
    seed: int = 42,
    temperature: float = 0.9,
    max_new_tokens: int = 512,
    via: str = "German",
    language: str = "English",
    endpoint: str | None = None,
    key: str | None = None,
    slots: int = 8,
    device: str = "auto",
    format: str | None = None,
    columns: Mapping[str, str] | None = None,
    validation: Any = None,
    dry_run: bool = False,
    yes: bool = False,
    folder: Path | None = None,
    listener: Listener = unheard,
) -> dict[str, Any]:
    """Have a model write rows like those of `data` (files, folders, patterns, or a train.yml), and keep what is usable.

    method     paraphrase: the question in other words · backtranslate: through `via` and back into `language` ·
               synthetic: a new question and its answer, after three examples
    model      who writes: a model, an adapter or a run of this machine; with `endpoint` the name of a model there
    out        a new file of rows (.jsonl); one that is there is replaced with `yes` alone
    per_row    rows that are asked for from each row; limit: most rows that are made more of, drawn by `seed`
    endpoint   an address that speaks OpenAI's protocol, such as https://api.example.com/v1; your rows are sent there
    key        the name of its key in passwords.yml, such as `openai.key`
    slots      answers that are written at once
    validation as data.validation of train.yml: so many rows are spared, for a training to measure on
    dry_run    say what would be asked, ask nothing
    listener   called with `answer` {side, done, total}, `warning` {text} and `saved` {path}

    Each new row has `origin`, the places of the rows it is made from, and `generated`: method, model, seed, and `from`,
    the digests of those rows. Where an error or Ctrl-C ends the work, what was written by then is kept in `out`.

    JSON-ready: written, asked, rejected {reason: count}, out (None where nothing is written), rows {read, seeds, …},
    wanted (rows that were to be asked for), prompt (the first), examples.

    Raises UsageError and InputError `augment.…`, and what the model's engine raises.
    """
    refuse(method, via, language, seed, {"per_row": per_row, "limit": limit, "slots": slots})
    wanted.device(device)
    path = target(out, yes)
    loaded = settings(data, None, folder, {"format": format, "columns": columns, "validation": validation})
    from truetune.augment.methods import methods
    from truetune.augment.work import Harvest, Wish, augment, first_prompt
    from truetune.evaluate import sampling

    sampling.checked({"temperature": temperature, "max_new_tokens": max_new_tokens, "seed": seed})
    way, wish = methods(via, language)[method], Wish(per_row, seed, float(temperature), max_new_tokens)
    seeds = gathered(loaded, path, way, limit, seed)
    speaker = speak(wanted.address(model), endpoint, key, loaded.folder, slots, device)
    harvest = Harvest({"method": method, "model": speaker.name, "seed": seed})
    try:
        if not dry_run:
            augment(seeds, way, speaker, wish, harvest, listener)
    finally:
        speaker.close()
        save(path, list(harvest.rows(seeds.form)), seeds.form, listener)
    result = document(harvest, seeds, wish, endpoint, path)
    return result | {"prompt": first_prompt(seeds, way, wish), "examples": harvest.examples()}


def document(harvest: Harvest, seeds: Seeds, wish: Wish, endpoint: str | None, path: Path) -> dict[str, Any]:
    """What came of it, JSON-ready."""
    return {
        "method": harvest.how["method"],
        "model": harvest.how["model"],
        "endpoint": endpoint,
        "seed": wish.seed,
        "rows": dict(seeds.counts),
        "wanted": len(seeds.rows) * wish.per_row,
        "asked": harvest.asked,
        "written": len(harvest.kept),
        "rejected": dict(harvest.rejected),
        "out": str(path) if harvest.kept else None,
    }


def refuse(method: Any, via: Any, language: Any, seed: Any, counts: Mapping[str, int | None]) -> None:
    """Raises UsageError `usage.bad_value`, `augment.same_language`, and as `refuse_none_at_all` for the counts."""
    if method not in METHODS:
        raise bad("method", method, f"Methods: {', '.join(METHODS)}.")
    for what, name in (("via", via), ("language", language)):
        if not isinstance(name, str) or not LANGUAGE.fullmatch(name):
            raise bad(what, name, "Name a language as in a sentence, such as German.")
    if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < MOST_SEED:
        raise bad("seed", seed, f"Give a whole number from 0 to {MOST_SEED - 1}.")
    if method == "backtranslate" and via.casefold() == language.casefold():
        raise UsageError(
            f"the way there and the way back both lead into {via}",
            code="augment.same_language",
            where="via",
            hint="Say what language the rows are in (--language), and another one to go through (--via).",
        )
    for what, number in counts.items():
        refuse_none_at_all(what, number)


def bad(what: str, value: Any, hint: str) -> UsageError:
    return UsageError(f"{value!r} cannot be used", code="usage.bad_value", where=what, hint=hint)


def target(out: str | Path, yes: bool) -> Path:
    """Where the rows go. Raises UsageError (`usage.bad_value`, `augment.not_jsonl`, `augment.exists`) and InputError
    `data.no_folder`."""
    wanted.refuse_nowhere("out", out)
    path = Path(out)
    if path.suffix != ".jsonl":
        raise UsageError(
            "the rows go into a file whose name ends with .jsonl",
            code="augment.not_jsonl",
            where=str(out),
            hint=f"For example {path.with_suffix('.jsonl').name or 'more.jsonl'}.",
        )
    if path.exists() and not yes:
        hint = "Name another one, or replace it with --yes."
        raise UsageError("the file is there already", code="augment.exists", where=str(out), hint=hint)
    return path


def gathered(loaded: Loaded, out: Path, way: Method, limit: int | None, seed: int) -> Seeds:
    """The rows that are made more of. Raises InputError, UsageError."""
    from truetune.augment.seeds import gather
    from truetune.data import sources
    from truetune.data.prepare import find_format

    options = loaded.config.data
    files = sources.find(options.paths, loaded.folder, options.split)
    refuse_source(out, [source.path for source in files])
    amount = None if isinstance(options.validation, str) and options.validation != "auto" else options.validation
    seeds = gather(find_format(options, files), files, limit=limit, seed=seed, simple=way.simple, spare=amount)
    if not seeds.rows:
        found = ", ".join(f"{count} {fate.replace('_', ' ')}" for fate, count in seeds.counts.items() if count)
        raise InputError(
            f"there is no row to make more of: {found}",
            code="augment.no_rows",
            where=", ".join(source.name for source in files),
            hint="Rows must be conversations; new ones (synthetic) are made from single questions with their answers.",
        )
    return seeds


def refuse_source(out: Path, sources: Sequence[Path]) -> None:
    """Raises UsageError `augment.source` where the new rows would take the place of those they are made from."""
    if out.exists() and any(out.samefile(source) for source in sources):
        raise UsageError(
            "the new rows would replace those that they are made from",
            code="augment.source",
            where=str(out),
            hint="Name another file; train on both: `data: {path: [rows.jsonl, more.jsonl]}`.",
        )


def speak(model: str, endpoint: str | None, key: str | None, folder: Path, slots: int, device: str) -> Speaker:
    """Who writes. Raises UsageError, InputError, ResourceError."""
    if endpoint is None:
        if key is not None:
            hint = "Name the endpoint as well: --endpoint https://…/v1."
            raise UsageError("a key is named, and no endpoint to use it", code="augment.key", where="key", hint=hint)
        from truetune.augment.speakers import Local
        from truetune.evaluate.subject import find_subject

        return Local(find_subject(model), device=device, slots=slots)
    try:
        from truetune.augment.endpoint import Endpoint
    except ModuleNotFoundError as error:
        raise ResourceError(
            f"an endpoint is asked with {error.name}, which is not installed",
            code="augment.not_installed",
            hint='Install it: pip install "truetune[hub]".',
        ) from None
    return Endpoint(endpoint, model, named(key, folder) if key is not None else None, slots=slots)


def named(key: str, folder: Path) -> secrets.Secret:
    """The secret of this name. Raises UsageError `augment.key`, which never shows what was given: it may be the key."""
    found = secrets.secret(key, folder) if KEY.fullmatch(key) else None
    if found is None:
        raise UsageError(
            "passwords.yml holds no key of the name that was given",
            code="augment.key",
            where="key",
            hint="Write `openai: {key: …}` into passwords.yml (chmod 600), and name it: --key openai.key.",
        )
    return found


def save(path: Path, rows: Sequence[Mapping[str, Any]], form: Format, listener: Listener) -> None:
    """What was written, also where the work ended early; no rows make no file."""
    from truetune.augment.shapes import LAST_RESORT
    from truetune.runs import durable, jsonfile

    if not rows:
        return
    durable.write(path, b"".join(map(jsonfile.line, rows)))
    listener("saved", {"path": str(path)})
    given = form.columns or not form.detected
    if given and form.shape.name != LAST_RESORT and LAST_RESORT in rows[0]:
        text = f"the rows are written as messages, and no training reads them beside `{form.shape.name}` rows"
        listener("warning", {"text": f"{text}: write those as messages, too (`ft dataset convert --to openai`)"})

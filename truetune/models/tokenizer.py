"""Text to token ids and back, from a model folder, with neither torch nor transformers.

`tokenizers` does the work; this module adds what the files beside `tokenizer.json` say: which tokens begin and end a
text, the chat template, and one digest over everything that shapes the ids.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import re
from array import array
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import orjson
import tokenizers
import tokenizers.models
from numpy.typing import NDArray

from truetune.errors import InputError
from truetune.models import gate, named, pieces, sentencepiece
from truetune.models.template import PLAIN, RAW, Template

KEPT = 4
"""Tokenizers that `shared` keeps."""
FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "generation_config.json",
    "config.json",
    "tokenizer.model",
)
"""All that `load` reads."""
PIECES = "tokenizer.model"
"""SentencePiece's own file, which is read where there is no tokenizer.json."""
BEGINNING = ("Llama", "Gemma", "CodeLlama", "Mistral")
"""Classes of tokenizers that begin a text with BOS unless their configuration says otherwise."""
NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


@dataclass(frozen=True)
class Tokenizer:
    """A model's tokenizer. Ids are plain lists of int; no method adds special tokens unless it says so."""

    backend: tokenizers.Tokenizer
    tokens: Mapping[str, str]
    """`bos_token`, `eos_token`, … as text, those that the model has."""
    eos_ids: tuple[int, ...]
    """Every token at which generation stops."""
    adds_bos: bool
    """Whether the tokenizer itself begins a text with its BOS."""
    template: Template | None
    """The model's own chat template."""
    unk_id: int | None
    digest: str

    @property
    def bos(self) -> str | None:
        return self.tokens.get("bos_token")

    @property
    def eos(self) -> str | None:
        """The end-of-text token; where none is named, the first at which generation stops."""
        named = self.tokens.get("eos_token")
        return named or (self.text(self.eos_ids[0]) if self.eos_ids else None)

    @property
    def pad(self) -> str | None:
        return self.tokens.get("pad_token")

    @property
    def eos_id(self) -> int | None:
        return self.id(self.eos) if self.eos else None

    @functools.cached_property
    def vocabulary(self) -> int:
        """Ids run from 0 to below this number, added tokens included."""
        return 1 + max(self.backend.get_vocab(with_added_tokens=True).values(), default=-1)

    @functools.cached_property
    def special_tokens(self) -> tuple[str, ...]:
        """Texts that are structure rather than content, longest first."""
        added = self.backend.get_added_tokens_decoder().values()
        found = {token.content for token in added if token.special} | set(self.tokens.values())
        found |= {text for text in map(self.text, self.eos_ids) if text}
        return tuple(sorted(found, key=lambda text: (-len(text), text)))

    @functools.cached_property
    def special(self) -> re.Pattern[str]:
        """Matches any special token's text."""
        return re.compile("|".join(map(re.escape, self.special_tokens)) or r"(?!)")

    @functools.cached_property
    def markers(self) -> re.Pattern[str]:
        """Matches any token that a template may end a turn with: special ones, and added ones that are not blank."""
        added = {token.content for token in self.backend.get_added_tokens_decoder().values()}
        texts = sorted({*self.special_tokens, *filter(str.strip, added)}, key=lambda text: (-len(text), text))
        return re.compile("|".join(map(re.escape, texts)) or r"(?!)")

    def id(self, token: str) -> int | None:
        found = self.backend.token_to_id(token)
        return None if found is None else int(found)

    def text(self, token_id: int) -> str | None:
        found = self.backend.id_to_token(token_id)
        return None if found is None else str(found)

    def encode(self, text: str) -> list[int]:
        with _native():
            return list(self.backend.encode(text, add_special_tokens=False).ids)

    def encode_with_offsets(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """Ids, and for each the characters [start, end) of `text` it stands for."""
        with _native():
            encoding = self.backend.encode(text, add_special_tokens=False)
        return list(encoding.ids), list(encoding.offsets)

    def encode_batch(self, texts: Sequence[str]) -> list[NDArray[np.int32]]:
        """As `encode`, in parallel: int32 [tokens] of each text."""
        with _native():
            found = self.backend.encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.frombuffer(array("i", encoding.ids), np.int32) for encoding in found]

    def encode_document(self, text: str) -> list[int]:
        """As `encode`, after the BOS if the tokenizer begins texts with one."""
        start = self.id(self.bos) if self.adds_bos and self.bos else None
        return self.encode(text) if start is None else [start, *self.encode(text)]

    def decode(self, ids: Sequence[int], skip_special: bool = False) -> str:
        with _native():
            return str(self.backend.decode(list(ids), skip_special_tokens=skip_special))

    def plain(self) -> Template:
        """The template for models that bring none."""
        return Template(self._start() + PLAIN, self.tokens_or_eos(), "plain")

    def raw(self) -> Template:
        """No template: prompt, answer, end-of-text token."""
        return Template(self._start() + RAW, self.tokens_or_eos(), "none")

    def named(self, name: str) -> Template:
        """The template of a name in `named.TOKENS`."""
        start = self._start() if name in named.UNPUBLISHED else ""
        return Template(start + named.source(name), self.tokens_or_eos(), name)

    def foreign(self, template: Template) -> list[str]:
        """Control tokens of a template that this model does not have: they are written as text. None of its own."""
        if template is self.template or template.origin in ("plain", "none"):
            return []
        return [mark for mark in named.marks(template.origin, template.source) if self.id(mark) is None]

    def custom(self, path: Path) -> Template:
        """The user's own template file. Raises TemplateError, or InputError (`data.template`) if it can't be read."""
        try:
            source = path.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(
                "this is neither the name of a chat template nor a file of one"
                if isinstance(error, FileNotFoundError)
                else f"the chat template can't be read: {_reason(error)}",
                code="data.template",
                where=str(path),
                hint=named.advice(path.name),
            ) from error
        return Template(source, self.tokens_or_eos(), path.name)

    def tokens_or_eos(self) -> dict[str, str]:
        return {**self.tokens, "eos_token": self.eos or ""}

    def _start(self) -> str:
        return "{{ bos_token }}" if self.adds_bos and self.bos else ""


def load(folder: Path) -> Tokenizer:
    """The tokenizer of a model folder.

    Raises InputError: `model.no_tokenizer` without `tokenizer.json` and `tokenizer.model`, `model.bad_tokenizer` if a
    file is not readable.
    """
    config = _json(folder / "tokenizer_config.json")
    said = {**_json(folder / "special_tokens_map.json"), **config}
    spec = _spec(folder)
    backend = _backend(folder, document(folder, spec) if spec else None)
    tokens = (spec.named() if spec else {}) | _named(said)
    backend.add_special_tokens(
        [text for text in (*tokens.values(), *_extra(config)) if backend.token_to_id(text) is None]
    )
    eos_ids = _eos_ids(folder, backend, tokens)
    source, origin = _template(folder, config)
    return Tokenizer(
        backend=backend,
        tokens=tokens,
        eos_ids=eos_ids,
        adds_bos=_adds_bos(backend, config, tokens),
        template=Template(source, tokens, origin) if source is not None else None,
        unk_id=_unk(backend),
        digest=_digest(folder, source, eos_ids),
    )


def shared(folder: Path) -> Tokenizer:
    """As `load`, for those who leave it as it is: folders whose files are the same, byte for byte, give the same one.

    Reading a large one takes a second, in which no other thread of Python goes on.
    """
    before = _contents(folder)
    with _lock:
        found = _kept.get(before or "")
    if found is None:
        found = load(folder)
    if before and _contents(folder) == before:
        with _lock:
            _kept[before] = found
            _kept.move_to_end(before)
            while len(_kept) > KEPT:
                _kept.popitem(last=False)
    return found


_kept: OrderedDict[str, Tokenizer] = OrderedDict()
_lock = Lock()


def _contents(folder: Path) -> str | None:
    """sha256 over the files; None where one is too large or cannot be read, which `load` has to say."""
    found = hashlib.sha256()
    for path in (folder / name for name in FILES):
        if not path.is_file():
            found.update(b"-")
            continue
        try:
            with path.open("rb") as file:
                if path.stat().st_size > gate.SIZES["tokenizer.json"]:
                    return None
                found.update(hashlib.file_digest(file, "sha256").digest())
        except OSError:
            return None
    return found.hexdigest()


def document(folder: Path, spec: sentencepiece.Spec | None = None) -> dict[str, Any]:
    """The tokenizer.json of a folder: as it stands there, else made from its tokenizer.model. Raises as `load`."""
    spec = spec or _spec(folder)
    if spec is None:
        return _json(_present(folder))
    config = _json(folder / "tokenizer_config.json")
    begins = config.get("add_bos_token", str(config.get("tokenizer_class", "Llama")).startswith(BEGINNING))
    try:
        return sentencepiece.document(spec, bool(begins) and "bos_token" in spec.named())
    except ValueError as error:
        raise _damaged(folder / PIECES, f"not a tokenizer that is read here: {error}") from error


def _spec(folder: Path) -> sentencepiece.Spec | None:
    """What tokenizer.model says, where there is no tokenizer.json."""
    path = folder / PIECES
    if (folder / "tokenizer.json").is_file() or not path.is_file():
        return None
    if path.stat().st_size > gate.SIZE:
        raise _damaged(path, "far too large for a tokenizer")
    try:
        return sentencepiece.read(path)
    except (OSError, ValueError) as error:
        raise _damaged(path, f"not a tokenizer of SentencePiece: {error}") from error


def _present(folder: Path) -> Path:
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise InputError(
            f"this model folder has neither tokenizer.json nor {PIECES}",
            code="model.no_tokenizer",
            where=str(folder),
            hint="convert its tokenizer once: AutoTokenizer.from_pretrained(folder).save_pretrained(folder)",
        )
    if path.stat().st_size > gate.SIZES[path.name]:
        raise _damaged(path, "far too large for a tokenizer")
    return path


def _backend(folder: Path, made: Mapping[str, Any] | None) -> tokenizers.Tokenizer:
    path = folder / PIECES if made else _present(folder)
    try:
        data = orjson.dumps(made) if made else path.read_bytes()
        pieces.check(orjson.loads(data))
        with _native():
            backend = tokenizers.Tokenizer.from_buffer(data)
    except InputError as error:
        raise _damaged(path, f"not a tokenizer: {error.finding.message}") from error
    except Exception as error:  # the library raises plain Exception
        raise _damaged(path, f"not a tokenizer: {error}") from error
    backend.no_truncation()
    backend.no_padding()
    return backend


@contextlib.contextmanager
def _native() -> Iterator[None]:
    """The library panics where a pattern of the file gives up on a text: that is no Exception, but the file's fault.

    Raises InputError `model.bad_tokenizer`.
    """
    try:
        yield
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        reason = str(error).splitlines()[0][:200] if str(error) else "it gives up"
        raise InputError(
            f"the tokenizer breaks down: {reason}",
            code="model.bad_tokenizer",
            where="tokenizer.json",
            hint="Download or copy the model again, or choose another: a pattern in this file never ends.",
        ) from None


def _json(path: Path) -> dict[str, Any]:
    """A JSON object, empty if there is no such file."""
    if not path.is_file():
        return {}
    try:
        value = orjson.loads(path.read_bytes())
    except (OSError, orjson.JSONDecodeError) as error:
        raise _damaged(path, f"can't be read: {error}") from error
    return value if isinstance(value, dict) else {}


def _damaged(path: Path, message: str) -> InputError:
    hint = "Download or copy the model again."
    return InputError(message, code="model.bad_tokenizer", where=str(path), hint=hint)


def _named(config: Mapping[str, Any]) -> dict[str, str]:
    """Named special tokens; each is a text or an object with `content`."""
    texts = {name: _content(config.get(name)) for name in NAMED}
    return {name: text for name, text in texts.items() if text}


def _extra(config: Mapping[str, Any]) -> list[str]:
    """Special tokens without a role of their own: a list, or an object from names to tokens."""
    found: list[str] = []
    for name in ("additional_special_tokens", "extra_special_tokens"):
        values = config.get(name) or []
        values = values.values() if isinstance(values, Mapping) else values
        found += [text for text in map(_content, values) if text]
    return found


def _content(value: Any) -> str | None:
    if isinstance(value, Mapping):
        value = value.get("content")
    return value if isinstance(value, str) else None


def _eos_ids(folder: Path, backend: tokenizers.Tokenizer, tokens: Mapping[str, str]) -> tuple[int, ...]:
    """The tokenizer's end-of-text token first, then those of the model's configuration."""
    found: list[int | None] = []
    if "eos_token" in tokens:
        found.append(backend.token_to_id(tokens["eos_token"]))
    for name in ("generation_config.json", "config.json"):
        value = _json(folder / name).get("eos_token_id")
        found += [item for item in (value if isinstance(value, list) else [value]) if isinstance(item, int)]
    return tuple(dict.fromkeys(item for item in found if item is not None and backend.id_to_token(item) is not None))


def _adds_bos(backend: tokenizers.Tokenizer, config: Mapping[str, Any], tokens: Mapping[str, str]) -> bool:
    """What `tokenizer_config.json` says; where it is silent, what the post-processor does."""
    if "bos_token" not in tokens:
        return False
    said = config.get("add_bos_token")
    if isinstance(said, bool):
        return said
    with _native():
        return bool(backend.encode("a").ids[:1] == [backend.token_to_id(tokens["bos_token"])])


def _template(folder: Path, config: Mapping[str, Any]) -> tuple[str | None, str]:
    """The template's text and where it stands. A model can bring several by name; `default` is the one for chats."""
    path = folder / "chat_template.jinja"
    if path.is_file():
        try:
            return path.read_text("utf-8"), path.name
        except (OSError, UnicodeDecodeError) as error:
            raise _damaged(path, f"the chat template can't be read: {error}") from error
    value = config.get("chat_template")
    if isinstance(value, list):
        named = [item for item in value if isinstance(item, dict)]
        for item in named:
            _refuse_name(item.get("name", ""), folder)
        value = next((item.get("template") for item in named if item.get("name") == "default"), None)
    if isinstance(value, Mapping):
        for name in value:
            _refuse_name(name, folder)
        value = value.get("default")
    return (value if isinstance(value, str) else None), "tokenizer_config.json"


def _refuse_name(name: Any, folder: Path) -> None:
    """Other programs make file names of these, and they travel with the result."""
    if not isinstance(name, str) or not re.fullmatch(r"[\w-]{0,64}", name):
        raise InputError(
            "a chat template has a name that is none",
            code="model.template_name",
            where=str(folder / "tokenizer_config.json"),
            hint="give the templates names of letters, digits, - and _",
        )


def _unk(backend: tokenizers.Tokenizer) -> int | None:
    """The token that stands for text without a token, if the tokenizer has one (Unigram knows it by number only)."""
    model = backend.model
    if isinstance(model, tokenizers.models.Unigram):
        found = orjson.loads(backend.to_str())["model"].get("unk_id")
        return None if found is None else int(found)
    text = getattr(model, "unk_token", None)
    return backend.token_to_id(text) if text else None


def _reason(error: Exception) -> str:
    """Without number and path, which a message names by itself."""
    return (isinstance(error, OSError) and error.strerror) or str(error)


def _digest(folder: Path, template: str | None, eos_ids: tuple[int, ...]) -> str:
    """sha256 over what shapes rendering."""
    digest = hashlib.sha256(orjson.dumps([template, eos_ids]))
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        path = folder / name
        digest.update(hashlib.sha256(path.read_bytes()).digest() if path.is_file() else b"-")
    if not (folder / "tokenizer.json").is_file() and (folder / PIECES).is_file():
        digest.update(hashlib.sha256((folder / PIECES).read_bytes()).digest())
    return digest.hexdigest()

"""The verb `serve`, and the three that tell a running server about adapters."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from truetune.api import wanted
from truetune.errors import InputError, UsageError

if TYPE_CHECKING:
    from truetune.config.secrets import Secret
    from truetune.evaluate.subject import Subject
    from truetune.serve.opening import Wanted

Ready = Callable[[dict[str, Any]], None]
SERVED = re.compile(r"[^A-Za-z0-9._@:-]+")


def unheard(facts: dict[str, Any]) -> None:
    """The listener that hears nothing."""


def serve(
    names: Sequence[Any] = ("last",),
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    device: str = "auto",
    slots: int = 8,
    queue: int = 64,
    timeout: float = 600.0,
    grace: float = 30.0,
    hosts: Sequence[str] = (),
    folders: Sequence[str | Path] = (),
    log: bool = False,
    ready: Ready = unheard,
    engine: str = "own",
    replicas: int | None = None,
    cluster: str | None = None,
    open_ray: bool = False,
) -> dict[str, Any]:
    """Serve adapters of one base, or a model, by OpenAI's protocol, until SIGTERM or Ctrl-C; then {url, totals}.

    names    registered adapters (`support`, `support@3`, `support@production`), runs, folders, a hub id; or a GGUF
             file, and those of adapters for it
    host     where to listen; any but this machine alone needs a key (`server.api_key`, TRUETUNE_API_KEY)
    port     0 = one that is free
    slots, queue, timeout   answers written together, requests that wait (beyond: 429), seconds of an answer
    grace    seconds that running answers have at the end
    hosts    other names under which the server is reached, such as that of a proxy
    folders  folders below which adapters may be loaded from while it runs, beside ./runs and registered ones
    log      whether every request is written to stderr
    ready    is told {url, models, writes, sorts, alone, key, wide, warnings} when requests are taken
    engine   `own`: this process; `ray`: replicas of it on Ray, behind one address; `vllm`: vLLM's server with our names
    replicas, cluster, open_ray   of Ray: how many (2), the address of a cluster that runs (else one of our own, on this
             machine), and whether our own may listen to others, where it cannot be kept from it

    Raises UsageError and InputError for the names, `serve.key`, `serve.host`; ResourceError `serve.port`,
    `serve.not_installed`; Forced.
    """
    from truetune.serve.place import listen, own

    wanted.device(device)
    if engine != "own" or replicas or cluster or open_ray:
        from truetune.api import outgrown

        return outgrown.serve(
            names,
            outgrown.Settings(
                engine,
                host,
                port,
                ready,
                slots,
                grace,
                device,
                queue,
                timeout,
                hosts,
                folders,
                log,
                replicas,
                cluster,
                open_ray,
            ),
        )
    key = _key(host)
    running, opening, app, guard = _modules()
    files = _files(names)
    found = [] if files else [_wanted(name) for name in names] or [_wanted("last")]
    place = listen(host, port)
    try:
        room = opening.Room(slots=slots, queue=queue, timeout=timeout)
        allowed = [Path("runs"), *map(Path, folders)]
        service, warning = _opened(files, found, allowed, device, room)
        digest = guard.hashed(key.reveal()) if key else None
        rules = guard.Rules(place.port, frozenset(hosts), not own(host), digest)
        facts = {
            "url": place.url,
            **service.facts(),
            "key": key is not None,
            "wide": not own(host),
            "warnings": [warning] if warning else [],
        }
        running.run(app.application(service, rules), service, place, grace=grace, ready=lambda: ready(facts), log=log)
    finally:
        place.listener.close()
    return {"url": place.url, "totals": service.scheduler.stats()["totals"]}


def _key(host: str) -> Secret | None:
    """The server's key. Raises UsageError `serve.key` where others can reach it and there is none."""
    from truetune.config.secrets import secret
    from truetune.serve.place import own

    key = secret("server.api_key", Path())
    if not own(host) and key is None:
        raise UsageError(
            "a server that others can reach needs a key",
            code="serve.key",
            where="--host",
            hint="Set TRUETUNE_API_KEY, or `server: {api_key: …}` in passwords.yml; or leave --host out.",
        )
    return key


def _modules() -> tuple[Any, Any, Any, Any]:
    """Raises ResourceError `serve.not_installed`."""
    from truetune.errors import ResourceError

    try:
        from truetune.serve import app, guard, opening, running
    except ModuleNotFoundError as error:
        raise ResourceError(
            f"serving needs {error.name}, which is not installed",
            code="serve.not_installed",
            where="ft serve",
            hint='Install it: pip install "truetune[serve]".',
        ) from None
    return running, opening, app, guard


def _files(names: Sequence[Any]) -> list[Path]:
    """The GGUF files among the names; none where there are none. Raises UsageError `serve.files`, and what
    `serve.gguf.place` raises."""
    from truetune.serve import gguf

    found = [gguf.place(str(name)) if isinstance(name, str | Path) else None for name in names]
    files = [path for path in found if path]
    if files and len(files) < len(names):
        raise UsageError(
            "a server runs GGUF files or what they were made from, not both",
            code="serve.files",
            where=" ".join(map(str, names)),
            hint="Name files alone: ft serve model.gguf adapter.gguf; or a server for each.",
        )
    return files


def _opened(files: Sequence[Path], found: Sequence[Any], folders: Sequence[Path], device: str, room: Any) -> Any:
    """(service, warning)"""
    from truetune.serve import gguf, opening

    if files:
        return gguf.opened(files, room=room), ""
    return opening.opened(found, lambda text: _allowed(text, folders), device=device, room=room)


def _wanted(name: Any) -> Wanted:
    """A subject with the names that it is served under: its version's and the bare one, or the run's id."""
    from truetune.evaluate.subject import find_subject
    from truetune.evaluate.voice import refuse_scores
    from truetune.registry.catalog import Catalog
    from truetune.serve.opening import Wanted

    subject = find_subject(wanted.address(name))
    if subject.scores and subject.objective != "classification":
        refuse_scores(subject)
    if not subject.tuned:
        return Wanted((), subject)
    known = Catalog().of_run(subject.run.id, subject.run.folder) if subject.run else None
    asked = Catalog().look(name) if isinstance(name, str) else None
    known = asked or known
    if known and ":" not in subject.name:
        return Wanted((known["address"], known["name"]), subject)
    return Wanted((_called(subject),), subject)


def _called(subject: Subject) -> str:
    """The run's id with its checkpoint; of an adapter's folder the folder's name."""
    return subject.name if subject.run else SERVED.sub("-", Path(subject.name).resolve().name).strip("-.") or "adapter"


def _allowed(text: str, folders: Sequence[Path]) -> Subject:
    """The adapter that a request names: registered, a run by its id, or a folder below one of these. No hub id: nothing
    is fetched for a request. Raises InputError `serve.outside`, and what `find_subject` raises."""
    from truetune.evaluate.subject import find_subject
    from truetune.registry.catalog import Catalog

    path = text.startswith((".", "/", "~")) or "/" in text
    if path:
        place = Path(text).expanduser().resolve()
        if not any(place.is_relative_to(folder.expanduser().resolve()) for folder in folders) or not place.is_dir():
            raise _outside(text)
        subject = find_subject(str(place))
    else:
        known = Catalog().look(text.partition(":")[0])
        subject = find_subject(wanted.address(text) if known else text)
    if subject.adapter is None or subject.scores:
        raise InputError(
            f"`{text[:80]}` is no adapter",
            code="serve.no_adapter",
            where="lora_path",
            hint="Name an adapter of this server's base; another model needs a server of its own.",
        )
    return subject


def _outside(text: str) -> InputError:
    return InputError(
        f"there is no adapter at `{text[:80]}` that this server may load",
        code="serve.outside",
        where="lora_path",
        hint="Name a registered adapter or a run, or start the server with --allow FOLDER.",
    )


def adapter_load(adapter: str, *, server: str, name: str | None = None, key: str | None = None) -> str:
    """Have a running server serve an adapter, under its own name or another; what the server says.

    Raises UsageError `serve.server`, InputError `serve.unreachable`, `serve.refused`.
    """
    return _tell(server, "load", {"lora_name": name or adapter, "lora_path": _address(adapter)}, key)


def adapter_switch(adapter: str, *, server: str, name: str | None = None, key: str | None = None) -> str:
    """Point a name of a running server to this adapter: `support` to `support@4`. Answers that are being written go on
    with the one they began with. Raises as `adapter_load`."""
    body = {"lora_name": name or adapter.partition("@")[0], "lora_path": _address(adapter), "load_inplace": True}
    return _tell(server, "load", body, key)


def adapter_unload(name: str, *, server: str, key: str | None = None) -> str:
    """Have a running server forget a name. Raises as `adapter_load`."""
    return _tell(server, "unload", {"lora_name": name}, key)


def _address(adapter: str) -> str:
    """A folder as the whole path that it is: the server has a working folder of its own."""
    return str(Path(adapter).expanduser().resolve()) if adapter.startswith((".", "/", "~")) else adapter


def _tell(server: str, verb: str, body: dict[str, Any], key: str | None) -> str:
    from truetune.config.secrets import Secret, secret
    from truetune.serve.client import post

    known = Secret(key) if key else secret("server.api_key", Path())
    return post(server, f"/v1/{verb}_lora_adapter", body, known)

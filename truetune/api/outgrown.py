"""The verb `serve` beyond one process: replicas on Ray behind our door, or vLLM's server with our names."""

from __future__ import annotations

import shutil
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from truetune import paths
from truetune.api.serve import _allowed, _files, _key, _modules, _wanted
from truetune.errors import ResourceError, UsageError

if TYPE_CHECKING:
    from truetune.serve.place import Place

ENGINES = ("own", "ray", "vllm")
REPLICAS = 2
ONLY_RAY = ("replicas", "cluster", "open_ray")
NOT_VLLM = ("device", "queue", "timeout", "hosts", "folders", "log")
"""What vLLM's server has no switch for, or none that means the same."""


@dataclass(frozen=True)
class Settings:
    """What `api.serve.serve` was given, with its defaults."""

    engine: str
    host: str
    port: int
    ready: Callable[[dict[str, Any]], None]
    slots: int
    grace: float
    device: str = "auto"
    queue: int = 64
    timeout: float = 600.0
    hosts: Sequence[str] = ()
    folders: Sequence[str | Path] = ()
    log: bool = False
    replicas: int | None = None
    cluster: str | None = None
    open_ray: bool = False

    def given(self, names: Sequence[str]) -> list[str]:
        """Those of some settings that are not as they are by default."""
        return [one.name for one in fields(self) if one.name in names and getattr(self, one.name) != one.default]


def serve(names: Sequence[Any], settings: Settings) -> dict[str, Any]:
    """Raises UsageError `serve.engine`, `serve.only_ray`, `serve.not_vllm`, and what each engine raises."""
    if settings.engine not in ENGINES:
        raise UsageError(
            f"there is no engine `{settings.engine}`",
            code="serve.engine",
            where="--engine",
            hint=f"One of {', '.join(ENGINES)}.",
        )
    odd = settings.given(ONLY_RAY)
    if settings.engine != "ray" and odd:
        raise UsageError(
            f"{_options(odd)} is about Ray, and this is another engine",
            code="serve.only_ray",
            where="--engine",
            hint="Add --engine ray, or leave it out.",
        )
    return _ray(names, settings) if settings.engine == "ray" else _vllm(names, settings)


def _options(names: Sequence[str]) -> str:
    flags = {"hosts": "--allow-host", "folders": "--allow", "log": "--verbose"}
    return ", ".join(flags.get(name, f"--{name.replace('_', '-')}") for name in names)


# Ray


def _ray(names: Sequence[Any], settings: Settings) -> dict[str, Any]:
    """Raises what `jobs.cluster.replicas` raises, UsageError `serve.ray_open`, `serve.only_own`."""
    from truetune.serve.place import listen

    key = _key(settings.host)
    place = listen(settings.host, settings.port)
    try:
        warnings = _kept(settings)
        if _files(names):
            raise UsageError(
                "GGUF files are served by one process",
                code="serve.only_own",
                where="--engine ray",
                hint="Leave --engine out.",
            )
        return _doored(names, settings, place, key, warnings)
    finally:
        place.listener.close()


def _kept(settings: Settings) -> list[str]:
    """Keep what Ray opens from all others; returns what is to be said of it. First of all, for it needs a process
    without threads. Raises UsageError `serve.ray_open`, InputError `serve.no_cluster`."""
    from truetune.jobs.apart import apart, settled
    from truetune.jobs.reach import reach

    settled(own=settings.cluster is None)
    if settings.cluster:
        reach(settings.cluster)
        return ["whoever reaches the ports of the Ray cluster, and has its token, can run programs on its machines"]
    if settings.open_ray:
        return ["Ray listens on all addresses of this machine, guarded by a token alone: keep a firewall before it"]
    try:
        apart()
    except OSError as error:
        raise UsageError(
            f"Ray listens on all addresses of this machine, and can't be kept from it here: {error.strerror}",
            code="serve.ray_open",
            where="--engine ray",
            hint="Behind a firewall: --open-ray. Or name a cluster that runs: --cluster ADDRESS.",
        ) from None
    paths.settle("HF_HUB_OFFLINE", "1")
    return []


def _doored(names: Sequence[Any], settings: Settings, place: Place, key: Any, warnings: list[str]) -> dict[str, Any]:
    """Replicas, and the door before them until a signal."""
    from truetune.serve.place import own

    running, opening, _, guard = _modules()
    cluster = _cluster()
    from truetune.serve.outgrown.door import Door, application
    from truetune.serve.outgrown.pin import pinned
    from truetune.serve.outgrown.replica import Order, Replica, agreed

    found = [_wanted(name) for name in names] or [_wanted("last")]
    room = opening.Room(slots=settings.slots, queue=settings.queue, timeout=settings.timeout)
    order = Order(tuple((one.names, pinned(one.subject)) for one in found), settings.device, room)
    allowed = [Path("runs"), *map(Path, settings.folders)]
    digest = guard.hashed(key.reveal()) if key else None
    wide = not own(settings.host)
    rules = guard.Rules(place.port, frozenset(settings.hosts), wide, digest)
    count = settings.replicas or REPLICAS
    with (
        _interrupted(),
        cluster.replicas(
            Replica, order, count, address=settings.cluster, device=settings.device, log=settings.log
        ) as peers,
    ):
        facts, table = agreed([peer.facts() for peer in peers])
        told = facts | {"url": place.url, "key": key is not None, "wide": wide, "replicas": count}
        told["warnings"] = [*warnings, *facts["warnings"]]
        door = Door(peers, table, lambda text: _allowed(text, allowed))
        app = application(door, rules)

        def ready() -> None:
            door.sides.watch()
            settings.ready(told)

        running.run(app, door, place, grace=settings.grace, ready=ready, log=settings.log)
    return {"url": place.url, "totals": door.totals()}


def _cluster() -> Any:
    """Raises ResourceError `serve.not_installed`."""
    try:
        from truetune.jobs import cluster
    except ModuleNotFoundError as error:
        raise ResourceError(
            f"serving by several processes needs {error.name}, which is not installed",
            code="serve.not_installed",
            where="--engine ray",
            hint='Install it: pip install "truetune[ray]".',
        ) from None
    return cluster


@contextmanager
def _interrupted() -> Iterator[None]:
    """SIGTERM as Ctrl-C: what was started is ended, and nothing is left behind."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    except SystemExit:  # Ray has put a handler of its own in the place of ours
        raise KeyboardInterrupt from None
    finally:
        signal.signal(signal.SIGTERM, before)


# vLLM


def _vllm(names: Sequence[Any], settings: Settings) -> dict[str, Any]:
    """Raises ResourceError `serve.no_vllm`, what `outgrown.vllm.planned` and `outgrown.beside.run` raise."""
    from truetune.serve.outgrown import beside, vllm
    from truetune.serve.place import listen, own

    odd = settings.given(NOT_VLLM)
    if odd:
        raise UsageError(
            f"vLLM's server has nothing that is {_options(odd)}",
            code="serve.not_vllm",
            where="--engine vllm",
            hint="Leave it out.",
        )
    key = _key(settings.host)
    program = shutil.which(vllm.PROGRAM)
    if program is None:
        raise ResourceError(
            "there is no `vllm` on PATH",
            code="serve.no_vllm",
            where="--engine vllm",
            hint="It wants an environment of its own: python3 -m venv ~/vllm && ~/vllm/bin/pip install vllm; "
            "then PATH=$PATH:~/vllm/bin. It needs other versions of torch and transformers than TrueTune.",
        )
    plan = vllm.planned([_wanted(name) for name in names] or [_wanted("last")])
    place = listen(settings.host, settings.port)
    place.listener.close()
    told: dict[str, Any] = {"url": place.url, "models": plan.names, "writes": plan.names, "sorts": [], "alone": []}
    told |= {"key": key is not None, "wide": not own(settings.host), "warnings": _unguarded(key is not None)}
    secrets = {"VLLM_API_KEY": key.reveal()} if key else {}
    with tempfile.TemporaryDirectory(prefix="ft-vllm-") as folder:
        template = Path(folder) / "chat_template.jinja" if plan.template else None
        if template:
            template.write_text(plan.template or "", encoding="utf-8")
        line = vllm.line(program, plan, settings.host, place.port, settings.slots, template)
        ready = lambda: settings.ready(told)  # noqa: E731
        beside.run(line, vllm.SETTINGS | secrets, place.url, grace=settings.grace, ready=ready)
    return {"url": place.url, "totals": {}}


def _unguarded(key: bool) -> list[str]:
    said = "vLLM's own server answers: it looks at no Host and no Origin"
    return [said if key else f"{said}, and asks for no key: set TRUETUNE_API_KEY"]

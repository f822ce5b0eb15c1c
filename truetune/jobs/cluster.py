"""Ray Serve, as far as serving needs it: objects of a class as replicas that it places, watches and starts again.

Each replica is an application of its own with one replica, so that every one of them can be asked by itself: a change
must reach all. Ray's own HTTP proxy is not started; whoever has the handles asks.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import shutil
import tempfile
import warnings
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import ray
from ray import serve
from ray.exceptions import RayError, RayTaskError
from ray.serve.exceptions import RayServeException

from truetune.errors import InputError, ResourceError
from truetune.jobs.share import share

OBJECTS = 128 * 2**20
"""Bytes of Ray's shared memory; answers are small."""
TOGETHER = 2000
"""Questions to a replica at once: more than the door takes, so that the replica's own queue is the one that counts."""
HEALTH = 2.0
"""Seconds between two looks at a replica."""
PATIENCE = 900.0
"""Seconds for a replica to say what it serves."""
LINES = 3


class Distant:
    """A replica in another process, asked as the object is; ConnectionError is raised where it is lost."""

    def __init__(self, handle: Any) -> None:
        self.handle = handle

    async def ask(self, call: Any, revision: int) -> AsyncGenerator[Any]:
        stream = self.handle.options(stream=True, method_name="ask").remote(call, revision)
        over = False
        try:
            async for batch in stream:
                yield batch
            over = True
        except (RayError, RayServeException) as error:
            raise lost(error) from None
        finally:
            if not over:
                await asyncio.to_thread(given_up, stream)

    async def tell(self, method: str, *args: Any) -> Any:
        try:
            return await self.handle.options(method_name=method).remote(*args)
        except (RayError, RayServeException) as error:
            raise lost(error) from None

    async def change(self, since: int, revision: int, name: str, pin: str | None, inplace: bool) -> Any:
        return await self.tell("change", since, revision, name, pin, inplace)

    async def settle(self, revision: int, table: Any) -> Any:
        return await self.tell("settle", revision, dict(table))

    async def metrics(self) -> bytes:
        return bytes(await self.tell("metrics"))

    async def ready(self) -> None:
        await self.tell("ready")

    def facts(self) -> Any:
        """What the replica says of itself; not in an event loop."""
        return self.handle.options(method_name="facts").remote().result(timeout_s=PATIENCE)


def lost(error: Exception) -> Exception:
    """What a method has raised by itself is a bug and stays one; anything else is a replica that does not answer."""
    return error if isinstance(error, RayTaskError) else ConnectionError(type(error).__name__)


def given_up(stream: Any) -> None:
    with suppress(Exception):
        stream.cancel()


@contextmanager
def replicas(
    kind: type, order: Any, count: int, *, address: str | None, device: str, log: bool = False
) -> Iterator[list[Distant]]:
    """`count` objects `kind(order)` on a Ray cluster, ready to be asked: the one at an address, or one that begins and
    ends with this on this machine.

    Raises InputError `serve.no_cluster`, ResourceError `serve.cluster_full`, `serve.replica_start`.
    """
    with running(address, log):
        name = f"truetune-{secrets.token_hex(4)}"
        names = [f"{name}-{number}" for number in range(count)]
        try:
            yield placed(kind, order, names, needs(count, device))
        finally:
            ended(names, own=address is None)


def placed(kind: type, order: Any, names: list[str], needed: dict[str, float]) -> list[Distant]:
    settings = serve.deployment(
        num_replicas=1,
        max_ongoing_requests=TOGETHER,
        ray_actor_options=needed,
        health_check_period_s=HEALTH,
        graceful_shutdown_timeout_s=HEALTH,
        logging_config={"log_level": "ERROR", "enable_access_log": False},
    )(kind)
    targets = [serve.RunTarget(settings.bind(order), name=name, route_prefix=None) for name in names]
    try:
        return [Distant(handle) for handle in serve.run_many(targets)]
    except (RayError, RayServeException, RuntimeError) as error:
        said = " ".join(str(error).strip().splitlines()[-LINES:])[-500:]
        raise ResourceError(
            f"the replicas did not start: {said}",
            code="serve.replica_start",
            where="--engine ray",
            hint="See it whole with -v; fewer --replicas need less memory.",
        ) from None


@contextmanager
def running(address: str | None, log: bool) -> Iterator[None]:
    """This process in a Ray cluster; one of our own leaves nothing behind."""
    folder = None if address else tempfile.mkdtemp(prefix="ft-ray-")
    settings: dict[str, Any] = {"address": address, "namespace": "truetune"}
    if folder:
        settings |= {"address": "local", "include_dashboard": False, "object_store_memory": OBJECTS}
        settings |= {"_temp_dir": folder, "_node_ip_address": "127.0.0.1"}
    level = logging.INFO if log else logging.ERROR
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            joined(settings, log, level)
        serve.start(proxy_location="Disabled", logging_config={"log_level": logging.getLevelName(level)})
        logging.getLogger("ray.serve").setLevel(level)
        yield
    finally:
        ray.shutdown()
        if folder:
            shutil.rmtree(folder, ignore_errors=True)


def joined(settings: dict[str, Any], log: bool, level: int) -> None:
    """Raises InputError `serve.no_cluster` for what is no cluster, or does not let us in."""
    try:
        ray.init(**settings, log_to_driver=log, logging_level=level)
    except (ConnectionError, ValueError, RayError) as error:
        raise InputError(
            f"there is no Ray cluster to be had: {str(error)[:300]}",
            code="serve.no_cluster",
            where=settings["address"],
            hint="`ray status` there says whether it runs; its token must be known here (RAY_AUTH_TOKEN_PATH).",
        ) from None


def needs(count: int, device: str) -> dict[str, float]:
    """What Ray keeps free for each replica. Raises ResourceError `serve.cluster_full`."""
    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    cores = share([machine.get("CPU", 0.0) for machine in machines], count)
    cards = 0.0 if device == "cpu" else min(1.0, share([machine.get("GPU", 0.0) for machine in machines], count))
    if not cores or (device.startswith("cuda") and not cards):
        raise ResourceError(
            "the Ray cluster has no GPU" if cores else "the Ray cluster has no processor to give",
            code="serve.cluster_full",
            where="--engine ray",
            hint="`ray status` lists what it has; or choose --device cpu.",
        )
    return {"num_cpus": cores, "num_gpus": cards}


def ended(names: list[str], *, own: bool) -> None:
    """In a cluster of others only what is ours is taken away."""
    with suppress(Exception):
        if own:
            serve.shutdown()
        else:
            for name in names:
                serve.delete(name)

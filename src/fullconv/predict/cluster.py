"""A cluster of Ray: connected to, or started on this machine alone."""

from __future__ import annotations

import logging
import os
import secrets
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from fullconv.base.errors import FullconvError, one_line
from fullconv.predict.pool import Node

HERE = "local"  # Ray's word for a cluster of this machine alone, which ends with the job
OBJECTS = 1 << 30  # bytes that it keeps of files on their way
CONNECTING = 10.0  # seconds to wait for an answer


@contextmanager
def connected(address: str) -> Iterator[list[Node]]:
    """Connect to a cluster, or start one of this machine alone; yield its nodes.

    Ray is told not to report its usage. A cluster that is started here listens on this machine
    only, to those who have a token that is drawn for it.
    """
    _require_answer(address)
    with _environment(_ray_environment(address)):
        import ray
        from ray.data import DataContext

        try:
            ray.init(
                address=address,
                include_dashboard=False if address == HERE else None,
                log_to_driver=False,
                logging_level=logging.ERROR,
                object_store_memory=OBJECTS if address == HERE else None,
            )
        except Exception as error:  # of Ray, whose errors have no one class
            raise FullconvError(
                f"--ray {address}: can't connect ({one_line(error)}); start Ray by 'ray start', on "
                "this machine too"
            ) from error
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        DataContext.get_current().enable_progress_bars = False
        try:
            yield [
                Node(each["Resources"].get("CPU", 0.0), each["Resources"].get("GPU", 0.0))
                for each in ray.nodes()
                if each["Alive"]
            ]
        finally:
            ray.shutdown()


def _require_answer(address: str) -> None:
    """Raise FullconvError where nothing answers at HOST:PORT: Ray would try for minutes."""
    host, _, port = address.rpartition(":")
    if not host:
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECTING).close()
    except (OSError, ValueError, OverflowError) as error:
        raise FullconvError(
            f"--ray {address}: nothing answers there ({one_line(error)}); start Ray by "
            "'ray start', on this machine too"
        ) from error


def _ray_environment(address: str) -> dict[str, str]:
    """Return the variables that Ray reads at its start, as far as the user has not set them."""
    wanted = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_BACKEND_LOG_LEVEL": "fatal"}
    wanted["RAY_ENABLE_AUTO_CONNECT"] = "0"  # a thread of a job that ended would start Ray anew
    if address == HERE:  # else even 127.0.0.1 would be taken for the address of the network
        wanted["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    own_token = any(os.environ.get(f"RAY_AUTH_{each}") for each in ("MODE", "TOKEN", "TOKEN_PATH"))
    if address == HERE and not own_token:  # else Ray would write a token under the home folder
        wanted["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    return {name: value for name, value in wanted.items() if name not in os.environ}


@contextmanager
def _environment(wanted: Mapping[str, str]) -> Iterator[None]:
    """Set variables while the body runs; afterwards all are as they were, those of Ray's, too."""
    before = dict(os.environ)
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name in {*wanted, *(each for each in os.environ if each.startswith("RAY_"))}:
            if name not in before:
                del os.environ[name]


def reason_of(error: BaseException) -> str:
    """Return in a line why a job failed: the line of an actor, if it said one."""
    at: BaseException | None = error
    while at is not None:
        if isinstance(at, FullconvError):
            return str(at)
        at = getattr(at, "cause", None) or at.__cause__
    lines = [line for line in str(error).splitlines() if line.strip()]
    return one_line(Exception(lines[-1] if lines else type(error).__name__))

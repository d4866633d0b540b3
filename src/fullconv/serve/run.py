"""The service from its settings to its end: what the command line calls."""

from __future__ import annotations

import importlib.util
import ipaddress
import socket
from typing import TYPE_CHECKING

from fullconv.base.errors import FullconvError
from fullconv.base.progress import SILENT, Reporter

if TYPE_CHECKING:
    from fullconv.serve.settings import ServeSettings

PACKAGES = ("fastapi", "uvicorn", "prometheus_client")


def serve(settings: ServeSettings, reporter: Reporter = SILENT) -> None:
    """Serve a model until SIGTERM or SIGINT; then finish what is in hand. A second one ends it.

    Args:
        settings: what to serve, where and for whom.
        reporter: is told the address once photos are taken.

    Raises:
        FullconvError: a package is missing, the address can't be had, or the model can't be loaded.
    """
    require_packages()
    from fullconv.serve.app import application
    from fullconv.serve.model import open_model
    from fullconv.serve.server import Server
    from fullconv.serve.service import Service

    with listener(settings.host, settings.port) as taken:
        model = open_model(settings, reporter)
        service = Service(model, settings.limits, settings.reader)
        app = application(service, settings.token, settings.cors)
        host, port = taken.getsockname()[:2]
        if not (settings.token or _is_loopback(host)):
            reporter.warn("note: whoever reaches this address may use it: think of --token-file")
        shown = f"[{host}]" if ":" in host else host
        server = Server(app, service)
        taken.listen()  # who reads the line may ask at once
        reporter.say(f"{settings.model} by {model.engine} at http://{shown}:{port} (API: /docs)")
        server.run(sockets=[taken])


def require_packages() -> None:
    """Raise FullconvError where the extra is not installed."""
    if not all(map(importlib.util.find_spec, PACKAGES)):
        raise FullconvError("serve needs further packages: pip install 'fullconv[serve]'")


def listener(host: str, port: int) -> socket.socket:
    """Return a socket at an address, which nobody can connect to before it listens.

    Raises:
        FullconvError: the address is none of this machine, or taken.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        taken = socket.socket(family, kind, protocol)
        try:
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            taken.bind(address)
        except BaseException:
            taken.close()
            raise
        return taken
    except OSError as error:
        raise FullconvError(
            f"{host}:{port}: can't be had ({error.strerror}); choose another --port or --host"
        ) from error


def _is_loopback(host: str) -> bool:
    return ipaddress.ip_address(host.partition("%")[0]).is_loopback

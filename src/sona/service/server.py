"""Run the service: bind safely, drain before stopping."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from types import FrameType

from sona.errors import ConfigError, MissingExtraError
from sona.service.limits import Limits
from sona.service.logs import decided, start_logging

try:
    import uvicorn

    from sona.service.app import Service
    from sona.service.guard import is_loopback
    from sona.service.tenants import Tenants
except ImportError as error:  # pragma: no cover - only without the extra
    name = str(error.name).partition(".")[0]
    raise MissingExtraError(
        f"the service needs {name}; install it with: pip install 'sona[service]'"
    ) from None

__all__ = ["serve"]

#: A thread that learns gives way to the event loop after this long; the default is 5 ms.
_SWITCH_SECONDS = 0.0005


class _Server(uvicorn.Server):
    """A server that, when told to stop, first refuses and finishes, then closes."""

    def __init__(self, config: uvicorn.Config, service: Service, drain_seconds: float) -> None:
        super().__init__(config)
        self._service = service
        self._drain_seconds = drain_seconds
        self._loop: asyncio.AbstractEventLoop | None = None

    async def startup(self, sockets=None) -> None:  # type: ignore[no-untyped-def]
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)
        port = self.servers[0].sockets[0].getsockname()[1] if self.started else None
        decided("started", {"host": self.config.host, "port": port, "pid": os.getpid()})

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        # The second signal stops at once.
        loop = self._loop
        if self._service.draining or loop is None:
            self.should_exit = True
            return
        self._service.draining = True
        loop.call_soon_threadsafe(lambda: loop.create_task(self._drain(sig)))

    async def _drain(self, sig: int) -> None:
        decided("draining", {"signal": signal.Signals(sig).name, "seconds": self._drain_seconds})
        self._service.drain()
        # Load balancers see /readyz fail and send nobody any more before the port closes.
        await asyncio.sleep(self._drain_seconds)
        self.should_exit = True


def serve(
    folder: str,
    host: str = "127.0.0.1",
    port: int = 8460,
    limits: Limits | None = None,
    *,
    dim: int | None = None,
    drain_seconds: float = 1.0,
    log_level: str = "INFO",
) -> None:
    """Serve the coordinators of a folder until SIGINT or SIGTERM.

    Parameters
    ----------
    folder : str
        Where everything is kept; made if missing.
    host : str, default "127.0.0.1"
        Address to bind. Others than loopback need at least one token.
    port : int, default 8460
        0 lets the system choose; the log says which.
    limits : Limits, optional
    dim : int, optional
        Dimension of embeddings in new tenants; that of the first export if not given.
    drain_seconds : float, default 1.0
        Time between "no more exports" and the closing of the port.
    log_level : str, default "INFO"
        "DEBUG" also tells of each publication.

    Raises
    ------
    ConfigError
        If `host` is not loopback and no token exists.
    StoreError
        If the folder cannot be used, or another service uses it.
    """
    start_logging(log_level)
    tenants = Tenants(folder, Limits() if limits is None else limits, dim)
    if not is_loopback(host) and not tenants.tokens.required():
        raise ConfigError(
            f"`host` must be loopback as long as there is no token; got {host!r}. Make one with:"
            f" sona token create --store {folder} --tenant NAME"
        )
    sys.setswitchinterval(_SWITCH_SECONDS)
    service = Service(tenants)
    config = uvicorn.Config(
        service.app,
        host=host,
        port=port,
        log_config=None,
        access_log=False,
        server_header=False,
        lifespan="on",
        ws="none",
        timeout_keep_alive=30,
        timeout_graceful_shutdown=30,
    )
    _Server(config, service, drain_seconds).run()
    decided("stopped")

"""All tenants of one service folder, each opened once."""

from __future__ import annotations

import asyncio
import logging
import os
from pathlib import Path

from sona.service.folder import TENANTS, TOKENS, hold, tenants_of
from sona.service.limits import Limits
from sona.service.logs import decided
from sona.service.metrics import Metrics
from sona.service.school import School
from sona.service.telemetry import Telemetry
from sona.service.tenant import Tenant
from sona.service.tokens import TokenBook

__all__ = ["Tenants"]


class Tenants:
    """The tenants of one folder, each opened once.

    Parameters
    ----------
    folder : path_like
        Created if missing.
    limits : Limits
    dim : int, optional
        Dimension that a new tenant's embeddings must have; that of its first export if None.

    Raises
    ------
    StoreError
        If the folder cannot be used or another service uses it.
    """

    def __init__(
        self, folder: str | os.PathLike[str], limits: Limits, dim: int | None = None
    ) -> None:
        self.folder = Path(folder)
        self.limits = limits
        self.metrics = Metrics()
        self.telemetry = Telemetry()
        self._dim = dim
        self._school: School | None = None
        self._open: dict[str, asyncio.Task[Tenant]] = {}
        self._lock = hold(self.folder)
        self.tokens = TokenBook(self.folder / TOKENS)

    async def open_all(self) -> None:
        """Open every tenant that the folder holds."""
        names = tenants_of(self.folder)
        opened = await asyncio.gather(*map(self.get, names), return_exceptions=True)
        for name, result in zip(names, opened, strict=True):
            if isinstance(result, BaseException):  # the others are served all the same
                decided("not opened", {"tenant": name, "detail": str(result)}, logging.ERROR)

    async def get(self, name: str) -> Tenant:
        """Return a tenant, opening it when it is first asked for."""
        task = self._open.get(name)
        if task is None or (task.done() and (task.cancelled() or task.exception())):
            task = self._open[name] = asyncio.create_task(self._make(name))
        return await asyncio.shield(task)

    @property
    def opened(self) -> list[Tenant]:
        """The tenants that are open."""
        done = (t for t in self._open.values() if t.done() and not t.cancelled())
        return [task.result() for task in done if task.exception() is None]

    async def close(self) -> None:
        """Finish what was accepted and close all files."""
        if self._school is not None:
            await asyncio.get_running_loop().run_in_executor(None, self._school.close)
        for tenant in self.opened:
            await tenant.close()
        self.tokens.close()
        os.close(self._lock)

    async def _make(self, name: str) -> Tenant:
        if self._school is None:
            self._school = School(self.folder)
        tenant = Tenant(
            name,
            self.folder / TENANTS / name,
            self.limits,
            self.metrics,
            self.telemetry,
            self._school,
            self._dim,
        )
        await tenant.open()
        return tenant

"""The agent's side of the service, on the standard library alone."""

from __future__ import annotations

import http.client
import os
import random
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
import numpy as np

from sona import _core, state, wire
from sona.config import SonaConfig
from sona.errors import ConfigError, FormatError, ServiceError, SonaError
from sona.federated import AgentExport, EphemeralAgent, WarmStart
from sona.federated.spool import Spool
from sona.service.records import ExportReceipt, ProblemView, RouteAnswer
from sona.types import ArrayLike

__all__ = ["Client"]

# What may succeed a little later; everything else is the request's own fault.
_RETRIED = {408, 429, 500, 502, 503, 504}


class Client:
    """Sends what an agent learned, and fetches what the fleet knows.

    Parameters
    ----------
    url : str
        Where the service is, as in ``"http://127.0.0.1:8460"``.
    token : str, optional
        From ``sona token create``; not needed by a service on loopback without tokens.
    spool : path_like, optional
        Folder for exports that could not be sent and for the last warm start. With it,
        :meth:`send` never loses an export: what cannot be sent now goes with the next call.
    retries : int, default 4
        Further attempts of a request that may succeed later.
    timeout : float, default 30.0
        Seconds to wait for an answer.
    backoff : float, default 0.1
        Seconds before the first further attempt; doubled each time, drawn at random from half
        of it to all of it, so that a fleet does not come back as one.

    Notes
    -----
    Safe to use from several threads; requests of one client take turns on one connection.

    Examples
    --------
    >>> client = Client("http://127.0.0.1:8460")  # doctest: +SKIP
    >>> with client.agent("agent-1", hidden_dim=384) as agent:  # doctest: +SKIP
    ...     agent.process_trajectory(embedding, embedding, quality=0.9, route="small-model")
    """

    def __init__(
        self,
        url: str,
        token: str | None = None,
        spool: str | os.PathLike[str] | None = None,
        *,
        retries: int = 4,
        timeout: float = 30.0,
        backoff: float = 0.1,
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError(f"`url` must be http://HOST[:PORT] or https://...; got {url!r}")
        self._secure = parts.scheme == "https"
        self._host, self._port = parts.hostname, parts.port
        self._base = parts.path.rstrip("/")
        self._token = token
        self._retries = retries
        self._timeout = timeout
        self._backoff = backoff
        self._lock = threading.Lock()
        self._connection: http.client.HTTPConnection | None = None
        self._spool = None if spool is None else Spool(spool)
        self._cache = None if spool is None else Path(spool) / "warm-start.sona"
        self._warm: tuple[str, bytes] | None = None

    @contextmanager
    def agent(
        self, agent_id: str, config: SonaConfig | None = None, *, hidden_dim: int | None = None
    ) -> Iterator[EphemeralAgent]:
        """Run an agent: it starts warm if it can, and what it learned is sent when it ends.

        Parameters
        ----------
        agent_id : str
        config : SonaConfig, optional
            The ephemeral preset if not given.
        hidden_dim : int, optional
            Dimension for the preset, instead of `config`.

        Notes
        -----
        A service that cannot be reached makes a cold agent, not a failed one. What was learned
        is sent even when the block raises.
        """
        if config is None:
            config = SonaConfig.for_ephemeral(
                **({} if hidden_dim is None else {"hidden_dim": hidden_dim})
            )
        try:
            warm = self.warm_start()
        except (ServiceError, FormatError):
            warm = None
        agent = EphemeralAgent(agent_id, config, warm)
        try:
            yield agent
        finally:
            if agent.trajectory_count:
                self.send(agent.export_state())

    def send(self, export: AgentExport) -> ExportReceipt | None:
        """Send an export; what waits in the spool goes first.

        Returns
        -------
        ExportReceipt or None
            What became of it: it is committed. None if the service could not be reached and the
            export waits in the spool.

        Raises
        ------
        ServiceError
            If the service refused the export; or could not be reached and there is no spool.
        StoreError
            If it could not be spooled.
        """
        if self._spool is None:
            return self._post(export)
        # First on disk: an agent that is killed while it sends has lost nothing.
        self._spool.put(export)
        if not self._empty(self._spool, but=export):
            return None
        try:
            receipt = self._post(export)
        except ServiceError as error:
            if _may_pass(error):
                return None
            self._spool.set_aside(export, str(error))
            raise
        self._spool.discard(export)
        return receipt

    def flush(self) -> int:
        """Send what waits in the spool; returns how many exports still wait."""
        if self._spool is None:
            return 0
        self._empty(self._spool)
        return len(self._spool)

    def warm_start(self) -> WarmStart | None:
        """Fetch what a new agent starts with; None while the fleet has learned nothing.

        Asks with the name of the version that it has, so an unchanged one is not sent again.
        When the service cannot be reached, the last version serves.

        Raises
        ------
        ServiceError
            If the service cannot be reached and nothing was fetched before.
        """
        known = self._known()
        headers = {} if known is None else {"If-None-Match": known[0]}
        try:
            status, answer, body = self._request("GET", "/v1/warm-start", None, headers)
        except ServiceError as error:
            if error.status == 404:
                return None
            if known is None or error.status is not None:
                raise
            return WarmStart.from_bytes(known[1])
        if status == 304 and known is not None:
            return WarmStart.from_bytes(known[1])
        warm = WarmStart.from_bytes(body)
        self._warm = (answer["etag"], body)
        if self._cache is not None:
            state.write(self._cache, answer["etag"].encode() + b"\n" + body)
        return warm

    def route(
        self,
        embedding: ArrayLike,
        routes: Sequence[str] | None = None,
        costs: Mapping[str, float] | None = None,
        cost_weight: float = 0.0,
        explore: bool = False,
    ) -> RouteAnswer:
        """Let the service decide; see :meth:`SonaEngine.route` for the arguments.

        Raises
        ------
        ServiceError
            If it was refused or the service cannot be reached.
        """
        question = {
            "embedding": np.asarray(_core.as_vector(embedding, None, "embedding")).tolist(),
            "routes": None if routes is None else list(routes),
            "costs": None if costs is None else dict(costs),
            "cost_weight": cost_weight,
            "explore": explore,
        }
        _, _, body = self._request(
            "POST",
            "/v1/route",
            msgspec.json.encode(question),
            {"Content-Type": "application/json"},
        )
        return wire.decode_json(body, RouteAnswer)

    def close(self) -> None:
        """Close the connection; the next request opens a new one."""
        with self._lock:
            self._drop()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _empty(self, spool: Spool, but: AgentExport | None = None) -> bool:
        """Send what lies in the spool until one cannot be sent now; whether all could."""
        for export in spool:
            if export == but:
                continue
            try:
                self._post(export)
            except ServiceError as error:
                if _may_pass(error):
                    return False
                spool.set_aside(export, str(error))
            else:
                spool.discard(export)
        return True

    def _post(self, export: AgentExport) -> ExportReceipt:
        headers = {
            "Content-Type": "application/octet-stream",
            "Idempotency-Key": export.export_id,
        }
        if self._warm is not None:
            headers["Sona-Warm-Start"] = self._warm[0]
        _, _, body = self._request("POST", "/v1/exports", export.to_bytes(), headers)
        return wire.decode_json(body, ExportReceipt)

    def _known(self) -> tuple[str, bytes] | None:
        if self._warm is None and self._cache is not None and self._cache.exists():
            etag, _, body = self._cache.read_bytes().partition(b"\n")
            try:
                WarmStart.from_bytes(body)
            except SonaError:  # damaged on disk: fetch it anew
                return None
            self._warm = (etag.decode(), body)
        return self._warm

    def _request(
        self, method: str, path: str, body: bytes | None, headers: dict[str, str]
    ) -> tuple[int, dict[str, str], bytes]:
        if self._token is not None:
            headers = {**headers, "Authorization": f"Bearer {self._token}"}
        wait = self._backoff
        for attempt in range(self._retries + 1):
            if attempt:
                time.sleep(wait * random.uniform(0.5, 1.0))
                wait = min(2.0 * wait, 10.0)
            try:
                status, answer, data = self._exchange(method, path, body, headers)
            except (OSError, http.client.HTTPException) as failure:
                error = ServiceError(f"{method} {self._host}{path}: {failure!r}", None)
                continue
            if status < 400:
                return status, answer, data
            error = ServiceError(f"{method} {self._host}{path}: {_told(status, data)}", status)
            if status not in _RETRIED:
                raise error
            wait = max(wait, min(10.0, float(answer.get("retry-after", "0"))))
        raise error

    def _exchange(
        self, method: str, path: str, body: bytes | None, headers: dict[str, str]
    ) -> tuple[int, dict[str, str], bytes]:
        with self._lock:
            if self._connection is None:
                make = http.client.HTTPSConnection if self._secure else http.client.HTTPConnection
                self._connection = make(self._host, self._port, timeout=self._timeout)
            try:
                self._connection.request(method, self._base + path, body, headers)
                response = self._connection.getresponse()
                data = response.read()
            except BaseException:
                self._drop()  # what is left of this answer must not be read as the next one
                raise
            if response.will_close:
                self._drop()
            return response.status, {k.lower(): v for k, v in response.getheaders()}, data

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _may_pass(error: ServiceError) -> bool:
    """Whether an export may be taken later as it is: when the service is back or lets us in."""
    return error.status is None or error.status in _RETRIED or error.status in (401, 403)


def _told(status: int, data: bytes) -> str:
    try:
        problem = wire.decoder(ProblemView).decode(data)
    except msgspec.DecodeError:  # from something between us and the service
        return f"{status}"
    return f"{status} {problem.title}: {problem.detail}"

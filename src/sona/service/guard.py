"""Who gets in: tokens, the rate of each caller, and no web page that is not our own."""

from __future__ import annotations

import time
from urllib.parse import urlsplit

from starlette.requests import Request

from sona.service.limits import Limits, RateLimit
from sona.service.logs import decided
from sona.service.problems import ProblemError
from sona.service.tokens import Caller, TokenBook

__all__ = ["DEFAULT_TENANT", "Guard", "is_loopback"]

#: The tenant of a service without tokens.
DEFAULT_TENANT = "default"
_ANYBODY = Caller(DEFAULT_TENANT, None, "")
#: Requests that come together share a look into the tokens' file: for a look the interpreter is
#: let go, and whoever else computes has it first.
_FRESH_SECONDS = 0.001
#: Names of hosts that are remembered.
_HOSTS = 100
_LOCAL = ("localhost", "127.0.0.1", "::1")


class Guard:
    """Decides for each request who it comes from and whether it may come now."""

    def __init__(self, tokens: TokenBook, limits: Limits) -> None:
        self._tokens = tokens
        self._rate = RateLimit(limits.rate, limits.burst)
        self._local: dict[str, bool] = {}  # whether a Host names this machine
        self._callers: dict[str | None, Caller | None] = {}
        self._looked = 0.0

    def admit(self, request: Request) -> Caller:
        """Return the caller.

        Raises
        ------
        ProblemError
            401 without a valid token where one is needed, 403 from a foreign web page, 429 above
            the caller's rate.
        """
        self._check_origin(request)
        caller = self._caller(request)
        wait = self._rate.wait(caller.token_id)
        if wait > 0.0:
            decided("rate exceeded", {"tenant": caller.tenant, "token": caller.token_id})
            raise ProblemError(429, "too many requests for this token", retry_after=wait)
        return caller

    def _caller(self, request: Request) -> Caller:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme:
            caller = self._looked_up(token.strip()) if scheme.lower() == "bearer" else None
            if caller is None:
                decided("token refused", {"client": request.client.host if request.client else ""})
                raise ProblemError(401, "the token is not known or was revoked", "Authorization")
            return caller
        if self._looked_up(None) is None:
            raise ProblemError(401, "`Authorization: Bearer TOKEN` is needed", "Authorization")
        # Nobody else can reach a service without tokens, unless a browser is tricked into
        # resolving a foreign name to this machine.
        if not self._is_local(request):
            raise ProblemError(403, "without tokens, only local names reach this service", "Host")
        return _ANYBODY

    def _looked_up(self, token: str | None) -> Caller | None:
        """Return whose token it is; without one anybody, as long as there is no token."""
        now = time.monotonic()
        if now - self._looked > _FRESH_SECONDS:
            self._looked = now
            self._callers.clear()
        if token not in self._callers:
            if token is None:
                self._callers[token] = None if self._tokens.required() else _ANYBODY
            else:
                self._callers[token] = self._tokens.verify(token)
        return self._callers[token]

    def _is_local(self, request: Request) -> bool:
        host = request.headers.get("host", "")
        local = self._local.get(host)
        if local is None:
            local = is_loopback(request.url.hostname or "")
            if len(self._local) < _HOSTS:
                self._local[host] = local
        return local

    def _check_origin(self, request: Request) -> None:
        origin = request.headers.get("origin")
        if origin is not None and urlsplit(origin).netloc != request.headers.get("host"):
            raise ProblemError(403, f"pages of {origin!r} may not use this service", "Origin")


def is_loopback(host: str) -> bool:
    """Whether a name or address can be reached from this machine only."""
    return host in _LOCAL or (host.startswith("127.") and host.replace(".", "").isdigit())

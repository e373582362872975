"""The HTTP face of the service: who asks, how much, what for; everything else is the tenant's."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from importlib import resources
from typing import Any

import msgspec
from prometheus_client import Counter
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route, Router
from starlette.types import Receive, Scope, Send

from sona import wire
from sona.errors import SonaError
from sona.service.guard import Guard
from sona.service.knowledge import Knowledge, pattern_view
from sona.service.logs import decided
from sona.service.metrics import Metrics
from sona.service.openapi import document
from sona.service.overview import overview
from sona.service.problems import ProblemError, problem_of
from sona.service.records import AgentPage, Health, PatternPage, RouteQuestion
from sona.service.tenant import Tenant
from sona.service.tenants import Tenants

__all__ = ["Service"]

_Handler = Callable[[Request], Awaitable[Response]]

_JSON_BYTES = 2 * 2**20
_PAGE = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/charts.js": ("charts.js", "text/javascript; charset=utf-8"),
}
_PAGE_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:;"
        " connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}


class _Endpoint:
    """One path: its handler, and what every answer passes."""

    def __init__(
        self, path: str, handler: _Handler, methods: Sequence[str], metrics: Metrics
    ) -> None:
        self._path = path
        self._handler = handler
        self._methods = methods
        self._seconds = metrics.seconds.labels(path)
        self._requests = metrics.requests
        self._answered: dict[int, Counter] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = time.perf_counter()
        try:
            response = await self._answer(Request(scope, receive))
        except ProblemError as problem:
            response = _refuse(problem)
        except SonaError as error:
            response = _refuse(problem_of(error))
        except ClientDisconnect:
            response = _refuse(ProblemError(400, "the body ended before it was complete"))
        except Exception:
            decided("failed", {"path": self._path}, logging.ERROR)
            response = _refuse(ProblemError(500, "the service failed; its log says how"))
        self._seconds.observe(time.perf_counter() - started)
        answered = self._answered.get(response.status_code)
        if answered is None:
            answered = self._requests.labels(self._path, str(response.status_code))
            self._answered[response.status_code] = answered
        answered.inc()
        response.headers["x-content-type-options"] = "nosniff"
        await response(scope, receive, send)

    async def _answer(self, request: Request) -> Response:
        if request.method not in self._methods:
            problem = ProblemError(405, f"{request.method} {request.url.path}")
            response = _refuse(problem)
            response.headers["allow"] = ", ".join(self._methods)
            return response
        return await self._handler(request)


class Service:
    """The application: routes over :class:`Tenants`.

    Parameters
    ----------
    tenants : Tenants
        Closed when the application shuts down.

    Attributes
    ----------
    app : Router
        What an ASGI server runs.
    draining : bool
        Set through :meth:`drain`: exports are refused, readers are served until the end.
    """

    def __init__(self, tenants: Tenants) -> None:
        self.draining = False
        self._tenants = tenants
        self._metrics = tenants.metrics
        self._guard = Guard(tenants.tokens, tenants.limits)
        self._opening: asyncio.Task[None] | None = None
        self._question = wire.decoder(RouteQuestion)
        self._openapi = msgspec.json.encode(document())
        # A router alone: every answer, also a refusal, is made here, so the layers that Starlette
        # puts round an application would only take time.
        self.app = Router(
            [
                self._route("/v1/exports", self._exports, "POST"),
                self._route("/v1/warm-start", self._warm_start),
                self._route("/v1/route", self._decide, "POST"),
                self._route("/v1/patterns", self._patterns),
                self._route("/v1/agents", self._agents),
                self._route("/v1/overview", self._overview),
                self._route("/v1/events", self._events),
                self._route("/metrics", self._scrape),
                self._route("/healthz", self._healthz),
                self._route("/readyz", self._readyz),
                self._route("/openapi.json", self._describe),
                *(self._route(path, self._show) for path in _PAGE),
            ],
            redirect_slashes=False,
            default=_not_there,
            lifespan=self._lifespan,
        )

    def drain(self) -> None:
        """Refuse exports from now on and end the event streams."""
        self.draining = True
        self._metrics.draining.set(1)
        for tenant in self._tenants.opened:
            tenant.events.close()

    @asynccontextmanager
    async def _lifespan(self, app: Router) -> AsyncIterator[None]:
        # In the background: the port answers at once, and /readyz tells when stores are loaded.
        self._opening = asyncio.create_task(self._tenants.open_all())
        yield
        await asyncio.gather(self._opening, return_exceptions=True)
        await self._tenants.close()

    # Writing

    async def _exports(self, request: Request) -> Response:
        caller = self._guard.admit(request)
        if self.draining:
            raise ProblemError(503, "the service is shutting down", retry_after=5.0)
        key = _token_header(request, "idempotency-key")
        warm = _token_header(request, "sona-warm-start") is not None
        _check_media(request, "application/octet-stream")
        body = await self._body(request, self._tenants.limits.body_bytes)
        tenant = await self._tenants.get(caller.tenant)
        receipt = await tenant.take(body, caller, key, warm)
        return _answer(receipt, 200 if receipt.duplicate else 201)

    # Reading

    async def _warm_start(self, request: Request) -> Response:
        _, knowledge = await self._known(request)
        headers = {"etag": knowledge.etag, "cache-control": "private, no-cache"}
        asked = {tag.strip().removeprefix("W/") for tag in _if_none_match(request).split(",")}
        if knowledge.etag in asked or "*" in asked:
            self._metrics.warm_starts.labels("not modified").inc()
            return Response(status_code=304, headers=headers)
        self._metrics.warm_starts.labels("sent").inc()
        return Response(knowledge.message, headers=headers, media_type="application/octet-stream")

    async def _decide(self, request: Request) -> Response:
        tenant, knowledge = await self._known(request)
        _check_media(request, "application/json")
        body = await self._body(request, _JSON_BYTES)
        try:
            question = self._question.decode(body)
        except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
            raise ProblemError(422, f"malformed JSON: {error}", _path(str(error))) from None
        started = time.perf_counter()
        answer = knowledge.route(question)
        seconds = time.perf_counter() - started
        self._metrics.decision_seconds.observe(seconds)
        tenant.note_costs(question.costs)
        return _answer(answer, headers={"server-timing": f"decide;dur={1e3 * seconds:.3f}"})

    async def _patterns(self, request: Request) -> Response:
        tenant = await self._tenant(request)
        limit, offset = _page(request)
        knowledge = tenant.knowledge
        patterns = [] if knowledge is None else knowledge.patterns
        version = 0 if knowledge is None else knowledge.version
        shown = [pattern_view(pattern) for pattern in patterns[offset : offset + limit]]
        return _answer(PatternPage(len(patterns), offset, version, shown))

    async def _agents(self, request: Request) -> Response:
        tenant = await self._tenant(request)
        limit, offset = _page(request)
        agents = await tenant.agents()
        return _answer(AgentPage(len(agents), offset, agents[offset : offset + limit]))

    async def _overview(self, request: Request) -> Response:
        tenant = await self._tenant(request)
        await tenant.draw()
        return _answer(overview(tenant, self._status()))

    async def _events(self, request: Request) -> Response:
        tenant = await self._tenant(request)
        seen = request.headers.get("last-event-id", "")
        stream = tenant.events.watch(int(seen) if seen.isascii() and seen.isdigit() else None)
        return StreamingResponse(
            stream, headers={"cache-control": "no-store"}, media_type="text/event-stream"
        )

    async def _scrape(self, request: Request) -> Response:
        self._guard.admit(request)
        opened = self._tenants.opened
        known = [tenant.knowledge for tenant in opened if tenant.knowledge is not None]
        self._metrics.patterns.set(sum(len(knowledge.patterns) for knowledge in known))
        self._metrics.unlearned.set(sum(tenant.unlearned for tenant in opened))
        self._metrics.waiting.set(sum(tenant.waiting for tenant in opened))
        held = [tenant.history for tenant in opened if tenant.history is not None]
        self._metrics.agents.set(sum(history.totals.agents for history in held))
        return Response(self._metrics.text(), media_type="text/plain; version=0.0.4")

    async def _healthz(self, request: Request) -> Response:
        return _answer(Health("ok"))

    async def _readyz(self, request: Request) -> Response:
        status = self._status()
        return _answer(Health(status), 200 if status == "ready" else 503)

    async def _describe(self, request: Request) -> Response:
        return Response(self._openapi, media_type="application/json")

    async def _show(self, request: Request) -> Response:
        name, media = _PAGE[request.url.path]
        text = resources.files("sona.service").joinpath("page", name).read_bytes()
        return Response(text, media_type=media, headers=_PAGE_HEADERS)

    # What every request passes

    def _route(self, path: str, handler: _Handler, method: str = "GET") -> Route:
        methods = ("GET", "HEAD") if method == "GET" else (method,)
        return Route(path, _Endpoint(path, handler, methods, self._metrics))

    async def _tenant(self, request: Request) -> Tenant:
        return await self._tenants.get(self._guard.admit(request).tenant)

    async def _known(self, request: Request) -> tuple[Tenant, Knowledge]:
        tenant = await self._tenant(request)
        if tenant.knowledge is None:
            raise ProblemError(404, "nothing has been learned yet")
        return tenant, tenant.knowledge

    async def _body(self, request: Request, most: int) -> bytes:
        declared = request.headers.get("content-length", "0")
        too_large = ProblemError(413, f"the body must have at most {most} bytes", "body")
        if int(declared) > most:
            raise too_large
        parts: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout(self._tenants.limits.body_seconds):
                async for part in request.stream():
                    size += len(part)
                    if size > most:
                        raise too_large
                    parts.append(part)
        except TimeoutError:
            raise ProblemError(408, "the body did not arrive in time", "body") from None
        return b"".join(parts)

    def _status(self) -> str:
        if self.draining:
            return "draining"
        opening = self._opening
        if opening is None or not opening.done():
            return "loading"
        return "ready" if not opening.cancelled() and opening.exception() is None else "failed"


def _answer(view: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(msgspec.json.encode(view), status, headers, "application/json")


def _refuse(problem: ProblemError) -> Response:
    return Response(msgspec.json.encode(problem.view()), problem.status, problem.headers())


async def _not_there(scope: Scope, receive: Receive, send: Send) -> None:
    problem = ProblemError(404, f"{scope['method']} {scope['path']}")
    await _refuse(problem)(scope, receive, send)


def _token_header(request: Request, name: str) -> str | None:
    value = request.headers.get(name)
    if value is not None and not (
        0 < len(value) <= 255 and value.isascii() and value.isprintable() and " " not in value
    ):
        raise ProblemError(
            422, f"`{name}` must be 1 to 255 visible ASCII characters; got {value[:300]!r}", name
        )
    return value


def _if_none_match(request: Request) -> str:
    return request.headers.get("if-none-match", "")


def _check_media(request: Request, wanted: str) -> None:
    got = request.headers.get("content-type", wanted).partition(";")[0].strip().lower()
    if got != wanted:
        raise ProblemError(415, f"`Content-Type` must be {wanted}; got {got!r}", "Content-Type")


def _page(request: Request) -> tuple[int, int]:
    return _whole(request, "limit", 1, 1000, 100), _whole(request, "offset", 0, 10**9, 0)


def _whole(request: Request, name: str, low: int, high: int, default: int) -> int:
    values = request.query_params.getlist(name)
    if not values:
        return default
    text = values[0]
    if len(values) > 1 or not text.isascii() or not text.isdigit() or len(text) > 10:
        raise ProblemError(422, f"`{name}` must be one integer in [{low}, {high}]", name)
    if not low <= int(text) <= high:
        raise ProblemError(422, f"`{name}` must be in [{low}, {high}]; got {text}", name)
    return int(text)


def _path(message: str) -> str:
    # msgspec ends its messages with the place: ... - at `$.embedding[3]`
    _, found, place = message.rpartition("at `")
    return place.rstrip("`") if found else "$"

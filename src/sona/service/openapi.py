"""The OpenAPI document. Schemas come from the records, so document and answers cannot disagree."""

from __future__ import annotations

from typing import Any

import msgspec

from sona import __version__
from sona.service import records

__all__ = ["document"]

_BINARY = {"type": "string", "contentMediaType": "application/octet-stream"}
_ETAG = {"description": "Name of this version.", "schema": {"type": "string"}}


def document() -> dict[str, Any]:
    """Return the document as builtins, ready for JSON."""
    types = [getattr(records, name) for name in records.__all__]
    _, schemas = msgspec.json.schema_components(types, ref_template="#/components/schemas/{name}")
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "sona",
            "version": __version__,
            "description": "Takes in what agents learned, hands out what the fleet knows.",
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "components": {
            "schemas": schemas,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        # Without any token made, a service on loopback asks for none.
        "security": [{"token": []}, {}],
        "paths": {
            "/v1/exports": {"post": _exports()},
            "/v1/warm-start": {"get": _warm_start()},
            "/v1/route": {"post": _route()},
            "/v1/patterns": {"get": _page("patterns", "PatternPage")},
            "/v1/agents": {"get": _page("agents", "AgentPage")},
            "/v1/overview": {
                "get": {
                    "operationId": "overview",
                    "summary": "Everything that the page shows.",
                    "responses": _responses({200: _json("Overview")}, 401, 403, 429, 503),
                }
            },
            "/v1/events": {"get": _events()},
            "/metrics": {
                "get": {
                    "operationId": "metrics",
                    "summary": "Counters and gauges for Prometheus.",
                    "responses": _responses(
                        {200: _body("text/plain", {"type": "string"})}, 401, 403, 429
                    ),
                }
            },
            "/healthz": {"get": _health("healthz", "The process answers.")},
            "/readyz": {"get": _health("readyz", "The service takes requests.", 503)},
        },
    }


def _exports() -> dict[str, Any]:
    return {
        "operationId": "sendExport",
        "summary": "Take an export in; a 2xx answer comes after its commit.",
        "parameters": [
            _header(
                "Idempotency-Key",
                "The same key with another body is refused.",
                {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$"},
            ),
            _header(
                "Sona-Warm-Start",
                "ETag of the warm start that the agent began with, if any.",
                {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$"},
            ),
        ],
        "requestBody": {
            "required": True,
            "content": {"application/octet-stream": {"schema": _BINARY}},
        },
        "responses": _responses(
            {
                201: _json("ExportReceipt", "New; stored."),
                200: _json("ExportReceipt", "Stored before; nothing changed."),
            },
            *(401, 403, 408, 409, 413, 415, 422, 429, 503),
        ),
    }


def _warm_start() -> dict[str, Any]:
    fresh = _body("application/octet-stream", _BINARY)
    fresh["headers"] = {"ETag": _ETAG}
    return {
        "operationId": "warmStart",
        "summary": "What a new agent starts with.",
        "parameters": [_header("If-None-Match", "ETag that the caller has.", {"type": "string"})],
        "responses": _responses(
            {200: fresh, 304: {"description": "Nothing newer.", "headers": {"ETag": _ETAG}}},
            *(401, 403, 404, 429, 503),
        ),
    }


def _route() -> dict[str, Any]:
    return {
        "operationId": "route",
        "summary": "Choose a route for a query.",
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": _reference("RouteQuestion")}},
        },
        "responses": _responses(
            {200: _json("RouteAnswer")}, 401, 403, 404, 408, 413, 415, 422, 429, 503
        ),
    }


def _page(name: str, schema: str) -> dict[str, Any]:
    def whole(parameter: str, low: int, high: int, default: int) -> dict[str, Any]:
        bounds = {"type": "integer", "minimum": low, "maximum": high, "default": default}
        return {"name": parameter, "in": "query", "schema": bounds}

    return {
        "operationId": name,
        "summary": f"The {name}, a page at a time.",
        "parameters": [whole("limit", 1, 1000, 100), whole("offset", 0, 10**9, 0)],
        "responses": _responses({200: _json(schema)}, 401, 403, 422, 429, 503),
    }


def _events() -> dict[str, Any]:
    return {
        "operationId": "events",
        "summary": "News as server-sent events: export, consolidation, published, lagged.",
        "parameters": [
            _header("Last-Event-ID", "Number of the last event seen.", {"type": "string"})
        ],
        "responses": _responses(
            {200: _body("text/event-stream", {"type": "string"})}, 401, 403, 429, 503
        ),
    }


def _health(name: str, summary: str, *problems: int) -> dict[str, Any]:
    responses = {str(status): _json("Health") for status in (200, *problems)}
    return {"operationId": name, "summary": summary, "security": [{}], "responses": responses}


def _header(name: str, description: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "in": "header", "description": description, "schema": schema}


def _reference(schema: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{schema}"}


def _body(media: str, schema: dict[str, Any], description: str = "Done.") -> dict[str, Any]:
    return {"description": description, "content": {media: {"schema": schema}}}


def _json(schema: str, description: str = "Done.") -> dict[str, Any]:
    return _body("application/json", _reference(schema), description)


def _responses(good: dict[int, dict[str, Any]], *problems: int) -> dict[str, Any]:
    problem = _body("application/problem+json", _reference("ProblemView"), "Refused.")
    return {str(status): good.get(status, problem) for status in (*good, *problems)}

"""What was refused, said the same way everywhere: RFC 9457 problem documents."""

from __future__ import annotations

import re

from sona.errors import SonaError, StoreError
from sona.service.records import ProblemView

__all__ = ["ProblemError", "problem_of"]

_TITLES = {
    400: "Malformed request",
    401: "Token required",
    403: "Not yours",
    404: "Not there",
    405: "Method not allowed",
    408: "Too slow",
    409: "Key used before",
    413: "Too large",
    415: "Unsupported content",
    422: "Refused",
    429: "Too many requests",
    500: "Internal error",
    503: "Unavailable",
}
# Errors name the argument in backticks, malformed JSON its path.
_PLACE = re.compile(r"`(\$?[\w.\[\]]+)`|(\$[\w.\[\]]*)")


class ProblemError(Exception):
    """A request that is answered with an error.

    Parameters
    ----------
    status : int
        HTTP status.
    detail : str
        What was expected and what came.
    place : str, optional
        Which part of the request is at fault.
    retry_after : float, optional
        Seconds after which the same request may succeed.
    """

    def __init__(
        self, status: int, detail: str, place: str | None = None, retry_after: float | None = None
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.place = place
        self.retry_after = retry_after

    def view(self) -> ProblemView:
        """Return the document to send."""
        return ProblemView(_TITLES[self.status], self.status, self.detail, self.place)

    def headers(self) -> dict[str, str]:
        """Return the headers that go with it."""
        headers = {"content-type": "application/problem+json"}
        if self.retry_after is not None:
            headers["retry-after"] = str(max(1, round(self.retry_after)))
        if self.status == 401:
            headers["www-authenticate"] = 'Bearer realm="sona"'
        return headers


def problem_of(error: SonaError) -> ProblemError:
    """Return what a typed error means over HTTP: the store's fault (503) or the sender's (422)."""
    if isinstance(error, StoreError):
        return ProblemError(503, str(error), "store", retry_after=5.0)
    match = _PLACE.search(str(error))
    return ProblemError(422, str(error), (match[1] or match[2]) if match else "body")

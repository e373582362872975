"""OpenTelemetry, where it is installed (extra ``otel``): spans, and the GenAI evaluation event.

Only the API is used; whoever runs the service chooses where it goes, for example with
``opentelemetry-instrument sona serve``. Without the API everything here does nothing; spans are
made only where somebody has chosen before the service starts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

__all__ = ["Telemetry"]

#: Name and attributes of the semantic conventions for generative AI.
_EVENT = "gen_ai.evaluation.result"
_EVALUATION = "sona.quality"


class Telemetry:
    """The door to OpenTelemetry; made once per service."""

    def __init__(self) -> None:
        try:
            from opentelemetry import _logs, trace
        except ImportError:
            self._tracer: Any = None
            self._logger: Any = None
            return
        # Where nobody has set tracing up, every span would be made for nothing.
        traced = not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)
        self._tracer = trace.get_tracer("sona.service") if traced else None
        self._logger = _logs.get_logger("sona.service")

    @contextmanager
    def span(self, name: str, **attributes: Any) -> Iterator[Any]:
        """Run a block within a span; yields the span, or None without OpenTelemetry."""
        if self._tracer is None:
            yield None
            return
        named = {f"sona.{key}": value for key, value in attributes.items() if value is not None}
        with self._tracer.start_as_current_span(name, attributes=named) as span:
            yield span

    def evaluated(
        self, agent: str, routes: Mapping[str, tuple[int, float]], threshold: float
    ) -> None:
        """Emit one evaluation event per route of an export: the mean quality that was observed.

        Parameters
        ----------
        agent : str
            Whose outcomes they are.
        routes : mapping of str to (int, float)
            Number of outcomes and sum of their quality.
        threshold : float
            Quality from which the label is ``pass``.
        """
        if self._logger is None:
            return
        for route, (count, total) in routes.items():
            mean = total / count
            self._logger.emit(
                event_name=_EVENT,
                attributes={
                    "gen_ai.evaluation.name": _EVALUATION,
                    "gen_ai.evaluation.score.value": mean,
                    "gen_ai.evaluation.score.label": "pass" if mean >= threshold else "fail",
                    "gen_ai.request.model": route,
                    "gen_ai.agent.id": agent,
                    "sona.evaluation.count": count,
                },
            )

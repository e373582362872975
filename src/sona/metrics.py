"""The figures of an engine or a coordinator, as a dict and for Prometheus.

One list of measurements stands behind both forms, so they cannot disagree.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, NamedTuple

from sona.engine import SonaEngine
from sona.errors import DTypeError, MissingExtraError
from sona.federated import EphemeralAgent, FederatedCoordinator

if TYPE_CHECKING:
    from prometheus_client import Metric

__all__ = ["MetricsCollector", "metrics_dict", "prometheus_text"]

#: What can be measured.
Subject = SonaEngine | EphemeralAgent | FederatedCoordinator


class _Measurement(NamedTuple):
    """One metric: its values by the value of its label, or under "" where it has none."""

    name: str
    meaning: str
    values: dict[str, float]
    label: str = ""
    counter: bool = False


def metrics_dict(subject: Subject) -> dict[str, float | dict[str, float]]:
    """Return every figure under its Prometheus name.

    Parameters
    ----------
    subject : SonaEngine, EphemeralAgent or FederatedCoordinator
        A coordinator reports on its fleet and on its master engine.

    Returns
    -------
    dict
        A number, or numbers by label: route, result of an export, quantile.

    Examples
    --------
    >>> from sona.federated import EphemeralAgent
    >>> from sona.metrics import metrics_dict
    >>> agent = EphemeralAgent.default_federated("agent-1", hidden_dim=2)
    >>> agent.process_trajectory([1, 0], [1, 0], 0.75, route="small")
    >>> figures = metrics_dict(agent)
    >>> figures["sona_trajectories_seen_total"], figures["sona_route_quality"]
    (1, {'small': 0.75})
    """
    return {m.name: m.values if m.label else m.values[""] for m in _measure(subject)}


def prometheus_text(subject: Subject, labels: Mapping[str, str] | None = None) -> str:
    """Return every figure in Prometheus' text format, ready for a ``/metrics`` answer.

    Parameters
    ----------
    subject : SonaEngine, EphemeralAgent or FederatedCoordinator
    labels : mapping of str to str, optional
        Put on every sample, for example ``{"tenant": "blue"}``.

    Raises
    ------
    MissingExtraError
        If prometheus-client is not installed.
    """
    collector = MetricsCollector(subject, labels)
    from prometheus_client import CollectorRegistry, generate_latest

    registry = CollectorRegistry(auto_describe=False)
    registry.register(collector)
    return generate_latest(registry).decode()


class MetricsCollector:
    """Feeds a prometheus-client registry: figures are taken when they are asked for.

    Parameters
    ----------
    subject : SonaEngine, EphemeralAgent or FederatedCoordinator
    labels : mapping of str to str, optional
        Put on every sample; needed where several subjects share a registry.

    Raises
    ------
    MissingExtraError
        If prometheus-client is not installed.

    Examples
    --------
    >>> from prometheus_client import CollectorRegistry
    >>> from sona import SonaConfig, SonaEngine
    >>> from sona.metrics import MetricsCollector
    >>> registry = CollectorRegistry()
    >>> registry.register(MetricsCollector(SonaEngine(SonaConfig(hidden_dim=2))))
    >>> registry.get_sample_value("sona_patterns")
    0
    """

    def __init__(self, subject: Subject, labels: Mapping[str, str] | None = None) -> None:
        try:
            import prometheus_client  # noqa: F401
        except ImportError:
            raise MissingExtraError(
                "Prometheus metrics need prometheus-client; install it with:"
                " pip install 'sona[prometheus]'"
            ) from None
        self._subject = subject
        self._labels = dict(labels or {})

    def collect(self) -> Iterator[Metric]:
        """Yield the figures as metric families; called by the registry."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        constant = list(self._labels.values())
        for measured in _measure(self._subject):
            family = CounterMetricFamily if measured.counter else GaugeMetricFamily
            names = [*self._labels, *([measured.label] if measured.label else [])]
            metric = family(measured.name, measured.meaning, labels=names)
            for key, value in measured.values.items():
                metric.add_metric([*constant, *([key] if measured.label else [])], value)
            yield metric


def _measure(subject: Subject) -> Iterator[_Measurement]:
    if isinstance(subject, SonaEngine):
        yield from _engine(subject)
    elif isinstance(subject, EphemeralAgent):
        yield from _engine(subject.engine)
    elif isinstance(subject, FederatedCoordinator):
        yield from _coordinator(subject)
        yield from _engine(subject.master_engine)
    else:
        raise DTypeError(
            "`subject` must be a SonaEngine, an EphemeralAgent or a FederatedCoordinator;"
            f" got {type(subject).__name__}"
        )


def _engine(engine: SonaEngine) -> Iterator[_Measurement]:
    stats = engine.stats()
    yield _count("sona_trajectories_seen", "Trajectories recorded.", stats.trajectories_seen)
    yield _count(
        "sona_trajectories_accepted",
        "Trajectories at or above the quality threshold.",
        stats.trajectories_accepted,
    )
    yield _count(
        "sona_trajectories_dropped",
        "Trajectories that newer ones pushed out of memory.",
        stats.trajectories_dropped,
    )
    yield _count("sona_instant_updates", "Micro-LoRA steps taken.", stats.instant_updates)
    yield _count("sona_background_cycles", "Background cycles run.", stats.background_cycles)
    yield _gauge("sona_trajectories_buffered", "Remembered singly.", stats.trajectories_buffered)
    yield _gauge(
        "sona_trajectories_pending",
        "Not yet seen by the background loop.",
        stats.trajectories_pending,
    )
    yield _gauge("sona_patterns", "Patterns in the bank.", stats.patterns_stored)
    yield _gauge("sona_quality", "Mean quality of everything recorded.", stats.avg_quality)
    routes = stats.routes
    outcomes = {route: entry.count for route, entry in routes.items()}
    quality = {route: entry.mean for route, entry in routes.items()}
    yield _Measurement("sona_route_outcomes", "Outcomes by route.", outcomes, "route")
    yield _Measurement("sona_route_quality", "Mean quality by route.", quality, "route")


def _coordinator(coordinator: FederatedCoordinator) -> Iterator[_Measurement]:
    metrics = coordinator.metrics
    exports: dict[str, float] = {
        "aggregated": metrics.exports_aggregated,
        "duplicate": metrics.exports_duplicate,
        "refused": metrics.exports_refused,
    }
    yield _Measurement(
        "sona_exports_total", "What became of exports.", exports, "result", counter=True
    )
    yield _count("sona_consolidations", "Consolidations run.", metrics.consolidations)
    yield _gauge("sona_agents", "Distinct agents heard of.", coordinator.agent_count)
    yield _gauge(
        "sona_trajectories_held", "Well-formed trajectories held.", metrics.trajectories_held
    )
    spread = {
        "0.05": metrics.quality_p05,
        "0.5": metrics.quality_p50,
        "0.95": metrics.quality_p95,
    }
    yield _Measurement("sona_quality_quantile", "Quality of what is held.", spread, "quantile")


def _count(name: str, meaning: str, value: float) -> _Measurement:
    return _Measurement(f"{name}_total", meaning, {"": value}, counter=True)


def _gauge(name: str, meaning: str, value: float) -> _Measurement:
    return _Measurement(name, meaning, {"": value})

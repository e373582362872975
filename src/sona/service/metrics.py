"""What Prometheus reads. No label carries a tenant, an agent or anything else a sender chose."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

__all__ = ["Metrics"]

_SECONDS = (1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10)


class Metrics:
    """The service's counters, gauges and histograms, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.requests = Counter(
            "sona_http_requests", "Answered requests.", ["path", "status"], registry=registry
        )
        self.seconds = Histogram(
            "sona_http_request_seconds",
            "From the first byte of a request to its answer.",
            ["path"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.decision_seconds = Histogram(
            "sona_route_decision_seconds",
            "Part of a route request that the decision itself takes.",
            buckets=_SECONDS,
            registry=registry,
        )
        self.exports = Counter(
            "sona_exports", "Exports, by what became of them.", ["result"], registry=registry
        )
        self.trajectories = Counter(
            "sona_trajectories",
            "Trajectories of new exports, by what became of them.",
            ["result"],
            registry=registry,
        )
        # What every export counts; to look a label up takes longer than to count.
        self.exports_new = self.exports.labels("new")
        self.accepted = self.trajectories.labels("accepted")
        self.not_accepted = self.trajectories.labels("rejected")
        self.rejected = Counter(
            "sona_trajectories_rejected_reasons",
            "Rejected trajectories, by reason.",
            ["reason"],
            registry=registry,
        )
        self.warm_starts = Counter(
            "sona_warm_starts", "Warm starts handed out.", ["result"], registry=registry
        )
        self.consolidations = Counter(
            "sona_consolidations", "Times that everything was learned anew.", registry=registry
        )
        self.publications = Histogram(
            "sona_publication_seconds",
            "Time to publish what was learned.",
            buckets=_SECONDS,
            registry=registry,
        )
        self.patterns = Gauge("sona_patterns", "Patterns, over all tenants.", registry=registry)
        self.agents = Gauge("sona_agents", "Distinct agents, over all tenants.", registry=registry)
        self.waiting = Gauge(
            "sona_exports_waiting", "Exports that wait for their commit.", registry=registry
        )
        self.unlearned = Gauge(
            "sona_exports_unlearned", "Exports committed and not learned yet.", registry=registry
        )
        self.draining = Gauge("sona_draining", "1 while shutting down.", registry=registry)

    def text(self) -> bytes:
        """Return everything in Prometheus's text format."""
        return bytes(generate_latest(self.registry))

"""Figures: a dict and a Prometheus scrape that real parsers read, from one source."""

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from sona.federated import EphemeralAgent, FederatedCoordinator
from sona.metrics import MetricsCollector, metrics_dict, prometheus_text


@pytest.fixture
def coordinator():
    coordinator = FederatedCoordinator.default_coordinator("c", hidden_dim=3)
    agent = EphemeralAgent.default_federated("agent-1", hidden_dim=3)
    for quality, route in ((0.9, "small"), (0.7, "small"), (0.1, 'odd "route"\n')):
        agent.process_trajectory([1, 0, 0], [1, 0, 0], quality, route)
    export = agent.export_state()
    coordinator.aggregate(export)
    coordinator.aggregate(export)
    return coordinator


def samples(text):
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_the_dict_holds_what_happened(coordinator):
    figures = metrics_dict(coordinator)
    assert figures["sona_exports_total"] == {"aggregated": 1, "duplicate": 1, "refused": 0}
    assert figures["sona_agents"] == 1
    assert figures["sona_trajectories_seen_total"] == 3
    assert figures["sona_trajectories_accepted_total"] == 2
    assert figures["sona_route_outcomes"]["small"] == 2
    assert figures["sona_route_quality"]["small"] == pytest.approx(0.8)


def test_both_forms_say_the_same(coordinator):
    flat = {}
    for name, value in metrics_dict(coordinator).items():
        for key, number in value.items() if isinstance(value, dict) else [("", value)]:
            flat[name, key] = number
    scraped = {
        (name, next(iter(dict(labels).values()), "")): value
        for (name, labels), value in samples(prometheus_text(coordinator)).items()
    }
    assert scraped == flat


def test_subjects_share_a_registry_under_labels_and_are_read_when_asked(coordinator):
    registry = CollectorRegistry(auto_describe=False)
    agent = EphemeralAgent.default_federated("agent-2", hidden_dim=3)
    registry.register(MetricsCollector(coordinator.master_engine, {"who": "fleet"}))
    registry.register(MetricsCollector(agent, {"who": "agent"}))
    name = "sona_trajectories_seen_total"
    assert registry.get_sample_value(name, {"who": "fleet"}) == 3
    assert registry.get_sample_value(name, {"who": "agent"}) == 0
    agent.process_trajectory([1, 0, 0], [1, 0, 0], 0.5, "small")
    assert registry.get_sample_value(name, {"who": "agent"}) == 1


def test_other_subjects_are_refused():
    with pytest.raises(TypeError, match="subject"):
        metrics_dict("engine")

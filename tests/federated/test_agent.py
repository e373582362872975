"""Agents: they learn, export themselves, and start warm."""

import numpy as np
import pytest

from sona import SonaConfig
from sona.errors import FormatError, NonFiniteError, RangeError, ShapeError
from sona.federated import EphemeralAgent, FederatedCoordinator, WarmStart

DIM = 16
CONFIG = SonaConfig.for_ephemeral(hidden_dim=DIM)


def topic(rng, axis, n):
    return (np.eye(DIM)[axis] + 0.2 * rng.standard_normal((n, DIM))).astype(np.float32)


def experienced(rng, name="agent-1", n=40):
    """An agent for which route "a" works on topic 0 and route "b" on topic 1."""
    agent = EphemeralAgent(name, CONFIG)
    for axis, right, wrong in ((0, "a", "b"), (1, "b", "a")):
        for x in topic(rng, axis, n):
            agent.process_trajectory(x, x, 1.0, right)
            agent.process_trajectory(x, x, 0.0, wrong)
    return agent


def warm_start_of(agent):
    coord = FederatedCoordinator("coord", SonaConfig.for_coordinator(hidden_dim=DIM))
    coord.aggregate(agent.export_state())
    coord.force_consolidate()
    return coord.warm_start()


def hits(agent, rng):
    tests = [(x, right) for axis, right in ((0, "a"), (1, "b")) for x in topic(rng, axis, 25)]
    return np.mean([agent.route(x, ["a", "b"]).route == right for x, right in tests])


def test_a_warm_start_changes_the_first_decisions(rng):
    warm = warm_start_of(experienced(rng))
    cold = EphemeralAgent("cold", CONFIG)
    started = EphemeralAgent("warm", CONFIG, warm_start=WarmStart.from_bytes(warm.to_bytes()))
    assert hits(cold, rng) < 0.8
    assert hits(started, rng) > 0.95


def test_a_warm_agent_still_learns(rng):
    agent = EphemeralAgent("warm", CONFIG, warm_start_of(experienced(rng)))
    for x in topic(rng, 0, 150):
        agent.process_trajectory(x, x, 0.0, "a")
        agent.process_trajectory(x, x, 1.0, "b")
    assert agent.route(topic(rng, 0, 1)[0], ["a", "b"]).route == "b"


def test_a_warm_agent_exports_only_its_own(rng):
    agent = EphemeralAgent("warm", CONFIG, warm_start_of(experienced(rng)))
    x = topic(rng, 0, 1)[0]
    agent.process_trajectory(x, x, 1.0, "a")
    export = agent.export_state()
    assert len(export.trajectories) == agent.trajectory_count == 1


def test_exports_of_a_session_share_its_identity(rng):
    agent = EphemeralAgent("agent", CONFIG)
    first = agent.export_state()
    agent.process_trajectory(topic(rng, 0, 1)[0], np.zeros(DIM), 0.5)
    second = agent.export_state()
    assert first.session == second.session
    assert second.order > first.order


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((np.zeros(DIM - 1), np.zeros(DIM), 0.5), ShapeError, r"`embedding`.*\(16,\); got \(15,\)"),
        ((np.zeros(DIM), np.zeros(DIM + 1), 0.5), ShapeError, "`activations`"),
        ((np.full(DIM, np.nan), np.zeros(DIM), 0.5), NonFiniteError, "`embedding`"),
        ((np.zeros(DIM), np.zeros(DIM), 7.0), RangeError, "7"),
        ((np.zeros(DIM), np.zeros(DIM), np.nan), NonFiniteError, "nan"),
        ((np.zeros(DIM), np.zeros(DIM), 0.5, ""), RangeError, "`route`"),
    ],
)
def test_bad_input_is_refused_and_nothing_is_recorded(rng, arguments, error, message):
    agent = experienced(rng, n=3)
    before = agent.engine.to_bytes()
    with pytest.raises(error, match=message):
        agent.process_trajectory(*arguments)
    assert agent.trajectory_count == 12
    assert agent.engine.to_bytes() == before


def test_a_switched_off_agent_records_nothing(rng):
    agent = EphemeralAgent("agent", CONFIG)
    agent.engine.enabled = False
    agent.process_trajectory(np.ones(DIM), np.ones(DIM), 0.5)
    assert agent.trajectory_count == 0


def test_a_warm_start_for_another_dimension_is_refused(rng):
    warm = warm_start_of(experienced(rng))
    with pytest.raises(ShapeError, match="`warm_start`"):
        EphemeralAgent("agent", SonaConfig.for_ephemeral(hidden_dim=DIM + 1), warm)


def test_a_damaged_warm_start_is_refused(rng):
    data = bytearray(warm_start_of(experienced(rng)).to_bytes())
    data[len(data) // 2] ^= 1
    with pytest.raises(FormatError):
        WarmStart.from_bytes(bytes(data))

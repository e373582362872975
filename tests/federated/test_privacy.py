"""Private exports: what is noised and by how much, what is stated, what is refused."""

import math
import sys

import numpy as np
import pytest
from dp_accounting import GaussianDpEvent, rdp
from hypothesis import given
from hypothesis import strategies as st

from sona import SonaConfig
from sona.errors import MissingExtraError, RangeError, ShapeError
from sona.federated import AgentExport, EphemeralAgent, FederatedCoordinator, Privacy

DIM = 6
AXES = np.eye(DIM, dtype=np.float32)
ROUTES = ("small", "large")


def private(noise_multiplier=1.0, **kwargs):
    return Privacy(AXES, ROUTES, noise_multiplier=noise_multiplier, **kwargs)


def agent(privacy, outcomes=()):
    made = EphemeralAgent.default_federated("a", DIM, privacy=privacy)
    for cell, route, quality in outcomes:
        made.process_trajectory(AXES[cell], AXES[cell], quality, route)
    return made


def released(privacy, n, quality=1.0):
    """Counts and sums of quality - 1/2 of one cell with `n` outcomes, read back from a release."""
    embeddings = np.repeat(AXES[:1], n, axis=0)
    sketch = privacy.release(embeddings, ["small"] * n, np.full(n, quality))
    count = float(sketch.counts[0, 0])
    return count, count * (float(sketch.means[0, 0]) - 0.5)


@pytest.mark.parametrize(
    ("privacy", "deviation"),
    [(private(2.0), 2.0 * 1.25**0.5), (private(0.05, unit="agent", clip=40.0), 2.0)],
)
def test_noise_has_the_stated_scale(privacy, deviation):
    assert privacy.noise == pytest.approx(deviation)
    n = 400
    told = np.array([n, n / 4])  # counts, and sums of quality - 1/2
    if privacy.clip is not None:  # a longer session is scaled down to it, counts and sums alike
        told *= privacy.clip / np.linalg.norm(told)
    draws = np.array([released(privacy, n, 0.75) for _ in range(400)])
    assert draws.mean(axis=0) == pytest.approx(told, abs=5 * deviation / 400**0.5)
    assert draws.std(axis=0) == pytest.approx([deviation, deviation], rel=0.2)


@given(
    st.lists(
        st.tuples(st.integers(0, DIM - 1), st.sampled_from(ROUTES), st.floats(0, 1)), max_size=30
    ),
    st.tuples(st.integers(0, DIM - 1), st.sampled_from(ROUTES), st.floats(0, 1)),
)
def test_one_more_trajectory_changes_no_more_than_the_sensitivity(session, extra):
    privacy = private(1e-3)  # nearly without noise, to see what it is put on
    apart = totals(privacy, [*session, extra]) - totals(privacy, session)
    assert np.linalg.norm(apart) <= privacy.sensitivity + 0.03


def totals(privacy, rows):
    """Counts, and sums of quality - 1/2, read back from a release."""
    cells = AXES[[cell for cell, *_ in rows]]
    quality = np.array([quality for *_, quality in rows], np.float64)
    sketch = privacy.release(cells, [route for _, route, _ in rows], quality)
    counts = sketch.counts.astype(np.float64)
    return np.stack([counts, counts * (sketch.means - 0.5)])


def test_epsilon_is_the_librarys_and_grows_with_every_export():
    made = agent(private(1.5, delta=1e-6), [(0, "small", 0.9)])
    assert made.privacy_spent == (0.0, 0.0)
    for exports in (1, 2, 3):
        made.export_state()
        accountant = rdp.RdpAccountant()
        accountant.compose(GaussianDpEvent(1.5), exports)
        assert made.privacy_spent == (pytest.approx(accountant.get_epsilon(1e-6)), 1e-6)
    open_agent = agent(None, [(0, "small", 0.9)])
    open_agent.export_state(compact=True)
    assert open_agent.privacy_spent == (math.inf, 0.0)


def test_without_the_library_exports_work_and_epsilon_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "dp_accounting", None)
    made = agent(private(), [(0, "small", 0.9)])
    made.export_state()
    with pytest.raises(MissingExtraError, match=r"sona\[privacy\]"):
        _ = made.privacy_spent


def test_nothing_but_noised_figures_leaves():
    outcomes = [(cell, "small", 0.9) for cell in range(3) for _ in range(40)]
    made = agent(private(1.0), outcomes)
    export = made.export_state()
    assert AgentExport.from_bytes(export.to_bytes()) == export
    assert len(export.trajectories) == 0
    assert export.stats.total_trajectories == export.rows == int(export.sketch.counts.sum())
    assert export.stats.patterns_learned == 0
    # A session without a request says as much: there are noised counts of nothing.
    assert agent(private()).export_state().sketch is not None
    seen = {agent(private(), outcomes).export_state().rows for _ in range(8)}
    assert len(seen) > 1


def test_a_fleet_learns_from_private_exports():
    coord = FederatedCoordinator("c", SonaConfig.for_coordinator(hidden_dim=DIM))
    for name in range(12):
        made = EphemeralAgent.default_federated(f"agent-{name}", DIM, privacy=private(2.0))
        for i in range(80):
            cell, route = i % 2, ROUTES[i // 2 % 2]
            made.process_trajectory(
                AXES[cell], AXES[cell], 0.8 if ROUTES[cell] == route else 0.2, route
            )
        coord.aggregate(made.export_state())
    coord.force_consolidate()
    assert [coord.route(AXES[cell]).route for cell in (0, 1)] == ["small", "large"]


def test_what_would_break_the_promise_is_refused():
    made = agent(private(), [(0, "small", 0.9)])
    with pytest.raises(RangeError, match="`compact`"):
        made.export_state(compact=False)
    for route in ("huge", None):
        with pytest.raises(RangeError, match="`route`"):
            made.process_trajectory(AXES[0], AXES[0], 0.5, route)
    assert made.trajectory_count == 1
    assert made.privacy_spent == (0.0, 0.0)
    with pytest.raises(ShapeError, match="`privacy`"):
        EphemeralAgent.default_federated("a", DIM + 1, privacy=private())


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({"noise_multiplier": 0.0}, "noise_multiplier"),
        ({"delta": 0.0}, "delta"),
        ({"delta": 0.5}, "delta"),
        ({"unit": "request"}, "unit"),
        ({"unit": "agent"}, "clip"),
        ({"clip": 3.0}, "clip"),
        ({"unit": "agent", "clip": 0.0}, "clip"),
        ({"routes": ()}, "routes"),
        ({"routes": ("a", "a")}, "routes"),
    ],
)
def test_settings_are_checked(given, match):
    settings = {"cells": AXES, "routes": ROUTES, "noise_multiplier": 1.0} | given
    with pytest.raises(RangeError, match=match):
        Privacy(**settings)

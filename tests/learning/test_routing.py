"""Decisions: evidence near the query, costs, exploration, drift, saving."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sona.errors import RangeError
from sona.learning.levels import Levels
from sona.learning.routing import Router
from sona.learning.sketch import sketch

DIM = 16


def directions(rng, n, dim=DIM):
    x = rng.standard_normal((n, dim)).astype(np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def near(rng, centre, n, spread=0.1):
    x = centre + spread * rng.standard_normal((n, len(centre))).astype(np.float32)
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def world(rng, n, random_log=True):
    """Two regions; route a works in the first, b in the second, each 0.9 against 0.2."""
    centres = np.eye(2, DIM, dtype=np.float32)
    log = []
    for _ in range(n):
        region = int(rng.integers(2))
        x = near(rng, centres[region], 1)[0]
        route = int(rng.integers(2)) if random_log else region
        log.append((x, "ab"[route], float(rng.random() < (0.9 if route == region else 0.2))))
    return centres, log


def fill(router, log):
    for x, route, quality in log:
        router.observe(x, route, quality)
    return router


@pytest.mark.parametrize("learn", [False, True])
def test_sends_each_query_where_it_does_well(rng, learn):
    centres, log = world(rng, 400)
    router = fill(Router(DIM), log)
    if learn:
        router.learn()
    for region in range(2):
        decided = [router.decide(x).route for x in near(rng, centres[region], 50)]
        assert decided.count("ab"[region]) >= 48


def test_an_outcome_acts_on_the_next_decision(rng):
    x = directions(rng, 1)[0]
    router = Router(DIM)
    router.observe(x, "a", 0.0)
    assert router.decide(x, ["a", "b"]).route == "b"


@pytest.mark.parametrize("learn", [False, True])
@pytest.mark.parametrize("each", [1, 5, 40])
def test_tried_here_beats_never_tried_here_when_everything_succeeded(rng, learn, each):
    centres = np.eye(6, DIM, dtype=np.float32)
    router = Router(DIM)
    for i, centre in enumerate(centres):
        for x in near(rng, centre, each):
            router.observe(x, f"r{i}", 1.0)
    if learn:
        router.learn()
    for i, centre in enumerate(centres):
        for x in near(rng, centre, 10):
            choice = router.decide(x)
            assert choice.route == f"r{i}"


def test_failures_count(rng):
    centres, log = world(rng, 600)
    kept = [row for row in log if row[2] > 0.5]
    seen, blind = (fill(Router(DIM), rows) for rows in (log, kept))
    seen.learn()
    blind.learn()
    x = centres[0]
    a, b = (router.decide(x).expected for router in (seen, blind))
    assert a["a"] - a["b"] > 0.4 > b["a"] - b["b"]


def test_shuffled_outcomes_show_nothing(rng):
    _, log = world(rng, 1_000)
    quality = rng.permutation([row[2] for row in log])
    router = fill(
        Router(DIM), [(x, r, float(q)) for (x, r, _), q in zip(log, quality, strict=True)]
    )
    router.learn()
    gaps = [np.ptp(router.expect(x)[0]) for x in directions(rng, 100)]
    assert np.mean(gaps) < 0.1


def test_costs_decide_between_equals_and_have_one_knob(rng):
    router = Router(DIM)
    for x in directions(rng, 400):
        for route, quality in (("cheap", 0.7), ("dear", 0.8)):
            router.observe(x, route, float(rng.random() < quality))
    router.learn()
    x = directions(rng, 1)[0]
    costs = {"cheap": 0.1, "dear": 1.0}
    assert router.decide(x, costs=costs).route == "dear"
    assert router.decide(x, costs=costs, cost_weight=1.0).route == "cheap"


def test_uncertainty_falls_with_evidence_and_is_wide_where_there_is_none(rng):
    router = Router(DIM)
    x = directions(rng, 1)[0]
    router.observe(x, "a", 1.0)
    few = router.decide(x, ["a", "new"]).uncertainty
    for y in directions(rng, 600):
        router.observe(y, "ab"[int(rng.integers(2))], float(rng.random() < 0.5))
    router.learn()
    many = router.decide(x, ["a", "new"]).uncertainty
    assert many["a"] < few["a"] < few["new"]
    assert many["a"] < 0.1


def test_exploration_tries_what_is_uncertain_and_says_so(rng):
    _, log = world(rng, 300)
    router = fill(Router(DIM, seed=3), log)
    x = directions(rng, 1)[0]
    plain = {router.decide(x, ["a", "b", "new"]).explored for _ in range(20)}
    choices = [router.decide(x, ["a", "b", "new"], explore=True) for _ in range(100)]
    assert plain == {False}
    assert {"new"} < {choice.route for choice in choices}
    assert any(choice.explored for choice in choices)


def test_leaves_a_route_that_turned_bad_within_sixty_requests(rng):
    router = Router(DIM)
    quality = {"a": 0.9, "b": 0.6}
    chosen = []
    for step in range(1_200):
        if step == 1_000:
            router.learn()
            quality["a"] = 0.2
        x = directions(rng, 1)[0]
        route = "ab"[step % 2] if step < 1_000 else router.decide(x).route
        router.observe(x, route, float(rng.random() < quality[route]))
        chosen.append(route)
    assert chosen[1_060:].count("b") >= 0.9 * 140


def test_steady_outcomes_raise_no_alarm(rng):
    levels = Levels()
    levels.grow(1)
    outcomes = (rng.random(50_000) < 0.7).astype(float).tolist()
    assert not any(levels.follow(0, quality, 1.0, i) for i, quality in enumerate(outcomes))


def test_tells_a_random_log_from_one_that_looked_at_the_query(rng):
    blind = fill(Router(DIM), world(rng, 600, random_log=True)[1])
    informed = fill(Router(DIM), world(rng, 600, random_log=False)[1])
    assert blind.selectivity == 0.0
    assert informed.selectivity == 1.0


@pytest.mark.parametrize("learn", [False, True])
def test_saving_and_restoring_changes_nothing(rng, learn):
    centres, log = world(rng, 300)
    router = fill(Router(DIM, seed=5, capacity=200), log)
    if learn:
        router.learn()
        fill(router, world(rng, 40)[1])
    again = Router(DIM, seed=5, capacity=200)
    again.restore(router.arrays(), router.facts())
    for x in near(rng, centres[0], 10, 0.5):
        assert again.decide(x, explore=True) == router.decide(x, explore=True)
        for one in (router, again):
            one.observe(x, "c", 0.5)
    assert (again.pending, again.due) == (router.pending, router.due)


def test_what_is_handed_on_decides_like_its_source_and_is_not_overwritten(rng):
    _, log = world(rng, 9_000)
    router = fill(Router(DIM, capacity=20_000), log)
    router.learn()
    heir = router.handed_on()
    queries = directions(rng, 50)
    before = np.array([heir.expect(x)[0] for x in queries])
    assert np.abs(before - [router.expect(x)[0] for x in queries]).max() < 0.1
    heir.observe(queries[0], "a", 1.0)
    heir.learn()
    assert np.abs(before[1:] - [heir.expect(x)[0] for x in queries[1:]]).max() < 0.1
    assert len(heir.memory) < len(router.memory)


def test_sketches_teach_nearly_as_well_and_stay_small(rng):
    centres, log = world(rng, 600)
    router = Router(DIM)
    for start in range(0, 600, 100):
        part = log[start : start + 100]
        units = np.stack([row[0] for row in part])
        summary = sketch(units, [row[1] for row in part], np.array([row[2] for row in part]), 1_000)
        assert summary.nbytes <= 1_000
        assert summary.counts.sum() == 100
        assert summary.counts.sum(axis=1).min() >= 3
        router.absorb(summary)
    router.learn()
    for region in range(2):
        decided = [router.decide(x).route for x in near(rng, centres[region], 50)]
        assert decided.count("ab"[region]) >= 45


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 4), st.sampled_from("abc"), st.floats(0, 1)),
        min_size=1,
        max_size=40,
    ),
    st.booleans(),
)
def test_expectations_stay_inside_and_same_input_gives_same_bits(log, learn):
    basis = np.concatenate([np.eye(4, dtype=np.float32), np.zeros((1, 4), np.float32)])
    results = []
    for _ in range(2):
        router = fill(Router(4), [(basis[i], route, q) for i, route, q in log])
        if learn:
            router.learn()
        results.append(np.array([router.expect(x) for x in basis]))
    assert ((results[0][:, 0] >= 0) & (results[0][:, 0] <= 1)).all()
    assert (np.isfinite(results[0]) & (results[0] >= 0)).all()
    np.testing.assert_array_equal(*results)


def test_refuses_to_decide_between_nothing():
    with pytest.raises(RangeError, match="`routes`"):
        Router(DIM).decide(np.ones(DIM, np.float32))


def test_a_new_topic_is_not_a_turn_of_the_route(rng):
    """Harder queries of a kind never seen: the route does worse, and has not become worse."""
    old, new = np.eye(2, DIM, dtype=np.float32)
    router = Router(DIM)
    for x in near(rng, old, 400, 0.05):
        router.observe(x, "a", float(rng.random() < 0.95))
        router.observe(x, "b", 0.5)
    for x in near(rng, new, 80, 0.05):
        router.observe(x, "a", float(rng.random() < 0.1))
    assert not router._levels.turned
    assert all(router.decide(x).route == "a" for x in near(rng, old, 20, 0.05))


def test_a_turn_is_followed_without_a_decision_in_between(rng):
    """A log that is read in one go; the memory is so large that few outcomes are looked up."""
    router = Router(DIM)
    for i in range(3_000):
        bad = i >= 2_700
        router.observe(directions(rng, 1)[0], "a", float(rng.random() < (0.2 if bad else 0.9)))
        router.observe(directions(rng, 1)[0], "b", float(rng.random() < 0.6))
    decided = [router.decide(x).route for x in directions(rng, 50)]
    assert decided.count("b") >= 45

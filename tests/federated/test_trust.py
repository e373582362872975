"""Hostile agents: malformed rows, strikes, agents who contradict everybody, too few backers."""

import sys
import threading

import numpy as np
import pytest

from sona import SonaConfig
from sona.errors import RangeError
from sona.federated import AgentExport, EphemeralAgent, FederatedCoordinator, TrajectoryExport
from sona.federated.evidence import Evidence, Places
from sona.federated.knowledge import Knowledge
from sona.federated.reputation import judge
from sona.learning.kmeans import SphericalKMeans

DIM = 8
AXES = np.eye(DIM, dtype=np.float32)
# Routing only: adapters take no part in whom to believe.
CONFIG = SonaConfig.for_coordinator(
    hidden_dim=DIM, pattern_clusters=20, micro_lora_lr=0.0, base_lora_lr=0.0
)
ROUTES = ("good", "bad")
# What a route is worth on each of the two topics.
WORTH = {("good", 0): 0.9, ("bad", 0): 0.2, ("good", 1): 0.8, ("bad", 1): 0.3}


def export(agent, lies=lambda route, quality: (route, quality), n=60, topics=2, at=1000):
    rng = np.random.default_rng([*agent.encode(), n])
    rows = []
    for i in range(n):
        topic, route = int(rng.integers(topics)), ROUTES[int(rng.integers(2))]
        quality = float(rng.random() < WORTH[route, topic])
        told, quality = lies(route, quality)
        noise = 0.1 * rng.standard_normal(DIM)
        rows.append(TrajectoryExport(AXES[topic] + noise, quality, told, (), at + i))
    return AgentExport(agent, rows, None, 500, at + 1000)


def invert(route, quality):
    return route, 1.0 - quality


def promote(route, quality):
    return "bad", 1.0


def fleet(liars=(), lie=invert, honest=16):
    coord = FederatedCoordinator("c", CONFIG)
    for number in range(honest):
        coord.aggregate(export(f"honest-{number}"), learn=False)
    for name in liars:
        coord.aggregate(export(name, lie), learn=False)
    coord.force_consolidate()
    return coord


def worth(coord):
    """True worth of what is chosen on both topics."""
    return sum(WORTH[coord.route(AXES[topic], list(ROUTES)).route, topic] for topic in (0, 1))


def dropped(coord):
    return {agent for agent, standing in coord.reputation.items() if standing.dropped}


def verdicts(coord):
    return [(a, s.judged, s.error, s.bias, s.dropped) for a, s in coord.reputation.items()]


def test_nobody_honest_is_dropped():
    coord = fleet()
    assert dropped(coord) == set()
    assert all(standing.judged > 0 for standing in coord.reputation.values())


@pytest.mark.parametrize("lie", [invert, promote])
def test_who_contradicts_everybody_is_left_out(lie):
    liars = {f"liar-{number}" for number in range(4)}
    coord = fleet(sorted(liars), lie)
    assert dropped(coord) == liars
    clean = fleet()
    for x in AXES[:2]:
        assert coord.route(x).expected == clean.route(x).expected
    assert coord.agent_count == 20  # held and counted, not learned


def test_saying_it_more_often_does_not_help():
    coord = FederatedCoordinator("c", CONFIG)
    for number in range(16):
        coord.aggregate(export(f"honest-{number}"), learn=False)
    rng = np.random.default_rng(0)
    for replay in range(20):  # the same rows in altered bytes, as new sessions
        sent = export("liar", invert)
        rows = [
            TrajectoryExport(r.embedding + 1e-4 * rng.standard_normal(DIM), r.quality, r.route)
            for r in sent.trajectories
        ]
        coord.aggregate(AgentExport("liar", rows, None, 0, replay), learn=False)
    coord.force_consolidate()
    assert dropped(coord) == {"liar"}
    assert worth(coord) == pytest.approx(1.7)


def test_where_agents_are_few_or_do_not_meet_nobody_is_judged():
    small = fleet(["liar"], honest=4)
    assert dropped(small) == set()
    strangers = FederatedCoordinator("c", CONFIG)
    for axis in range(DIM):  # nine agents, each alone on a topic and route of its own
        rows = [TrajectoryExport(AXES[axis], 0.9 - 0.1 * axis, f"r{axis}") for _ in range(30)]
        strangers.aggregate(AgentExport(f"agent-{axis}", rows))
    strangers.aggregate(AgentExport("ninth", [TrajectoryExport(-AXES[0], 0.0, "r9")] * 30))
    strangers.force_consolidate()
    assert dropped(strangers) == set()


def test_who_was_dropped_is_not_learned_from_in_between_either_and_may_be_reset():
    coord = fleet(["liar"])
    before = [coord.route(x).expected for x in AXES[:2]]
    coord.aggregate(export("liar", invert, n=80))
    assert [coord.route(x).expected for x in AXES[:2]] == before
    assert coord.reputation["liar"].dropped
    coord.reset_reputation("liar")
    assert "liar" not in dropped(coord)
    coord.force_consolidate()
    assert coord.reputation["liar"].dropped  # judged again, by what it says


def test_verdicts_do_not_depend_on_the_order_of_arrival():
    sent = [export(f"honest-{n}") for n in range(12)] + [export("liar", invert)]
    seen = []
    for order in (sent, sent[::-1]):
        coord = FederatedCoordinator("c", CONFIG)
        for one in order:
            coord.aggregate(one)
        coord.force_consolidate()
        seen.append(verdicts(coord))
    assert seen[0] == seen[1]


def test_a_fleet_that_lives_twice_is_judged_alike():
    # 2,400 outcomes: more than are sampled to place them, so what is drawn must not tell the time.
    def judged(at):
        coord = FederatedCoordinator("c", CONFIG)
        for number in range(40):
            coord.aggregate(export(f"honest-{number}", at=at), learn=False)
        coord.force_consolidate()
        return verdicts(coord)

    assert judged(1_000) == judged(9_000)


def test_an_honest_fleet_is_left_alone_whatever_its_luck():
    """Few outcomes scatter widely: a score that is not calibrated in the tail drops honest ones."""
    lost = 0
    for fleet_number in range(6):
        cells = SphericalKMeans(8, seed=0).fit(AXES)
        evidence = Evidence(cells)
        rng = np.random.default_rng(fleet_number)
        for number in range(50):  # ten to fifty outcomes on two routes in eight cells
            n = int(rng.integers(10, 50))
            cell, route = rng.integers(8, size=n), rng.integers(2, size=n)
            worth = 0.4 + 0.3 * route + 0.02 * cell
            quality = (rng.random(n) < worth).astype(float)
            names = [f"r{r}" for r in route]
            evidence.add(f"agent-{number}", Places(AXES[cell], names, quality, np.ones(n)))
        verdict = judge(evidence)
        assert all(standing.judged >= 10 for standing in verdict.standings.values())
        lost += sum(standing.dropped for standing in verdict.standings.values())
    assert lost <= 3  # of 300


def test_who_explores_is_not_taken_for_a_liar():
    """Where most know which route suits a request, it fails for those who try all of them."""
    topics, config = 8, CONFIG.replace(hidden_dim=16)
    axes = np.eye(16)

    def session(number, explores):
        rng = np.random.default_rng(number)
        mine, rows = rng.permutation(topics)[:4], []
        for i in range(60):
            # On two topics, two kinds so much alike that they share a cell.
            topic = int(rng.choice(mine))
            kind = int(rng.integers(2)) if topic < 2 else topic % 2
            x = axes[topic] + 0.05 * (2 * kind - 1) * axes[8] + 0.02 * rng.standard_normal(16)
            tried = kind ^ int(rng.random() < (0.5 if explores else 0.1))
            quality = float(rng.random() < (0.9 if tried == kind else 0.2))
            rows.append(TrajectoryExport(x, quality, ROUTES[tried], (), 1_000 + i))
        return AgentExport(f"agent-{number}", rows, None, 500, 2_000)

    coord = FederatedCoordinator("c", config)
    for number in range(40):
        coord.aggregate(session(number, explores=number < 6), learn=False)
    coord.force_consolidate()
    assert dropped(coord) == set()
    assert coord.reputation["agent-0"].judged > 30


def test_with_many_routes_who_says_the_opposite_is_told_by_what_requests_are_hard():
    """Few agents meet on a route in a cell; a consensus of routes plus cells judges them still."""
    evidence = Evidence(SphericalKMeans(8, seed=0).fit(AXES))
    rng = np.random.default_rng(0)
    for number in range(40):
        cell, route = rng.integers(8, size=40), rng.integers(12, size=40)
        quality = (rng.random(40) < 0.95 - 0.02 * route - 0.05 * cell).astype(float)
        if number < 8:
            quality = 1.0 - quality
        names = [f"r{r}" for r in route]
        evidence.add(f"{number:02d}", Places(AXES[cell], names, quality, np.ones(40)))
    standings = judge(evidence).standings
    assert {name for name, s in standings.items() if s.dropped} == {f"{n:02d}" for n in range(8)}
    assert all((s.opposed > 0.0) == s.dropped for s in standings.values())


def test_route_names_of_an_agent_are_bounded():
    def naming(start, names):
        rows = [TrajectoryExport(AXES[0], 0.5, f"r{start + n}") for n in range(names)]
        return AgentExport("wordy", rows, None, 0, start)

    coord = FederatedCoordinator("c", CONFIG)
    with pytest.raises(RangeError, match="at most 256 routes; got 257"):
        coord.aggregate(naming(0, 257))
    assert coord.reputation["wordy"].strikes == 1
    coord.aggregate(naming(1_000, 256))
    coord.aggregate(export("honest"))
    coord.aggregate(naming(2_000, 1))  # held, and not learned: one name too many over all
    named = {"r1000", "good", "bad"}
    assert named < set(coord.master_engine.route(AXES[0]).expected)
    assert "r2000" not in coord.master_engine.route(AXES[0]).expected
    coord.force_consolidate()
    assert dropped(coord) == {"wordy"}
    assert set(coord.master_engine.route(AXES[0]).expected) == {"good", "bad"}


def test_malformed_exports_are_strikes_and_three_shut_the_door():
    coord = FederatedCoordinator("c", CONFIG)
    junk = AgentExport("agent", [TrajectoryExport(AXES[0], 7.0)])
    for strike in range(1, 4):
        with pytest.raises(RangeError, match="quality outside"):
            coord.aggregate(junk)
        assert coord.reputation["agent"].strikes == strike
    shut = coord.aggregate(export("agent"))
    assert (shut.trajectories_accepted, shut.total_agents) == (0, 0)
    assert shut.reasons == {"agent has 3 strikes": 60}
    coord.reset_reputation("agent")
    assert coord.aggregate(export("agent")).trajectories_accepted > 0


def test_a_pattern_is_handed_out_when_enough_agents_back_it():
    def shared(min_agents):
        coord = FederatedCoordinator("c", CONFIG, min_agents=min_agents)
        for number in range(3):
            coord.aggregate(export(f"agent-{number}", topics=1))
        lone = [TrajectoryExport(AXES[5] + 0.01 * i, 0.9, "secret", (), i) for i in range(20)]
        coord.aggregate(AgentExport("lone", lone))
        coord.force_consolidate()
        return coord

    trusting, careful = shared(1), shared(3)
    secret = [p for p in trusting.get_all_patterns() if "secret" in p.routes]
    assert secret
    assert trusting.backing(secret[0]) == {"lone": secret[0].cluster_size}
    assert all("secret" not in p.routes for p in careful.get_all_patterns())
    assert careful.get_all_patterns()
    assert all(len(careful.backing(p)) >= 3 for p in careful.get_all_patterns())
    config = SonaConfig.for_ephemeral(hidden_dim=DIM)
    started = EphemeralAgent("new", config, careful.warm_start())
    assert all("secret" not in p.routes for p in started.engine.patterns)
    assert started.route(AXES[0], list(ROUTES)).route == "good"


def test_who_backs_what_may_be_asked_while_exports_are_taken():
    knowledge = Knowledge(CONFIG.replace(pattern_clusters=200))
    rng = np.random.default_rng(0)
    points = [TrajectoryExport(x, 0.9, "good") for x in rng.standard_normal((400, DIM))]
    taught = AgentExport("teacher", points)
    knowledge.take(taught, np.ones(400, bool))
    knowledge.engine.force_learn()
    done, faults = threading.Event(), []

    def ask():
        try:
            while not done.is_set():
                knowledge.backed(2)
        except RuntimeError as error:
            faults.append(error)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    asking = threading.Thread(target=ask)
    asking.start()
    try:
        for start in range(0, 400, 2):  # two new patterns at a time
            rows = np.zeros(400, bool)
            rows[start : start + 2] = True
            knowledge.count_backing(taught, rows)
    finally:
        sys.setswitchinterval(interval)
        done.set()
        asking.join()
    assert not faults
    assert len(knowledge.backed(1)) > 50


def test_a_sketch_that_claims_more_than_a_session_has_is_refused():
    agent = EphemeralAgent("a", CONFIG)
    for x in AXES:
        agent.process_trajectory(x, x, 0.9, "good")
    honest = agent.export_state(compact=True)
    many = honest.sketch._replace(counts=honest.sketch.counts + np.uint32(10_000_000))
    coord = FederatedCoordinator("c", CONFIG)
    with pytest.raises(RangeError, match="more than 1,000,000 outcomes"):
        coord.aggregate(AgentExport("a", (), None, 0, 1, many))
    assert coord.total_trajectories == 0
    assert coord.aggregate(honest).trajectories_accepted == len(AXES)

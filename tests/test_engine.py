"""The engine, by what its users rely on; among it every defect known of the earlier system."""

import threading

import numpy as np
import pytest

from sona import SonaConfig, SonaEngine, Trajectory
from sona.errors import (
    BuilderError,
    DTypeError,
    FormatError,
    NonFiniteError,
    RangeError,
    ShapeError,
    SonaError,
)

DIM = 32


def record(engine, x, route=None, quality=1.0, **step):
    trajectory = engine.begin_trajectory(x)
    if route is not None:
        trajectory.set_model_route(route)
    if step:
        trajectory.add_step(**step)
    return engine.end_trajectory(trajectory, quality)


def topics(rng, count, each, noise=0.15):
    """Unit directions and `each` noisy queries around them, with their topic numbers."""
    centres = np.linalg.qr(rng.standard_normal((DIM, DIM)))[0][:count]
    labels = np.tile(np.arange(count), each)
    queries = centres[labels] + noise * rng.standard_normal((count * each, DIM))
    return centres.astype(np.float32), queries.astype(np.float32), labels


def taught(rng, n=240, **fields):
    """An engine that has seen four topics, each with a route that works and three that fail."""
    engine = SonaEngine(SonaConfig(hidden_dim=DIM, **fields))
    _, queries, labels = topics(rng, 4, n // 4)
    for i, (x, label) in enumerate(zip(queries, labels, strict=True)):
        route = i // 4 % 4
        record(engine, x, f"r{route}", float(route == label))
    return engine


@pytest.fixture
def engine():
    return SonaEngine(SonaConfig(hidden_dim=DIM))


# Adapters


def test_one_step_trajectories_teach(rng):
    engine = taught(rng)
    x = rng.standard_normal((20, DIM)).astype(np.float32)
    assert np.abs(engine.apply_micro_lora(x) - x).max() > 1e-4


def test_every_rank_has_its_own_direction(rng):
    delta = engine_delta(taught(rng), rng)
    values = np.linalg.svd(delta, compute_uv=False)
    assert values[1] > 1e-3 * values[0] > 0.0


def engine_delta(engine, rng):
    eye = np.eye(DIM, dtype=np.float32)
    return engine.apply_micro_lora(eye) - eye


def test_constant_reward_is_not_turned_into_a_gradient(rng, engine):
    x = rng.standard_normal(DIM).astype(np.float32)
    for _ in range(7):
        record(engine, x, "r", 0.7)
    np.testing.assert_array_equal(engine.apply_micro_lora(x), x)


def test_base_lora_changes_and_helps(rng):
    engine = taught(rng, n=400)
    result = engine.force_learn()
    assert result.base_lora_updated
    assert result.loss_after < result.loss_before
    eye = np.eye(DIM, dtype=np.float32)
    assert np.abs(engine.apply_base_lora(0, eye) - eye).max() > 1e-3


def test_a_layer_learns_from_its_own_activations(rng, engine):
    centres, states, labels = topics(rng, 3, 80)
    queries = rng.standard_normal((len(states), DIM)).astype(np.float32)
    for i, (x, state, label) in enumerate(zip(queries, states, labels, strict=True)):
        route = i // 3 % 3
        reward = float(route == label)
        record(engine, x, f"r{route}", reward, activations=state, reward=reward, layer="mid")
    engine.force_learn()
    assert np.abs(engine.apply_base_lora("mid", centres) - centres).max() > 1e-3
    np.testing.assert_array_equal(engine.apply_base_lora("other", centres), centres)


def test_the_residual_is_included(engine):
    x = np.ones(DIM, np.float32)
    np.testing.assert_array_equal(engine.apply_micro_lora(x), x)
    np.testing.assert_array_equal(engine.apply_base_lora(3, x), x)


def test_out_may_be_the_input(rng):
    engine = taught(rng)
    x = rng.standard_normal((3, DIM)).astype(np.float32)
    expected = engine.apply_micro_lora(x)
    assert engine.apply_micro_lora(x, out=x) is x
    np.testing.assert_allclose(x, expected, rtol=1e-6)


# Patterns


def test_learning_twice_does_not_double_the_patterns(rng, engine):
    _, queries, _ = topics(rng, 10, 40, noise=0.02)
    for x in queries:
        record(engine, x, "r", 0.9)
    engine.force_learn()
    counts = [len(engine.patterns)]
    for _ in range(5):
        for x in queries:
            record(engine, x, "r", 0.9)
        engine.force_learn()
        counts.append(len(engine.patterns))
    assert min(counts) >= 10
    assert max(counts) <= 20


def test_the_nearest_patterns_are_not_copies_of_one(rng, engine):
    centres, queries, _ = topics(rng, 10, 40, noise=0.02)
    for x in queries:
        record(engine, x, "r", 0.9)
    engine.force_learn()
    found = np.stack([p.centroid for p in engine.find_patterns(centres[0], 10)])
    similar = found @ found.T - np.eye(len(found))
    assert (similar > 0.99).sum() == 0


def test_few_trajectories_give_patterns_and_none_is_lost(rng, engine):
    for x in rng.standard_normal((7, DIM)).astype(np.float32):
        record(engine, x, "r", 0.8)
    result = engine.force_learn()
    assert (result.trajectories_processed, result.trajectories_accepted) == (7, 7)
    assert len(engine.patterns) > 0
    assert sum(p.cluster_size for p in engine.patterns) == 7
    assert engine.force_learn().trajectories_processed == 0


def test_outcomes_stay_counted_beyond_the_memory(rng):
    engine = taught(rng, n=240, trajectory_capacity=50)
    engine.force_learn()
    stats = engine.stats()
    assert (stats.trajectories_buffered, stats.trajectories_dropped) == (50, 190)
    assert sum(route.count for route in stats.routes.values()) == 240
    counted = sum(r.count for p in engine.patterns for r in p.routes.values())
    assert counted == 240


def test_search_is_best_first_and_counts_accesses(rng):
    engine = taught(rng)
    found = engine.find_patterns(rng.standard_normal(DIM), k=5)
    similarities = [pattern.similarity for pattern in found]
    assert similarities == sorted(similarities, reverse=True)
    again = engine.find_patterns(found[0].centroid, k=1)[0]
    assert again.access_count >= 1
    assert len(engine.find_patterns(found[0].centroid, k=10_000)) == len(engine.patterns)


def test_patterns_keep_their_ids(rng):
    engine = taught(rng)
    engine.force_learn()
    before = {p.id for p in engine.patterns}
    record(engine, rng.standard_normal(DIM), "r0", 1.0)
    engine.force_learn()
    assert len(before & {p.id for p in engine.patterns}) >= 0.8 * len(before)


# Routing


def test_it_learns_which_route_works_where(rng):
    engine = taught(rng, n=400)
    _, queries, labels = topics(np.random.default_rng(0), 4, 25)
    hits = [engine.route(x).route == f"r{y}" for x, y in zip(queries, labels, strict=True)]
    assert np.mean(hits) > 0.9


def test_failures_are_counted(rng, engine):
    x = np.eye(DIM)[0]
    for _ in range(20):
        record(engine, x, "bad", 0.0)
        record(engine, x, "good", 0.6)
    decision = engine.route(x)
    assert decision.route == "good"
    assert decision.expected["bad"] < decision.expected["good"]


def test_a_route_never_tried_here_does_not_inherit_a_perfect_mean(rng, engine):
    centres, queries, labels = topics(rng, 5, 6)
    for x, label in zip(queries, labels, strict=True):
        record(engine, x, f"r{label}", 1.0)
    for label, centre in enumerate(centres):
        decision = engine.route(centre)
        assert decision.route == f"r{label}"
        others = [value for route, value in decision.expected.items() if route != f"r{label}"]
        assert max(others) < decision.expected[f"r{label}"]


def test_cost_moves_the_choice(rng):
    engine = SonaEngine(SonaConfig(hidden_dim=DIM))
    for x in rng.standard_normal((150, DIM)).astype(np.float32):
        record(engine, x, "dear", 0.8)
        record(engine, x, "cheap", 0.7)
    x = rng.standard_normal(DIM)
    costs = {"dear": 1.0, "cheap": 0.1}
    assert engine.route(x, costs=costs).route == "dear"
    assert engine.route(x, costs=costs, cost_weight=1.0).route == "cheap"


def test_exploring_tries_what_is_uncertain(rng):
    engine = SonaEngine(SonaConfig(hidden_dim=DIM))
    x = np.eye(DIM)[0]
    for _ in range(30):
        record(engine, x, "known", 0.6)
    chosen = {engine.route(x, ["known", "new"], explore=True).route for _ in range(60)}
    assert chosen == {"known", "new"}
    assert {engine.route(x, ["known", "new"]).route for _ in range(10)} == {"known"}


def test_more_evidence_means_less_uncertainty(rng):
    engine = SonaEngine(SonaConfig(hidden_dim=DIM))
    x = np.eye(DIM)[0]
    record(engine, x, "r", 0.5)
    first = engine.route(x).uncertainty["r"]
    for quality in (0.4, 0.6) * 50:
        record(engine, x, "r", quality)
    assert engine.route(x).uncertainty["r"] < first


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({}, RangeError, "`routes`"),
        ({"routes": []}, RangeError, "`routes`"),
        ({"routes": "abc"}, DTypeError, "`routes`"),
        ({"routes": ["a", "a"]}, RangeError, "twice"),
        ({"routes": ["a"], "cost_weight": -1.0}, RangeError, "`cost_weight`"),
        ({"routes": ["a"], "costs": {"a": float("nan")}}, NonFiniteError, "costs"),
        ({"routes": ["a", "b"], "costs": {"a": 1.0}}, RangeError, "costs"),
    ],
)
def test_a_bad_question_is_refused(engine, arguments, error, message):
    with pytest.raises(error, match=message):
        engine.route(np.ones(DIM), **arguments)


# The door


@pytest.mark.parametrize(
    ("x", "error"),
    [
        (np.zeros(DIM - 1), ShapeError),
        (np.zeros((1, DIM)), ShapeError),
        (np.full(DIM, np.nan), NonFiniteError),
        (np.full(DIM, np.inf), NonFiniteError),
        (np.full(DIM, 1e300), NonFiniteError),
        (np.zeros(DIM, np.int64), DTypeError),
        (["a"] * DIM, DTypeError),
        (None, SonaError),
    ],
)
def test_a_bad_embedding_is_refused_everywhere(rng, x, error):
    engine = taught(rng, n=40)
    before = engine.to_bytes()
    for verb in (engine.begin_trajectory, engine.find_patterns, engine.route):
        with pytest.raises(error, match=r"`(embedding|query)`"):
            verb(x)
    with pytest.raises(error):
        engine.submit_trajectory(Trajectory(x, 0.5, "r0"))
    assert engine.to_bytes() == before


@pytest.mark.parametrize("quality", [np.nan, np.inf, 7.0, -3.0, "high", None, True])
def test_a_bad_quality_is_refused_and_changes_nothing(rng, quality):
    engine = taught(rng, n=40)
    trajectory = engine.begin_trajectory(np.ones(DIM))
    before = engine.to_bytes()
    with pytest.raises(SonaError, match="`quality`"):
        engine.end_trajectory(trajectory, quality)
    assert engine.to_bytes() == before
    engine.end_trajectory(trajectory, 0.5)  # the builder is still open


def test_what_is_no_config_is_refused():
    with pytest.raises(DTypeError, match="`config` must be a SonaConfig; got dict"):
        SonaEngine({})


def test_bad_steps_are_refused_and_the_builder_stays_as_it_was(engine):
    trajectory = engine.begin_trajectory(np.ones(DIM))
    for step in (
        {"activations": np.ones(DIM + 1), "reward": 0.5},
        {"activations": np.ones(DIM), "reward": 1.5},
        {"activations": [[1.0] * DIM, [1.0]], "reward": 0.5},
        {"activations": None, "reward": 0.5},
        {"activations": np.ones(DIM), "reward": 0.5, "layer": 1.5},
        {"activations": np.ones((3, DIM)), "reward": 0.5, "attention_weights": [1.0]},
        {"activations": np.ones((2, DIM)), "reward": 0.5, "attention_weights": [0.0, 0.0]},
    ):
        with pytest.raises(SonaError, match="`"):
            trajectory.add_step(**step)
    assert engine.end_trajectory(trajectory, 0.5).steps == ()


def test_attention_weights_pool_token_activations(engine):
    trajectory = engine.begin_trajectory(np.ones(DIM))
    states = np.eye(DIM, dtype=np.float32)[:2]
    trajectory.add_step(states, 0.5, attention_weights=[3.0, 1.0])
    trajectory.add_step(states, 0.5)
    weighted, even = engine.end_trajectory(trajectory, 0.5).steps
    np.testing.assert_allclose(weighted.activations[:2], [0.75, 0.25])
    np.testing.assert_allclose(even.activations[:2], [0.5, 0.5])


def test_a_builder_belongs_to_its_engine_and_ends_once(engine):
    other = SonaEngine(engine.config)
    trajectory = engine.begin_trajectory(np.ones(DIM))
    with pytest.raises(BuilderError, match="began"):
        other.end_trajectory(trajectory, 0.5)
    engine.end_trajectory(trajectory, 0.5)
    with pytest.raises(BuilderError, match="already ended"):
        engine.end_trajectory(trajectory, 0.5)


def test_the_caller_may_reuse_its_array(rng, engine):
    x = np.eye(DIM, dtype=np.float32)[0]
    record(engine, x, "r", 1.0)
    kept = engine.patterns[0].centroid.copy()
    x[:] = 9.0
    np.testing.assert_array_equal(engine.patterns[0].centroid, kept)


@pytest.mark.parametrize("scale", [0.0, 1e-30, 1e-3, 1e15])
def test_the_length_of_a_query_does_not_matter(rng, scale):
    engine = taught(rng)
    x = (rng.standard_normal(DIM) * scale).astype(np.float32)
    record(engine, x, "r1", 0.5)
    engine.force_learn()
    assert all(np.isfinite(p.centroid).all() for p in engine.patterns)
    assert np.isfinite(list(engine.route(x).expected.values())).all()


# Switching, time, persistence


def test_a_switched_off_engine_records_and_changes_nothing(rng):
    engine = taught(rng)
    engine.enabled = False
    before = engine.to_bytes()
    assert record(engine, np.ones(DIM), "r0", 0.5) is None
    assert engine.tick() is None
    assert engine.force_learn().trajectories_processed == 0
    engine.route(np.ones(DIM), explore=True)
    engine.find_patterns(np.ones(DIM))
    assert engine.to_bytes() == before


def test_tick_runs_when_due():
    engine = SonaEngine(SonaConfig(hidden_dim=DIM, background_interval_ms=1))
    assert engine.tick() is None  # nothing to learn
    record(engine, np.ones(DIM), "r", 0.5)
    threading.Event().wait(0.01)
    assert engine.tick().trajectories_processed == 1
    patient = SonaEngine(SonaConfig(hidden_dim=DIM))
    record(patient, np.ones(DIM), "r", 0.5)
    assert patient.tick() is None


def test_save_and_load_keep_everything(rng, tmp_path):
    engine = taught(rng)
    engine.force_learn()
    for x in rng.standard_normal((20, DIM)).astype(np.float32):
        record(engine, x, "r1", 0.4, activations=x * 2, reward=0.3, layer="mid")
    path = tmp_path / "engine.sona"
    engine.save(path)
    loaded = SonaEngine.load(path)
    assert loaded.to_bytes() == engine.to_bytes()
    x = rng.standard_normal(DIM)
    assert loaded.route(x).expected == engine.route(x).expected
    for one in (engine, loaded):
        record(one, x, "r2", 0.9)
        one.force_learn()
    assert loaded.route(x).expected == pytest.approx(engine.route(x).expected, abs=1e-5)


def test_same_seed_and_order_give_the_same_bits(rng):
    first, second = (taught(np.random.default_rng(5)) for _ in range(2))
    for engine in (first, second):
        engine.force_learn()
    x = rng.standard_normal((5, DIM)).astype(np.float32)
    assert first.apply_micro_lora(x).tobytes() == second.apply_micro_lora(x).tobytes()
    assert first.apply_base_lora(0, x).tobytes() == second.apply_base_lora(0, x).tobytes()
    assert first.route(x[0]).expected == second.route(x[0]).expected


def test_a_damaged_file_is_refused(rng, tmp_path):
    path = tmp_path / "engine.sona"
    taught(rng, n=40).save(path)
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    with pytest.raises(FormatError, match="damaged"):
        SonaEngine.load(path)


def test_threads_may_share_an_engine(rng):
    engine = taught(rng)
    _, queries, _ = topics(rng, 4, 30)
    faults = []

    def work(part):
        try:
            for x in part:
                engine.route(x, explore=True)
                record(engine, x, "r1", 0.5)
                engine.apply_micro_lora(x)
        except Exception as error:
            faults.append(error)

    threads = [threading.Thread(target=work, args=(queries[i::4],)) for i in range(4)]
    for thread in threads:
        thread.start()
    engine.force_learn()
    for thread in threads:
        thread.join()
    assert not faults
    assert engine.stats().trajectories_seen == 240 + len(queries)


def test_adapters_are_applied_while_the_background_loop_runs(rng):
    engine = taught(rng)
    engine.force_learn()
    x = np.ones(DIM, np.float32)
    done = threading.Event()

    def apply():
        for layer in (0, "mid"):
            engine.apply_base_lora(layer, x)
        engine.apply_micro_lora(x)
        done.set()

    with engine._lock:  # what a background cycle holds
        thread = threading.Thread(target=apply)
        thread.start()
        assert done.wait(10.0)
    thread.join()


# Every setting has an effect


@pytest.mark.parametrize(
    "change",
    [
        {"micro_lora_rank": 1},
        {"base_lora_rank": 4},
        {"micro_lora_lr": 0.0},
        {"base_lora_lr": 0.0},
        {"pattern_clusters": 3},
        {"trajectory_capacity": 30},
        {"quality_threshold": 1.0},
        {"seed": 1},
    ],
    ids=lambda change: next(iter(change)),
)
def test_every_setting_changes_what_is_learned(change):
    eye = np.eye(DIM, dtype=np.float32)
    engines = []
    for fields in ({}, change):
        engine = SonaEngine(SonaConfig(hidden_dim=DIM, **fields))
        rng = np.random.default_rng(3)
        _, queries, labels = topics(rng, 4, 60)
        for i, (x, label) in enumerate(zip(queries, labels, strict=True)):
            record(engine, x, f"r{i // 4 % 4}", 0.9 if i // 4 % 4 == label else 0.1)
        engine.force_learn()
        engines.append(engine)
    prints = [
        (
            engine.apply_micro_lora(eye).tobytes(),
            engine.apply_base_lora(0, eye).tobytes(),
            len(engine.patterns),
            engine.stats().trajectories_dropped,
        )
        for engine in engines
    ]
    assert prints[0] != prints[1]


def test_ewc_changes_what_a_second_task_does_to_the_first(rng):
    eye = np.eye(DIM, dtype=np.float32)
    _, queries, labels = topics(rng, 8, 60)
    moved = {}
    for strength in (0.0, 1.0):
        engine = SonaEngine(SonaConfig(hidden_dim=DIM, ewc_lambda=strength, seed=2))
        maps = []
        for task in (labels < 4, labels >= 4):
            for i, (x, label) in enumerate(zip(queries[task], labels[task], strict=True)):
                route = label if i % 2 else (label + 1) % 8
                record(engine, x, f"r{route}", float(route == label))
            result = engine.force_learn()
            assert result.ewc_updated == (strength > 0.0)
            maps.append(engine.apply_base_lora(0, eye) - eye)
        moved[strength] = np.linalg.norm(maps[1] - maps[0])
    assert moved[1.0] != moved[0.0]


def test_dimensions_may_differ(rng):
    engine = SonaEngine(SonaConfig(hidden_dim=8, embedding_dim=DIM))
    for i in range(40):
        x = np.eye(DIM)[i % 2] + 0.1 * rng.standard_normal(DIM)
        state = np.eye(8)[i % 2] + 0.1 * rng.standard_normal(8)
        reward = float(i // 2 % 2 == i % 2)
        record(engine, x, f"r{i // 2 % 2}", reward, activations=state, reward=reward)
    engine.force_learn()
    assert engine.route(np.eye(DIM)[0]).route == "r0"
    eye = np.eye(8, dtype=np.float32)
    assert np.abs(engine.apply_base_lora(0, eye) - eye).max() > 0.0


def test_a_decision_that_was_prepared_and_shows_no_pattern_is_the_same():
    rng = np.random.default_rng(0)
    engines = [SonaEngine(SonaConfig(hidden_dim=8)) for _ in range(2)]
    for _ in range(60):
        x, route, quality = rng.standard_normal(8), "ab"[rng.integers(2)], float(rng.random())
        for engine in engines:
            trajectory = engine.begin_trajectory(x)
            trajectory.set_model_route(route)
            engine.end_trajectory(trajectory, quality)
        engines[1].prepare()
        shown, bare = engines[0].route(x), engines[1].route(x, n_patterns=0)
        assert (shown.route, shown.expected) == (bare.route, bare.expected)
        assert shown.patterns
        assert not bare.patterns
    with pytest.raises(RangeError, match="n_patterns"):
        engines[0].route(x, n_patterns=-1)

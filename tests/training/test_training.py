"""Training: every option of a pipeline, a template and a factory changes what happens."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sona import SonaConfig, Trajectory
from sona.errors import ConfigError, DTypeError, RangeError
from sona.training import (
    TEMPLATES,
    AgentFactory,
    BatchConfig,
    TrainingCallback,
    TrainingMetrics,
    TrainingPipeline,
    TrainingTemplate,
    validate,
    value_decisions,
)

DIM = 8
CONFIG = SonaConfig(hidden_dim=DIM, seed=3)


def requests(rng, count, noise=0.3):
    """Requests of two topics; route "a" serves topic 0 and "b" topic 1; routes are drawn."""
    rows = []
    for _ in range(count):
        topic, route = int(rng.integers(2)), "ab"[int(rng.integers(2))]
        x = np.float32(np.eye(DIM)[topic] + noise * rng.standard_normal(DIM))
        rows.append(
            Trajectory(x, float(rng.random() < (0.9 if route == "ab"[topic] else 0.1)), route)
        )
    return rows


def test_validation_asks_the_engine_about_requests_it_has_not_seen(rng):
    pipeline = TrainingPipeline("p", CONFIG)
    held_out = requests(rng, 200)
    result = pipeline.train(requests(rng, 300), held_out)
    assert result.before.quality < 0.65
    assert result.after.quality > 0.8
    assert result.after.error < 0.6 * result.before.error
    assert pipeline.metrics.validation_quality == result.after.quality
    assert pipeline.engine.stats().trajectories_seen == 300  # it never learned from them
    # Labels repeated back would score the same; the engine does not.
    wrong = [Trajectory(t.embedding, 1.0 - t.quality, t.route) for t in held_out]
    assert validate(pipeline.engine, wrong).quality < 0.3


def test_decisions_are_valued_where_they_match_the_log():
    log = [Trajectory([1.0], q, r) for q, r in ((1.0, "a"), (0.5, "a"), (0.25, "a"), (0.0, "b"))]
    assert value_decisions(["c"] * 4, log) == (None, 0)
    assert value_decisions(["b", "b", "b", "b"], log) == (0.0, 1)
    # One match of a (share 3 of 4) and one of b (1 of 4): b counts three times as much.
    assert value_decisions(["a", "b", "b", "b"], log) == (pytest.approx(1.0 / 4), 2)


def test_a_background_cycle_follows_every_batch(rng):
    rows = requests(rng, 100)
    for size, cycles in ((100, 1), (40, 3), (1024, 1)):
        heard = []

        class Listener(TrainingCallback):
            def on_batch(self, batch, batches, learned, heard=heard):
                heard.append((batch, batches, learned.trajectories_processed))

        pipeline = TrainingPipeline("p", CONFIG, BatchConfig(batch_size=size), [Listener()])
        pipeline.train(rows)
        assert pipeline.engine.stats().background_cycles == cycles
        assert [each[:2] for each in heard] == [(i, cycles) for i in range(cycles)]
        assert sum(each[2] for each in heard) == 100


def test_epochs_repeat_the_examples_and_callbacks_hear_of_them(rng):
    events = []

    class Listener(TrainingCallback):
        def on_epoch(self, stats):
            events.append(stats.epoch)

        def on_complete(self, result):
            events.append(result)

    pipeline = TrainingPipeline("p", CONFIG, BatchConfig(epochs=3), [Listener()])
    result = pipeline.train(requests(rng, 50))
    assert events == [0, 1, 2, result]
    assert (result.epochs_completed, result.total_examples, result.best_epoch) == (3, 150, 2)
    assert result.before is result.after is None
    assert pipeline.engine.stats().trajectories_seen == 150


def test_shuffling_changes_the_order_and_is_seeded(rng):
    rows = requests(rng, 60)

    def state(seed, *, shuffle):
        config = CONFIG.replace(seed=seed)
        pipeline = TrainingPipeline("p", config, BatchConfig(batch_size=20, shuffle=shuffle))
        pipeline.train(rows)
        x = np.ones(DIM, np.float32)
        return pipeline.engine.apply_micro_lora(x).tobytes()

    assert state(3, shuffle=True) == state(3, shuffle=True)
    assert state(3, shuffle=True) != state(3, shuffle=False)


def test_patience_ends_training_and_the_best_engine_is_kept(rng):
    # Outcomes that are noise: nothing is gained by going through them again and again.
    rows = [Trajectory(t.embedding, float(rng.random() < 0.5), t.route) for t in requests(rng, 120)]
    held_out = [
        Trajectory(t.embedding, float(rng.random() < 0.5), t.route) for t in requests(rng, 200)
    ]
    patient = TrainingPipeline("p", CONFIG, BatchConfig(epochs=6))
    stopped = TrainingPipeline("p", CONFIG, BatchConfig(epochs=6, patience=1))
    whole, short = patient.train(rows, held_out), stopped.train(rows, held_out)
    assert whole.epochs_completed == 6
    assert short.epochs_completed == short.best_epoch + 2 < 6
    errors = [stats.validation.error for stats in whole.epoch_stats]
    assert whole.best_epoch == int(np.argmin(errors))
    assert whole.after.error == min(errors) < errors[-1]
    assert validate(patient.engine, held_out).error == pytest.approx(min(errors))


def test_min_improvement_makes_small_gains_not_count(rng):
    rows, held_out = requests(rng, 200), requests(rng, 200)
    strict = BatchConfig(epochs=4, patience=2, min_improvement=1.0)
    result = TrainingPipeline("p", CONFIG, strict).train(rows, held_out)
    assert (result.best_epoch, result.epochs_completed) == (0, 3)


def test_a_second_session_goes_on(rng):
    pipeline = TrainingPipeline("p", CONFIG)
    pipeline.train(requests(rng, 40))
    pipeline.train(requests(rng, 60))
    assert pipeline.engine.stats().trajectories_seen == 100
    figures = pipeline.metrics.to_dict()
    assert (figures["training_sessions"], figures["total_examples"]) == (2, 100)
    assert figures["patterns_learned"] == len(pipeline.engine.patterns)


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"batch_size": 0}, RangeError),
        ({"epochs": 1.5}, DTypeError),
        ({"patience": 0}, RangeError),
        ({"min_improvement": -1}, RangeError),
    ],
)
def test_a_meaningless_way_is_refused(fields, error):
    with pytest.raises(error, match=next(iter(fields))):
        BatchConfig(**fields)


def test_training_on_nothing_or_judging_by_nothing_is_refused(rng):
    with pytest.raises(RangeError, match="examples"):
        TrainingPipeline("p", CONFIG).train([])
    impatient = TrainingPipeline("p", CONFIG, BatchConfig(patience=1))
    with pytest.raises(RangeError, match="validation"):
        impatient.train(requests(rng, 5))
    with pytest.raises(RangeError, match="held_out"):
        TrainingPipeline("p", CONFIG).train(requests(rng, 5), [Trajectory(np.ones(DIM), 0.5)])


# Measurements


@given(st.lists(st.floats(0, 1), min_size=1, max_size=50), st.floats(0, 100))
def test_percentiles_are_numpys_and_ordered(qualities, percentile):
    metrics = TrainingMetrics("m")
    for quality in qualities:
        metrics.add_quality_sample(quality)
    assert metrics.quality_percentile(percentile) == np.percentile(qualities, percentile)
    stats = metrics.quality_stats()
    order = [stats.min, stats.p25, stats.p50, stats.p75, stats.p95, stats.max]
    assert order == sorted(order)
    assert stats.avg == pytest.approx(np.mean(qualities))
    assert stats.std_dev == pytest.approx(np.std(qualities))
    assert stats.sample_count == len(qualities)


def test_the_newest_samples_are_kept():
    metrics = TrainingMetrics("m")
    for number in range(metrics.CAPACITY + 10):
        metrics.add_quality_sample(float(number >= 10))
    assert metrics.quality_stats().min == 1.0
    assert metrics.quality_stats().sample_count == metrics.CAPACITY


def test_merging_and_resetting_metrics(rng):
    first, second = (TrainingPipeline(name, CONFIG) for name in "ab")
    first.train(requests(rng, 30))
    second.train(requests(rng, 20))
    merged = TrainingMetrics("both")
    for pipeline in (first, second):
        merged.merge(pipeline.metrics)
    assert (merged.total_examples, merged.training_sessions) == (50, 2)
    assert merged.quality_stats().sample_count == 50
    seconds = [p.metrics.performance.total_training_secs for p in (first, second)]
    performance = merged.performance
    assert performance.total_training_secs == pytest.approx(sum(seconds))
    assert performance.avg_batch_time_ms == pytest.approx(1e3 * sum(seconds) / 2)
    assert performance.examples_per_sec == pytest.approx(50 / sum(seconds))
    assert 0 < performance.pattern_extraction_ms < 1e3 * sum(seconds)
    merged.reset()
    assert merged.to_dict() == TrainingMetrics("both").to_dict()


# Templates and factory


def test_every_template_differs_from_the_defaults_and_from_the_others():
    values = [TrainingTemplate("", SonaConfig()), *TEMPLATES.values()]
    assert len({(each.config, each.batch) for each in values}) == len(values)
    assert all(name == template.name for name, template in TEMPLATES.items())


def test_a_template_shapes_the_agent_that_is_made_from_it(rng):
    """A code agent learns from quality 0.3 and a creative writer does not."""
    factory = AgentFactory(CONFIG)
    rows = [Trajectory(t.embedding, 0.3, t.route) for t in requests(rng, 40, noise=1.0)]
    for template in TEMPLATES:
        factory.create(template, template)
        factory.train(template, rows)
    for name, pipeline in factory.items():
        config = TEMPLATES[name].config
        assert pipeline.engine.config.hidden_dim == DIM
        assert len(pipeline.engine.patterns) <= config.pattern_clusters
        accepted = pipeline.engine.stats().trajectories_accepted
        assert accepted == (40 if config.quality_threshold <= 0.3 else 0)
        assert pipeline.engine.config.base_lora_rank == config.base_lora_rank


def test_agents_share_nothing(rng):
    factory = AgentFactory(CONFIG)
    coder, bot = factory.create("coder", "code-agent"), factory.create("bot", "chat-agent")
    untouched = bot.engine.to_bytes()
    factory.train("coder", requests(rng, 30))
    assert bot.engine.to_bytes() == untouched
    stats = {each.name: each for each in factory.stats()}
    assert (stats["coder"].training_sessions, stats["coder"].total_examples) == (1, 30)
    assert stats["coder"].template == "code-agent"
    assert stats["bot"].total_examples == 0
    assert factory.remove("coder") is coder
    assert list(factory) == ["bot"]


def test_own_templates_and_wrong_names():
    factory = AgentFactory(CONFIG)
    own = TEMPLATES["chat-agent"].with_config(pattern_clusters=7)
    assert factory.create("a", own).engine.config.pattern_clusters == 7
    with pytest.raises(ConfigError, match="name"):
        factory.create("a", own)
    with pytest.raises(ConfigError, match="chat-agent"):
        factory.create("b", "chat agent")
    with pytest.raises(KeyError):
        factory.train("nobody", [])

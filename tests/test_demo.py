"""The main job: a fleet learns on real outcomes, and what it learned reaches the next agent."""

import numpy as np
import pytest

pytest.importorskip("sklearn")

from sona.cli import main
from sona.cli.demo import run_fleet
from sona.cli.digits import DigitFleet

SMALL = {"n_agents": 16, "n_requests": 60}
SEEDS = (0, 1, 2)


@pytest.fixture(scope="module")
def results():
    return [run_fleet(seed, **SMALL) for seed in SEEDS]


def mean(results, field):
    return np.mean([getattr(result, field) for result in results])


def test_the_world_is_what_it_is_said_to_be():
    world = DigitFleet(0)
    outcomes = world.held_out.outcomes
    assert 0.4 < outcomes.mean(axis=0).max() < 0.6
    assert outcomes.max(axis=1).mean() > 0.97
    for _ in range(5):
        assert len(np.unique(world.slice(50).digits)) in (2, 3)


def test_a_warm_started_agent_decides_well_at_once(results):
    warm = mean(results, "warm")
    assert warm >= 0.93
    assert warm >= mean(results, "own") + 0.30
    assert warm >= mean(results, "best_single") + 0.30


def test_quality_grows_with_the_fleet(results):
    for result in results:
        assert result.growth[0][1] < 0.65
        assert result.growth[-1][1] > result.growth[1][1] - 0.02 > 0.75


def test_without_federation_the_figure_falls(results):
    alone = run_fleet(SEEDS[0], **SMALL, federate=False)
    assert alone.warm < results[0].warm - 0.30


def test_without_failures_the_figure_falls(results):
    # What failed is what tells the weak reader of a digit from the strong one.
    unaware = [run_fleet(seed, **SMALL, keep_failures=False) for seed in SEEDS]
    assert mean(unaware, "warm") < mean(results, "warm") - 0.008


def test_honest_agents_are_believed_though_some_explore_and_some_start_warm(results):
    assert sum(result.left_out for result in results) <= 0.03 * len(SEEDS) * SMALL["n_agents"]


def test_the_command_prints_the_table_and_draws_the_picture(tmp_path, capsys):
    picture = tmp_path / "picture.png"
    options = ["--agents", "5", "--requests", "20", "--picture", str(picture)]
    assert main(["demo", *options]) == 0
    captured = capsys.readouterr()
    for row in ("cold agent", "own experience", "warm-started", "best single", "oracle"):
        assert row in captured.out
    assert "5/5" in captured.err
    assert picture.read_bytes().startswith(b"\x89PNG")

"""The main job: a fleet learns on real outcomes, and what it learned reaches the next agent."""

import numpy as np
import pytest

pytest.importorskip("sklearn")

from sona.cli import main
from sona.cli.demo import run_fleet
from sona.cli.digits import DigitFleet

SMALL = {"n_agents": 16, "n_requests": 60}


@pytest.fixture(scope="module")
def result():
    return run_fleet(0, **SMALL)


def test_the_world_is_what_it_is_said_to_be():
    world = DigitFleet(0)
    outcomes = world.held_out.outcomes
    assert 0.4 < outcomes.mean(axis=0).max() < 0.6
    assert outcomes.max(axis=1).mean() > 0.97
    for _ in range(5):
        assert len(np.unique(world.slice(50).digits)) in (2, 3)


def test_a_warm_started_agent_decides_well_at_once(result):
    assert result.warm >= 0.93
    assert result.warm >= result.own + 0.30
    assert result.warm >= result.best_single + 0.30


def test_quality_grows_with_the_fleet(result):
    assert result.growth[0][1] < 0.65
    assert result.growth[-1][1] > result.growth[1][1] - 0.02 > 0.8


def test_without_federation_the_figure_falls(result):
    alone = run_fleet(0, **SMALL, federate=False)
    assert alone.warm < result.warm - 0.30


def test_the_command_prints_the_table_and_draws_the_picture(tmp_path, capsys):
    picture = tmp_path / "picture.png"
    options = ["--agents", "5", "--requests", "20", "--picture", str(picture)]
    assert main(["demo", *options]) == 0
    captured = capsys.readouterr()
    for row in ("cold agent", "own experience", "warm-started", "best single", "oracle"):
        assert row in captured.out
    assert "5/5" in captured.err
    assert picture.read_bytes().startswith(b"\x89PNG")

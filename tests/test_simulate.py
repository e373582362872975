"""`sona simulate`: whatever fails, the fleet ends with what one coordinator would know."""

import pytest

from sona import SonaConfig
from sona.cli import main
from sona.cli.simulate import simulate
from sona.federated import Hierarchical, PeerToPeer


@pytest.mark.parametrize("topology", [Hierarchical, PeerToPeer])
def test_failures_lose_nothing_acknowledged_and_double_nothing(topology):
    made = topology(3, SonaConfig.for_coordinator(hidden_dim=64))
    result = simulate(made, agents=24, requests=20, failures=0.5, seed=0)
    assert result.happened.keys() == {"killed", "repeated", "spooled"}
    assert result.acknowledged == 24 - result.happened["killed"]
    assert result.held == result.acknowledged
    assert [agents for agents, _ in result.growth] == [0, 10, 20, 24]
    assert result.growth[-1][1] == result.single
    # A cold agent takes the first route for everything, which may be the best single one.
    assert result.cold <= result.best_single < result.single <= result.oracle


def test_the_command_shows_a_table_and_draws(tmp_path, capsys):
    picture = tmp_path / "fleet.png"
    line = f"simulate --agents 12 --requests 5 --topology star --picture {picture}"
    assert main(line.split()) == 0
    assert "exports held in the end" in capsys.readouterr().out
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("line", "match"),
    [
        ("--topology star --regions 4", "--regions belongs to --topology hierarchical"),
        ("--peers 2", "--peers belongs to --topology peers"),
        ("--agents 0", "`agents`"),
        ("--failures 1.5", "`failures`"),
    ],
)
def test_what_cannot_be_is_refused(line, match, capsys):
    assert main(["simulate", *line.split()]) == 1
    assert match in capsys.readouterr().err

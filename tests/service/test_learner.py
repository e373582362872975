"""When the learner consolidates: not while exports come, and not never."""

from __future__ import annotations

import time

import msgspec
import pytest
from tests.service.conftest import DIM, make_export

from sona import SonaConfig
from sona.federated import FederatedCoordinator
from sona.service import learner
from sona.service.folder import CONFIG, STORE


@pytest.fixture
def fleet(tmp_path):
    """What a service commits, and the pupil that learns it."""
    config = SonaConfig.for_coordinator(hidden_dim=DIM)
    (tmp_path / CONFIG).write_bytes(msgspec.json.encode(config))
    coordinator = FederatedCoordinator("fleet", config, tmp_path / STORE)
    yield coordinator, learner._Pupil(tmp_path, "fleet")
    coordinator.close()


def bring(coordinator, first, agents):
    judged = [coordinator.judge(make_export(f"agent-{n}")) for n in range(first, first + agents)]
    assert all(told.ruling == "accepted" for told in coordinator.aggregate_all(judged))


def test_a_consolidation_waits_while_exports_come(fleet):
    coordinator, pupil = fleet
    for number in range(3):  # due from the first time on
        bring(coordinator, 60 * number, 60)
        lesson = pupil.look()
        assert lesson.seconds is None
        assert lesson.published or number  # what came is learned and handed out meanwhile
    seconds = None
    while seconds is None:
        assert pupil.wait is not None  # it comes without news
        time.sleep(min(pupil.wait, 0.05))
        seconds = pupil.look().seconds


def test_a_consolidation_does_not_wait_for_ever(fleet, monkeypatch):
    coordinator, pupil = fleet
    bring(coordinator, 0, 60)
    assert pupil.look().seconds is None
    monkeypatch.setattr(learner, "_PATIENCE_SECONDS", 0.0)
    bring(coordinator, 60, 60)
    assert pupil.look().seconds is not None


def test_a_look_that_yields_begins_no_consolidation(fleet):
    coordinator, pupil = fleet
    bring(coordinator, 0, 60)
    pupil.look()
    assert not pupil.urgent
    pupil._due = time.monotonic() - 60.0  # as if the first of them had waited for a minute
    assert pupil.urgent
    assert pupil.look(consolidate=False).seconds is None
    assert pupil.look().seconds is not None
    assert not pupil.urgent

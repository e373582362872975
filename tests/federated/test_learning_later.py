"""Committing and learning are two steps: what is acknowledged first is learned all the same."""

import threading

import numpy as np
import pytest
from tests.federated.network.fleet import CONFIG, DIM, export, knowledge

from sona import SonaConfig
from sona.federated import FederatedCoordinator


def coordinator(store=None):
    return FederatedCoordinator("c", CONFIG, store)


def served(of):
    """What is decided now, without a consolidation."""
    return [of.route(x, ["a", "b", "c"]).expected for x in np.eye(DIM)]


def test_what_is_only_committed_is_held_and_waits_to_be_learned():
    later = coordinator()
    cold = served(later)
    for number in range(4):
        result = later.aggregate(export(number), learn=False)
        assert (result.total_agents, result.consolidated) == (number + 1, False)
    assert served(later) == cold
    assert len(later.ledger) == 4
    at_once = coordinator()
    for number in range(4):
        at_once.aggregate(export(number))
    later.tick()
    assert served(later) == served(at_once) != cold
    assert knowledge(later) == knowledge(at_once)


def test_learning_in_slices_comes_to_the_same():
    later, at_once = coordinator(), coordinator()
    for number in range(4):
        later.aggregate(export(number), learn=False)
        at_once.aggregate(export(number))
    left = []
    while later.unlearned:
        left.append(later.unlearned)
        later.tick(seconds=0.0)  # one export, whatever the time
    assert left == [4, 3, 2, 1]
    assert served(later) == served(at_once)


def test_it_is_learned_after_a_restart_too(tmp_path):
    first = coordinator(tmp_path / "c.db")
    first.aggregate(export(0))
    first.force_consolidate()
    first.aggregate(export(1), learn=False)
    first.close()
    again, at_once = coordinator(tmp_path / "c.db"), coordinator()
    at_once.aggregate(export(0))
    at_once.force_consolidate()
    at_once.aggregate(export(1))
    assert served(again) == served(at_once)
    again.close()


def test_a_snapshot_says_only_what_it_knows(tmp_path):
    of = coordinator(tmp_path / "c.db")
    of.aggregate(export(0))
    of.aggregate(export(1), learn=False)
    of.snapshot()
    of.close()
    again = coordinator(tmp_path / "c.db")
    expected = coordinator()
    expected.aggregate(export(0))
    expected.aggregate(export(1))
    assert served(again) == served(expected)
    again.close()


@pytest.mark.parametrize("learn", [True, False])
def test_many_threads_commit_while_one_learns(learn):
    of = FederatedCoordinator("c", SonaConfig.for_coordinator(hidden_dim=DIM))
    of.consolidation_interval = 7
    done = threading.Event()

    def learner():
        while not done.is_set():
            of.tick()

    thread = threading.Thread(target=learner)
    thread.start()
    workers = [
        threading.Thread(target=lambda n=n: [of.aggregate(export(i), learn=learn) for i in n])
        for n in (range(8), range(4, 12), range(8, 16))
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    done.set()
    thread.join()
    of.tick()
    expected = coordinator()
    for number in range(16):
        expected.aggregate(export(number))
    assert of.agent_count == 16
    assert knowledge(of) == knowledge(expected)

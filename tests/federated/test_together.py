"""Writers that wait at the same time share a transaction; a bad one spoils no other."""

import os
import re
import sqlite3
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from sona import SonaConfig
from sona.errors import SonaError, StoreError
from sona.federated import AgentExport, FederatedCoordinator, TrajectoryExport
from sona.federated.sqlite import SqliteDatabase
from sona.federated.store import Store

CONFIG = SonaConfig.for_coordinator(hidden_dim=4)
AGENTS = [f"agent-{number}" for number in range(6)]


class Counting(SqliteDatabase):
    """Counts the transactions that were begun."""

    begun = 0

    def writing(self):
        self.begun += 1
        return super().writing()


@pytest.fixture
def database(tmp_path):
    return Counting(os.fspath(tmp_path / "store.db"))


@pytest.fixture
def coordinator(database):
    with_store = FederatedCoordinator("c", CONFIG, Store(database))
    yield with_store
    with_store.close()


def export(agent, rows=3):
    row = TrajectoryExport(np.eye(4)[0], 0.9, "a")
    return AgentExport(agent, [row] * rows)


def all_at_once(coordinator, exports):
    """Send them while another process writes, so that all wait for one turn."""
    path = coordinator.store.name.strip("'")
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")

    def send(one):
        try:
            return coordinator.aggregate(one, learn=False).ruling
        except StoreError:
            return "not committed"

    with ThreadPoolExecutor(len(exports)) as pool:
        sent = [pool.submit(send, one) for one in exports]
        while len(coordinator.store._together._waiting) < len(exports) - 1:
            time.sleep(0.005)
        assert not any(future.done() for future in sent)  # nothing is told before its commit
        other.execute("COMMIT")
        other.close()
        return [future.result() for future in sent]


def test_those_who_wait_share_one_transaction(coordinator, database):
    told = all_at_once(coordinator, [export(agent) for agent in AGENTS])
    assert told == ["accepted"] * len(AGENTS)
    assert database.begun == 2  # the first one's own, and that of all who came meanwhile
    assert sorted(coordinator.contributions) == AGENTS
    assert sorted(e.agent_id for e in coordinator.exports) == AGENTS


def test_of_equal_exports_that_are_committed_together_one_is_new(coordinator):
    told = all_at_once(coordinator, [export("twin") for _ in range(5)])
    assert sorted(told) == ["accepted", *["duplicate"] * 4]
    assert coordinator.total_trajectories == 3


def test_one_that_cannot_be_written_spoils_no_other(coordinator, database):
    coordinator.aggregate(export("first"))
    with database.writing() as run:
        run(f"PRAGMA max_page_count={run('PRAGMA page_count')[0][0] + 12}")
    big = export("big", rows=5_000)
    told = all_at_once(coordinator, [export("a"), big, *map(export, "bcd")])
    assert told == ["accepted", "not committed", *["accepted"] * 3]
    assert sorted(coordinator.contributions) == ["a", "b", "c", "d", "first"]
    assert coordinator.store.check() == []


def test_a_batch_is_committed_as_one_and_told_one_by_one(coordinator, database):
    nan = AgentExport("nan", [TrajectoryExport(np.full(4, np.nan), 0.9, "a")])
    wide = AgentExport("wide", [TrajectoryExport(np.eye(5)[0], 0.9, "a")])
    batch = [export("a"), nan, export("b", 2), wide, export("a"), export("b", 5)]
    before, single = database.begun, FederatedCoordinator("c", CONFIG)
    judged = []
    for one in batch:
        if one in (nan, wide):
            with pytest.raises(SonaError) as refused:
                coordinator.judge(one)
            with pytest.raises(type(refused.value), match=re.escape(str(refused.value))):
                single.aggregate(one, learn=False)
        else:
            judged.append(coordinator.judge(one))
    told = coordinator.aggregate_all(judged)
    assert database.begun == before + 1  # judging records nothing
    for one, said in zip(judged, told, strict=True):
        expected = single.aggregate(one.export, learn=False)
        assert (said.ruling, said.reasons) == (expected.ruling, expected.reasons)
        assert said.trajectories_accepted == expected.trajectories_accepted
    assert coordinator.ledger == single.ledger
    assert coordinator.unlearned == 2
    coordinator.tick()
    assert coordinator.unlearned == 0
    assert coordinator.aggregate_all([]) == []


def test_one_of_a_batch_that_cannot_be_written_spoils_no_other(coordinator, database):
    coordinator.aggregate(export("first"))
    with database.writing() as run:
        run(f"PRAGMA max_page_count={run('PRAGMA page_count')[0][0] + 12}")
    batch = [export("a"), export("big", rows=5_000), export("b")]
    told = coordinator.aggregate_all([coordinator.judge(one) for one in batch])
    assert [getattr(said, "ruling", type(said)) for said in told] == [
        "accepted",
        StoreError,
        "accepted",
    ]
    assert sorted(coordinator.contributions) == ["a", "b", "first"]


def test_an_interrupted_writer_leaves_the_others_their_turn(coordinator):
    together, begun = coordinator.store._together, threading.Event()

    def interrupted(run):
        begun.set()
        while not together._waiting:
            time.sleep(0.005)
        raise KeyboardInterrupt

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(together.commit, interrupted)
        begun.wait()
        second = pool.submit(coordinator.aggregate, export("patient"))
        with pytest.raises(KeyboardInterrupt):
            first.result()
        assert second.result().ruling == "accepted"


def test_readers_do_not_wait_for_a_writer(coordinator, database):
    coordinator.aggregate(export("before"))
    with database.writing() as run:
        run("DELETE FROM sessions")
        assert len(coordinator.store.changes(0).sessions) == 1
        assert coordinator.store.decisions()[0].agent_id == "before"
    assert coordinator.store.changes(0).sessions == []

"""The store: durable, exact under several writers, and alive after damage. On every database."""

import gc
import os
import shutil
import sqlite3
import subprocess
import sys
import textwrap
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from sona import SonaConfig
from sona.errors import MissingExtraError, RangeError, StoreError, VersionError
from sona.federated import AgentExport, FederatedCoordinator, TrajectoryExport
from sona.federated.database import SCHEMA, SCHEMA_VERSION
from sona.federated.sqlite import SqliteDatabase
from sona.federated.store import Store, open_store

DIM = 4
CONFIG = SonaConfig.for_coordinator(hidden_dim=DIM)
V1 = Path(__file__).parent / "data" / "store_v1.db"


def export(agent="agent-1", count=6, axis=0, timestamp=1000, started=0, route="a"):
    rng = np.random.default_rng([axis, count])
    rows = [
        TrajectoryExport(np.eye(DIM)[axis] + 0.1 * noise, 0.9, route, (), timestamp + i)
        for i, noise in enumerate(rng.standard_normal((count, DIM)))
    ]
    return AgentExport(agent, rows, None, timestamp - started, timestamp)


def fingerprint(coordinator):
    engine = coordinator.master_engine
    return (
        str(coordinator.stats()),
        [(p.id, p.centroid.tobytes(), repr(p.routes)) for p in coordinator.get_all_patterns()],
        engine.apply_micro_lora(np.eye(DIM, dtype=np.float32)).tobytes(),
    )


@pytest.fixture(scope="session")
def postgres(tmp_path_factory):
    pgserver = pytest.importorskip("pgserver", reason="pgserver has no wheel for this platform")
    server = pgserver.get_server(tmp_path_factory.mktemp("postgres"), cleanup_mode="delete")
    yield server
    server.cleanup()


@pytest.fixture(params=["sqlite", "private", "postgres"])
def where(request, tmp_path):
    if request.param == "sqlite":
        return tmp_path / "store.db"
    if request.param == "private":
        return None
    server = request.getfixturevalue("postgres")
    server.psql("DROP SCHEMA IF EXISTS sona CASCADE;")
    return server.get_uri()


@pytest.fixture(params=["sqlite", "postgres"])
def durable(request, tmp_path):
    if request.param == "sqlite":
        return tmp_path / "store.db"
    server = request.getfixturevalue("postgres")
    server.psql("DROP SCHEMA IF EXISTS sona CASCADE;")
    return server.get_uri()


def test_every_decision_is_remembered(where):
    coord = FederatedCoordinator("c", CONFIG, where)
    coord.aggregate(export(count=3))
    coord.aggregate(export(count=3))
    coord.aggregate(export(count=5, timestamp=2000))
    with pytest.raises(RangeError):
        coord.aggregate(AgentExport("bad", [TrajectoryExport([np.nan] * DIM, 0.5)]))
    coord.withdraw("agent-1")
    coord.aggregate(export(count=5, timestamp=2000))
    told = coord.decisions()
    assert [d.ruling for d in told] == [
        "withdrawn",
        "refused",
        "superseded",
        "duplicate",
        "accepted",
    ]
    assert "not finite" in next(iter(told[1].reasons))
    assert [d.number for d in coord.decisions(2, before=told[2].number)] == [2, 1]
    coord.close()


def test_a_restart_knows_the_snapshot_and_what_came_after_it(durable):
    first = FederatedCoordinator("c", CONFIG, durable)
    for axis in range(3):
        first.aggregate(export(f"agent-{axis}", axis=axis))
    first.force_consolidate()
    consolidated = fingerprint(first)
    first.close()
    second = FederatedCoordinator("c", CONFIG, durable)
    assert fingerprint(second) == consolidated
    assert second.metrics.consolidations == 0  # read, not learned again
    second.aggregate(export("agent-3", axis=3))
    later = fingerprint(second)
    second.close()
    third = FederatedCoordinator("c", CONFIG, durable)
    assert fingerprint(third) == later
    assert third.aggregate(export("agent-3", axis=3)).duplicate
    third.force_consolidate()
    whole = FederatedCoordinator("c", CONFIG)
    for axis in range(4):
        whole.aggregate(export(f"agent-{axis}", axis=axis))
    whole.force_consolidate()
    assert fingerprint(third) == fingerprint(whole)
    third.close()


def test_two_coordinators_on_one_store_count_everything_once(durable):
    one, two = (FederatedCoordinator(name, CONFIG, durable) for name in "ab")
    one.aggregate(export("agent-1", axis=0))
    result = two.aggregate(export("agent-1", axis=0))
    assert result.duplicate
    assert result.total_trajectories == 6
    two.aggregate(export("agent-2", axis=1))
    two.withdraw("agent-1")
    assert one.tick() is None
    assert one.total_trajectories == two.total_trajectories == 6
    one.force_consolidate()
    two.force_consolidate()
    assert fingerprint(one)[1:] == fingerprint(two)[1:]
    one.close()
    two.close()


def test_a_store_that_another_process_is_making_is_waited_for(tmp_path):
    path = os.fspath(tmp_path / "store.db")
    other = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    done = threading.Timer(0.2, other.execute, ("COMMIT",))
    done.start()
    FederatedCoordinator("c", SonaConfig.for_coordinator(hidden_dim=4), store=path)
    done.join()
    other.close()


def test_processes_on_one_store_neither_lose_nor_double(durable):
    code = textwrap.dedent(
        """
        import sys
        import numpy as np
        from sona import SonaConfig
        from sona.federated import AgentExport, FederatedCoordinator, TrajectoryExport
        coord = FederatedCoordinator("c", SonaConfig.for_coordinator(hidden_dim=4), sys.argv[1])
        for i in range(15):
            rows = [TrajectoryExport(np.eye(4)[i % 4], 0.9, "a", (), i)]
            coord.aggregate(AgentExport(f"agent-{i}", rows))
            coord.aggregate(AgentExport(f"{sys.argv[2]}-{i}", rows))
        """
    )
    running = [
        subprocess.Popen([sys.executable, "-c", code, os.fspath(durable), name]) for name in "xy"
    ]
    assert [process.wait() for process in running] == [0, 0]
    coord = FederatedCoordinator("c", CONFIG, durable)
    assert coord.agent_count == coord.total_trajectories == 45
    assert sum(d.ruling == "duplicate" for d in coord.decisions(1000)) == 15
    assert coord.store.check() == []
    coord.close()


def test_threads_on_one_coordinator_neither_lose_nor_double(durable):
    coord = FederatedCoordinator("c", CONFIG, durable)
    sent = [export(f"agent-{number}", axis=number % DIM) for number in range(12)] * 3
    with ThreadPoolExecutor(8) as pool:
        told = Counter(pool.map(lambda one: coord.aggregate(one, learn=False).ruling, sent))
    assert told == {"accepted": 12, "duplicate": 24}
    assert coord.unlearned == 12
    assert [e.agent_id for e in coord.exports] == sorted({e.agent_id for e in sent})
    numbers = [held.sequence for held in coord.store.changes(0).sessions]
    assert numbers == sorted(set(numbers))
    coord.close()


def test_snapshots_are_listed_rolled_back_to_and_pruned(durable):
    coord = FederatedCoordinator("c", CONFIG, durable)
    coord.aggregate(export("good"))
    coord.force_consolidate()
    good = fingerprint(coord)[1:]
    version = coord.snapshots()[0].version
    coord.aggregate(export("odd", axis=1, route="b"))
    coord.force_consolidate()
    assert fingerprint(coord)[1:] != good
    coord.rollback(version)
    assert fingerprint(coord)[1:] == good
    coord.aggregate(export("late", axis=2))  # kept, not learned
    assert coord.agent_count == 3
    assert fingerprint(coord)[1:] == good
    coord.close()
    again = FederatedCoordinator("c", CONFIG, durable)
    assert fingerprint(again)[1:] == good
    again.consolidation_interval = 1
    assert not again.aggregate(export("later", axis=3)).consolidated
    again.force_consolidate()
    assert fingerprint(again)[1:] != good
    for _ in range(4):
        again.force_consolidate()
    assert len(again.snapshots()) == 3
    assert again.store.prune_snapshots(1) == 2
    with pytest.raises(RangeError, match="`version`"):
        again.rollback(version)
    again.close()


def test_withdrawing_is_exact_durable_and_final(where):
    coord = FederatedCoordinator("c", CONFIG, where)
    never = FederatedCoordinator("c", CONFIG)
    for agent in range(4):
        sent = export(f"agent-{agent}", axis=agent, route="ab"[agent % 2])
        coord.aggregate(sent)
        if agent != 2:
            never.aggregate(sent)
    coord.force_consolidate()
    never.force_consolidate()
    assert fingerprint(coord) != fingerprint(never)
    coord.withdraw("agent-2")
    assert fingerprint(coord) == fingerprint(never)
    if where is not None:
        coord.close()
        coord = FederatedCoordinator("c", CONFIG, where)
        assert fingerprint(coord) == fingerprint(never)
    assert coord.withdrawn == ["agent-2"]
    known = export("agent-2", axis=2)
    unknown = export("agent-2", axis=2, timestamp=5000, started=4000)
    for late in (known, unknown):
        result = coord.aggregate(late)
        assert (result.trajectories_accepted, result.trajectories_rejected) == (0, 6)
        assert result.reasons == {"agent or session was withdrawn": 6}
    coord.readmit("agent-2")
    for late in (known, unknown):
        assert coord.aggregate(late).trajectories_accepted == 0
    assert fingerprint(coord) == fingerprint(never)
    fresh = export("agent-2", axis=2, timestamp=9000, started=8000)
    assert coord.aggregate(fresh).trajectories_accepted == 6
    coord.close()


def test_a_damaged_export_is_reported_set_aside_and_survived(tmp_path):
    path = tmp_path / "store.db"
    coord = FederatedCoordinator("c", CONFIG, path)
    for axis in range(3):
        coord.aggregate(export(f"agent-{axis}", axis=axis))
    coord.close()
    with sqlite3.connect(path) as db:
        db.execute("UPDATE bodies SET body = substr(body, 1, 100) WHERE sequence = 2")
    db.close()
    assert any("agent-1" in line for line in open_store(path).check())
    again = FederatedCoordinator("c", CONFIG, path)
    again.force_consolidate()
    assert sorted(again.contributions) == ["agent-0", "agent-2"]
    assert again.total_trajectories == 12
    assert "agent-1" in again.store.faults()[0]
    assert not again.aggregate(export("agent-1", axis=1)).duplicate  # it may be sent again
    assert again.total_trajectories == 18
    again.close()


def test_a_damaged_snapshot_is_set_aside_and_the_one_before_it_used(tmp_path):
    path = tmp_path / "store.db"
    coord = FederatedCoordinator("c", CONFIG, path)
    coord.aggregate(export("agent-0"))
    coord.force_consolidate()
    coord.aggregate(export("agent-1", axis=1))
    before = fingerprint(coord)
    coord.force_consolidate()
    newest = coord.snapshots()[0].version
    coord.close()
    with sqlite3.connect(path) as db:
        body = db.execute("SELECT engine FROM snapshots WHERE version = ?", [newest]).fetchone()[0]
        spoilt = body[:-1] + bytes([body[-1] ^ 1])
        db.execute("UPDATE snapshots SET engine = ? WHERE version = ?", [spoilt, newest])
    db.close()
    again = FederatedCoordinator("c", CONFIG, path)
    assert fingerprint(again) == before
    assert again.metrics.consolidations == 0
    assert again.snapshots()[0].fault is not None
    assert any(f"snapshot {newest}" in line for line in again.store.check())
    with pytest.raises(ValueError, match="damaged"):
        again.rollback(newest)
    again.close()


def test_who_only_takes_in_reads_no_snapshot(tmp_path):
    path = tmp_path / "store.db"
    coord = FederatedCoordinator("c", CONFIG, path)
    coord.aggregate(export("agent-0"))
    coord.force_consolidate()
    coord.close()
    with sqlite3.connect(path) as db:
        db.execute("UPDATE snapshots SET engine = x'00'")
    db.close()
    again = FederatedCoordinator("c", CONFIG, path)
    assert not again.aggregate(export("agent-1", axis=1), learn=False).duplicate
    assert again.total_trajectories == 12
    assert again.snapshots()[0].fault is None
    assert again.metrics.consolidations == 0
    assert again.get_all_patterns()  # what was learned is asked for, found damaged, learned anew
    assert again.metrics.consolidations == 1
    again.close()


def test_a_full_disk_refuses_and_changes_nothing(tmp_path):
    database = SqliteDatabase(os.fspath(tmp_path / "store.db"))
    coord = FederatedCoordinator("c", CONFIG, Store(database))
    coord.aggregate(export("agent-0"))
    before = fingerprint(coord)
    with database.writing() as run:
        run(f"PRAGMA max_page_count={run('PRAGMA page_count')[0][0]}")
    with pytest.raises(StoreError, match="full"):
        coord.aggregate(export("agent-1", count=2_000, axis=1))
    assert fingerprint(coord) == before
    assert list(coord.contributions) == ["agent-0"]
    coord.force_consolidate()  # goes on without a snapshot
    with database.writing() as run:
        run("PRAGMA max_page_count=100000")
    assert not coord.aggregate(export("agent-1", count=2_000, axis=1)).duplicate
    assert coord.store.check() == []
    coord.close()


def test_a_store_that_cannot_be_written_refuses_and_changes_nothing(tmp_path):
    database = SqliteDatabase(os.fspath(tmp_path / "store.db"))
    coord = FederatedCoordinator("c", CONFIG, Store(database))
    coord.aggregate(export("agent-0"))
    before = fingerprint(coord)
    with database.writing() as run:
        run("PRAGMA query_only=1")  # what a disk that turned read-only answers
    with pytest.raises(StoreError, match="readonly"):
        coord.aggregate(export("agent-1", axis=1))
    with pytest.raises(StoreError):
        coord.withdraw("agent-0")
    with pytest.raises(RangeError):  # the reason is told although it cannot be recorded
        coord.aggregate(AgentExport("bad", [TrajectoryExport([np.nan] * DIM, 0.5)]))
    assert fingerprint(coord) == before
    coord.close()


def test_a_backup_restores_everything(tmp_path):
    coord = FederatedCoordinator("c", CONFIG, tmp_path / "store.db")
    for axis in range(3):
        coord.aggregate(export(f"agent-{axis}", axis=axis))
    coord.force_consolidate()
    before = fingerprint(coord)
    coord.store.backup(tmp_path / "copy.db")
    coord.aggregate(export("agent-3", axis=3))
    coord.store.restore(tmp_path / "copy.db")
    coord.close()
    again = FederatedCoordinator("c", CONFIG, tmp_path / "store.db")
    assert fingerprint(again) == before
    (tmp_path / "junk.db").write_bytes(b"no database" * 100)
    with pytest.raises(StoreError, match=r"junk\.db"):
        again.store.restore(tmp_path / "junk.db")
    with pytest.raises(StoreError, match=r"missing\.db"):
        again.store.restore(tmp_path / "missing.db")
    assert again.store.check() == []
    again.close()


def test_a_store_of_schema_version_1_is_brought_up(tmp_path):
    path = tmp_path / "store.db"
    shutil.copy(V1, path)
    coord = FederatedCoordinator("c", CONFIG, path)
    assert sorted(coord.contributions) == ["agent-0", "agent-1", "agent-2"]
    assert coord.total_trajectories == 24
    assert [e.rows for e in coord.exports] == [8, 8, 8]
    assert next(coord.exports).trajectories[0].context == ("v1",)
    coord.close()
    assert open_store(path).check() == []


def test_a_store_with_small_pages_and_an_index_for_every_number_serves_on(tmp_path):
    path = tmp_path / "store.db"
    db = sqlite3.connect(path, isolation_level=None)
    for statement in SCHEMA.split(";"):  # as stores of this schema were first made
        db.execute(statement)
    db.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
    db.close()
    coord, fresh = FederatedCoordinator("c", CONFIG, path), FederatedCoordinator("c", CONFIG)
    for number in range(3):
        assert coord.aggregate(export(f"agent-{number}")).ruling == "accepted"
        fresh.aggregate(export(f"agent-{number}"))
    assert coord.ledger == fresh.ledger
    assert coord.store.check() == []
    coord.store.backup(tmp_path / "copy.db")
    coord.close()
    new = open_store(tmp_path / "new.db")
    new.restore(tmp_path / "copy.db")  # whose pages are of another size
    new.close()
    again = FederatedCoordinator("c", CONFIG, tmp_path / "new.db")
    assert again.ledger == fresh.ledger
    assert again.store.check() == []
    again.close()


def test_the_log_is_moved_into_the_file_while_others_commit(tmp_path):
    path, log = tmp_path / "store.db", tmp_path / "store.db-wal"
    database = SqliteDatabase(os.fspath(path))
    for number in range(64):
        with database.writing() as run:
            run("INSERT INTO bodies VALUES (?, ?)", number, os.urandom(1 << 20))
        assert log.stat().st_size < 40 << 20
    assert path.stat().st_size > 24 << 20
    database.close()
    assert not log.exists()
    again = SqliteDatabase(os.fspath(path))
    assert again.read("SELECT count(*), sum(length(body)) FROM bodies") == [(64, 64 << 20)]
    assert again.check() == []
    again.close()


def test_a_damaged_row_does_not_stop_the_migration(tmp_path):
    path = tmp_path / "store.db"
    shutil.copy(V1, path)
    with sqlite3.connect(path) as db:
        db.execute("UPDATE exports SET body = x'00' WHERE agent_id = 'agent-1'")
    db.close()
    coord = FederatedCoordinator("c", CONFIG, path)
    assert sorted(coord.contributions) == ["agent-0", "agent-2"]
    assert "agent-1" in coord.store.faults()[0]
    coord.close()


def test_a_store_of_a_newer_release_or_of_something_else_is_refused(tmp_path):
    newer, other = tmp_path / "newer.db", tmp_path / "other.db"
    with sqlite3.connect(newer) as db:
        db.execute("PRAGMA user_version=99")
    db.close()
    with pytest.raises(VersionError, match="99"):
        open_store(newer)
    with sqlite3.connect(other) as db:
        db.execute("CREATE TABLE recipes (name TEXT)")
    db.close()
    with pytest.raises(StoreError, match="something else"):
        open_store(other)


def test_an_address_without_a_server_is_refused_without_its_password():
    with pytest.raises((StoreError, MissingExtraError)) as refused:
        open_store("postgresql://someone:secret@127.0.0.1:1/nowhere")
    assert "secret" not in str(refused.value)


def test_a_store_that_is_dropped_ends_its_thread(tmp_path):
    before = threading.active_count()
    database = SqliteDatabase(os.fspath(tmp_path / "store.db"))
    with database.writing() as run:
        run("INSERT INTO bodies VALUES (?, ?)", 1, bytes(8 << 20))
    assert threading.active_count() == before + 1
    del database, run
    gc.collect()
    until = time.monotonic() + 10.0
    while threading.active_count() > before and time.monotonic() < until:
        time.sleep(0.01)
    assert threading.active_count() == before

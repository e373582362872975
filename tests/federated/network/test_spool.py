"""What nobody acknowledged outlives its agent, and the next agent on the host hands it in."""

import os

import pytest
from tests.federated.network.fleet import OFF, coordinator, endpoint, export, held

from sona.errors import RangeError, StoreError, UnansweredError
from sona.federated import AgentExport, TrajectoryExport
from sona.federated.network import Link, Node
from sona.federated.spool import Spool


def test_the_next_agent_hands_in_what_was_left(tmp_path):
    where = endpoint()
    with (
        Link(where, "agent-1", security=OFF, spool=tmp_path, wait_s=0.1) as link,
        pytest.raises(UnansweredError, match="lies in the spool"),
    ):
        link.submit(export(1))
    assert list(Spool(tmp_path)) == [export(1)]
    with (
        Node(coordinator(), [where], security=OFF) as node,
        Link(where, "agent-2", security=OFF, spool=tmp_path) as link,
    ):
        link.submit(export(2))
        assert held(node.coordinator) == [export(1).export_id, export(2).export_id]
        assert os.listdir(tmp_path) == []
        link.submit(export(1))  # whoever hands it in once more does no harm
        assert len(held(node.coordinator)) == 2


def test_it_lies_there_before_the_agent_has_given_up(tmp_path):
    """An agent that is killed while it waits has left its export behind."""
    where = endpoint()
    seen = []

    class Watched(Spool):
        def put(self, export):
            seen.append(super().put(export))
            return seen[-1]

    with Link(where, "agent-1", security=OFF, wait_s=1.0) as link:
        link._spool = Watched(tmp_path)
        with pytest.raises(UnansweredError):
            link.submit(export(1))
    assert len(seen) == 1  # with the first silence, and once


def test_what_is_refused_leaves_the_spool_and_is_kept(tmp_path):
    where = endpoint()
    bad = AgentExport("agent-9", [TrajectoryExport([1.0, 0.0], 0.5)])
    spool = Spool(tmp_path)
    spool.put(bad)
    spool.put(export(3))
    with (
        Node(coordinator(), [where], security=OFF) as node,
        Link(where, "agent-2", security=OFF, spool=tmp_path) as link,
    ):
        link.submit(export(2))
        assert len(held(node.coordinator)) == 2
    assert sorted(name.rpartition(".")[2] for name in os.listdir(tmp_path)) == ["refused", "why"]


def test_a_later_export_of_a_session_takes_the_place_of_an_earlier(tmp_path):
    early, late = export(1, rows=6, timestamp=1010), export(1, rows=12, timestamp=1020)
    assert early.session == late.session
    spool = Spool(tmp_path)
    spool.put(late)
    spool.put(early)
    assert list(spool) == [late]
    spool.discard(early)  # only what was acknowledged goes
    assert len(spool) == 1
    spool.discard(late)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("agent_id", ["../../etc/passwd", "a/b", ".", "ü" * 1000, "a" * 1024])
def test_any_name_is_a_file_in_the_directory(tmp_path, agent_id):
    spool = Spool(tmp_path / "spool")
    path = spool.put(export(1, agent_id))
    assert os.path.dirname(path) == str(tmp_path / "spool")
    assert list(spool) == [export(1, agent_id)]


def test_a_damaged_file_is_reported_and_kept(tmp_path, caplog):
    spool = Spool(tmp_path)
    path = spool.put(export(1))
    with open(path, "r+b") as stream:
        stream.truncate(100)
    assert list(spool) == []
    assert "is set aside" in caplog.text
    name = os.path.basename(path)
    assert sorted(os.listdir(tmp_path)) == [f"{name}.refused", f"{name}.why"]


def test_a_directory_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="`spool`"):
        Spool(tmp_path / "file" / "spool")
    with pytest.raises(RangeError, match="`wait_s`"):
        Link(endpoint(), "agent", security=OFF, wait_s=-1.0)


def test_a_full_spool_refuses(tmp_path, monkeypatch):
    monkeypatch.setattr("sona.federated.spool.MAX_BYTES", 2_000)
    spool = Spool(tmp_path)
    spool.put(export(1))
    with pytest.raises(StoreError, match="may hold 2000 bytes"):
        spool.put(export(2))
    assert list(spool) == [export(1)]

"""A star on loopback: the four verbs, and everything that may go wrong with a question."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import zenoh
from tests.federated.network.fleet import (
    CONFIG,
    OFF,
    ROOT,
    Process,
    coordinator,
    endpoint,
    eventually,
    export,
    held,
    knowledge,
    one_over,
)

from sona.errors import (
    LinkError,
    RangeError,
    SecurityError,
    ShapeError,
    StoreError,
    UnansweredError,
)
from sona.federated import AgentExport, EphemeralAgent, TrajectoryExport
from sona.federated.network import Link, Node, keys
from sona.federated.network.backoff import attempts
from sona.federated.network.line import Line
from sona.federated.network.link import TIMEOUT_S


@pytest.fixture
def star():
    where = endpoint()
    with Node(coordinator(), [where], security=OFF) as node:
        yield where, node


def test_an_agent_starts_warm_and_hands_in(star):
    where, node = star
    with Link(where, "agent-1", security=OFF) as link:
        assert link.warm_start().version == 0
        result = link.submit(export(1))
        assert (result.agent_id, result.total_agents, result.duplicate) == ("agent-1", 1, False)
        assert result.trajectories_accepted + result.trajectories_rejected == 12
        eventually(lambda: link.warm_start().version == 12)  # it is learned after it is committed
        warm = link.warm_start()
        assert EphemeralAgent("agent-2", CONFIG, warm).route([1, 0, 0, 0, 0, 0]).route in "abc"
        assert len(link.warm_start(k=1).patterns) == 1
        assert link.publish() == 0
    assert held(node.coordinator) == [export(1).export_id]


def test_presence_is_who_is_linked_now(star):
    where, _ = star
    with Link(where, "web/1", security=OFF) as first:
        with Link(where, "batch *", security=OFF) as second:
            second.warm_start()
            eventually(lambda: first.presence() == {"coordinator": ["batch *", "web/1"]})
        eventually(lambda: first.presence() == {"coordinator": ["web/1"]})


def test_what_the_coordinator_refuses_is_raised_here(star):
    where, node = star
    with Link(where, "agent", security=OFF) as link:
        with pytest.raises(ShapeError, match=r"shape \(6,\); got \(2,\)"):
            link.submit(AgentExport("agent", [TrajectoryExport([1.0, 0.0], 0.5)]))
        with pytest.raises(RangeError, match="`k`"):
            link.warm_start(k=0)
        assert link.submit(export(1)).total_agents == 1  # the link is as good as before
    assert len(held(node.coordinator)) == 1


def test_nobody_hands_in_under_another_name(star):
    where, node = star
    line = Line(connect=[where], alive=keys.alive("agent", "mallory"), security=OFF)
    with pytest.raises(RangeError, match=r"`export\.agent_id` must be 'mallory'"):
        line.ask(keys.submit("mallory"), export(1).to_bytes(), TIMEOUT_S)
    line.close()
    assert held(node.coordinator) == []


def test_a_damaged_message_is_refused_and_the_node_lives_on(star):
    where, _ = star
    line = Line(connect=[where], alive=keys.alive("agent", "agent-1"), security=OFF)
    body = bytearray(export(1).to_bytes())
    body[-1] ^= 1
    for bad in (b"", b"\x00" * 100, bytes(body)):
        with pytest.raises(ValueError, match=r"`data`"):
            line.ask(keys.submit("agent-1"), bad, TIMEOUT_S)
    assert line.ask(keys.submit("agent-1"), export(1).to_bytes(), TIMEOUT_S)
    line.close()


def test_no_receiver_is_unknown_and_asked_again():
    where = endpoint()
    with Link(where, "agent-1", security=OFF, wait_s=60.0) as link:
        answers = []
        thread = threading.Thread(target=lambda: answers.append(link.submit(export(1))))
        thread.start()
        time.sleep(0.3)
        assert not answers
        with Node(coordinator(), [where], security=OFF):  # it comes up while the agent waits
            thread.join(timeout=60)
        assert answers[0].duplicate is False
    with Link(where, "agent-1", security=OFF, wait_s=0.1) as link:
        with pytest.raises(UnansweredError, match="gave up after"):
            link.submit(export(1))
        with pytest.raises(TimeoutError):
            link.warm_start()


def test_an_empty_reply_is_no_acknowledgement():
    # A node that answers other questions, but has nobody for this one.
    where = endpoint()
    line = Line(listen=[where], alive=keys.alive("node", "idle"), security=OFF)
    line.session()
    with (
        Link(where, "agent-1", security=OFF, wait_s=0.2) as link,
        pytest.raises(UnansweredError, match="nobody answers"),
    ):
        link.submit(export(1))
    line.close()


def test_only_a_reply_to_what_was_asked_counts():
    where = endpoint()
    line = Line(listen=[where], alive=keys.alive("node", "confused"), security=OFF)

    def answer_something_else(query):
        with query:
            query.reply("sona/1/submit/agent-2", b"{}")

    line.session().declare_queryable(keys.SUBMIT, answer_something_else)
    asker = Line(connect=[where], alive=keys.alive("agent", "a"), security=OFF)
    # The engine refuses a reply outside the question; with a wildcard it lets it through.
    for question in (keys.submit("agent-1"), keys.SUBMIT):
        with pytest.raises(UnansweredError):
            asker.ask(question, b"", 0.5)
    asker.close()
    line.close()


def test_a_time_out_is_not_a_failure(tmp_path):
    """The node commits and is stopped before it answers: the retry finds it stored, once."""
    where, store = endpoint(), tmp_path / "star.db"
    process = Process("coordinator", "--listen", where, store=store)
    line = Line(connect=[where], alive=keys.alive("agent", "agent-1"), security=OFF)
    line.ask(keys.WARM, b"", TIMEOUT_S)
    os.kill(process.pid, signal.SIGSTOP)
    with pytest.raises(UnansweredError, match=r"no answer to .* within 0.2 s"):
        line.ask(keys.submit("agent-1"), export(1).to_bytes(), 0.2)
    os.kill(process.pid, signal.SIGCONT)
    line.close()
    with Link(where, "agent-1", security=OFF) as link:
        result = link.submit(export(1))
        assert (result.total_agents, result.duplicate) == (1, True)
    assert process.stop() == 0
    assert held(store) == [export(1).export_id]


def test_a_store_that_fails_is_asked_again(tmp_path):
    class Full:
        def __init__(self, inner):
            self.failures = 2
            self.inner = inner

        def __getattr__(self, name):
            return getattr(self.inner, name)

        def aggregate_all(self, judged):
            if self.failures:
                self.failures -= 1
                raise StoreError("`store`: the disk is full")
            return self.inner.aggregate_all(judged)

    where = endpoint()
    with (
        Node(Full(coordinator()), [where], security=OFF),
        Link(where, "agent-1", security=OFF) as link,
    ):
        assert link.submit(export(1)).duplicate is False
    with (
        Node(Full(coordinator()), [where], security=OFF),
        Link(where, "agent-1", security=OFF, wait_s=0.0) as link,
        pytest.raises(UnansweredError, match="disk is full"),
    ):
        link.submit(export(1))


def test_a_burst_is_acknowledged_whole(star):
    where, node = star
    node.coordinator.consolidation_interval = 1_000  # learning is not what is tested here
    exports = [export(number) for number in range(200)]
    with Link(where, "host", security=OFF) as link, ThreadPoolExecutor(32) as pool:
        results = list(pool.map(link.submit, exports))
    assert not any(result.duplicate for result in results)
    assert sorted(held(node.coordinator)) == sorted(made.export_id for made in exports)
    assert TIMEOUT_S >= 30.0


def test_every_duplicate_is_counted_once(star):
    where, node = star
    exports = [export(number % 5) for number in range(40)]
    with Link(where, "host", security=OFF) as link, ThreadPoolExecutor(8) as pool:
        results = list(pool.map(link.submit, exports))
    assert sum(not result.duplicate for result in results) == 5
    assert knowledge(node.coordinator) == one_over(exports[:5])


def test_attempts_back_off_with_jitter(monkeypatch):
    slept = []
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(
        time, "sleep", lambda s: (slept.append(s), clock.__setitem__(0, clock[0] + s + 0.001))
    )
    lefts = list(attempts(60.0))
    assert lefts == sorted(lefts, reverse=True)
    assert len(set(slept)) > 5
    assert max(slept) <= 5.0
    assert sum(slept[:4]) < 1.0  # quick at first
    assert list(attempts(0.0)) == [0.0]  # once, at least


def test_a_message_that_the_node_would_drop_is_refused_here(star, monkeypatch):
    monkeypatch.setattr("sona.federated.network.line.MAX_MESSAGE", 1_000)
    with (
        Link(star[0], "agent-1", security=OFF) as link,
        pytest.raises(RangeError, match="at most 1000 bytes"),
    ):
        link.submit(export(1))


FORK = """
    import os, sys
    from sona.federated.network import Link, Node, Security
    from sona.errors import ForkError
    from tests.federated.network.fleet import coordinator, endpoint, export
    off = Security.off()
    where = sys.argv[1]
    link = Link(where, "agent-1", security=off)
    if sys.argv[2] == "used":
        link.warm_start()
    child = os.fork()
    if child == 0:
        try:
            print(link.submit(export(1)).total_agents, flush=True)
            link.close()
        except ForkError as error:
            print("refused:", error, flush=True)
        os._exit(0)
    os.waitpid(child, 0)
    link.close()
"""


@pytest.mark.parametrize(("before", "told"), [("unused", "1"), ("used", "refused: ")])
def test_a_forked_child_opens_its_own_session_or_is_told(star, before, told):
    where, _ = star
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(FORK), where, before],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=ROOT,
    )
    assert done.stdout.startswith(told), done.stderr


@pytest.mark.parametrize(
    ("where", "error", "match"),
    [
        ("127.0.0.1:7447", LinkError, "tcp/HOST:PORT"),
        ("udp/127.0.0.1:7447", LinkError, "tcp/HOST:PORT"),
        ("tcp/127.0.0.1:0", LinkError, "tcp/HOST:PORT"),
        ("tcp/10.0.0.1:7447", SecurityError, "loopback"),
        ("tcp/127.evil.example:7447", SecurityError, "loopback"),
        ("tls/127.0.0.1:7447", SecurityError, "security file"),
    ],
)
def test_endpoints_are_explicit_and_loopback_where_security_is_off(where, error, match):
    with pytest.raises(error, match=match):
        Link(where, "agent", security=OFF)
    with pytest.raises(error, match=match):
        Node(coordinator(), [where], security=OFF)


def test_a_link_needs_an_endpoint_and_a_node_a_free_port(star):
    with pytest.raises(LinkError, match="at least one endpoint"):
        Link([], "agent", security=OFF)
    with pytest.raises(LinkError, match="cannot open"):
        Node(coordinator(), [star[0]], security=OFF)


def test_scouting_is_off_on_both_sides(star):
    where, node = star
    link = Link(where, "agent", security=OFF)
    for line in (node._line, link._line):
        assert line._settings["scouting/multicast/enabled"] is False
        assert line._settings["scouting/gossip/enabled"] is False
    hello = zenoh.scout(what="router|peer")
    time.sleep(0.3)
    assert hello.try_recv() is None
    hello.stop()


def test_the_next_of_several_endpoints_stands_in():
    first, second = endpoint(), endpoint()
    down = Node(coordinator("first"), [first], security=OFF)
    with Node(coordinator("second"), [second], security=OFF) as up:
        with Link([first, second], "agent-1", security=OFF) as link:
            assert link.submit(export(1)).total_agents == 1
            down.close()
            result = link.submit(export(2, "agent-1"))
            assert result.total_agents == 1
        assert held(up.coordinator) == [export(2, "agent-1").export_id]

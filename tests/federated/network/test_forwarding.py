"""Regions that forward: nothing acknowledged is lost or doubled, whoever is killed or away."""

import pytest
from tests.federated.network.fleet import (
    OFF,
    Process,
    coordinator,
    endpoint,
    eventually,
    export,
    held,
    knowledge,
    one_over,
)

from sona.cli import main
from sona.errors import RangeError
from sona.federated.network import Forwarding, Link, Node


def region(name, where, above):
    return Node(
        coordinator(name),
        [where],
        security=OFF,
        exchange=Forwarding(above, name, security=OFF, interval_s=0.5),
    )


@pytest.mark.parametrize("count", [1, 2, 4])
def test_regions_end_with_what_one_coordinator_knows(count):
    above, wheres = endpoint(), [endpoint() for _ in range(count)]
    exports = [export(number) for number in range(9)]
    with Node(coordinator("global"), [above], security=OFF) as top:
        regions = [region(f"region-{n}", where, above) for n, where in enumerate(wheres)]
        for number, made in enumerate(reversed(exports)):
            with Link(wheres[number % count], made.agent_id, security=OFF) as link:
                link.submit(made)
                link.submit(made)
        for where in wheres:
            with Link(where, "operator", security=OFF) as link:
                link.publish()
        with Link(above, "operator", security=OFF) as link:
            assert link.presence()["global"] == [
                *sorted(["operator", *(f"region-{n}" for n in range(count))])
            ]
        for node in regions:
            node.close()
        assert knowledge(top.coordinator) == one_over(exports)


def test_an_agent_of_one_region_starts_with_what_all_know():
    above, here, there = endpoint(), endpoint(), endpoint()
    with (
        Node(coordinator("global"), [above], security=OFF),
        region("here", here, above),
        region("there", there, above),
        Link(here, "agent-1", security=OFF) as link,
        Link(there, "agent-2", security=OFF) as other,
    ):
        link.submit(export(1))
        link.publish()
        eventually(lambda: other.warm_start().version == 12)
        assert other.warm_start().source == "global"


def test_a_region_killed_after_acknowledging_forwards_when_it_is_back(tmp_path):
    above, where = endpoint(), endpoint()
    store = tmp_path / "north.db"
    arguments = ("--listen", where, "--region", "north", "--upstream", above)
    process = Process("coordinator", *arguments, store=store)  # the one above is down
    with Link(where, "host", security=OFF) as link:
        for number in range(3):
            link.submit(export(number))
    process.kill()
    with Node(coordinator("global"), [above], security=OFF) as top:
        process.start()
        eventually(lambda: len(held(top.coordinator)) == 3)
        with Link(where, "host", security=OFF) as link:
            assert link.submit(export(1)).duplicate
            assert link.publish() == 0
        assert process.stop() == 0
        assert knowledge(top.coordinator) == one_over([export(n) for n in range(3)])
    assert held(store) == [export(n).export_id for n in range(3)]


def test_a_region_goes_on_while_the_one_above_is_away(tmp_path):
    above, where = endpoint(), endpoint()
    process = Process("coordinator", "--listen", above, store=tmp_path / "global.db")
    with region("north", where, above), Link(where, "host", security=OFF) as link:
        link.submit(export(0))
        link.publish()
        process.kill()
        for number in range(1, 4):
            assert not link.submit(export(number)).duplicate
        process.start()
        eventually(lambda: link.publish() == 0)
    process.stop()
    assert held(tmp_path / "global.db") == [export(n).export_id for n in range(4)]


def test_what_is_refused_above_does_not_hold_up_the_rest(caplog):
    class Choosy:
        def __init__(self, inner):
            self.inner = inner

        def __getattr__(self, name):
            return getattr(self.inner, name)

        def aggregate_all(self, judged):
            if judged[0].export.agent_id == "agent-1":
                return [RangeError("`export` must be somebody else's")]
            return self.inner.aggregate_all(judged)

    above, where = endpoint(), endpoint()
    top = coordinator("global")
    with (
        Node(Choosy(top), [above], security=OFF),
        region("north", where, above) as north,
    ):
        for number in range(3):
            north.take_in(export(number))
        north.publish()
        assert held(top) == [export(0).export_id, export(2).export_id]
    assert caplog.text.count("was refused above") == 1


@pytest.mark.parametrize("at", ["global", "north"])
def test_who_is_withdrawn_anywhere_is_withdrawn_everywhere(at):
    above, here, there = endpoint(), endpoint(), endpoint()
    with (
        Node(coordinator("global"), [above], security=OFF) as top,
        region("north", here, above) as north,
        region("south", there, above) as south,
    ):
        north.take_in(export(1))
        south.take_in(export(2))
        for node in (north, south):
            node.publish()
        {"global": top, "north": north}[at].coordinator.withdraw("agent-1")
        eventually(lambda: held(top.coordinator) == held(south.coordinator))
        eventually(lambda: held(north.coordinator) == [])
        # It is handed in again where nobody has heard of it, and stays out all the same.
        eventually(lambda: south.coordinator.withdrawn == ["agent-1"])
        assert south.take_in(export(1)).ruling == "withdrawn"
        assert knowledge(top.coordinator) == one_over([export(2)])


@pytest.mark.parametrize(
    ("line", "match"),
    [
        ("coordinator --region north --insecure", "--region and --upstream go together"),
        ("coordinator --insecure --listen tcp/0.0.0.0:7447", "loopback only"),
        ("coordinator --security missing.toml", "No such file"),
        ("peer --name a --neighbour nowhere --insecure", "tcp/HOST:PORT"),
    ],
)
def test_commands_say_what_is_missing(line, match, tmp_path, capsys):
    store = str(tmp_path / "x.db")
    assert main([*line.split(), "--listen", endpoint(), "--store", store]) == 1
    assert match in capsys.readouterr().err

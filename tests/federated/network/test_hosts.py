"""Hosts that fail: killed, cut off, slow. Nothing acknowledged is missing or counted twice."""

import sqlite3
from contextlib import closing

import pytest
from tests.federated.network.certificates import Authority
from tests.federated.network.fleet import (
    Process,
    coordinator,
    eventually,
    export,
    held,
    knowledge,
    one_over,
)
from tests.federated.network.hosts import Lan, why_not

pytestmark = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))

PORT = 7447

# What runs on an agent's host: hand in some exports, some of them twice.
AGENTS = """
    import sys
    from sona.federated.network import Link, Security
    from tests.federated.network.fleet import export
    where, file, *numbers = sys.argv[1:]
    with Link(where, "host", security=Security.from_file(file), wait_s=90.0) as link:
        for number in map(int, numbers):
            print(link.submit(export(number)).duplicate)
"""


@pytest.fixture
def lan():
    made = Lan()
    yield made
    made.close()


@pytest.fixture
def fleet(lan, tmp_path):
    """Starts nodes on hosts of their own, and ends them."""
    authority = Authority(tmp_path)
    processes = {}

    class Fleet:
        def where(self, host):
            return f"tls/{lan.address(host)}:{PORT}"

        def start(self, command, name, host, *arguments, nodes=()):
            file = authority.file(
                name, host=lan.address(host), agents=[("agents", ["*"])], nodes=nodes
            )
            processes[name] = Process(
                command,
                *("--listen", self.where(host), *arguments),
                store=tmp_path / f"{name}.db",
                prefix=lan.on(host),
                trust=("--security", str(file)),
            )
            return processes[name]

        def submit(self, host, to, *numbers):
            file = authority.file("agents", host=lan.address(host))
            return lan.run(host, AGENTS, self.where(to), file, *numbers).split()

        def stop(self):
            for process in processes.values():
                assert process.stop() == 0

    yield Fleet()
    for process in processes.values():
        process._process.kill()
        process._wait()


def count(process):
    """Exports in the store of a process that runs."""
    with closing(sqlite3.connect(f"file:{process.store}?mode=ro", uri=True)) as store:
        return store.execute("SELECT count(*) FROM bodies").fetchone()[0]


def knows_what_one_would(process, exports):
    opened = coordinator(store=process.store)
    assert sorted(held(opened)) == sorted(made.export_id for made in exports)
    assert knowledge(opened) == one_over(exports)
    opened.close()


def test_a_region_is_killed_and_the_one_above_is_away(lan, fleet):
    top, north = lan.host(), lan.host()
    upper = fleet.start("coordinator", "global", top, nodes=["north"])
    region = fleet.start(
        "coordinator", "north", north, "--region", "north", "--upstream", fleet.where(top)
    )
    assert fleet.submit(north, north, 0, 1) == ["False", "False"]
    eventually(lambda: count(upper) == 2)
    upper.kill()  # away for a while
    assert fleet.submit(north, north, 2, 1, 3) == ["False", "True", "False"]
    region.kill()  # after acknowledging, before forwarding
    upper.start()
    region.start()
    assert fleet.submit(north, north, 2, 4) == ["True", "False"]
    eventually(lambda: count(upper) == 5)
    fleet.stop()
    for process in (upper, region):
        knows_what_one_would(process, [export(n) for n in range(5)])


def test_a_slow_link_and_what_is_delivered_twice(lan, fleet):
    top, north, south = lan.host(), lan.host(), lan.host()
    upper = fleet.start("coordinator", "global", top, nodes=["north", "south"])
    for name, host in (("north", north), ("south", south)):
        fleet.start("coordinator", name, host, "--region", name, "--upstream", fleet.where(top))
    how = lan.slow(top)
    print(f"slowed by {how}")
    assert fleet.submit(north, north, 0, 1, 2) == ["False"] * 3
    assert fleet.submit(south, south, 2, 3) == ["False"] * 2  # 2 was handed in to both regions
    assert fleet.submit(south, top, 4, 0) in (["False", "True"], ["False", "False"])
    eventually(lambda: count(upper) == 5)
    fleet.stop()
    knows_what_one_would(upper, [export(n) for n in range(5)])


def test_peers_are_parted_and_find_each_other_again(lan, fleet):
    hosts = [lan.host() for _ in range(3)]
    peers = []
    for host in hosts:
        others = [other for other in hosts if other != host]
        neighbours = [part for other in others for part in ("--neighbour", fleet.where(other))]
        peers.append(
            fleet.start(
                *("peer", f"peer-{host}", host, "--name", f"peer-{host}", "--interval", "0.3"),
                *neighbours,
                nodes=[f"peer-{other}" for other in others],
            )
        )
    fleet.submit(hosts[0], hosts[0], 0)
    eventually(lambda: all(count(peer) == 1 for peer in peers))
    lan.cut(hosts[2])
    fleet.submit(hosts[0], hosts[0], 1)
    fleet.submit(hosts[2], hosts[2], 2, 3)
    eventually(lambda: count(peers[1]) == 2)
    assert count(peers[0]) == 2
    assert count(peers[2]) == 3
    lan.mend(hosts[2])
    eventually(lambda: all(count(peer) == 4 for peer in peers), within=90.0)
    fleet.stop()
    for peer in peers:
        knows_what_one_would(peer, [export(n) for n in range(4)])

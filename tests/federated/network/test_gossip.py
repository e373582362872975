"""Peers with nobody above them: whoever talks to whom, all end with the same."""

import random

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

from sona.errors import LinkError
from sona.federated.network import Gossip, Link, Node


def peer(number, wheres, neighbours, interval_s=60.0):
    name = f"peer-{number}"
    gossip = Gossip([wheres[n] for n in neighbours], name, security=OFF, interval_s=interval_s)
    return Node(coordinator(name), [wheres[number]], security=OFF, exchange=gossip)


@pytest.mark.parametrize("seed", [0, 1])
def test_eight_peers_in_any_order_end_with_what_one_coordinator_knows(seed):
    order = random.Random(seed)
    wheres = [endpoint() for _ in range(8)]
    exports = [export(number) for number in range(9)]
    peers = [
        peer(number, wheres, [(number + 1) % 8, order.choice([n for n in range(8) if n != number])])
        for number in range(8)
    ]
    for made in order.sample(exports, 9):
        for home in order.sample(range(8), 2):  # some hand in twice, to different peers
            with Link(wheres[home], made.agent_id, security=OFF) as link:
                link.submit(made)
    while len({tuple(held(node.coordinator)) for node in peers}) > 1:
        order.choice(peers).publish()
    assert knowledge(order.choice(peers).coordinator) == one_over(exports)
    assert peers[0].publish() == 0
    for node in peers:
        node.close()


def test_peers_find_each_other_after_a_partition(tmp_path):
    """A peer is killed, both sides go on, and it comes back: rounds of their own heal it."""
    wheres = [endpoint() for _ in range(2)]
    store = tmp_path / "peer-1.db"
    arguments = ("--name", "peer-1", "--listen", wheres[1], "--neighbour", wheres[0])
    process = Process("peer", *arguments, "--interval", "0.2", store=store)
    with peer(0, wheres, [1], interval_s=0.2) as first:
        with Link(wheres[1], "host", security=OFF) as link:
            link.submit(export(1))
            eventually(lambda: len(held(first.coordinator)) == 1)
            link.submit(export(2))
            process.kill()
        first.take_in(export(3))
        process.start()
        eventually(lambda: len(held(first.coordinator)) == 3)
        with Link(wheres[1], "host", security=OFF) as link:
            eventually(lambda: link.warm_start().version == 36)
        assert process.stop() == 0
        assert held(store) == held(first.coordinator)


def test_one_neighbour_that_is_away_holds_nobody_up():
    wheres = [endpoint() for _ in range(3)]  # the third is never started
    with peer(0, wheres, [2, 1]) as first, peer(1, wheres, [0]) as second:
        second.take_in(export(1))
        first.publish()
        assert held(first.coordinator) == [export(1).export_id]


def test_a_withdrawal_travels_round_the_ring():
    wheres = [endpoint() for _ in range(3)]
    peers = [peer(number, wheres, [(number + 1) % 3]) for number in range(3)]
    for number in (1, 2):
        peers[0].take_in(export(number))
    for _ in range(2):
        for node in peers:
            node.publish()
    peers[0].coordinator.withdraw("agent-1")
    for _ in range(2):
        for node in peers:
            node.publish()
    for node in peers:
        assert held(node.coordinator) == [export(2).export_id]
        node.close()


def test_a_peer_needs_a_neighbour():
    with pytest.raises(LinkError, match="`neighbours`"):
        Gossip([], "lonely", security=OFF)

"""Mutual TLS and access per agent, from one file; what is not allowed is not answered."""

import pytest
import trustme
from tests.federated.network.certificates import Authority
from tests.federated.network.fleet import OFF, coordinator, endpoint, eventually, export, held

from sona.errors import LinkError, SecurityError, UnansweredError
from sona.federated.network import Forwarding, Gossip, Link, Node, Security, keys
from sona.federated.network.between import NodeLink


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def star(authority):
    where = endpoint(protocol="tls")
    security = authority.security(
        "coordinator",
        agents=[("host-1", ["agent-1", "web-*"]), ("host-2", ["*"])],
        nodes=["north"],
    )
    with Node(coordinator(), [where], security=security) as node:
        yield where, node


@pytest.mark.parametrize(
    ("holder", "agent_id", "allowed"),
    [
        ("host-1", "agent-1", True),
        ("host-1", "web-17/a b", True),
        ("host-1", "agent-2", False),
        ("host-1", "agent-1-too", False),
        ("host-1", "agent-*", False),  # a name, not a pattern
        ("host-2", "anybody", True),
        ("host-3", "agent-3", False),  # signed by the CA, and named nowhere
    ],
)
def test_a_certificate_speaks_for_the_agents_it_is_given(
    authority, star, holder, agent_id, allowed
):
    where, node = star
    made = export(1, agent_id)
    with Link(where, agent_id, security=authority.security(holder), wait_s=0.0) as link:
        if allowed:
            assert link.submit(made).agent_id == agent_id
        else:
            with pytest.raises(UnansweredError, match="access is denied"):
                link.submit(made)
    assert (made.export_id in held(node.coordinator)) == allowed


def test_agents_may_read_and_nothing_else(authority, star):
    where, _ = star
    with NodeLink(where, "agent-1", security=authority.security("host-1"), wait_s=0.0) as link:
        assert link.warm_start().embedding_dim == 6
        # An agent of an earlier test may be a moment in leaving.
        eventually(lambda: link.presence()["coordinator"] == ["agent-1"])
        for verb in (
            lambda: link.ledger(coordinator().ledger),
            lambda: link.forward(export(2)),
            lambda: link.export(export(1).session),
            lambda: link.heed(coordinator().ledger),
            link.publish,
        ):
            with pytest.raises(UnansweredError):
                verb()


def test_who_is_named_nowhere_is_told_nothing(authority, star):
    where, _ = star
    with Link(where, "x", security=authority.security("stranger"), wait_s=0.0) as link:
        with pytest.raises(UnansweredError):
            link.warm_start()
        link._line.session()
        with Link(where, "y", security=authority.security("host-2"), wait_s=0.0) as other:
            assert "x" not in other.presence()["coordinator"]


def test_a_region_forwards_for_its_agents(authority, star):
    above, top = star
    where = endpoint(protocol="tls")
    security = authority.security("north", agents=[("host-9", ["agent-9"])])
    forwarding = Forwarding(above, "north", security=security, interval_s=60.0)
    with (
        Node(coordinator("north"), [where], security=security, exchange=forwarding) as node,
        Link(where, "agent-9", security=authority.security("host-9")) as link,
    ):
        link.submit(export(9))
        node.publish()
        assert export(9).export_id in held(top.coordinator)


def test_peers_authenticate_each_other(authority):
    wheres = [endpoint(protocol="tls") for _ in range(2)]
    nodes = []
    for number in range(2):
        security = authority.security(f"peer-{number}", nodes=[f"peer-{1 - number}"])
        gossip = Gossip([wheres[1 - number]], f"peer-{number}", security=security)
        nodes.append(
            Node(
                coordinator(f"peer-{number}"), [wheres[number]], security=security, exchange=gossip
            )
        )
    nodes[0].take_in(export(1))
    nodes[1].publish()
    assert held(nodes[1].coordinator) == [export(1).export_id]
    for node in nodes:
        node.close()


def test_another_authority_opens_nothing(authority, star, tmp_path):
    where, _ = star
    forged = Authority(tmp_path).security("host-2")
    with (
        Link(where, "agent", security=forged, wait_s=0.0) as link,
        pytest.raises(UnansweredError, match="cannot open"),
    ):
        link.warm_start()
    # The fleet's CA is public; a certificate that it did not sign is not enough.
    file = authority.file("impostor", ca=trustme.CA())
    with (
        Link(where, "agent", security=Security.from_file(file), wait_s=0.0) as link,
        pytest.raises(UnansweredError, match="cannot open"),
    ):
        link.warm_start()


def test_a_node_at_another_address_than_its_certificate_is_not_believed(authority):
    where = endpoint(protocol="tls")
    elsewhere = authority.security("elsewhere", host="10.1.2.3", agents=[("host-2", ["*"])])
    with (
        Node(coordinator(), [where], security=elsewhere),
        Link(where, "agent", security=authority.security("host-2"), wait_s=0.0) as link,
        pytest.raises(UnansweredError, match="cannot open"),
    ):
        link.warm_start()


def test_plain_tcp_is_refused_where_security_is_on(authority, star):
    with pytest.raises(SecurityError, match="must be 'tls/"):
        Link("tcp/127.0.0.1:7447", "agent", security=authority.security("host-1"))
    where, _ = star
    with (
        Link(where.replace("tls/", "tcp/"), "agent", security=OFF, wait_s=0.0) as link,
        pytest.raises(UnansweredError, match="cannot open"),
    ):
        link.warm_start()


def test_patterns_mean_what_they_say():
    assert keys.submit_like("*") == "sona/1/submit/*"
    assert keys.submit_like("web-*") == "sona/1/submit/web-$*"
    assert keys.submit_like("a b") == keys.submit("a b")
    assert keys.submit("web-*") == "sona/1/submit/web-%2A"


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("[tls", "cannot use"),
        ("[agents]", "`tls`"),
        ('[tls]\nca = "ca.pem"\ncertificate = 3\nkey = "k"', r"\$\.tls\.certificate"),
        ('[tls]\nca = "ca.pem"\ncertificate = "c"\nkey = "k"\nextra = 1', "extra"),
        ('[tls]\nca = "ca.pem"\ncertificate = "no.pem"\nkey = "no.key"', "tls.certificate"),
    ],
)
def test_a_file_that_says_something_else_is_refused(authority, text, match):
    path = authority.folder / "bad.toml"
    path.write_text(text)
    with pytest.raises(SecurityError, match=match):
        Security.from_file(path)
    with pytest.raises(SecurityError, match="No such file"):
        Security.from_file(authority.folder / "missing.toml")


def test_nobody_listens_off_loopback_without_security():
    with pytest.raises(SecurityError, match="loopback only"):
        Node(coordinator(), ["tcp/0.0.0.0:7447"], security=OFF)
    with pytest.raises(LinkError):
        Node(coordinator(), ["7447"], security=OFF)

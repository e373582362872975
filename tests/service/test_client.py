"""The agent's side: three lines, and nothing lost when the service is away."""

import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import ClassVar

import numpy as np
import pytest
from tests.service.conftest import DIM, Running, make_export

from sona import SonaConfig
from sona.errors import ConfigError, ServiceError
from sona.federated import WarmStart
from sona.federated.spool import Spool
from sona.service import Client

CONFIG = SonaConfig.for_ephemeral(hidden_dim=DIM)


def serve_requests(agent, count=20):
    for i in range(count):
        topic = i % 2
        agent.process_trajectory(np.eye(DIM)[topic], np.eye(DIM)[topic], 0.9, "ab"[topic])


def test_three_lines_make_a_warm_agent_whose_experience_is_kept(service, tmp_path):
    client = Client(service.url, spool=tmp_path)
    with client.agent("three-lines", hidden_dim=DIM) as agent:
        assert agent.route(np.eye(DIM)[1]).route == "b"  # it knows that from the founder
        serve_requests(agent)
    (known,) = [
        a for a in service.json("GET", "/v1/agents")[1]["agents"] if a["agent_id"] == "three-lines"
    ]
    assert known["trajectories"] == 20
    assert service.json("GET", "/v1/overview")[1]["warm"]["count"] >= 1
    client.close()


def test_a_service_that_is_away_costs_an_agent_nothing(tmp_path):
    client = Client("http://127.0.0.1:9", spool=tmp_path / "spool", retries=0)
    with client.agent("offline", CONFIG) as agent:
        serve_requests(agent)
    assert client.flush() == 1
    with Running(tmp_path / "store") as service:
        later = Client(service.url, spool=tmp_path / "spool")
        assert later.flush() == 0
        assert service.json("GET", "/v1/agents")[1]["agents"][0]["agent_id"] == "offline"
        later.close()


def test_the_last_warm_start_serves_while_the_service_is_away(service, tmp_path):
    online = Client(service.url, spool=tmp_path)
    fetched = online.warm_start()
    port = service.port
    offline = Client("http://127.0.0.1:9", spool=tmp_path, retries=0)
    assert offline.warm_start().to_bytes() == fetched.to_bytes()
    damaged = bytearray((tmp_path / "warm-start.sona").read_bytes())
    damaged[len(damaged) // 2] ^= 255
    (tmp_path / "warm-start.sona").write_bytes(damaged)
    with pytest.raises(ServiceError):
        Client("http://127.0.0.1:9", spool=tmp_path, retries=0).warm_start()
    again = Client(f"http://127.0.0.1:{port}", spool=tmp_path)
    assert isinstance(again.warm_start(), WarmStart)
    online.close()
    again.close()


def test_an_unchanged_warm_start_is_not_sent_again(service):
    def sent(result):
        text = service.request("GET", "/metrics")[2].decode()
        found = [
            x
            for x in text.splitlines()
            if x.startswith(f'sona_warm_starts_total{{result="{result}"')
        ]
        return float(found[0].split()[-1]) if found else 0.0

    client = Client(service.url)
    client.warm_start()
    before = sent("not modified")
    client.warm_start()
    assert sent("not modified") == before + 1
    client.close()


def test_what_is_refused_for_good_is_set_aside_with_the_reason(service, tmp_path):
    client = Client(service.url, spool=tmp_path)
    with pytest.raises(ServiceError, match="422") as refused:
        client.send(make_export("odd", dim=DIM + 2))
    assert refused.value.status == 422
    assert len(list(tmp_path.glob("*.refused"))) == 1
    assert "export.trajectories" in next(tmp_path.glob("*.why")).read_text()
    receipt = client.send(make_export("even"))  # the next one is not held up
    assert receipt.trajectories_accepted + receipt.trajectories_rejected == 12
    client.close()


def test_without_a_spool_failure_is_an_error():
    client = Client("http://127.0.0.1:9", retries=1, backoff=0.001)
    with pytest.raises(ServiceError) as away:
        client.send(make_export())
    assert away.value.status is None


def test_the_clients_route_is_the_services(service):
    client = Client(service.url)
    answer = client.route(np.eye(DIM)[0], ["a", "b"], costs={"a": 1.0, "b": 3.0})
    assert answer.route == "a"
    costs = {r["route"]: r["cost"] for r in service.json("GET", "/v1/overview")[1]["routes"]}
    assert (costs["a"], costs["b"]) == (1.0, 3.0)
    client.close()


@pytest.mark.parametrize("url", ["127.0.0.1:1", "ftp://x", "", "http://"])
def test_a_url_that_is_none_is_refused(url):
    with pytest.raises(ConfigError, match="`url`"):
        Client(url)


class _Moody(BaseHTTPRequestHandler):
    """Fails in a different way each time before it passes a request on to nobody: it says 201."""

    moods: ClassVar[list] = []

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        mood = self.moods.pop(0) if self.moods else 201
        if mood == "hang up":
            self.close_connection = True
            return
        body = b'{"agent_id":"a","ruling":"accepted","trajectories_accepted":1,'
        body += b'"trajectories_rejected":0,'
        body += b'"consolidated":false,"total_agents":1,"total_trajectories":1,'
        body += b'"duplicate":false,"reasons":{}}'
        if mood != 201:
            body = b"<html>a proxy's own words</html>"
        self.send_response(mood)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def test_what_may_pass_is_tried_again_and_what_may_not_is_not():
    server = HTTPServer(("127.0.0.1", 0), _Moody)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    client = Client(f"http://127.0.0.1:{server.server_port}", backoff=0.001)
    _Moody.moods = ["hang up", 503, 429, "hang up"]
    assert client.send(make_export()).total_agents == 1
    _Moody.moods = [422, 201]
    with pytest.raises(ServiceError) as refused:
        client.send(make_export())
    assert refused.value.status == 422
    assert _Moody.moods == [201]
    client.close()
    server.shutdown()
    server.server_close()


def test_many_threads_share_one_client(service):
    client = Client(service.url)
    receipts = []
    threads = [
        threading.Thread(target=lambda n=n: receipts.append(client.send(make_export(f"t{n}"))))
        for n in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(r.agent_id for r in receipts) == [f"t{n}" for n in range(6)]
    client.close()


def test_a_killed_agent_leaves_its_export_in_the_spool(service, tmp_path):
    # What send() does first; whoever comes next sends it.
    export = make_export("killed")
    Spool(tmp_path).put(export)
    client = Client(service.url, spool=tmp_path)
    assert client.flush() == 0
    agents = service.json("GET", "/v1/agents?limit=1000")[1]["agents"]
    assert "killed" in {agent["agent_id"] for agent in agents}
    client.close()

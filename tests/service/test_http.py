"""What the service answers, over a real socket."""

import http.client
import json
import socket
import time

import numpy as np
import pytest
from tests.service.conftest import DIM, Running, eventually, make_export

from sona.federated import AgentExport, TrajectoryExport, WarmStart


def test_an_export_is_new_once_and_then_a_duplicate(service):
    data = make_export("once").to_bytes()
    status, receipt = service.post(data, key="once-1")
    assert status == 201
    assert receipt["trajectories_accepted"] + receipt["trajectories_rejected"] == 12
    status, again = service.post(data, key="once-1")
    assert status == 200
    assert again["duplicate"]
    assert again["total_trajectories"] == receipt["total_trajectories"]
    # Content alone is enough: another key, the same export.
    assert service.post(data, key="once-2")[0] == 200
    assert service.post(data)[0] == 200


def test_a_key_with_another_body_is_a_conflict(service):
    assert service.post(make_export("conflict").to_bytes(), key="k")[0] == 201
    other = make_export("conflict", timestamp=2_000_000).to_bytes()
    status, problem = service.post(other, key="k")
    assert (status, problem["place"]) == (409, "Idempotency-Key")
    assert service.post(other, key="k2")[0] == 201


def test_a_key_is_known_after_a_restart(tmp_path):
    with Running(tmp_path) as first:
        assert first.post(make_export().to_bytes(), key="k")[0] == 201
    with Running(tmp_path) as second:
        assert second.post(make_export(timestamp=5).to_bytes(), key="k")[0] == 409
        assert second.post(make_export().to_bytes(), key="k")[0] == 200


def test_what_is_wrong_is_said_with_its_place(service):
    good = make_export("wrong").to_bytes()
    damaged = bytearray(good)
    damaged[-1] ^= 1
    status, problem = service.post(bytes(damaged))
    assert status == 422
    assert "checksum" in problem["detail"]
    assert problem["place"] == "data"
    status, problem = service.post(make_export("wrong", dim=DIM + 1).to_bytes())
    assert status == 422
    assert problem["place"] == "export.trajectories"
    assert f"({DIM},)" in problem["detail"]
    status, problem = service.json("POST", "/v1/route", '{"embedding": [1, "x"]}')
    assert (status, problem["place"]) == (422, "$.embedding[1]")
    status, problem = service.json("POST", "/v1/route", json.dumps({"embedding": [1.0]}))
    assert (status, problem["place"]) == (422, "embedding")


def test_rows_that_are_refused_are_counted_with_their_reason(service):
    rows = [TrajectoryExport(np.eye(DIM)[0], quality, "a") for quality in (0.9, 0.8, 0.1, 2.0)]
    status, receipt = service.post(AgentExport("rows", rows).to_bytes())
    assert status == 201
    assert receipt["reasons"] == {"quality outside [0, 1]": 1, "quality below threshold": 1}
    assert receipt["trajectories_accepted"] == 2


def test_an_agent_that_keeps_sending_rubbish_is_kept_out(tmp_path):
    rubbish = [TrajectoryExport(np.eye(DIM)[0], 7.0, "a")] * 4
    with Running(tmp_path) as service:
        assert service.post(make_export("good").to_bytes())[0] == 201
        statuses = [
            service.post(AgentExport("bad", rubbish, timestamp=n).to_bytes())[0] for n in range(9)
        ]
        assert statuses[0] == 422
        assert statuses[-1] == 403
        status, problem = service.post(make_export("bad").to_bytes())
        assert (status, problem["place"]) == (403, "agent_id")
        assert "strikes" in problem["detail"]
        assert service.post(make_export("other").to_bytes())[0] == 201


def test_other_refusals(service):
    assert service.json("POST", "/v1/exports", b"x", {"Content-Type": "text/plain"})[0] == 415
    assert service.post(make_export("k").to_bytes(), key="k" * 256)[0] == 422
    assert service.json("GET", "/v1/exports")[0] == 405
    assert service.json("GET", "/v1/nothing")[0] == 404
    assert service.json("GET", "/v1/patterns?limit=0")[0] == 422
    assert service.json("GET", "/v1/patterns?offset=x")[0] == 422
    foreign = {"Origin": "http://evil.example"}
    assert service.json("GET", "/v1/patterns", None, foreign)[0] == 403
    # A name that somebody else made point to this machine.
    assert service.json("GET", "/v1/patterns", None, {"Host": "evil.example"})[0] == 403


def test_a_warm_start_is_sent_once_per_version(service):
    status, headers, body = service.request("GET", "/v1/warm-start")
    assert status == 200
    assert WarmStart.from_bytes(body).embedding_dim == DIM
    asked = {"If-None-Match": f'"other", {headers["etag"]}'}
    status, again, nothing = service.request("GET", "/v1/warm-start", None, asked)
    assert (status, nothing, again["etag"]) == (304, b"", headers["etag"])


def test_a_route_follows_from_what_was_learned(service):
    for topic, route in enumerate("ab"):
        question = {"embedding": np.eye(DIM)[topic].tolist(), "routes": ["a", "b"]}
        status, answer = service.json("POST", "/v1/route", json.dumps(question))
        assert status == 200
        assert answer["route"] == route
        assert answer["expected"][route] > 0.5
        assert answer["patterns"][0]["best_route"] == route


def test_patterns_and_agents_come_in_pages(service):
    _, page = service.json("GET", "/v1/patterns?limit=1")
    assert len(page["patterns"]) == 1
    assert page["total"] > 1
    _, rest = service.json("GET", "/v1/patterns?offset=1&limit=1000")
    assert len(rest["patterns"]) == page["total"] - 1
    _, agents = service.json("GET", "/v1/agents")
    assert "founder" in {agent["agent_id"] for agent in agents["agents"]}


def test_metrics_count_what_happened(service):
    def count():
        text = service.request("GET", "/metrics")[2].decode()
        line = next(x for x in text.splitlines() if x.startswith('sona_exports_total{result="new"'))
        return float(line.split()[-1])

    before = count()
    assert service.post(make_export("counted").to_bytes())[0] == 201
    assert count() == before + 1


def test_events_tell_what_happens_and_what_was_missed(service):
    def read(stream, kind):
        event = None
        while True:
            line = stream.readline().decode().strip()
            if line.startswith("event: "):
                event = line.removeprefix("event: ")
            if line.startswith("id: "):
                number = int(line.removeprefix("id: "))
            if line.startswith("data: ") and event == kind:
                return json.loads(line.removeprefix("data: ")), number

    connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=10)
    connection.request("GET", "/v1/events")
    stream = connection.getresponse()
    service.post(make_export("watched-1").to_bytes())
    news, number = read(stream, "export")
    assert (news["agent"], news["result"]) == ("watched-1", "new")
    connection.close()
    service.post(make_export("watched-2").to_bytes())
    connection.request("GET", "/v1/events", headers={"Last-Event-ID": str(number)})
    assert read(connection.getresponse(), "export")[0]["agent"] == "watched-2"
    connection.close()


def test_limits_on_size_rate_and_time(tmp_path):
    options = ("--max-body-mib", "0.01", "--max-vectors", "20", "--rate", "1")
    with Running(tmp_path, *options) as service:
        assert service.post(bytes(20_000))[0] == 413
        status, problem = service.post(make_export(rows=21).to_bytes())
        assert (status, problem["place"]) == (422, "trajectories")
        status, headers, _ = service.request("GET", "/v1/patterns")
        assert status == 429
        assert int(headers["retry-after"]) >= 1


def test_a_chunked_body_is_limited_too(service):
    with socket.create_connection(("127.0.0.1", service.port), timeout=20) as raw:
        raw.sendall(
            b"POST /v1/exports HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        chunk = b"100000\r\n" + bytes(0x100000) + b"\r\n"
        try:
            for _ in range(20):
                raw.sendall(chunk)
        except OSError:
            pass  # refused and closed before all was sent
        assert b"413" in raw.recv(100)


def test_a_hung_and_a_slow_client_hold_up_nobody(service):
    data = make_export("slow").to_bytes()
    head = f"POST /v1/exports HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(data)}\r\n\r\n"
    with (
        socket.create_connection(("127.0.0.1", service.port), timeout=20) as hung,
        socket.create_connection(("127.0.0.1", service.port), timeout=20) as slow,
        socket.create_connection(("127.0.0.1", service.port), timeout=20) as silent,
    ):
        hung.sendall(b"POST /v1/exp")
        silent.sendall(head.encode())  # and never a body
        slow.sendall(head.encode())
        for start in range(0, len(data), 400):
            slow.sendall(data[start : start + 400])
            assert service.request("GET", "/healthz")[0] == 200
        assert slow.recv(20).startswith(b"HTTP/1.1 201")


def test_a_client_that_leaves_half_way_leaves_nothing(service):
    data = make_export("leaver").to_bytes()
    with socket.create_connection(("127.0.0.1", service.port), timeout=20) as raw:
        head = f"POST /v1/exports HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(data)}\r\n"
        raw.sendall(head.encode() + b"\r\n" + data[: len(data) // 2])
    assert service.post(data)[0] == 201


def test_shutting_down_refuses_new_exports_and_finishes_accepted_ones(tmp_path):
    with Running(tmp_path, "--drain-seconds", "1.5") as service:
        assert service.post(make_export("before").to_bytes())[0] == 201
        stream = http.client.HTTPConnection("127.0.0.1", service.port, timeout=10)
        stream.request("GET", "/v1/events")
        watched = stream.getresponse()
        service.process.terminate()
        service.wait_for("draining")
        status, headers, _ = service.request("POST", "/v1/exports", make_export("late").to_bytes())
        assert status == 503
        assert int(headers["retry-after"]) >= 1
        assert service.request("GET", "/readyz")[0] == 503
        assert service.request("GET", "/healthz")[0] == 200
        watched.read()  # ends
        stream.close()
        assert service.process.wait(20) in (0, -15)
        assert service.wait_for("stopped")
    with Running(tmp_path) as again:
        assert again.post(make_export("before").to_bytes())[0] == 200
        assert again.post(make_export("late").to_bytes())[0] == 201


def test_a_slow_body_is_cut_off(tmp_path):
    with Running(tmp_path, "--body-seconds", "0.3") as service:
        with socket.create_connection(("127.0.0.1", service.port), timeout=20) as raw:
            raw.sendall(
                b"POST /v1/exports HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\nabc"
            )
            started = time.monotonic()
            assert raw.recv(20).startswith(b"HTTP/1.1 408")
            assert time.monotonic() - started < 10
        assert service.request("GET", "/readyz")[0] == 200


def test_enough_new_agents_are_consolidated_beside_the_answers(tmp_path):
    with Running(tmp_path, "--rate", "1e6") as service:
        for number in range(55):
            assert service.post(make_export(f"agent-{number}").to_bytes())[0] == 201
            if number == 0:  # the learner is there
                eventually(lambda: service.request("GET", "/v1/warm-start")[0] == 200)
        (done, *_) = eventually(lambda: service.overview()["consolidations"])
        assert done["trajectories"] > 0
        assert service.overview()["totals"]["agents"] == 55


def test_readers_see_what_was_acknowledged_soon(service):
    before = service.json("GET", "/v1/overview")[1]["version"]
    assert service.post(make_export("fresh").to_bytes())[0] == 201
    eventually(lambda: service.json("GET", "/v1/overview")[1]["version"] >= before + 12)


@pytest.mark.parametrize("path", ["/", "/page.js", "/page.css", "/charts.js"])
def test_the_page_names_no_other_host(service, path):
    status, headers, body = service.request("GET", path)
    assert status == 200
    assert "default-src 'none'" in headers["content-security-policy"]
    assert b"https://" not in body
    assert b"//cdn" not in body

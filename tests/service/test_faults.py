"""What goes wrong in the world: kills, full and read-only disks, clocks, damaged bytes."""

import os
import random
import resource
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from tests.service.conftest import DIM, Running, eventually, make_export

from sona.errors import ServiceError

ROWS = 12
DIE = """
import os, signal
def dying(owner, name, number, *, after):
    original, calls = getattr(owner, name), []
    def wrapper(*args, **named):
        calls.append(1)
        if len(calls) == number and not after:
            os.kill(os.getpid(), signal.SIGKILL)
        result = original(*args, **named)
        if len(calls) == number and after:
            os.kill(os.getpid(), signal.SIGKILL)
        return result
    setattr(owner, name, wrapper)
"""
#: Every step of the write path at which a service may be killed.
STEPS = {
    "configuration written": "import sona.state as o; dying(o, 'write', 1, after=True)",
    "store made": "from sona.federated.sqlite import SqliteDatabase as o;"
    "dying(o, '_migrate', 1, after=True)",
    "transaction begun": "import sona.federated.entries as o; dying(o, 'put_all', 2, after=False)",
    "before the commit": "import sona.federated.entries as o; dying(o, '_audit', 2, after=True)",
    "after the commit": "from sona.federated.store import Store as o;"
    "dying(o, 'put_all', 2, after=True)",
    "after learning": "from sona.federated import FederatedCoordinator as o;"
    "dying(o, 'aggregate_all', 2, after=True)",
    "history": "from sona.service.history import History as o; dying(o, 'flush', 1, after=False)",
}


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def check_exactly_once(service, names):
    """Acknowledged = stored = learned, each once."""
    agents = service.json("GET", "/v1/agents?limit=1000")[1]["agents"]
    assert sorted(agent["agent_id"] for agent in agents) == sorted(names)
    assert {agent["trajectories"] for agent in agents} == {ROWS}
    eventually(lambda: service.overview()["version"] == ROWS * len(names))
    for name in names:
        assert service.post(make_export(name, ROWS).to_bytes(), key=f"again-{name}")[0] == 200


def test_a_kill_at_any_step_loses_and_doubles_nothing(tmp_path):
    port, names = free_port(), []
    options = ("--rate", "1e6")
    for step, sabotage in STEPS.items():
        sabotaged = Running(tmp_path / "store", *options, port=port, sabotage=DIE + sabotage)
        client = sabotaged.client(spool=tmp_path / "spool", retries=0)
        for number in range(3):
            names.append(f"{step.replace(' ', '-')}-{number}")
            client.send(make_export(names[-1], ROWS))  # None where the service is gone
            if sabotaged.process.poll() is not None:
                break
        assert sabotaged.process.wait(30) == -signal.SIGKILL, step
        sabotaged.stop()
        client.close()
    with Running(tmp_path / "store", *options, port=port) as service:
        client = service.client(spool=tmp_path / "spool")
        assert client.flush() == 0
        client.close()
        check_exactly_once(service, names)


def test_kills_at_random_moments_lose_and_double_nothing(tmp_path):
    dice, names, port = random.Random(1), [], free_port()
    for life in range(3):
        service = Running(tmp_path / "store", "--rate", "1e6", port=port).ready()
        threading.Timer(dice.uniform(0.05, 0.3), service.process.kill).start()
        client = service.client(spool=tmp_path / "spool", retries=0, timeout=10.0)
        while service.process.poll() is None:
            names.append(f"{life}-{len(names)}")
            client.send(make_export(names[-1], ROWS))
        client.close()
        service.stop()
    with Running(tmp_path / "store", "--rate", "1e6", port=port) as service:
        client = service.client(spool=tmp_path / "spool")
        assert client.flush() == 0
        client.close()
        check_exactly_once(service, names)


def test_a_full_disk_is_told_and_passes(tmp_path):
    with Running(tmp_path / "store") as service:
        assert service.post(make_export("before").to_bytes())[0] == 201
        eventually(lambda: service.request("GET", "/v1/warm-start")[0] == 200)
        pid = service.process.pid
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
        status, problem = service.post(make_export("lost", rows=200).to_bytes(), key="k")
        assert (status, problem["place"]) == (503, "store")
        assert service.request("GET", "/v1/warm-start")[0] == 200  # readers are served on
        client = service.client(retries=0)
        with pytest.raises(ServiceError, match="503"):
            client.send(make_export("lost", rows=200))
        client.close()
        unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, unlimited)
        assert service.post(make_export("lost", rows=200).to_bytes(), key="k")[0] == 201
        assert service.json("GET", "/v1/agents")[1]["total"] == 2


def test_a_full_file_system_is_told_and_passes(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    options = ["-t", "tmpfs", "-o", "size=2m", "tmpfs", disk]
    if subprocess.run(["mount", *options], capture_output=True, check=False).returncode:
        pytest.skip("this user may not mount")
    try:
        with Running(disk / "store", "--rate", "1e6") as service:
            names, status = [], 201
            while status == 201:
                names.append(f"agent-{len(names)}")
                status, problem = service.post(make_export(names[-1], rows=ROWS).to_bytes())
                if len(names) == 3:
                    (disk / "ballast").write_bytes(bytes(free_bytes(disk)))
            assert (status, problem["place"]) == (503, "store")
            assert service.request("GET", "/readyz")[0] == 200
            assert service.json("GET", "/v1/agents")[1]["total"] == len(names) - 1
            (disk / "ballast").unlink()
            assert service.post(make_export(names[-1], rows=ROWS).to_bytes())[0] == 201
            check_exactly_once(service, names)
    finally:
        subprocess.run(["umount", disk], check=True)


def free_bytes(folder):
    room = os.statvfs(folder)
    return room.f_bavail * room.f_frsize


def test_a_read_only_disk_is_told(tmp_path):
    with Running(tmp_path / "store") as service:
        assert service.post(make_export().to_bytes())[0] == 201
    view = tmp_path / "view"
    view.mkdir()
    mounted = subprocess.run(
        ["mount", "--bind", tmp_path / "store", view], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("this user may not mount")
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", view], check=True)
        command = [sys.executable, "-m", "sona", "serve", "--store", str(view), "--port", "0"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 1
        assert "`store`: cannot use" in done.stderr
        assert "Traceback" not in done.stderr
    finally:
        subprocess.run(["umount", view], check=True)


def test_a_clock_that_goes_back_changes_nothing_that_matters(tmp_path):
    backwards = """
import time
start, calls = time.time_ns(), []
def back():
    calls.append(1)
    return start - 3_600_000_000_000 * len(calls)
time.time_ns = back
time.time = lambda: back() / 1e9
"""
    names = [f"agent-{number}" for number in range(6)]
    with Running(tmp_path, sabotage=backwards) as service:
        for name in names:
            assert service.post(make_export(name, ROWS).to_bytes())[0] == 201
        timeline = service.overview()["timeline"]
        assert [b["at"] for b in timeline] == sorted(b["at"] for b in timeline)
        assert sum(bucket["exports"] for bucket in timeline) == 6
    with Running(tmp_path) as service:
        check_exactly_once(service, names)


def damaged(data, dice):
    """One of the ways in which bytes suffer."""
    kind = dice.randrange(5)
    data = bytearray(data)
    if kind == 0:
        return bytes(data[: dice.randrange(len(data))])
    if kind == 1:
        for _ in range(dice.randrange(1, 8)):
            data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
        return bytes(data)
    if kind == 2:
        start = dice.randrange(len(data))
        del data[start : start + dice.randrange(1, 64)]
        return bytes(data)
    if kind == 3:
        start = dice.randrange(len(data))
        data[start:start] = dice.randbytes(dice.randrange(1, 64))
        return bytes(data)
    return dice.randbytes(dice.randrange(2000))


def test_damaged_bodies_are_refused_with_a_reason(service):
    dice = random.Random(7)
    good = make_export("fuzz").to_bytes()
    client = service.client()
    for _ in range(400):
        body = damaged(good, dice)
        status, _, answer = client._exchange("POST", "/v1/exports", body, {})
        assert status in (200, 201) if body == good else status == 422, answer
        assert status < 300 or b'"detail":"' in answer
    client.close()
    assert service.request("GET", "/readyz")[0] == 200


def test_values_that_no_encoder_sends_are_refused_or_left_out(service):
    from sona.federated import AgentExport, TrajectoryExport

    for value in (np.nan, np.inf, -np.inf, 3e38):
        rows = [TrajectoryExport(np.full(DIM, value, np.float32), 0.5, "a")] * 3
        status, problem = service.post(AgentExport(f"odd-{value}", rows).to_bytes())
        assert status == 422
        assert problem["place"] == "export.trajectories"
    assert service.request("GET", "/readyz")[0] == 200


def learner_of(service):
    """Process id of the learner that is at work now."""
    lines = [line for line in list(service.lines) if line["event"] == "learner started"]
    return lines[-1]["pid"] if lines else None


def test_nobody_waits_for_the_learner(tmp_path):
    with Running(tmp_path, "--rate", "1e6", "--max-unlearned", "5") as service:
        assert service.post(make_export("first", ROWS).to_bytes())[0] == 201
        eventually(lambda: service.overview()["version"] == ROWS)
        learner = eventually(lambda: learner_of(service))
        os.kill(learner, signal.SIGSTOP)  # as one that learns for hours
        names = [f"agent-{number}" for number in range(5)]
        for name in names:
            assert service.post(make_export(name, ROWS).to_bytes())[0] == 201
            assert service.request("GET", "/v1/warm-start")[0] == 200
        assert service.json("GET", "/v1/agents")[1]["total"] == 6
        assert service.overview()["version"] == ROWS
        text = service.request("GET", "/metrics")[2]
        assert b"sona_exports_unlearned 5.0" in text
        status, headers, _ = service.request("POST", "/v1/exports", make_export("late").to_bytes())
        assert status == 429  # what is handed out may lag only so far behind
        assert int(headers["retry-after"]) >= 1
        os.kill(learner, signal.SIGCONT)
        check_exactly_once(service, ["first", *names])
        assert b"sona_exports_unlearned 0.0" in service.request("GET", "/metrics")[2]
        assert service.post(make_export("late").to_bytes())[0] == 201


def test_a_learner_that_is_killed_is_replaced(tmp_path):
    names = []
    with Running(tmp_path, "--rate", "1e6") as service:
        for life in range(2):
            for number in range(4):
                names.append(f"{life}-{number}")
                assert service.post(make_export(names[-1], ROWS).to_bytes())[0] == 201
            learner = eventually(lambda: learner_of(service))
            os.kill(learner, signal.SIGKILL)
            eventually(lambda old=learner: learner_of(service) != old)
        check_exactly_once(service, names)
        learner = learner_of(service)
    with pytest.raises(ProcessLookupError):  # it ended with its service
        os.kill(learner, 0)


def test_a_learner_does_not_outlive_a_killed_service(tmp_path):
    service = Running(tmp_path).ready()
    assert service.post(make_export().to_bytes())[0] == 201
    learner = eventually(lambda: learner_of(service))
    service.stop(signal.SIGKILL)

    def gone():
        try:
            return Path(f"/proc/{learner}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
        except FileNotFoundError:
            return True

    eventually(gone)


def test_a_damaged_publication_is_made_again(tmp_path):
    with Running(tmp_path) as service:
        assert service.post(make_export("a", ROWS).to_bytes())[0] == 201
        eventually(lambda: service.overview()["version"] == ROWS)
    published = tmp_path / "tenants/default/published.sona"
    published.write_bytes(published.read_bytes()[:-9])
    with Running(tmp_path) as service:
        eventually(lambda: service.overview()["version"] == ROWS)

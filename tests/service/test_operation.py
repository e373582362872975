"""Backup, restore, doctor; logs, spans and events; what an operator relies on."""

import json
import sqlite3
import subprocess
import sys

import pytest
from tests.service.conftest import Running, eventually, make_export

from sona.cli import main


@pytest.fixture
def stopped(tmp_path):
    """The folder of a service that took in three exports and was stopped."""
    with Running(tmp_path / "store") as running:
        for name in ("a", "b", "c"):
            assert running.post(make_export(name).to_bytes(), key=name)[0] == 201
    return tmp_path / "store"


def test_a_backup_of_a_running_service_is_a_service(tmp_path, capsys):
    with Running(tmp_path / "store") as running:
        assert running.post(make_export("a").to_bytes(), key="a")[0] == 201
        eventually(lambda: running.overview()["version"] == 12)
        assert main(["backup", str(tmp_path / "store"), str(tmp_path / "copy")]) == 0
        assert running.post(make_export("late").to_bytes())[0] == 201
    assert main(["restore", str(tmp_path / "copy"), str(tmp_path / "again")]) == 0
    assert "1 tenants default" in capsys.readouterr().out
    with Running(tmp_path / "again") as restored:
        assert restored.post(make_export("a").to_bytes(), key="a")[0] == 200
        assert restored.post(make_export("late").to_bytes())[0] == 201


def test_nothing_is_written_over(stopped, tmp_path, capsys):
    (tmp_path / "there").mkdir()
    assert main(["backup", str(stopped), str(tmp_path / "there")]) == 1
    assert "exists" in capsys.readouterr().err
    assert main(["backup", str(tmp_path / "there"), str(tmp_path / "copy")]) == 1
    assert "no service's folder" in capsys.readouterr().err
    assert not (tmp_path / "copy").exists()


def test_the_doctor_finds_what_is_wrong_and_the_service_survives_it(stopped, tmp_path, capsys):
    assert main(["doctor", str(stopped)]) == 0
    assert "sound" in capsys.readouterr().out
    store = stopped / "tenants/default/store.db"
    with sqlite3.connect(store) as database:
        database.execute("UPDATE bodies SET body = substr(body, 1, 100) WHERE rowid = 2")
        database.execute("DELETE FROM snapshots")
    database.close()
    assert main(["doctor", str(store)]) == 1
    assert main(["doctor", str(stopped)]) == 1
    assert "export of b" in capsys.readouterr().out
    assert main(["backup", str(stopped), str(tmp_path / "copy")]) == 0
    assert main(["restore", str(tmp_path / "copy"), str(tmp_path / "again")]) == 1
    assert "damaged" in capsys.readouterr().err
    with Running(stopped, "--rate", "1e6") as running:  # one bad row stops nobody
        assert running.post(make_export("late").to_bytes())[0] == 201
        # The learner finds it and sets it aside; from then on it may be sent again.
        eventually(lambda: running.post(make_export("b").to_bytes())[0] == 201)
        assert {a["agent_id"] for a in running.json("GET", "/v1/agents")[1]["agents"]} == {
            *("a", "b", "c", "late")
        }


def test_a_doctor_for_nothing_makes_nothing(tmp_path):
    assert main(["doctor", str(tmp_path / "nothing.db")]) == 1
    assert not (tmp_path / "nothing.db").exists()


def test_damaged_history_and_config_are_told(stopped, capsys):
    history = stopped / "tenants/default/history.db"
    history.write_bytes(b"no database at all" * 100)
    (stopped / "tenants/default/config.json").write_text('{"hidden_dim": -1}')
    assert main(["doctor", str(stopped)]) == 1
    out = capsys.readouterr().out
    assert "default/history.db" in out
    assert "hidden_dim" in out


def test_a_damaged_tenant_stops_no_other_and_damaged_history_stops_nobody(stopped):
    tenants = stopped / "tenants"
    (tenants / "broken").mkdir()
    (tenants / "broken/config.json").write_text("no configuration")
    (tenants / "default/history.db").write_bytes(b"no database at all" * 100)
    with Running(stopped) as running:  # ready all the same
        assert running.wait_for("not opened")["tenant"] == "broken"
        assert running.post(make_export("a").to_bytes())[0] == 200
        assert running.json("GET", "/v1/agents")[1]["total"] == 3
    assert list((tenants / "default").glob("history.damaged-*"))


def test_each_decision_is_one_line_of_json(tmp_path):
    with Running(tmp_path) as running:
        running.post(make_export("logged").to_bytes())
        running.post(make_export("logged").to_bytes())
        running.post(b"rubbish")
        new, again = running.wait_for("export new"), running.wait_for("export duplicate")
        refused = running.wait_for("export refused")
    assert (new["agent"], new["tenant"], new["level"]) == ("logged", "default", "info")
    assert new["accepted"] + new["rejected"] == 12
    assert again["result"] == "duplicate"
    assert refused["status"] == 422
    assert "sona message" in refused["detail"]


TRACED = """
import json, sys
from opentelemetry import _logs, trace
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, SimpleLogRecordProcessor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

spans, logs = InMemorySpanExporter(), InMemoryLogRecordExporter()
trace.set_tracer_provider(TracerProvider())
trace.get_tracer_provider().add_span_processor(SimpleSpanProcessor(spans))
_logs.set_logger_provider(LoggerProvider())
_logs.get_logger_provider().add_log_record_processor(SimpleLogRecordProcessor(logs))

from starlette.testclient import TestClient
from sona.service.app import Service
from sona.service.limits import Limits
from sona.service.tenants import Tenants

with TestClient(Service(Tenants(sys.argv[1], Limits())).app, "http://localhost") as client:
    assert client.post("/v1/exports", content=open(sys.argv[2], "rb").read()).status_code == 201
records = [entry.log_record for entry in logs.get_finished_logs()]
print(json.dumps({
    "spans": [[span.name, dict(span.attributes)] for span in spans.get_finished_spans()],
    "events": [[record.event_name, dict(record.attributes)] for record in records],
}))
"""


def test_spans_and_evaluations_go_to_opentelemetry(tmp_path):
    export = make_export("traced", rows=40)
    (tmp_path / "export").write_bytes(export.to_bytes())
    done = subprocess.run(
        [sys.executable, "-c", TRACED, tmp_path / "store", tmp_path / "export"],
        capture_output=True,
        text=True,
        check=True,
    )
    told = json.loads(done.stdout)
    assert ["sona.export", {"sona.tenant": "default", "sona.agent": "traced"}] in told["spans"]
    events = {facts["gen_ai.request.model"]: facts for _, facts in told["events"]}
    assert {name for name, _ in told["events"]} == {"gen_ai.evaluation.result"}
    for route in "ab":
        quality = [row.quality for row in export.trajectories if row.route == route]
        facts = events[route]
        assert facts["gen_ai.evaluation.score.value"] == pytest.approx(sum(quality) / len(quality))
        assert facts["sona.evaluation.count"] == len(quality)
        assert facts["gen_ai.evaluation.name"] == "sona.quality"
        assert facts["gen_ai.agent.id"] == "traced"


def test_without_the_extras_the_client_works_and_the_server_says_what_is_missing(tmp_path):
    hidden = "import sys; sys.modules.update(dict.fromkeys(['starlette', 'uvicorn',"
    hidden += " 'prometheus_client', 'opentelemetry', 'httptools']));"
    client = "from sona.service import Client; Client('http://localhost:1'); print('fine')"
    code = f"{hidden} {client}"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "fine"
    serve = f"{hidden} from sona.cli import main; sys.exit(main(['serve', '--store', 'x']))"
    out = subprocess.run(
        [sys.executable, "-c", serve], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert out.returncode == 1
    assert "pip install 'sona[service]'" in out.stderr
    assert not (tmp_path / "x").exists()

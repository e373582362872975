"""The commands, run as a user runs them."""

import json
import subprocess
import sys

import numpy as np
import pytest

from sona.cli import main

DIM = 12


@pytest.fixture
def log(tmp_path, rng):
    """300 requests of two topics and three agents; route "a" serves topic 0, "b" topic 1."""
    path = tmp_path / "log.jsonl"
    with path.open("w") as lines:
        for i in range(300):
            topic = int(rng.integers(2))
            vector = np.eye(DIM)[topic] + 0.1 * rng.standard_normal(DIM)
            route = "ab"[int(rng.integers(2))]
            quality = float(route == "ab"[topic])
            line = {"embedding": vector.tolist(), "route": route, "quality": quality}
            lines.write(json.dumps({**line, "agent": f"agent-{i % 3}", "timestamp": i}) + "\n")
    return path


def test_replay_leaves_a_state_that_decides(log, tmp_path, capsys):
    state = tmp_path / "learned.sona"
    assert main(["replay", str(log), "--state", str(state)]) == 0
    out = capsys.readouterr().out
    assert "300 requests read, 0 bad lines" in out
    warm = next(line for line in out.splitlines() if line.startswith("warm-started agent"))
    assert float(warm.split()[-2]) > 0.95

    vectors = tmp_path / "vectors.npy"
    np.save(vectors, np.eye(DIM, dtype=np.float32)[:2])
    assert main(["route", str(state), str(vectors)]) == 0
    decisions = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(each["route"], each["tried"]) for each in decisions] == [("a", True), ("b", True)]
    assert main(["route", str(state), str(vectors), "--routes", "new"]) == 0
    decisions = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(each["route"], each["tried"]) for each in decisions] == [("new", False)] * 2

    assert main(["inspect", str(state)]) == 0
    out = capsys.readouterr().out
    assert "300 trajectories seen" in out
    assert "pattern" in out


def test_bad_lines_are_reported_by_number_and_left_out(log, tmp_path, capsys):
    lines = log.read_text().splitlines()
    lines[4] = "{not json"
    lines[9] = json.dumps({"embedding": [1.0, 2.0], "route": "a", "quality": 0.5})
    lines[14] = json.dumps({"embedding": [0.0] * DIM, "route": "a", "quality": 7})
    lines[19] = json.dumps({"route": "a", "quality": 0.5})
    log.write_text("\n".join(lines) + "\n")
    assert main(["replay", str(log), "--state", str(tmp_path / "s.sona")]) == 0
    captured = capsys.readouterr()
    assert "296 requests read, 4 bad lines" in captured.out
    for number in (5, 10, 15, 20):
        assert f"{log}:{number}:" in captured.err


def test_a_log_without_usable_lines_is_refused(tmp_path, capsys):
    path = tmp_path / "empty.jsonl"
    path.write_text("nonsense\n")
    assert main(["replay", str(path), "--state", str(tmp_path / "s.sona")]) == 1
    assert "no usable request" in capsys.readouterr().err
    assert not (tmp_path / "s.sona").exists()


def test_a_missing_file_is_a_message_not_a_traceback(tmp_path, capsys):
    assert main(["inspect", str(tmp_path / "nothing.sona")]) == 1
    assert "nothing.sona" in capsys.readouterr().err


def test_config_says_what_runs(capsys):
    assert main(["config"]) == 0
    out = capsys.readouterr().out
    assert "backend" in out
    assert "capabilit" in out


def test_the_installed_command_runs():
    done = subprocess.run(
        [sys.executable, "-m", "sona", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("sona ")

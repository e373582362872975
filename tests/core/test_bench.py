"""The quick subset of the kernel benchmarks runs and its answers agree."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sona import _core

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(not (ROOT / "bench").exists(), reason="the benchmarks are not shipped here")
@pytest.mark.skipif(_core.backend != "native", reason="no native kernels here")
def test_quick_benchmarks_run() -> None:
    pytest.importorskip("pytest_benchmark")
    answer = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "-W",
            "ignore",
            "--quick",
            "bench/kernels",
            "bench/instant",
        ],
        cwd=ROOT,
        # Not the options of the tests' own run, which may share its work out to processes.
        env={
            **{k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")},
            "OMP_NUM_THREADS": "1",
        },
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert answer.returncode == 0, answer.stdout[-3000:] + answer.stderr[-1000:]
    assert "against our best" in answer.stdout

"""Every case as a test: contestants take turns, answers are checked, a group per case.

pytest-benchmark keeps our best, with the times of all others as extra information; the tables are
printed at the end of the run.
"""

from __future__ import annotations

from typing import Any

import pytest
from bench.kernels.cases import all_cases
from bench.kernels.report import table
from bench.kernels.timing import Case, measure


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    quick = metafunc.config.getoption("--quick")
    metafunc.parametrize("number", range(len(all_cases(quick))))


def test_case(
    number: int, request: pytest.FixtureRequest, benchmark: Any, tables: list[list[str]]
) -> None:
    quick = request.config.getoption("--quick")
    case: Case = all_cases(quick)[number]()
    results = measure(case, *((0.05, 3) if quick else (1.5, 15)))
    tables.append(table(case, results, None))
    benchmark.group = case.group
    benchmark.extra_info.update({r.name: r.seconds for r in results}, absent=case.absent)
    best = min((r for r in results if r.name.startswith("sona")), key=lambda r: r.seconds)
    winner = next(c for c in case.contestants if c.name == best.name)
    benchmark.name = winner.name
    with winner.context():
        benchmark.pedantic(winner.run, rounds=3, setup=winner.prepare)

"""Every case as a test: contestants take turns, answers are checked, a group per case.

A case fails where a measure is missed; where a contestant of a measure is absent, it is skipped and
says so. With ``--quick`` only the answers are checked: small sizes say nothing about speed.
pytest-benchmark keeps our best, with the times of all others as extra information; the tables are
printed at the end of the run.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
from bench.kernels.cases import all_cases
from bench.kernels.report import fastest_of_ours, run, table, verdicts
from bench.kernels.roofline import find_roofline


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    quick = metafunc.config.getoption("--quick")
    metafunc.parametrize("number", range(len(all_cases(quick))))


def test_case(
    number: int, request: pytest.FixtureRequest, benchmark: Any, tables: list[list[str]]
) -> None:
    quick = request.config.getoption("--quick")
    roofline = None if quick else cache(find_roofline)()
    case, results, limits = run(all_cases(quick)[number](), roofline, quick)
    tables.append(table(case, results, limits))
    benchmark.group = case.group
    benchmark.extra_info.update({r.name: r.seconds for r in results}, absent=case.absent)
    winner = next(c for c in case.contestants if c.name == fastest_of_ours(results).name)
    benchmark.name = winner.name
    with winner.context():
        benchmark.pedantic(winner.run, rounds=3, setup=winner.prepare)
    found = verdicts(case, results, limits)
    missed = [v.text for v in found if v.met is False]
    assert not missed, "; ".join(missed)
    unknown = [v.text for v in found if v.met is None]
    if unknown:
        pytest.skip("; ".join(unknown))

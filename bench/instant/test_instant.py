"""The cost of one outcome against a yardstick of the same run; that it learns, tests check."""

from __future__ import annotations

from typing import Any

import pytest
from bench.instant.report import measured, steady


def test_an_outcome_costs_a_few_searches(request: pytest.FixtureRequest, benchmark: Any) -> None:
    quick = request.config.getoption("--quick")
    made, more = steady(quick, informed=True)
    figures = measured(made, more, quick)
    stream = more.forever()
    benchmark.group = "one outcome, steady state"
    benchmark.extra_info.update(figures)
    benchmark.pedantic(lambda: made.process_trajectory(*next(stream)), rounds=20, iterations=100)
    if not quick:
        # It holds one search for two vectors, one step, three copies and a share of look-ups.
        assert figures["process_trajectory"] < 5.0 * figures["yardstick"]

"""Options of the benchmarks. Run them as ``pytest bench``; ``--quick`` takes small sizes."""

from __future__ import annotations

import pytest

_TABLES = pytest.StashKey[list[list[str]]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--quick", action="store_true", help="small sizes, a few rounds")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_TABLES] = []


@pytest.fixture
def tables(request: pytest.FixtureRequest) -> list[list[str]]:
    """What is printed when the run ends, a list of lines per case."""
    return request.config.stash[_TABLES]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for lines in terminalreporter.config.stash[_TABLES]:
        for line in lines:
            terminalreporter.write_line(line)

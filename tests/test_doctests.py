"""The examples in docstrings are code: each runs and gives what it says."""

import doctest
import importlib
import pkgutil

import pytest

import sona

# `python -m sona` runs the command when it is imported.
MODULES = [
    module.name
    for module in pkgutil.walk_packages(sona.__path__, "sona.")
    if module.name != "sona.__main__"
]


@pytest.mark.parametrize("name", ["sona", *MODULES])
def test_examples(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # examples may write files
    module = importlib.import_module(name)
    failed, _ = doctest.testmod(module)
    assert not failed


def test_there_are_examples():
    finder = doctest.DocTestFinder(exclude_empty=True)
    tests = [test for name in MODULES for test in finder.find(importlib.import_module(name))]
    assert sum(bool(test.examples) for test in tests) >= 20

"""The README is code: its example runs and prints what it says."""

import re
from pathlib import Path

README = Path(__file__).parents[1] / "README.md"


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", README.read_text(), re.M | re.S)


def test_the_example_runs(capsys):
    exec(compile(blocks("python")[0], "README.md", "exec"), {})
    assert capsys.readouterr().out.split() == ["small-model", "large-model"]


def test_the_two_commands_are_one_line_each():
    assert [block.count("\n") for block in blocks("bash")[:2]] == [1, 1]


def test_it_is_short():
    assert len(README.read_text().splitlines()) <= 150

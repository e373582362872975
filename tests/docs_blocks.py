"""Runs the code blocks of a Markdown page as a reader does, from top to bottom in one folder.

```python              runs; the blocks of a page share their names
```bash                runs; what it leaves in the background ends with the page
```text title="prints" is what the block before it prints; ... stands for anything
```LANG title="FILE"   is written to FILE
```json, toml, yaml    without a title must be well-formed

Every other language is refused, so that no block is left unread. Lines that install are not run:
what they install is what the tests run on; the extras that they name must exist. `.ci/newcomer`
runs those lines too, each page in an environment of its own.

    python tests/docs_blocks.py PAGE                  run a page in the current folder
    python tests/docs_blocks.py --installations PAGE  print its lines that install
"""

from __future__ import annotations

import contextlib
import doctest
import io
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

_FENCE = re.compile(r"^( *)```(\w*)(?: +title=\"([^\"]+)\")?[^\n]*\n(.*?)^\1```$", re.M | re.S)
_INSTALLS = re.compile(r"\b(pip install|python3? -m venv|git clone|activate)\b")
_EXTRA = re.compile(r"(?:\.|sona)\[([\w,-]+)\]")


class Block(NamedTuple):
    language: str
    title: str
    text: str
    line: int


def blocks(page: Path) -> list[Block]:
    """Return the fenced blocks of a page, in order."""
    text = page.read_text()
    found = []
    for match in _FENCE.finditer(text):
        indent, language, title, body = match.groups()
        body = re.sub(rf"^{indent}", "", body, flags=re.M)
        found.append(Block(language, title or "", body, text.count("\n", 0, match.start()) + 1))
    return found


def run_page(page: Path, known_extras: set[str]) -> None:
    """Run a page in the current folder; AssertionError names the block that fails."""
    names: dict[str, object] = {"__name__": "__docs__"}
    printed = ""
    with _background() as groups:
        for block in blocks(page):
            where = f"{page.name}:{block.line}"
            if block.title == "prints":
                _check_output(where, block.text, printed)
            elif block.title:
                Path(block.title).write_text(block.text)
            elif block.language == "python":
                printed = _python(where, block, page, names)
            elif block.language in ("bash", "sh"):
                printed = _bash(where, block.text, known_extras, groups)
            elif block.language == "json":
                json.loads(block.text)
            elif block.language == "toml":
                tomllib.loads(block.text)
            else:
                assert block.language == "text", f"{where}: nothing runs {block.language!r}"


def _python(where: str, block: Block, page: Path, names: dict[str, object]) -> str:
    # Padded, so that a traceback names the page's own line.
    code = compile("\n" * block.line + block.text, str(page), "exec")
    with contextlib.redirect_stdout(io.StringIO()) as out:
        exec(code, names)
    return out.getvalue()


def _bash(where: str, text: str, known_extras: set[str], groups: list[int]) -> str:
    for names in _EXTRA.findall(text):
        unknown = set(names.split(",")) - known_extras
        assert not unknown, f"{where}: no extra is called {unknown}"
    script = "\n".join(line for line in text.splitlines() if not _INSTALLS.search(line))
    # The tests' own installation comes first on the path, as an activated environment does.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    # Files, not pipes: what goes on in the background would keep a pipe open.
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        process = subprocess.Popen(
            ["bash", "-euo", "pipefail", "-c", script],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            env={**os.environ, "PATH": path},
            start_new_session=True,
        )
        groups.append(process.pid)
        status = process.wait(timeout=300)
        out.seek(0)
        err.seek(0)
        printed = out.read()
        assert status == 0, f"{where}: exit status {status}\n{printed}\n{err.read()}"
    return printed


def _check_output(where: str, wanted: str, printed: str) -> None:
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    same = doctest.OutputChecker().check_output(wanted, printed, flags)
    assert same, f"{where}: the page says\n{wanted}\nand the block printed\n{printed}"


@contextlib.contextmanager
def _background() -> Iterator[list[int]]:
    groups: list[int] = []
    try:
        yield groups
    finally:
        for group in groups:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(group, signal.SIGTERM)


def installations(page: Path) -> list[str]:
    """Return the lines of a page that install something."""
    shell = [block.text for block in blocks(page) if block.language in ("bash", "sh")]
    return [line for text in shell for line in text.splitlines() if _INSTALLS.search(line)]


def extras(pyproject: Path) -> set[str]:
    """Return the names of the extras."""
    return set(tomllib.loads(pyproject.read_text())["project"]["optional-dependencies"])


if __name__ == "__main__":
    page = Path(sys.argv[-1])
    if "--installations" in sys.argv:
        print("\n".join(installations(page)))
    else:
        run_page(page, extras(Path(__file__).parents[1] / "pyproject.toml"))

"""The pages and the README are code: every block runs and prints what it says."""

import importlib
import inspect
import re
import tomllib
from pathlib import Path

import pytest
from tests.docs_blocks import blocks, extras, run_page

import sona

MODULES = ("sona", "sona.federated", "sona.learning", "sona.training")
ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs").rglob("*.md"))
EXTRAS = extras(ROOT / "pyproject.toml")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT / "docs")))
def test_every_block_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run_page(page, EXTRAS)


def test_every_fence_is_seen():
    """A block whose fence is malformed would be left out unseen."""
    for page in PAGES:
        fences = re.findall(r"^ *```", page.read_text(), re.M)
        assert len(fences) == 2 * len(blocks(page)), page


def test_the_reference_has_every_public_name():
    listed = "\n".join(page.read_text() for page in (ROOT / "docs/reference").glob("*.md"))
    for module in MODULES:
        for name in importlib.import_module(module).__all__:
            if name != "__version__":
                assert re.search(rf"^::: {re.escape(module)}(\.{name})?$", listed, re.M), name


def test_documented_parameters_are_those_of_the_signature():
    for module in MODULES:
        for name in importlib.import_module(module).__all__:
            thing = getattr(importlib.import_module(module), name)
            members = [] if not inspect.isclass(thing) else vars(thing).values()
            for part in (thing, *(m for m in members if inspect.isfunction(m))):
                section = re.search(
                    r"Parameters\n-{10}\n(.*?)(\n\n\w+\n---|\Z)",
                    inspect.cleandoc(part.__doc__ or ""),
                    re.S,
                )
                if section:
                    found = re.findall(r"^(\w[\w, ]*) :", section[1], re.M)
                    documented = {each for names in found for each in names.split(", ")}
                    assert documented <= set(inspect.signature(part).parameters), part


def test_the_site_has_every_page():
    listed = re.findall(r"^ *- (?:.+: )?(\S+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.M)
    assert sorted(listed) == sorted(str(page.relative_to(ROOT / "docs")) for page in PAGES)


def test_a_block_that_fails_or_prints_something_else_is_found(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    page = tmp_path / "page.md"
    fence = "```"
    for text in (
        f'{fence}python\nprint(1)\n{fence}\n\n{fence}text title="prints"\n2\n{fence}\n',
        f"{fence}bash\nfalse | true\n{fence}\n",
        f"{fence}bash\npip install 'sona[nothing]'\n{fence}\n",
        f"{fence}ruby\nputs 1\n{fence}\n",
    ):
        page.write_text(text)
        with pytest.raises(AssertionError, match=r"page\.md:\d"):
            run_page(page, EXTRAS)


def test_the_version_is_said_in_one_place():
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"].get("version") is None
    assert re.fullmatch(r"\d+\.\d+\.\d+", sona.__version__)

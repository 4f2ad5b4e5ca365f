"""The documentation is whole: generated pages are fresh, every page is in the index, every relative link leads somewhere."""

from __future__ import annotations

import re
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest

REPOSITORY = Path(__file__).parents[1]
DOCS = REPOSITORY / "docs"
PAGES = sorted([*DOCS.rglob("*.md"), *REPOSITORY.glob("*.md")])

MADE_UP = '''
import typer

verbs = typer.Typer(help="A noun with verbs.", rich_markup_mode="rich")


@verbs.command()
def count(words: list[str], upper: bool = typer.Option(False, "--upper", help="Say it loudly.")) -> None:
    """Count words."""


@verbs.command(hidden=True)
def secret() -> None:
    """Not for the page."""


def alone() -> None:
    """A noun without verbs."""
'''


@pytest.fixture
def generator() -> ModuleType:
    """scripts/docs.py, which is no package."""
    spec = spec_from_file_location("docs_generator", REPOSITORY / "scripts" / "docs.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def links(text: str) -> list[str]:
    """The targets of the Markdown links in `text` that point into the repository; code blocks are left out."""
    prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    targets = re.findall(r"\[[^\]]*\]\(([^)\s]+)\)", re.sub(r"`[^`\n]*`", "", prose))
    return [target for target in targets if not re.match(r"[a-z]+:", target)]


def headings(text: str) -> set[str]:
    """The anchors that the headings of a page make."""
    prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    titles = re.findall(r"^#+ +(.*?) *$", prose, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def broken(page: Path) -> list[str]:
    """The relative links of `page` that lead nowhere."""
    found = []
    for link in links(page.read_text(encoding="utf-8")):
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        if not target.exists() or (anchor and anchor not in headings(target.read_text(encoding="utf-8"))):
            found.append(link)
    return found


def test_the_command_page_is_fresh(generator: ModuleType) -> None:
    written = (DOCS / "cli.md").read_text(encoding="utf-8")
    assert written == generator.command_page(), "docs/cli.md is stale: run make docs"


def test_every_page_is_linked_in_the_index() -> None:
    linked = {(DOCS / link.partition("#")[0]).resolve() for link in links((DOCS / "index.md").read_text(encoding="utf-8"))}
    pages = {page.resolve() for page in DOCS.rglob("*.md")} - {(DOCS / "index.md").resolve()}
    assert pages - linked == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(REPOSITORY).as_posix())
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    assert broken(page) == []


def test_a_broken_link_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# One: a title\n[a](#one-a-title) [b](#two) [c](gone.md) [d](page.md#one-a-title) [e](page.md#no) [f](https://x.org)\n"
        "`[g](code.md)`\n```\n[h](block.md)\n```\n",
        encoding="utf-8",
    )
    assert broken(page) == ["#two", "gone.md", "page.md#no"]


def test_the_command_page_holds_every_command_in_plain_text(
    generator: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "made_up_for_docs.py").write_text(MADE_UP, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("COLUMNS", "40")
    table = {"verbs": ("made_up_for_docs:verbs", "Verbs."), "alone": ("made_up_for_docs:alone", "Alone.")}
    try:
        page = generator.command_page(table)
    finally:
        sys.modules.pop("made_up_for_docs", None)
    assert re.findall("^## (.*)", page, flags=re.MULTILINE) == ["gamut", "gamut verbs", "gamut verbs count", "gamut alone"]
    assert "Usage: gamut verbs count [OPTIONS] {words}..." in page
    assert "Say it loudly." in page
    assert "Not for the page" not in page
    assert page.isascii(), "boxes in the help"
    assert 60 < max(map(len, page.split("```text")[1].splitlines())) <= 100

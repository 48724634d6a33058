"""The documents: every link leads somewhere, and every command that they show exists."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest

from syncevents.cli import program
from synceventsd.cli import synceventsd

ROOT = Path(__file__).parents[2]
PAGES = [page for page in (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")) if page.name != "CHANGELOG.md"]
LINK = re.compile(r"\]\(([^)\s]+)\)")
CODE = re.compile(r"```sh\n(.*?)```|`([^`\n]+)`", re.DOTALL)
CALL = re.compile(r"(?<![\w/.-])(syncevents|synceventsd) ((?:[a-z][a-z-]+ ?){1,2})")


def anchors(page: Path) -> set[str]:
    """Return the names of a page's headings, made as GitHub makes them."""
    headings = re.findall(r"(?m)^#+ (.+)$", re.sub(r"(?s)```.*?```", "", page.read_text()))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_to_a_file_and_a_heading(page: Path) -> None:
    for link in LINK.findall(page.read_text()):
        if link.startswith(("http://", "https://")):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def exists(group: click.Command, words: list[str]) -> bool:
    """Tell whether the first word is a command of the group, and the next one of that, where it is a group itself."""
    if not isinstance(group, click.Group):
        return True
    command = group.get_command(click.Context(group), words[0]) if words else None
    return command is not None and exists(command, words[1:]) if words else True


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_that_is_shown_exists(page: Path) -> None:
    for block, span in CODE.findall(page.read_text()):
        for name, words in CALL.findall(block or span):
            before = (block or span).partition(f"{name} {words}")[0]
            if re.search(r"(systemctl|pip|pipx|apt|usermod|journalctl|import|install)[^\n|&]*$", before):
                continue  # a unit, a package or a group of this name
            assert exists({"syncevents": program, "synceventsd": synceventsd}[name], words.split()), f"{name} {words}"


def outline(page: Path) -> tuple[list[str], list[str], list[int], set[str]]:
    """Return what a translation shares: levels of headings, code without comments, sizes of tables, links."""
    text = page.read_text()
    blocks = re.findall(r"(?ms)^```.*?^```", text)
    prose = re.sub(r"(?ms)^```.*?^```", "", text)
    tables = [table.count("\n") for table in re.findall(r"(?m)(?:^\|.*\n)+", prose)]
    links = {link for link in LINK.findall(prose) if not link.startswith("README")}
    return re.findall(r"(?m)^#+(?= )", prose), [re.sub(r" +# .*", "", block) for block in blocks], tables, links


def test_the_readme_says_the_same_in_both_languages() -> None:
    english, spanish = outline(ROOT / "README.md"), outline(ROOT / "README.es.md")
    assert spanish == english
    assert "](README.es.md)" in (ROOT / "README.md").read_text()
    assert "](README.md)" in (ROOT / "README.es.md").read_text()

"""Links of pages and notebooks lead somewhere; stored outputs are what a reader looks for."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

# Pages, which are the same on all versions.
pytestmark = pytest.mark.any_keras

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PAGES = [ROOT / "README.md", *sorted((ROOT / "notebooks" / "guide").glob("*.md")), *NOTEBOOKS]


def cells(notebook, kind):
    content = json.loads(notebook.read_text(encoding="utf-8"))
    return [cell for cell in content["cells"] if cell["cell_type"] == kind]


def prose(page):
    """The Markdown of a page or a notebook, without its blocks of code."""
    if page.suffix == ".ipynb":
        text = "\n\n".join("".join(cell["source"]) for cell in cells(page, "markdown"))
    else:
        text = page.read_text(encoding="utf-8")
    return re.sub(r"```.*?```", "", text, flags=re.DOTALL)


def anchors(page):
    """Those of the headings, as GitHub makes them."""
    headings = re.findall(r"^#+ +(.+?) *$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def dead_links(page):
    """The links to files of the project or to headings that are not there."""
    dead = []
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"https?://", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.is_file() or (anchor and anchor not in anchors(target)):
            dead.append(link)
    return dead


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_link_leads_to_a_file_and_a_heading(page):
    """A page that moves takes its links along."""
    assert dead_links(page) == []


def test_a_dead_link_is_found(tmp_path):
    """To no file, to no heading of a file, or to none of the page itself; code has no links."""
    page = tmp_path / "page.md"
    page.write_text(
        "# The `one` & only\n[a](no.md) [b](#the-one--only) [c](#gone)\n```\n[d](no)\n```\n"
    )
    other = tmp_path / "other.ipynb"
    text = "[e](page.md#the-one--only) [f](page.md#two) [g](https://keras.io)"
    other.write_text(json.dumps({"cells": [{"cell_type": "markdown", "source": [text]}]}))
    assert dead_links(page) == ["no.md", "#gone"]
    assert dead_links(other) == ["page.md#two"]


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda notebook: notebook.stem)
def test_stored_outputs_hold_no_error_stream(notebook):
    """Start-up messages and warnings of the machine that ran it are no part of a notebook."""
    outputs = [output for cell in cells(notebook, "code") for output in cell["outputs"]]
    assert outputs
    assert not any(output.get("name") == "stderr" for output in outputs)


def test_the_table_of_source_files_is_that_of_the_package():
    """Each file of the package has its idea in a row, and no row is of a file that has gone."""
    package = ROOT / "keras_decay"
    files = {path.relative_to(package).as_posix() for path in package.rglob("_*.py")}
    page = (ROOT / "notebooks" / "guide" / "project.md").read_text(encoding="utf-8")
    table = page.partition("| file | idea |\n")[2]
    named = [name for row in table.splitlines() for name in re.findall(r"`(\S+\.py)`", row)]
    assert sorted(named) == sorted(file for file in files if not file.endswith("__init__.py"))

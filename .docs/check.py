"""Compares the built site with the sources: names, signatures, arguments, search, links.

Its own reading of the sources is `ast`'s, and that of the site an HTML parser's: nothing that built
the site is believed.
"""

from __future__ import annotations

import ast
import json
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "keras_decay"
FETCHED = {"link", "script", "img", "iframe", "source"}
EMPTY = {"br", "col", "hr", "img", "input", "link", "meta", "source", "wbr"}


class Read(HTMLParser):
    """What the checks need of a page."""

    def __init__(self, html: str):
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[tuple[str, str]] = []
        self.viewport = False
        self.signatures: list[str] = []
        self.arguments: set[str] = set()
        """What is bold and code in a list: how an argument's entry begins."""
        self._open: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        self.ids |= {found[name] for name in ("id", "name") if name in found}
        self.links += [(tag, found[name]) for name in ("href", "src") if name in found]
        self.viewport |= found.get("name") == "viewport" and "width=" in found.get("content", "")
        if tag not in EMPTY:
            self._open.append("signature" if "doc-signature" in found.get("class", "") else tag)
        if self._open and self._open[-1] == "signature" and tag != "span":
            self.signatures.append("")

    def handle_endtag(self, tag: str) -> None:
        if tag not in EMPTY and self._open:
            self._open.pop()

    def handle_data(self, data: str) -> None:
        if "signature" in self._open:
            self.signatures[-1] += data
        if self._open[-2:] == ["b", "code"]:
            self.arguments.add(data.strip())


def tree_of(module: str) -> ast.Module:
    path = ROOT.joinpath(*module.split("."))
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return ast.parse(path.read_text(encoding="utf-8"))


def definition(module: str, name: str) -> ast.ClassDef | ast.FunctionDef:
    """Where a name is defined, through as many imports as lead there."""
    is_package = ROOT.joinpath(*module.split(".")).is_dir()
    for node in tree_of(module).body:
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)) and node.name == name:
            return node
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    parts = module.split(".")
                    up = node.level - is_package
                    base = ".".join(parts[: len(parts) - up]) if node.level else ""
                    source = ".".join(filter(None, [base, node.module]))
                    return definition(source, alias.name)
    raise LookupError(f"{module} has no {name}")


def signature(name: str) -> tuple[str, set[str]]:
    """A public name's signature, and the names of its arguments."""
    node = definition(PACKAGE, name)
    returns = ""
    if isinstance(node, ast.ClassDef):
        inits = [each for each in node.body if getattr(each, "name", "") == "__init__"]
        if inits:
            given = inits[0].args
            given.args = given.args[1:]
        else:  # A dataclass.
            fields = [each for each in node.body if isinstance(each, ast.AnnAssign)]
            given = ast.arguments(
                posonlyargs=[],
                args=[ast.arg(each.target.id, each.annotation) for each in fields],
                kwonlyargs=[],
                kw_defaults=[],
                defaults=[each.value for each in fields if each.value is not None],
            )
    else:
        given = node.args
        returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    names = {each.arg for each in [*given.posonlyargs, *given.args, *given.kwonlyargs]}
    return f"{name}({ast.unparse(given)}){returns}", names


def bare(text: str) -> str:
    """Without what the formatting of code is free to choose."""
    return "".join(text.split()).replace('"', "'").replace(",)", ")")


def public_names() -> list[str]:
    for node in tree_of(PACKAGE).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return list(ast.literal_eval(node.value))
    raise LookupError("no `__all__`")


def check_api(site: Path, pages: dict[Path, Read]) -> Iterator[str]:
    names = public_names()
    index = json.loads((site / "search" / "search_index.json").read_text(encoding="utf-8"))
    titles = {(entry["location"].partition("#")[0], entry["title"]) for entry in index["docs"]}
    for name in names:
        page = pages.get(site / "api" / name / "index.html")
        if page is None:
            yield f"{name}: no page"
            continue
        wanted, arguments = signature(name)
        shown = page.signatures[0] if page.signatures else ""
        if bare(shown) != bare(wanted):
            yield f"{name}: the page says\n    {bare(shown)}\nand the source\n    {bare(wanted)}"
        for argument in sorted(arguments - page.arguments):
            yield f"{name}: no entry for the argument {argument}"
        if (f"api/{name}/", name) not in titles:
            yield f"{name}: the search does not find it"
    extra = {path.parent.name for path in pages if path.parent.parent == site / "api"} - {*names}
    yield from (f"{name}: a page, and not public" for name in sorted(extra))


def check_links(site: Path, pages: dict[Path, Read]) -> Iterator[str]:
    for path, page in pages.items():
        where = path.relative_to(site)
        if not page.viewport:
            yield f"{where}: no viewport, so a phone shows it small"
        for tag, link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                if tag in FETCHED and parts.scheme != "data":
                    yield f"{where}: fetched from elsewhere: {link}"
                continue
            base = site if parts.path.startswith("/") else path.parent
            target = (base / unquote(parts.path).lstrip("/")).resolve() if parts.path else path
            if target.is_dir():
                target /= "index.html"
            if not target.is_file():
                yield f"{where}: leads nowhere: {link}"
            elif parts.fragment and target in pages:
                # "__" begins the theme's own, which its scripts make.
                anchor = unquote(parts.fragment)
                if anchor not in pages[target].ids and not anchor.startswith("__"):
                    yield f"{where}: no such place: {link}"


def main(site: Path) -> int:
    pages = {path: Read(path.read_text(encoding="utf-8")) for path in site.rglob("*.html")}
    wrong = [*check_api(site, pages), *check_links(site, pages)]
    for each in wrong:
        print(each, file=sys.stderr)
    links = sum(len(page.links) for page in pages.values())
    names = len(public_names())
    print(f"{len(pages)} pages, {names} public names, {links} links: {len(wrong)} wrong")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).resolve()))

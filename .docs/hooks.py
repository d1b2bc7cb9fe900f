"""Gathers the site from the repository: README, guide, notebooks, and a page for each public name.

The pages keep their paths, so the links between them are right here and in the repository.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import griffe
from latex2mathml.converter import convert
from mkdocs.plugins import event_priority, get_plugin_logger
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "keras_decay"
# Its warnings fail the build, as all do.
LOG = get_plugin_logger("site")

CONTRIBUTING, SECURITY = ".github/CONTRIBUTING.md", ".github/SECURITY.md"
# Arguments too, and mostly meant as such.
ARGUMENTS = {"steps_per_epoch"}
# Of use to `PlateauDecay` alone, whatever their names say.
INTERNAL = ("PlateauScale.at", "PlateauScale.place")
FORMULA = re.compile(r'class="arithmatex">\\([(\[])(.*?)\\[)\]]<', re.DOTALL)
SCRIPT = re.compile(r"<script\b.*?</script>", re.DOTALL)
CELL = re.compile(r'(<pre|<div(?= class="clipboard-copy-txt"))')
EXAMPLE = re.compile(r"^>>> .*(?:\n.*\S.*)*", re.MULTILINE)


def public_names() -> list[str]:
    """`__all__` of the package, read and not imported: that needs no Keras."""
    tree = ast.parse((ROOT / PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return list(ast.literal_eval(node.value))
    raise LookupError(f"{PACKAGE} has no `__all__`")


def pages(folder: str, pattern: str, first: list[str]) -> list[str]:
    """The files of a folder, those in the README's table in its order, then the others."""
    found = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / folder).glob(pattern))
    return sorted(found, key=lambda path: first.index(path) if path in first else len(first))


def api_page(name: str) -> str:
    return f"api/{name}.md"


def on_config(config: Any) -> Any:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    order = re.findall(r"^\| \[[^]]*\]\((notebooks/[^)#]+)", readme, re.MULTILINE)
    config.nav = [
        {"Start": "README.md"},
        {"Guide": [*pages("notebooks/guide", "*.md", order), CONTRIBUTING, SECURITY]},
        {"Notebooks": pages("notebooks", "*.ipynb", order)},
        {"API": ["api/index.md", *({name: api_page(name)} for name in public_names())]},
    ]
    return config


# Before the plugin for notebooks looks at the files.
@event_priority(100)
def on_files(files: Files, config: Any) -> Files:
    def add(path: str, **arguments: Any) -> File:
        file = File.generated(config, path, inclusion=InclusionLevel.INCLUDED, **arguments)
        files.append(file)
        return file

    wanted = [
        "README.md",
        *pages("notebooks", "*.png", []),
        *pages("notebooks", "*.ipynb", []),
        *pages("notebooks/devices", "*.py", []),
        *pages("notebooks/guide", "*", []),
    ]
    for path in wanted:
        add(path, abs_src_path=str(ROOT / path))
    for path in (CONTRIBUTING, SECURITY):
        # Some hosts serve no folder whose name begins with a dot.
        file = add(path, abs_src_path=str(ROOT / path))
        file.dest_uri = f"{Path(path).stem.lower()}/index.html"
    overview = f"# API\n\n::: {PACKAGE}\n    options:\n      members: false\n"
    add("api/index.md", content=f"{overview}      show_root_heading: false\n")
    for name in public_names():
        boost = "---\nsearch:\n  boost: 4\n---\n"
        add(api_page(name), content=f"{boost}::: {PACKAGE}.{name}\n")
    return files


def plain_titles(toc: Any) -> None:
    r"""The table of contents has no formulas: `\(k\)` is k there."""
    for entry in toc:
        entry.title = re.sub(r"\\\((.*?)\\\)", r"\1", entry.title)
        plain_titles(entry.children)


def on_page_content(html: str, page: Page, config: Any, files: Files) -> str:
    """Formulas without a script, and each public name in a text a link to its page."""

    def mathml(match: re.Match[str]) -> str:
        latex = match[2].replace("&amp;", "&").replace("&lt;", "<").replace("&gt;", ">")
        latex = latex.replace(r"\_", "_")  # As MathML has it.
        display = "inline" if match[1] == "(" else "block"
        return f'class="arithmatex">{convert(latex, display=display)}<'

    source = page.file.src_uri
    ambiguous = set() if source == "api/index.md" else ARGUMENTS
    names = "|".join(
        name for name in public_names() if api_page(name) != source and name not in ambiguous
    )
    code = rf"<code>((?:{PACKAGE}\.)?({names}))</code>"

    def link(match: re.Match[str]) -> str:
        if match[2] is None:
            return match[0]
        return f'<autoref identifier="{PACKAGE}.{match[2]}"><code>{match[1]}</code></autoref>'

    html = FORMULA.sub(mathml, html)
    # A search is for what is said of a name, not for each cell that uses it.
    if source.endswith(".ipynb"):
        html = CELL.sub(r"\1 data-search-exclude", html)
    plain_titles(page.toc)
    # What is a link or a heading already is matched first, and stays.
    kept = r"<a\b.*?</a>|<autoref\b.*?</autoref>|<h\d.*?</h\d>|<pre\b.*?</pre>"
    return re.sub(f"{kept}|{code}", link, html, flags=re.DOTALL)


def on_post_page(output: str, page: Page, config: Any) -> str:
    """MathJax would be fetched from elsewhere, and the formulas need it no more."""
    return SCRIPT.sub(lambda script: "" if "mathjax" in script[0].lower() else script[0], output)


class Docstrings(griffe.Extension):
    """Fences the examples, shows methods and properties, and has each argument documented."""

    def on_package(self, *, pkg: griffe.Module, loader: Any, **kwargs: Any) -> None:
        self._prepare(pkg)
        for name in public_names():
            public = pkg[name].final_target
            self._check(name, public)
            for member in public.members.values():
                if not member.name.startswith("_") and member.is_function and member.has_docstring:
                    self._check(f"{name}.{member.name}", member)

    def _prepare(self, thing: Any) -> None:
        if thing.is_alias:
            return
        # What a reader may rely on of the attributes is under `Attributes:`.
        plain = thing.is_attribute and "property" not in thing.labels
        if plain or thing.path.endswith(INTERNAL):
            thing.docstring = None
        elif thing.docstring is not None:
            thing.docstring.value = EXAMPLE.sub(r"```pycon\n\g<0>\n```", thing.docstring.value)
        for member in thing.members.values():
            self._prepare(member)

    def _check(self, name: str, public: Any) -> None:
        if public.docstring is None:
            LOG.warning("`%s` has no docstring", name)
            return
        documented = {
            entry.name
            for section in public.docstring.parse("google", warnings=False)
            if section.kind is griffe.DocstringSectionKind.parameters
            for entry in section.value
        }
        taken = {each.name.lstrip("*") for each in public.parameters} - {"self", "cls"}
        for argument in sorted(taken - documented):
            LOG.warning("`%s` has an argument without documentation: `%s`", name, argument)

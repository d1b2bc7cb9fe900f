"""Looks at the built site in headless Chromium: its search, and no page wider than its window.

By hand, where `chromium` is installed: `python .docs/browser.py build/site [folder for pictures]`.
"""

from __future__ import annotations

import functools
import http.server
import itertools
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

PAGES = ["", "api/PlateauDecay/", "notebooks/02_plateau_over_a_schedule/", "notebooks/guide/cost/"]
QUERY = "PlateauDecay"
WIDTHS = (400, 1400)
SCHEMES = ("default", "slate")
# A page in a frame is laid out for the frame's width; a window of its own may have a least width.
FRAME = """<!doctype html><title>frame</title><style>* {{margin: 0; border: 0}}</style>
<iframe src="/{page}" style="width: {width}px; height: 1200px"></iframe>
<script>
const frame = document.querySelector("iframe");
frame.onload = () => {{
  const page = frame.contentDocument;
  page.body.setAttribute("data-md-color-scheme", "{scheme}");
  document.title = "width " + page.documentElement.scrollWidth;
}};
</script>"""

# The search answers from a worker; until the picture is there, the browser waits for it.
SEARCH = """<!doctype html><title>frame</title>
<iframe src="/?q={query}"></iframe><img src="/wait.svg" onload="
  const found = document.querySelector('iframe').contentDocument;
  const links = found.querySelectorAll('.md-search-result__link');
  document.title = 'found ' + Array.from(links, (link) => link.href).join(' ');">"""


class Quiet(http.server.SimpleHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path == "/wait.svg":
            time.sleep(5)
        super().do_GET()

    def log_message(self, *args: object) -> None:
        pass


class Server(http.server.ThreadingHTTPServer):
    def handle_error(self, *args: object) -> None:
        """The browser goes when it has what it came for."""


def chromium(url: str, *arguments: str) -> str:
    with tempfile.TemporaryDirectory() as profile:
        command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
        command += [f"--user-data-dir={profile}", *arguments, url]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout


def search(root: str, site: Path) -> Iterator[str]:
    (site / "search.html").write_text(SEARCH.format(query=QUERY), encoding="utf-8")
    seen = re.search(r"<title>found ([^<]*)", chromium(f"{root}/search.html", "--dump-dom"))
    results = seen[1].split() if seen else []
    print(f"search for {QUERY}: {len(results)} results, first {results[:1]}")
    if not any(f"api/{QUERY}/" in each for each in results[:1]):
        yield "the search does not find its page first"


def look(
    root: str, site: Path, page: str, width: int, scheme: str, pictures: Path | None
) -> Iterator[str]:
    text = FRAME.format(page=page, width=width, scheme=scheme)
    (site / "frame.html").write_text(text, encoding="utf-8")
    seen = re.search(r"<title>width (\d+)", chromium(f"{root}/frame.html", "--dump-dom"))
    if seen is None or int(seen[1]) > width:
        yield f"{page or 'the start'} at {width}: {seen and seen[1]} wide"
    if pictures is not None:
        name = "-".join([*(page or "start").strip("/").split("/"), str(width), scheme])
        picture = f"--screenshot={pictures.resolve() / name}.png"
        chromium(f"{root}/frame.html", picture, f"--window-size={max(width, 500)},1200")


def main(built: Path, pictures: Path | None) -> int:
    with tempfile.TemporaryDirectory() as folder:
        site = Path(folder, "site")
        shutil.copytree(built, site)
        for name in ("wait.svg", "favicon.ico"):
            shutil.copy(site / "favicon.svg", site / name)
        handler = functools.partial(Quiet, directory=site)
        with Server(("127.0.0.1", 0), handler) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            root = f"http://127.0.0.1:{server.server_port}"
            wrong = [*search(root, site)]
            for page, width, scheme in itertools.product(PAGES, WIDTHS, SCHEMES):
                wrong += look(root, site, page, width, scheme, pictures)
            server.shutdown()
    for each in wrong:
        print(each, file=sys.stderr)
    print(f"{len(PAGES)} pages at {WIDTHS} pixels, light and dark: {len(wrong)} wrong")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else None))

"""report.html in a browser: it needs no other file, fits every screen, and can be read there."""

import base64
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest

from resnet_flax.report import html

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]
FLAGS += ["--disable-background-networking", "--disable-component-update"]


class Tags(HTMLParser):
    """Checks that tags are closed in order; collects what is loaded, what is referred to and what is written."""

    EMPTY = ("meta", "img")

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.loaded: list[str] = []
        self.links: list[str] = []
        self.text = ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.loaded += [value for name, value in attributes if name in ("src", "href", "srcset")]
        self.links += [value for name, value in attributes if name == "xlink:href"]
        assert not [name for name, _ in attributes if name.startswith("on")]
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def page_of(workdir: Path) -> str:
    return (workdir / "report" / "report.html").read_text()


def test_the_page_needs_nothing_else(small_runs):
    page = page_of(small_runs[0])
    tags = Tags(page)
    assert len(tags.loaded) > 24
    for source in tags.loaded:
        kind, data = source.split(",", 1)
        assert kind == "data:image/png;base64"
        assert base64.b64decode(data).startswith(b"\x89PNG")
    assert tags.links and all(link.startswith("#") for link in tags.links)
    assert not re.search(r"url\((?!#)|@import", page)
    assert page.count("<svg") == 5


@pytest.mark.parametrize("count", range(1, 20))
def test_no_tile_is_alone_in_its_row(count):
    shown = html.tiles([html.Tile("name", "value")] * count)
    columns = int(re.search(r"--columns: (\d)", shown)[1])
    assert columns <= count
    assert count % columns != 1 or columns == 1


LOOK = """onload = () => {
  const page = frames[0].document, rows = {};
  for (const tile of page.querySelectorAll(".tile")) rows[tile.offsetTop] = (rows[tile.offsetTop] || 0) + 1;
  const wide = tile => tile.offsetWidth > 0.9 * page.querySelector("main").clientWidth;
  const cut = [...page.querySelectorAll("td, th, .tile, figure, .scroll")].filter(
    part => part.scrollWidth > part.clientWidth + 1 && !part.querySelector("pre"));
  const sizes = [...page.querySelectorAll(".matrix td, svg text")].map(
    part => part.getBoundingClientRect().height / (part.tagName == "td" ? 2 : 1));
  document.title = JSON.stringify({
    fits: page.documentElement.scrollWidth <= frames[0].innerWidth,
    cut: cut.map(part => part.outerHTML.slice(0, 100)),
    alone: Object.values(rows).includes(1) && !wide(page.querySelector(".tile")),
    drawn: [...page.images].every(image => image.complete && image.naturalWidth >= 32),
    smallest: Math.min(...sizes),
    back: getComputedStyle(page.body).backgroundColor,
  });
}"""


def look(page: str, width: int, dark: bool, folder: Path) -> dict:
    """Show `page` in a frame of that width and return what LOOK finds."""
    source = page.replace("&", "&amp;").replace('"', "&quot;")
    frame = f'<iframe width="{width}" height="3000" style="border:0" srcdoc="{source}"></iframe>'
    (folder / "frame.html").write_text(f"<title>-</title><script>{LOOK}</script><body style='margin:0'>{frame}")
    flags = [*FLAGS, f"--user-data-dir={folder}/profile", f"--blink-settings=preferredColorScheme={int(not dark)}"]
    command = [BROWSER, *flags, "--window-size=1700,3000", "--dump-dom", f"file://{folder}/frame.html"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    return json.loads(re.search("<title>(.*?)</title>", done.stdout)[1].replace("&lt;", "<").replace("&gt;", ">"))


@pytest.mark.skipif(BROWSER is None, reason="there is no Chromium to look with")
@pytest.mark.parametrize("width", [390, 768, 1100, 1280, 1600])
def test_the_page_fits_its_screen_and_nothing_is_cut_or_too_small_to_read(small_runs, tmp_path, width):
    dark = width in (390, 1280)
    seen = look(page_of(small_runs[0]), width, dark, tmp_path)
    background = "rgb(21, 24, 28)" if dark else "rgb(255, 255, 255)"
    smallest = seen.pop("smallest")
    assert seen == {"fits": True, "cut": [], "alone": False, "drawn": True, "back": background}
    assert smallest >= 9  # pixels

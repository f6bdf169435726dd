"""report.html: one file that needs nothing else, for a screen of any width, dark or light, and for paper."""

import base64
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

from resnet_flax.text import escape_lines

# What a browser may load for the page, should anything in it ask for more.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"

STYLE = """
:root { color-scheme: light dark; --text: #1b1f24; --soft: #59636e; --back: #ffffff; --line: #d5dae0; }
@media screen and (prefers-color-scheme: dark) {
  :root { --text: #e4e7eb; --soft: #9aa4af; --back: #15181c; --line: #363c44; }
  img.chart { filter: invert(0.91) hue-rotate(180deg); }
}
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 60rem; background: var(--back); color: var(--text);
  font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; margin: 0.5rem 0 0; }
h2 { font-size: 1.15rem; margin: 2rem 0 0.5rem; border-bottom: 1px solid var(--line); }
p { margin: 0.4rem 0; }
.soft, figcaption { color: var(--soft); font-size: 0.9rem; }
.numbers { display: flex; flex-wrap: wrap; gap: 0.4rem 2rem; margin: 1rem 0; }
.numbers b { display: block; font-size: 1.4rem; }
figure { margin: 0.75rem 0; }
img { max-width: 100%; height: auto; border-radius: 4px; }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 25rem), 1fr)); gap: 0 1rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 0.9rem; overflow-wrap: normal; }
th, td { padding: 0.15rem 0.7rem; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--line); }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
pre { font-size: 0.8rem; line-height: 1.35; overflow-wrap: normal; }
@media (max-width: 30rem) { th, td { padding: 0.15rem 0.3rem; } table { font-size: 0.8rem; } }
@media print {
  body { max-width: none; padding: 0; font-size: 10pt; }
  .scroll { overflow: visible; }
  pre { font-size: 6.5pt; white-space: pre-wrap; }
  table { font-size: 8pt; }
  h2 { break-after: avoid; }
  figure, tr { break-inside: avoid; }
  img { max-height: 12cm; }
  .pair { grid-template-columns: 1fr 1fr; }
  details { display: none; }
}
"""


def escape_html(text: str) -> str:
    """Text of anybody as HTML that shows it."""
    return escape(escape_lines(text))


def document(title: str, parts: Iterable[str], digest: str = "") -> str:
    """Return a whole document; `title` is text, `parts` are HTML, `digest` says which results they show."""
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta name="results" content="{digest}">\n<title>{escape_html(title)}</title>\n'
        f"<style>{STYLE}</style>\n</head>\n<body>\n<main>\n<h1>{escape_html(title)}</h1>\n"
        + "\n".join(parts)
        + "\n</main>\n</body>\n</html>\n"
    )


def section(title: str, *parts: str) -> str:
    return f"<section>\n<h2>{escape_html(title)}</h2>\n" + "\n".join(parts) + "\n</section>"


def paragraph(text: str) -> str:
    return f'<p class="soft">{escape_html(text)}</p>'


def numbers(named: dict[str, str]) -> str:
    """The few numbers that matter, large."""
    items = "".join(f"<div>{escape_html(name)} <b>{escape_html(value)}</b></div>" for name, value in named.items())
    return f'<div class="numbers">{items}</div>'


def picture(path: Path, caption: str, chart: bool = True) -> str:
    """A PNG file as part of the page. A `chart` may change its colours on a dark screen, photographs may not."""
    data = base64.b64encode(path.read_bytes()).decode()
    kind = "chart" if chart else "photo"
    return (
        f'<figure><img class="{kind}" alt="{escape_html(caption)}" src="data:image/png;base64,{data}">'
        f"<figcaption>{escape_html(caption)}</figcaption></figure>"
    )


def pair(*figures: str) -> str:
    """Figures side by side where there is room."""
    return '<div class="pair">' + "".join(figures) + "</div>"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape_html(cell)}</th>" for cell in header)
    body = "\n".join("<tr>" + "".join(f"<td>{escape_html(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="scroll"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>'


def preformatted(text: str) -> str:
    return f'<div class="scroll"><pre>{escape_html(text)}</pre></div>'


def folded(title: str, part: str) -> str:
    return f"<details><summary>{escape_html(title)}</summary>\n{part}\n</details>"

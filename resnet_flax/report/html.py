"""The elements of a page that needs no other file, for a screen of any width, light or dark, and for paper."""

import base64
from collections.abc import Iterable, Sequence
from html import escape
from typing import NamedTuple

from resnet_flax.text import escape_lines

# All that a browser may load for the page, should anything in it ask for more.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
TILE_COLUMNS = (4, 3, 5)  # the first one that leaves no tile alone in a row

STYLE = """
:root { color-scheme: light dark; --font: system-ui, -apple-system, "Segoe UI", Roboto, sans-serif;
  --text: #1b1f24; --soft: #59636e; --back: #ffffff; --card: #f5f7f9; --line: #d5dae0; --bad: #b03a48;
  --heat: 32 102 168; --run0: #2066a8; --run1: #c8682a; --run2: #2e8b57; --run3: #8b4f9f; --run4: #b03a48;
  --run5: #7a6a1f; --run6: #1f7f8c; --run7: #444444; }
@media screen and (prefers-color-scheme: dark) {
  :root { --text: #e4e7eb; --soft: #9aa4af; --back: #15181c; --card: #1d2127; --line: #363c44; --bad: #f08a95;
    --heat: 47 110 178; --run0: #6aaef0; --run1: #f0a06a; --run2: #6fc795; --run3: #c79ad8; --run4: #ec8a94;
    --run5: #cdb964; --run6: #7fd0dc; --run7: #b8bec6; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem 1.25rem 4rem; max-width: 76rem; background: var(--back); color: var(--text);
  font: 1rem/1.5 var(--font); overflow-wrap: anywhere; }
h1 { font-size: 1.75rem; line-height: 1.2; margin: 0 0 0.25rem; }
h2 { font-size: 1.25rem; line-height: 1.3; margin: 3rem 0 0.75rem; padding-bottom: 0.3rem;
  border-bottom: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 1.5rem 0 0.4rem; }
h4 { font-size: 0.9rem; margin: 0.75rem 0 0.3rem; }
p { margin: 0.4rem 0; max-width: 48rem; }
.soft, .note { color: var(--soft); font-size: 0.9rem; }
.tiles { display: grid; gap: 0.75rem; margin: 1.25rem 0; grid-template-columns: repeat(var(--columns), 1fr); }
.tile { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: 0.7rem 0.9rem; }
.tile b { display: block; font-size: 1.5rem; line-height: 1.3; font-variant-numeric: tabular-nums; }
.tile .name { color: var(--soft); font-size: 0.9rem; }
.tile .note { display: block; font-size: 0.8rem; }
progress { display: block; width: 100%; height: 0.6rem; accent-color: var(--run0); }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 28rem), 1fr)); gap: 0.5rem 2.5rem;
  align-items: start; }
.pair > * { min-width: 0; }
figure { margin: 0.5rem 0; }
figcaption { font-weight: 600; font-size: 0.95rem; margin-bottom: 0.3rem; }
.scroll { overflow-x: auto; }
.chart svg { display: block; width: 100%; height: auto; stroke-linejoin: round; }
.chart text { fill: currentColor; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 0.9rem; overflow-wrap: normal; }
th, td { padding: 0.25rem 0.75rem; text-align: right; border-bottom: 1px solid var(--line); }
th { vertical-align: bottom; }
td { white-space: nowrap; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
.wrap td:first-child { white-space: normal; overflow-wrap: anywhere; min-width: 5rem; }
.pair table { width: 100%; }
.facts th { text-align: left; font-weight: 400; color: var(--soft); vertical-align: top; width: 35%; }
.facts td { text-align: left; white-space: normal; overflow-wrap: anywhere; }
.long { max-height: 32rem; overflow-y: auto; }
.long thead th { position: sticky; top: 0; background: var(--back); }
.matrix { table-layout: fixed; width: 100%; font-size: 0.8rem; line-height: 1.2; border-collapse: separate;
  border-spacing: 2px; }
.matrix th, .matrix td { padding: 0; border: 0; }
.matrix th { font-weight: 400; }
.matrix thead th { height: 6.5rem; text-align: center; }
.matrix thead span { display: inline-block; writing-mode: vertical-rl; transform: rotate(180deg); white-space: nowrap; }
.matrix tbody th { vertical-align: middle; }
.matrix th:first-child { width: 6.5rem; padding-right: 0.3rem; text-align: right; overflow-wrap: anywhere; }
.matrix td { height: 1.9rem; text-align: center; border-radius: 3px; background: rgb(var(--heat) / var(--share));
  print-color-adjust: exact; -webkit-print-color-adjust: exact; }
.matrix td.strong { color: #ffffff; }
.gallery { display: grid; grid-template-columns: repeat(var(--columns, 12), 1fr); gap: 0.75rem 0.5rem; }
.gallery figure { margin: 0; min-width: 0; font-size: 0.78rem; line-height: 1.25; }
.gallery img { display: block; width: 100%; aspect-ratio: 1; object-fit: contain; border-radius: 4px;
  margin-bottom: 0.2rem; }
.gallery img.small { image-rendering: pixelated; }
.gallery .wrong { color: var(--bad); font-weight: 600; }
.gallery .soft { display: block; font-size: inherit; }
pre { font-size: 0.8rem; line-height: 1.4; overflow-wrap: normal; margin: 0.5rem 0; }
details { margin: 1rem 0; }
summary { cursor: pointer; font-weight: 600; }
@media screen and (max-width: 62rem) { .gallery { --columns: 8; } }
@media screen and (max-width: 40rem) {
  body { padding: 1rem 1rem 3rem; }
  h1 { font-size: 1.4rem; }
  .tiles { --columns: 2 !important; gap: 0.5rem; }
  .tile { padding: 0.5rem 0.7rem; }
  .tile b { font-size: 1.25rem; }
  .tile:first-child:nth-last-child(odd) { grid-column: 1 / -1; }
  .gallery { --columns: 4; }
  th, td { padding: 0.25rem 0.2rem; }
  table { font-size: 0.75rem; }
  .matrix { font-size: 0.65rem; border-spacing: 1px; }
  .matrix th:first-child { width: 4.2rem; }
  .matrix thead th { height: 4.7rem; }
}
@media print {
  body { max-width: none; padding: 0; font-size: 10pt; }
  h2 { margin-top: 1.5rem; }
  h2, h3, figcaption { break-after: avoid; }
  .scroll, .long { overflow: visible; max-height: none; }
  .long thead th { position: static; }
  .pair { grid-template-columns: 1fr 1fr; gap: 0.5rem 1rem; }
  pre { font-size: 6.5pt; white-space: pre-wrap; }
  table { font-size: 8pt; }
  th, td { padding: 0.1rem 0.3rem; }
  .matrix { font-size: 6.5pt; }
  .matrix th:first-child { width: 4.5rem; }
  .matrix td { height: 1.2rem; }
  figure, tr, .tile { break-inside: avoid; }
  details { display: none; }
}
"""


class Tile(NamedTuple):
    """A number large enough to be read first, its name above it and a note below."""

    name: str
    value: str
    note: str = ""


def escape_html(text: str) -> str:
    """Return untrusted text as HTML that displays it literally."""
    return escape(escape_lines(text))


def document(title: str, parts: Iterable[str], digest: str = "") -> str:
    """Return a whole document; `title` is text, `parts` are HTML, `digest` is that of the results it shows."""
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<title>{escape_html(title)}</title>\n'
        f"<style>{STYLE}</style>\n</head>\n<body>\n<main>\n<h1>{escape_html(title)}</h1>\n"
        + "\n".join(parts)
        + f"\n</main>\n</body>\n</html>\n{last_line(digest)}"
    )


def last_line(digest: str) -> str:
    """Return the last line of a page about results with `digest`, "" without one: only a complete page ends in it."""
    return f"<!-- results {digest} -->\n" if digest else ""


def section(title: str, *parts: str) -> str:
    return f"<section>\n<h2>{escape_html(title)}</h2>\n" + "\n".join(parts) + "\n</section>"


def titled(title: str, *parts: str, level: int = 3) -> str:
    """Return a part of a section under a title of its own."""
    return f"<div>\n<h{level}>{escape_html(title)}</h{level}>\n" + "\n".join(parts) + "\n</div>"


def paragraph(text: str) -> str:
    return f'<p class="soft">{escape_html(text)}</p>'


def tiles(shown: Sequence[Tile]) -> str:
    """Return tiles in rows, none of which has a single tile if that is possible."""
    columns = min(len(shown), next((n for n in TILE_COLUMNS if len(shown) % n != 1), TILE_COLUMNS[0]))
    items = "\n".join(
        f'<div class="tile"><span class="name">{escape_html(name)}</span> <b>{escape_html(value)}</b>'
        f'<span class="note">{escape_html(note)}</span></div>'
        for name, value, note in shown
    )
    return f'<div class="tiles" style="--columns: {columns}">\n{items}\n</div>'


def meter(share: float, label: str) -> str:
    """Return a bar filled to a share from 0 to 1."""
    return f'<progress max="1" value="{share:.4f}" aria-label="{escape_html(label)}"></progress>'


def chart(svg: str, caption: str) -> str:
    return (
        f'<figure class="chart" role="img" aria-label="{escape_html(caption)}">'
        f'<figcaption>{escape_html(caption)}</figcaption><div class="scroll">{svg}</div></figure>'
    )


def pair(*parts: str) -> str:
    """Return parts side by side where there is room."""
    return '<div class="pair">\n' + "\n".join(parts) + "\n</div>"


def table(header: Sequence[str], rows: Iterable[Sequence[str]], kind: str = "", links: Sequence[str] = ()) -> str:
    """Return a table with a header. With the `kind` "wrap" its first column wraps, with "long" it scrolls.

    The first cell of each row may be one of `links`.
    """
    head = "".join(f"<th>{escape_html(cell)}</th>" for cell in header)
    cells = [[escape_html(cell) for cell in row] for row in rows]
    for row, link in zip(cells, links, strict=False):
        row[0] = f'<a href="{escape_html(link)}">{row[0]}</a>'
    body = "\n".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in cells)
    return (
        f'<div class="scroll {kind}"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>'
    )


def facts(named: dict[str, str]) -> str:
    """Return a table of names and values, one pair per row."""
    rows = "\n".join(
        f"<tr><th>{escape_html(name)}</th><td>{escape_html(value)}</td></tr>" for name, value in named.items()
    )
    return f'<table class="facts"><tbody>\n{rows}\n</tbody></table>'


def matrix(names: Sequence[str], cells: Sequence[Sequence[str]], shares: Sequence[Sequence[float]]) -> str:
    """Return a square table of short texts; the larger the share (0 to 1) of each, the stronger its background."""
    head = "".join(f"<th><span>{escape_html(name)}</span></th>" for name in names)
    rows = "\n".join(
        f"<tr><th>{escape_html(name)}</th>" + "".join(map(matrix_cell, texts, strengths)) + "</tr>"
        for name, texts, strengths in zip(names, cells, shares, strict=True)
    )
    return (
        f'<div class="scroll"><table class="matrix" style="min-width: {3 + 1.4 * len(names)}rem">\n'
        f"<thead><tr><th></th>{head}</tr></thead>\n<tbody>\n{rows}\n</tbody></table></div>"
    )


def matrix_cell(text: str, share: float) -> str:
    opacity = share**0.7  # small shares, most of those off the diagonal, can be told apart
    kind = ' class="strong"' if opacity > 0.7 else ""
    return f'<td{kind} style="--share: {opacity:.2f}">{escape_html(text)}</td>'


def image(content: bytes, kind: str, small: bool) -> str:
    """Return an image file of a kind such as "png" as an element; the pixels of a `small` one stay sharp."""
    data = base64.b64encode(content).decode()
    sharp = ' class="small"' if small else ""
    return f'<img alt=""{sharp} src="data:image/{kind};base64,{data}">'


def gallery(items: Iterable[str], columns: int = 0) -> str:
    """Return figures in a grid of this many `columns`, or of as many as fit."""
    style = f' style="--columns: {columns}"' if columns else ""
    return f'<div class="gallery"{style}>\n' + "\n".join(items) + "\n</div>"


def example(image: str, predicted: str, confidence: str, right: bool, note: str) -> str:
    """Return an image of a gallery with what was predicted for it."""
    return (
        f'<figure>{image}<span class="{"right" if right else "wrong"}">{escape_html(predicted)}</span> {confidence} '
        f'<span class="soft">{escape_html(note)}</span></figure>'
    )


def preformatted(text: str) -> str:
    return f'<div class="scroll"><pre>{escape_html(text)}</pre></div>'


def folded(title: str, part: str) -> str:
    return f"<details><summary>{escape_html(title)}</summary>\n{part}\n</details>"

"""Figures as PNG, as SVG, and as SVG within a page. The same figure always gives the same bytes."""

import io
import re
import warnings
from collections.abc import Callable
from typing import Any
from xml.etree import ElementTree

import matplotlib
from matplotlib.figure import Figure

BLUE, ORANGE, GREY = "#2066a8", "#c8682a", "#666666"
DPI = 200  # pixels of a PNG per inch
RUN_COLORS = (BLUE, ORANGE, "#2e8b57", "#8b4f9f", "#b03a48", "#7a6a1f", "#3a9aa8", "#444444")
# Colours that a page shows differently on light and dark screens; html.STYLE defines the variables.
THEME = {
    "#000000": "currentColor",
    "#ffffff": "var(--back)",
    GREY: "var(--soft)",
    **{color: f"var(--run{number})" for number, color in enumerate(RUN_COLORS)},
}
SVG, XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
# Text stays text, drawn by the browser in its own font; ids depend on what they name; no date or creator is recorded.
SVG_SETTINGS: dict[Any, Any] = {"svg.fonttype": "none", "svg.hashsalt": "resnet_flax"}
SVG_METADATA = dict.fromkeys(["Date", "Creator", "Format", "Type"])


def png(figure: Figure) -> bytes:
    return rendered(figure, format="png", facecolor="white")


def svg_file(figure: Figure, **options: object) -> bytes:
    with matplotlib.rc_context(SVG_SETTINGS):
        return rendered(figure, format="svg", metadata=SVG_METADATA, **options)


def svg(figure: Figure) -> str:
    """Return an <svg> element that takes the width of its parent, within limits, and the colours of the page."""
    root = ElementTree.fromstring(svg_file(figure, transparent=True))
    width = float(root.attrib.pop("width").removesuffix("pt"))
    root.attrib.pop("height")
    root.set("style", f"min-width: {0.75 * width:.0f}px; max-width: {1.7 * width:.0f}px")  # so that texts are legible
    for parent in list(root.iter()):
        for child in [child for child in parent if child.tag in (f"{{{SVG}}}metadata", f"{{{SVG}}}style")]:
            parent.remove(child)
    remove_unused_ids(root)
    replace_in_attributes(
        root, lambda value: re.sub("#[0-9a-f]{6}", lambda match: THEME.get(match[0], match[0]), value)
    )
    replace_in_attributes(root, lambda value: re.sub("'DejaVu Sans'[^;]*", "var(--font)", value))
    ElementTree.register_namespace("", SVG)
    ElementTree.register_namespace("xlink", XLINK)
    return ElementTree.tostring(root, encoding="unicode")


def rendered(figure: Figure, **options: object) -> bytes:
    """Return a figure as a file. A name in a script that the font lacks is drawn as boxes."""
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        if engine := figure.get_layout_engine():
            engine.execute(figure)
            figure.set_layout_engine(None)  # or every file would be laid out again, and twice
        figure.savefig(file, **options)  # type: ignore[arg-type]
    return file.getvalue()


def remove_unused_ids(root: ElementTree.Element) -> None:
    """Remove the ids that nothing refers to: each figure of a page has the same ones."""
    values = " ".join(value for element in root.iter() for value in element.attrib.values())
    used = set(re.findall(r"#(\w+)", values))
    for element in root.iter():
        if element.get("id", "") not in used:
            element.attrib.pop("id", None)


def replace_in_attributes(root: ElementTree.Element, replace: Callable[[str], str]) -> None:
    for element in root.iter():
        for name, value in element.attrib.items():
            element.set(name, replace(value))

"""The files of a report. All are drawn before the first is written; each is written whole or not at all."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from matplotlib.figure import Figure

from resnet_flax.files import write_files
from resnet_flax.report import html
from resnet_flax.report.figures import QUANTITIES
from resnet_flax.report.render import png, svg


@dataclass
class Files:
    """The files of a report by name, in the order in which they are written."""

    contents: dict[str, bytes] = field(default_factory=dict)

    def text(self, name: str, text: str) -> None:
        self.contents[name] = text.encode()

    def picture(self, name: str, figure: Figure) -> None:
        self.contents[f"{name}.png"] = png(figure)

    def chart(self, name: str, figure: Figure, caption: str) -> str:
        """Add `figure` as NAME.png and return it as a part of a page."""
        self.picture(name, figure)
        return html.chart(svg(figure), caption)

    def curves(self, draw: Callable[[str], Figure], prefix: str = "", which: str = "") -> str:
        """Add the figures that `draw` returns for each of QUANTITIES, and return them as a section of a page."""
        charts = [
            self.chart(f"{prefix}{quantity}", draw(quantity), f"{quantity.capitalize()} after each epoch{which}")
            for quantity in QUANTITIES
        ]
        return html.section("Training", html.pair(*charts))

    def write(self, folder: Path) -> None:
        write_files(folder, self.contents)

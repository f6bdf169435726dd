"""Draw the networks that docs/recipes.md shows: python -m benchmarks.networks"""

from pathlib import Path

from matplotlib.figure import Figure

from benchmarks.pictures import PICTURE, write_palette
from resnet_flax import models
from resnet_flax.config.checks import complete
from resnet_flax.config.recipes import load_recipe
from resnet_flax.report.network import network

SHOWN = ("resnet_443", "preact")


def draw(name: str) -> tuple[Figure, str]:
    """Return the figure of a recipe's network and its text, by which a test notices whether it has changed."""
    figure = network(models.build(complete(load_recipe(name))), name, (32, 32, 3))
    return figure, "\n".join(text.get_text() for text in figure.axes[0].texts)


def write(name: str, folder: Path = PICTURE.parent) -> None:
    figure, text = draw(name)
    write_palette(figure, folder / f"{name}.png", Text=text)


if __name__ == "__main__":
    for shown in SHOWN:
        write(shown)

"""Residual networks for small images in JAX and Flax. docs/python.md shows the functions below."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from resnet_flax.api import Network, create, list_networks, list_pretrained, list_recipes, load, train
    from resnet_flax.errors import UserError

__version__ = "0.1.0"
__all__ = ["Network", "UserError", "create", "list_networks", "list_pretrained", "list_recipes", "load", "train"]


def __getattr__(name: str) -> object:
    """Import the Python API on first use: it needs JAX, which the program's help does not."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from resnet_flax import api

    return getattr(api, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

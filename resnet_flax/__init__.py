"""Residual networks for small images in JAX and Flax."""

__version__ = "0.1.0"

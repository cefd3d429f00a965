"""Entropy core for people who train language models."""

from importlib.metadata import version

__version__ = version("fluxcore")

"""The `fluxcore` command line: one module a command, put together in `app`."""

from fluxcore.cli.app import main

__all__ = ["main"]

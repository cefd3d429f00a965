"""Options that take several values at once: `--text A B C` for `--text A --text B --text C`."""

from collections.abc import Iterator
from typing import Any

from typer.core import TyperCommand


class VariadicCommand(TyperCommand):
    """A command whose repeatable options take every value up to the next option.

    Arguments therefore stand before such an option.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Repeat the option before each of its values, then parse as usual."""
        repeatable = {name for param in self.params if getattr(param, "multiple", False) for name in param.opts}
        return super().parse_args(ctx, list(_repeated(args, repeatable)))


def _repeated(args: list[str], repeatable: set[str]) -> Iterator[str]:
    option, values = "", 0
    for arg in args:
        if arg.startswith("-"):
            option, values = (arg if arg in repeatable else ""), 0
        elif option:
            if values:
                yield option
            values += 1
        yield arg

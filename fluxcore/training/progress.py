"""Progress bar with tokens a second and the time left."""

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

CONSOLE = Console(stderr=True)
"""The bar and the log share it, so that a message goes above the bar."""


def step_progress(*, shown: bool = True) -> Progress:
    """A bar over optimizer steps, on standard error; its task has the fields `speed` (tokens a second) and `loss`.

    Args:
        shown: Nothing is drawn where this is false, or where standard error is no terminal.
    """
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[speed]:,.0f} tokens/s"),
        TextColumn("loss {task.fields[loss]:.3f}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=CONSOLE,
        disable=not (shown and CONSOLE.is_terminal),
    )

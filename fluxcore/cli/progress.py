"""A progress bar with tokens a second and the time that is left."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, ProgressColumn, Task, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.text import Text

from fluxcore.data.progress import Progress, ProgressCallback


class _TokensPerSecond(ProgressColumn):
    def render(self, task: Task) -> Text:
        """Mean over the whole run; nothing before there is something to tell."""
        tokens = task.fields["tokens"]
        if not tokens or not task.elapsed:
            return Text("")
        return Text(f"{tokens / task.elapsed:,.0f} tokens/s", style="progress.data.speed")


@contextmanager
def progress_bar(description: str) -> Iterator[ProgressCallback]:
    """A bar on standard error, where that is a terminal, while the block runs; the callback moves it."""
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        _TokensPerSecond(),
        TimeRemainingColumn(),
    )
    with Bars(*columns, console=console, disable=not console.is_terminal) as bars:
        task = bars.add_task(description, total=None, tokens=0)

        def show(progress: Progress) -> None:
            bars.update(task, completed=progress.done, total=progress.total, tokens=progress.tokens)

        yield show

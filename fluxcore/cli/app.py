"""The `fluxcore` application: its commands, and how an error ends."""

from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text
from typer.core import TyperGroup

from fluxcore.cli.convert import convert
from fluxcore.cli.demo import demo
from fluxcore.cli.doctor import doctor
from fluxcore.cli.export import export
from fluxcore.cli.info import info
from fluxcore.cli.report import report
from fluxcore.cli.score import score
from fluxcore.cli.sort import sort
from fluxcore.cli.sort_job import sort_job
from fluxcore.cli.tokenize import tokenize
from fluxcore.cli.variadic import VariadicCommand
from fluxcore.cli.verify import verify
from fluxcore.errors import FluxcoreError

EXIT_ERROR = 1
EXIT_INTERRUPTED = 130


class Commands(TyperGroup):
    """Ends what the user can mend as `error: ...`, exit code 1; all else is a bug and keeps its traceback."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command that the arguments name."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            raise  # the reader of a pipe left; typer ends quietly
        except (FluxcoreError, ValueError, OSError) as error:
            show_error(describe(error))
            raise typer.Exit(EXIT_ERROR) from error
        except KeyboardInterrupt:
            show_error("interrupted; run the same command again to go on")
            raise typer.Exit(EXIT_INTERRUPTED) from None


def describe(error: Exception) -> str:
    """The message of an exception as the command line prints it."""
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return f"{error.strerror[0].lower()}{error.strerror[1:]}: `{error.filename}`"
    return str(error) or type(error).__name__


def show_error(message: str) -> None:
    """Print `error: message` on standard error, the message without markup and not re-wrapped."""
    Console(stderr=True, highlight=False, soft_wrap=True).print(Text.assemble(("error: ", "bold red"), message))


def print_version(requested: bool) -> None:
    """Print the version and end, if `--version` was given."""
    if requested:
        from fluxcore import __version__

        typer.echo(f"fluxcore {__version__}")
        raise typer.Exit


app = typer.Typer(
    name="fluxcore", cls=Commands, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False
)


@app.callback()
def fluxcore(
    version: Annotated[
        bool, typer.Option("--version", callback=print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """The entropy core for language-model training."""


for command in (demo, tokenize, score, sort, convert, export, info, verify, report, doctor):
    app.command(cls=VariadicCommand)(command)
app.add_typer(sort_job, name="sort-job")


def main() -> None:
    """Entry point of the console script `fluxcore`."""
    app(prog_name="fluxcore")

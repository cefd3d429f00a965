import subprocess
import sys
from importlib.metadata import version

import pytest
import typer
from support.command_line import run
from typer.testing import CliRunner

from fluxcore.cli.app import Commands, describe
from fluxcore.errors import CorruptShardError


def app_that_raises(error):
    app = typer.Typer(cls=Commands, pretty_exceptions_enable=False)

    @app.callback()
    def group():
        pass

    @app.command()
    def command():
        raise error

    return app


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ValueError("`rows` must be >= 1, got [0]"), "error: `rows` must be >= 1, got [0]\n"),
        (CorruptShardError("shard 3 is cut short"), "error: shard 3 is cut short\n"),
        (FileNotFoundError(2, "No such file or directory", "a/b.txt"), "error: no such file or directory: `a/b.txt`\n"),
        (OSError("the hub cannot be reached"), "error: the hub cannot be reached\n"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_error_of_the_user_is_a_message_and_exit_code_1(error, message):
    result = CliRunner().invoke(app_that_raises(error), ["command"])
    assert (result.exit_code, result.stderr) == (1, message)


def test_a_long_message_is_not_wrapped_and_its_brackets_are_not_markup():
    message = "[bold]" + "x" * 300
    assert CliRunner().invoke(app_that_raises(ValueError(message)), ["command"]).stderr == f"error: {message}\n"


def test_an_interrupt_is_exit_code_130():
    result = CliRunner().invoke(app_that_raises(KeyboardInterrupt()), ["command"])
    assert result.exit_code == 130
    assert "interrupted" in result.stderr


def test_a_bug_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        CliRunner().invoke(app_that_raises(ZeroDivisionError()), ["command"], catch_exceptions=False)


def test_an_error_without_a_message_is_named():
    assert describe(ValueError()) == "ValueError"


@pytest.mark.parametrize("arguments", [("nope",), ("doctor", "--nope"), ()])
def test_wrong_usage_is_exit_code_2(arguments):
    assert run(*arguments).exit_code == 2


def test_the_version_comes_from_the_installed_package():
    script = "import fluxcore.cli; fluxcore.cli.main()"
    ran = subprocess.run([sys.executable, "-c", script, "--version"], capture_output=True, text=True, check=True)
    assert ran.stdout == f"fluxcore {version('fluxcore')}\n"

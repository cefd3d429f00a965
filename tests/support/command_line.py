"""Runs the `fluxcore` command line within the test's process."""

from typer.testing import CliRunner, Result

from fluxcore.cli.app import app


def run(*arguments: object) -> Result:
    """Invoke `fluxcore arguments...`; a bug is raised, not turned into exit code 1."""
    return CliRunner(env={"COLUMNS": "200"}).invoke(app, [str(a) for a in arguments], catch_exceptions=False)


def fails(*arguments: object) -> str:
    """What is printed on standard error by a command that must end with exit code 1."""
    result = run(*arguments)
    assert result.exit_code == 1, result.output
    assert result.stderr.startswith("error: ")
    return result.stderr


def succeeds(*arguments: object) -> str:
    """What is printed on standard output by a command that must end with exit code 0."""
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    return result.stdout

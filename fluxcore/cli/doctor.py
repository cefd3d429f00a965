"""`fluxcore doctor`: what works on this machine, and what to do about what does not."""

import json
from itertools import groupby
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fluxcore.cli.checks import Check, Status, all_checks

MARKS = {Status.OK: ("ok", "green"), Status.ABSENT: ("--", "yellow"), Status.BROKEN: ("BROKEN", "bold red")}


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")] = False,
) -> None:
    """Show what works on this machine, and what to do about what does not.

    Ends with exit code 1 if something is broken; something optional that is absent is not.
    """
    checks = all_checks()
    broken = [check for check in checks if check.status is Status.BROKEN]
    if as_json:
        typer.echo(json.dumps({"ok": not broken, "checks": [as_plain(check) for check in checks]}, indent=2))
    else:
        console = Console(highlight=False)
        for group, members in groupby(checks, key=lambda check: check.group):
            console.print(table_of(group, list(members)))
        if broken:
            console.print(Text(f"broken: {', '.join(check.name for check in broken)}", style="bold red"))
        else:
            console.print(Text("everything that fluxcore needs works", style="green"))
    if broken:
        raise typer.Exit(1)


def as_plain(check: Check) -> dict[str, str]:
    """A check as JSON takes it."""
    return {
        "group": check.group,
        "name": check.name,
        "status": check.status.value,
        "value": check.value,
        "remedy": check.remedy,
    }


def table_of(group: str, checks: list[Check]) -> Table:
    """One group of checks; the remedy stands below the value that it mends."""
    table = Table(title=group, title_justify="left", title_style="bold", show_header=False, box=None, padding=(0, 1))
    table.add_column(width=6)
    table.add_column(width=16)
    table.add_column(overflow="fold")
    for check in checks:
        mark, style = MARKS[check.status]
        value = Text(check.value)
        if check.remedy:
            value.append(f"\n-> {check.remedy}", style="dim")
        table.add_row(Text(mark, style=style), check.name, value)
    return table

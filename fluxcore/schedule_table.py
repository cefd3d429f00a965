"""A `Schedule` as a table for people."""

import io
from collections.abc import Iterable

from rich.console import Console, Group
from rich.table import Table

from fluxcore.schedule import Launch, Schedule


def as_group(schedule: Schedule) -> Group:
    """Heading, table and notes, for rich."""
    return Group(_heading(schedule), _table(schedule), *schedule.notes)


def as_text(schedule: Schedule) -> str:
    """The same in plain characters."""
    file = io.StringIO()
    Console(file=file, width=180, color_system=None, force_terminal=False).print(schedule)
    return "\n".join(line.rstrip() for line in file.getvalue().splitlines())


def _show_bytes(count: int) -> str:
    """In the unit in which it has one to four digits before the point."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.2f} {unit}"
    return f"{count} B"


def _heading(schedule: Schedule) -> str:
    machine = schedule.machine
    shapes = ", ".join(f"{name} {' x '.join(map(str, shape))}" for name, shape in schedule.shapes.items())
    where = f"{machine.backend} on {machine.device}"
    if machine.isa:
        where += f" ({machine.isa}, {machine.threads} threads)"
    times = "no bandwidth given, so no times"
    if schedule.bandwidth_gb_per_s is not None:
        times = f"times at {schedule.bandwidth_gb_per_s:.1f} GB/s"
        if schedule.tflop_per_s is not None and _has_products(schedule):
            times += f" and {schedule.tflop_per_s:.3g} TFLOP/s"
    peak = _show_bytes(schedule.peak_extra_bytes)
    return (
        f"{schedule.op}: {shapes}, {str(schedule.dtype).removeprefix('torch.')}; {where}\n"
        f"peak memory beyond the arguments {peak}, workspace {_show_bytes(schedule.workspace_bytes)}; {times}"
    )


def _has_products(schedule: Schedule) -> bool:
    return any(launch.flop for launch in schedule.launches)


def _table(schedule: Schedule) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("pass", "kernel", "regime", "work"):
        table.add_column(name)
    for name in ("read", "written", "again", "exps", *(("flop",) if _has_products(schedule) else ()), "ms"):
        table.add_column(name, justify="right")
    for name, launches in (("forward", schedule.forward), ("backward", schedule.backward)):
        for launch in launches:
            table.add_row(name, launch.kernel, launch.regime, launch.work, *_figures((launch,), schedule))
        if len(launches) > 1:
            table.add_row(name, "all", "", "", *_figures(launches, schedule), style="bold")
    return table


def _figures(launches: Iterable[Launch], schedule: Schedule) -> tuple[str, ...]:
    launches = tuple(launches)
    ms = schedule.expected_ms(launches)
    return (
        _show_bytes(sum(launch.bytes_read for launch in launches)),
        _show_bytes(sum(launch.bytes_written for launch in launches)),
        _show_bytes(sum(launch.bytes_reread for launch in launches)),
        f"{sum(launch.exps for launch in launches):.3g}",
        *((f"{sum(launch.flop for launch in launches):.3g}",) if _has_products(schedule) else ()),
        "" if ms is None else f"{ms:.4g}",
    )

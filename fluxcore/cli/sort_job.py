"""`fluxcore sort-job`: a sort in tasks, for clusters."""

from pathlib import Path
from typing import Annotated

import typer

sort_job = typer.Typer(no_args_is_help=True, help="Sort as `fluxcore sort` does, in tasks that many machines share.")


@sort_job.command(no_args_is_help=True)
def plan(
    src: Annotated[list[Path], typer.Argument(help="Folders of data sets that become one; they stay as they are.")],
    dst: Annotated[Path, typer.Argument(help="Folder to write.")],
    *,
    by: Annotated[str, typer.Option(help="Score to sort by, such as lm.entropy_mean.")],
    tasks: Annotated[int, typer.Option(help="How many tasks may run at once; each writes whole shards.")],
    descending: Annotated[bool, typer.Option("--descending", help="Highest first.")] = False,
    memory_mb: Annotated[int, typer.Option(min=1, help="What planning and each task may take.")] = 1000,
    shard_mb: Annotated[
        int | None, typer.Option(min=1, help="Size of a shard; without it, that of `fluxcore sort`.")
    ] = None,
) -> None:
    """Divide a sort into tasks: the keys are read, the chunks are not."""
    from fluxcore.data import SortJob

    shard_bytes = 1 << 30 if shard_mb is None else shard_mb * 1_000_000
    job = SortJob.plan(
        src, dst, by, descending, tasks=tasks, memory_bytes=memory_mb * 1_000_000, shard_bytes=shard_bytes
    )
    typer.echo(f"{dst}: {job.chunks:,} chunks; shards to write: {job.shards:,}; tasks: {job.tasks:,}")
    if job.tasks > job.shards:
        typer.echo(f"{job.tasks - job.shards:,} tasks have no shard to write; a smaller --shard-mb makes more shards")
    typer.echo(f"next: `fluxcore sort-job run {dst} --task K` for K from 0 to {job.tasks - 1}, on any machine")
    typer.echo(f"then: `fluxcore sort-job publish {dst}`")


@sort_job.command(no_args_is_help=True)
def run(
    dst: Annotated[Path, typer.Argument(help="Folder for which the sort was planned.")],
    *,
    task: Annotated[int, typer.Option(envvar="SLURM_ARRAY_TASK_ID", help="Which task, counted from 0.")],
) -> None:
    """Run one task; killed or stopped, it goes on from its finished shards when it is run again."""
    from fluxcore.cli.progress import progress_bar
    from fluxcore.data import SortJob
    from fluxcore.data.progress import Progress

    job = SortJob(dst)
    with progress_bar(f"sorting, task {task}") as progress:
        job.run(task, progress=lambda done, total: progress(Progress(done, total, 0)))
    typer.echo(f"{dst}: task {task} of {job.tasks} is done")


@sort_job.command(no_args_is_help=True)
def publish(dst: Annotated[Path, typer.Argument(help="Folder for which the sort was planned.")]) -> None:
    """Check that all shards are there and sound, and make the data set visible."""
    from fluxcore.data import SortJob

    job = SortJob(dst)
    job.publish()
    typer.echo(f"{dst}: {job.chunks:,} chunks, sorted and published")

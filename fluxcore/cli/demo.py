"""`fluxcore demo`: the whole job on real text, from documents to a page that compares orders."""

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from fluxcore.cli.demo_plan import BATCH_SIZE, SCALES, SPLIT_SEED, VAL_FRACTION, DemoOrder, DemoPlan, DemoSize
from fluxcore.cli.stages import Outcome, Stages, delete, open_stages


def demo(
    text: Annotated[
        list[Path] | None, typer.Option(help="Your text: a file or folder of text, JSON Lines or Parquet; repeatable.")
    ] = None,
    dataset: Annotated[str | None, typer.Option(help="A data set of the Hugging Face hub.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for everything that is made.")] = Path("outputs/demo"),
    order: Annotated[
        list[DemoOrder] | None, typer.Option(help="Order to compare; repeatable. Random and ascending without it.")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each order, each from other weights.")] = 1,
    size: Annotated[
        DemoSize, typer.Option(help="mini takes a minute on 2 cores, standard at most 6.")
    ] = DemoSize.standard,
) -> None:
    """Score, sort, stream and train on real text, and compare entropy order with random order on one page.

    Without --text or --dataset it takes the text that every Python installation carries. Run again, it goes on where it
    was, and does only what an option has changed.
    """
    if text and dataset:
        raise typer.BadParameter("give --text or --dataset, not both")
    orders = list(dict.fromkeys(order or [DemoOrder.random, DemoOrder.ascending]))
    plan = DemoPlan(out=out, scale=SCALES[size], text=tuple(text or ()), dataset=dataset)
    with open_stages(out) as stages:
        Demo(plan, stages, runs=[(each, seed) for seed in range(seeds) for each in orders]).run()


class Demo:
    """Runs the commands of a plan, each of which depends on those before it."""

    def __init__(self, plan: DemoPlan, stages: Stages, *, runs: list[tuple[DemoOrder, int]]) -> None:
        self.plan = plan
        self.stages = stages
        self.runs = runs
        self.begun = 0
        self.console = Console(highlight=False, soft_wrap=True)

    def run(self) -> None:
        """All stages, and the comparison at the end."""
        plan = self.plan
        tokens = self.stage("tokenize", plan.tokenize_command(), plan.tokens, fresh=True, text=text_identity(plan))
        steps = steps_of_an_epoch(plan)
        scorer = self.stage("scorer", plan.scorer_command(steps), plan.scorer, tokens=tokens.digest)
        scores = self.stage(
            "score", plan.score_command(), plan.data, prepare=lambda: copy_whole(plan.tokens, plan.data),
            tokens=tokens.digest, scorer=scorer.digest,
        )  # fmt: skip
        ordered = self.stage("sort", plan.sort_command(), plan.sorted, fresh=True, scores=scores.digest)
        for order, seed in self.runs:
            folder = plan.run(order, seed)
            self.stage(folder.name, plan.train_command(order, seed, steps), folder, data=ordered.digest)
        report = plan.report_command([plan.run(order, seed) for order, seed in self.runs])
        self.announce("report", report)
        execute(report)

    def stage(
        self,
        name: str,
        command: list[str],
        output: Path,
        *,
        fresh: bool = False,
        prepare: Callable[[], None] | None = None,
        **inputs: Any,
    ) -> Outcome:
        """Run a command, or reuse what it made.

        Args:
            name: of the stage.
            command: that makes `output`.
            output: file or folder.
            fresh: the command cannot go on from what a killed one left, which is deleted.
            prepare: called before the command.
            inputs: what the output depends on besides the command.
        """
        from fluxcore import __version__

        self.announce(name, command)

        def action() -> None:
            if fresh:
                delete(output)
            if prepare is not None:
                prepare()
            execute(command)

        # The folder's own name is no input: a demo that was moved is still the same.
        portable = [part.replace(str(self.plan.out), "OUT") for part in command]
        outcome = self.stages.run(name, {"command": portable, "version": __version__, **inputs}, output, action)
        did = "reused; it took" if outcome.reused else "done in"
        self.console.print(Text(f"  {did} {outcome.seconds:.1f} s", style="green"))
        return outcome

    def announce(self, name: str, command: list[str]) -> None:
        """Say which stage begins, and the command that does the same by hand."""
        self.begun += 1
        self.console.print(Text(f"[{self.begun}/{5 + len(self.runs)}] {name}", style="bold"))
        self.console.print(Text(f"  {shlex.join(command)}", style="dim"))


def text_identity(plan: DemoPlan) -> list[Any]:
    """What changes when the text does: the files' names, sizes and times, or the Python that carries the text."""
    if plan.dataset is not None:
        return ["hub", plan.dataset]
    if not plan.text:
        return ["embedded", sys.version, sys.prefix]
    files = [file for path in plan.text for file in (sorted(path.rglob("*")) if path.is_dir() else [path])]
    # A missing one is left to the command, whose error says more.
    return [[str(file), file.stat().st_size, file.stat().st_mtime_ns] for file in files if file.is_file()]


def steps_of_an_epoch(plan: DemoPlan) -> int:
    """Optimizer steps in one pass over what is not held out.

    Raises:
        ValueError: the text is too short to train on.
    """
    import fluxcore.data
    from fluxcore.training.split import split_by_document

    ds = fluxcore.data.open(plan.tokens)
    training, _ = split_by_document(ds, VAL_FRACTION, SPLIT_SEED)
    steps = len(training) // BATCH_SIZE
    if steps < 2:
        raise ValueError(
            f"the text must have at least {2 * BATCH_SIZE} chunks of {plan.scale.chunk_tokens} tokens to"
            f" train on, got {len(training)}\n\nGive more text, or --size {DemoSize.mini}, which needs the least."
        )
    return steps


def copy_whole(source: Path, target: Path) -> None:
    """Copy a folder unless it has been copied; half a copy is never taken for one."""
    if target.exists():
        return
    partial = target.with_name(f".{target.name}.partial")
    delete(partial)
    shutil.copytree(source, partial)
    partial.rename(target)


def execute(command: list[str]) -> None:
    """Run a command: what computes in a process of its own, the rest in this one.

    Raises:
        typer.Exit: the command failed, and has said why.
        ChildProcessError: a signal ended it.
    """
    program, *arguments = command
    if program == "fluxcore" and arguments[0] != "score":
        from fluxcore.cli.app import app

        code = app(arguments, standalone_mode=False)
    else:
        own = arguments if program == "python" else ["-c", "from fluxcore.cli import main; main()", *arguments]
        # Threads that spin while they wait for each other make training several times slower where other programs
        # want the cores too. OpenMP reads this when it is loaded, hence the other process.
        environment = {"OMP_WAIT_POLICY": "passive", **os.environ}
        # -P: a checkout in the working folder must not hide the installed package.
        code = subprocess.run([sys.executable, "-P", *own], env=environment, check=False).returncode
    if code and code < 0:
        raise ChildProcessError(
            f"`{shlex.join(command)}` was ended by signal {-code}"
            "\n\nSignal 9 mostly means that memory ran out. Run the demo again: it goes on where it was."
        )
    if code:
        raise typer.Exit(code)

"""One training run: device, folder, trackers, checkpoints and log, opened together and closed together."""

import logging
import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from time import perf_counter
from types import TracebackType
from typing import Any, Self, TypeVar

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import broadcast_object_list
from torch import nn
from torch.optim import Optimizer

from fluxcore.training.checkpoint import Checkpoint, Checkpoints
from fluxcore.training.config import ConfigError
from fluxcore.training.meters import Meters
from fluxcore.training.progress import step_progress
from fluxcore.training.resume import find_checkpoint
from fluxcore.training.run_folder import FILE_ONLY, RunFolder, close_log
from fluxcore.training.sampling import Sampler
from fluxcore.training.seeds import seed_everything
from fluxcore.training.tracker import Trackers
from fluxcore.training.trainer_config import Precision, TrainerConfig
from fluxcore.training.training_state import Stateful, TrainingState
from fluxcore.training.validation import Measure, Validates, perplexity

log = logging.getLogger(__name__)
Batch = TypeVar("Batch")


class Run:
    """A context in which a trainer's loop runs.

    Order of use: `with Run(config) as run`, build and `run.prepare` the model, `run.resume`, loop over `run.batches`,
    in which `run.step` counts optimizer steps done. A checkpoint of step n is written after all that step n logs, so
    that a resumed run repeats nothing and misses nothing.
    """

    def __init__(self, config: TrainerConfig) -> None:
        # An earlier run of this process may have had another precision.
        AcceleratorState._reset_state()
        precision = "no" if config.mixed_precision is Precision.fp32 else config.mixed_precision.name
        # On a machine without an accelerator it would take each of several processes for the only one.
        self.accelerator = Accelerator(mixed_precision=precision, cpu=not torch.accelerator.is_available())
        self.config = config
        self.is_main = self.accelerator.is_main_process
        chosen = [RunFolder(config.run_dir, config.name) if self.is_main else None]
        broadcast_object_list(chosen)
        assert chosen[0] is not None
        self.folder = chosen[0]
        self.checkpoints = Checkpoints(self.folder.checkpoints, keep_last=config.keep_last)
        self.step = 0
        """Optimizer steps done."""
        self.total_steps = 0
        self.best_loss = float("inf")
        self.validated: dict[str, float] = {}
        """Means of the last validation."""
        self.saved_step = -1
        self.trackers = Trackers()
        self.opened = ExitStack()
        self.state: TrainingState | None = None
        self.progress = step_progress(shown=self.is_main)
        self.began_s, self.seconds_before = perf_counter(), 0.0
        self.mark_s, self.mark_tokens = self.began_s, 0.0
        self.meters = Meters(self.accelerator)
        """Averages of the training log; part of every checkpoint."""
        self.found: Checkpoint | None = None

    def __enter__(self) -> Self:
        free = ["steps"] if self.config.may_be_extended() else []
        self.found = find_checkpoint(self.config.resume, self.folder, self.config.to_dict(), free=free)
        self.accelerator.wait_for_everyone()
        with ExitStack() as opened:
            opened.callback(self.progress.stop)
            if self.is_main:
                self.folder.create(self.config)
                opened.callback(close_log, self.folder.open_log(self.config.log_level.name))
                opened.callback(self.trackers.close)
                self.trackers.open(
                    self.folder.path,
                    self.config.trackers,
                    project=self.config.wandb_project,
                    mode=self.config.wandb_mode,
                    config=self.config.to_dict(),
                    resume_step=self.found.step if self.found else 0,
                )
            seed_everything(self.config.seed)
            log.info("run folder %s", self.folder.path)
            self.opened = opened.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is not None:
            log.error("ended by %s: %s", kind.__name__, error, extra={FILE_ONLY: True})
        self.opened.close()

    def prepare(self, model: nn.Module, optimizer: Optimizer) -> tuple[Any, Any]:
        """Move both to the device and wrap them for its ranks and precision."""
        model, optimizer = self.accelerator.prepare(model, optimizer)
        return model, optimizer

    def resume(self, model: nn.Module, optimizer: Optimizer, *, total_steps: int, **parts: Stateful) -> None:
        """Declare what a checkpoint holds, and take it over from the one found, if any.

        Args:
            model: As `prepare` returned it.
            optimizer: As `prepare` returned it.
            total_steps: Optimizer steps of the whole run.
            parts: Whatever else has a state: scheduler, loader, curriculum.
        """
        self.total_steps = total_steps
        self.state = TrainingState(self.accelerator, model, optimizer, {"meters": self.meters, **parts})
        if self.found is None:
            return
        if self.found.step > total_steps:
            raise ConfigError(
                f"`steps` must be at least the {self.found.step} that {self.found.path} has done, got {total_steps}"
                "\n\nGive more, or resume from an earlier checkpoint."
            )
        self.state.load(self.found.path)
        self.step = self.saved_step = self.found.step
        self.began_s, self.seconds_before = perf_counter(), self.found.info["seconds"]
        if self.found.info["best_loss"] is not None:
            self.best_loss = self.found.info["best_loss"]
        log.info("going on from %s", self.found.path)
        if self.step == total_steps:
            log.info("this run is finished; nothing is left to do")

    def batches(self, loader: Iterable[Batch]) -> Iterator[Batch]:
        """Batches of the loader behind a progress bar. The caller counts `step` up once a batch."""
        self.mark_s, self.mark_tokens = perf_counter(), self.meters.weight("loss")
        with self.progress:
            task = self.progress.add_task(
                self.config.name, total=self.total_steps, completed=self.step, speed=0.0, loss=float("nan")
            )
            for batch in loader:
                yield batch
                self.progress.update(task, completed=self.step)

    def due(self, every: int) -> bool:
        """Whether something is done after this step: every so many, and at the end; with 0 only at the end."""
        return self.step == self.total_steps or (every > 0 and self.step % every == 0)

    def finish(self) -> None:
        """Let this step be the last, so that all that happens at the end is due now."""
        self.total_steps = self.step
        log.info("finished at step %d", self.step)

    @contextmanager
    def off_the_clock(self) -> Iterator[None]:
        """Time spent here does not count in tokens a second."""
        began = perf_counter()
        yield
        self.mark_s += perf_counter() - began

    def log_training(self, **extra: float) -> None:
        """Log the averages of `meters` since the last time, with the speed. All ranks call it.

        The perplexity is that of the meter `cross_entropy`, or of `loss` where there is none.

        Args:
            extra: More numbers.
        """
        tokens, now = self.meters.weight("loss"), perf_counter()
        speed = (tokens - self.mark_tokens) / (now - self.mark_s)
        self.mark_s, self.mark_tokens = now, tokens
        means = self.meters.close_interval()
        for task in self.progress.task_ids:
            self.progress.update(task, speed=speed, loss=means["loss"])
        cross_entropy = means.get("cross_entropy", means["loss"])
        self.record("train", tokens, {**means, "perplexity": perplexity(cross_entropy), **extra}, speed)

    def validate(self, validation: Validates[Measure], model: nn.Module, measure: Measure) -> bool:
        """Validate and log; whether the loss is the lowest so far. All ranks call it."""
        with self.off_the_clock():
            means = self.validated = validation.run(self.accelerator, model, measure)
        self.record("val", self.meters.weight("loss"), means)
        best = means["loss"] < self.best_loss
        self.best_loss = min(means["loss"], self.best_loss)
        return best

    def seconds(self) -> float:
        """Wall time since the run began; of a resumed run, without what came after its checkpoint."""
        return self.seconds_before + perf_counter() - self.began_s

    def record(self, split: str, tokens: float, means: Mapping[str, float], speed: float | None = None) -> None:
        """Write a line of metrics."""
        if not self.is_main:
            return
        record = {"step": self.step, "tokens": int(tokens), "split": split, **means, "seconds": self.seconds()}
        if speed is not None:
            record["tokens_per_second"] = speed
        self.trackers.log(record)
        log.info("step %d/%d %s loss %.4f", self.step, self.total_steps, split, means["loss"])

    def event(self, split: str, **values: Any) -> None:
        """Log what happened at this step under a split of its own; all ranks call it."""
        tokens = int(self.meters.weight("loss"))
        if self.is_main:
            self.trackers.log({"step": self.step, "tokens": tokens, "split": split, **values})

    def sample(self, sampler: Sampler, model: nn.Module) -> None:
        """Write samples of this step. All ranks call it."""
        with self.off_the_clock():
            texts = sampler.sample(self.accelerator.unwrap_model(model), seed=self.config.seed + self.step)
        for prompt, text in texts.items():
            self.trackers.text(self.step, prompt, text)

    def save(self, *, best: bool = False) -> None:
        """Write a checkpoint of this step, unless there is one. All ranks call it."""
        assert self.state is not None
        if self.step == self.saved_step:
            return
        with self.off_the_clock():
            collected, tokens = self.state.collect(), self.meters.weight("loss")
            if self.is_main:
                # Metrics up to this step must not be lost when the checkpoint is not.
                self.trackers.flush()
                info = {
                    "config": self.config.to_dict(),
                    "tokens": int(tokens),
                    "seconds": self.seconds(),
                    "best_loss": self.best_loss if math.isfinite(self.best_loss) else None,
                }
                self.checkpoints.save(self.step, partial(self.state.write, collected=collected), info=info, best=best)
            self.accelerator.wait_for_everyone()
        self.saved_step = self.step

"""Train while weights collapse and surge: drop the smallest, bring dropped ones back, step perpendicular to them.

    python -m fluxcore.trainers.surge_collapse task=add optimizer.kind=ortho_adamw run_dir=runs/ortho
    python -m fluxcore.trainers.surge_collapse surge.collapse_on=[every] surge.surge_on=[every,plateau]

Tasks are arithmetic modulo a number, sparse parity, and language modelling; steps of a schedule are those of the run,
whatever the epochs. See docs/surge.md, and docs/experiments/grokking.md for what the parts do on modular addition.
"""

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import ClassVar

import torch

from fluxcore.surge import ActivationEntropy, SurgeCollapse
from fluxcore.training.early_stopping import EarlyStopping, StopConfig, StopMetric
from fluxcore.training.launch import launch
from fluxcore.training.optimizer_config import OptimizerConfig
from fluxcore.training.reduce_on_plateau import ReduceConfig, ReduceOnPlateau
from fluxcore.training.run import Run
from fluxcore.training.schedule import make_scheduler
from fluxcore.training.surge_config import SurgeConfig
from fluxcore.training.task_config import TaskConfig, TaskName
from fluxcore.training.tasks import make_task
from fluxcore.training.training_state import Stateful

CONFIGS = Path(__file__).parent / "configs" / "surge_collapse"


@dataclass(kw_only=True, slots=True)
class SurgeCollapseConfig(TaskConfig):
    """Keys of `python -m fluxcore.trainers.surge_collapse`, besides those of every trainer and of the tasks."""

    name: ClassVar[str] = "surge_collapse"
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    """AdamW or SGD, perpendicular to the weights or not, with Grokfast or not."""
    surge: SurgeConfig = field(default_factory=SurgeConfig)
    """What sets off a collapse or a surge, and what happens then."""
    stop: StopConfig = field(default_factory=StopConfig)
    """When to end before the budget is spent."""
    reduce_lr: ReduceConfig = field(default_factory=ReduceConfig)
    """When to lower the learning rate."""

    def __post_init__(self) -> None:
        TaskConfig.__post_init__(self)
        if self.stop.metric is StopMetric.accuracy and self.task is TaskName.language:
            raise ValueError("`stop.metric` must be loss for task=language, got accuracy")
        waits = self.stop.patience is not None or self.stop.at is not None or self.reduce_lr.factor is not None
        if waits and self.eval_every == 0:
            raise ValueError("`eval_every` must be >= 1 for `stop` and `reduce_lr`, which look at validations, got 0")

    def may_be_extended(self) -> bool:
        """The drop fraction must not depend on the number of steps either."""
        return TaskConfig.may_be_extended(self) and not self.surge.cosine


Config = SurgeCollapseConfig


def train(config: SurgeCollapseConfig) -> Path:
    """Train, and go on where an earlier run in `run_dir` stopped.

    Returns:
        The run folder: `metrics.jsonl`, `checkpoints/`, `config.yaml`, `log.txt`.
    Raises:
        ConfigError, OSError, FluxcoreError: what the user can mend, before training starts.
    """
    with Run(config) as run:
        task = make_task(config, run.accelerator)
        bare = config.optimizer.make(task.model, lr=config.lr, weight_decay=config.weight_decay, betas=config.betas)
        scheduler = make_scheduler(
            bare, config.schedule, steps=task.steps, warmup_steps=config.warmup_steps, min_ratio=config.min_lr_ratio
        )
        model, optimizer = run.prepare(task.model, bare)
        trained = run.accelerator.unwrap_model(model)
        mean = partial(run.accelerator.reduce, reduction="mean")
        surge = config.surge.make(trained, bare, steps=task.steps, seed=config.seed, mean_over_ranks=mean)
        grokfast = config.optimizer.make_filter(trained)
        stopper, reducer = EarlyStopping(config.stop), ReduceOnPlateau(scheduler, config.reduce_lr)
        parts: dict[str, Stateful | None] = {"scheduler": scheduler, "loader": task.loader}
        parts |= {"stopper": stopper, "reducer": reducer, "surge": surge, "grokfast": grokfast}
        held = {name: part for name, part in parts.items() if part is not None}
        run.resume(model, optimizer, total_steps=task.steps, **held)

        model.train()
        for batch in run.batches(() if stopper.stopped else task.loader):
            loss = torch.zeros((), device=run.accelerator.device)
            for part in task.parts(model, batch):
                run.accelerator.backward(part.loss * part.scale)
                loss += part.loss.detach() * part.scale
                for name, total in part.sums.items():
                    run.meters.add(name, total, part.counted)
            norm = run.accelerator.clip_grad_norm_(model.parameters(), config.grad_clip or float("inf"))
            run.meters.add("grad_norm", norm)
            if grokfast is not None:
                grokfast.filter_()
            learning_rate = float(bare.param_groups[0]["lr"])
            optimizer.step()
            run.step += 1
            report = surge.step(mean(loss)) if surge is not None else None
            scheduler.step()
            optimizer.zero_grad()

            if report is not None:
                run.event("surge", **report.summary())
            validated = run.due(config.eval_every)
            best = validated and run.validate(task.validation, model, task.measure)
            if validated:
                reducer.observe(run.validated)
                if stopper.observe(run.validated):
                    run.finish()
            if run.due(config.log_every):
                run.log_training(lr=learning_rate, **activation_entropy(surge))
            if task.sampler is not None and run.due(config.generate_every):
                run.sample(task.sampler, model)
            if best or run.due(config.save_every):
                run.save(best=best)
            if run.step == run.total_steps:
                break
        return run.folder.path


def activation_entropy(surge: SurgeCollapse | None) -> dict[str, float]:
    """The running mean that the entropy triggers look at, a share of ln width, if there is one."""
    triggers = (*surge.collapse, *surge.surge) if surge is not None else ()
    means = [trigger.mean for trigger in triggers if isinstance(trigger, ActivationEntropy)]
    return {"activation_entropy": means[0]} if means and means[0] is not None else {}


if __name__ == "__main__":
    launch(SurgeCollapseConfig, train, CONFIGS)

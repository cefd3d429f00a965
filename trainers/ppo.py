"""Train a causal language model by PPO, on prompts whose sources are weighted by how hard they are at present.

    python -m fluxcore.trainers.ppo data=FOLDER model=FOLDER rewards=[{name:regex,args:{pattern:...}}] run_dir=runs/ppo
    python -m fluxcore.trainers.ppo --config-name tiny           # CPU, minutes, no network

A step draws answers to the prompts of a batch, measures reward and KL to the model at the start, and trains on them for
a few epochs. See docs/ppo.md.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from fluxcore.trainers import curriculum

from fluxcore.integrations.model_head import hidden_instead_of_logits, linear_head
from fluxcore.report.ppo import write_ppo_page
from fluxcore.training.difficulty import hidden_sums
from fluxcore.training.launch import launch
from fluxcore.training.models import load_model
from fluxcore.training.optim import adamw
from fluxcore.training.order_config import OrderName
from fluxcore.training.ppo_config import PPOKeys
from fluxcore.training.ppo_data import open_prompts
from fluxcore.training.ppo_models import equip
from fluxcore.training.ppo_step import Collector, Models, Updater, mean_kl
from fluxcore.training.ppo_weights import reweigh
from fluxcore.training.run import Run
from fluxcore.training.sampling import Sampler
from fluxcore.training.schedule import make_scheduler
from fluxcore.training.training_data import EMBEDDED as EMBEDDED_DATA
from fluxcore.training.training_state import Stateful

CONFIGS = Path(__file__).parent / "configs" / "ppo"
EMBEDDED = "embedded"


@dataclass(kw_only=True, slots=True)
class PPOConfig(PPOKeys):
    """Keys of `python -m fluxcore.trainers.ppo`, besides those of every trainer.

    `model` may be `embedded`: a small one that is trained on the embedded data first, in outputs/embedded-model.
    """


Config = PPOConfig


def train(config: PPOConfig) -> Path:
    """Train, and go on where an earlier run in `run_dir` stopped.

    Returns:
        The run folder: `metrics.jsonl`, `checkpoints/`, `config.yaml`, `log.txt`, `report.html`.
    Raises:
        ConfigError, OSError, FluxcoreError: what the user can mend; but for what a reward returns, before training.
    """
    start = embedded_model() if config.model == EMBEDDED else config.model
    with Run(config) as run:
        prompts = open_prompts(config, run.accelerator)
        policy = load_model(
            start,
            vocab_size=prompts.data.vocab_size,
            context=max(prompts.data.seq, config.prompt_tokens[1] + config.answer_tokens),
            overrides=config.model_args,
        )
        policy.train(False)  # dropout would make it another policy than drew
        reference, frozen = equip(config, policy, run.accelerator.device)
        context = getattr(policy.config, "max_position_embeddings", None) or prompts.data.seq
        sampler = (
            Sampler.from_config(config, prompts.data.tokenizer, context=context) if config.generate_every else None
        )
        optimizer = adamw(policy, lr=config.lr, weight_decay=config.weight_decay, betas=config.betas)
        scheduler = make_scheduler(
            optimizer, config.schedule, steps=prompts.steps, warmup_steps=config.warmup_steps,
            min_ratio=config.min_lr_ratio,
        )  # fmt: skip
        policy, optimizer = run.prepare(policy, optimizer)
        bare = run.accelerator.unwrap_model(policy)
        models = Models(policy, bare, reference)
        loader, controller = prompts.loader(config, run.accelerator), config.kl.make()
        parts: dict[str, Stateful] = {"scheduler": scheduler, "loader": loader, "kl": controller, "frozen": frozen}
        if prompts.curriculum is not None:
            parts["curriculum"] = prompts.curriculum
        run.resume(policy, optimizer, total_steps=prompts.steps, **parts)
        collector = Collector(config, run.accelerator, models, prompts, config.make_rewards(), run.meters)
        updater = Updater(config, run.accelerator, models, optimizer, run.meters)
        head = linear_head(bare)

        for batch in run.batches(loader):
            rollouts = collector.collect(batch, run.step)
            kl, tokens = mean_kl(rollouts)
            updated = updater.update(rollouts, coefficient=controller.coefficient, step=run.step)
            run.meters.add("optimizer_steps", updated.optimizer_steps)
            run.meters.add("stopped", float(updated.stopped))
            run.meters.add("kl_coefficient", controller.coefficient)
            controller.update(kl, tokens)
            learning_rate = float(scheduler.get_last_lr()[0])
            scheduler.step()
            run.step += 1

            if run.due(config.log_every):
                run.log_training(lr=learning_rate)
            if prompts.curriculum is not None and run.due(config.autocurriculum.every):
                reweigh(config, run, prompts, frozen, loader)
            if run.due(config.autocurriculum.freeze_interval):
                frozen.refresh(bare)
            best = False
            if run.due(config.eval_every):
                with hidden_instead_of_logits(head):
                    best = run.validate(prompts.data.validation, policy, partial(hidden_sums, head=head))
            if sampler is not None and run.due(config.generate_every):
                run.sample(sampler, policy)
            if best or run.due(config.save_every):
                run.save(best=best)
        if run.is_main:
            run.trackers.flush()
            write_ppo_page(run.folder.path)
        return run.folder.path


def embedded_model() -> str:
    """A small model that has learnt the embedded data; trained where it is not there, in about a minute."""
    config = curriculum.CurriculumConfig(
        data=EMBEDDED_DATA,
        val_fraction=0.1,
        model="micro",
        model_args={"n_layer": 2},
        batch_size=16,
        steps=600,
        lr=2e-3,
        warmup_steps=20,
        order=OrderName.random,
        log_every=50,
        eval_every=0,
        eval_chunks=128,
        save_every=200,
        trackers=[],
        run_dir=Path("outputs") / "embedded-model",
    )
    return str(curriculum.train(config) / "checkpoints" / "last")


if __name__ == "__main__":
    launch(PPOConfig, train, CONFIGS)

"""One step of PPO: answers are drawn and measured, and then trained on for a few epochs."""

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import fields
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor
from torch.optim import Optimizer

from fluxcore.data.batch import Batch
from fluxcore.integrations.model_head import linear_head
from fluxcore.rl import Minibatch, RolloutBuffer, Rollouts, policy_loss, value_loss
from fluxcore.rl.generation import Answers, draw_answers, given_answers
from fluxcore.rl.policy import answer_kl, evaluating, score_answers
from fluxcore.rl.rewards import RewardBatch, Rewards
from fluxcore.training.meters import Meters
from fluxcore.training.ppo_config import AnswersName, EstimatorName, PPOKeys
from fluxcore.training.ppo_data import PromptData, cut_prompts, row_seeds


class Models(NamedTuple):
    """The models of a run."""

    policy: Any
    """As `accelerator.prepare` returned it; called where gradients are wanted."""
    bare: Any
    """The policy without what wraps it."""
    reference: Any
    """What the policy was at the start: a copy, or the policy without its adapters."""


class Collector:
    """Draws and measures a step's answers.

    Args:
        config: Lengths, temperature, seeds.
        accelerator: Device and ranks.
        models: The policy is in evaluation mode.
        prompts: Tokenizer and padding.
        rewards: What answers are worth.
        meters: Take what is measured.
    """

    def __init__(
        self,
        config: PPOKeys,
        accelerator: Accelerator,
        models: Models,
        prompts: PromptData,
        rewards: Rewards,
        meters: Meters,
    ) -> None:
        self.config, self.accelerator, self.models = config, accelerator, models
        self.prompts, self.rewards, self.meters = prompts, rewards, meters

    def collect(self, batch: Batch, step: int) -> list[Rollouts]:
        """Rollouts of all ranks, in the order of the global batch, so that every rank trains on the same minibatches.

        Args:
            batch: This rank's rows.
            step: Steps done before this one.
        """
        rows = self.config.batch_size // self.accelerator.num_processes
        beginnings, following = cut_prompts(self.config, batch)
        seeds = row_seeds(self.config.seed, step, self.accelerator.process_index * len(beginnings), batch)
        parts = []
        for i in range(0, len(beginnings), rows):
            part = slice(i, i + rows)
            answers = self.answers(beginnings[part], following[part], seeds[part])
            parts.append(self.measure(answers, batch.meta.chunk_ids[part]))
        if self.accelerator.num_processes == 1:
            return parts
        gathered: list[Rollouts] = gather_object([moved(part, torch.device("cpu")) for part in parts])
        return [moved(part, self.accelerator.device) for part in gathered]

    def answers(self, prompts: list[Tensor], following: list[Tensor], seeds: list[int]) -> Answers:
        """Answers to some prompts."""
        if self.config.answers is AnswersName.given:
            return given_answers(prompts, following, pad_id=self.prompts.pad_id, device=self.accelerator.device)
        return draw_answers(
            self.models.bare,
            prompts,
            seeds=seeds,
            new_tokens=self.config.answer_tokens,
            pad_id=self.prompts.pad_id,
            end_id=self.prompts.tokenizer.end_id,
            temperature=self.config.temperature,
        )

    def measure(self, answers: Answers, row_ids: Tensor) -> Rollouts:
        """Log-probabilities, values, KL and rewards of answers."""
        bare, temperature = self.models.bare, self.config.temperature
        with evaluating(bare), self.accelerator.autocast():
            scores = score_answers(bare, bare, *answers, temperature=temperature)
            kl = answer_kl(
                scores,
                linear_head(bare),
                self.models.reference,
                *answers,
                estimator=self.config.kl.estimator.name,
                temperature=temperature,
            )
        rewards, of_answers = self.rewards(
            RewardBatch(
                tokens=answers.tokens,
                attention=answers.attention,
                mask=answers.mask,
                decode=self.prompts.tokenizer.decode,
            )
        )
        self.record(answers, kl, scores.logprobs, scores.entropy, rewards, of_answers)
        return Rollouts(
            tokens=answers.tokens,
            attention=answers.attention,
            mask=answers.mask,
            row_ids=row_ids.to(answers.mask.device),
            logprobs=scores.logprobs.float(),
            values=scores.values.float(),
            kl=kl.float(),
            rewards=rewards,
        )

    def record(
        self,
        answers: Answers,
        kl: Tensor,
        logprobs: Tensor,
        entropy: Tensor,
        rewards: Tensor,
        of_answers: dict[str, Tensor],
    ) -> None:
        """Add to the meters."""
        tokens, rows = answers.mask.sum(), len(answers.mask)
        for name, each in (("kl", kl), ("entropy", entropy), ("cross_entropy", -logprobs)):
            self.meters.add(name, each.sum(), tokens)
        self.meters.add("reward", rewards.sum(), rows)
        for name, each in of_answers.items():
            self.meters.add(f"reward/{name}", each.sum(), rows)
        self.meters.add("answer_tokens", tokens, rows)


class Updated(NamedTuple):
    """What the epochs of a step came to."""

    optimizer_steps: int
    stopped: bool
    """Whether KL between the policies before and after ended them early."""


class Updater:
    """Trains the policy on a step's rollouts.

    Args:
        config: Losses and epochs.
        accelerator: Ranks; each takes its share of every minibatch.
        models: The policy is in evaluation mode.
        optimizer: As `accelerator.prepare` returned it.
        meters: Take what is measured.
    """

    def __init__(
        self, config: PPOKeys, accelerator: Accelerator, models: Models, optimizer: Optimizer, meters: Meters
    ) -> None:
        self.config, self.accelerator, self.models = config, accelerator, models
        self.optimizer, self.meters = optimizer, meters
        self.rows = config.batch_size * config.accumulation // config.minibatches
        """Of a minibatch, over all ranks."""

    def update(self, rollouts: list[Rollouts], *, coefficient: float, step: int) -> Updated:
        """A few epochs over the rollouts of all ranks.

        Args:
            rollouts: The same on every rank.
            coefficient: Of KL to the reference.
            step: Steps done before this one.
        """
        config = self.config
        charged = config.kl.estimator is EstimatorName.k1
        buffer = RolloutBuffer(
            rollouts, gamma=config.gamma, lam=config.lam, kl_coefficient=coefficient if charged else 0.0
        )
        generator = torch.Generator().manual_seed((config.seed * 1_000_003 + step) % (1 << 63))
        done = 0
        for _ in range(config.ppo_epochs):
            for minibatch in buffer.minibatches(self.rows, generator):
                far = self.backward(minibatch, 0.0 if charged else coefficient)
                # Looked at before the step is taken, so that the policy stays within the bound.
                if config.kl.stop and done and far > config.kl.stop * config.kl.target:
                    self.optimizer.zero_grad()
                    return Updated(done, stopped=True)
                norm = self.accelerator.clip_grad_norm_(
                    self.models.policy.parameters(), config.grad_clip or float("inf")
                )
                self.meters.add("grad_norm", norm)
                self.optimizer.step()
                self.optimizer.zero_grad()
                done += 1
        return Updated(done, stopped=False)

    def backward(self, minibatch: Minibatch, loss_coefficient: float) -> float:
        """Gradients of a minibatch over all ranks; returns KL(before, now), nats a token."""
        config, world = self.config, self.accelerator.num_processes
        tokens = minibatch.rollouts.mask.sum()
        kl = torch.zeros((), device=tokens.device)
        parts = list(self.shares(minibatch))
        for i, part in enumerate(parts, start=1):
            with nullcontext() if i == len(parts) else self.accelerator.no_sync(self.models.policy):
                old = part.rollouts
                answers = (old.tokens, old.attention, old.mask)
                with self.accelerator.autocast():
                    scores = score_answers(
                        self.models.policy, self.models.bare, *answers, temperature=config.temperature
                    )
                policy = policy_loss(
                    scores.logprobs, old.logprobs, part.advantages, mask=old.mask, clip=config.clip, tokens=tokens
                )
                value = value_loss(
                    scores.values, old.values, part.returns, mask=old.mask, clip=config.value_clip, tokens=tokens
                )
                entropy = scores.entropy.sum() / tokens
                loss = policy.loss + config.value_weight * value.loss - config.entropy_bonus * entropy
                if loss_coefficient:
                    loss = loss + loss_coefficient * self.kl_to_reference(scores, answers).sum() / tokens
                # Data parallelism averages gradients over ranks; the sum over them is wanted.
                self.accelerator.backward(loss * world)
                kl += policy.approx_kl
            share = old.mask.sum()
            for name, value_ in (
                ("loss", loss),
                ("policy_loss", policy.loss),
                ("value_loss", value.loss),
                ("clip_fraction", policy.clip_fraction),
                ("value_clip_fraction", value.clip_fraction),
                ("policy_kl", policy.approx_kl),
            ):
                self.meters.add(name, value_.detach() * tokens, share)
        return float(self.accelerator.reduce(kl, "sum"))

    def kl_to_reference(self, scores: Any, answers: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        """[B, A] of the policy as it is now, differentiable."""
        with self.accelerator.autocast():
            return answer_kl(
                scores,
                linear_head(self.models.bare),
                self.models.reference,
                *answers,
                estimator=self.config.kl.estimator.name,
                temperature=self.config.temperature,
            )

    def shares(self, minibatch: Minibatch) -> Iterator[Minibatch]:
        """This rank's micro-batches of a minibatch: each micro-batch is cut into one share a rank."""
        world, rank = self.accelerator.num_processes, self.accelerator.process_index
        rows = torch.arange(len(minibatch.rollouts), device=minibatch.advantages.device)
        for micro in rows.split(self.config.batch_size):
            mine = micro.chunk(world)[rank]
            yield Minibatch(minibatch.rollouts.select(mine), minibatch.advantages[mine], minibatch.returns[mine])


def moved(rollouts: Rollouts, device: torch.device) -> Rollouts:
    """The same on another device."""
    return Rollouts(**{field.name: getattr(rollouts, field.name).to(device) for field in fields(Rollouts)})


def mean_kl(rollouts: list[Rollouts]) -> tuple[float, int]:
    """KL to the reference, nats a token, and of how many tokens."""
    tokens = sum(int(part.mask.sum()) for part in rollouts)
    return sum(float(part.kl.sum()) for part in rollouts) / tokens, tokens

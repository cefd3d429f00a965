"""TRL's PPO on a task of `ppo_task`: `PYTHON ppo_trl.py FOLDER`, which gets `trl.json`.

A script that needs TRL alone, so that it runs in an environment of TRL's own. What the task does not say is as TRL has
it, but for the rows that are generated and scored at once: as many as in training.
"""

import json
import os
import resource
import sys
import time
from pathlib import Path
from types import SimpleNamespace

os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"

import torch
import transformers
import trl
from datasets import Dataset
from tokenizers import Tokenizer, models
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, PreTrainedTokenizerFast

try:
    from trl.experimental.ppo import PPOConfig, PPOTrainer
except ModuleNotFoundError:
    sys.exit(f"TRL {trl.__version__} has no PPO; 1.12.0 is the last that has")


class ShareOfGood(nn.Module):
    """A reward model as TRL wants one: a backbone whose last hidden states a linear score reads.

    Its score at a token is the share of the answer so far that is rewarded.
    """

    base_model_prefix = "backbone"

    def __init__(self, good: Tensor, prompt_tokens: int) -> None:
        super().__init__()
        self.good, self.prompt_tokens = good, prompt_tokens
        self.score = nn.Identity()

    def backbone(self, input_ids: Tensor, **_: object) -> SimpleNamespace:
        """Hidden states [B, T, 1]."""
        rewarded = self.good[input_ids].float()
        rewarded[:, : self.prompt_tokens] = 0
        length = torch.arange(1, input_ids.shape[1] + 1) - self.prompt_tokens
        return SimpleNamespace(hidden_states=[(rewarded.cumsum(1) / length.clamp(min=1))[..., None]])


class Clock(transformers.TrainerCallback):
    """When each step ended, and what was logged of it."""

    def __init__(self) -> None:
        self.ends: list[float] = []
        self.logs: list[dict[str, float]] = []

    def on_step_end(self, *_: object, **__: object) -> None:
        self.ends.append(time.perf_counter())

    def on_log(self, *_: object, logs: dict[str, float], **__: object) -> None:
        if "objective/scores" in logs:
            self.logs.append(logs)


def main() -> None:
    folder = Path(sys.argv[1])
    task = SimpleNamespace(**json.loads((folder / "task.json").read_text()))
    torch.set_num_threads(task.threads)
    imported = resident_mb()
    clock = Clock()
    # Padding is what a token's id says, so it gets one that the model does not have.
    padding = models.WordLevel({"[PAD]": task.vocab_size, "[EOS]": task.vocab_size + 1}, "[PAD]")
    trainer = PPOTrainer(
        args=arguments(task, folder),
        processing_class=PreTrainedTokenizerFast(
            tokenizer_object=Tokenizer(padding), pad_token="[PAD]", eos_token="[EOS]", padding_side="left"
        ),
        model=AutoModelForCausalLM.from_pretrained(task.model),
        ref_model=AutoModelForCausalLM.from_pretrained(task.model),
        reward_model=ShareOfGood(torch.load(folder / "good.pt"), task.prompt_tokens),
        value_model=AutoModelForSequenceClassification.from_pretrained(task.model, num_labels=1),
        train_dataset=Dataset.from_dict({"input_ids": torch.load(folder / "prompts.pt").tolist()}),
        eval_dataset=Dataset.from_dict({"input_ids": torch.load(folder / "prompts.pt")[:1].tolist()}),
        callbacks=[clock],
    )
    trainer.train()
    row = {
        "contender": "TRL",
        "version": trl.__version__,
        "reward": [line["objective/scores"] for line in clock.logs],
        "kl": [line["objective/kl"] / task.answer_tokens for line in clock.logs],
        "step_s": [after - before for before, after in zip(clock.ends, clock.ends[1:], strict=False)],
        "imported_mb": imported,
        "peak_mb": resident_mb(),
    }
    (folder / "trl.json").write_text(json.dumps(row))


def arguments(task: SimpleNamespace, folder: Path) -> PPOConfig:
    """The task in TRL's keys."""
    return PPOConfig(
        output_dir=str(folder / "trl"),
        report_to="none",
        use_cpu=not torch.cuda.is_available(),
        bf16=False,
        gradient_checkpointing=False,
        disable_tqdm=True,
        save_strategy="no",
        num_sample_generations=0,
        logging_steps=1,
        total_episodes=task.steps * task.batch_size * task.accumulation,
        per_device_train_batch_size=task.batch_size,
        local_rollout_forward_batch_size=task.batch_size,
        gradient_accumulation_steps=task.accumulation,
        num_mini_batches=1,
        num_ppo_epochs=task.ppo_epochs,
        response_length=task.answer_tokens,
        learning_rate=task.lr,
        lr_scheduler_type="constant",
        weight_decay=0.0,
        adam_beta2=0.95,
        cliprange=task.clip,
        cliprange_value=task.value_clip,
        vf_coef=task.value_weight,
        gamma=task.gamma,
        lam=task.lam,
        kl_coef=task.kl_coefficient,
        kl_estimator="k1",
        temperature=1.0,
        seed=task.seed,
    )


def resident_mb() -> float:
    """Most memory of this process so far, 1e6 bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


if __name__ == "__main__":
    main()

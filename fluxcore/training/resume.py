"""Whether a run goes on from a checkpoint, and from which."""

import logging
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from fluxcore.training.checkpoint import Checkpoint, Checkpoints, read_checkpoint
from fluxcore.training.config import ConfigError
from fluxcore.training.run_folder import RunFolder

log = logging.getLogger(__name__)
# They change what is written and shown, and not what is learned.
FREE_TO_CHANGE = {
    *("log_every", "save_every", "generate_every", "keep_last", "prompts", "sample_tokens", "top_p", "tokenizer"),
    *("run_dir", "resume", "trackers", "wandb_project", "wandb_mode", "log_level", "sweep_processes"),
}


def find_checkpoint(
    resume: str, folder: RunFolder, config: Mapping[str, Any], *, free: Collection[str] = ()
) -> Checkpoint | None:
    """The checkpoint to go on from; None to start anew.

    Args:
        resume: `auto`: the newest whole one of the folder, if any; `never`: none; else a checkpoint's folder.
        folder: The run's folder.
        config: The run's configuration; must be the one that the checkpoint was written with, but for keys that
            change nothing in what is learned.
        free: More keys that may differ.
    Raises:
        ConfigError: `never`, and the folder holds a run; or another configuration.
        CorruptCheckpointError: no whole checkpoint.
        FileNotFoundError: `resume` is no folder.
    """
    if resume == "never":
        if folder.holds_a_run():
            raise ConfigError(
                f"`run_dir` already holds a run: {folder.path}"
                "\n\nChoose another run_dir, or go on with that run by resume=auto."
            )
        return None
    found = Checkpoints(folder.checkpoints).newest() if resume == "auto" else read_checkpoint(Path(resume))
    if found is not None:
        check_same(found, config, free)
    return found


def check_same(checkpoint: Checkpoint, config: Mapping[str, Any], free: Collection[str]) -> None:
    """Refuse to go on with another configuration: the result would be of neither."""
    saved, config = flat(checkpoint.info["config"]), flat(config)
    different = [
        key
        for key in sorted(saved.keys() | config.keys())
        if not is_free(key, free) and saved.get(key) != config.get(key)
    ]
    if different:
        changes = ", ".join(f"{key}={saved.get(key)} is now {config.get(key)}" for key in different)
        raise ConfigError(
            f"`resume` needs the configuration of {checkpoint.path}, but {changes}"
            "\n\nSet it back, or start anew in another run_dir."
        )


def is_free(key: str, more: Collection[str] = ()) -> bool:
    """Whether a key, with its path where it is of a nested configuration, changes nothing in what is learned."""
    name = key.rpartition(".")[2]
    return name in FREE_TO_CHANGE or name in more


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Keys of nested configurations with their path, such as `kl.target`."""
    found: dict[str, Any] = {}
    for key, value in config.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value}
    return found

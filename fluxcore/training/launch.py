"""Command line of a trainer: `python -m fluxcore.trainers.NAME [--config-name NAME] [--multirun] key=value ...`."""

import os
import re
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NoReturn, TypeVar

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from fluxcore.cli.app import EXIT_ERROR, EXIT_INTERRUPTED, describe, show_error
from fluxcore.errors import FluxcoreError
from fluxcore.training.config import ConfigError, build, explain, register
from fluxcore.training.grid import Job, open_grid, show_outcomes, train_grid
from fluxcore.training.resume import flat, is_free
from fluxcore.training.run_folder import new_path
from fluxcore.training.trainer_config import TrainerConfig

EXIT_USAGE = 2
OVERRIDE = re.compile(r"(\+{1,2}|~)?[\w@./:-]*\w=|~\w")
# Hydra would make its own folder and log files; a run folder has them already.
QUIET_HYDRA = [
    "hydra.run.dir=.",
    "hydra.sweep.subdir=.",
    "hydra.output_subdir=null",
    "hydra/job_logging=none",
    "hydra/hydra_logging=none",
]
C = TypeVar("C", bound=TrainerConfig)
R = TypeVar("R")


def launch(config_type: type[C], train: Callable[[C], Any], config_dir: Path) -> None:
    """Run `train` with the configuration that the command line describes.

    Under `--multirun` all configurations are checked before the first run begins; each run trains in a folder below
    `run_dir` that is named after the keys that the runs differ in, `sweep_processes` at once. Given again, the same
    command keeps whole runs and goes on with the others; one that fails is listed, and the exit code is 1 then.

    Args:
        config_type: The configuration; registered as `NAME_schema`.
        train: Called once, or once a job.
        config_dir: Folder with `default.yaml` and the other named configurations.
    Raises:
        SystemExit: code 2 for a wrong key or value, 1 for an error that the user can mend, 130 on Ctrl-C; each
            with a short message on standard error. Anything else is a bug and keeps its traceback.
    """
    register(config_type)
    # Hydra reports errors by itself, at length, unless it is told to let them through.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    # Its parser wants options before overrides, and the overrides in one piece.
    arguments = sys.argv[1:]
    overrides = [argument for argument in arguments if OVERRIDE.match(argument)]
    options = [argument for argument in arguments if not OVERRIDE.match(argument)]
    given = options + overrides + QUIET_HYDRA

    def job(values: DictConfig) -> None:
        # SystemExit passes through Hydra as it is.
        try:
            config = build(config_type, values)
        except OmegaConfBaseException as error:
            fail(explain(error, config_type), EXIT_USAGE)
        except ValueError as error:
            fail(str(error), EXIT_USAGE)
        if HydraConfig.get().mode == RunMode.MULTIRUN:
            swept.append(config)
        else:
            ending(lambda: train(config))

    swept: list[C] = []
    try:
        # For the multirun.yaml that Hydra cannot be kept from writing.
        with TemporaryDirectory() as scratch:
            sys.argv[1:] = [*given, f"hydra.sweep.dir={scratch}"]
            hydra.main(version_base="1.3", config_path=str(config_dir), config_name="default")(job)()
    except (HydraException, OmegaConfBaseException) as error:
        fail(explain(error, config_type), EXIT_USAGE)
    if swept and not ending(lambda: train_sweep(swept, train)):
        raise SystemExit(EXIT_ERROR)


def ending(call: Callable[[], R]) -> R:
    """Call, and end the process with a short message for what the user can mend."""
    try:
        return call()
    except ConfigError as error:
        fail(str(error), EXIT_USAGE)
    except (FluxcoreError, ValueError, OSError) as error:
        fail(describe(error), EXIT_ERROR)
    except KeyboardInterrupt:
        fail("interrupted; give the same `run_dir` again to go on from its last checkpoint", EXIT_INTERRUPTED)


def train_sweep(configs: Sequence[C], train: Callable[[C], Any]) -> bool:
    """Train each configuration in a folder of its own below their common `run_dir`; whether none failed.

    Raises:
        ConfigError: two runs are the same, or the folder holds other runs.
    """
    plain = [flat(config.to_dict()) for config in configs]
    keys = [key for key in plain[0] if any(values.get(key) != plain[0][key] for values in plain)]
    names = [",".join(f"{key}={values.get(key)}".replace("/", "_") for key in keys) or "run" for values in plain]
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        raise ConfigError(f"runs must differ in a key, and two are the same: {repeated[0]}\n\nTake a value out.")
    config = configs[0]
    folder = config.run_dir.expanduser() if config.run_dir is not None else new_path(Path("outputs") / config.name)
    extended = {"steps"} if config.may_be_extended() else set()
    shared = {key: value for key, value in plain[0].items() if key not in keys and not is_free(key, extended)}
    open_grid(folder, config.name, shared)
    jobs = []
    for each, name in zip(configs, names, strict=True):
        each.run_dir = folder / name
        jobs.append(Job(name, partial(train, each), budget=each.steps if each.may_be_extended() else None))
    return show_outcomes(train_grid(folder, jobs, processes=config.sweep_processes))


def fail(message: str, code: int) -> NoReturn:
    """Print `error: message` and end the process."""
    show_error(message)
    raise SystemExit(code)

"""Command line of a trainer: `python -m fluxcore.trainers.NAME [--config-name NAME] [--multirun] key=value ...`."""

import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
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
from fluxcore.training.trainer_config import TrainerConfig

EXIT_USAGE = 2
OVERRIDE = re.compile(r"(\+{1,2}|~)?[\w@./:-]*\w=|~\w")
# Hydra would make its own folder and log files; a run folder has them already.
QUIET_HYDRA = [
    "hydra.run.dir=.",
    "hydra.sweep.dir=.",
    "hydra.sweep.subdir=.",
    "hydra.output_subdir=null",
    "hydra/job_logging=none",
    "hydra/hydra_logging=none",
]
C = TypeVar("C", bound=TrainerConfig)


def launch(config_type: type[C], train: Callable[[C], Any], config_dir: Path) -> None:
    """Run `train` with the configuration that the command line describes.

    Under `--multirun` each job trains in `run_dir/JOB`, where `run_dir` is given.

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
    sys.argv[1:] = options + overrides + QUIET_HYDRA

    def job(values: DictConfig) -> None:
        # SystemExit passes through Hydra as it is.
        try:
            config = build(config_type, values)
        except OmegaConfBaseException as error:
            fail(explain(error, config_type), EXIT_USAGE)
        except ValueError as error:
            fail(str(error), EXIT_USAGE)
        if HydraConfig.get().mode == RunMode.MULTIRUN and config.run_dir is not None:
            config.run_dir = config.run_dir / str(HydraConfig.get().job.num)
        try:
            train(config)
        except ConfigError as error:
            fail(str(error), EXIT_USAGE)
        except (FluxcoreError, ValueError, OSError) as error:
            fail(describe(error), EXIT_ERROR)
        except KeyboardInterrupt:
            fail("interrupted; give the same `run_dir` again to go on from its last checkpoint", EXIT_INTERRUPTED)

    try:
        hydra.main(version_base="1.3", config_path=str(config_dir), config_name="default")(job)()
    except (HydraException, OmegaConfBaseException) as error:
        fail(explain(error, config_type), EXIT_USAGE)


def fail(message: str, code: int) -> NoReturn:
    """Print `error: message` and end the process."""
    show_error(message)
    raise SystemExit(code)

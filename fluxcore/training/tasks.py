"""The task that a configuration names."""

from accelerate import Accelerator

from fluxcore.training.classification_task import ClassificationTask
from fluxcore.training.language_task import LanguageTask
from fluxcore.training.task import Task
from fluxcore.training.task_config import TaskConfig, TaskName


def make_task(config: TaskConfig, accelerator: Accelerator) -> Task:
    """Data, model and validation, ready for training.

    Raises:
        ConfigError, OSError: what the user can mend.
    """
    if config.task is TaskName.language:
        return LanguageTask(config, accelerator)
    return ClassificationTask(config, accelerator)

import os
from importlib.util import find_spec

import pytest
import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # read when Triton and a kernel's module are imported
    from support.interpreter import prepare_interpreter

    prepare_interpreter()

if find_spec("hypothesis"):  # a machine that runs the GPU tests alone has none
    from hypothesis import settings

    settings.register_profile("repeatable", derandomize=True)
    settings.register_profile("search", print_blob=True)  # new examples each time
    settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))


def pytest_addoption(parser: pytest.Parser) -> None:
    if not find_spec("pytest_timeout"):  # nor has it that; pyproject.toml speaks of both
        parser.addini("timeout", "Seconds after which pytest-timeout stops a test.")


@pytest.fixture(autouse=True)
def _torch_state():
    """Fill uninitialised memory with NaN, so that an element nobody wrote is seen, and seed each test alike."""
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    torch.manual_seed(0)
    yield
    torch.use_deterministic_algorithms(False)

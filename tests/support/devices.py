"""Run a test on each backend that has an op."""

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch

import fluxcore
from fluxcore.backends import Backend


def device_fixture(backends: Sequence[Backend]) -> Any:
    """A fixture that runs a test once on each of `backends`, and gives the device which its kernels run on here.

    Without a GPU the Triton kernels run in Triton's interpreter (tests/conftest.py).
    """

    @pytest.fixture(params=backends)
    def device(request: pytest.FixtureRequest) -> Iterator[torch.device]:
        with fluxcore.backend(request.param):
            yield torch.device("cuda" if request.param == "triton" and torch.cuda.is_available() else "cpu")

    return device

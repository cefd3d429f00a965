from collections.abc import Iterator

import pytest
import torch

import fluxcore


@pytest.fixture(params=["reference", "cpp", "triton"])
def device(request: pytest.FixtureRequest) -> Iterator[torch.device]:
    """Run the test on each backend; the device is the one which that backend's kernels run on here.

    Without a GPU the Triton kernels run in Triton's interpreter (tests/conftest.py).
    """
    with fluxcore.backend(request.param):
        yield torch.device("cuda" if request.param == "triton" and torch.cuda.is_available() else "cpu")

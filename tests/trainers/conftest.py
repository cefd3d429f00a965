import pytest
import torch


@pytest.fixture(autouse=True)
def _one_thread():
    """Sums in the same order, whatever the machine; and models this small gain nothing from more."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def users_algorithms():
    """What a process that a user starts computes with, to compare with one; the next test has its own again."""
    torch.use_deterministic_algorithms(False)

import threading

import pytest
import torch

import fluxcore
from fluxcore.backends import available_backends, resolve_backend

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch):
    monkeypatch.delenv("FLUXCORE_BACKEND", raising=False)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)


def test_the_device_decides():
    assert resolve_backend(CPU) == "cpp"
    assert resolve_backend(torch.device("cuda")) == "triton"
    assert resolve_backend(torch.device("mps")) == "reference"


def test_the_environment_is_weaker_than_the_block(monkeypatch):
    monkeypatch.setenv("FLUXCORE_BACKEND", "reference")
    assert resolve_backend(CPU) == "reference"
    with fluxcore.backend("cpp"):
        assert resolve_backend(CPU) == "cpp"
        with fluxcore.backend("reference"):
            assert resolve_backend(CPU) == "reference"
        assert resolve_backend(CPU) == "cpp"
    assert resolve_backend(CPU) == "reference"


def test_a_block_does_not_reach_other_threads():
    seen = []
    with fluxcore.backend("reference"):
        thread = threading.Thread(target=lambda: seen.append(resolve_backend(CPU)))
        thread.start()
        thread.join()
    assert seen == ["cpp"]


def test_the_choice_ends_with_an_exception():
    with pytest.raises(KeyError), fluxcore.backend("reference"):
        raise KeyError
    assert resolve_backend(CPU) == "cpp"


def test_an_unknown_name_is_refused(monkeypatch):
    with pytest.raises(ValueError, match="`name` must be one of triton, cpp, reference, got 'cuda'"):
        fluxcore.backend("cuda")
    monkeypatch.setenv("FLUXCORE_BACKEND", "fast")
    with pytest.raises(ValueError, match="`FLUXCORE_BACKEND` must be one of triton, cpp, reference, got 'fast'"):
        resolve_backend(CPU)


def test_an_impossible_choice_says_why_and_what_is_possible(monkeypatch):
    with (
        fluxcore.backend("triton"),
        pytest.raises(ValueError, match=r"need a GPU.*\n\nPossible on `cpu`: cpp, reference"),
    ):
        resolve_backend(CPU)
    with fluxcore.backend("cpp"), pytest.raises(ValueError, match=r"tensors are on `cuda`\n\n.*: triton, reference"):
        resolve_backend(torch.device("cuda"))
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    with fluxcore.backend("triton"):
        assert resolve_backend(CPU) == "triton"
    assert available_backends("cpu") == ("cpp", "triton", "reference")

"""Gives each `bench_*` function every contender of its module's cases, through pytest-benchmark."""

import pytest
import torch

from benchmarks.collect import case_label
from benchmarks.environment import environment
from benchmarks.harness import Case, admit, figures, floor_bytes, floor_call, time_call

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "contest" in metafunc.fixturenames:
        contests = [(case, name) for case in metafunc.module.cases(DEVICE) for name in case.contenders]
        metafunc.parametrize("contest", contests, ids=lambda contest: f"{case_label(contest[0])} {contest[1]}")


@pytest.fixture
def measure(benchmark, contest: tuple[Case, str]):
    """Checks one contender, times it, and notes its figures beside the times."""
    case, name = contest
    inputs = case.inputs(DEVICE)

    def run() -> None:
        status, call = admit(case, name, inputs)
        if call is None:
            pytest.skip(status)

        def once() -> None:
            call(*inputs)
            if DEVICE.type == "cuda":
                torch.cuda.synchronize()

        floor_times = time_call(floor_call(case, inputs[0]), DEVICE, 0.25)
        benchmark.group = case_label(case)
        benchmark(once)
        times = sorted(benchmark.stats.stats.data)
        benchmark.extra_info.update(
            figures(case, times, floor_times, floor_bytes(case, inputs[0])), **environment(DEVICE)
        )

    return run

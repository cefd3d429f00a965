"""Finds the cases: every module `bench_*` below this package has a function `cases(device)`."""

import pkgutil
from importlib import import_module

import torch

import benchmarks
from benchmarks.harness import Case


def collect_cases(device: torch.device) -> list[Case]:
    """All cases for a device, by module name."""
    found = []
    for module in pkgutil.walk_packages(benchmarks.__path__, "benchmarks."):
        if module.name.split(".")[-1].startswith("bench_"):
            found += import_module(module.name).cases(device)
    return found


def case_label(case: Case) -> str:
    """What a case is called on the command line and by pytest."""
    shape = "x".join(map(str, case.shape))
    return f"{case.name} {shape} {str(case.dtype).split('.')[-1]}"

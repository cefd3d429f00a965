"""The environment of the benchmarks holds what `pyproject.toml` asks of it, in exact versions."""

import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def pins(path):
    lines = [line for line in (ROOT / path).read_text().splitlines() if not line.startswith("#")]
    assert all(line.count("==") == 1 for line in lines)
    return {canonicalize_name(name): version for name, version in (line.split("==") for line in lines)}


@pytest.mark.parametrize("asked", PROJECT["dependencies"] + PROJECT["optional-dependencies"]["bench"])
def test_what_is_asked_for_is_pinned(asked):
    requirement = Requirement(asked)
    version = pins("benchmarks/constraints.txt")[canonicalize_name(requirement.name)]
    assert requirement.specifier.contains(version), version


def test_both_environments_have_the_same_torch_and_triton():
    one, other = pins("benchmarks/constraints.txt"), pins("constraints.txt")
    assert [one[name] for name in ("torch", "triton")] == [other[name] for name in ("torch", "triton")]

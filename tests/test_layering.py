"""Imports point one way, and only `fluxcore` touches the extension."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PYTHON_FILES = {
    layer: sorted((ROOT / layer).rglob("*.py")) for layer in ("fluxcore", "kernels", "trainers", "benchmarks")
}
CPP_LAYERS = {"common": {"common"}, "ops": {"common", "ops"}, "data": {"common", "data"}}


def imported_modules(source: str) -> Iterator[str]:
    """Every module that the file imports, at any depth, as a dotted name; relative imports are refused elsewhere."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def violations(layer: str, source: str) -> list[str]:
    """What `source`, a file of `layer`, imports and must not."""
    found = []
    for module in imported_modules(source):
        top = module.split(".")[0]
        inside = ".".join(module.split(".")[:2])
        if layer == "kernels":
            # Its own files, torch and triton; the standard library is free.
            wrong = top == "fluxcore" and inside not in ("fluxcore", "fluxcore.kernels")
        elif layer == "fluxcore":
            wrong = inside == "fluxcore.trainers" or top in ("trainers", "kernels", "benchmarks", "tests")
        else:
            wrong = inside == "fluxcore._core" or top in ("trainers", "kernels", "tests")
            wrong = wrong or (layer == "trainers" and top == "benchmarks")
        if wrong:
            found.append(module)
    return found


@pytest.mark.parametrize("layer", PYTHON_FILES)
def test_imports_point_one_way(layer):
    assert PYTHON_FILES[layer], f"no files found under {layer}/"
    found = {str(path.relative_to(ROOT)): violations(layer, path.read_text()) for path in PYTHON_FILES[layer]}
    assert {path: wrong for path, wrong in found.items() if wrong} == {}


def test_kernels_import_torch_and_triton_only():
    allowed = {"torch", "triton", "fluxcore"}
    for path in PYTHON_FILES["kernels"]:
        tops = {module.split(".")[0] for module in imported_modules(path.read_text())}
        assert tops - allowed - set(sys.stdlib_module_names) == set(), path


@pytest.mark.parametrize(
    ("layer", "source"),
    [
        ("fluxcore", "def f():\n    from fluxcore.trainers import curriculum"),
        ("kernels", "import fluxcore.ops"),
        ("trainers", "from fluxcore import _core"),
        ("benchmarks", "from kernels.softmax_stats import x"),
    ],
)
def test_a_wrong_import_is_seen(layer, source):
    assert violations(layer, source)


@pytest.mark.parametrize("folder", ["kernels", "trainers"])
def test_mapped_folders_are_no_packages(folder):
    # With an __init__.py, `python -m` from the checkout would shadow other packages of that name.
    assert not (ROOT / folder / "__init__.py").exists()


@pytest.mark.parametrize("layer", CPP_LAYERS)
def test_the_core_knows_neither_python_nor_torch(layer):
    files = [path for path in (ROOT / "csrc" / layer).rglob("*") if path.suffix in (".hpp", ".cpp", ".inl")]
    assert files
    for path in files:
        for line in path.read_text().splitlines():
            if line.startswith("#include"):
                header = line.split()[1].strip('<>"')
                assert not header.startswith(("Python.h", "pybind11/", "torch/", "ATen/", "c10/", "python/")), (
                    path,
                    header,
                )
                first = header.split("/")[0]
                if first in ("ops", "data", "common"):
                    assert first in CPP_LAYERS[layer], (path, header)


def test_the_ops_are_imported_where_only_torch_triton_and_numpy_are_installed():
    script = """
import sys, numpy, torch, triton
before = set(sys.modules)
import fluxcore
print(*sorted({name.split(".")[0] for name in set(sys.modules) - before} - set(sys.stdlib_module_names)))
"""
    found = subprocess.run([sys.executable, "-P", "-c", script], capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["fluxcore"]

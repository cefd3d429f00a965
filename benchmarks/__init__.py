"""Benchmarks of fluxcore against its rivals. `make bench`, or `python -m benchmarks --help`."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# Whoever imported this has the checkout on the path, where the folder `fluxcore`, without the built extension, would
# hide the installed package.
sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() != ROOT]

import sys
from pathlib import Path

# The benchmarks are no part of the wheel: they are imported from the checkout that these tests belong to.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

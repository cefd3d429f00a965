import shutil
import subprocess
import sys
from pathlib import Path

import fluxcore


def test_a_checkout_without_the_compiled_part_says_so_and_names_the_way_out(tmp_path):
    sources = Path(fluxcore.__file__).parent
    (tmp_path / "fluxcore").mkdir()
    for name in ("__init__.py", "_extension_check.py"):
        shutil.copy(sources / name, tmp_path / "fluxcore")
    # -S: no site-packages, so no other fluxcore is found either.
    done = subprocess.run(
        [sys.executable, "-S", "-c", "import fluxcore"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert f"imported from `{tmp_path / 'fluxcore'}`" in done.stderr
    assert "No module named 'fluxcore._core'" in done.stderr
    assert f"pip install -e {tmp_path}" in done.stderr
    assert "python -P" in done.stderr

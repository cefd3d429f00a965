"""The example pages run as they stand: their Python blocks, in order, in one namespace a page."""

import math
import re
from pathlib import Path
from typing import Any

import pytest

EXAMPLES = sorted((Path(__file__).parents[2] / "docs" / "examples").glob("*.md"))
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def run_page(path: Path) -> dict[str, Any]:
    """The namespace that its blocks leave behind."""
    text = path.read_text()
    namespace: dict[str, Any] = {"__name__": "__main__"}
    found = list(BLOCK.finditer(text))
    assert found, f"{path} has no Python block"
    for block in found:
        # Newlines in front, so that a traceback has the line of the page.
        line = text[: block.start(1)].count("\n")
        exec(compile("\n" * line + block.group(1), str(path), "exec"), namespace)
    return namespace


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_a_page_runs(path):
    run_page(path)


def test_the_loop_learns_and_its_log_is_consistent():
    left = run_page(EXAMPLES[[path.stem for path in EXAMPLES].index("training_loop")])
    history = left["history"]
    assert history[-1]["perplexity"] < history[0]["perplexity"] / 2
    for row in history:
        assert row["loss"] == pytest.approx(math.log(row["perplexity"]) + 0.01 * row["entropy"], rel=1e-4)
        assert 0 < row["max_prob"] < 1
    assert any(
        parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in left["model"].parameters()
    )


def test_a_failing_block_fails(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("```python\nx = 1\n```\n\n```python\nassert x == 2\n```\n")
    with pytest.raises(AssertionError):
        run_page(page)

import json
import math

import pytest

from fluxcore.report.grokking import read_grid, table, write_plot, write_table
from fluxcore.report.markdown import BEGIN, END
from fluxcore.report.runs import WHOLE

VARIANTS = ["ortho", "softmax"]


def write_run(folder, *, accuracies, train_accuracies, losses, whole=True):
    folder.mkdir(parents=True)
    rows = [{"step": 10, "split": "train", "loss": 4.0}]
    for i, (test, train, loss) in enumerate(zip(accuracies, train_accuracies, losses, strict=True), start=1):
        rows.append(
            {"step": 50 * i, "split": "val", "accuracy": test, "train_accuracy": train, "loss": loss}
            | {"train_loss": loss and loss / 10, "train_zero_loss": 0.25}
        )
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    if whole:
        (folder / WHOLE).write_text('{"budget": 150, "steps": 150}\n')


@pytest.fixture
def grid(tmp_path):
    folder = tmp_path / "grid"
    curves = {"accuracies": [0.1, 0.995, 0.5], "train_accuracies": [0.9, 0.9995, 1.0], "losses": [4.0, 0.1, None]}
    write_run(folder / "softmax-eps1e-30-seed1", **curves)
    write_run(folder / "softmax-eps1e-08-seed0", **{**curves, "accuracies": [0.1, 0.2, 0.15]})
    write_run(folder / "ortho-eps1e-08-seed0", **curves)
    write_run(folder / "ortho-eps1e-08-seed1", **curves, whole=False)
    write_run(folder / "another-eps1e-08-seed0", **curves)
    return folder


def test_whole_runs_by_variant_eps_and_seed(grid):
    runs = read_grid(grid, VARIANTS)
    assert [(run.variant, run.eps, run.seed) for run in runs] == [
        ("ortho", 1e-8, 0),
        ("softmax", 1e-8, 0),
        ("softmax", 1e-30, 1),
    ]
    assert math.isnan(runs[0].loss[-1])
    with pytest.raises(FileNotFoundError, match="No whole run in"):
        read_grid(grid / "nothing", VARIANTS)


def test_a_run_that_is_being_extended_ends_where_it_was_whole(grid):
    folder = grid / "softmax-eps1e-30-seed1"
    (folder / WHOLE).write_text('{"budget": 100, "steps": 100}\n')
    assert [run.step.tolist() for run in read_grid(grid, VARIANTS)] == [[50, 100, 150], [50, 100, 150], [50, 100]]


def test_the_table_says_when_a_run_fits_and_groks(grid):
    lines = table(read_grid(grid, VARIANTS)).splitlines()
    assert len(lines) == 5
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    assert all(len(row) == len(cells[0]) for row in cells)
    assert cells[2] == ["ortho", "1e-08", "0", "150", "100", "100", "99.50%", "50.00%", "nan", "25%"]
    assert cells[3][5:8] == ["never", "20.00%", "15.00%"]


def test_the_page_is_rewritten_between_its_marks(grid, tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"# Title\n\n{BEGIN}\nold\n{END}\n\nWhat it means.\n")
    runs = read_grid(grid, VARIANTS)
    for _ in range(2):
        write_table(page, runs)
        text = page.read_text()
        assert text == f"# Title\n\n{BEGIN}\n\n{table(runs)}\n\n{END}\n\nWhat it means.\n"
    page.write_text("# Title\n")
    with pytest.raises(ValueError, match="`page` must have one line"):
        write_table(page, runs)


def test_the_plot_is_a_png(grid, tmp_path):
    path = tmp_path / "images" / "grokking.png"
    write_plot(path, read_grid(grid, VARIANTS))
    assert path.read_bytes().startswith(b"\x89PNG")

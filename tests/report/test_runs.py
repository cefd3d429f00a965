import json
import math

import numpy as np
import pytest
from support.runs import write_run

from fluxcore.report.runs import differing_keys, read_run


def test_a_run_reads_back(tmp_path):
    run = read_run(
        write_run(tmp_path / "a", order="ascending", seed=3, validation=[5.0, 4.0], train=[6.0, 3.0], scores=[1.0, 2.0])
    )
    assert (run.order, run.seed, run.final_loss, run.total_tokens) == ("ascending", 3, 4.0, 2000)
    assert run.train.loss.tolist() == [6.0, 3.0]
    assert run.train.score.tolist() == [1.0, 2.0]
    assert np.isnan(run.validation.score).all()
    assert run.validation.tokens.tolist() == [1000, 2000]
    assert (run.seconds, run.tokens_per_second) == (4.0, 500.0)


def test_lines_logged_again_after_a_resume_count_once(tmp_path):
    folder = write_run(tmp_path / "a", validation=[5.0, 4.0, 3.0])
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 2, "tokens": 2000, "split": "val", "loss": 4.5}) + "\n")
    assert read_run(folder).validation.loss.tolist() == [5.0, 4.5, 3.0]


def test_a_line_cut_off_by_a_kill_is_left_out(tmp_path):
    folder = write_run(tmp_path / "a", validation=[5.0, 4.0])
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3, "tok')
    assert read_run(folder).validation.loss.tolist() == [5.0, 4.0]


@pytest.mark.parametrize("line", ["not json", "[1, 2]"])
def test_a_line_that_is_no_object_is_named(tmp_path, line):
    folder = write_run(tmp_path / "a", validation=[5.0])
    (folder / "metrics.jsonl").write_text(f'{{"step": 1}}\n{line}\n')
    with pytest.raises(ValueError, match=r"line 2 of .*metrics\.jsonl") as error:
        read_run(folder)
    assert line in str(error.value)


@pytest.mark.parametrize("name", ["config.yaml", "metrics.jsonl"])
def test_a_folder_that_is_no_run_is_refused(tmp_path, name):
    folder = write_run(tmp_path / "a", validation=[5.0])
    (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"has no `{name}`"):
        read_run(folder)


def test_a_run_without_a_validation_loss_is_refused(tmp_path):
    folder = write_run(tmp_path / "a", validation=[5.0])
    (folder / "metrics.jsonl").write_text('{"step": 1, "tokens": 9, "split": "train", "loss": 5.0}\n')
    with pytest.raises(ValueError, match="split `val`"):
        read_run(folder)


def test_a_config_without_an_order_is_refused(tmp_path):
    folder = write_run(tmp_path / "a", validation=[5.0])
    (folder / "config.yaml").write_text("seed: 0\n")
    with pytest.raises(ValueError, match="must have a key `order`"):
        read_run(folder)


def test_a_run_without_speeds_has_no_time(tmp_path):
    folder = write_run(tmp_path / "a", validation=[5.0])
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for row in rows:
        row.pop("tokens_per_second", None)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert math.isnan(read_run(folder).tokens_per_second)


def test_keys_in_which_runs_differ_are_found(tmp_path):
    a = read_run(write_run(tmp_path / "a", order="random", seed=0, validation=[5.0], lr=0.1, model="micro"))
    b = read_run(write_run(tmp_path / "b", order="ascending", seed=1, validation=[5.0], lr=0.2, model="micro"))
    assert differing_keys([a, b]) == ["lr"]

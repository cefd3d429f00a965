import json
from dataclasses import asdict

import pytest
import torch

from benchmarks import harness, table
from benchmarks.collect import case_label, collect_cases
from benchmarks.harness import CannotRunError, Case, Floor, NotInstalledError, WrongAnswerError, percentile, run_case

CPU = torch.device("cpu")


def missing():
    raise NotInstalledError("rival")


def elsewhere():
    raise CannotRunError("needs a CUDA device")


def case(**changes):
    facts = {
        "name": "double",
        "shape": (40, 8),
        "dtype": torch.float32,
        "inputs": lambda device: (torch.ones(40, 8, device=device),),
        "contenders": {
            "fluxcore": lambda: lambda x: {"y": 2 * x},
            "eager": lambda: lambda x: {"y": x + x},
            "wrong": lambda: lambda x: {"y": 2.1 * x},
            "nan": lambda: lambda x: {"y": x * torch.nan},
            "other": lambda: lambda x: {"z": x},
            "missing": missing,
            "elsewhere": elsewhere,
        },
        "truth": lambda x: {"y": 2 * x.double()},
        "tolerance": 1e-6,
        "bytes_moved": 2 * 40 * 8 * 4,
    }
    return Case(**facts | changes)


def test_percentiles_interpolate():
    assert percentile([1.0, 2.0, 3.0, 4.0, 5.0], 0.5) == 3.0
    assert percentile([1.0, 2.0], 0.2) == pytest.approx(1.2)
    assert percentile([7.0], 0.8) == 7.0


def test_calls_are_timed_in_turns_so_that_a_slow_minute_hits_all():
    order = []
    budgets = [(lambda: order.append("a"), 0.0), (lambda: order.append("b"), 0.0)]
    a, b = harness.time_in_turns(budgets, CPU)
    assert len(a) == len(b) == harness.TURNS
    assert order == ["a", "a", "b", "b", *["a", "b"] * harness.TURNS]


def test_rows_hold_figures_of_those_who_are_right_and_reasons_for_the_others():
    rows = {row.contender: row for row in run_case(case(), CPU, budget_s=0.01)}
    assert rows["wrong"].status == "wrong answer: y is off by 5.0e-02, allowed 1.0e-06"
    assert rows["nan"].status.startswith("wrong answer: y is off by nan")
    assert rows["other"].status == "wrong answer: gives ['z'], expected some of ['y']"
    assert rows["missing"].status == "not installed: rival"
    assert rows["elsewhere"].status == "cannot run: needs a CUDA device"
    for name in ("fluxcore", "eager"):
        row = rows[name]
        assert row.status == "ok"
        assert 0 < row.p20_ms <= row.p50_ms <= row.p80_ms
        assert row.gb_per_s == pytest.approx(2 * 40 * 8 * 4 / row.p50_ms / 1e6)
        assert row.floor_share == pytest.approx(row.gb_per_s / row.floor_gb_per_s)
        assert row.peak_mb is None or row.peak_mb >= 0
        assert {"device", "torch", "fluxcore", "commit", "threads"} <= row.environment.keys()
    assert all(row.p50_ms is None for name, row in rows.items() if name not in ("fluxcore", "eager"))


def test_our_own_wrong_answer_stops_the_run():
    with pytest.raises(WrongAnswerError, match="double: y has shape"):
        run_case(case(contenders={"fluxcore": lambda: lambda x: {"y": x[:1]}}), CPU)


def test_what_does_not_fit_into_memory_is_left_out_before_it_runs(monkeypatch):
    ran = []

    def greedy(x):
        ran.append(type(x))
        return {"y": x.expand(1 << 30, 40, 8).exp()[0]}

    rows = run_case(
        case(
            contenders={"fluxcore": lambda: lambda x: {"y": 2 * x}, "greedy": lambda: greedy},
            memory_like={"greedy": greedy},
        ),
        CPU,
        budget_s=0.01,
    )
    assert rows[0].status == "ok"
    assert rows[1].status.startswith("needs 1374.4 GB, of ")
    assert torch.Tensor not in ran
    monkeypatch.setattr(harness, "free_memory_bytes", lambda device: 10)
    rows = run_case(case(input_bytes=100, inputs=None), CPU)
    assert {row.status for row in rows} == {"inputs alone: needs 0.0 GB, of 0.0 GB free"}


def test_the_table_is_made_from_the_rows(tmp_path):
    rows = [asdict(row) for row in run_case(case(floor=Floor.SUM), CPU, budget_s=0.01)]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = table.markdown(table.read_rows(path))
    assert "**double**, 40 x 8 float32; floor: sum, " in text
    assert text.count("\n| fluxcore | ") == 1
    assert "| missing | not installed: rival | | | | |" in text
    faster = rows[1]["p50_ms"] / rows[0]["p50_ms"]
    assert f"| {100 * rows[1]['floor_share']:.0f}% | {faster:.1f}x |" in text


def test_the_cases_of_all_benchmarks_are_found():
    labels = [case_label(case) for case in collect_cases(CPU)]
    assert len(labels) == len(set(labels))
    assert "softmax_stats/all 1024x50257 float32" in labels
    assert "cross_entropy/neg_entropy_forward_backward 4096x128256 bfloat16" in labels
    assert "kl_div/forward 4096x256 float32" in labels

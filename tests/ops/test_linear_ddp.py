"""`linear_cross_entropy` under DistributedDataParallel: two gloo processes on one machine."""

import os
import subprocess
import sys
from pathlib import Path

import torch
from support.linear_ddp import RANKS, Model, tokens_of_all

TESTS = Path(__file__).parents[1]


def test_two_processes_have_the_gradient_of_the_whole_batch(tmp_path):
    # Programs of their own: a fork of a process that has threads may wait for one of them for ever.
    environment = os.environ | {"PYTHONPATH": str(TESTS)}
    ranks = [
        subprocess.Popen([sys.executable, "-m", "support.linear_ddp", str(rank), str(tmp_path)], env=environment)
        for rank in range(RANKS)
    ]
    try:
        assert [rank.wait(timeout=120) for rank in ranks] == [0] * RANKS
    finally:
        for rank in ranks:
            rank.kill()
    model = Model()
    model(tokens_of_all()).backward()
    expected = [parameter.grad for parameter in model.parameters()]
    for number in range(RANKS):
        torch.testing.assert_close(torch.load(tmp_path / f"{number}.pt"), expected)

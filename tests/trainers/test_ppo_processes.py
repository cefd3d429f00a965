"""The trainer as users start it: by its command line, and as several processes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from fluxcore.trainers.ppo import train
from support.ppo_runs import ppo_config, write_prompts
from support.trainer_runs import split

from fluxcore.training.ppo_config import RewardConfig

TESTS = Path(__file__).parents[1]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(TESTS)}


def test_two_processes_train_as_one(tmp_path):
    data = write_prompts(tmp_path / "data", documents=60)

    def config(name):
        seen = tmp_path / f"seen-{name}"
        # Few and small updates, so that rounding, which differs, does not change what is drawn.
        return ppo_config(
            data, tmp_path / name, steps=4, lr=1e-4, ppo_epochs=1, rewards=[RewardConfig(
                name="support.ppo_runs:write_down", args={"path": str(seen)})],
        )  # fmt: skip

    torch.use_deterministic_algorithms(False)  # as in a process of the user's
    one = train(config("one"))
    config("two").to_yaml(tmp_path / "two.yaml")
    # `accelerate launch --cpu` starts one process, whatever the number asked for.
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += ["-m", "fluxcore.trainers.ppo", "--config-dir", str(tmp_path), "--config-name", "two"]
    done = subprocess.run(command, cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

    def seen(name):
        files = list(tmp_path.glob(f"seen-{name}-*"))
        lines = [file.read_text().splitlines() for file in files]
        own = 16 // len(files)  # rows of each process in the 16 of a step
        steps = range(0, len(lines[0]), own)
        return len(files), [sorted(line for each in lines for line in each[i : i + own]) for i in steps]

    assert seen("one")[0] == 1
    assert seen("two")[0] == 2
    assert seen("two")[1] == seen("one")[1]  # in each step the same prompts, and the same answers
    assert [len(batch) for batch in seen("one")[1]] == [16] * 4
    ours, theirs = (split(run, "mixture") for run in (one, tmp_path / "two"))
    assert [event["step"] for event in ours] == [2, 4]
    # Rounding differs, and Adam makes it grow; the first step has seen little of it.
    first, second = (split(run, "train")[0] for run in (one, tmp_path / "two"))
    assert first.keys() == second.keys()
    for key in first.keys() - {"split"}:
        assert second[key] == pytest.approx(first[key], rel=1e-3, abs=1e-5), key
    for a, b in zip(ours, theirs, strict=True):
        assert [b[f"weight/{name}"] for name in ("web", "code")] == pytest.approx(
            [a[f"weight/{name}"] for name in ("web", "code")], rel=1e-5
        )


MEMORY = """
import resource, sys, torch
from pathlib import Path
from fluxcore.data import ShardWriter
from fluxcore.trainers import ppo
from support.ppo_runs import ppo_config
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

torch.set_num_threads(1)
ppo.write_ppo_page = lambda folder: None  # a second, and memory of its own
V, ROWS, A, folder = 50257, 32, 32, Path(sys.argv[1])
with ShardWriter(folder / "data", chunk_tokens=A + 2, dtype="uint16", vocab_size=V, sources=["web", "code"]) as writer:
    for document in range(80):
        tokens = [(document * 997 + i * i) % V for i in range(A + 2)]
        writer.append(tokens, source=["web", "code"][document % 2], doc_id=document)
tokenizer = Tokenizer(WordLevel({f"n{i}": i for i in range(V)}, "n0"))
(folder / "data" / "tokenizer.json").write_text(tokenizer.to_str())

def run(name, rows):
    ppo.train(ppo_config(
        folder / "data", folder / name, model_args={"n_layer": 1, "n_embd": 16, "n_head": 2}, pad_token=0,
        prompt_tokens=[1, 2], answer_tokens=A, batch_size=rows, accumulation=1, minibatches=1, ppo_epochs=1, steps=1,
        warmup_steps=0, eval_every=1, eval_chunks=ROWS, autocurriculum__every=1, autocurriculum__chunks=rows,
        kl__horizon=5000,
    ))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

before = run("one", 1)
print((run("many", ROWS) - before) / (ROWS * A * V * 4))
"""


def test_no_step_of_the_loop_holds_all_logits(tmp_path):
    """Peak memory of a whole run beyond that of one with a row a batch, in units of a matrix of the batch's logits."""
    command = [sys.executable, "-c", MEMORY, str(tmp_path)]
    done = subprocess.run(command, env=ENVIRONMENT, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 1, done.stdout


def test_the_command_says_what_is_wrong(tmp_path):
    data = write_prompts(tmp_path / "data")
    command = [sys.executable, "-m", "fluxcore.trainers.ppo", f"data={data}", f"run_dir={tmp_path / 'run'}"]
    done = subprocess.run([*command, "kl.target=0"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: `kl.target` must be finite and > 0 nats a token, got 0.0")
    assert "Traceback" not in done.stderr

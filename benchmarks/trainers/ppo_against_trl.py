"""PPO against TRL's, on one tiny task: reward and KL by step, time a step, peak memory.

    python -m benchmarks.trainers.ppo_against_trl --trl-python PYTHON [--task wide] --out ppo.json --plot ppo.png

Each trains in a process of its own: same model, prompts, reward, batch, steps and losses.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch

from benchmarks import ROOT
from benchmarks.environment import environment
from benchmarks.trainers.ppo_task import make_task
from fluxcore.report.theme import DASHES, add_legend, new_axes, series_colour

TIMEOUT_S = 3600
CURVE = 10
"""Steps whose mean is a figure of the printed curve."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.trainers.ppo_against_trl", description=__doc__)
    parser.add_argument("--task", choices=["spaces", "wide"], default="spaces")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--trl-python", default=sys.executable, help="interpreter of an environment with TRL <= 1.12")
    parser.add_argument("--out", type=Path, help="write the rows to this file, as JSON")
    parser.add_argument("--plot", type=Path, help="draw the rewards into this PNG")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        task = make_task(folder, options.task, {"steps": options.steps, "threads": options.threads})
        rows = [
            contend("fluxcore", [sys.executable, "-m", "benchmarks.trainers.ppo_fluxcore"], folder),
            contend("TRL", [options.trl_python, str(ROOT / "benchmarks" / "trainers" / "ppo_trl.py")], folder),
        ]
    found = {"task": vars(task), "environment": environment(torch.device("cpu")), "rows": rows}
    if options.out:
        options.out.write_text(json.dumps(found) + "\n")
    if options.plot:
        options.plot.write_bytes(drawn(rows))
    sys.stdout.write(markdown(rows))
    return 0


def contend(name: str, command: list[str], folder: Path) -> dict[str, Any]:
    """The row of one contender; where it cannot run, `status` says why."""
    done = subprocess.run([*command, str(folder)], capture_output=True, text=True, check=False, timeout=TIMEOUT_S)
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"code {done.returncode}"]
        return {"contender": name, "status": f"cannot run: {said[-1]}"}
    row: dict[str, Any] = json.loads((folder / f"{name.lower()}.json").read_text())
    return {"status": "ok"} | row


def markdown(rows: list[dict[str, Any]]) -> str:
    """The table, and the curves by means over steps."""
    lines = ["| | step p20 / p50 / p80, ms | peak memory, MB | of it before the models, MB | reward, first and last |"]
    lines += ["|---|---|---|---|---|"]
    curves = []
    for row in rows:
        if row["status"] != "ok":
            lines.append(f"| {row['contender']} | {row['status']} | | | |")
            continue
        name, reward = f"{row['contender']} {row['version']}", blocks(row["reward"])
        times = " / ".join(f"{1e3 * value:.0f}" for value in np.quantile(row["step_s"], (0.2, 0.5, 0.8)))
        memory = f"{row['peak_mb']:.0f} | {row['imported_mb']:.0f}"
        lines.append(f"| {name} | {times} | {memory} | {reward[0]:.3f}, {reward[-1]:.3f} |")
        for what in ("reward", "kl"):
            curves.append(f"| {name} {what} | " + " | ".join(f"{value:.3f}" for value in blocks(row[what])) + " |")
    if curves:
        count = max(len(row["reward"]) for row in rows if row["status"] == "ok")
        steps = [min(begin + CURVE, count) for begin in range(0, count, CURVE)]
        lines += ["", f"| mean of {CURVE} steps, to step | " + " | ".join(map(str, steps)) + " |"]
        lines += ["|---" * (len(steps) + 1) + "|", *curves]
    return "\n".join(lines) + "\n"


def blocks(values: list[float]) -> list[float]:
    """Means over each so many steps, the last of what is left."""
    return [mean(values[i : i + CURVE]) for i in range(0, len(values), CURVE)]


def drawn(rows: list[dict[str, Any]]) -> bytes:
    """Reward against steps, as PNG."""
    import io

    canvas, axes = new_axes()
    for index, row in enumerate(row for row in rows if row["status"] == "ok"):
        axes.plot(
            range(1, len(row["reward"]) + 1), row["reward"], color=series_colour(index), linestyle=DASHES[index],
            linewidth=1.7, label=f"{row['contender']} {row['version']}",
        )  # fmt: skip
    axes.set_xlabel("step")
    axes.set_ylabel("reward an answer")
    add_legend(axes, loc="upper left")
    image = io.BytesIO()
    canvas.savefig(image, format="png", dpi=200)
    return image.getvalue()


if __name__ == "__main__":
    sys.exit(main())

"""Run the benchmarks without pytest: `python -m benchmarks --device cpu --filter softmax --out rows.jsonl`."""

import argparse
import json
import re
import sys
from dataclasses import asdict, replace
from pathlib import Path

import torch

from benchmarks.collect import case_label, collect_cases
from benchmarks.harness import run_case
from benchmarks.table import markdown


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--filter", type=re.compile, default=re.compile(""), help="regex on `case shape dtype`")
    parser.add_argument("--contender", type=re.compile, default=re.compile(""), help="regex on a contender's name")
    parser.add_argument("--out", type=Path, help="append rows to this file, one JSON object a line")
    parser.add_argument("--budget", type=float, default=1.0, help="seconds to time each contender for")
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch sees no CUDA device here")
    device = torch.device(options.device)
    chosen = [case for case in collect_cases(device) if options.filter.search(case_label(case))]
    if not chosen:
        parser.error(f"--filter {options.filter.pattern}: no case matches")
    for case in chosen:
        contenders = {name: prepare for name, prepare in case.contenders.items() if options.contender.search(name)}
        if not contenders:
            continue
        case = replace(case, contenders=contenders)
        rows = [asdict(row) for row in run_case(case, device, options.budget)]
        sys.stdout.write(markdown(rows) + "\n")
        sys.stdout.flush()
        if options.out:
            with options.out.open("a") as file:
                file.writelines(json.dumps(row) + "\n" for row in rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())

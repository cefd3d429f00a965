"""Measure all loaders: `python -m benchmarks.data --out rows.jsonl`; prints the tables."""

import argparse
import json
import os
import signal
import sys
import tempfile
from pathlib import Path

from benchmarks.data.contest import run_contest
from benchmarks.data.entrants import contenders
from benchmarks.data.measures import MEASURES
from benchmarks.data.report import markdown
from benchmarks.data.work import Work


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.data", description=__doc__)
    names = [contender.name for contender in contenders()]
    parser.add_argument("--measure", choices=MEASURES, nargs="+", default=list(MEASURES))
    parser.add_argument("--contender", choices=names, nargs="+", default=names)
    parser.add_argument("--chunks", type=int, default=32768, help="of 2048 uint16 tokens, 4 kB")
    parser.add_argument("--sparse-chunks", type=int, default=50_000_000, help="of the set for start-up")
    parser.add_argument("--large-chunks", type=int, default=524_288, help="of the set that is larger than memory")
    parser.add_argument("--batches", type=int, default=1_000_000, help="of ours, over which memory may not grow")
    parser.add_argument("--seconds", type=float, default=2.0, help="for each figure that is a rate")
    parser.add_argument("--folder", type=Path, help="where files are made, 4 GB with the defaults; a temporary one")
    parser.add_argument("--out", type=Path, help="append rows to this file, one JSON object a line")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that files and control groups are cleared away
    entered = [contender for contender in contenders() if contender.name in options.contender]
    rows = []
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        tempfile.tempdir = os.environ["TMPDIR"] = folder  # for what rivals leave behind
        work = Work(
            root=Path(folder),
            chunks=options.chunks,
            sparse_chunks=options.sparse_chunks,
            large_chunks=options.large_chunks,
            batches=options.batches,
            seconds=options.seconds,
        )
        for row in run_contest(entered, options.measure, work):
            rows.append(row)
            sys.stderr.write(f"{row['contender']}, {row['measure']}: {row.get('value', row['status'])}\n")
            if options.out:
                with options.out.open("a") as file:
                    file.write(json.dumps(row) + "\n")
    sys.stdout.write(markdown(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())

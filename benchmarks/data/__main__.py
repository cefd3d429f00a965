"""Measure all loaders: `python -m benchmarks.data --out rows.jsonl`; prints the tables."""

import argparse
import json
import sys
import tempfile
from pathlib import Path

from benchmarks.data.contest import contenders, run_contest
from benchmarks.data.measures import MEASURES
from benchmarks.data.report import markdown


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.data", description=__doc__)
    names = [contender.name for contender in contenders()]
    parser.add_argument("--measure", choices=MEASURES, nargs="+", default=list(MEASURES))
    parser.add_argument("--contender", choices=names, nargs="+", default=names)
    parser.add_argument("--chunks", type=int, default=32768, help="of 2048 uint16 tokens, 4 kB")
    parser.add_argument("--sparse-chunks", type=int, default=50_000_000, help="of the set for start-up")
    parser.add_argument("--seconds", type=float, default=2.0, help="for each figure that is a rate")
    parser.add_argument("--folder", type=Path, help="where files are made, 1 GB with the defaults; a temporary one")
    parser.add_argument("--out", type=Path, help="append rows to this file, one JSON object a line")
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        for row in run_contest(
            Path(folder),
            [contender for contender in contenders() if contender.name in options.contender],
            options.measure,
            chunks=options.chunks,
            sparse_chunks=options.sparse_chunks,
            seconds=options.seconds,
        ):
            rows.append(row)
            sys.stderr.write(f"{row['contender']}, {row['measure']}: {row.get('value', row['status'])}\n")
            if options.out:
                with options.out.open("a") as file:
                    file.write(json.dumps(row) + "\n")
    sys.stdout.write(markdown(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())

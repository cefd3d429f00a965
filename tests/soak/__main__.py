"""`python -m soak --minutes 10`: attempts until the time is over; exit code 1 with a find."""

import argparse
import sys
import time

from soak.rounds import TARGETS, run_rounds


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--only", choices=[target.name for target in TARGETS], nargs="+")
    parser.add_argument("--seed", type=int, default=None, help="of the first attempt; the time of day without it")
    parser.add_argument("--attempts", type=int, default=None, help="of each target, in place of a time")
    options = parser.parse_args()
    seed = time.time_ns() % (1 << 32) if options.seed is None else options.seed
    finds = 0
    for tally in run_rounds(options.minutes * 60, seed, only=options.only, attempts=options.attempts):
        print(tally, flush=True)
        finds += len(tally.finds)
    return 1 if finds else 0


if __name__ == "__main__":
    sys.exit(main())

"""`python -m tests.hostile --inputs 50000`: changed files of every kind, with a table of what came of them."""

import argparse
import sys
from pathlib import Path

from tests.hostile.campaign import run_campaign
from tests.hostile.targets import TARGETS

# Share of the inputs of each target: those that end soon get more.
SHARES = {
    "checkpoints": 6,
    "safetensors": 6,
    "configurations": 10,
    "settings": 2,
    "processors": 6,
    "annotations": 12,
    "images": 12,
    "videos": 8,
    "repositories": 2,
}


def counts(total: int) -> dict[str, int]:
    """Number of inputs of each target, at least `total` together."""
    whole = sum(SHARES.values())
    return {name: -(-total * share // whole) for name, share in SHARES.items()}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.hostile", description=__doc__)
    parser.add_argument("--inputs", type=int, default=2000, help="number of inputs of all targets (%(default)s)")
    parser.add_argument("--targets", nargs="+", choices=sorted(TARGETS), default=list(TARGETS), metavar="TARGET")
    parser.add_argument("--seed", type=int, default=0, help="of the changes (%(default)s)")
    parser.add_argument("--keep", type=Path, help="folder for the inputs that show a defect")
    parser.add_argument("--timeout", type=float, default=60.0, help="seconds that one input may take (%(default)s)")
    args = parser.parse_args()
    total, defects = 0, 0
    for name in args.targets:
        report = run_campaign(name, counts(args.inputs)[name], args.seed, args.keep, args.timeout, print)
        print(report.line(), flush=True)
        total += report.total
        defects += len(report.defects)
    print(f"{total} inputs, {defects} defects")
    return 1 if defects else 0


if __name__ == "__main__":
    sys.exit(main())

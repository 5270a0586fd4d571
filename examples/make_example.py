"""Make the whole example again: test clips, manifest, sub-actions and checkpoint, with the documented seeds.

    python examples/make_example.py
"""

import argparse
import sys
import time
from pathlib import Path

import actions
import train_checkpoint


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description="Make clips, manifest, sub-actions and checkpoint.")
    parser.add_argument(
        "--output", type=Path, default=Path(__file__).resolve().parent, help="folder to write into (default: this one)"
    )
    parser.add_argument(
        "--steps", type=int, default=train_checkpoint.STEPS, help="training steps; fewer are quicker and worse"
    )
    return parser.parse_args(argv)


def main(argv=None):
    args = parse_args(argv)
    started = time.monotonic()
    steps = (
        (actions.main, ["--output", str(args.output)]),
        (train_checkpoint.main, ["--output", str(args.output / "checkpoint"), "--steps", str(args.steps)]),
    )
    for run, argv_of_step in steps:
        code = run(argv_of_step)
        if code:
            return code
    print(f"made in {(time.monotonic() - started) / 60:.1f} minutes", file=sys.stderr)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

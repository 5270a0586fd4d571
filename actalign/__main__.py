"""python -m actalign CLIP ...: from clips to answers; see pipeline.py."""

import signal
import sys

import actalign

if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, actalign.end_at_once)  # until console.script takes over from it

from actalign.pipeline import main  # which takes long to load

if __name__ == "__main__":
    sys.argv[0] = "actalign"  # as messages and the help name it
    sys.exit(main())

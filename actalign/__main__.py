"""python -m actalign CLIP ...: from clips to answers; see pipeline.py."""

import sys

from actalign.pipeline import main

if __name__ == "__main__":
    sys.argv[0] = "actalign"  # as messages and the help name it
    sys.exit(main())

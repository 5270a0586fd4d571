"""python -m actalign.artifacts: make artifacts of what the published scripts wrote (convert), or of shards (merge)."""

import sys

from actalign import published
from actalign.artifacts import merging

if __name__ == "__main__":
    raise SystemExit((merging if sys.argv[1:2] == ["merge"] else published).main())

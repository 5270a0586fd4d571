"""python -m actalign.artifacts convert OLD NEW: make an artifact of what the published scripts wrote."""

from actalign.published import main

if __name__ == "__main__":
    raise SystemExit(main())

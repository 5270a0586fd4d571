"""encode_videos.py in an actor, on a disk that is full for one shard while a file says so."""

import errno
from pathlib import Path

import encode_videos
from actalign.artifacts.writer import ArrayWriter


def worker(args):
    """`encode_videos.worker`, whose writes fail in the second shard where FULL lies beside the output."""
    write_rows = ArrayWriter.write_rows

    def write(writer, rows):
        if "-00001-of-" in writer.path.name and (Path(args.output).parent / "FULL").exists():
            raise OSError(errno.ENOSPC, "No space left on device", str(writer.path))
        write_rows(writer, rows)

    ArrayWriter.write_rows = write
    return encode_videos.worker(args)

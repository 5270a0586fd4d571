"""Makes one artifact of its shards, as one run would have made it.

    python -m actalign.artifacts merge video_embeddings.npy
"""

from pathlib import Path

from actalign import artifacts, console
from actalign.artifacts.shards import shards_of
from actalign.artifacts.writer import ArrayWriter
from actalign.files import begins_with


def merge(path, shards):
    """Write the artifact `path` of its shards; returns (number of samples, number of missing ones)."""
    first = artifacts.index_path(shards[0])
    kinds = (kind for kind in artifacts.MAKERS if begins_with(first, artifacts.INDEX_OF.format(kind=kind)))
    whole = artifacts.read_array(path, next(kinds, "frames"), shards)
    if not whole.items:
        raise console.StageError(f"no shard of {path} has a sample; nothing was written")
    with ArrayWriter(path, whole.kind, whole.meta, overwrite=True) as writer:
        for shard in shards:
            for entry in artifacts.MissingItems(shard):
                writer.missing.take_over(entry)
        for item in console.progress(len(whole.items), "samples", iterable=whole.items):
            rows, moved = whole.rows(item["id"]), writer.row_count - item["start"]
            artifacts.require_checksum(whole, item, artifacts.Checksum(rows))
            fields = {name: value for name, value in item.items() if name not in ("id", "start", "stop", "checksum")}
            for name in {"options", "more_options"} & item.keys():
                fields[name] = [{**option, "start": option["start"] + moved, "stop": option["stop"] + moved}
                                for option in item[name]]
            writer.append(item["id"], rows, **fields)
        return len(whole.items), len(list(writer.missing))


def parse_args(argv=None):
    parser = console.parser(__doc__)
    parser.add_argument("command", choices=["merge"])
    parser.add_argument("path", type=Path, help="NAME.npy, which is not there; its shards are NAME-*-of-00016.npy")
    console.add_overwrite_argument(parser)
    return parser.parse_args(argv)


@console.script
def main(argv=None):
    args = parse_args(argv)
    if args.path.exists() and not args.overwrite:
        raise console.InputError(f"{args.path}: is there already; move it away, or replace it with --overwrite")
    shards = shards_of(args.path, "its stage with", even_beside=True)
    if not shards:
        raise console.InputError(f"{args.path}: has no shards {args.path.stem}-*.npy beside it; give the name of what "
                                 "they are shards of")
    samples, missing = merge(args.path, shards)
    console.say(f"{samples} samples of {len(shards)} shards are merged, {missing} are missing -> {args.path}")

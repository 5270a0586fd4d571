"""Shards: NAME-00003-of-00016.npy is what the fourth of sixteen runs made of NAME.npy, of every 16th sample.

Each is an artifact of its own. Its items tell their `position` in the whole, its meta in `samples` which whole that is,
so that they can be put together again: readers take NAME-*-of-00016.npy where there is no NAME.npy.
"""

import glob
import re
from collections import defaultdict
from pathlib import Path

from actalign.console import InputError, some_of
from actalign.files import json_checksum

MOST = 99_999  # as a name can count
PARTS = re.compile(r"(?s)(.+)-(\d{5})-of-(\d{5})")  # of a shard's name: NAME, its number, and of how many
LABELS = ("model", "dataset")  # in the meta: what the settings are called on one machine


def shard(text):
    """argparse type of --shard: (3, 16) of "3/16"."""
    number, count = map(int, text.split("/"))
    if not 0 <= number < count <= MOST:
        raise ValueError(text)
    return number, count


shard.__name__ = "shard; they count from 0, so that the last of 16 is 15/16:"  # as argparse says what is none


def add_argument(parser):
    """Add the --shard flag of the stages whose work can be shared."""
    parser.add_argument("--shard", type=shard, metavar="I/N", help="do every N-th sample from the I-th on, I counts "
                        "from 0, into NAME-0000I-of-0000N.npy; all of them stand for NAME.npy")


def is_there(path):
    """Whether the array file `path` itself is there, which readers take then instead of its shards."""
    return path.exists() or path.with_suffix(".json").exists()


def shard_path(path, shard):
    """Where a shard of the array file `path` lies."""
    path = Path(path)
    return path.with_name(f"{path.stem}-{shard[0]:05d}-of-{shard[1]:05d}{path.suffix}")


def share(args, ids):
    """What --shard makes of a run over `ids`: ({id: what its item says more} of its own, what its meta says more).

    --output becomes the shard's. Raises InputError if the whole is there.
    """
    if args.shard is None:
        return {id: {} for id in ids}, {}
    if is_there(Path(args.output)):
        raise InputError(f"{args.output}: is there and is read instead of shards; move it away, or choose another "
                         "--output")
    number, count = args.shard
    args.output = str(shard_path(args.output, args.shard))
    return ({id: {"position": position} for position, id in enumerate(ids) if position % count == number},
            {"samples": json_checksum(ids)})


def counts_at(path):
    """The numbers of shards, finished or not, that an array file `path` has: a sorted list, of one if all is well."""
    path = Path(path)
    found = (PARTS.fullmatch(file.name.partition(".npy")[0]) for file in path.parent.glob(
        f"{glob.escape(path.stem)}-*-of-*.npy*"))
    return sorted({int(parts[3]) for parts in found if parts and parts[1] == path.stem})


def is_shard(path):
    """Whether an array file has the name of a shard."""
    return bool(PARTS.fullmatch(Path(path).stem))


def shards_of(path, maker, even_beside=False):
    """The paths of the shards that stand for the array file `path`, in order; none if it is there itself, or none are.

    maker: the stage to be run; even_beside: also where the file is there
    Raises InputError if one is not there, or not finished, or they are of two sets.
    """
    path, sets = Path(path), defaultdict(set)
    if path.suffix != ".npy" or (not even_beside and is_there(path)):
        return []
    for found in path.parent.glob(f"{glob.escape(path.stem)}-*-of-*.json"):
        if parts := PARTS.fullmatch(found.stem):
            sets[int(parts[3])].add(int(parts[2]))
    if len(sets) > 1:
        raise InputError(f"{path}: there are shards of {' and of '.join(map(str, sorted(sets)))}; move all but one set "
                         "away")
    for count, numbers in sets.items():
        if lacking := sorted(set(range(count)) - numbers):
            raise InputError(f"{path}: {len(lacking)} shards of {count} are not there or not finished; run {maker} "
                             f"--shard {some_of([f'{number}/{count}' for number in lacking])}")
        if foreign := sorted(numbers - set(range(count))):
            raise InputError(f"{path}: there is a shard {foreign[0]} of {count}, which count from 0; move it away")
        return [path.with_name(f"{path.stem}-{number:05d}-of-{count:05d}.npy") for number in range(count)]
    return []


def joined(path, shards, indexes):
    """The index of the whole, of the indexes of all its shards. Rows come one shard after another, items in order.

    Raises InputError if a shard is of another whole, or was made in another way.
    """
    meta, items, ids, rows = {}, [], set(), 0
    for number, (shard, index) in enumerate(zip(shards, indexes, strict=True)):
        told = {**index["meta"], **({"row": [index["dtype"], *index["shape"][1:]]} if index["items"] else {})}
        meta = {**told, **meta}
        for key in meta.keys() - LABELS if "row" in told else ("samples",):
            if told.get(key) != meta.get(key):
                what = ("it was made from another list of samples" if key == "samples" else
                        f"its {key} is {told.get(key)}, there it is {meta[key]}")
                raise InputError(f"{shard}: does not belong to {shards[0].name}, {what}; run its stage again as that "
                                 "one's was, with --overwrite")
        for item in index["items"]:
            position = item.pop("position", None)
            if type(position) is not int or position % len(shards) != number or item["id"] in ids:
                raise InputError(f"{shard}: sample {item['id']} is not one of this shard; run its stage again with "
                                 "--overwrite")
            ids.add(item["id"])
            for part in (item, *item.get("options", ()), *item.get("more_options", ())):
                part.update(start=part["start"] + rows, stop=part["stop"] + rows)
            items.append((position, item))
        rows += index["shape"][0]
    dtype, *row_shape = meta.pop("row", None) or [indexes[0]["dtype"], *indexes[0]["shape"][1:]]
    meta.pop("samples", None)
    items = [item for _, item in sorted(items, key=lambda positioned: positioned[0])]
    return {**indexes[0], "dtype": dtype, "shape": [rows, *row_shape], "meta": meta, "items": items}

"""What the stages hand to one another on disk: an array, and beside it an index that says whose rows are whose.

`NAME.npy` is one plain C-order array. `NAME.json` is its index:

    {"format": "actalign-array", "version": 3, "kind": "video_embeddings",
     "dtype": "float32", "shape": [rows, D],
     "meta": {what made the array: checkpoint, scale, bias, ...},
     "items": [{"id": "yoga-03", "start": 0, "stop": 96, "checksum": "...", ..., "metadata_checksum": "..."}, ...]}

No row belongs to two items; of items that were forgotten a gap may be left, whose rows `"gaps"` counts. Everything
joins by `id`, never by position. The checksum of an item's rows (xxh3-128) tells them from others, and they are
compared with it when they are read; its metadata_checksum (xxh3-64) does the same for all else that the item says.
What could not be made is named in `NAME.missing.json`. writer.py beside this file writes such pairs.

    python -m actalign.artifacts convert OLD NEW    makes such an artifact of what the published scripts wrote
    python -m actalign.artifacts merge NAME.npy     makes it of its shards NAME-*-of-00016.npy
"""

import hashlib
import itertools
import math
import os
import warnings
from collections import namedtuple
from pathlib import Path

import numpy as np
import xxhash

from actalign.artifacts.shards import is_shard, joined, shards_of
from actalign.console import InputError, log, some_of
from actalign.dataset import load_samples, sample_from_record
from actalign.files import Journal, begins_with, fingerprint, json_checksum, read_json, reason_of, write_json

FORMAT = "actalign-array"
VERSION, OLDEST_VERSION = 3, 2  # the items of version 2 have no metadata_checksum
INDEX_OF = rf'(?s)\s*{{{{\s*"format"\s*:\s*"{FORMAT}".*?"kind"\s*:\s*"{{kind}}"'  # how an index of a kind begins

MOST_HEADER = 10_000  # bytes of a .npy file's header, numpy's own limit
MOST_SCALE, MOST_BIAS = 50, 1e6  # of a checkpoint; SigLIP's are about 4.7 and -16.5, and exp(50) is still a fine number
LEAST_SQUARE, MOST_SQUARE = 1e-250, 1e250  # of an embedding; sums of many and their squares are fine numbers then too
FORWARD_DTYPES = ("float32", "bfloat16", "float16")
MOST_ROWS = 1 << 62  # an index may claim any number; this one still fits where row numbers are kept

# What each kind of array is called and which script makes it: the "next step" of error messages.
MAKERS = {
    "frames": "process_data.py",
    "video_embeddings": "encode_videos.py",
    "subaction_embeddings": "encode_subactions.py",
}
AXES = {"frames": 4, "video_embeddings": 2, "subaction_embeddings": 2}
FLOATS = ("float16", "float32", "float64")
DTYPES = {"frames": ("uint8",), "video_embeddings": FLOATS, "subaction_embeddings": FLOATS}

# What is asked of a clip, by the names of `Sample.record`; and by what else embeddings tell what they were made from.
QUESTION = {"domain": "domain", "cleaned_options": "list of options", "correct_answer_index": "answer"}
STATE = {"length": "number of frames", "frames_checksum": "set of frames", **QUESTION}

Checksum = xxhash.xxh3_128  # of an item's rows, which may come in any number of parts


def index_path(path):
    """The index of an array file, beside it or what that is a link to. Raises InputError unless it ends in .npy."""
    path = Path(path)
    if path.suffix != ".npy":
        raise InputError(f"{path}: an array artifact ends in .npy; choose a name such as {path.stem or 'NAME'}.npy")
    beside = path.with_suffix(".json")
    return beside if beside.exists() or not path.is_symlink() else Path(os.path.realpath(path)).with_suffix(".json")


def missing_path(path):
    """Where the items that could not be made for the output `path` are named."""
    return Path(path).with_suffix(".missing.json")


def partial_path(path):
    """Where the file `path` lies while its stage runs."""
    return path.with_name(path.name + ".partial")


def require_checksum(source, item, checksum):
    """Raise InputError if the rows that a Checksum was given are not those that were written for an index's `item`.

    source: the ArrayArtifact or ArrayWriter that they were read from
    """
    if checksum.hexdigest() != item["checksum"]:
        raise InputError(f"{source.path}: the rows of sample {item['id']} are not those that were written; it is "
                         f"damaged or was changed: restore a copy, or run {MAKERS[source.kind]} again with --overwrite")


# Reading


class ArrayArtifact:
    """An array on disk with its index. Rows are read when they are asked for; iterating gives the ids.

    path   where the array is            kind   what it is, a key of MAKERS
    shape, dtype   of the array          meta   what made it
    items  one dict a sample, in order, with `id`, `start`, `stop`, `checksum` and what the stage added
    fingerprint  a short hash of the array's content by sample: two artifacts with one fingerprint give one result
    """

    def __init__(self, path, index, files):
        self.path = Path(path)
        self.kind = index["kind"]
        self.meta = index["meta"]
        self.items = index["items"]
        self.shape, self.dtype = tuple(index["shape"]), np.dtype(index["dtype"])
        self.fingerprint = hashlib.blake2b("".join(f"{item['id']}\0{item['checksum']}\n" for item in self.items)
                                           .encode(), digest_size=8).hexdigest()
        self._files = files  # [(path, offset, first row, row after the last)]
        self._by_id = {item["id"]: item for item in self.items}

    def __contains__(self, id):
        return id in self._by_id

    def __iter__(self):
        return iter(self._by_id)

    def item(self, id):
        """The index entry of one sample; KeyError if there is none."""
        return self._by_id[id]

    def length(self, id):
        """The number of one sample's rows; KeyError if there is none."""
        item = self._by_id[id]
        return item["stop"] - item["start"]

    def frame_rate(self, id):
        """Frames a second of one sample's clip, None where the index does not tell; KeyError if there is no sample."""
        rate = self._by_id[id].get("fps")
        return rate if type(rate) in (int, float) and 0 < rate < MOST_ROWS else None

    def timestamps(self, id):
        """(T,) seconds of one sample's frames in the video, None where the index does not tell; KeyError as usual."""
        times = self._by_id[id].get("timestamps")
        return np.array(times, np.float64) if isinstance(times, list) and len(times) == self.length(id) else None

    def read(self, start, stop):
        """Rows start:stop in memory."""
        read = [read_rows(path, self.dtype, self.shape[1:], offset, max(start, first) - first, min(stop, last) - first)
                for path, offset, first, last in self._files if start < last and first < stop]
        return read[0] if len(read) == 1 else np.concatenate(read)

    def rows(self, id):
        """The rows of one sample in memory; KeyError if there is none."""
        item = self._by_id[id]
        return self.read(item["start"], item["stop"])

    def embeddings(self, id):
        """The (n, D) rows of one sample in memory.

        Raises InputError if they are not the rows that were written, a value is NaN or infinite, or a row has no
        direction that could be computed with, all zero or of numbers at the ends of float64's range.
        """
        rows = self.rows(id)
        require_checksum(self, self._by_id[id], Checksum(rows))
        squares = np.einsum("nd,nd->n", rows, rows, dtype=np.float64)
        if not ((squares > LEAST_SQUARE) & (squares < MOST_SQUARE)).all():
            problem = ("NaN or infinite embeddings" if not np.isfinite(rows).all() else
                       "an all-zero embedding" if not rows.any(axis=1).all() else
                       "numbers too large or too small for a length")
            raise InputError(f"{self.path}: {problem} in sample {id}; run {MAKERS[self.kind]} again with --overwrite "
                             "(float32 if the device is the cause)")
        return rows

    def source(self):
        """What a result says of this artifact, so that it can be traced."""
        return {"path": str(self.path), "fingerprint": self.fingerprint, **self.meta}


def read_rows(path, dtype, row_shape, offset, start, stop):
    """Rows start:stop of the array that begins at byte `offset` of a file. Raises InputError if they are gone."""
    row_size = math.prod(row_shape)  # and no map, whose pages would count as memory
    try:
        rows = np.fromfile(path, dtype, (stop - start) * row_size, offset=offset + start * row_size * dtype.itemsize)
        return rows.reshape(stop - start, *row_shape)
    except (FileNotFoundError, ValueError):
        raise InputError(f"{path}: has changed since its index was read; wait for the run that writes it") from None


def read_index(path, kind):
    """The index of an array artifact, or of its shards together, as a dict, checked by itself; no array need exist.

    Raises InputError if it is missing, foreign, of another kind or version, or contradicts itself.
    """
    shards = shards_of(path, MAKERS[kind])
    indexes = [_read_index(shard, kind) for shard in shards or [path]]
    return joined(path, shards, indexes) if shards else indexes[0]


def _read_index(path, kind):
    """The index of one array."""
    where = index_path(path)
    if not where.exists():
        raise InputError(f"{path}: {_why_no_index(Path(path), kind)}")
    index = read_json(where, f"index of {Path(path).name}")
    problem = header_problem(index, kind)
    if not problem and not (is_shard(path) and index.get("items") == [] and index["shape"][0] == 0):
        problem = items_problem(index, index.get("items"), index["shape"][0])
    if problem:
        raise InputError(f"{where}: {problem}; give the output of {MAKERS[kind]}, or run it again with --overwrite")
    return index


def _why_no_index(path, kind):
    """What is to be said of an array without an index."""
    if partial_path(index_path(path)).exists():
        return f"not finished, only {partial_path(path).name} is there; run {MAKERS[kind]} again to finish it"
    if not path.exists():
        return f"no such file; run {MAKERS[kind]} first"
    if is_published(path):
        return (f"was written by the published scripts; python -m actalign.artifacts convert {path} NEW.npy "
                "makes an artifact of it")
    return (f"its index {index_path(path).name} is missing; keep the two files together, or run {MAKERS[kind]} again "
            "with --overwrite")


def is_published(path):
    """Whether an .npy file is one of the published scripts': pickled, or of more axes than rows and features."""
    try:
        header = read_npy_header(path)
    except (ValueError, OSError):
        return False
    return header.dtype.hasobject or (header.dtype.kind == "f" and len(header.shape) in (3, 4))


def header_problem(index, kind):
    """What is wrong with an index apart from its items, or None."""
    if not isinstance(index, dict) or index.get("format") != FORMAT:
        return "is not an index of this project"
    if index.get("version") not in (OLDEST_VERSION, VERSION):
        return f"has format version {index.get('version')!r}, this program reads {OLDEST_VERSION} and {VERSION}"
    if index.get("kind") != kind:
        return f"describes {index.get('kind')!r}, expected {kind!r}"
    shape = index.get("shape")
    if not (isinstance(shape, list) and all(type(n) is int for n in shape) and len(shape) == AXES[kind]
            and shape[0] >= 0 and all(0 < n < 1 << 32 for n in shape[1:]) and (kind != "frames" or shape[3] == 3)):
        return f"has no proper shape of {kind}"
    if (index.get("dtype") not in DTYPES[kind] or not isinstance(index.get("meta"), dict)
            or type(index.get("gaps", 0)) is not int):
        return "has no proper dtype, meta or gaps"
    return None


def items_problem(header, items, rows=None):
    """What is wrong with the items of an index that has so many rows (None: any number), or None.

    Takes their metadata_checksum out of them.
    """
    if not isinstance(items, list) or not items:
        return "names no samples"
    seen, spans = set(), []
    for item in items:
        if not isinstance(item, dict) or not isinstance(item.get("id"), str):
            return "has an item without an id"
        start, stop = item.get("start"), item.get("stop")
        if type(start) is not int or type(stop) is not int or not 0 <= start < stop < MOST_ROWS:
            return f"gives sample {item['id']} the rows {start}:{stop}"
        if not isinstance(item.get("checksum"), str):
            return f"has no checksum for sample {item['id']}"
        if item["id"] in seen:
            return f"names sample {item['id']} twice"
        if header["kind"] == "subaction_embeddings" and not _options_are_sound(item):
            return f"does not tell the options of sample {item['id']} and their rows"
        told = item.pop("metadata_checksum", None)
        if told != json_checksum(item) and (told is not None or header["version"] > OLDEST_VERSION):
            return f"says of sample {item['id']} what was not written there"
        seen.add(item["id"])
        spans.append((start, stop))
    spans.sort()
    if any(start < end for (_, end), (start, _) in itertools.pairwise(spans)):
        return "gives two samples the same rows"
    used = sum(stop - start for start, stop in spans) + header.get("gaps", 0)
    return None if rows is None or used == rows >= spans[-1][1] else f"has {used} rows of {rows}"


def _options_are_sound(item):
    """Whether the options of an item have names, texts, and one row a text, without gaps."""
    keys, end = [], item["start"]
    try:
        for option in [*item["options"], *item.get("more_options", ())]:
            key, texts, start, stop = (option[name] for name in ("key", "texts", "start", "stop"))
            if not (type(texts) is list and {*map(type, [key, *texts])} == {str}
                    and type(start) is type(stop) is type(option.get("script", 0)) is int
                    and start == end and stop == end + len(texts)):
                return False
            keys, end = [*keys, (key, option.get("script", 0))], stop
    except (KeyError, TypeError):
        return False
    return end == item["stop"] and len(set(keys)) == len(keys)


NpyHeader = namedtuple("NpyHeader", "shape fortran_order dtype offset")  # offset: the byte where the content begins


def read_npy_header(path):
    """The NpyHeader of a file.

    Raises ValueError if it is no .npy file, or its content is not as long as the header says; OSError as usual.
    """
    with open(path, "rb") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numpy's advice on headers that Python 2 wrote
        try:
            version = np.lib.format.read_magic(file)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            header = NpyHeader(*read(file, max_header_size=MOST_HEADER), file.tell())
        except OSError:
            raise
        except Exception as error:  # a damaged header makes numpy's parser raise errors of every kind
            raise ValueError(f"its header cannot be read: {reason_of(error)[:200]}") from None
        size = os.fstat(file.fileno()).st_size - header.offset
    claimed = math.prod(header.shape) * header.dtype.itemsize
    if not header.dtype.hasobject and size != claimed:
        raise ValueError(f"its header says {header.dtype.name} {list(header.shape)}, {claimed} bytes, and {size} "
                         "follow")
    return header


def read_array(path, kind, shards=None):
    """The ArrayArtifact at `path`, or that of its shards, whose paths can be given.

    Raises InputError if array or index is missing, foreign or cut short, or if the two do not fit.
    """
    path, shards = Path(path), shards or shards_of(path, MAKERS[kind])
    indexes = [_read_index(shard, kind) for shard in shards or [path]]
    files, rows = [], 0
    for shard, index in zip(shards or [path], indexes, strict=True):
        files.append((shard, _require_array(shard, index), rows, rows := rows + index["shape"][0]))
    return ArrayArtifact(path, joined(path, shards, indexes) if shards else indexes[0], files)


def _require_array(path, index):
    """The byte at which an array begins. Raises InputError unless it is as its index says."""
    kind = index["kind"]
    advice = f"run {MAKERS[kind]} again with --overwrite"
    if not path.exists():
        raise InputError(f"{path}: no such file, only its index is there; {advice}")
    try:
        header = read_npy_header(path)
    except (ValueError, OSError) as error:
        raise InputError(f"{path}: is not a whole plain .npy array ({reason_of(error)}); {advice}") from None
    is_told = list(header.shape) == index["shape"] and header.dtype == np.dtype(index["dtype"])
    if not is_told or header.fortran_order:
        order = " in columns" if header.fortran_order else ""
        raise InputError(f"{path}: is {header.dtype.str} {list(header.shape)}{order}, {index_path(path).name} says "
                         f"{index['dtype']} {index['shape']}; keep the two files of one run together, or {advice}")
    return header.offset


def read_samples(path):
    """(Samples, what a result says of their source, items for `require_same_state`) of a dataset's index.

    path: of frames or of video embeddings, a .npy file, or a dataset as `load_samples` takes it
    Raises InputError as `read_index` and `load_samples` do.
    """
    if Path(path).suffix != ".npy":
        samples = load_samples(path, "test")
        items = [sample.record() for sample in samples]
        told = fingerprint(path) if Path(path).is_file() else json_checksum(items)
        return samples, {"path": str(path), "fingerprint": told}, items
    indexes = [index_path(shard) for shard in shards_of(path, "the stage") or [path]]
    where, kind = indexes[0], "video_embeddings"
    if not begins_with(where, INDEX_OF.format(kind=kind)):
        kind = "frames"
    items = read_index(path, kind)["items"]
    samples = [sample_from_record(item, where) for item in items]
    for item in items:
        item.update(length=item["stop"] - item["start"])
        if kind == "frames":
            item.update(frames_checksum=item["checksum"])
    told = [*map(fingerprint, indexes)]
    return samples, {"path": str(path), "fingerprint": told[0] if len(told) == 1 else json_checksum(told)}, items


def tell_changes(path, changes):
    """Log what of an output follows its source: {what became of samples: their ids}."""
    if said := [f"{len(ids)} samples {what} ({some_of(ids)})" for what, ids in changes.items() if ids]:
        log.info(f"{path} follows what changed: {', '.join(said)}")


def require_same_state(video, items, source, stages):
    """Raise InputError if video embeddings are of another state of the dataset than `items`, as far as both tell.

    items: dicts with an id and any of STATE    source: where they are from    stages: that bring the two to one state
    """
    for item in items:
        if (id := item["id"]) in video:
            own = {**video.item(id), "length": video.length(id)}
            for name, what in STATE.items():
                if name in own and name in item and own[name] != item[name]:
                    raise InputError(f"{video.path}: sample {id} has another {what} in {source}; run {stages} again, "
                                     "or convert what the published scripts wrote with --subactions of its own run")


def require_checkpoint(artifact):
    """Raise InputError unless an embedding artifact tells the checkpoint that made it, and its scale and bias."""
    meta = artifact.meta
    scale, bias = meta.get("logit_scale"), meta.get("logit_bias")
    if not (type(scale) in (int, float) and abs(scale) <= MOST_SCALE and type(bias) in (int, float)
            and abs(bias) <= MOST_BIAS and meta.get("dtype", "float32") in FORWARD_DTYPES
            and isinstance(meta.get("checkpoint"), str) and isinstance(meta.get("model", ""), str)):
        raise InputError(f"{artifact.path}: its index tells of no checkpoint with logit_scale and logit_bias "
                         f"({scale}, {bias}); run {MAKERS[artifact.kind]} again with --overwrite")


def require_same_checkpoint(a, b):
    """Raise InputError unless two embedding artifacts come from one checkpoint."""
    for artifact in (a, b):
        require_checkpoint(artifact)
    told = [{**artifact.meta, "features a row:": artifact.shape[1]} for artifact in (a, b)]
    for key in ("checkpoint", "logit_scale", "logit_bias", "features a row:"):
        if told[0][key] != told[1][key]:
            raise InputError(
                f"{a.path} was made with {a.meta.get('model')} and {b.path} with {b.meta.get('model')}, two different "
                f"checkpoints ({key} {told[0][key]} and {told[1][key]}); encode both with the same --model")


def require_made_with(artifact, checkpoint, flag="--model"):
    """Raise InputError unless embeddings were made with this Checkpoint."""
    if artifact.meta.get("checkpoint") != checkpoint.fingerprint:
        raise InputError(f"{artifact.path}: was made with another checkpoint ({artifact.meta.get('model')}) than "
                         f"{checkpoint.name}; give that one as {flag}")


class MissingItems:
    """NAME.missing.json: the items that could not be made, why, and whether another try can help.

    done: ids that are there by now and so are missing no longer.
    Raises InputError if the file is there and is no such list.
    """

    def __init__(self, path, done=()):
        self.path = missing_path(path)
        self._journal = Journal(partial_path(self.path), "remove the file")  # of what was added and not saved
        self._saved = read_json(self.path, "list of missing items") if self.path.exists() else []
        entries = [*self._saved, *self._journal.read()] if isinstance(self._saved, list) else [None]
        if not all(isinstance(entry, dict) and isinstance(entry.get("id"), str) and {"reason", "retry"} <= entry.keys()
                   for entry in entries):
            raise InputError(f"{self.path}: is no list of missing items of this project; move it away")
        self._entries = {entry["id"]: entry for entry in entries if entry["id"] not in done}
        self._made_from = {}

    def follow(self, source, made_from=()):
        """Forget the items that `source`, {id: fields}, lacks, or of which a field in `made_from` has changed since."""
        self._made_from = {id: {name: fields[name] for name in made_from if name in fields}
                           for id, fields in source.items()}
        self._entries = {id: entry for id, entry in self._entries.items() if id in source
                         and entry.get("made_from", self._made_from[id]) == self._made_from[id]}

    def __iter__(self):
        return iter(self._entries.values())

    def is_final(self, id):
        """Whether an item is named here and another try cannot help."""
        return id in self._entries and not self._entries[id]["retry"]

    def add(self, id, reason, retry):
        """Name an item; `retry` tells whether running again may help."""
        made_from = {"made_from": self._made_from[id]} if self._made_from.get(id) else {}
        self.take_over({"id": id, "reason": str(reason), "retry": bool(retry), **made_from})

    def take_over(self, entry):
        """Name an item as another such file names it."""
        self._entries[entry["id"]] = entry
        self._journal.append(entry)

    def drop(self, id):
        """Forget an item that is there now."""
        self._entries.pop(id, None)

    def save(self):
        """Have the file say what is missing; without such items there is no file."""
        entries = list(self._entries.values())
        if not entries:
            self.path.unlink(missing_ok=True)
        elif entries != self._saved:
            write_json(self.path, entries, indent=True)
        self._saved = entries
        self._journal.remove()

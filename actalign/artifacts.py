"""What the stages hand to one another on disk: an array, and beside it an index that says whose rows are whose.

`NAME.npy` is one plain C-order array. `NAME.json` is its index:

    {"format": "actalign-array", "version": 1, "kind": "video_embeddings",
     "dtype": "float32", "shape": [rows, D],
     "meta": {what made the array: checkpoint, scale, bias, ...},
     "items": [{"id": "yoga-03", "start": 0, "stop": 96, "digest": "...", "check": 123, ...}, ...]}

Rows of the items follow one another without gaps. Everything joins by `id`, never by position. The digest of an item's
rows stands for them wherever two runs or files are compared; `check` is what they are checked by when they are read,
the CRC-32 of the rows XOR that of the digest's text, so that neither changes unnoticed. Where an index has no `check`,
the digest is.

While a stage runs, rows go to `NAME.npy.partial` and the committed items to `NAME.json.partial`, a journal with one
line an item. An item is committed once its rows and then its line are on the disk, so a killed run loses at most the
item in hand. Finishing renames both. What could not be made is named in `NAME.missing.json`.

    python -m actalign.artifacts convert OLD NEW    makes such an artifact of what the published scripts wrote
"""

import contextlib
import hashlib
import io
import math
import os
import sys
import zlib
from array import array
from pathlib import Path

import numpy as np

from actalign.console import InputError
from actalign.dataset import sample_from_record
from actalign.files import Journal, Lock, fingerprint, read_json, reason_of, sync, write_json, write_json_items
from actalign.json_items import JsonItems
from actalign.npy import read_header

FORMAT = "actalign-array"
VERSION = 1

BYTES_AT_ONCE = 1 << 26  # of rows that are read back
MOST_SCALE, MOST_BIAS = 50, 1e6  # of a checkpoint; SigLIP's are about 4.7 and -16.5, and exp(50) is still a fine number
LEAST_SQUARE, MOST_SQUARE = 1e-250, 1e250  # of an embedding; sums of many and their squares are fine numbers then too
FORWARD_DTYPES = ("float32", "bfloat16", "float16")

MOST_ROWS = 1 << 62  # an index may claim any number; this one still fits where row numbers are kept
DTYPES = ("uint8", "float16", "float32", "float64")

# What each kind of array is called by default and which script makes it: the "next step" of error messages.
MAKERS = {
    "frames": "process_data.py",
    "video_embeddings": "encode_videos.py",
    "subaction_embeddings": "encode_subactions.py",
}


def index_path(path):
    """The index that belongs to the array file `path`."""
    return _array_path(path).with_suffix(".json")


def missing_path(path):
    """Where the items that could not be made for the output `path` are named."""
    return Path(path).with_suffix(".missing.json")


def _array_path(path):
    path = Path(path)
    if path.suffix != ".npy":
        raise InputError(f"{path}: an array artifact ends in .npy; choose a name such as {path.stem or 'NAME'}.npy")
    return path


def _partial(path):
    return path.with_name(path.name + ".partial")


# Reading arrays


class ArrayArtifact:
    """An array on disk with its index, mapped, never loaded whole.

    path   where the array is            kind   what it is, a key of MAKERS
    array  (rows, ...) memory map        meta   what made it
    items  one dict a sample, in order, with `id`, `start`, `stop`, `digest`, `check` and what the stage added
    fingerprint  a short hash of the array's content by sample: two artifacts with one fingerprint give one result

    Items and rows are copied from their files when they are asked for, so that memory grows neither with the number
    of samples nor with what was read before, as the resident part of a map does.
    """

    def __init__(self, path, index, array):
        self.path = Path(path)
        self.kind = index.header["kind"]
        self.meta = index.header["meta"]
        self.items = index.items
        self.array = array
        self.fingerprint = index.fingerprint
        self._numbers = index.numbers
        self._stops = index.stops
        self._rates = index.rates
        self._crcs = index.crcs

    def __contains__(self, id):
        return id in self._numbers

    def __iter__(self):
        """The ids, in order."""
        return iter(self._numbers)

    def item(self, id):
        """The index entry of one sample; KeyError if there is none."""
        return self.items[self._numbers[id]]

    def row_range(self, id):
        """(start, stop) of one sample's rows; KeyError if there is none."""
        number = self._numbers[id]
        return self._stops[number - 1] if number else 0, self._stops[number]

    def length(self, id):
        """The number of one sample's rows; KeyError if there is none."""
        start, stop = self.row_range(id)
        return stop - start

    def frame_rate(self, id):
        """Frames a second of one sample's clip, None where the index does not tell; KeyError if there is no sample."""
        return self._rates[self._numbers[id]] or None

    def read(self, start, stop):
        """Rows start:stop in memory."""
        return _read_rows(self.path, self.array.dtype, self.array.shape[1:], self.array.offset, start, stop)

    def rows(self, id):
        """The rows of one sample in memory; KeyError if there is none."""
        return self.read(*self.row_range(id))

    def embeddings(self, id):
        """The (n, D) rows of one sample in memory.

        Raises InputError if they are not the rows that were written, a value is NaN or infinite, or a row has no
        direction that could be computed with, all zero or of numbers at the ends of float64's range.
        """
        rows = self.rows(id)
        crc = self._crcs[self._numbers[id]]
        check = RowsCheck(id, crc, None) if crc >= 0 else RowsCheck.of(self.item(id))
        check.update(rows)
        require_as_written(self, check)
        with np.errstate(all="ignore"):
            # One pass over the rows in their own dtype; what it leaves open is looked at closely.
            squares = np.einsum("nd,nd->n", rows, rows).astype(np.float64)
        if not _have_lengths(squares):
            self._require_directions(rows, id)
        return rows

    def _require_directions(self, rows, id):
        if not np.isfinite(rows).all():
            raise InputError(f"{self.path}: NaN or infinite embeddings in sample {id}; "
                             f"run {MAKERS[self.kind]} again with --overwrite (float32 if the device is the cause)")
        if not rows.any(axis=1).all():
            raise InputError(f"{self.path}: an all-zero embedding in sample {id}; "
                             f"run {MAKERS[self.kind]} again with --overwrite")
        with np.errstate(all="ignore"):
            squares = np.square(rows, dtype=np.float64).sum(axis=1)
        if not _have_lengths(squares):
            raise InputError(f"{self.path}: sample {id} has numbers too large or too small for a length; "
                             f"run {MAKERS[self.kind]} again with --overwrite")

    def source(self):
        """What a result says of this artifact, so that it can be traced."""
        return {"path": str(self.path), "fingerprint": self.fingerprint, **self.meta}


def _have_lengths(squares):
    """Whether all of some squared lengths are such that can be computed with."""
    return ((squares > LEAST_SQUARE) & (squares < MOST_SQUARE)).all()


class Index:
    """An index file that was read through and checked; its items stay in the file until they are asked for.

    header  all but the items           items  JsonItems
    numbers  {id: number of the item}   stops  where the rows of each item end; they begin where those before it end
    rates    frames a second of each item's clip, 0 where it does not tell
    crcs     the CRC-32 of each item's rows by its `check` and digest, -1 where it has no `check`
    problem  what is wrong with it, or None
    """

    def __init__(self, path, kind):
        self.items = JsonItems(path, f"index of {path.with_suffix('.npy').name}", "items")
        self.numbers, self.stops, self.rates, self.crcs = {}, array("q"), array("d"), array("q")
        state = hashlib.blake2b(digest_size=8)
        problem = None
        for item in self.items:
            problem = problem or _item_problem(item, kind, self.numbers, self.stops[-1] if self.stops else 0)
            if not problem:
                self.numbers[sys.intern(item["id"])] = len(self.numbers)
                self.stops.append(item["stop"])
                self.rates.append(_rate_of(item))
                self.crcs.append(crc_of(item))
                state.update(fingerprint_line(item))
        self.header = self.items.header
        self.fingerprint = state.hexdigest()
        self.problem = _header_problem(self.header, kind) or problem or self._end_problem()

    def _end_problem(self):
        if not self.numbers:
            return "names no samples"
        end, rows = self.stops[-1], self.header["shape"][0]
        return None if end == rows else f"ends at row {end} of {rows}"


def fingerprint_line(item):
    """What an item adds to the fingerprint of its artifact: bytes."""
    return f"{item['id']}\0{item['digest']}\n".encode()


def read_index(path, kind):
    """The index of an array artifact as a dict, checked by itself; the array need not exist.

    Raises InputError if it is missing, foreign, of another kind or version, or contradicts itself.
    """
    index = _open_index(path, kind)
    return {**index.header, "items": list(index.items)}


def _open_index(path, kind):
    path = _array_path(path)
    where = index_path(path)
    if not where.exists():
        if _partial(where).exists():
            raise InputError(f"{path}: not finished, only {_partial(path).name} is there; "
                             f"run {MAKERS[kind]} again to finish it")
        if _is_published(path):
            raise InputError(f"{path}: was written by the published scripts; python -m actalign.artifacts convert "
                             f"{path} NEW.npy makes an artifact of it")
        if path.exists():
            raise InputError(f"{path}: its index {where.name} is missing; keep the two files together, "
                             f"or run {MAKERS[kind]} again with --overwrite")
        raise InputError(f"{path}: no such file; run {MAKERS[kind]} first")
    index = Index(where, kind)
    if index.problem:
        raise InputError(f"{where}: {index.problem}; give the output of {MAKERS[kind]}, or run it again with "
                         "--overwrite")
    return index


def _header_problem(index, kind):
    """What is wrong with an index apart from its items, or None."""
    if not isinstance(index, dict) or index.get("format") != FORMAT:
        return "is not an index of this project"
    if index.get("version") != VERSION:
        return f"has format version {index.get('version')!r}, this program reads {VERSION}"
    if index.get("kind") != kind:
        return f"describes {index.get('kind')!r}, expected {kind!r}"
    shape = index.get("shape")
    if not (isinstance(shape, list) and 0 < len(shape) < 5 and all(type(n) is int for n in shape)
            and shape[0] >= 0 and all(0 < n < 1 << 32 for n in shape[1:])):
        return "has no proper shape"
    if index.get("dtype") not in DTYPES or not isinstance(index.get("meta"), dict):
        return "has no proper dtype or meta"
    return None


def _item_problem(item, kind, seen, end):
    """What is wrong with an item that follows those with the ids `seen`, whose rows end at `end`; or None."""
    if not isinstance(item, dict) or not isinstance(item.get("id"), str):
        return "has an item without an id"
    start, stop = item.get("start"), item.get("stop")
    if type(start) is not int or type(stop) is not int or start != end or not start < stop < MOST_ROWS:
        return f"gives sample {item['id']} the rows {start}:{stop}, which do not follow row {end}"
    if not isinstance(item.get("digest"), str):
        return f"has no digest for sample {item['id']}"
    check = item.get("check", 0)
    if type(check) is not int or not 0 <= check < 1 << 32:
        return f"has no proper check for sample {item['id']}"
    if item["id"] in seen:
        return f"names sample {item['id']} twice"
    if kind == "subaction_embeddings" and not _options_are_sound(item):
        return f"does not tell the options of sample {item['id']} and their rows"
    return None


def _rate_of(item):
    rate = item.get("fps")
    return float(rate) if type(rate) in (int, float) and 0 < rate < MOST_ROWS else 0.0


def _options_are_sound(item):
    """Whether the options of an item have names, texts, and one row a text, without gaps."""
    options, end = item.get("options"), item["start"]
    if not isinstance(options, list):
        return False
    for option in options:
        fields = option if isinstance(option, dict) else {}
        key, texts, start, stop = map(fields.get, ("key", "texts", "start", "stop"))
        if not (isinstance(key, str) and isinstance(texts, list) and all(isinstance(text, str) for text in texts)
                and type(start) is type(stop) is int and start == end and stop == end + len(texts)):
            return False
        end = stop
    return end == item["stop"] and len({option["key"] for option in options}) == len(options)


def read_array(path, kind, same_run=None):
    """The array artifact at `path`, mapped.

    same_run: the file that tells the order of the samples if the array is one of the published scripts'
    Raises InputError if array or index is missing, foreign or cut short, or if the two do not fit.
    """
    if kind != "frames" and _is_published(path):
        from actalign.published import read_embeddings

        return read_embeddings(path, kind, same_run)
    index = _open_index(path, kind)
    path, header = _array_path(path), index.header
    advice = f"run {MAKERS[kind]} again with --overwrite"
    array = _map_array(path, kind, advice)
    if list(array.shape) != header["shape"] or array.dtype.name != header["dtype"]:
        raise InputError(f"{path}: is {array.dtype.name} {list(array.shape)}, its index {index_path(path).name} says "
                         f"{header['dtype']} {header['shape']}; keep the two files of one run together, or {advice}")
    if kind != "frames" and (array.ndim != 2 or array.dtype.kind != "f"):
        raise InputError(f"{path}: is {array.dtype.name} {list(array.shape)}, expected float rows (rows, D); {advice}")
    if kind == "frames" and (array.ndim != 4 or array.shape[3] != 3 or array.dtype != np.uint8):
        raise InputError(f"{path}: is {array.dtype.name} {list(array.shape)}, expected uint8 (frames, H, W, 3); "
                         f"{advice}")
    return ArrayArtifact(path, index, array)


def read_samples(path):
    """(samples, source) of a dataset's index: a list of Sample, and what a result says of it so that it can be traced.

    Raises InputError as `read_index` does.
    """
    if _is_published(path):
        from actalign.published import dataset_samples

        return dataset_samples(path)
    where = index_path(path)
    samples = [sample_from_record(item, where) for item in read_index(path, "frames")["items"]]
    return samples, {"path": str(path), "fingerprint": fingerprint(where)}


def _is_published(path):
    """Whether a file is an array of the published scripts: it has no index."""
    if index_path(path).exists() or not Path(path).exists():
        return False
    from actalign.published import is_published

    return is_published(path)


def _map_array(path, kind, advice):
    if not path.exists():
        raise InputError(f"{path}: no such file, only its index is there; {advice}")
    try:
        header = read_header(path)
        if header.is_pickled:
            raise ValueError("it holds pickled objects")
        if 0 in header.shape or not header.shape:
            raise ValueError("it has no rows")
        array = np.memmap(path, header.dtype, "r", header.offset, header.shape, "F" if header.fortran_order else "C")
    except (ValueError, OSError) as error:
        raise InputError(f"{path}: is not a whole plain .npy array ({reason_of(error)}); {advice}") from None
    if not array.flags.c_contiguous:
        raise InputError(f"{path}: is not one plain C-order array; {advice}")
    return array


def take_checkpoint(arrays, model=None, trust_pickle_weights=False):
    """Have embeddings of the published scripts, which carry no scale and bias, take those of a checkpoint.

    Raises InputError if it cannot be read, or if other embeddings were made with another one than `model`.
    """
    if model is not None or any(array.meta.get("made_by") and "checkpoint" not in array.meta for array in arrays):
        from actalign import published

        published.take_checkpoint(arrays, model, trust_pickle_weights)


def require_checkpoint(artifact):
    """Raise InputError unless an embedding artifact tells the checkpoint that made it, and its scale and bias."""
    meta = artifact.meta
    numbers = [meta.get(key) for key in ("logit_scale", "logit_bias")]
    names = [meta.get("checkpoint"), meta.get("dtype", "float32")]
    if not (all(type(number) in (int, float) for number in numbers) and all(isinstance(name, str) for name in names)
            and isinstance(meta.get("model", ""), str)):
        raise InputError(f"{artifact.path}: its index does not tell the checkpoint's logit_scale and logit_bias; "
                         f"run {MAKERS[artifact.kind]} again with --overwrite")
    if not (abs(numbers[0]) <= MOST_SCALE and abs(numbers[1]) <= MOST_BIAS and names[1] in FORWARD_DTYPES):
        raise InputError(f"{artifact.path}: its index tells of logit_scale {numbers[0]}, logit_bias {numbers[1]} and "
                         f"dtype {names[1]}, which no checkpoint has; run {MAKERS[artifact.kind]} again")


def require_same_checkpoint(a, b):
    """Raise InputError unless two embedding artifacts come from one checkpoint."""
    for artifact in (a, b):
        require_checkpoint(artifact)
    for key in ("checkpoint", "logit_scale", "logit_bias"):
        if a.meta.get(key) != b.meta.get(key):
            raise InputError(
                f"{a.path} was made with {a.meta.get('model')} and {b.path} with {b.meta.get('model')}, two different "
                f"checkpoints ({key} {a.meta.get(key)} and {b.meta.get(key)}); encode both with the same --model")
    if a.array.shape[1] != b.array.shape[1]:
        raise InputError(f"{a.path} has {a.array.shape[1]} features a row and {b.path} {b.array.shape[1]}; "
                         "encode both with the same --model")


# Writing arrays


class ArrayWriter:
    """Writes an array artifact item by item, resumably.

        with ArrayWriter("video_embeddings.npy", "video_embeddings", {"checkpoint": fingerprint}) as writer:
            if id not in writer:
                writer.append(id, rows, fps=25.0)

    Opening looks for what earlier runs left, finished or not: their items are in `writer.items` and are not written
    again. Leaving the block finishes the artifact; leaving it by an exception keeps what is committed for the next run.

    settings  what decides the rows; notes  what is worth knowing besides. Both become the index's `meta`.
    Raises InputError if earlier runs had other settings (unless `overwrite`), if another run writes to the same
    output, or if the output's index would replace a foreign file.
    """

    def __init__(self, path, kind, settings, notes=None, overwrite=False):
        self.path = _array_path(path)
        self.kind = kind
        self.meta = {**settings, **(notes or {})}
        self._settings = settings
        self.items = {}
        self._index_path = index_path(path)
        self._partial_path = _partial(self.path)
        self._journal = Journal(_partial(self._index_path))
        self._file = None  # open while rows are being written
        self._rows_path = None  # where the committed rows are: NAME.npy.partial, the finished NAME.npy, or nowhere yet
        self._dtype = self._row_shape = self._header_size = None
        self._was_finished = False
        self._abandoned = False
        self._lock = Lock(self.path)
        try:
            self._refuse_foreign_index()
            if not overwrite:
                self._find_earlier()
            self.missing = MissingItems(path, self.items)
        except BaseException:
            self._lock.release()
            raise

    def __contains__(self, id):
        return id in self.items

    @contextlib.contextmanager
    def item(self, id):
        """One item, in as many chunks of rows as it takes; committed when the block ends, forgotten if it raises.

            with writer.item(id) as item:
                for frame in frames:
                    item.write(frame[None])
                item.fields["fps"] = fps
        """
        if id in self.items:
            raise ValueError(f"item {id} is committed already")
        item = _ItemInHand(self)
        try:
            yield item
            if item.rows == 0:
                raise ValueError(f"item {id} has no rows")
            sync(self._file)
            entry = {"id": id, "start": self.row_count, "stop": self.row_count + item.rows,
                     **item.checksums.fields(), **item.fields}
            self._journal.append(entry)
        except BaseException:
            self._roll_back()
            raise
        self.items[id] = entry
        self.missing.drop(id)

    def leave_unfinished(self):
        """Change nothing when the block ends: what earlier runs left stays as it is."""
        self._abandoned = True

    def append(self, id, rows, **fields):
        """Commit one item whose rows (n, ...) are at hand."""
        with self.item(id) as item:
            item.write(rows)
            item.fields.update(fields)

    def read(self, start, stop):
        """Committed rows start:stop, read back from the disk."""
        return _read_rows(self._rows_path, self._dtype, self._row_shape, self._header_size, start, stop)

    def __enter__(self):
        return self

    def __exit__(self, exception_type, exception, traceback):
        try:
            if not self._abandoned and (exception_type is None or self._was_finished):
                self._finish()
        except OSError:
            if exception_type is None:
                raise
        finally:
            self._journal.close()
            self._close_rows()
            self._lock.release()

    @property
    def row_count(self):
        """The number of committed rows, where the next item will start."""
        return next(reversed(self.items.values()))["stop"] if self.items else 0

    @property
    def _row_bytes(self):
        return math.prod(self._row_shape) * self._dtype.itemsize

    # what earlier runs left

    def _refuse_foreign_index(self):
        if not self._index_path.exists():
            return
        try:
            index = read_json(self._index_path)
        except InputError:
            index = None
        if not isinstance(index, dict) or index.get("format") != FORMAT:
            raise InputError(f"{self._index_path}: is there and is no index of this project, so the index of "
                             f"{self.path.name} would replace it; move it away or choose another --output")
        if index.get("kind") != self.kind:
            raise InputError(f"{self.path}: holds {index.get('kind')!r}, not {self.kind!r}; choose another --output")

    def _find_earlier(self):
        """Take over what earlier runs left.

        A journal's rows are in the partial file, or in the finished one where a run was killed between renaming that
        and what goes with it; their checksums tell. A journal without its rows is worth nothing.
        """
        lines = self._journal.read()
        header, items = (lines[0], lines[1:]) if lines else (None, [])
        if lines:
            self._require_sound(header, items)
        if items:
            self._describe(header["dtype"], header["shape"][1:])
            kept = self._whole_items(self._partial_path, items)
            if kept:
                if len(kept) < len(items):
                    self._journal.replace([header, *kept])
                self._take_over(header["meta"], kept, self._partial_path)
                return
            if self._whole_items(self.path, items) == items and _size(self.path) == self._end_of(items[-1]["stop"]):
                self._take_over(header["meta"], items, self.path)
                self._write_index()
                self._discard_partial()
                self._was_finished = True
                return
        if self.path.exists() and not self._index_path.exists():
            raise InputError(f"{self.path}: its index {self._index_path.name} is missing; choose another --output, or "
                             "start over with --overwrite")
        if self._index_path.exists():
            artifact = read_array(self.path, self.kind)
            self._describe(artifact.array.dtype.name, artifact.array.shape[1:])
            if artifact.array.dtype != self._dtype or _size(self.path) != self._end_of(len(artifact.array)):
                raise InputError(f"{self.path}: was saved by another program; choose another --output, or start over "
                                 "with --overwrite")
            self._take_over(artifact.meta, artifact.items, self.path)
            self._was_finished = True
        else:
            self._dtype = None  # nothing committed, nothing to agree with

    def _require_sound(self, header, items):
        problem, seen, end = _header_problem(header, self.kind), set(), 0
        for item in items:
            problem = problem or _item_problem(item, self.kind, seen, end)
            if not problem:
                seen.add(item["id"])
                end = item["stop"]
        if problem:
            raise InputError(f"{self._journal.path}: {problem}; remove it or start over with --overwrite")

    def _whole_items(self, path, items):
        """The first of `items` whose rows are all in the file; none where the file holds other rows."""
        there = (_size(path) - self._header_size) // self._row_bytes
        kept = [item for item in items if item["stop"] <= there]
        while kept and not self._holds(path, kept[-1]):
            kept.pop()
        return kept if kept and self._holds(path, kept[0]) else []

    def _holds(self, path, item):
        check = RowsCheck.of(item)
        step = max(BYTES_AT_ONCE // self._row_bytes, 1)
        for start in range(item["start"], item["stop"], step):
            check.update(_read_rows(path, self._dtype, self._row_shape, self._header_size, start,
                                    min(start + step, item["stop"])))
        return check.passes()

    def _take_over(self, meta, items, rows_path):
        for key, value in self._settings.items():
            if meta.get(key) != value:
                raise InputError(f"{self.path}: was begun with {key} {meta.get(key)}, this run has {value}; run with "
                                 "the same settings, choose another --output, or start over with --overwrite")
        self.items = {item["id"]: item for item in items}
        self._rows_path = rows_path

    def _discard_partial(self):
        self._journal.remove()
        self._partial_path.unlink(missing_ok=True)

    # the files

    def _describe(self, dtype, row_shape):
        self._dtype, self._row_shape = np.dtype(dtype), tuple(row_shape)
        self._header_size = len(_npy_header(self._dtype, (0, *self._row_shape)))

    def _end_of(self, rows):
        """The size of a file with so many rows."""
        return self._header_size + rows * self._row_bytes

    def _header(self, rows):
        return {"format": FORMAT, "version": VERSION, "kind": self.kind, "dtype": self._dtype.name,
                "shape": [rows, *self._row_shape], "meta": self.meta}

    def _begin(self, rows):
        """Open the partial files for appending rows such as these."""
        if self._rows_path is None:
            self._discard_partial()
            self._describe(rows.dtype, rows.shape[1:])
            with open(self._partial_path, "wb") as file:
                file.write(_npy_header(self._dtype, (0, *self._row_shape)))
            self._journal.replace([self._header(0)])
            self._rows_path = self._partial_path
        elif self._rows_path == self.path:
            self._journal.replace([self._header(0), *self.items.values()])
            os.replace(self.path, self._partial_path)
            self._rows_path = self._partial_path
            self._index_path.unlink(missing_ok=True)
        self._file = open(self._partial_path, "r+b")
        self._file.truncate(self._end_of(self.row_count))
        self._file.seek(0, os.SEEK_END)

    def _write(self, rows):
        if self._file is None:
            self._begin(rows)
        if rows.dtype != self._dtype or rows.shape[1:] != self._row_shape:
            raise InputError(f"{self.path}: has rows {self._dtype.name} {self._row_shape}, these are {rows.dtype.name} "
                             f"{rows.shape[1:]}; run with the same settings or start over with --overwrite")
        self._file.write(rows.data.cast("B"))

    def _roll_back(self):
        """Cut off what was written after the last committed item."""
        if self._file is not None:
            self._close_rows()
            os.truncate(self._partial_path, self._end_of(self.row_count))

    def _close_rows(self):
        if self._file is not None:
            with contextlib.suppress(OSError):  # a full disk does not take buffered rows; they were not committed
                self._file.close()
            self._file = None

    def _finish(self):
        """Make the committed items the finished artifact."""
        self._close_rows()
        self.missing.save()
        if not self.items:
            self._discard_partial()
        elif self._rows_path == self._partial_path:
            self._patch_header()
            self._index_path.unlink(missing_ok=True)  # an old index must never stand beside the new array
            os.replace(self._partial_path, self.path)
            self._rows_path = self.path
            self._write_index()
            self._journal.remove()
        elif self.path.exists():
            self._discard_partial()  # what a killed --overwrite left

    def _write_index(self):
        write_json_items(self._index_path, self._header(self.row_count), "items", self.items.values())

    def _patch_header(self):
        with open(self._partial_path, "r+b") as file:
            file.truncate(self._end_of(self.row_count))
            file.write(_npy_header(self._dtype, (self.row_count, *self._row_shape)))
            sync(file)


class _ItemInHand:
    """The rows of an item that is being written."""

    def __init__(self, writer):
        self._writer = writer
        self.rows = 0
        self.fields = {}
        self.checksums = Checksums()

    def write(self, rows):
        """Add rows (n, ...) of the artifact's dtype and row shape."""
        rows = np.ascontiguousarray(rows)
        if len(rows):
            self._writer._write(rows)
            self.checksums.update(rows)
            self.rows += len(rows)


class MissingItems:
    """NAME.missing.json: the items that could not be made, why, and whether another try can help.

    done: ids that are there by now and so are missing no longer.
    Raises InputError if the file is there and is no such list.
    """

    def __init__(self, path, done=()):
        self.path = missing_path(path)
        entries = read_json(self.path, "list of missing items") if self.path.exists() else []
        if not isinstance(entries, list) or not all(
                isinstance(entry, dict) and isinstance(entry.get("id"), str) and {"reason", "retry"} <= entry.keys()
                for entry in entries):
            raise InputError(f"{self.path}: is no list of missing items of this project; move it away")
        self._entries = {entry["id"]: entry for entry in entries if entry["id"] not in done}
        self._saved = entries

    def __contains__(self, id):
        return id in self._entries

    def __len__(self):
        return len(self._entries)

    def is_final(self, id):
        """Whether an item is named here and another try cannot help."""
        return id in self._entries and not self._entries[id]["retry"]

    def add(self, id, reason, retry):
        """Name an item; `retry` tells whether running again may help."""
        self._entries[id] = {"id": id, "reason": str(reason), "retry": bool(retry)}
        self.save()

    def drop(self, id):
        """Forget an item that is there now."""
        if self._entries.pop(id, None):
            self.save()

    def save(self):
        """Have the file say what is missing; without such items there is no file."""
        entries = list(self._entries.values())
        if entries == self._saved:
            return
        if entries:
            write_json(self.path, entries, indent=1)
        else:
            self.path.unlink(missing_ok=True)
        self._saved = entries


def _npy_header(dtype, shape):
    """The header of a .npy file; numpy pads it so that its length does not depend on the number of rows."""
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        buffer, {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape})
    return buffer.getvalue()


# Telling an item's rows from others


class Checksums:
    """The checksums of an item's rows, which are given in any number of parts (n, ...)."""

    KEYS = ("digest", "check")  # in the index

    def __init__(self):
        self._digest = hashlib.blake2b(digest_size=16)
        self._crc = 0

    def update(self, rows):
        """Take the next rows."""
        content = np.ascontiguousarray(rows).data.cast("B")
        self._digest.update(content)
        self._crc = zlib.crc32(content, self._crc)

    def fields(self):
        """What the index says of the rows: {key: checksum}."""
        digest = self._digest.hexdigest()
        return {"digest": digest, "check": self._crc ^ zlib.crc32(digest.encode())}


class RowsCheck:
    """Whether the rows of the item `id`, given in any number of parts, are those that were written.

    crc: their CRC-32, or -1; then their digest is compared, which takes four times as long.
    """

    def __init__(self, id, crc, digest):
        self.id = id
        self._expected = digest if crc < 0 else crc
        self._crc, self._digest = 0, hashlib.blake2b(digest_size=16) if crc < 0 else None

    @classmethod
    def of(cls, item):
        """The RowsCheck of an item of an index."""
        return cls(item["id"], crc_of(item), item["digest"])

    def update(self, rows):
        """Take the next rows."""
        content = np.ascontiguousarray(rows).data.cast("B")
        if self._digest is None:
            self._crc = zlib.crc32(content, self._crc)
        else:
            self._digest.update(content)

    def passes(self):
        """Whether these were all the rows, unchanged."""
        return self._expected == (self._crc if self._digest is None else self._digest.hexdigest())


def require_as_written(source, check):
    """Raise InputError if the rows that a RowsCheck was given are not those that were written.

    source: the ArrayArtifact or ArrayWriter that they were read from
    """
    if not check.passes():
        raise InputError(f"{source.path}: the rows of sample {check.id} are not those that were written; it is damaged "
                         f"or was changed: restore a copy, or run {MAKERS[source.kind]} again with --overwrite")


def crc_of(item):
    """The CRC-32 of an item's rows by its `check` and digest, -1 where it has no `check`."""
    return item["check"] ^ zlib.crc32(item["digest"].encode()) if "check" in item else -1


def _size(path):
    return path.stat().st_size if path.exists() else 0


def _read_rows(path, dtype, row_shape, header_size, start, stop):
    row_size = math.prod(row_shape)
    offset = header_size + start * row_size * dtype.itemsize
    rows = np.fromfile(path, dtype, count=(stop - start) * row_size, offset=offset)
    return rows.reshape(stop - start, *row_shape)


if __name__ == "__main__":
    from actalign.published import main

    raise SystemExit(main())

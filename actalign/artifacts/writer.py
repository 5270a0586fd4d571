"""Array artifacts written item by item, so that a killed run loses at most the item in hand.

While a stage runs, rows go to `NAME.npy.partial` and the committed items to `NAME.json.partial`, a journal with one
line an item. An item is committed once its rows and then its line are on the disk. Finishing renames both.
"""

import contextlib
import io
import math
import os
from pathlib import Path

import numpy as np

from actalign.artifacts import (
    AXES,
    DTYPES,
    FORMAT,
    INDEX_OF,
    VERSION,
    Checksum,
    MissingItems,
    header_problem,
    index_path,
    items_problem,
    partial_path,
    read_array,
    read_rows,
    tell_changes,
)
from actalign.artifacts.shards import is_shard
from actalign.console import InputError, some_of
from actalign.files import Journal, begins_with, json_checksum, lock, rename, sync, unshare, write_json_items


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
        self._index_path, self.path = (Path(os.path.realpath(name)) for name in (index_path(path), path))
        self.kind = kind
        self.meta = {**settings, **(notes or {})}
        self._settings = settings
        self.items = {}
        self.row_count = 0  # where the next item will start
        self._source, self._is_journal_old = {}, False  # see `follow`
        self._indexed = None  # (the items of the finished index, the whole that it is a shard of)
        self._partial_path = partial_path(self.path)
        self._journal = Journal(partial_path(self._index_path))
        self._file = None  # open while rows are being written
        self._rows_path = None  # where the committed rows are: NAME.npy.partial, the finished NAME.npy, or nowhere yet
        self._dtype = self._row_shape = self._header_size = None
        self._was_finished = False  # and is to be finished again, whatever happens
        self._abandoned = False
        with lock(self.path) as held:
            if self._index_path.exists() and not begins_with(self._index_path, INDEX_OF.format(kind=kind)):
                raise InputError(f"{self._index_path}: is there and is no index of {kind}, so the index of "
                                 f"{self.path.name} would replace it; move it away or choose another --output")
            if not overwrite:
                self._find_earlier()
            self.missing = MissingItems(path, self.items)
            self._lock = held.pop_all()

    def __contains__(self, id):
        return id in self.items

    def follow(self, source, again=(), made_from=()):
        """Have the items say what `source`, {id: fields}, says, now and when they are written, and stand in its order.

        Those that it lacks are forgotten, and those in the set `again`, to be written anew; their rows stay as a gap
        until the artifact is started over. Call it before any row is written: the disk changes when one is, or at the
        end.    made_from: names of fields, of whose change what is missing is to be tried again
        Raises InputError if the source has none of the items.
        """
        if self.items and not self.items.keys() & source.keys():
            raise InputError(f"{self.path}: has none of these samples, but {some_of(list(self.items))}; choose another "
                             "--output, or start over with --overwrite")
        kept = {id: {**self.items[id], **fields} for id, fields in source.items()
                if id in self.items and id not in again}
        tell_changes(self.path, {
            "gone": [id for id in self.items if id not in source], "to be made again": sorted(again),
            "with other metadata": [id for id, item in kept.items() if item != self.items[id]]})
        self._source, self._is_journal_old = source, True
        self.items, self.row_count = kept, _end(kept.values())
        if not kept:  # started over: what was finished stays until the new one is
            self._rows_path, self._was_finished = None, False
        self.missing.follow(source, made_from)

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
                     "checksum": item.checksum.hexdigest(), **self._source.get(id, {}), **item.fields}
            self._journal.append(_signed(entry))
        except BaseException:
            if self._file is not None:  # cut off what was written after the last committed item
                self._close_rows()
                os.truncate(self._partial_path, self._end_of(self.row_count))
            raise
        self.items[id], self.row_count = entry, entry["stop"]
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
        return read_rows(self._rows_path, self._dtype, self._row_shape, self._header_size, start, stop)

    def __enter__(self):
        return self

    def __exit__(self, exception_type, exception, traceback):
        try:
            if not self._abandoned:
                self.missing.save()
                if exception_type is None or self._was_finished:
                    self._finish()
        except OSError:
            if exception_type is None:
                raise
        finally:
            self._journal.close()
            self._close_rows()
            self._lock.close()

    # what earlier runs left

    def _find_earlier(self):
        """Take over what earlier runs left; a journal without its rows is worth nothing.

        Its rows are in the partial file, or in the finished one without an index, where a run was killed in between.
        """
        header, *items = self._journal.read() or [None]
        problem = header_problem(header, self.kind) if header is not None else None
        problem = problem or (items_problem(header, items) if items else None)
        if problem:
            raise InputError(f"{self._journal.path}: {problem}; remove it or start over with --overwrite")
        if header is not None:
            self._describe(header["dtype"], header["shape"][1:])
            kept = [item for item in items if self._end_of(item["stop"]) <= _size(self._partial_path)]
            if kept:
                self._take_over(header["meta"], kept, self._partial_path)
                self._is_journal_old = len(kept) < len(items)
                return
            if not self._index_path.exists() and _size(self.path) == self._end_of(_end(items)):
                if items:  # a shard of nothing has nothing to take over
                    self._take_over(header["meta"], items, self.path)
                return
        if self._index_path.exists():
            artifact = read_array(self._index_path.with_suffix(".npy"), self.kind)
            self._describe(artifact.dtype, artifact.shape[1:])
            if _size(self.path) != self._end_of(artifact.shape[0]):
                raise InputError(f"{self.path}: was saved by another program; choose another --output, or start over "
                                 "with --overwrite")
            if artifact.items:
                self._take_over(artifact.meta, artifact.items, self.path)
                self._rows, self._indexed = artifact.shape[0], (artifact.items, artifact.meta.get("samples"))
        elif self.path.exists():
            raise InputError(f"{self.path}: its index {self._index_path.name} is missing; choose another --output, or "
                             "start over with --overwrite")

    def _take_over(self, meta, items, rows_path):
        for key, value in self._settings.items():
            if meta.get(key) != value:
                raise InputError(f"{self.path}: was begun with {key} {meta.get(key)}, this run has {value}; run with "
                                 "the same settings, choose another --output, or start over with --overwrite")
        self.items = {item["id"]: item for item in items}
        self.row_count = self._rows = _end(items)
        self._rows_path = rows_path
        self._was_finished = rows_path == self.path

    def _discard_partial(self):
        self._journal.remove()
        self._partial_path.unlink(missing_ok=True)

    # the files

    def _describe(self, dtype, row_shape):
        self._dtype, self._row_shape = np.dtype(dtype), tuple(row_shape)
        self._row_bytes = math.prod(self._row_shape) * self._dtype.itemsize
        self._header_size = len(_npy_header(self._dtype, (0, *self._row_shape)))

    def _end_of(self, rows):
        """The size of a file with so many rows."""
        return self._header_size + rows * self._row_bytes

    def _header(self, rows):
        gaps = rows - sum(item["stop"] - item["start"] for item in self.items.values())
        return {"format": FORMAT, "version": VERSION, "kind": self.kind, "dtype": self._dtype.name,
                "shape": [rows, *self._row_shape], **({"gaps": gaps} if gaps > 0 else {}), "meta": self.meta}

    def _renew_journal(self):
        self._journal.replace([self._header(0), *map(_signed, self.items.values())])
        self._is_journal_old = False

    def _begin(self, rows):
        """Open the partial files for appending rows such as these."""
        if self._rows_path is None:
            self._discard_partial()
            self._describe(rows.dtype, rows.shape[1:])
            with open(self._partial_path, "wb") as file:
                file.write(_npy_header(self._dtype, (0, *self._row_shape)))
            self._journal.replace([self._header(0)])
        elif self._rows_path == self.path:
            self._partial_path.unlink(missing_ok=True)  # a killed --overwrite's, whose rows are not the journal's
            self._renew_journal()
            self._rows_path = self._partial_path  # before the rows are: whoever is interrupted must not discard them
            rename(self.path, self._partial_path)
            self._index_path.unlink(missing_ok=True)
        elif self._is_journal_old:
            self._renew_journal()
        self._rows_path = self._partial_path
        unshare(self._partial_path)
        self._file = open(self._partial_path, "r+b")
        self._file.truncate(self._end_of(self.row_count))
        self._file.seek(0, os.SEEK_END)

    def write_rows(self, rows):
        """Write rows after the committed ones; `item` commits them."""
        if self._file is None:
            self._begin(rows)
        if rows.dtype != self._dtype or rows.shape[1:] != self._row_shape:
            raise InputError(f"{self.path}: has rows {self._dtype.name} {self._row_shape}, these are {rows.dtype.name} "
                             f"{rows.shape[1:]}; run with the same settings or start over with --overwrite")
        self._file.write(rows.data.cast("B"))

    def _close_rows(self):
        if self._file is not None:
            with contextlib.suppress(OSError):  # a full disk does not take buffered rows; they were not committed
                self._file.close()
            self._file = None

    def _finish(self):
        """Make the committed items the finished artifact."""
        is_empty = not self.items and is_shard(self.path)  # of which its set is whole all the same
        if is_empty:
            self._rows_path = None
            self._begin(np.zeros((0, *(1, 1, 3)[1 - AXES[self.kind]:]), DTYPES[self.kind][0]))
        self._close_rows()
        if (self.items or is_empty) and self._rows_path == self._partial_path:
            if self._is_journal_old:
                self._renew_journal()
            unshare(self._partial_path)
            with open(self._partial_path, "r+b", buffering=0) as file:  # else an interrupt could write half of it twice
                file.truncate(self._end_of(self.row_count))
                file.write(_npy_header(self._dtype, (self.row_count, *self._row_shape)))
                sync(file)
            self._index_path.unlink(missing_ok=True)  # an old index must never stand beside the new array
            rename(self._partial_path, self.path)
            self._rows_path, self._rows = self.path, self.row_count
        items = list({**{id: self.items[id] for id in self._source if id in self.items}, **self.items}.values())
        if (items or is_empty) and not (self._index_path.exists()
                                        and (items, self.meta.get("samples")) == self._indexed):
            write_json_items(self._index_path, self._header(self._rows), "items", map(_signed, items))
        self._discard_partial()


class _ItemInHand:
    """The rows of an item that is being written."""

    def __init__(self, writer):
        self._writer = writer
        self.rows = 0
        self.fields = {}
        self.checksum = Checksum()

    def write(self, rows):
        """Add rows (n, ...) of the artifact's dtype and row shape."""
        rows = np.ascontiguousarray(rows)
        if len(rows):
            self._writer.write_rows(rows)
            self.checksum.update(rows)
            self.rows += len(rows)


def _signed(item):
    """An item as a file holds it."""
    return {**item, "metadata_checksum": json_checksum(item)}


def _npy_header(dtype, shape):
    """The header of a .npy file; numpy pads it so that its length does not depend on the number of rows."""
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        buffer, {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape})
    return buffer.getvalue()


def _end(items):
    """The row after the last one of any items."""
    return max((item["stop"] for item in items), default=0)


def _size(path):
    return path.stat().st_size if path.exists() else 0

"""What the method's published scripts wrote: pickled object arrays whose rows belong together by position.

    processed_dataset.npy    (N, 10) rows of COLUMNS; video_frames is (T, 3, H, W) uint8
    video_embeddings.npy     N times (T, D), or None where a clip failed
    encoded_subactions.npy   N times a list of K arrays (M, D)

numpy collapses what has equal shapes, so that each can also be one array of more dimensions, of floats or of objects.
The ids come from the generated_subactions.json of the same run, whose entries are in the same order. Nothing in the
arrays says so, and every count that could tell a mix-up is checked. To make artifacts of this project out of them:

    python -m actalign.artifacts convert OLD NEW --subactions generated_subactions.json
"""

import argparse
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from actalign import artifacts, console
from actalign.checkpoint import SO400M, add_trust_argument, find_checkpoint
from actalign.console import InputError
from actalign.dataset import Sample, require_unique_ids, sample_from_row
from actalign.files import read_json, reason_of
from actalign.npy import read_header
from actalign.subactions import folded_key, read_subactions
from actalign.unpickle import Array, unpickle
from actalign.video import resize

COLUMNS = ("youtube_id", "id", "action", "domain", "question", "answer", "choices_str", "choice_descriptions",
           "processed_video_path", "video_frames")
IMAGE_SIZE = 384  # pixels, what google/siglip-so400m-patch14-384 takes
FRAMES_AT_ONCE = 32
MOST_GROWTH = 16  # times the file's size that one sample's numbers may take; more is one row named again and again
MADE_BY = "the published scripts"


@dataclass(frozen=True)
class Place:
    """What belongs to one row: the sample, its K tuples of sub-actions, and its number of frames if that is known."""

    sample: Sample
    texts: tuple = ()
    frames: int | None = None


def is_published(path):
    """Whether an .npy file is one of the published scripts': pickled, or of more dimensions than rows and features."""
    path = Path(path)
    if not path.is_file() or artifacts.index_path(path).exists():
        return False
    try:
        header = read_header(path)
    except (ValueError, OSError):
        return False
    return header.is_pickled or (header.dtype.kind == "f" and len(header.shape) in (3, 4))


def read_embeddings(path, kind, same_run):
    """The PublishedArtifact in an old video_embeddings.npy or encoded_subactions.npy.

    same_run: the generated_subactions.json, or for videos the processed_dataset.npy, of the same run.
    Raises InputError if it is none or its rows do not fit those samples.
    """
    if same_run is None:
        raise InputError(f"{path}: was written by the published scripts, without ids; python -m actalign.artifacts "
                         f"convert {path} NEW.npy --subactions FILE makes an artifact of it")
    return PublishedArtifact(path, kind, _rows(path), read_places(same_run), same_run)


def read_places(same_run):
    """The Places of a published run, in order, from its generated_subactions.json or its processed_dataset.npy.

    Raises InputError if the file was not written by a published run, and so may have another order.
    """
    if Path(same_run).suffix == ".npy":
        return [place for place, _ in read_dataset(same_run)]
    entries = read_json(same_run, "list of samples with sub-actions")
    scripts = read_subactions(same_run)
    if any("generated_with" in entry for entry in entries):
        raise InputError(f"{same_run}: was written by this project's generate_subactions.py and so is not of the run "
                         "that made the array, whose rows have no ids; give the file of the same run, or convert the "
                         "array with that one first")
    return [Place(_in_order_of(script, entry), script.texts) for script, entry in zip(scripts, entries, strict=True)]


def _in_order_of(script, entry):
    """The sample. Raises InputError where the entry lists its options twice, in two orders."""
    wanted = [folded_key(key) for key, texts in zip(script.sample.keys, script.texts, strict=True) if texts]
    listed = [folded_key(key) for key, texts in (entry.get("subactions") or {}).items() if texts]
    if [key for key in listed if key in wanted] != wanted:
        raise InputError(f"sample {script.sample.id} has its options in one order and their sub-actions in another, so "
                         "that embeddings without names cannot be told apart; give the file as the published script "
                         "wrote it")
    return script.sample


def _rows(path):
    """The N rows of an old array: numpy arrays, Arrays, lists, or None."""
    try:
        header = read_header(path)
        if not header.is_pickled:
            order = "F" if header.fortran_order else "C"
            return list(np.memmap(path, header.dtype, "r", header.offset, header.shape, order))
        array = unpickle(path, header.offset)
    except (ValueError, OSError) as error:
        raise InputError(f"{path}: is no array that is read here ({reason_of(error)}); fetch it again from where it "
                         "came, or make it with this project's scripts") from None
    if array.shape != header.shape or not array.shape:
        raise InputError(f"{path}: its header says {list(header.shape)}, its content is {list(array.shape)}; it is "
                         "damaged, fetch it again")
    return array.parts()


def _parts(value):
    """What a value holds along its first axis, or None if it is no array or list."""
    if isinstance(value, Array) and value.shape:
        return value.parts()
    if (isinstance(value, np.ndarray) and value.ndim) or isinstance(value, list | tuple):
        return list(value)
    return None


def _depth(value, most=4):
    """How many axes a value has."""
    parts = _parts(value)
    if most == 0 or parts is None:
        return 0
    first = next((part for part in parts if part is not None), None)
    return 1 + _depth(first, most - 1)


def _matrix(value, most_bytes):
    """The (n, D) float32 array of a value with two axes. Raises ValueError if it is none."""
    if isinstance(value, Array) and value.numbers is not None:
        value = value.numbers
    if not isinstance(value, np.ndarray):
        rows = [_vector(part) for part in _parts(value) or ()]
        if not rows or len({len(row) for row in rows}) > 1:
            raise ValueError("its rows are not of one length")
        if sum(row.nbytes for row in rows) > most_bytes:
            raise ValueError("it repeats its rows far beyond the size of the file")
        value = np.stack(rows)
    if value.ndim != 2 or value.dtype.kind != "f" or 0 in value.shape:
        raise ValueError(f"it is {value.dtype.name} {list(value.shape)} instead of float rows (n, D)")
    return np.ascontiguousarray(value, np.float32)


def _vector(value):
    if isinstance(value, Array) and value.numbers is not None:
        value = value.numbers
    if isinstance(value, np.ndarray):
        if value.ndim == 1 and value.dtype.kind == "f":
            return value
        raise ValueError("its rows are no features")
    numbers = value.objects if isinstance(value, Array) and len(value.shape) == 1 else value
    if not isinstance(numbers, list | tuple) or not all(type(number) in (float, int) for number in numbers):
        raise ValueError("its rows are no features")
    try:
        return np.array(numbers, np.float64)
    except OverflowError:
        raise ValueError("its rows are no features") from None


class PublishedArtifact(artifacts.ArrayArtifact):
    """An old array of embeddings, with what its index would say; it takes scale and bias from `take_checkpoint`.

    Samples without embeddings are in `missing`, {id: reason}.
    """

    def __init__(self, path, kind, rows, places, same_run):
        if len(rows) != len(places):
            raise InputError(
                f"{path}: has {len(rows)} rows, {same_run} has {len(places)} samples; they are joined by position and "
                "so cannot be told to belong together: give the file of the same run, from before anything was left "
                "out of either")
        self.path = Path(path)
        self._most_bytes = MOST_GROWTH * self.path.stat().st_size
        self._values, self.missing, items, start, self._width = {}, {}, [], 0, None
        for number, (place, value) in enumerate(zip(places, rows, strict=True)):
            id, fields = place.sample.id, {}
            if _is_nothing(value):
                self.missing[id] = f"nothing in row {number} of {self.path.name}"
                if kind == "subaction_embeddings" and any(place.texts):
                    raise InputError(f"{path}: row {number} is empty, sample {id} has sub-actions; {_NOT_THE_SAME_RUN}")
                continue
            try:
                if kind == "subaction_embeddings":
                    value, fields["options"] = _options(value, place, start, self._most_bytes)
                matrix = self._read(value)
            except ValueError as error:
                raise InputError(f"{path}: row {number}, sample {id}: {error}; {_NOT_THE_SAME_RUN}") from None
            if place.frames is not None and len(matrix) != place.frames:
                raise InputError(f"{path}: row {number} has {len(matrix)} embeddings, sample {id} has {place.frames} "
                                 f"frames; {_NOT_THE_SAME_RUN}")
            if self._width not in (None, matrix.shape[1]):
                raise InputError(f"{path}: row {number}, sample {id} has {matrix.shape[1]} features, the rows before "
                                 f"{self._width}; it is damaged, fetch it again")
            self._width = matrix.shape[1]
            self._values[id] = value
            checksums = artifacts.Checksums()
            checksums.update(matrix)
            items.append({"id": id, "start": start, "stop": start + len(matrix), "fps": None, **fields,
                          **checksums.fields()})
            start += len(matrix)
        if not items:
            raise InputError(f"{path}: holds no embeddings; fetch it again from where it came")
        state = hashlib.blake2b(digest_size=8)
        for item in items:
            state.update(artifacts.fingerprint_line(item))
        index = SimpleNamespace(
            header={"kind": kind, "meta": {"made_by": MADE_BY, "dtype": "float32"}}, items=items,
            numbers={item["id"]: number for number, item in enumerate(items)}, stops=[item["stop"] for item in items],
            rates=[0.0] * len(items), crcs=list(map(artifacts.crc_of, items)), fingerprint=state.hexdigest())
        super().__init__(path, index, np.broadcast_to(np.float32(0), (start, self._width)))

    def rows(self, id):
        """The rows of one sample in memory; KeyError if there is none."""
        return self._read(self._values[id])

    def read(self, start, stop):
        """Rows start:stop in memory."""
        parts = [self.rows(item["id"])[max(start - item["start"], 0):stop - item["start"]]
                 for item in self.items if item["start"] < stop and start < item["stop"]]
        return np.concatenate(parts) if parts else self.array[:0].copy()

    def _read(self, value):
        if isinstance(value, _Options):
            return np.concatenate([_matrix(part, self._most_bytes) for part in value.parts])
        return _matrix(value, self._most_bytes)


_NOT_THE_SAME_RUN = ("array and sub-actions are joined by position and do not fit: give the files of one run, from "
                     "before anything was left out of either")


@dataclass(frozen=True)
class _Options:
    """A row of encoded_subactions.npy: the arrays (M, D) of the options that have sub-actions."""

    parts: list


def _is_nothing(value):
    """Whether a row stands for a clip that failed."""
    return value is None or (isinstance(value, float) and np.isnan(value)) or _parts(value) == []


def _options(value, place, start, most_bytes):
    """(_Options, the index's list of options) of one row. Raises ValueError if it does not fit the sub-actions."""
    parts, texts = _parts(value), list(zip(place.sample.keys, place.texts, strict=True))
    if parts is None:
        raise ValueError("it is no list of one array an option")
    if len(parts) != len(texts):
        texts = [(key, of_option) for key, of_option in texts if of_option]
    if len(parts) != len(texts):
        raise ValueError(f"it has {len(parts)} options, the sub-actions are of {len(texts)}")
    kept, options = [], []
    for part, (key, of_option) in zip(parts, texts, strict=True):
        rows = 0 if _is_nothing(part) else len(_matrix(part, most_bytes))
        if rows != len(of_option):
            raise ValueError(f"{key!r} has {rows} embeddings for {len(of_option)} sub-actions")
        if rows:
            kept.append(part)
            options.append({"key": key, "start": start, "stop": start + rows, "texts": list(of_option)})
            start += rows
    if not kept:
        raise ValueError("none of its options has embeddings")
    return _Options(kept), options


def take_checkpoint(arrays, model, trust_pickle_weights=False):
    """Have published embeddings take fingerprint, scale and bias of a checkpoint (so400m if `model` is None).

    Raises InputError if embeddings of this project name another checkpoint than `model`.
    """
    old = [array for array in arrays if isinstance(array, PublishedArtifact)]
    if not old and model is None:
        return
    checkpoint = find_checkpoint(model or SO400M, trust_pickle_weights)
    for array in arrays:
        if array in old:
            array.meta |= {"model": checkpoint.name, **checkpoint.settings("float32")}
        elif array.meta.get("checkpoint") != checkpoint.fingerprint:
            raise InputError(f"--model {checkpoint.name}: {array.path} was made with another checkpoint "
                             f"({array.meta.get('model')}); leave --model out")


# Datasets


def read_dataset(path):
    """(Place, (T, 3, H, W) uint8 frames or None) of every row of an old processed_dataset.npy.

    The frames stay in the file until they are looked at. Raises InputError if it is none.
    """
    rows = _rows(path)
    if not rows or any(len(_parts(row) or ()) != len(COLUMNS) for row in rows):
        raise InputError(f"{path}: is no processed_dataset.npy, whose rows have {len(COLUMNS)} columns; give that file")
    found = []
    for number, row in enumerate(rows):
        fields = dict(zip(COLUMNS, _parts(row), strict=True))
        frames = fields.pop("video_frames")
        sample = sample_from_row({key: _plainly(value) for key, value in fields.items()}, f"{path}, row {number}")
        if isinstance(frames, Array):
            frames = frames.numbers
        if _is_nothing(frames):
            frames = None
        elif not isinstance(frames, np.ndarray) or frames.dtype != np.uint8 or frames.ndim != 4 \
                or frames.shape[1] != 3 or 0 in frames.shape:
            raise InputError(f"{path}: row {number}, sample {sample.id}: its frames are not uint8 (T, 3, H, W); it is "
                             "damaged, fetch it again")
        found.append((Place(sample, ((),) * len(sample.options), None if frames is None else len(frames)), frames))
    require_unique_ids([place.sample for place, _ in found], path)
    return found


def dataset_samples(path):
    """(samples, source) of an old processed_dataset.npy, as `artifacts.read_samples` gives them."""
    samples = [place.sample for place, _ in read_dataset(path)]
    state = hashlib.blake2b(json.dumps([sample.record() for sample in samples]).encode(), digest_size=8)
    return samples, {"path": str(path), "fingerprint": state.hexdigest(), "made_by": MADE_BY}


def _plainly(value, levels=6):
    """A cell as Python has it."""
    parts = _parts(value) if levels else None
    if parts is not None:
        return [_plainly(part, levels - 1) for part in parts]
    if isinstance(value, dict) and levels:
        return {str(key): _plainly(part, levels - 1) for key, part in value.items()}
    if isinstance(value, np.generic):
        return value.item()
    return value if value is None or isinstance(value, str | int | float) else None


# Conversion


def convert(old, new, kind, same_run, checkpoint, image_size, overwrite=False):
    """Write what an old array holds as an artifact of this project; returns (converted, kept, missing) counts.

    checkpoint: for embeddings, whose scale and bias they take
    """
    if kind == "frames":
        return _convert_frames(old, new, image_size, overwrite)
    array = read_embeddings(old, kind, same_run)
    notes = {"model": checkpoint.name, "made_by": MADE_BY}
    with artifacts.ArrayWriter(new, kind, checkpoint.settings("float32"), notes, overwrite) as writer:
        kept = len(writer.items)
        require_same_content(writer, array.items)
        for item in array.items:
            if item["id"] not in writer:
                fields = {key: value for key, value in item.items()
                          if key not in ("id", "start", "stop", *artifacts.Checksums.KEYS)}
                for option in fields.get("options", ()):
                    for end in ("start", "stop"):
                        option[end] += writer.row_count - item["start"]
                writer.append(item["id"], array.rows(item["id"]), **fields)
        for id, reason in array.missing.items():
            writer.missing.add(id, reason, retry=False)
        return len(writer.items) - kept, kept, len(array.missing)


def require_same_content(writer, items):
    """Raise InputError if an earlier conversion wrote other rows of a sample."""
    for item in items:
        there = writer.items.get(item["id"])
        if there is not None and there["digest"] != item["digest"]:
            raise InputError(f"{writer.path}: sample {item['id']} is there with other embeddings; choose another "
                             "NEW or start over with --overwrite")


def _convert_frames(old, new, image_size, overwrite):
    rows = read_dataset(old)
    settings = {"image_size": image_size, "resample": "bicubic", "fps": None}
    notes, missing = {"dataset": str(old), "made_by": MADE_BY}, 0
    with artifacts.ArrayWriter(new, "frames", settings, notes, overwrite) as writer, \
            console.progress(len(rows), "clips") as bar:
        kept = len(writer.items)
        for place, frames in rows:
            sample = place.sample
            if frames is None:
                missing += 1
                writer.missing.add(sample.id, f"no frames in {Path(old).name}", retry=False)
            elif sample.id not in writer:
                with writer.item(sample.id) as item:
                    for first in range(0, len(frames), FRAMES_AT_ONCE):
                        images = frames[first:first + FRAMES_AT_ONCE].transpose(0, 2, 3, 1)  # (n, H, W, 3)
                        item.write(np.stack([resize(np.ascontiguousarray(image), image_size) for image in images]))
                    item.fields.update(
                        {key: value for key, value in sample.record().items() if key != "id"},
                        choices=list(sample.labels), fps=None, extra=sample.extra)
            bar.update()
        return len(writer.items) - kept, kept, missing


def kind_of(path):
    """Which of the three an old array is. Raises InputError if it is none of them."""
    rows = _rows(path)
    first = next((row for row in rows if not _is_nothing(row)), None)
    if isinstance(first, Array) and first.numbers is None and first.shape == (len(COLUMNS),) \
            and not isinstance(first.objects[0], float):
        return "frames"
    kind = {2: "video_embeddings", 3: "subaction_embeddings"}.get(_depth(first))
    if kind is None:
        raise InputError(f"{path}: is none of the arrays that the published scripts wrote; say with --kind which it is")
    return kind


def parse_args(argv=None):
    parser = argparse.ArgumentParser(
        prog="python -m actalign.artifacts", description="Make artifacts of this project out of what the published "
        "scripts wrote.", formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="example:\n  python -m actalign.artifacts convert old/video_embeddings.npy video_embeddings.npy "
               "--subactions old/generated_subactions.json")
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("convert", help="read an old array, write a new one with its index")
    command.add_argument("old", help="an .npy file of the published scripts")
    command.add_argument("new", help="where the artifact goes, another .npy file")
    command.add_argument("--subactions", help="the generated_subactions.json of the same run, whose order gives the "
                                              "ids (embeddings only)")
    command.add_argument("--kind", choices=artifacts.MAKERS, help="what OLD holds (default: what it looks like)")
    command.add_argument("--model", default=SO400M, help="the checkpoint that made the embeddings, for its scale and "
                                                         "bias (default: %(default)s)")
    command.add_argument("--image_size", type=console.positive_int, default=IMAGE_SIZE,
                         help="frames are resized to this many pixels squared (default: %(default)s)")
    add_trust_argument(command)
    console.add_overwrite_argument(command)
    return parser.parse_args(argv)


@console.script
def main(argv=None):
    args = parse_args(argv)
    console.require_folder_of(args.new)
    if not is_published(args.old):
        raise InputError(f"{args.old}: is no array of the published scripts; give a file that is there, has no index "
                         "beside it, and holds pickled rows")
    if Path(args.old).resolve() == Path(args.new).resolve():
        raise InputError(f"{args.new}: would replace the old file; choose another name")
    kind = args.kind or kind_of(args.old)
    if kind != "frames" and args.subactions is None:
        raise InputError(f"{args.old}: looks like {kind}, whose rows have no ids; give the generated_subactions.json "
                         "of the same run as --subactions")
    checkpoint = None if kind == "frames" else find_checkpoint(args.model, args.trust_pickle_weights)
    converted, kept, missing = convert(args.old, args.new, kind, args.subactions, checkpoint, args.image_size,
                                       args.overwrite)
    print(f"{converted} samples converted ({kind}), {kept} were there already, {missing} have nothing in {args.old} "
          f"-> {args.new}")
    if not converted + kept:
        raise console.StageError("no sample could be converted; nothing was written")

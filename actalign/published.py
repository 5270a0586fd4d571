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
from pathlib import Path

import numpy as np

from actalign import artifacts, console
from actalign.artifacts.writer import ArrayWriter
from actalign.checkpoint import SO400M, add_trust_argument, find_checkpoint
from actalign.console import InputError
from actalign.dataset import require_unique_ids, sample_from_row
from actalign.files import read_json, reason_of
from actalign.subactions import folded_key, read_subactions
from actalign.unpickle import Array, unpickle
from actalign.video import resize

COLUMNS = ("youtube_id", "id", "action", "domain", "question", "answer", "choices_str", "choice_descriptions",
           "processed_video_path", "video_frames")
IMAGE_SIZE = 384  # pixels, what google/siglip-so400m-patch14-384 takes
FRAMES_AT_ONCE = 32
MOST_GROWTH = 16  # times the file's size that one sample's numbers may take; more is one row named again and again
MADE_BY = "the published scripts"
NOT_THE_SAME_RUN = ("array and sub-actions are joined by position and do not fit: give the files of one run, from "
                    "before anything was left out of either")


# Reading


def read_rows(path):
    """The N rows of an old array: numpy arrays, Arrays, lists, or None. Raises InputError if it is none."""
    try:
        header = artifacts.read_npy_header(path)
        if not header.dtype.hasobject:
            return list(np.load(path, mmap_mode="r", allow_pickle=False))
        array = unpickle(path, header.offset)
    except (ValueError, OSError) as error:
        raise InputError(f"{path}: is no array that is read here ({reason_of(error)}); fetch it again from where it "
                         "came, or make it with this project's scripts") from None
    if array.shape != header.shape or not array.shape:
        raise InputError(f"{path}: its header says {list(header.shape)}, its content is {list(array.shape)}; it is "
                         "damaged, fetch it again")
    return array.parts()


def read_same_run(path):
    """The SubActions of a published run, in order. Raises InputError if the file may have another order."""
    entries = read_json(path, "list of samples with sub-actions")
    subactions = read_subactions(path)
    if any("generated_with" in entry for entry in entries):
        raise InputError(f"{path}: was written by this project's generate_subactions.py and so is not of the run "
                         "that made the array, whose rows have no ids; give the file of the same run, or convert the "
                         "array with that one first")
    for of_sample, entry in zip(subactions, entries, strict=True):
        wanted = [folded_key(key) for key, texts in zip(of_sample.sample.keys, of_sample.texts, strict=True) if texts]
        listed = [folded_key(key) for key, texts in (entry.get("subactions") or {}).items() if texts]
        if [key for key in listed if key in wanted] != wanted:
            raise InputError(f"{path}: sample {of_sample.sample.id} has its options in one order and their sub-actions "
                             "in another, so that embeddings without names cannot be told apart; give the file as the "
                             "published script wrote it")
    return subactions


def _parts(value):
    """What a value holds along its first axis, or None if it is no array or list."""
    if isinstance(value, Array) and value.shape:
        return value.parts()
    return list(value) if isinstance(value, list | tuple) or (isinstance(value, np.ndarray) and value.ndim) else None


def _is_nothing(value):
    """Whether a row stands for a clip that failed."""
    return value is None or (isinstance(value, float) and np.isnan(value)) or _parts(value) == []


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
    numbers = value.numbers if isinstance(value, Array) and value.numbers is not None else value
    if isinstance(numbers, np.ndarray) and numbers.ndim == 1 and numbers.dtype.kind == "f":
        return numbers
    numbers = _parts(numbers)
    if numbers is None or not all(type(number) is float for number in numbers):
        raise ValueError("its rows are no features")
    return np.array(numbers, np.float64)


def _options(value, subactions, most_bytes):
    """(matrices, index fields) of a row of encoded_subactions.npy: the arrays (M, D) of the options that have
    sub-actions, one after another. Raises ValueError if they do not fit the sub-actions."""
    parts, texts = _parts(value), list(zip(subactions.sample.keys, subactions.texts, strict=True))
    if parts is None:
        raise ValueError("it is no list of one array an option")
    if len(parts) != len(texts):
        texts = [(key, of_option) for key, of_option in texts if of_option]
    if len(parts) != len(texts):
        raise ValueError(f"it has {len(parts)} options, the sub-actions are of {len(texts)}")
    matrices, options, start = [], [], 0
    for part, (key, of_option) in zip(parts, texts, strict=True):
        matrix = [] if _is_nothing(part) else _matrix(part, most_bytes)
        if len(matrix) != len(of_option):
            raise ValueError(f"{key!r} has {len(matrix)} embeddings for {len(of_option)} sub-actions")
        if of_option:
            matrices.append(matrix)
            options.append({"key": key, "start": start, "stop": start + len(matrix), "texts": list(of_option)})
            start += len(matrix)
    if not matrices:
        raise ValueError("none of its options has embeddings")
    return np.concatenate(matrices), options


def read_embeddings(path, kind, same_run):
    """({id: ((n, D) float32, options or None)}, {id: reason}) of an old array and of what it lacks.

    options: of subaction_embeddings, as an index holds them, with rows counted from 0
    Raises InputError if the rows do not fit the samples of `same_run`, the generated_subactions.json of its run.
    """
    rows, subactions = read_rows(path), read_same_run(same_run)
    if len(rows) != len(subactions):
        raise InputError(f"{path}: has {len(rows)} rows, {same_run} has {len(subactions)} samples; {NOT_THE_SAME_RUN}")
    found, missing, most_bytes = {}, {}, MOST_GROWTH * Path(path).stat().st_size
    for number, (of_sample, value) in enumerate(zip(subactions, rows, strict=True)):
        id, options = of_sample.sample.id, None
        if _is_nothing(value):
            if kind == "subaction_embeddings" and any(of_sample.texts):
                raise InputError(f"{path}: row {number} is empty, sample {id} has sub-actions; {NOT_THE_SAME_RUN}")
            missing[id] = f"nothing in row {number} of {Path(path).name}"
            continue
        try:
            if kind == "subaction_embeddings":
                matrix, options = _options(value, of_sample, most_bytes)
            else:
                matrix = _matrix(value, most_bytes)
        except ValueError as error:
            raise InputError(f"{path}: row {number}, sample {id}: {error}; {NOT_THE_SAME_RUN}") from None
        width = next(iter(found.values()))[0].shape[1] if found else matrix.shape[1]
        if matrix.shape[1] != width:
            raise InputError(f"{path}: row {number}, sample {id} has {matrix.shape[1]} features, the rows before "
                             f"{width}; it is damaged, fetch it again")
        found[id] = matrix, options
    if not found:
        raise InputError(f"{path}: holds no embeddings; fetch it again from where it came")
    return found, missing


def read_dataset(path):
    """(Sample, (T, 3, H, W) uint8 frames or None) of every row of an old processed_dataset.npy.

    Raises InputError if it is none.
    """
    rows = read_rows(path)
    if not rows or any(len(_parts(row) or ()) != len(COLUMNS) for row in rows):
        raise InputError(f"{path}: is no processed_dataset.npy, whose rows have {len(COLUMNS)} columns; give that file")
    found = []
    for number, row in enumerate(rows):
        fields = dict(zip(COLUMNS, _parts(row), strict=True))
        frames = fields.pop("video_frames")
        sample = sample_from_row({key: _plainly(value) for key, value in fields.items()}, f"{path}, row {number}")
        frames = frames.numbers if isinstance(frames, Array) else None if _is_nothing(frames) else frames
        if frames is not None and not (isinstance(frames, np.ndarray) and frames.dtype == np.uint8 and frames.ndim == 4
                                       and frames.shape[1] == 3 and 0 not in frames.shape):
            raise InputError(f"{path}: row {number}, sample {sample.id}: its frames are not uint8 (T, 3, H, W); it is "
                             "damaged, fetch it again")
        found.append((sample, frames))
    require_unique_ids([sample for sample, _ in found], path)
    return found


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


def kind_of(path):
    """Which of the three an old array is. Raises InputError if it is none of them."""
    first = next((row for row in read_rows(path) if not _is_nothing(row)), None)
    cells = _parts(first) or []
    if len(cells) == len(COLUMNS) and any(isinstance(cell, str) for cell in cells):
        return "frames"
    depth = 0
    while (parts := _parts(first)) is not None and depth < 4:
        first, depth = next((part for part in parts if part is not None), None), depth + 1
    kind = {2: "video_embeddings", 3: "subaction_embeddings"}.get(depth)
    if kind is None:
        raise InputError(f"{path}: is none of the arrays that the published scripts wrote; say with --kind which it is")
    return kind


# Conversion


def convert_embeddings(old, new, kind, same_run, checkpoint, overwrite=False):
    """Write old embeddings as an artifact with a Checkpoint's scale and bias; returns its number of missing items."""
    found, missing = read_embeddings(old, kind, same_run)
    notes = {"model": checkpoint.name, "made_by": MADE_BY}
    with ArrayWriter(new, kind, checkpoint.settings("float32"), notes, overwrite) as writer:
        for id, (rows, options) in found.items():
            if id in writer:
                if writer.items[id]["checksum"] != artifacts.Checksum(rows).hexdigest():
                    raise InputError(f"{writer.path}: sample {id} is there with other embeddings; choose another NEW "
                                     "or start over with --overwrite")
                continue
            fields = {"fps": None}
            if options:
                fields["options"] = [{**option, "start": option["start"] + writer.row_count,
                                      "stop": option["stop"] + writer.row_count} for option in options]
            writer.append(id, rows, **fields)
        for id, reason in missing.items():
            writer.missing.add(id, reason, retry=False)
    return len(missing)


def convert_frames(old, new, image_size, overwrite=False):
    """Write old frames, resized, as an artifact; returns its number of missing items."""
    rows = read_dataset(old)
    settings = {"image_size": image_size, "resample": "bicubic", "fps": None}
    with ArrayWriter(new, "frames", settings, {"dataset": str(old), "made_by": MADE_BY}, overwrite) as writer, \
            console.progress(len(rows), "clips") as bar:
        for sample, frames in rows:
            if frames is None:
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
    return sum(frames is None for _, frames in rows)


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
    if artifacts.index_path(args.old).exists() or not artifacts.is_published(args.old):
        raise InputError(f"{args.old}: is no array of the published scripts; give a file that is there, has no index "
                         "beside it, and holds pickled rows")
    if Path(args.old).resolve() == Path(args.new).resolve():
        raise InputError(f"{args.new}: would replace the old file; choose another name")
    kind = args.kind or kind_of(args.old)
    if kind == "frames":
        missing = convert_frames(args.old, args.new, args.image_size, args.overwrite)
    elif args.subactions is None:
        raise InputError(f"{args.old}: looks like {kind}, whose rows have no ids; give the generated_subactions.json "
                         "of the same run as --subactions")
    else:
        checkpoint = find_checkpoint(args.model, args.trust_pickle_weights)
        missing = convert_embeddings(args.old, args.new, kind, args.subactions, checkpoint, args.overwrite)
    if not Path(args.new).exists():
        raise console.StageError("no sample could be converted; nothing was written")
    converted = len(artifacts.read_index(args.new, kind)["items"])
    print(f"{converted} samples are converted ({kind}), {missing} have nothing in {args.old} -> {args.new}")

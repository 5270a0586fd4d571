"""Makes artifacts of this project out of what the method's published scripts wrote: pickled object arrays.

    processed_dataset.npy    (N, 10) rows of COLUMNS; video_frames is (T, 3, H, W) uint8
    video_embeddings.npy     N times (T, D), or None where a clip failed
    encoded_subactions.npy   N times a list of up to K arrays (M, D), in the order of cleaned_options: of the options
                             that generated_subactions.json names as "option in domain", to the letter

numpy collapses equal shapes to one array of more axes, of floats or of objects. The rows have no ids: these come, by
position, from a file of the same run. Videos follow processed_dataset.npy. So does generated_subactions.json, unless
a sample failed there, which then is not in it, or was asked for again and so is its last.

    python -m actalign.artifacts convert OLD NEW --subactions generated_subactions.json
    python -m actalign.artifacts convert OLD_VIDEOS NEW --subactions processed_dataset.npy
"""

import math
from pathlib import Path

import numpy as np

from actalign import artifacts, console
from actalign.artifacts.writer import ArrayWriter
from actalign.checkpoint import SO400M, add_trust_argument, find_checkpoint
from actalign.console import InputError
from actalign.dataset import Sample, require_unique_ids, sample_from_row
from actalign.files import read_json, reason_of
from actalign.subactions import SubActions, options_of, read_subactions
from actalign.unpickle import unpickle
from actalign.video import resize

COLUMNS = ("youtube_id", "id", "action", "domain", "question", "answer", "choices_str", "choice_descriptions",
           "processed_video_path", "video_frames")
DATASET = "processed_dataset.npy"
MADE_BY = "the published scripts"
TEMPLATE = "This is a video of doing {option} in {domain} with {subaction}"  # of all sub-actions that they encoded
MOST_METADATA = 1 << 20  # bytes of one array in a dataset whose frames are not wanted
LISTS = (list, tuple, np.ndarray)
NOT_THE_SAME_RUN = ("array and sub-actions are joined by position and do not fit: give whole files of one run, for "
                    f"videos its {DATASET}")


def read_rows(path, most=math.inf):
    """An array (N, ...) of floats or of objects: arrays, lists, plain values, None. Raises InputError if it is none.

    most: see `unpickle`
    """
    try:
        header = artifacts.read_npy_header(path)
        array = unpickle(path, header.offset, most) if header.dtype.hasobject else np.load(path, mmap_mode="r")
        if array.shape != header.shape or not array.shape or not array.size:
            raise ValueError(f"its shape is {list(array.shape)}, in its header {list(header.shape)}")
    except (ValueError, OSError) as error:
        raise InputError(f"{path}: is no array that is read here ({reason_of(error)}); fetch it again") from None
    return array


def read_same_run(path):
    """[(SubActions, K numbers of rows that the published script made of them)] of a generated_subactions.json."""
    entries, subactions = read_json(path, "list of samples with sub-actions"), read_subactions(path)
    if any({"generated_with", "removed"} & entry.keys() for entry in entries):
        raise InputError(f"{path}: was written by this project, not by the array's run; give the file of that run, "
                         "or its processed_dataset.npy for videos")
    found = []
    for about, entry in zip(subactions, entries, strict=True):
        by_key = entry.get("subactions")
        by_key = by_key if isinstance(by_key, dict) else {}
        found.append((about, [len(by_key.get(key) or ()) for key in about.sample.keys]))
    return found


def read_order(path):
    """{id: number of frames}, in order, of an old processed_dataset.npy, or of what it was converted to.

    Raises InputError if it is neither, or ids repeat.
    """
    if artifacts.index_path(path).exists():
        index = artifacts.read_index(path, "frames")
        if index["meta"].get("made_by") != MADE_BY:
            raise InputError(f"{path}: was written by this project, not by the array's run; give the file of that run")
        return {item["id"]: item["stop"] - item["start"] for item in index["items"]}
    rows = _rows_of_dataset(path, MOST_METADATA)
    require_unique_ids([Sample(str(row[1]).strip(), "", ()) for row in rows], path)
    return {str(row[1]).strip(): (getattr(row[-1], "told_shape", None) or np.shape(row[-1]) or (0,))[0] for row in rows}


def _expected(path, kind, same_run):
    """[(SubActions, what its row in the array at `path` holds)] of a file of the same run, as `read_embeddings` takes.

    What a row holds: K numbers of rows, one an option; of videos the number of frames, None where no file tells.
    """
    if Path(same_run).suffix != ".npy":
        texts = read_same_run(same_run)
        if kind == "subaction_embeddings":
            return texts
        beside = next((dataset for folder in (Path(path).parent, Path(same_run).parent)
                       if (dataset := folder / DATASET).exists() and not artifacts.index_path(dataset).exists()
                       and artifacts.is_published(dataset)), None)
        if beside is None:
            return [(about, None) for about, _ in texts]
        order = read_order(beside)
        if [about.sample.id for about, _ in texts] != list(order):
            raise InputError(f"{same_run}: has not the samples of {beside} in their order, which videos have; give "
                             f"--subactions {beside}, or move it away if it is of another run")
        return [(about, order[about.sample.id]) for about, _ in texts]
    if kind == "subaction_embeddings":
        raise InputError(f"{same_run}: tells no sub-actions; give the generated_subactions.json of the same run")
    return [(SubActions(Sample(id, "", ()), ()), frames) for id, frames in read_order(same_run).items()]


def _is_nothing(value):
    """Whether a value stands for what could not be made: None, NaN, or what holds nothing."""
    if isinstance(value, LISTS):
        return not (value.size if isinstance(value, np.ndarray) else value)
    return value is None or (isinstance(value, float) and np.isnan(value))


def _matrix(value):
    """The (n, D) float32 array of an array of floats, or of float objects; None for nothing. Else raises ValueError."""
    if _is_nothing(value):
        return None
    if isinstance(value, np.ndarray) and value.dtype.hasobject and all(type(number) is float for number in value.flat):
        value = value.astype(np.float64)
    if not isinstance(value, np.ndarray) or value.ndim != 2 or value.dtype.kind != "f":
        raise ValueError("it is no array of float rows (n, D)")
    return np.ascontiguousarray(value, np.float32)


def _video_rows(value, frames):
    """The (T, D) float32 array of a row of video_embeddings.npy, None if there is nothing. ValueError unless T fits."""
    matrix = _matrix(value)
    if matrix is not None and frames not in (None, len(matrix)):
        raise ValueError(f"it has {len(matrix)} embeddings for {frames} frames")
    return matrix


def _text_rows(value, texts, counts):
    """The (n, D) float32 array of a row of encoded_subactions.npy, one option after another; None if there is nothing.

    value: arrays (M, D) of the options that have rows, or of all   texts: K tuples of sub-actions as they are read
    counts: K numbers of rows that the script made. Where it has none for an option with sub-actions, there is nothing;
    rows of an option whose sub-actions cannot be used are left out.
    Raises ValueError if the arrays do not fit the counts.
    """
    matrices = [_matrix(part) for part in value] if isinstance(value, LISTS) else []
    there = [0 if matrix is None else len(matrix) for matrix in matrices]
    if there not in (counts, [count for count in counts if count]):
        raise ValueError(f"its options have {there[:20]} embeddings for {counts} sub-actions")
    filled = (matrix for matrix in matrices if matrix is not None)
    found = [next(filled) if count else None for count in counts]
    used = [matrix for matrix, of_option in zip(found, texts, strict=True) if of_option]
    return None if not used or any(matrix is None for matrix in used) else np.concatenate(used)


def read_embeddings(path, kind, same_run):
    """[(SubActions, (n, D) float32 array or None)] of an old array of embeddings.

    same_run: the generated_subactions.json of its run; for videos its processed_dataset.npy as well
    Raises InputError if the rows do not fit the samples of `same_run`.
    """
    rows, expected, found = read_rows(path), _expected(path, kind, same_run), []
    if len(rows) != len(expected):
        raise InputError(f"{path}: has {len(rows)} rows, {same_run} has {len(expected)} samples; {NOT_THE_SAME_RUN}")
    for number, ((about, holds), value) in enumerate(zip(expected, rows, strict=True)):
        try:
            matrix = (_text_rows(value, about.texts, holds) if kind == "subaction_embeddings" else
                      _video_rows(value, holds))
        except ValueError as error:
            raise InputError(f"{path}: row {number}, sample {about.sample.id}: {error}; {NOT_THE_SAME_RUN}") from None
        found.append((about, matrix))
    if len({matrix.shape[1] for _, matrix in found if matrix is not None}) != 1:
        raise InputError(f"{path}: holds no embeddings, or with different numbers of features; fetch it again")
    return found


def _rows_of_dataset(path, most=math.inf):
    """The (N, 10) rows of an old processed_dataset.npy. Raises InputError if it is none. most: see `unpickle`."""
    rows = read_rows(path, most)
    if rows.ndim != 2 or rows.shape[1] != len(COLUMNS):
        raise InputError(f"{path}: is no {DATASET}, whose rows have {len(COLUMNS)} columns; give that file")
    return rows


def read_dataset(path):
    """[(Sample, (T, 3, H, W) uint8 frames or None)] of an old processed_dataset.npy; InputError if it is none."""
    found = []
    for number, row in enumerate(_rows_of_dataset(path)):
        fields = dict(zip(COLUMNS, map(_plainly, row[:-1]), strict=False))
        sample, frames = sample_from_row(fields, f"{path}, row {number}"), None if _is_nothing(row[-1]) else row[-1]
        if frames is not None and not (isinstance(frames, np.ndarray) and frames.dtype == np.uint8
                                       and frames.shape[1:2] == (3,) and frames.ndim == 4):
            raise InputError(f"{path}: sample {sample.id} has no frames uint8 (T, 3, H, W); fetch it again")
        found.append((sample, frames))
    require_unique_ids([sample for sample, _ in found], path)
    return found


def _plainly(value, levels=6):
    """A cell with lists for arrays, and None for what no dataset holds or what is too deep in it."""
    if isinstance(value, np.ndarray):
        value = value.tolist() if value.size else []
    if isinstance(value, list | tuple) and levels:
        return [_plainly(part, levels - 1) for part in value]
    if isinstance(value, dict) and levels:
        return {str(key): _plainly(part, levels - 1) for key, part in value.items()}
    return value if isinstance(value, str | int | float) else None


def kind_of(path):
    """Which of the three an old array is. Raises InputError if it is none of them."""
    value, axes = read_rows(path), 0
    if value.ndim == 2 and value.shape[1] == len(COLUMNS) and any(isinstance(cell, str) for cell in value[0]):
        return "frames"
    while isinstance(value, LISTS):
        value, axes = next((part for part in value if not _is_nothing(part)), None), axes + 1
    if axes not in (3, 4):
        raise InputError(f"{path}: is none of the arrays that the published scripts wrote; say with --kind which it is")
    return "video_embeddings" if axes == 3 else "subaction_embeddings"


def parse_args(argv=None):
    parser = console.parser(__doc__)
    parser.prog = "python -m actalign.artifacts"
    parser.add_argument("command", choices=["convert"], help="read an old array, write a new one with its index")
    parser.add_argument("old", help="an .npy file of the published scripts")
    parser.add_argument("new", help="where the artifact goes, another .npy file")
    parser.add_argument("--subactions", help="the generated_subactions.json of the same run, or for videos its "
                        "processed_dataset.npy (embeddings only)")
    parser.add_argument("--kind", choices=artifacts.MAKERS, help="what OLD holds (default: what it looks like)")
    parser.add_argument("--model", default=SO400M, help="checkpoint that made the embeddings (default: %(default)s)")
    parser.add_argument("--image_size", type=console.pixels, default=384, help="of frames (default: %(default)s)")
    add_trust_argument(parser)
    console.add_overwrite_argument(parser)
    return parser.parse_args(argv)


def convert(args, kind):
    """Write the old array as an artifact; returns the number of samples that it has not, or not whole."""
    if kind == "frames":
        found, notes = read_dataset(args.old), {"dataset": str(args.old)}
        settings = {"image_size": args.image_size, "resample": "bicubic", "fps": None}
    else:
        checkpoint = find_checkpoint(args.model, args.trust_pickle_weights)
        found, notes = read_embeddings(args.old, kind, args.subactions), {"model": checkpoint.name}
        settings = checkpoint.settings("float32") | ({"template": TEMPLATE} if kind == "subaction_embeddings" else {})
    with ArrayWriter(args.new, kind, settings, {**notes, "made_by": MADE_BY},
                     args.overwrite) as writer, console.progress(len(found), "samples") as bar:
        for about, rows in found:
            id = about.id if kind == "frames" else about.sample.id
            if rows is None:
                left_out = kind == "subaction_embeddings" and any(about.texts)
                writer.missing.add(id, f"{Path(args.old).name} has {'not all its options' if left_out else 'nothing'}",
                                   retry=False)
            elif id not in writer:
                with writer.item(id) as item:
                    item.fields["fps"] = None
                    if kind == "frames":
                        item.fields.update(about.record(), choices=list(about.labels), extra=about.extra)
                    elif kind == "subaction_embeddings":
                        item.fields.update(options_of(about, writer.row_count))
                    for row in rows:
                        item.write((row if row.ndim == 1 else resize(row.transpose(1, 2, 0), args.image_size))[None])
            elif kind != "frames" and writer.items[id]["checksum"] != artifacts.Checksum(rows).hexdigest():
                raise InputError(f"{args.new}: sample {id} is there with other embeddings; take another or --overwrite")
            bar.update()
    return sum(rows is None for _, rows in found)


@console.script
def main(argv=None):
    args = parse_args(argv)
    console.require_folder_of(args.new)
    if artifacts.index_path(args.old).exists() or not artifacts.is_published(args.old):
        raise InputError(f"{args.old}: is no array of the published scripts, which has no index beside it; give one")
    if Path(args.old).resolve() == Path(args.new).resolve():
        raise InputError(f"{args.new}: would replace the old file; choose another name")
    kind = args.kind or kind_of(args.old)
    if kind != "frames" and args.subactions is None:
        raise InputError(f"{args.old}: holds {kind} without ids; give --subactions, a file of the same run")
    missing = convert(args, kind)
    if not Path(args.new).exists():
        raise console.StageError("no sample could be converted; nothing was written")
    converted = len(artifacts.read_index(args.new, kind)["items"])
    why = f", see {artifacts.missing_path(args.new)}" if missing else ""
    console.say(f"{converted} samples are converted ({kind}), {missing} are not in {args.old}{why} -> {args.new}")

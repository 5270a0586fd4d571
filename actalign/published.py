"""Makes artifacts of this project out of what the method's published scripts wrote: pickled object arrays.

    processed_dataset.npy    (N, 10) rows of COLUMNS; video_frames is (T, 3, H, W) uint8
    video_embeddings.npy     N times (T, D), or None where a clip failed
    encoded_subactions.npy   N times a list of K arrays (M, D)

numpy collapses equal shapes to one array of more axes, of floats or of objects. The rows have no ids: these come, by
position, from the generated_subactions.json of the same run.

    python -m actalign.artifacts convert OLD NEW --subactions generated_subactions.json
"""

from pathlib import Path

import numpy as np

from actalign import artifacts, console
from actalign.artifacts.writer import ArrayWriter
from actalign.checkpoint import SO400M, add_trust_argument, find_checkpoint
from actalign.console import InputError
from actalign.dataset import require_unique_ids, sample_from_row
from actalign.files import read_json, reason_of
from actalign.subactions import options_of, read_subactions
from actalign.unpickle import unpickle
from actalign.video import resize

COLUMNS = ("youtube_id", "id", "action", "domain", "question", "answer", "choices_str", "choice_descriptions",
           "processed_video_path", "video_frames")
LISTS = (list, tuple, np.ndarray)
NOT_THE_SAME_RUN = "array and sub-actions are joined by position and do not fit: give whole files of one run"


def read_rows(path):
    """An array (N, ...) of floats or of objects: arrays, lists, plain values, None. Raises InputError if it is none."""
    try:
        header = artifacts.read_npy_header(path)
        array = unpickle(path, header.offset) if header.dtype.hasobject else np.load(path, mmap_mode="r")
        if array.shape != header.shape or not array.shape or not array.size:
            raise ValueError(f"its shape is {list(array.shape)}, in its header {list(header.shape)}")
    except (ValueError, OSError) as error:
        raise InputError(f"{path}: is no array that is read here ({reason_of(error)}); fetch it again") from None
    return array


def read_same_run(path):
    """The SubActions of a published run, in order. Raises InputError if the file may have another order."""
    entries, subactions = read_json(path, "list of samples with sub-actions"), read_subactions(path)
    if any("generated_with" in entry for entry in entries):
        raise InputError(f"{path}: was written by this project, not by the array's run; give the file of that run")
    for about, entry in zip(subactions, entries, strict=True):
        listed = [texts for texts in (entry.get("subactions") or {}).values() if texts]
        if listed != [list(texts) for texts in about.texts if texts]:
            raise InputError(f"{path}: sample {about.sample.id} has other options than sub-actions, or in another "
                             "order; give the file as the published script wrote it")
    return subactions


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


def _text_rows(value, texts):
    """The (n, D) float32 array of a row of encoded_subactions.npy, one option after another; None if there is nothing.

    value: as many arrays (M, D) as there are options in `texts`, a SubActions' tuples, or as have any there
    Raises ValueError if the two do not fit.
    """
    matrices = [_matrix(part) for part in value] if isinstance(value, LISTS) else []
    there, wanted = [0 if matrix is None else len(matrix) for matrix in matrices], list(map(len, texts))
    if there not in (wanted, [count for count in wanted if count]):
        raise ValueError(f"its options have {there[:20]} embeddings for {wanted} sub-actions")
    return np.concatenate([matrix for matrix in matrices if matrix is not None]) if any(there) else None


def read_embeddings(path, kind, same_run):
    """[(SubActions, (n, D) float32 array or None)] of an old array of embeddings.

    Raises InputError if the rows do not fit the samples of `same_run`, the generated_subactions.json of its run.
    """
    rows, subactions, found = read_rows(path), read_same_run(same_run), []
    if len(rows) != len(subactions):
        raise InputError(f"{path}: has {len(rows)} rows, {same_run} has {len(subactions)} samples; {NOT_THE_SAME_RUN}")
    for number, (about, value) in enumerate(zip(subactions, rows, strict=True)):
        try:
            matrix = _text_rows(value, about.texts) if kind == "subaction_embeddings" else _matrix(value)
        except ValueError as error:
            raise InputError(f"{path}: row {number}, sample {about.sample.id}: {error}; {NOT_THE_SAME_RUN}") from None
        found.append((about, matrix))
    if len({matrix.shape[1] for _, matrix in found if matrix is not None}) != 1:
        raise InputError(f"{path}: holds no embeddings, or with different numbers of features; fetch it again")
    return found


def read_dataset(path):
    """[(Sample, (T, 3, H, W) uint8 frames or None)] of an old processed_dataset.npy; InputError if it is none."""
    rows, found = read_rows(path), []
    if rows.ndim != 2 or rows.shape[1] != len(COLUMNS):
        raise InputError(f"{path}: is no processed_dataset.npy, whose rows have {len(COLUMNS)} columns; give that file")
    for number, row in enumerate(rows):
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
    parser.add_argument("--subactions", help="the generated_subactions.json of the same run (embeddings only)")
    parser.add_argument("--kind", choices=artifacts.MAKERS, help="what OLD holds (default: what it looks like)")
    parser.add_argument("--model", default=SO400M, help="checkpoint that made the embeddings (default: %(default)s)")
    parser.add_argument("--image_size", type=console.positive_int, default=384, help="of frames (default: %(default)s)")
    add_trust_argument(parser)
    console.add_overwrite_argument(parser)
    return parser.parse_args(argv)


def convert(args, kind):
    """Write the old array as an artifact; returns the number of samples of which it has nothing."""
    if kind == "frames":
        found, notes = read_dataset(args.old), {"dataset": str(args.old)}
        settings = {"image_size": args.image_size, "resample": "bicubic", "fps": None}
    else:
        checkpoint = find_checkpoint(args.model, args.trust_pickle_weights)
        found, notes = read_embeddings(args.old, kind, args.subactions), {"model": checkpoint.name}
        settings = checkpoint.settings("float32")
    with ArrayWriter(args.new, kind, settings, {**notes, "made_by": "the published scripts"},
                     args.overwrite) as writer, console.progress(len(found), "samples") as bar:
        for about, rows in found:
            id = about.id if kind == "frames" else about.sample.id
            if rows is None:
                writer.missing.add(id, f"nothing in {Path(args.old).name}", retry=False)
            elif id not in writer:
                with writer.item(id) as item:
                    item.fields["fps"] = None
                    if kind == "frames":
                        item.fields.update(about.record(), choices=list(about.labels), extra=about.extra)
                    elif kind == "subaction_embeddings":
                        item.fields["options"] = options_of(about, writer.row_count)
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
        raise InputError(f"{args.old}: holds {kind} without ids; give --subactions, the file of the same run")
    missing = convert(args, kind)
    if not Path(args.new).exists():
        raise console.StageError("no sample could be converted; nothing was written")
    converted = len(artifacts.read_index(args.new, kind)["items"])
    print(f"{converted} samples are converted ({kind}), {missing} have nothing in {args.old} -> {args.new}")

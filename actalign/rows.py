"""Rows of a dataset, in whatever form people have it: a file, a folder of videos, a video, an address, the hub.

What has to be guessed (the encoding, the delimiter, what a column is) is said in one line each.
"""

import codecs
import csv
import io
import os
import re
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from actalign import videonet
from actalign.console import InputError, log
from actalign.download import HUB, SUFFIXES, WEB_ADDRESS
from actalign.files import parse_json, read_bytes, reason_of

TEXTS = ("id", "youtube_id", "video", "domain", "action", "question", "note")
TIMES = ("start_timestamp", "end_timestamp")
OWN_FIELDS = (*TEXTS, *TIMES, "phases", "choices", "choices_str", "answer")
SYNONYMS = {
    "video": ("path", "file", "filename", "file_name", "filepath", "file_path", "video_path", "video_file", "clip",
              "clip_path", "url", "video_url"),
    "domain": ("sport",),
    "start_timestamp": ("start", "start_time", "begin"),
    "end_timestamp": ("end", "end_time", "stop"),
    "choices": ("options", "labels", "classes", "candidates"),
    "answer": ("label", "class", "ground_truth", "action_name", "action")}  # where they name one of the options
INSTEAD = {"video": "youtube_id", "choices": "choices_str"}  # ActionAtlas's, with which no synonym is looked for
HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs"}


class Rows(NamedTuple):
    """The rows of one dataset.

    source  the dataset, as errors name it          label  the column that may name the answer, if there is no `answer`
    folder  of relative paths; None on the hub      hub    address of the folder of its videos there, None for others
    """

    source: str
    rows: list
    folder: Path | None
    hub: str | None = None
    label: str | None = None


def is_place(dataset):
    """Whether what --dataset names is a folder or a video itself, on this machine."""
    return "://" not in dataset and (Path(dataset).is_dir() or dataset.lower().endswith(SUFFIXES))


def rows_of(dataset, split):
    """The Rows of what --dataset names; `split` is that of one on the hub.

    Raises InputError if there is no such thing, or it cannot be read.
    """
    path = Path(dataset)
    suffix = path.suffix.lower()
    if not dataset.strip():
        raise InputError("--dataset: a name is empty; give a file, a folder, an address or a name on the hub")
    if "://" in dataset:
        if not WEB_ADDRESS.fullmatch(dataset):
            raise InputError(f"--dataset {dataset}: is no http or https address; give one, or a file")
        return Rows(dataset, [{"video": dataset}], Path())
    if path.is_dir():
        return Rows(dataset, _rows_of_folder(path), path)
    if suffix in SUFFIXES:
        if not path.exists():
            raise InputError(f"--dataset {dataset}: no such file; give a video that is there")
        return Rows(dataset, [{"video": path.name}], path.parent)
    read, hub = READERS.get(suffix), None
    if read is None and path.exists():
        raise InputError(f"--dataset {dataset}: is none of {', '.join(READERS)} and no video; give one of them")
    if read is None and not HUB_NAME.fullmatch(dataset):
        raise InputError(f"--dataset {dataset}: no such file or folder; a dataset on the hub is called OWNER/NAME")
    try:
        rows, hub = (read(path), None) if read else _rows_of_hub(dataset, split)
    except Exception as error:  # the libraries raise anything on files of strangers
        advice = ("give a whole file, text as UTF-8, and in JSON null instead of NaN" if read else
                  "it is no file or folder here; for one on the hub check the name, --split and the connection, accept "
                  "its terms there and sign in (hf auth login) if it has some")
        reason = reason_of(error.__cause__ or error)[:300]
        raise InputError(f"--dataset {dataset}: cannot be read ({reason}); {advice}") from None
    if not rows:
        raise InputError(f"{dataset}: has no rows; give a dataset with one row a clip, in a table below the names "
                         "of its columns")
    if strange := [number for number, row in enumerate(rows, start=1) if not isinstance(row, dict)]:
        raise InputError(f"{dataset}, row {strange[0]}: is no object with fields; mend it or take it out")
    rows, label = _with_known_columns(videonet.rows_of(rows, dataset), dataset)
    return Rows(dataset, rows, None if hub else path.parent, hub, label)


def _rows_of_folder(folder):
    """A row for every video in a folder and its folders; its id is its path there, with suffix where two share one."""
    def refuse(error):
        raise InputError(f"--dataset {error.filename}: cannot be read ({error.strerror}); change its permissions, or "
                         "give the videos that are meant")

    found = []
    for place, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(place, name).relative_to(folder) for name in names
                  if not name.startswith(".") and name.lower().endswith(SUFFIXES)]
    if not found:
        raise InputError(f"--dataset {folder}: has no video in it ({', '.join(SUFFIXES)}); give another folder")
    stems = Counter(path.with_suffix("") for path in found)
    return [{"video": path.as_posix(), "id": (path if stems[stem] > 1 else stem).as_posix()}
            for path in sorted(found) for stem in [path.with_suffix("")]]


def _with_known_columns(rows, source):
    """(rows, whose columns have this project's names, and the column that may name the answer); says what it renamed.

    A column is known in any case, with spaces or hyphens, and by a synonym where there is none of its own name.
    """
    names = dict.fromkeys(name for row in rows for name in row)
    spelled, renamed = {}, {}
    for name in names:
        spelled.setdefault(_plainly(name), name)
    for field in OWN_FIELDS:
        synonyms = () if field == "answer" or INSTEAD.get(field) in spelled else SYNONYMS.get(field, ())
        found = next((spelled[name] for name in (field, *synonyms) if name in spelled), field)
        if field not in names and found in names:
            renamed[found] = field
    if renamed:
        log.info("%s: columns read as others: %s", source, ", ".join(f"{a} as {b}" for a, b in renamed.items()))
        rows = [{renamed.get(name, name): value for name, value in row.items()} for row in rows]
    label = next((spelled[name] for name in ("answer", *SYNONYMS["answer"]) if name in spelled), "answer")
    label = renamed.get(label, label)
    return rows, None if label == "answer" else label


def _plainly(name):
    """A column's name as it is compared."""
    return re.sub(r"[\s_-]+", "_", name.strip()).lower()


# Files and the hub


def text_of(path, other=None):
    """The text of a file: UTF-8, UTF-16 if it is marked so, or else in the encoding `other` with a warning."""
    raw = read_bytes(path)
    if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        log.info("%s: is read as UTF-16", path)
        return raw.decode("utf-16")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        if other is None:
            raise
        text = raw.decode(other)
        log.warning("%s: is no UTF-8 and is read as %s; save it as UTF-8 if names come out wrong", path, other)
        return text


def _rows_of_hub(name, split):
    """(rows, the address of the folder of their videos)"""
    import datasets

    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)
    # As Arrow has it: columns of pictures or sounds are not opened, wherever a row says that they are.
    rows = datasets.load_dataset(name, split=split, **videonet.hub_files(name, split)).with_format("arrow")[:]
    return rows.to_pylist(), f"{HUB}{name}@main/{videonet.HUB_FOLDER if name == videonet.NAME else ''}"


def _rows_of_parquet(path):
    """By pyarrow: pandas would make floats of ids that are whole numbers where a row has none."""
    from pyarrow import parquet

    return parquet.ParquetFile(path).read().to_pylist()


def _rows_of_json(path):
    """A list of objects, or an object a line; both under either suffix, as people name them."""
    text = text_of(path)
    if text.lstrip().startswith("["):
        return parse_json(text)
    return [parse_json(line) for line in text.split("\n") if line.strip()]


def _rows_of_table(path):
    """All cells as text, by the csv module: pandas fills up a row that a cut file left short without a word."""
    csv.field_size_limit(2**31 - 1)  # masks can be long
    text, expected = text_of(path, "Windows-1252"), "," if path.suffix.lower() == ".csv" else "\t"
    header = next((line for line in text.splitlines() if line.strip(",;\t ")), "")
    # Of the header, since names of options hold commas and semicolons; of two that find as much, the suffix's own.
    delimiter = max(expected, *DELIMITERS, key=lambda one: len(next(csv.reader([header], delimiter=one), [])))
    if delimiter != expected:
        log.info("%s: cells are separated by %s", path, DELIMITERS[delimiter])
    lines = csv.reader(io.StringIO(text, newline=None), delimiter=delimiter, strict=True)
    try:
        columns, *rows = [cells for cells in lines if "".join(cells).strip()] or [[]]  # Excel's blank rows are commas
    except csv.Error as error:
        raise ValueError(f"{error}: check the quotes up to line {lines.line_num}") from None
    if twice := sorted({name for name in columns if name and columns.count(name) > 1}):
        raise ValueError(f"two columns are called {', '.join(twice)}: rename one")
    for number, cells in enumerate(rows, start=1):
        if len(cells) != len(columns):
            raise ValueError(f"row {number} has {len(cells)} cells, the header {len(columns)} "
                             f"({', '.join(columns)[:200]}): quote those with {DELIMITERS[delimiter]}")
    if delimiter != ",":  # as spreadsheets write them where a comma is the decimal point
        times = [k for k, name in enumerate(columns) for time in TIMES if _plainly(name) in (time, *SYNONYMS[time])]
        if any("," in cells[k] for cells in rows for k in times):
            log.info("%s: commas in times are decimal points", path)
        for cells in rows:
            cells[:] = [cell.replace(",", ".") if k in times else cell for k, cell in enumerate(cells)]
    return [dict(zip(columns, cells, strict=True)) for cells in rows]


READERS = {".csv": _rows_of_table, ".tsv": _rows_of_table, ".txt": _rows_of_table, ".json": _rows_of_json,
           ".jsonl": _rows_of_json, ".parquet": _rows_of_parquet}

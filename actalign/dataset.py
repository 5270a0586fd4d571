"""Samples: a clip, its candidate actions, and the answer if it is known."""

import ast
import contextlib
import csv
import glob
import io
import re
import sys
import tempfile
import tokenize
import warnings
from dataclasses import dataclass, field
from pathlib import Path

from actalign.console import InputError
from actalign.files import parse_json, read_bytes, reason_of
from actalign.masks import FIELDS as MASK_FIELDS
from actalign.masks import Masks, masks_of_row

ACTION_ATLAS = "mrsalehi/ActionAtlas-v1.0"
OWN_FIELDS = ("id", "youtube_id", "video", "domain", "choices", "choices_str", "answer", "action", "question",
              "start_timestamp", "end_timestamp")
MOST_LEVELS = 32  # of lists and objects in a row; ActionAtlas's masks have seven
LONGEST_LIST = 100_000  # characters of a list of options in a CSV cell; Python's parser takes a thousand times its size
NO_MASKS = Masks()


@dataclass(frozen=True, slots=True)
class Sample:
    """One multiple-choice question about one clip.

    options  K candidate actions, trimmed and lower-cased        labels  the same as the dataset spells them
    answer   index of the true option in 0..K-1, None if unknown
    start, end  the clip within its video, in seconds; None for the whole video. masks  what to blur in it
    """

    id: str
    domain: str
    options: tuple[str, ...]
    answer: int | None = None
    labels: tuple[str, ...] = ()
    action: str | None = None
    question: str | None = None
    youtube_id: str | None = None
    video: str | None = None
    start: float | None = None
    end: float | None = None
    extra: dict = field(default_factory=dict)  # the dataset's other fields
    masks: Masks = NO_MASKS
    problem: str | None = None  # why its clip cannot be made, where the row itself tells

    @property
    def keys(self):
        """K keys "<option> in <domain>", under which generated_subactions.json holds the sub-actions."""
        return tuple(subaction_key(option, self.domain) for option in self.options)

    def record(self):
        """The sample as artifacts hold it: plain JSON values, the field names of generated_subactions.json."""
        return {
            "youtube_id": self.youtube_id, "id": self.id, "domain": self.domain, "action": self.action,
            "question": self.question, "cleaned_options": list(self.options), "correct_answer_index": self.answer,
        }


def subaction_key(option, domain):
    """The key of an option in generated_subactions.json."""
    return f"{option} in {domain}"


def sample_from_record(record, source):
    """The Sample of an artifact's record, as `Sample.record` makes it. `source` names the file in errors.

    Raises InputError if it has no id or options, or an answer out of range.
    """
    if not isinstance(record, dict) or not isinstance(record.get("id"), str | int) or record["id"] == "":
        raise InputError(f"{source}: has an entry without an id; run the stage that writes it again")
    id = str(record["id"])
    options = record.get("cleaned_options")
    if not isinstance(options, list) or not options or not all(isinstance(o, str) and o.strip() for o in options):
        raise InputError(f"{source}: sample {id} has no options (cleaned_options); mend it or remove the sample")
    answer = record.get("correct_answer_index")
    if answer == -1:  # how older files say that there is none
        answer = None
    if answer is not None and (type(answer) is not int or not 0 <= answer < len(options)):
        raise InputError(f"{source}: sample {id} has answer index {answer!r}, its {len(options)} options allow "
                         f"0 to {len(options) - 1} or null; mend it or remove the sample")
    # Ids, domains and options are in several artifacts and samples: one copy of each is enough.
    options = tuple(sys.intern(str(option)) for option in options)
    return Sample(id=sys.intern(id), domain=sys.intern(str(record.get("domain") or "")), options=options, answer=answer,
                  labels=options, action=record.get("action"), question=record.get("question"),
                  youtube_id=record.get("youtube_id"))


def require_unique_ids(samples, source):
    """Raise InputError if two samples share an id."""
    seen = set()
    for sample in samples:
        if sample.id in seen:
            raise repeated_id(sample.id, source)
        seen.add(sample.id)


def repeated_id(id, source):
    """The InputError for an id that two samples of `source` share."""
    return InputError(f"{source}: sample id {id} occurs twice; give every sample an id of its own")


# Rows of a dataset


def load_samples(dataset, split):
    """All samples of a local .json, .jsonl, .csv or .parquet file, or of a dataset on the Hugging Face hub.

    Raises InputError if it cannot be read, a row has no domain or options, an answer is out of range, or ids repeat.
    """
    rows = load_rows(dataset, split)
    samples, taken = [], set()
    for number, row in enumerate(rows, start=1):
        sample = sample_from_row(row, f"{dataset}, row {number}", taken)
        taken.add(sample.id)
        samples.append(sample)
    if not samples:
        raise InputError(f"{dataset}: has no rows; give a dataset with one row a clip")
    require_unique_ids(samples, dataset)
    return samples


def load_rows(dataset, split):
    """The rows of a dataset as dicts. Raises InputError if they cannot be read.

    Parquet files and the hub are read by the `datasets` library. Text formats are not: it guesses types, so that an id
    001 becomes 1 and an option that looks like a date becomes one, and a row that is null ends the process.
    """
    path = Path(dataset)
    suffix = path.suffix.lower()
    if not path.exists() and suffix not in READERS:
        return _rows_through_datasets("check the name, --split and the connection, or give a local file", dataset,
                                      split=split)
    if not path.is_file():
        raise InputError(f"--dataset {dataset}: no such file; give a {', '.join(READERS)} file")
    if suffix not in READERS:
        raise InputError(f"--dataset {dataset}: is none of {', '.join(READERS)}; convert it to one of them")
    return READERS[suffix](path)


def _rows_through_datasets(advice, dataset, *names, **options):
    import datasets
    import pyarrow

    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)
    problems = (datasets.exceptions.DatasetsError, OSError, ValueError, TypeError, KeyError, StopIteration,
                pyarrow.ArrowException)
    try:
        # As Arrow has it: columns of pictures or sounds are not opened, wherever a row says that they are.
        return datasets.load_dataset(*(names or (dataset,)), **options).with_format("arrow")[:].to_pylist()
    except problems as error:
        raise _unreadable(dataset, error.__cause__ or error, advice) from None


def _rows_of_parquet(path):
    with tempfile.TemporaryDirectory() as cache:  # the copy that `datasets` makes is of no use after this run
        return _rows_through_datasets("give a whole parquet file", path, "parquet", split="train", cache_dir=cache,
                                      data_files=glob.escape(str(path.absolute())), keep_in_memory=True)


def _rows_of_json(path):
    """A list of objects, or an object a line; both under either suffix, as people name them."""
    text = _text_of(path)
    try:
        if text.lstrip().startswith("["):
            rows = parse_json(text)
        else:
            rows = [parse_json(line) for line in text.split("\n") if line.strip()]
    except ValueError as error:
        raise _unreadable(path, error, "check its syntax; it may be cut short") from None
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict):
            raise InputError(f"--dataset {path}: row {number} is no object with fields; mend it or take it out")
    return rows


def _rows_of_csv(path):
    """All cells as text: types are for those who know the columns."""
    csv.field_size_limit(2**31 - 1)  # masks can be long
    reader = csv.reader(io.StringIO(_text_of(path), newline=""), strict=True)
    try:
        columns, *lines = [cells for cells in reader if cells] or [[]]
    except csv.Error as error:
        raise _unreadable(path, error, f"check the quotes up to line {reader.line_num}") from None
    for number, cells in enumerate(lines, start=1):
        if len(cells) != len(columns):
            raise InputError(f"--dataset {path}: row {number} has {len(cells)} cells, the header has {len(columns)}; "
                             "put cells that hold a comma in double quotes")
    return [dict(zip(columns, cells, strict=True)) for cells in lines]


READERS = {".json": _rows_of_json, ".jsonl": _rows_of_json, ".csv": _rows_of_csv, ".parquet": _rows_of_parquet}


def _text_of(path):
    try:
        return read_bytes(path).decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
    except (OSError, UnicodeDecodeError) as error:
        raise _unreadable(path, error, "save it as UTF-8 text") from None


def _unreadable(dataset, error, advice):
    return InputError(f"--dataset {dataset}: cannot be read ({reason_of(error)[:300]}); {advice}")


def sample_from_row(row, source, taken=()):
    """The Sample of a dataset row: ActionAtlas's fields, or `video`, `domain`, `choices` and what else is known.

    source  names the row in errors     taken  ids in use already, for rows that bring none
    Raises InputError if the row has no domain or options, or its answer or times make no sense.
    """
    row = {key: value for key, value in row.items() if value is not None and str(value).strip()}
    video = _text(row.get("video"))
    youtube_id = _text(row.get("youtube_id"))
    id = _text(row.get("id")) or _derived_id(youtube_id or video, source, taken)
    where = f"{source} (id {id})"
    labels = parse_choices(row.get("choices", row.get("choices_str")), where)
    domain = _text(row.get("domain"))
    if not domain:
        raise InputError(f"{where}: has no domain; name the field of the actions, such as basketball")
    start, end = (_seconds(row.get(name), name, where) for name in ("start_timestamp", "end_timestamp"))
    if youtube_id is not None:  # the benchmark cuts at tenths of a second, and counts its masks' frames from there
        start, end = (None if seconds is None else round(seconds, 1) for seconds in (start, end))
    masks, problem = masks_of_row(row)
    return Sample(
        id=id, domain=domain, labels=labels, options=tuple(clean_option(label) for label in labels),
        answer=parse_answer(row.get("answer"), labels, where), action=_text(row.get("action")),
        question=_text(row.get("question")), youtube_id=youtube_id, video=video, start=start, end=end,
        extra={_whole(str(key)): _plain(value) for key, value in row.items()
               if key not in (*OWN_FIELDS, *MASK_FIELDS)},
        masks=masks, problem=problem,
    )


def _text(value):
    return None if value is None else _whole(str(value)).strip()


def _whole(text):
    """A text without the halves of characters that JSON can hold and no file."""
    return text.encode("utf-8", "replace").decode()


def _derived_id(name, source, taken):
    """An id for a row without one: the name of its video, numbered where several rows share it."""
    if not name:
        raise InputError(f"{source}: has neither video nor youtube_id; add a column `video` with a path")
    stem = Path(name.partition("?")[0]).stem or name
    id, count = stem, 1
    while id in taken:
        count += 1
        id = f"{stem}-{count}"
    return id


def clean_option(label):
    """An option as artifacts spell it: trimmed and lower-cased."""
    return label.strip().lower()


def parse_choices(choices, where):
    """K option names of a row: a list, or lines "1. name", or a list that CSV turned into text.

    A number is taken off only where it counts the options, so "360 flip" stays whole.
    Raises InputError if there is no option or an empty one.
    """
    if isinstance(choices, str):
        listed = _list_in_text(choices)
        choices = [line for line in choices.splitlines() if line.strip()] if listed is None else listed
    if not isinstance(choices, list | tuple) or not choices:
        raise InputError(f"{where}: has no options; give `choices` as a list or as lines \"1. name\"")
    labels = []
    for position, choice in enumerate(choices, start=1):
        label = re.sub(rf"^\s*{position}[.)](?!\d)\s*", "", _text(choice) or "").strip()
        if not label:
            raise InputError(f"{where}: option {position} is empty; name it or take it out")
        labels.append(label)
    return tuple(labels)


def _list_in_text(text):
    """The list that a CSV cell holds as JSON or as Python spells it, else None."""
    text = text.strip()
    if not (text.startswith("[") and text.endswith("]")) or len(text) > LONGEST_LIST:
        return None
    for parse in (parse_json, ast.literal_eval):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # Python's opinions on the spelling of others' texts
                value = parse(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        if not isinstance(value, list):
            return []
        # Python joins 'a' 'b', as numpy prints a list, into one text: such a list is none.
        if parse is ast.literal_eval and len(value) < sum(
                token.type == tokenize.STRING for token in tokenize.generate_tokens(io.StringIO(text).readline)):
            return []
        return value
    return None


def parse_answer(answer, labels, where):
    """The 0-based index of a row's answer: a number from 1 to K as in ActionAtlas, or the option's name.

    Raises InputError if it is neither.
    """
    if answer is None:
        return None
    found = set()
    if isinstance(answer, str):
        found = {k for k, label in enumerate(labels) if clean_option(label) == clean_option(answer)}
    if isinstance(answer, str | int | float) and not isinstance(answer, bool):
        with contextlib.suppress(ValueError, OverflowError):
            found |= {k for k in range(len(labels)) if k + 1 == float(answer)}
    if len(found) != 1:
        problem = "fits two options" if found else "is out of range"
        raise InputError(f"{where}: answer {answer!r} {problem}; give a number from 1 to {len(labels)}, "
                         "an option's name, or nothing")
    return found.pop()


def _seconds(value, name, where):
    if value is None:
        return None
    try:
        seconds = float(value)
    except (TypeError, ValueError):
        seconds = float("nan")
    if not 0 <= seconds < float("inf"):
        raise InputError(f"{where}: {name} {value!r} is no number of seconds; mend it or leave it empty")
    return seconds


def _plain(value, levels=MOST_LEVELS):
    """A dataset's value as JSON holds it, and as deep as artifacts may be."""
    if isinstance(value, dict | list | tuple) and not levels:
        return _whole(str(value))
    if isinstance(value, dict):
        return {_whole(str(key)): _plain(part, levels - 1) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part, levels - 1) for part in value]
    if isinstance(value, str):
        return _whole(value)
    if isinstance(value, bool | int) or value is None:
        return value
    if isinstance(value, float) and value == value and abs(value) != float("inf"):
        return value
    return None if isinstance(value, float) else str(value)

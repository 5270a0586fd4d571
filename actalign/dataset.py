"""Samples: a clip, its candidate actions, and the answer if it is known."""

import ast
import contextlib
import csv
import io
import math
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path

from actalign.console import InputError, log
from actalign.files import parse_json, read_bytes, reason_of
from actalign.masks import MASK_FIELDS, Masks, masks_of_row

ACTION_ATLAS = "mrsalehi/ActionAtlas-v1.0"
TEXTS = ("id", "youtube_id", "video", "domain", "action", "question", "note")
TIMES = ("start_timestamp", "end_timestamp")
OWN_FIELDS = (*TEXTS, *TIMES, "phases", "choices", "choices_str", "answer")
MOST_LEVELS = 32  # of lists and objects in a row; ActionAtlas's masks have seven
NO_MASKS = Masks()  # one for all samples without
# A list in a CSV cell as Python writes it: strings or numbers with commas between them.
ITEM = r"""('(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|-?\d[\d.]*)"""
PYTHON_LIST = re.compile(rf"\[\s*{ITEM}(\s*,\s*{ITEM})*\s*,?\s*\]", re.DOTALL)


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
    note: str | None = None  # what a reader of results must know of the dataset
    phases: list | None = None  # of the answer, where they are known: {"start", "end": seconds, "subactions": [m]}
    extra: dict = field(default_factory=dict)  # the dataset's other fields
    masks: Masks = NO_MASKS
    problem: str | None = None  # why its clip cannot be made, where the row itself tells

    @property
    def keys(self):
        """K keys "<option> in <domain>", under which generated_subactions.json holds the sub-actions."""
        return tuple(f"{option} in {self.domain}" for option in self.options)

    def record(self):
        """The sample as artifacts hold it: plain JSON values, the field names of generated_subactions.json."""
        return {"youtube_id": self.youtube_id, "id": self.id, "domain": self.domain, "action": self.action,
                "question": self.question, "cleaned_options": list(self.options), "correct_answer_index": self.answer}


def sample_from_record(record, source):
    """The Sample of an artifact's record, as `Sample.record` makes it. `source` names the file in errors.

    Raises InputError if it has no id or options, or an answer out of range.
    """
    id = record.get("id") if isinstance(record, dict) else None
    if not isinstance(id, str | int) or id == "":
        raise InputError(f"{source}: has an entry without an id; run the stage that writes it again")
    options = record.get("cleaned_options")
    if not isinstance(options, list) or not options or not all(isinstance(o, str) and o.strip() for o in options):
        raise InputError(f"{source}: sample {id} has no options (cleaned_options); mend or remove it")
    answer = record.get("correct_answer_index")
    if answer not in (None, -1) and (type(answer) is not int or not 0 <= answer < len(options)):
        raise InputError(f"{source}: sample {id} has answer index {answer!r}; give 0 to {len(options) - 1} or null")
    # Ids, domains and options are in several artifacts and samples: one copy of each is enough.
    options = tuple(map(sys.intern, options))
    return Sample(id=sys.intern(str(id)), domain=sys.intern(str(record.get("domain") or "")), options=options,
                  answer=None if answer == -1 else answer,  # -1: how older files say that there is none
                  labels=options, **{name: record.get(name) for name in ("action", "question", "youtube_id")})


def require_unique_ids(samples, source):
    """Raise InputError if two samples share an id."""
    seen = set()
    for sample in samples:
        if sample.id in seen:
            raise InputError(f"{source}: sample id {sample.id} occurs twice; give every sample an id of its own")
        seen.add(sample.id)


# Rows of a dataset


def load_samples(dataset, split):
    """All samples of a local .json, .jsonl, .csv or .parquet file, or of a dataset on the Hugging Face hub.

    Raises InputError if it cannot be read, a row has no domain or options, an answer is out of range, or ids repeat.
    """
    path, samples, taken = Path(dataset), [], {}
    read = READERS.get(path.suffix.lower())
    if read is None and path.exists():
        raise InputError(f"--dataset {dataset}: is none of {', '.join(READERS)}; convert it to one of them")
    try:
        rows = read(path) if read else _rows_of_hub(dataset, split)
    except Exception as error:  # the libraries raise anything on files of strangers
        advice = ("give a whole file, text as UTF-8, and in JSON null instead of NaN" if read
                  else "check the name, --split and the connection, or give a local file")
        reason = reason_of(error.__cause__ or error)[:300]
        raise InputError(f"--dataset {dataset}: cannot be read ({reason}); {advice}") from None
    for number, row in enumerate(rows, start=1):
        samples.append(sample_from_row(row, f"{dataset}, row {number}", taken))
        taken.setdefault(samples[-1].id, 1)
    if not samples:
        raise InputError(f"{dataset}: has no rows; give a dataset with one row a clip")
    require_unique_ids(samples, dataset)
    if unknown := sorted({name for sample in samples for name in sample.extra}):
        log.warning("%s: columns that are kept and not used: %s; those that mean something are %s", dataset,
                    ", ".join(unknown)[:300], ", ".join(OWN_FIELDS))
    return samples


def _rows_of_hub(name, split):
    import datasets

    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)
    # As Arrow has it: columns of pictures or sounds are not opened, wherever a row says that they are.
    return datasets.load_dataset(name, split=split).with_format("arrow")[:].to_pylist()


def _rows_of_parquet(path):
    """By pyarrow: pandas would make floats of ids that are whole numbers where a row has none."""
    from pyarrow import parquet

    return parquet.ParquetFile(path).read().to_pylist()


def _rows_of_json(path):
    """A list of objects, or an object a line; both under either suffix, as people name them."""
    text = read_bytes(path).decode("utf-8-sig")
    if text.lstrip().startswith("["):
        return parse_json(text)
    return [parse_json(line) for line in text.split("\n") if line.strip()]


def _rows_of_csv(path):
    """All cells as text, by the csv module: pandas fills up a row that a cut file left short without a word."""
    csv.field_size_limit(2**31 - 1)  # masks can be long
    lines = csv.reader(io.StringIO(read_bytes(path).decode("utf-8-sig"), newline=None), strict=True)
    try:
        columns, *rows = [cells for cells in lines if "".join(cells).strip()] or [[]]  # Excel's blank rows are commas
    except csv.Error as error:
        raise ValueError(f"{error}: check the quotes up to line {lines.line_num}") from None
    if twice := sorted({name for name in columns if name and columns.count(name) > 1}):
        raise ValueError(f"two columns are called {', '.join(twice)}: rename one")
    for number, cells in enumerate(rows, start=1):
        if len(cells) != len(columns):
            raise ValueError(f"row {number} has {len(cells)} cells, the header {len(columns)} "
                             f"({', '.join(columns)[:200]}): quote those with commas")
    return [dict(zip(columns, cells, strict=True)) for cells in rows]


READERS = {".json": _rows_of_json, ".jsonl": _rows_of_json, ".csv": _rows_of_csv, ".parquet": _rows_of_parquet}


def sample_from_row(row, source, taken=()):
    """The Sample of a dataset row: ActionAtlas's fields, or `video`, `domain`, `choices` and what else is known.

    source  names the row in errors     taken  {id in use: rows named after it}, which grows
    Raises InputError if the row has no video, domain or options, or its answer or times make no sense.
    """
    if not isinstance(row, dict):
        raise InputError(f"{source}: is no object with fields; mend it or take it out")
    masks, problem = masks_of_row(row)
    columns = f"its columns are {', '.join(map(str, row))}"[:300]
    if isinstance(video := row.get("video"), dict | list | bytes):  # such as datasets' Video column
        row = row | {"video": video.get("path") if isinstance(video, dict) else None}
        if not row["video"]:
            raise InputError(f"{source}: holds its video without a path; save the videos as files beside the dataset, "
                             "and give their paths")
    row = {str(key): _plain(value, source) for key, value in row.items() if key not in MASK_FIELDS}
    row = {key: value for key, value in row.items() if value is not None and str(value).strip()}
    texts = {name: str(row[name]).strip() for name in TEXTS if name in row}
    name = texts.get("youtube_id") or texts.get("video")
    if name is None:
        raise InputError(f"{source}: has neither video nor youtube_id ({columns}); add a column `video` with a path")
    if "id" not in texts:  # then it is the name of its video, numbered where several rows share it
        texts["id"] = stem = Path(name.partition("?")[0]).stem or name
        while texts["id"] in taken:
            taken[stem] += 1
            texts["id"] = f"{stem}-{taken[stem]}"
    where = f"{source} (id {texts['id']})"
    if not {"choices", "choices_str"} & row.keys():
        raise InputError(f"{where}: has no options ({columns}); give `choices` as a list or as lines \"1. name\"")
    labels = parse_choices(row.get("choices", row.get("choices_str")), where)
    if "domain" not in texts:
        raise InputError(f"{where}: has no domain ({columns}); name the field of the actions, such as basketball")
    start, end = (_seconds(row[name], name, where) if name in row else None for name in TIMES)
    if "youtube_id" in texts:  # the benchmark cuts at tenths of a second, and counts its masks' frames from there
        start, end = (None if seconds is None else round(seconds, 1) for seconds in (start, end))
    return Sample(
        **texts, options=tuple(map(str.lower, labels)), answer=parse_answer(row.get("answer"), labels, where),
        labels=labels, start=start, end=end, masks=masks, problem=problem, phases=_phases(row.get("phases"), where),
        extra={key: value for key, value in row.items() if key not in OWN_FIELDS})


def _plain(value, source, levels=MOST_LEVELS):
    """A dataset's value as JSON holds it. Raises InputError if it nests too deep for being written and printed."""
    if isinstance(value, dict | list | tuple) and not levels:
        raise InputError(f"{source}: its fields nest deeper than {MOST_LEVELS} levels; take the deepest out")
    if isinstance(value, dict):
        return {_plain(str(key), source): _plain(part, source, levels - 1) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part, source, levels - 1) for part in value]
    if isinstance(value, int | float | None):
        return value
    return str(value).encode("utf-8", "replace").decode()  # an old array can hold halves of characters, a file none


def parse_choices(choices, where):
    """K option names of a row: a list, or lines "1. name", or a list that CSV turned into text.

    A number is taken off only where it counts the options, so "360 flip" stays whole.
    Raises InputError if there is no option or an empty one.
    """
    from actalign.subactions import folded_key  # which imports this module
    if isinstance(choices, str):
        choices = _list_of_text(choices.strip())
    if not isinstance(choices, list | tuple) or not choices:
        raise InputError(f"{where}: has no options; give `choices` as a list or as lines \"1. name\"")
    labels = tuple(re.sub(rf"^\s*{position}[.)](?!\d)\s*", "", "" if choice is None else str(choice)).strip()
                   for position, choice in enumerate(choices, start=1))
    if "" in labels:
        raise InputError(f"{where}: option {labels.index('') + 1} is empty; name it or take it out")
    if len(set(map(folded_key, labels))) < len(labels):
        raise InputError(f"{where}: has two options that are the same but for case: {', '.join(labels)}; rename one")
    return labels


def _list_of_text(text):
    """The list that a text holds as JSON or as Python writes it, else its lines; [] where a list is broken.

    Strings without commas between them, as numpy prints a list, are a broken one: Python would join them.
    """
    with contextlib.suppress(ValueError):
        if text.startswith("["):
            return parse_json(text)
    if not (re.match(r"\[\s*['\"]", text) and text.endswith("]")):
        return [line for line in text.splitlines() if line.strip()]
    with contextlib.suppress(ValueError, SyntaxError):
        return ast.literal_eval(text) if PYTHON_LIST.fullmatch(text) else []
    return []


def parse_answer(answer, labels, where):
    """The 0-based index of a row's answer: a number from 1 to K as in ActionAtlas, or the option's name.

    Raises InputError if it is neither.
    """
    if answer is None:
        return None
    name, number = None, answer
    if isinstance(answer, str):
        name = answer.strip().lower()
        with contextlib.suppress(ValueError):
            number = float(answer)
    found = [k for k, label in enumerate(labels) if label.lower() == name or (k + 1 == number and number is not True)]
    if len(found) != 1:
        problem = "fits two options" if found else "is out of range"
        raise InputError(f"{where}: answer {answer!r} {problem}; give 1 to {len(labels)}, an option's name, or nothing")
    return found[0]


def _phases(value, where):
    """The true phases of a row, or None. Raises InputError unless they are such objects, in order."""
    if value is None:
        return None
    with contextlib.suppress(KeyError, TypeError, ValueError):
        phases = parse_json(value) if isinstance(value, str) else value
        phases = [{"start": float(one["start"]), "end": float(one["end"]), "subactions": [*map(int, one["subactions"])]}
                  for one in phases]
        times = [time for one in phases for time in (one["start"], one["end"])]
        if any(one["subactions"] for one in phases) and times == sorted(times) and abs(times[-1]) < math.inf:
            return phases
    raise InputError(f"{where}: phases are no list of {{\"start\", \"end\": seconds, \"subactions\": [0, ...]}} in "
                     "order; mend them or take the column out")


def _seconds(value, name, where):
    with contextlib.suppress(TypeError, ValueError, OverflowError):
        if 0 <= float(value) < math.inf:
            return float(value)
    raise InputError(f"{where}: {name} {value!r} is no number of seconds; mend it or leave it empty")

"""Samples: a clip, its candidate actions, and the answer if it is known."""

import sys
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from actalign.cells import NUMBER, folded_key, parse_answer, parse_choices, parse_phases, parse_seconds, separator_of
from actalign.console import InputError, log, some_of
from actalign.files import reason_of
from actalign.masks import MASK_FIELDS, masks_of_row
from actalign.rows import OWN_FIELDS, READERS, TEXTS, TIMES, is_place, rows_of, text_of

ACTION_ATLAS = "mrsalehi/ActionAtlas-v1.0"
MOST_LEVELS = 32  # of lists and objects in a row; ActionAtlas's masks have seven
CHOICES = ("choices", "choices_str")


@dataclass(frozen=True, slots=True)
class Sample:
    """One multiple-choice question about one clip.

    options  K candidate actions, trimmed and lower-cased        labels  the same as the dataset spells them
    answer   index of the true option in 0..K-1, None if unknown
    start, end  the clip within its video, in seconds; None for the whole video. masks  what to blur in it, see masks.py
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
    folder: Path | None = None  # that a path of `video` begins in, the dataset's
    hub: str | None = None  # and the address of that folder, where the dataset came from the hub
    start: float | None = None
    end: float | None = None
    note: str | None = None  # what a reader of results must know of the dataset
    phases: list | None = None  # of the answer, where they are known: {"start", "end": seconds, "subactions": [m]}
    extra: dict = field(default_factory=dict)  # the dataset's other fields
    masks: dict = field(default_factory=dict)
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


# Datasets


def add_arguments(parser, default=ACTION_ATLAS):
    """Add the flags that say which clips are meant, and what is asked of them, for `load`; returns the actions.

    default: what is taken without --dataset, as the help says it
    """
    add = parser.add_argument
    return [
        add("--dataset", nargs="+", action="extend", metavar="DATASET",
            help=f"files with a row a clip ({', '.join(READERS)}), folders of videos, videos, http(s) addresses, or "
                 f"names on the hub (default: {default})"),
        add("--split", default="test", help="of a dataset on the hub (default: %(default)s)"),
        add("--options", nargs="+", action="extend", metavar="OPTION",
            help="candidate actions of all rows that have none of their own, or a text file with one a line"),
        add("--domain", help="the field of the actions, such as basketball, of all rows that have none of their own"),
        add("--videos_dir", type=Path,
            help="folder of the dataset's paths and of files named by youtube_id (default: the dataset's)"),
    ]


def load(args):
    """All Samples that the flags of `add_arguments` name. Raises InputError."""
    if args.videos_dir and not args.videos_dir.is_dir():
        raise InputError(f"--videos_dir {args.videos_dir}: no such folder; give one that is there")
    args.dataset = args.dataset or [ACTION_ATLAS]
    if args.videos_dir and (there := [one for one in args.dataset if is_place(one)]):
        raise InputError(f"--videos_dir {args.videos_dir}: is for paths in datasets, and {there[0]} is no dataset but "
                         "videos; run it apart, or leave --videos_dir out")
    options = args.options
    if options and len(options) == 1:
        [options] = options
        if Path(options).is_file() or options.endswith(".txt"):
            try:
                options = text_of(options, "Windows-1252")
            except (OSError, ValueError) as error:
                raise InputError(f"--options {options}: cannot be read ({reason_of(error)}); give a text file with an "
                                 "option a line") from None
    return load_samples(args.dataset, args.split, options, args.domain)


def load_samples(datasets, split="test", options=None, domain=None):
    """The Samples of one dataset or of a list of them: what --dataset takes. options, domain: of rows that have none.

    Raises InputError if one cannot be read, a row has no domain or options, an answer is out of range, or ids repeat.
    """
    if options is not None:
        parse_choices(options, "--options")
    found = [rows_of(one, split) for one in ([str(datasets)] if isinstance(datasets, str | Path) else datasets)]
    _complete(found, options, domain)
    samples, taken = [], {}
    for source, rows, folder, hub, _ in found:
        is_folder = Path(source).is_dir()
        for number, row in enumerate(rows, start=1):
            if is_folder:
                row["id"] = _unused(row["id"], taken)
            samples.append(sample_from_row(row, f"{source}, row {number}", taken, folder, hub))
            taken.setdefault(samples[-1].id, 1)
    source = some_of([of_one.source for of_one in found])
    require_unique_ids(samples, source)
    if unknown := sorted({name for sample in samples for name in sample.extra}):
        log.warning("%s: columns that are kept and not used: %s; those that mean something are %s", source,
                    ", ".join(unknown)[:300], ", ".join(OWN_FIELDS))
    if single := sum(len(sample.options) == 1 for sample in samples):
        log.warning("%s: %d of %d samples have one option, so that every answer is right; separate options by |, ; or "
                    "line breaks, or give --options", source, single, len(samples))
    return samples


def _has(row, name):
    """Whether a row's field says anything."""
    return row.get(name) is not None and not (isinstance(row[name], str) and not row[name].strip())


def _text(row, name):
    """The text of a row's field, "" where it has none."""
    return row[name].strip() if isinstance(row.get(name), str) else ""


def _choices_of(row):
    return next((row[name] for name in CHOICES if _has(row, name)), None)


def _complete(found, options, domain):
    """Give the rows of a list of Rows what they lack: options and domain as given, and what their answers tell."""
    rows = [row for of_one in found for row in of_one.rows]
    for flag, is_unused in (("options", options and all(map(_choices_of, rows))),
                            ("domain", domain and all(_has(row, "domain") for row in rows))):
        if is_unused:
            log.info("%s: --%s is not used, since every row has its own", some_of([one.source for one in found]), flag)
    for row in rows:
        if options and not _choices_of(row):
            row["choices"] = options
        if domain and not _has(row, "domain"):
            row["domain"] = domain
    if not any(map(_choices_of, rows)):
        _take_answers_as_options(found)
    for of_one in found:
        if separators := {separator_of(_text(row, name)) for row in of_one.rows for name in CHOICES} - {None}:
            log.info("%s: options are separated by %s", of_one.source, " and ".join(sorted(separators)))
        if of_one.label:
            _take_as_answer(of_one)


def _take_answers_as_options(found):
    """Give every row of a list of Rows, none of which has options, the different answers by name of its domain."""
    names, rows = defaultdict(dict), [(row, of_one.label or "answer") for of_one in found for row in of_one.rows]
    for row, label in rows:
        if (name := _text(row, label)) and not NUMBER.fullmatch(name):
            names[_text(row, "domain")].setdefault(folded_key(name), name)
    if names:
        for row, _ in rows:
            row["choices"] = sorted(names[_text(row, "domain")].values())
        log.info("%s: has no options, so that every row gets all answers of its domain: %s", found[0].source,
                 some_of([f"{len(of_domain)} of {domain}" for domain, of_domain in names.items()]))


def _take_as_answer(found):
    """Have the `label` column of Rows be the answer, if it names an option in every row that has one."""
    source, rows, label = found.source, found.rows, found.label
    for number, row in enumerate(rows, start=1):
        options = map(folded_key, parse_choices(_choices_of(row), f"{source}, row {number}"))
        if _has(row, label) and folded_key(_text(row, label)) not in options:
            log.info("%s: %s is not taken as the answer, since that of row %d is none of the options", source, label,
                     number)
            return
    for row in rows:
        row["answer"] = row.get(label) if label == "action" else row.pop(label, None)
    log.info("%s: %s is read as the answer", source, label)


def sample_from_row(row, source, taken=(), folder=None, hub=None):
    """The Sample of a dataset row: ActionAtlas's fields, or `video`, `domain`, `choices` and what else is known.

    source  names the row in errors     taken  {id in use: rows named after it}, which grows
    folder, hub  the Sample's
    Raises InputError if the row has no video, domain or options, or its answer or times make no sense.
    """
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
        texts["id"] = _unused(Path(name.partition("?")[0]).stem or name, taken)
    where = f"{source} (id {texts['id']})"
    if not {*CHOICES} & row.keys():
        raise InputError(f"{where}: has no options ({columns}); give a column `choices`, or --options for all rows")
    labels = parse_choices(row.get("choices", row.get("choices_str")), where)
    if "domain" not in texts:
        raise InputError(f"{where}: has no domain ({columns}); name the field of the actions, such as basketball, in a "
                         "column `domain` or by --domain")
    start, end = (parse_seconds(row[name], name, where) if name in row else None for name in TIMES)
    if "youtube_id" in texts:  # the benchmark cuts at tenths of a second, and counts its masks' frames from there
        start, end = (None if seconds is None else round(seconds, 1) for seconds in (start, end))
    return Sample(
        **texts, options=tuple(map(str.lower, labels)), answer=parse_answer(row.get("answer"), labels, where),
        labels=labels, start=start, end=end, masks=masks, problem=problem, folder=folder, hub=hub,
        phases=parse_phases(row.get("phases"), where),
        extra={key: value for key, value in row.items() if key not in OWN_FIELDS})


def _unused(name, taken):
    """A name, numbered where it is taken: {id in use: rows named after it}, which grows."""
    id = name
    while id in taken:
        taken[name] += 1
        id = f"{name}-{taken[name]}"
    return id


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

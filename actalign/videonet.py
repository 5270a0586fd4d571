"""VideoNet's questions as rows of a dataset, and answers in the form that its own evaluation writes.

Source: RAIVNLab/VideoNet (arXiv 2605.02834), README: the specification of its JSONL files, and its results' structure.
"""

import re
from pathlib import Path

from actalign.console import InputError, log, require_folder_of, say
from actalign.files import begins_with, parse_json, write_json

NAME = "raivn/VideoNet"
HUB_FOLDER = "videos"
QUESTION = re.compile(r"(Which of the following (.+?)(?: actions)? is shown in the video\?)\n+(.*)", re.DOTALL)


def hub_files(name, split):
    """What datasets.load_dataset is told besides the name and the split: VideoNet's questions are one file of many."""
    return {"data_files": {split: f"benchmarks/mcq_{split.replace('validation', 'val')}.jsonl"}} if name == NAME else {}


def rows_of(rows, source):
    """The rows of a dataset, those of VideoNet as others are: id, video, domain, question, choices, answer from 1.

    Raises InputError for a question that is not of many options.
    """
    if "key" not in rows[0] or not _parts(rows[0]):
        return rows
    log.info("%s: is read as questions of VideoNet", source)
    return [_row_of(row, f"{source}, row {number}") for number, row in enumerate(rows, start=1)]


def _parts(row):
    try:  # the library `datasets` gives parts that have not the same fields as texts of JSON
        parts = [parse_json(part) if isinstance(part, str) else part for part in row.get("question") or ()]
    except (TypeError, ValueError):
        return []
    return [part for part in parts if isinstance(part, dict)]


def _row_of(row, where):
    texts = [part["text"] for part in _parts(row) if isinstance(part.get("text"), str)]
    videos = [part["video"] for part in _parts(row) if part.get("video")]
    asked = QUESTION.fullmatch(texts[0].strip()) if len(texts) == len(videos) == 1 else None
    choices = []
    for line in asked[3].splitlines() if asked else ():
        if line.startswith(f"{chr(ord('A') + len(choices))}. "):
            choices.append(line[3:])
    answer = str(row.get("answer") or "").strip().upper()
    letters = [chr(ord("A") + k) for k in range(len(choices))]
    if not choices or (answer and answer not in letters):
        raise InputError(f"{where}: is no question of VideoNet with options A, B, ... and one of them as its answer; "
                         "give mcq_test.jsonl or mcq_val.jsonl, since its others are answered by yes or no")
    return {"id": row.get("key"), "video": videos[0], "domain": asked[2], "question": asked[1], "choices": choices,
            "answer": letters.index(answer) + 1 if answer else None}


def require_usable(path):
    """Raise InputError if results cannot be written to `path`, or would replace a file of another kind."""
    require_folder_of(path)
    if Path(path).exists() and not begins_with(path, r'\s*{\s*("[^"]*"\s*:\s*{\s*"accurate"|})'):
        raise InputError(f"--videonet {path}: is there and holds no results of VideoNet; choose another name")


def write_results(path, predictions):
    """Write {id: {"accurate": 1 or 0, "prediction": a letter, "response": text}} of the Predictions with an answer."""
    results = {}
    for one in predictions:
        letter = chr(ord("A") + int(one.ranking[0]))
        if one.is_right is not None:
            results[one.sample.id] = {"accurate": int(one.is_right), "prediction": letter,
                                      "response": f"{one.sample.options[one.ranking[0]]}\n{letter}"}
    write_json(path, results)
    say(f"{len(results)} answers as VideoNet's evaluation writes them -> {path}")

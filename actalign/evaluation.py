"""Scores into results: rankings, Top-k accuracy with intervals and chance, tables, predictions.json and .csv."""

import contextlib
import csv
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from actalign.console import InputError, require_folder_of, some_of
from actalign.dataset import Sample, require_unique_ids, sample_from_record
from actalign.files import Hold, read_json, replacing, write_json_items
from actalign.json_items import JsonItems

TOP_K = (1, 2, 3)
RESAMPLES = 10_000
SEED = 0  # of the bootstrap, so that the same predictions give the same interval
FORMAT = "actalign-predictions"
VERSION = 1
COLUMNS = ("id", "domain", "option_index", "option", "score", "rank", "is_prediction", "is_answer")  # of the CSV twin
TERMINAL_COLUMNS = 80
NARROWEST_TEXT = 12  # columns; shorter texts of a table tell too little


@dataclass(frozen=True, slots=True)
class Prediction:
    """The scores of one sample's K options, and with alignment a sequence of their paths, each (cells, 2) of (t, m)."""

    sample: Sample
    scores: np.ndarray
    paths: Sequence | None = None

    def __post_init__(self):
        if len(self.scores) != len(self.sample.options):
            raise ValueError(f"sample {self.sample.id}: {len(self.scores)} scores for "
                             f"{len(self.sample.options)} options")

    @property
    def ranking(self):
        """Option indices from best to worst; equal scores keep the order of the options."""
        return np.argsort(-np.asarray(self.scores), kind="stable")

    @property
    def rank_of_answer(self):
        """0 if the true option came first."""
        return int(np.flatnonzero(self.ranking == self.sample.answer)[0])

    @property
    def is_right(self):
        """Whether the answer came first; None where it is not known."""
        return None if self.sample.answer is None else self.rank_of_answer == 0

    @property
    def margin(self):
        """By how much the best score leads; None with a single option."""
        if len(self.scores) == 1:
            return None
        best, second = np.asarray(self.scores)[self.ranking[:2]]
        return float(best - second)

    @property
    def is_tied(self):
        """Whether the best score is shared, so that only the order of the options decided."""
        return int(np.sum(self.scores == np.max(self.scores))) > 1


@dataclass(frozen=True)
class Accuracy:
    """A share of hits with its 95% interval, all in 0..1."""

    value: float
    low: float
    high: float

    def __str__(self):
        return f"{100 * self.value:.1f} [{100 * self.low:.1f}, {100 * self.high:.1f}]"


def top_k_hits(predictions, k):
    """(N,) bool: whether the answer is among the k best. With fewer options than k it always is."""
    return np.array([prediction.rank_of_answer < k for prediction in predictions], dtype=bool)


def accuracy(hits):
    """The Accuracy of (N,) hits, N > 0, with the percentile bootstrap interval.

    The sum of N hits drawn with replacement is binomial, so the resamples are drawn as such.
    Source: Efron and Tibshirani 1993, chapter 13.
    """
    hits = np.asarray(hits, dtype=bool)
    if not len(hits):
        raise ValueError("no samples, no accuracy")
    value = hits.mean()
    resampled = np.random.default_rng(SEED).binomial(len(hits), value, RESAMPLES) / len(hits)
    low, high = np.percentile(resampled, [2.5, 97.5])
    return Accuracy(float(value), float(low), float(high))


def chance(samples, k):
    """The exact expected Top-k accuracy of guessing on these samples, in 0..1."""
    return float(np.mean([min(k / len(sample.options), 1) for sample in samples]))


def accuracy_table(methods):
    """The table of {method name: predictions with answers}; the methods share their samples' chance level.

    Returns its lines. Where methods scored different samples, each has its own chance line.
    """
    rows = [("", *(f"Top-{k} [95%]" for k in TOP_K), "n")]
    chances = {name: tuple(f"{100 * chance([p.sample for p in predictions], k):.1f}" for k in TOP_K)
               for name, predictions in methods.items()}
    shared = len({(values, len(methods[name])) for name, values in chances.items()}) == 1
    for name, predictions in methods.items():
        if not shared or len(rows) == 1:
            rows.append(("chance" if shared else f"chance, {name}", *chances[name], str(len(predictions))))
        values = (str(accuracy(top_k_hits(predictions, k))) for k in TOP_K)
        rows.append((name, *values, str(len(predictions))))
    return table(rows)


def table(rows, texts=1, columns=TERMINAL_COLUMNS):
    """Lines of a text table whose first row is a header: so many columns of texts, then numbers.

    Texts are shortened until the lines fit into so many columns of a terminal, the widest first.
    """
    rows = [[*map(printable, row[:texts]), *row[texts:]] for row in rows]
    widths = [max(map(width_of, column)) for column in zip(*rows, strict=True)]
    while sum(widths) + 2 * (len(widths) - 1) > columns and max(widths[:texts]) > NARROWEST_TEXT:
        widths[widths.index(max(widths[:texts]))] -= 1
    lines = []
    for row in rows:
        cells = [_padded(shortened(cell, width), width) if column < texts else cell.rjust(width)
                 for column, (cell, width) in enumerate(zip(row, widths, strict=True))]
        lines.append("  ".join(cells).rstrip())
    return [lines[0], "-" * max(map(width_of, lines)), *lines[1:]]


def printable(text):
    """A text in one line without what steers a terminal: control characters are spaces, marks without shape go."""
    text = "".join("" if unicodedata.category(c) == "Cf" else c if c.isprintable() else " " for c in text)
    return " ".join(text.split()) if "  " in text else text


def width_of(text):
    """How many columns of a terminal a text takes: two for what is wide in East Asia, none for combining marks."""
    return len(text) if text.isascii() else sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def shortened(text, width):
    """A text in at most so many columns of a terminal, ending in an ellipsis where it was longer."""
    if width_of(text) <= width:
        return text
    while text and width_of(text) >= width:
        text = text[:-1]
    return text.rstrip() + "…"


def _padded(text, width):
    return text + " " * (width - width_of(text))


def print_results(name, predictions, not_scored, compared=None):
    """Print what a scoring stage found: accuracy where answers are known, predictions where none are.

    not_scored: {sample id: reason}    compared: {name of another method: its predictions}, for the same table
    """
    answered = [prediction for prediction in predictions if prediction.sample.answer is not None]
    if answered:
        methods = {name: answered}
        for other, theirs in (compared or {}).items():
            methods[other] = [one for one in theirs if one.sample.answer is not None]
        print("\n".join(accuracy_table({method: found for method, found in methods.items() if found})))
    elif predictions:
        print("\n".join(prediction_table(predictions)))
    print(_counts(predictions, answered, not_scored))
    for reason, ids in _by_reason(not_scored).items():
        print(f"not scored: {len(ids)}, {reason} ({some_of(ids)})")
    tied = [prediction.sample.id for prediction in predictions if prediction.is_tied]
    if tied:
        print(f"ties: in {len(tied)} samples the best score is shared and the first such option was taken "
              f"({some_of(tied)})")


def require_all_joined(predictions, not_scored, ids):
    """Raise RuntimeError unless every one of `ids` has either one prediction or a reason why not, and nothing else has.

    No number is printed of samples that were joined wrongly; that K scores meet K options, Prediction itself requires.
    """
    told = Counter([prediction.sample.id for prediction in predictions] + list(not_scored))
    wrong = [id for id in {*told, *ids} if told[id] != 1 or id not in ids]
    if wrong:
        raise RuntimeError(f"{len(wrong)} samples were joined wrongly ({some_of(sorted(wrong))}); no result is printed")


def made_from(sources):
    """The line that tells which artifacts made a result, by their fingerprints."""
    return "made from " + ", ".join(f"{name} {source['fingerprint']}" for name, source in sources.items())


def _counts(predictions, answered, not_scored):
    without = len(predictions) - len(answered)
    unknown = f", {without} of them without a known answer" if without and answered else ""
    unknown = ", none with a known answer: no accuracy" if without and not answered else unknown
    return f"{len(predictions)} of {len(predictions) + len(not_scored)} samples scored{unknown}"


def _by_reason(not_scored):
    reasons = {}
    for id, reason in not_scored.items():
        reasons.setdefault(reason, []).append(id)
    return reasons


def prediction_table(predictions):
    """The lines of a table with each sample's best option, its score, and by how much it leads."""
    rows = [("sample", "prediction", "score", "margin")]
    for prediction in predictions:
        best, *others = np.asarray(prediction.scores)[prediction.ranking]
        margin = score_text(best - others[0]) if others else "-"
        rows.append((prediction.sample.id, prediction.sample.options[prediction.ranking[0]], score_text(best), margin))
    return table(rows, texts=2)


def score_text(value):
    """A score in four decimals, or where these would show nothing of it, in two digits and a power of ten."""
    return f"{value:.4f}" if value == 0 or abs(value) >= 0.001 else f"{value:.1e}"


# predictions.json


def write_predictions(path, method, sources, predictions, not_scored):
    """Write predictions.json: the method and its settings, the artifacts it read, and every sample's scores.

    Beside it goes its CSV twin, a row for every sample and option. docs/predictions.md describes both.
    method: {"name": ..., settings}   sources: {flag: {"path", "fingerprint", ...}}   not_scored: {id: reason}
    """
    answered = [prediction for prediction in predictions if prediction.sample.answer is not None]
    header = {"format": FORMAT, "version": VERSION, "method": method, "sources": sources,
              "summary": _summary(predictions, answered, not_scored),
              "not_scored": [{"id": id, "reason": reason} for id, reason in not_scored.items()]}
    write_json_items(path, header, "samples", (_entry(prediction) for prediction in predictions))
    with replacing(csv_path(path)) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for prediction in predictions:
            writer.writerows(_rows(prediction))


def csv_path(path):
    """The CSV twin of the predictions at `path`."""
    return Path(path).with_suffix(".csv")


def _rows(prediction):
    """K rows of COLUMNS; the first rank is 1, and is_answer is empty where the answer is not known."""
    sample, ranks = prediction.sample, np.argsort(prediction.ranking)
    for k, (option, score, rank) in enumerate(zip(sample.options, prediction.scores, ranks, strict=True)):
        is_answer = "" if sample.answer is None else k == sample.answer
        yield sample.id, sample.domain, k, option, repr(float(score)), rank + 1, rank == 0, is_answer


def _summary(predictions, answered, not_scored):
    summary = {"scored": len(predictions), "with_answer": len(answered), "not_scored": len(not_scored)}
    for k in TOP_K if answered else ():
        result = accuracy(top_k_hits(answered, k))
        summary[f"top{k}"] = {"accuracy": result.value, "low": result.low, "high": result.high,
                              "chance": chance([prediction.sample for prediction in answered], k)}
    return summary


def _entry(prediction):
    entry = {**prediction.sample.record(), "scores": [float(score) for score in prediction.scores],
             "ranking": [int(k) for k in prediction.ranking]}
    if prediction.paths is not None:
        entry["paths"] = [np.asarray(path).tolist() for path in prediction.paths]
    return entry


def read_predictions(path):
    """(method, predictions) of a predictions.json. Raises InputError if it is none."""
    content = read_json(path, "predictions")
    if not isinstance(content, dict) or content.get("format") != FORMAT or content.get("version") != VERSION:
        raise InputError(f"{path}: holds no predictions of this version; give what --output of seq_alignment.py or "
                         "baseline.py wrote")
    try:
        predictions = [_prediction(entry, path) for entry in content["samples"]]
        require_unique_ids([prediction.sample for prediction in predictions], path)
        return content["method"], predictions
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise InputError(f"{path}: is damaged ({error}); run the stage that writes it again") from None


def _prediction(entry, path):
    sample = sample_from_record(entry, path)
    scores = np.array(entry["scores"], dtype=np.float64)
    if scores.ndim != 1 or not np.isfinite(scores).all():
        raise ValueError(f"the scores of sample {sample.id} are no list of numbers")
    paths = entry.get("paths")
    if paths is not None and (len(paths) != len(scores) or not all(map(_is_path, paths))):
        raise ValueError(f"the paths of sample {sample.id} are no lists of frame and sub-action, one an option")
    return Prediction(sample, scores, paths)


def _is_path(path):
    cells = np.array(path)
    return cells.ndim == 2 and cells.shape[1] == 2 and cells.dtype.kind == "i" and (cells >= 0).all()


@contextlib.contextmanager
def predictions_output(path):
    """Keep predictions that are to be written to `path` to this run; nothing is done where `path` is None.

    Raises InputError if its folder is not there, it is a file of another kind, or another run holds it.
    """
    if path is None:
        yield
        return
    require_folder_of(path)
    require_replaceable(path)
    hold = Hold(path)
    try:
        yield
    finally:
        hold.release()


def require_replaceable(path):
    """Raise InputError if writing predictions and their CSV twin to `path` would replace files of another kind."""
    twin = csv_path(path)
    if twin == Path(path):
        raise InputError(f"--output {path}: .csv is what the table beside the predictions is called; choose a name "
                         f"such as {twin.with_suffix('.json').name}")
    if Path(path).exists():
        content = JsonItems(path, "predictions", "samples")
        try:
            next(iter(content), None)  # the format stands before the samples; these need not be read
            ours = (content.header or {}).get("format") == FORMAT
        except InputError:
            ours = False
        if not ours:
            raise InputError(f"--output {path}: is there and holds no predictions; choose another name")
    if twin.exists() and not _is_twin(twin):
        raise InputError(f"--output {path}: {twin} would be written beside it and is there with other content; "
                         "choose another name")


def _is_twin(path):
    try:
        with open(path, encoding="utf-8") as file:
            return file.readline(1000).rstrip("\r\n") == ",".join(COLUMNS)
    except (OSError, UnicodeDecodeError):
        return False

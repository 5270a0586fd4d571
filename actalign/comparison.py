"""Two methods on the same samples: joined by id, with a paired test of their difference."""

from collections import Counter
from dataclasses import dataclass
from math import comb
from pathlib import Path

from actalign.alignment import METHODS, Method
from actalign.console import InputError, some_of
from actalign.evaluation import Prediction
from actalign.predictions import read_predictions
from actalign.tables import shortened

NAME_COLUMNS = 32


@dataclass(frozen=True)
class Compared:
    """The predictions of another method: its name, the file they are from, and {sample id: Prediction}.

    predictions hold the samples of this run, with the answers that this run knows; others are the ids of the rest.
    """

    name: str
    path: str
    predictions: dict
    others: list


def paired(predictions, compared):
    """[(ours, theirs)] of those of this run's predictions whose samples the Compared scored too; none if it is None."""
    theirs = compared.predictions if compared else {}
    return [(ours, theirs[ours.sample.id]) for ours in predictions if ours.sample.id in theirs]


def method_name(method):
    """What the method of a predictions.json is called where people read of it."""
    if "similarity" not in method:
        return shortened(str(method["name"]), NAME_COLUMNS)
    own = method_of(method)
    name = own.alignment if own == Method(own.alignment) else str(own)  # the similarity is told unless it is published
    return {known: name for name, known in METHODS.items()}.get(own) or shortened(name, NAME_COLUMNS)


def method_of(method):
    """The alignment.Method of a predictions.json that seq_alignment.py wrote."""
    return Method(method["name"], method["similarity"], method["contrast"])


def read_all_compared(paths, samples, own_method):
    """[Compared] of several predictions.json, against the `samples` of this run and its method.

    Each has the first name that is not taken: its method, what differs from this run's settings, its file, a number.
    Raises InputError if one is none, shares no sample with this run, or asked other questions.
    """
    own_name, found = method_name(own_method), []
    for path in paths:
        method, predictions = read_predictions(path)
        theirs = {prediction.sample.id: prediction for prediction in predictions}
        shared = [(sample, theirs[sample.id]) for sample in samples if sample.id in theirs]
        if not shared:
            raise InputError(f"--compare {path}: has none of this run's samples; give predictions for the same samples")
        differing = [ours.id for ours, other in shared if ours.options != other.sample.options
                     or (None not in (ours.answer, other.sample.answer) and ours.answer != other.sample.answer)]
        if differing:
            raise InputError(f"--compare {path}: {some_of(differing)} had other options or another answer there; give "
                             "predictions that were made from the same dataset")
        name, taken = method_name(method), {own_name, *(one.name for one in found)}
        differs = ", ".join(f"{key} {value}" for key, value in method.items() if own_method.get(key) != value)
        names = [name, *[differs] * (name == own_name and differs != ""), Path(path).name]
        names = [shortened(name, NAME_COLUMNS) for name in names]
        name = next(one for one in (*names, *(f"{name} {n}" for n in range(2, 3 + len(taken)))) if one not in taken)
        joined = {ours.id: Prediction(ours, other.scores) for ours, other in shared}
        found.append(Compared(name, str(path), joined, [id for id in theirs if id not in joined]))
    return found


def outcomes(pairs):
    """How many of [(ours, theirs)] have an answer, on how many of these who is right, and McNemar's p as text."""
    counts = Counter((ours.is_right, theirs.is_right) for ours, theirs in pairs if ours.sample.answer is not None)
    first, second = counts[True, False], counts[False, True]
    return {"compared": counts.total(), "both": counts[True, True], "first": first, "second": second,
            "neither": counts[False, False], "p": p_text(mcnemar(first, second))}


def disagreements(pairs):
    """The [(ours, theirs)] of which only one is right; if there are none, those that chose different options."""
    return [pair for pair in pairs if pair[0].is_right != pair[1].is_right] or [
        pair for pair in pairs if pair[0].ranking[0] != pair[1].ranking[0]]


def mcnemar(first, second):
    """The two-sided p-value of the exact McNemar test.

    first, second: on how many samples only the one method was right, and only the other. Were the methods equally
    good, each of these samples would fall to either side like a coin.
    Source: McNemar 1947; the exact form as in Fagerland, Lydersen and Laake 2013, section 2.
    """
    first, second = int(first), int(second)  # numpy's overflow
    n = first + second
    tail = sum(comb(n, i) for i in range(min(first, second) + 1))
    return min(2 * tail / 2**n, 1.0)  # the quotient of two whole numbers, however large they are


def holm(p):
    """Holm's corrected p-values of a list of them, in its order. Source: Holm 1979."""
    corrected, before = [1.0] * len(p), 0.0
    for rank, i in enumerate(sorted(range(len(p)), key=p.__getitem__)):
        before = corrected[i] = max(before, min(1.0, (len(p) - rank) * p[i]))
    return corrected


def p_text(p):
    """A p-value in two significant digits: 0.031, 2.3e-05."""
    return f"{p:.1e}" if 0 < p < 0.001 else f"{p:.2g}"


def lines(method, predictions, all_compared):
    """What the terminal says of comparisons, below the accuracy of all: who was right where, and the test."""
    said = []
    for compared in all_compared:
        pairs = paired(predictions, compared)
        found = outcomes(pairs)
        if left_out := len(predictions) - len(pairs):
            said.append(f"{left_out} samples of this run are not in {compared.path} and not compared")
        if found["compared"]:
            said.append(f"only {method_name(method)} right: {found['first']}, only {compared.name} right: "
                        f"{found['second']}, of {found['compared']} samples; exact McNemar test p = {found['p']}")
        else:
            said.append(f"compared with {compared.name}: no answers are known; the two predict the same in "
                        f"{len(pairs) - len(disagreements(pairs))} of {len(pairs)} samples")
    return said

"""Two methods on the same samples: joined by id, with a paired test of their difference."""

from dataclasses import dataclass
from fractions import Fraction
from math import comb
from pathlib import Path

from actalign.console import InputError, some_of
from actalign.evaluation import Prediction
from actalign.predictions import read_predictions
from actalign.tables import shortened

NAMES = {"dtw": "alignment"}  # what a method is called where people read of it
NAME_COLUMNS = 24


@dataclass(frozen=True)
class Compared:
    """The predictions of another method: its name, the file they are from, and {sample id: Prediction}.

    predictions hold the samples of this run, with the answers that this run knows; others are the ids of the rest.
    """

    name: str
    path: str
    predictions: dict
    others: list

    def right(self, id):
        """Whether the method was right on a sample; None if it did not score it or its answer is not known."""
        return self.predictions[id].is_right if id in self.predictions else None


@dataclass(frozen=True)
class Paired:
    """The ids of the samples that two methods both scored and whose answer is known, by which of them was right."""

    both: list
    first: list  # only the first method was right
    second: list
    neither: list

    @property
    def n(self):
        return sum(map(len, (self.both, self.first, self.second, self.neither)))

    @property
    def p_value(self):
        return mcnemar(len(self.first), len(self.second))


def method_name(method):
    """What the method of a predictions.json is called."""
    name = str(method.get("name", "")) if isinstance(method, dict) else ""
    return shortened(NAMES.get(name, name) or "unnamed", NAME_COLUMNS)


def read_compared(path, samples, own_method):
    """The Compared of a predictions.json, against the `samples` of this run and its method.

    Raises InputError if it is none, shares no sample with this run, or asked other questions: other options, or
    another answer.
    """
    method, predictions = read_predictions(path)
    theirs = {prediction.sample.id: prediction for prediction in predictions}
    shared = [sample for sample in samples if sample.id in theirs]
    if not shared:
        raise InputError(f"--compare {path}: has none of this run's samples; give the predictions of another method on "
                         "the same samples")
    for what, differ in (("options", lambda ours, other: ours.options != other.options),
                         ("answers", lambda ours, other: None not in (ours.answer, other.answer)
                          and ours.answer != other.answer)):
        other = [sample.id for sample in shared if differ(sample, theirs[sample.id].sample)]
        if other:
            raise InputError(f"--compare {path}: {some_of(other)} had other {what} there than in this run; give "
                             "predictions that were made from the same dataset")
    name = method_name(method)
    if name == method_name(own_method):
        name = f"{name} ({shortened(Path(path).name, NAME_COLUMNS)})"
    ours = {sample.id for sample in shared}
    return Compared(name, str(path), {sample.id: Prediction(sample, theirs[sample.id].scores) for sample in shared},
                    [id for id in theirs if id not in ours])


def paired(predictions, compared):
    """The Paired of this run's predictions and those it is compared with."""
    groups = {(True, True): [], (True, False): [], (False, True): [], (False, False): []}
    for prediction in predictions:
        outcome = prediction.is_right, compared.right(prediction.sample.id)
        if None not in outcome:
            groups[outcome].append(prediction.sample.id)
    return Paired(*groups.values())


def mcnemar(first, second):
    """The two-sided p-value of the exact McNemar test.

    first, second: on how many samples only the one method was right, and only the other. Were the methods equally
    good, each of these samples would fall to either side like a coin.
    Source: McNemar 1947; the exact form as in Fagerland, Lydersen and Laake 2013, section 2.
    """
    n = first + second
    tail = sum(comb(n, i) for i in range(min(first, second) + 1))
    return float(min(Fraction(2 * tail, 2**n), Fraction(1)))


def p_text(p):
    """A p-value in two significant digits: 0.031, 2.3e-05."""
    return f"{p:.2g}" if p < 0.995 else "1"


def lines(method, predictions, compared):
    """What the terminal says of a comparison, below the accuracy of both: who was right where, and the test."""
    name = method_name(method)
    shared = [prediction for prediction in predictions if prediction.sample.id in compared.predictions]
    said = []
    left_out = len(predictions) - len(shared)
    if left_out:
        said.append(f"{left_out} samples of this run are not in {compared.path} and not compared")
    result = paired(predictions, compared)
    if not result.n:
        return [*said, f"compared with {compared.name}: no answers are known; the two predict the same in "
                f"{sum(same_prediction(one, compared) for one in shared)} of {len(shared)} samples"]
    return [*said, f"only {name} right: {len(result.first)}, only {compared.name} right: {len(result.second)}, of "
            f"{result.n} samples; exact McNemar test p = {p_text(result.p_value)}"]


def same_prediction(prediction, compared):
    """Whether the other method, which scored the sample too, chose the same option."""
    return prediction.ranking[0] == compared.predictions[prediction.sample.id].ranking[0]

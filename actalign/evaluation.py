"""Scores into results: rankings, Top-k accuracy with intervals and chance, and their tables."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from actalign.console import some_of
from actalign.dataset import Sample
from actalign.tables import score_text, table

TOP_K = (1, 2, 3)
RESAMPLES = 10_000
SEED = 0  # of the bootstrap, so that the same predictions give the same interval


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
        if not np.isfinite(self.scores).all():
            raise ValueError(f"sample {self.sample.id}: scores {list(self.scores)} are no finite numbers")

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
    for reason, ids in grouped((reason, id) for id, reason in not_scored.items()).items():
        print(f"not scored: {len(ids)}, {reason} ({some_of(ids)})")
    tied = [prediction.sample.id for prediction in predictions if prediction.is_tied]
    if tied:
        print(f"ties: in {len(tied)} samples the best score is shared and the first such option was taken "
              f"({some_of(tied)})")


def _counts(predictions, answered, not_scored):
    without = len(predictions) - len(answered)
    unknown = f", {without} of them without a known answer" if without and answered else ""
    unknown = ", none with a known answer: no accuracy" if without and not answered else unknown
    return f"{len(predictions)} of {len(predictions) + len(not_scored)} samples scored{unknown}"


def grouped(pairs):
    """{key: [values]} of (key, value) pairs."""
    groups = defaultdict(list)
    for key, value in pairs:
        groups[key].append(value)
    return groups


def prediction_table(predictions):
    """The lines of a table with each sample's best option, its score, and by how much it leads."""
    rows = [("sample", "prediction", "score", "margin")]
    for prediction in predictions:
        best, *others = np.asarray(prediction.scores)[prediction.ranking]
        margin = score_text(best - others[0]) if others else "-"
        rows.append((prediction.sample.id, prediction.sample.options[prediction.ranking[0]], score_text(best), margin))
    return table(rows, texts=2)

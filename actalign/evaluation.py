"""Scores into results: rankings, Top-k accuracy with intervals and chance, and their tables."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from actalign.console import say, some_of
from actalign.dataset import Sample
from actalign.tables import score_text, table

TOP_K = (1, 2, 3)
RESAMPLES = 10_000
Z = 1.959964  # 97.5% of a normal distribution lie below it
SEED = 0  # of the bootstrap, so that the same predictions give the same interval


@dataclass(frozen=True, slots=True)
class Prediction:
    """The scores of one sample's K options; with alignment also what it found of them.

    paths  each (cells, 2) of (t, m)          order  the alignment.Contrast    phases  phases.Phases of each
    confidence  of the best one, in 0..1      is_none  whether none of the options fits
    by_script  (S, K) scores, where options have several scripts; `phases` are then S * K
    """

    sample: Sample
    scores: np.ndarray
    paths: Sequence | None = None
    order: tuple | None = None
    phases: Sequence | None = None
    confidence: float | None = None
    is_none: bool = False
    by_script: np.ndarray | None = None

    def __post_init__(self):
        count = len(self.sample.options)
        if self.scores.shape != (count,) or not np.isfinite(self.scores).all():
            raise ValueError(f"sample {self.sample.id}: {self.scores} are no finite scores for {count} options")

    @property
    def ranking(self):
        """Option indices from best to worst; equal scores keep the order of the options."""
        return np.argsort(-self.scores, kind="stable")

    @property
    def is_right(self):
        """Whether the answer came first; None where it is not known."""
        return None if self.sample.answer is None else bool(self.ranking[0] == self.sample.answer)

    @property
    def margin(self):
        """By how much the best score leads: 0.0 if only the order of the options decided, None with a single option."""
        best, *others = self.scores[self.ranking].tolist()
        return best - others[0] if others else None


@dataclass(frozen=True)
class Accuracy:
    """A share of hits, or the difference of two, with its 95% interval: all in 0..1, or -1..1."""

    value: float
    low: float
    high: float

    def __str__(self):
        return f"{100 * self.value:.1f} [{100 * self.low:.1f}, {100 * self.high:.1f}]"


def top_k_hits(predictions, k):
    """(N,) bool: whether the answer is among the k best. With fewer options than k it always is."""
    return np.array([prediction.sample.answer in prediction.ranking[:k] for prediction in predictions])


def accuracy(hits):
    """The Accuracy of (N,) hits, N > 0, with the percentile bootstrap interval, or of all and of none with Wilson's.

    The sum of N hits drawn with replacement is binomial, so the resamples are drawn as such; where all hits are alike,
    so is every resample, and would say nothing.
    Source: Efron and Tibshirani 1993, chapter 13; Wilson 1927.
    """
    value = np.mean(hits)
    if value in (0, 1):
        beyond = Z**2 / (len(hits) + Z**2)
        return Accuracy(float(value), *((0.0, beyond) if value == 0 else (1 - beyond, 1.0)))
    resampled = np.random.default_rng(SEED).binomial(len(hits), value, RESAMPLES) / len(hits)
    low, high = np.percentile(resampled, [2.5, 97.5])
    return Accuracy(float(value), float(low), float(high))


def gain(hits, others):
    """The Accuracy of (N,) hits less that of others on the same samples, N > 0, with its paired bootstrap interval."""
    shares = np.array([np.mean(hits & ~others), np.mean(others & ~hits)])
    resampled = np.random.default_rng(SEED).multinomial(len(hits), [*shares, 1 - shares.sum()], RESAMPLES) / len(hits)
    low, high = np.percentile(resampled[:, 0] - resampled[:, 1], [2.5, 97.5])
    return Accuracy(float(shares[0] - shares[1]), float(low), float(high))


def chance(samples, k):
    """The exact expected Top-k accuracy of guessing on these samples, in 0..1."""
    return float(np.mean([min(k / len(sample.options), 1) for sample in samples]))


def top_k(predictions):
    """[(k, Accuracy, chance level in 0..1)] for TOP_K, of predictions with answers; none where there are none."""
    samples = [prediction.sample for prediction in predictions]
    return [(k, accuracy(top_k_hits(predictions, k)), chance(samples, k)) for k in TOP_K if samples]


def accuracy_table(methods):
    """The lines of a table of {method name: predictions with answers}; those on the same samples share their chance."""
    measured = {name: (top_k(predictions), str(len(predictions))) for name, predictions in methods.items()}
    chances = {name: (*(f"{100 * by_chance:.1f}" for *_, by_chance in top), n) for name, (top, n) in measured.items()}
    is_shared = len(set(chances.values())) == 1
    rows = [("", *(f"Top-{k} [95%]" for k in TOP_K), "n")]
    for name, (top, n) in measured.items():
        rows.append(("chance" if is_shared else f"chance, {name}", *chances[name]))
        rows.append((name, *(str(accuracy) for _, accuracy, _ in top), n))
    return table(list(dict.fromkeys(rows)))  # a shared chance line stands once


def print_results(name, predictions, not_scored, compared=None):
    """Print what a scoring stage found: accuracy where answers are known, predictions where none are.

    not_scored: {sample id: reason}    compared: {name of another method: its predictions}, for the same table
    """
    methods = {method: [one for one in found if one.sample.answer is not None]
               for method, found in {name: predictions, **(compared or {})}.items()}
    answered, note = len(methods[name]), ""
    if answered:
        say(*accuracy_table({method: found for method, found in methods.items() if found}))
        note = f", {len(predictions) - answered} of them without a known answer" if answered < len(predictions) else ""
    elif predictions:
        rows = [(one.sample.id, "none of these" if one.is_none else one.sample.options[one.ranking[0]],
                 "-" if one.confidence is None else f"{one.confidence:.2f}", score_text(max(one.scores)),
                 "-" if one.margin is None else score_text(one.margin)) for one in predictions]
        say(*table([("sample", "prediction", "confidence", "score", "margin"), *rows], texts=2))
        note = ", none with a known answer: no accuracy"
    say(f"{len(predictions)} of {len(predictions) + len(not_scored)} samples scored{note}")
    for reason, ids in grouped((reason, id) for id, reason in not_scored.items()).items():
        say(f"not scored: {len(ids)}, {reason} ({some_of(ids)})")
    tied = [prediction.sample.id for prediction in predictions if prediction.margin == 0]
    if tied:
        say(f"ties: in {len(tied)} samples the best score is shared and the first such option was taken "
            f"({some_of(tied)})")


def script_lines(predictions, how):
    """What the terminal says of how much the scripts of options disagree; how: what was made of their scores."""
    several = [one for one in predictions if one.by_script is not None]
    if not several:
        return [] if how == "first" else [f"--scripts {how}: no sample has several scripts of all of its options"]
    counts = sorted({len(one.by_script) for one in several})
    same, apart, leads = np.mean([(np.ptp(one.by_script.argmax(axis=1)) == 0, one.by_script.std(axis=0).mean(),
                                   one.by_script.mean(axis=0).std()) for one in several], axis=0)
    known = [one for one in several if one.is_right is not None]
    alone = ", ".join(f"{100 * np.mean([one.by_script[n].argmax() == one.sample.answer for one in known]):.1f}"
                      for n in range(counts[0]) if known)
    counts = "-".join(dict.fromkeys(map(str, (counts[0], counts[-1]))))
    return [f"{how} of {counts} scripts in {len(several)} samples: each alone takes the same option in "
            f"{100 * same:.1f}%{alone and f', and is right in {alone}%'}; an option's scores are {score_text(apart)} "
            f"apart, the options' {score_text(leads)} (standard deviations)"]


def grouped(pairs):
    """{key: [values]} of (key, value) pairs."""
    groups = defaultdict(list)
    for key, value in pairs:
        groups[key].append(value)
    return groups

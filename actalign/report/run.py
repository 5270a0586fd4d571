"""The run that a report or a figure is made from, and which of its samples are shown."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from actalign import comparison
from actalign.artifacts import ArrayArtifact


@dataclass(frozen=True)
class Run:
    """What a report or a figure is made from.

    method  {"name": ..., settings}, as in predictions.json
    predictions  with paths, unless the alignment has none      not_scored  {sample id: reason}
    frames, compared  None where they were not given
    similarities  function of a Sample that returns its K matrices (T, M)
    """

    method: dict
    predictions: list
    not_scored: dict
    video: ArrayArtifact
    subactions: ArrayArtifact
    frames: ArrayArtifact | None
    compared: comparison.Compared | None
    similarities: Callable

    @property
    def name(self):
        return comparison.method_name(self.method)

    def theirs(self, predictions):
        """The other method's predictions of the same samples, as far as there are any."""
        return [theirs for _, theirs in self.compared.pairs(predictions)] if self.compared else []

    def texts(self, sample):
        """K lists of sub-actions, in the order of the options."""
        by_key = {option["key"]: option["texts"] for option in self.subactions.item(sample.id)["options"]}
        return [by_key[key] for key in sample.keys]

    def timestamps(self, sample):
        """(T,) seconds from the clip's first frame, or None where the index does not tell."""
        try:
            times = np.array(self.video.item(sample.id).get("timestamps"), dtype=np.float64)
        except (TypeError, ValueError):
            return None
        is_told = times.shape == (self.video.length(sample.id),) and np.isfinite(times).all()
        return times - times[0] if is_told else None

    def has_frames(self, sample):
        return self.frames is not None and sample.id in self.frames


def chosen_predictions(run, ids, limit):
    """The predictions to show, and in words how they were chosen: those of `ids`, or else the `limit` most telling.

    These are taken in turns from lists of each kind, so that whatever there is of it is seen.
    """
    if ids:
        by_id = {prediction.sample.id: prediction for prediction in run.predictions}
        return [by_id[id] for id in dict.fromkeys(ids)], "named by --samples"
    if len(run.predictions) <= limit:
        return run.predictions, ""
    kinds = {name: predictions for name, predictions in _kinds(run).items() if predictions}
    chosen, turns = {}, itertools.cycle([iter(predictions) for predictions in kinds.values()])
    while len(chosen) < limit:
        one = next((one for one in next(turns) if one.sample.id not in chosen), None)
        if one is not None:
            chosen[one.sample.id] = one
    *names, last = kinds
    listed = ", ".join([*names, f"and {last}"]) if names else last
    return list(chosen.values()), f"taken in turns from {listed}"


def _kinds(run):
    """{what tells: predictions}, the most telling first; wrong answers begin where the method was surest."""
    surest = sorted(run.predictions, key=lambda prediction: prediction.margin or 0)[::-1]
    not_wrong = [one for one in surest if one.is_right is not False]
    kinds = {"wrong answers, the surest first": [one for one in surest if one.is_right is False],
             "the narrowest decisions": not_wrong[::-1], "the clearest decisions": not_wrong}
    if not run.compared:
        return kinds
    differing = {ours.sample.id for ours, _ in comparison.disagreements(run.compared.pairs(run.predictions))}
    return {f"samples on which {run.name} and {run.compared.name} disagree":
            [one for one in surest if one.sample.id in differing], **kinds}

"""Alignments that are measured beside those of actalign/alignment.py, and are not among its own."""

import numpy as np

from actalign import alignment
from actalign.alignment import PACE, at_pace, balanced, dtw, segment
from actalign.compilation import compiled


def with_pace(function, pace):
    """The alignment `function` on the similarities of `paced`, with another PACE if need be."""
    @compiled
    def paced(similarity, with_path=True):
        return function(at_pace(similarity, pace), with_path)
    return paced


@compiled
def equal(similarity, with_path=True):
    """The control that aligns nothing: every sub-action has an equal part of the clip. Where T < M it is `dtw`."""
    T, M = similarity.shape
    if T < M:
        return dtw(similarity, with_path)
    path, total = np.empty((T, 2), np.int32), 0.0
    for t in range(T):
        path[t] = t, t * M // T
        total += similarity[t, path[t, 1]]
    return total / T, path if with_path else None


ALIGNMENTS = {**{name: getattr(alignment, name) for name in alignment.ALIGNMENTS},
              "balanced paced": with_pace(balanced, PACE), "equal": equal}
VARIANTS = {f"paced, a price of {pace:.3g} nats": with_pace(segment, pace) for pace in (PACE / 4, 4 * PACE)}

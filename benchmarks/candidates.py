"""Alignments that are measured beside those of actalign/alignment.py, and are not among its own."""

import numpy as np

from actalign import alignment
from actalign.alignment import PACE, balanced, dtw
from actalign.compilation import compiled


@compiled
def balanced_paced(similarity, with_path=True):
    """`balanced` on the similarities of `paced`."""
    T, M = similarity.shape
    expected = similarity.copy()
    for t in range(T):
        distance = 0.5 - M * (t + 0.5) / T  # of the first sub-action
        for m in range(M):
            expected[t, m] -= PACE * (distance + m) * (distance + m)
    return balanced(expected, with_path)


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
              "balanced paced": balanced_paced, "equal": equal}

"""Alignments and similarities that are being measured beside the published ones; what holds goes into the method.

As in actalign/alignment.py, an alignment takes a (T frames, M sub-actions) float64 matrix and returns (score, path), a
path (cells, 2) int32 of (t, m), or None unless `with_path`. ValueError if the matrix is empty or not finite.
"""

import functools
import itertools
import math

import numba
import numpy as np

from actalign.alignment import dtw, unordered
from actalign.compilation import compiled


def cosine(video, subactions):
    """(T, M) float64 of frames (T, D) and sub-actions (M, D)."""
    V, U = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (np.float64(video), np.float64(subactions)))
    return V @ U.T


def centred(cosine, scale):
    """SigLIP's logit less its mean over the clip's frames: what changes, without what the whole clip is like."""
    return scale * (cosine - cosine.mean(axis=0))


def evidence(cosine, scale):
    """log(1 + exp(centred logit)): a frame that shows another thing counts 0, not against the sub-action.

    It is the log-odds of "this sub-action or anything else", where anything else has the odds of the clip's mean frame.
    """
    return np.logaddexp(0.0, centred(cosine, scale))


@compiled
def _require_usable(similarity):
    if similarity.size == 0 or not np.isfinite(similarity).all():
        raise ValueError("a similarity matrix must have a frame and a sub-action, and be finite")


@compiled
def segment(similarity, with_path=True):
    """Every frame has one sub-action, and all of them come in order. Mean over the frames; where T < M it is `dtw`.

        D[t, m] = S[t, m] + max(D[t-1, m], D[t-1, m-1])

    Of two best paths, the one that stays in its sub-action. Source: the Viterbi path of a left-to-right model whose
    transitions are free (Rabiner 1989, section IV).
    """
    T, M = similarity.shape
    if T < M:
        return dtw(similarity, with_path)
    _require_usable(similarity)
    D = np.full((T, M), -np.inf)
    D[0, 0] = similarity[0, 0]
    for t in range(1, T):
        for m in range(M):
            D[t, m] = similarity[t, m] + max(D[t - 1, m], D[t - 1, m - 1] if m > 0 else -np.inf)
    if not with_path:
        return D[-1, -1] / T, None
    path, m = np.empty((T, 2), np.int32), M - 1
    for t in range(T - 1, -1, -1):
        path[t, 0], path[t, 1] = t, m
        if t > 0 and m > 0 and D[t - 1, m - 1] > D[t - 1, m]:
            m -= 1
    return D[-1, -1] / T, path


@compiled
def balanced(similarity, with_path=True):
    """The path of `segment`; the mean over a sub-action's frames, and of these the mean: short phases count as much."""
    _, path = segment(similarity, True)
    sums, counts = np.zeros(similarity.shape[1]), np.zeros(similarity.shape[1])
    for t, m in path:
        sums[m] += similarity[t, m]
        counts[m] += 1
    return (sums / counts).mean(), path if with_path else None


PACE = 0.5  # nats


@compiled
def paced(similarity, with_path=True):
    """`segment` that expects phases of one length: a frame costs PACE times the square of its distance, in phases.

        S'[t, m] = S[t, m] - PACE * ((m + 1/2) - M (t + 1/2) / T)^2

    So a weak encoder's noise cannot move the borders far, and a strong one's evidence can. S is in nats (`centred`,
    `evidence`). Source of the prior: Su and Hua 2017 (order-preserving Wasserstein distance), section 3.2.
    """
    return segment(_paced(similarity), with_path)


@compiled
def balanced_paced(similarity, with_path=True):
    """`balanced` on the similarities of `paced`."""
    return balanced(_paced(similarity), with_path)


@compiled
def _paced(similarity):
    T, M = similarity.shape
    paced = np.empty((T, M))
    for t in range(T):
        for m in range(M):
            paced[t, m] = similarity[t, m] - PACE * ((m + 0.5) - M * (t + 0.5) / T) ** 2
    return paced


@compiled
def equal(similarity, with_path=True):
    """The control that aligns nothing: every sub-action has an equal part of the clip. Where T < M it is `dtw`."""
    T, M = similarity.shape
    if T < M:
        return dtw(similarity, with_path)
    _require_usable(similarity)
    path, total = np.empty((T, 2), np.int32), 0.0
    for t in range(T):
        path[t] = t, t * M // T
        total += similarity[t, path[t, 1]]
    return total / T, path if with_path else None


DROP_PERCENTILE = 30


@compiled
def drop(similarity, with_path=True):
    """`segment`, and a frame may be left out: it counts as much as the DROP_PERCENTILE of all similarities instead.

    B[t, m] is the best sum of t frames with the first m sub-actions, each of which keeps one frame or more:

        B[t+1, m+1] = max(S[t, m] + max(B[t, m+1], B[t, m]), B[t, m+1] + price)

    Its path has the frames that are kept. Where T < M it is `dtw`. Source: Dvornik et al. 2021 (arXiv 2108.11996),
    frames only.
    """
    T, M = similarity.shape
    if T < M:
        return dtw(similarity, with_path)
    _require_usable(similarity)
    rank = similarity.size * DROP_PERCENTILE // 100
    price = np.partition(similarity.copy().reshape(-1), rank)[rank]
    B = np.full((T + 1, M + 1), -np.inf)
    B[:, 0] = price * np.arange(T + 1)
    for t in range(T):
        for m in range(M):
            B[t + 1, m + 1] = max(similarity[t, m] + max(B[t, m + 1], B[t, m]), B[t, m + 1] + price)
    if not with_path:
        return B[T, M] / T, None
    path, cells, m = np.empty((T, 2), np.int32), 0, M
    for t in range(T - 1, -1, -1):
        if m > 0 and B[t + 1, m] > B[t, m] + price:
            path[T - 1 - cells] = t, m - 1
            cells += 1
            if B[t, m - 1] > B[t, m]:
                m -= 1
    return B[T, M] / T, path[T - cells:].copy()


@compiled
def subsequence(similarity, with_path=True):
    """`dtw` that may begin and end at any frame, on similarities less their mean over the whole matrix.

    Without that every frame more would be worth it. The best sum is divided by T+M-1. Source: Müller 2007, section 4.4.
    """
    _require_usable(similarity)
    T, M = similarity.shape
    D = similarity - similarity.mean()
    for t in range(T):
        for m in range(M):
            best = 0.0 if m == 0 else D[t, m - 1]
            if t > 0:
                best = max(best, D[t - 1, m])
                if m > 0:
                    best = max(best, D[t - 1, m - 1])
            D[t, m] += best
    t, m = np.argmax(D[:, -1]), M - 1
    score = D[t, m] / (T + M - 1)
    if not with_path:
        return score, None
    path, first = np.empty((T + M - 1, 2), np.int32), T + M - 1
    while True:
        first -= 1
        path[first] = t, m
        up = D[t - 1, m] if t > 0 else -np.inf
        left = D[t, m - 1] if m > 0 else 0.0
        diagonal = D[t - 1, m - 1] if t > 0 and m > 0 else -np.inf
        if up >= max(left, diagonal):
            t -= 1
        elif m == 0:
            return score, path[first:].copy()
        else:
            t, m = (t if left >= diagonal else t - 1), m - 1


ALIGNMENTS = {"dtw": dtw, "segment": segment, "balanced": balanced, "paced": paced, "balanced paced": balanced_paced,
              "drop": drop, "subsequence": subsequence, "equal": equal, "unordered": unordered}

ORDERS = 32  # of the contrast
ORDERS_SEED = 0
ROUNDING = 1e-12  # scores that differ by less are equal


@functools.cache
def orders_of(M, count):
    """Orders of M sub-actions, (n, M) int64: all of them if that is at most `count`, else so many random ones."""
    if math.factorial(min(M, count)) <= count:  # of min(), since M! may be endless
        return np.array(list(itertools.permutations(range(M))))
    rng = np.random.default_rng([ORDERS_SEED, M])
    return np.array([rng.permutation(M) for _ in range(count)])


def contrast(similarity, score, alignment=dtw, count=ORDERS):
    """(contrast, p) of a `score` that an alignment gave: what is evidence for this order of the sub-actions.

    contrast: the score less the mean of the scores of the same sub-actions in other orders, those of `orders_of`
    p: the share of orders that score at least as well; where the orders are random, with this one as one more of them
    Source of p: Phipson and Smyth 2010, on random permutations.
    """
    orders = orders_of(similarity.shape[1], count)
    is_compiled = isinstance(alignment, numba.core.dispatcher.Dispatcher)
    scores = (_score_orders if is_compiled else _score_orders.py_func)(alignment, similarity, orders)
    as_good = np.count_nonzero(scores >= score - ROUNDING)
    is_all = math.factorial(similarity.shape[1]) == len(orders)
    return score - scores.mean(), as_good / len(orders) if is_all else (as_good + 1) / (len(orders) + 1)


@numba.njit(nogil=True)  # numba keeps nothing on disk that is given a function
def _score_orders(function, similarity, orders):
    """The score of each order of the sub-actions: (n, M) -> (n,)."""
    scores = np.empty(len(orders))
    for i in range(len(orders)):
        scores[i] = function(similarity[:, orders[i]], False)[0]
    return scores

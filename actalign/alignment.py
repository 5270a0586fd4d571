"""The method: smoothing over time, similarities, and the alignments that turn similarity into a score.

    V (T, D)  frame embeddings of a clip        U (M, D)  sub-action embeddings of an option
    C (T, M)  cosines(smooth(V, window), U)
    S (T, M)  sigmoid(C), or another of SIMILARITIES
    score     dtw(S), or another of ALIGNMENTS, or its order contrast; the answer is the option with the greatest

No files and no flags. The loops are plain Python that numba compiles; to change one, edit it. To add an alignment,
write a function from (similarity, with_path) to (score, path) and give it a line in ALIGNMENTS.
"""

import functools
import itertools
import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numba import types

from actalign.compilation import alignment_first, compiled


@compiled
def smooth(embeddings, window):
    """Centred moving average over time: (T, D) float -> (T, D) float64. At the ends, of the frames that exist.

    window: frames, 1 or more; an even one reaches one frame further back than ahead.
    """
    T, D = embeddings.shape
    sums = np.zeros((T + 1, D))  # [t] of all frames before t
    for t in range(T):
        for d in range(D):
            sums[t + 1, d] = sums[t, d] + embeddings[t, d]
    smoothed = np.empty((T, D))
    for t in range(T):
        first, stop = max(t - window // 2, 0), min(t - window // 2 + window, T)
        for d in range(D):
            smoothed[t, d] = (sums[stop, d] - sums[first, d]) / (stop - first)
    return smoothed


# Similarities: from cosines, a (T, M) tensor of float64, and the checkpoint's logit_scale and logit_bias to S.


def cosines(video, subactions, device="cpu"):
    """Cosine of every frame with every sub-action: arrays (T, D) and (M, D) -> tensor (T, M) float64.

    NaN for rows without direction. device: torch's, which computes; MPS has no float64, its CPU computes instead.
    """
    import torch

    device = "cpu" if torch.device(device).type == "mps" else device
    V, U = (torch.as_tensor(rows, dtype=torch.float64, device=device) for rows in (video, subactions))
    return (V @ U.T / torch.outer(V.norm(dim=1), U.norm(dim=1))).cpu()


def sigmoid(cosines, logit_scale, logit_bias):
    """SigLIP's similarity, in (0, 1): sigmoid(exp(logit_scale) * C + logit_bias).

    In float32 its small values would underflow to 0, and options that are 0 cannot be ranked.
    Source: Zhai et al. 2023 (arXiv 2303.15343), section 3.2.
    """
    return (np.exp(logit_scale) * cosines + logit_bias).sigmoid()


def cosine(cosines, logit_scale, logit_bias):
    """C itself, in -1..1."""
    return cosines


def centred(cosines, logit_scale, logit_bias):
    """exp(logit_scale) * (C less its mean over the frames), in nats: what changes within the clip.

    What the whole clip is like, and what a text is like whatever is seen, goes.
    """
    return np.exp(logit_scale) * (cosines - cosines.mean(dim=0))


def evidence(cosines, logit_scale, logit_bias):
    """log(1 + exp(centred)), in nats: a frame that shows another thing counts 0, not against the sub-action.

    It is the log-odds of "this sub-action or anything else", where anything else has the odds of the clip's mean frame.
    """
    centred_logits = centred(cosines, logit_scale, logit_bias)
    return centred_logits.logaddexp(centred_logits.new_zeros(()))


def similarity_of(cosines, logit_scale, logit_bias, kind="sigmoid"):
    """Similarity of every frame with every sub-action, from `cosines`: an array (T, M). kind: one of SIMILARITIES."""
    return globals()[kind](cosines, logit_scale, logit_bias).numpy()


# Alignments: from S, a (T frames, M sub-actions) array of finite float64, to (score, path). A path is an int32 array
# (cells, 2) of (t, m), or None unless `with_path`. All raise ValueError if S is empty or not finite.


@compiled
def _require_usable(similarity):
    if similarity.size == 0:
        raise ValueError("a similarity matrix must have at least one frame and one sub-action")
    if not np.isfinite(similarity).all():
        raise ValueError("a similarity matrix must be finite")


@compiled
def dtw(similarity, with_path=True):
    """Dynamic time warping: the best monotonic path through a similarity matrix, by its mean.

    A path leads from (0, 0) to (T-1, M-1) by steps of one frame, one sub-action, or both. The best one has the greatest
    sum; of several, the one that stays in its sub-action. With D[t, m] of the first t frames and m sub-actions:

        D[t+1, m+1] = S[t, m] + max(D[t, m+1], D[t, m], D[t+1, m])

    Where no entry is negative a step of both never beats the two steps around it, and the path has T+M-1 cells.
    Source: Sakoe and Chiba 1978, maximising; ActAlign (arXiv 2506.22967), section on alignment.
    """
    T, M = similarity.shape
    if not with_path:
        total = _sum_of_positive(similarity)
        if np.isfinite(total):
            return total / (T + M - 1), None
    _require_usable(similarity)
    D = np.full((T + 1, M + 1), -np.inf)
    D[0, 0] = 0.0
    for t in range(T):
        left = -np.inf
        for m in range(M):
            left = similarity[t, m] + max(D[t, m + 1], D[t, m], left)
            D[t + 1, m + 1] = left
    path = _trace_back(D, T)
    return D[T, M] / len(path), path if with_path else None


@compiled
def _sum_of_positive(similarity):
    """The best path's sum in half the time, or NaN if an entry is negative or there is none."""
    T, M = similarity.shape
    best = np.full(M, -np.inf)  # [m] of the paths to sub-action m and the last frame so far
    negative = T == 0 or M == 0
    for t in range(T):
        left = 0.0 if t == 0 else -np.inf
        for m in range(M):
            left = similarity[t, m] + max(best[m], left)
            best[m] = left
            negative |= not similarity[t, m] >= 0
        if negative:
            break
    return np.nan if negative else best[-1]


@compiled
def _trace_back(D, t):
    """The best path that ends at frame t-1 of the last sub-action: (cells, 2) int32."""
    m, first = D.shape[1] - 1, D.shape[0] + D.shape[1] - 3
    path = np.empty((first, 2), np.int32)
    while m > 0:
        first -= 1
        path[first, 0], path[first, 1] = t - 1, m - 1
        up, left, diagonal = D[t - 1, m], D[t, m - 1], D[t - 1, m - 1]
        if up >= max(left, diagonal):
            t -= 1
        else:
            t, m = (t if left >= diagonal else t - 1), m - 1
    return path[first:]


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
    D = np.full((T + 1, M + 1), -np.inf)  # [t, m] of the first t frames and m sub-actions
    D[0, 0] = 0.0
    for t in range(T):
        for m in range(M):
            D[t + 1, m + 1] = similarity[t, m] + max(D[t, m + 1], D[t, m])
    if not with_path:
        return D[T, M] / T, None
    path, m = np.empty((T, 2), np.int32), M - 1
    for t in range(T - 1, -1, -1):
        path[t, 0], path[t, 1] = t, m
        m -= D[t, m] > D[t, m + 1]
    return D[T, M] / T, path


@compiled
def balanced(similarity, with_path=True):
    """The path of `segment`; the mean over a sub-action's frames, and of these the mean: short phases count as much."""
    _, path = segment(similarity, True)
    sums, counts = np.zeros(similarity.shape[1]), np.zeros(similarity.shape[1])
    for i in range(len(path)):
        t, m = path[i, 0], path[i, 1]
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
    return segment(at_pace(similarity, PACE), with_path)


@compiled
def at_pace(similarity, pace):
    """S' of `paced`, with a price of `pace` nats."""
    T, M = similarity.shape
    expected = similarity.copy()
    for t in range(T):
        distance = 0.5 - M * (t + 0.5) / T  # of the first sub-action
        for m in range(M):
            expected[t, m] -= pace * (distance + m) * (distance + m)
    return expected


KEPT = 0.3  # of all similarities are greater than what a dropped frame counts


@compiled
def drop(similarity, with_path=True):
    """`segment`, and a frame may be left out: it counts as much as the similarity that a share of KEPT exceeds.

    B[t, m] is the best sum of t frames with the first m sub-actions, each of which keeps one frame or more:

        B[t+1, m+1] = max(S[t, m] + max(B[t, m+1], B[t, m]), B[t, m+1] + price)

    Its path has the frames that are kept. Where T < M it is `dtw`. Source: Dvornik et al. 2021 (arXiv 2108.11996),
    frames only.
    """
    T, M = similarity.shape
    if T < M:
        return dtw(similarity, with_path)
    _require_usable(similarity)
    price = _price(similarity)
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
def _price(similarity):
    """What a share of KEPT of the entries exceeds, to a 256th of their range: far faster than to the last digit."""
    lowest, step = similarity.min(), (similarity.max() - similarity.min()) / 256
    if not 0 < step < np.inf:
        return lowest
    counts, kept, bin = np.zeros(257), 0.0, 257
    for t in range(similarity.shape[0]):
        for m in range(similarity.shape[1]):
            counts[min(int((similarity[t, m] - lowest) / step), 256)] += 1  # of a tiny range, steps are rounded
    while kept < KEPT * similarity.size:
        bin -= 1
        kept += counts[bin]
    return lowest + bin * step


@compiled
def subsequence(similarity, with_path=True):
    """`dtw` that may begin and end at any frame, on similarities less their mean over the whole matrix.

    Without that every frame more would be worth it. The best sum is divided by T+M-1. Source: Müller 2007, section 4.4.
    """
    _require_usable(similarity)
    T, M = similarity.shape
    D, mean = np.full((T + 1, M + 1), -np.inf), similarity.mean()
    D[:, 0] = 0.0
    for t in range(T):
        left = 0.0
        for m in range(M):
            left = similarity[t, m] - mean + max(D[t, m + 1], D[t, m], left)
            D[t + 1, m + 1] = left
    last = np.argmax(D[:, M])
    return D[last, M] / (T + M - 1), _trace_back(D, last) if with_path else None


@compiled
def unordered(similarity, with_path=True):
    """The control that ignores order: every frame takes its best sub-action. Mean over the frames; no path."""
    _require_usable(similarity)
    T, M = similarity.shape
    total = 0.0
    for t in range(T):
        best = similarity[t, 0]
        for m in range(1, M):
            best = max(best, similarity[t, m])
        total += best
    return total / T, None


# Functions of this module that --similarity and --alignment can name; they are looked up when they are called.
SIMILARITIES = {
    "sigmoid": "SigLIP's, as published",
    "cosine": "without SigLIP's scale and bias",
    "centred": "the logit less its mean over the clip",
    "evidence": "that, where frames that show another thing count 0",
}
ALIGNMENTS = {
    "dtw": "the mean over the best path of frames and sub-actions in order, as published",
    "segment": "every frame has one sub-action",
    "balanced": "that, and every sub-action counts the same however long it lasts",
    "paced": "segment that expects phases of one length",
    "drop": "segment that may leave frames out",
    "subsequence": "dtw that may begin and end at any frame",
    "unordered": "the control that ignores the order of sub-actions",
}


# Order contrast

ORDERS = 32
ORDERS_SEED = 0
ROUNDING = 1e-12  # scores that differ by less are equal


@functools.cache
def orders_of(M, count):
    """Orders of M sub-actions, (n, M) int64: all of them if that is at most `count`, else so many random ones."""
    if math.factorial(min(M, count)) <= count:  # of min(), since M! may be endless
        return np.array(list(itertools.permutations(range(M))))
    rng = np.random.default_rng([ORDERS_SEED, M])
    return np.array([rng.permutation(M) for _ in range(count)])


class Contrast(NamedTuple):
    """The evidence for the order of K options' sub-actions, against the same sub-actions in the orders of `orders_of`.

    All are (K,), and 0, 1 and 0 where no order is better than another, as with a single sub-action.
    """

    difference: np.ndarray  # a score less the mean of the scores of its orders
    p: np.ndarray  # the share of orders that score at least as well; random ones have this order as one more of them
    z: np.ndarray  # the difference in standard deviations of the orders' scores, one deviation for all options


def contrast(similarities, scores, alignment=dtw, orders=ORDERS):
    """The Contrast of the scores (K,) that an alignment gave K matrices.

    Source of p: Phipson and Smyth 2010, on random permutations.
    """
    tried = [orders_of(matrix.shape[1], orders) for matrix in similarities]
    counts = [len(of_matrix) for of_matrix in tried]
    flat = (np.concatenate([matrix.ravel() for matrix in similarities]), np.concatenate([one.ravel() for one in tried]),
            np.array([(*matrix.shape, n) for matrix, n in zip(similarities, counts, strict=True)]))
    try:
        others = _compiled_score_orders()(alignment, *flat)
    except TypeError:  # an alignment that is not compiled, or has no path
        others = _score_orders(alignment, *flat)
    differences, p, variances = np.empty(len(counts)), np.empty(len(counts)), np.empty(len(counts))
    for k, of_matrix in enumerate(np.split(others, np.cumsum(counts)[:-1])):
        difference = scores[k] - of_matrix.mean()
        differences[k] = difference if abs(difference) > ROUNDING else 0.0
        variances[k] = of_matrix.var()
        as_good = np.count_nonzero(of_matrix >= scores[k] - ROUNDING)
        is_all = math.factorial(tried[k].shape[1]) == counts[k]
        p[k] = as_good / counts[k] if is_all else (as_good + 1) / (counts[k] + 1)
    deviation = math.sqrt(variances.mean())
    return Contrast(differences, p, differences / deviation if deviation > ROUNDING else np.zeros(len(counts)))


def _score_orders(function, values, orders, shapes):
    """The scores of every order of every matrix, one after the other.

    values: the matrices, one after the other; orders: theirs; shapes (K, 3): frames, sub-actions and orders of each
    """
    scores = np.empty(shapes[:, 2].sum())
    i = value = order = 0
    for T, M, count in shapes:
        similarity, other = values[value:value + T * M].reshape(T, M), np.empty((T, M))
        for _ in range(count):
            for m in range(M):
                column = orders[order + m]
                for t in range(T):
                    other[t, m] = similarity[t, column]
            scores[i] = function(other, False)[0]
            i, order = i + 1, order + M
        value += T * M
    return scores


@functools.cache
def _compiled_score_orders():
    return compiled(_score_orders, alignment_first(
        types.float64[::1], types.float64[::1], types.int64[::1], types.int64[:, ::1]))


# Methods


@dataclass(frozen=True)
class Method:
    """A name of ALIGNMENTS, one of SIMILARITIES, and of how many orders the score is the contrast (0: it is none)."""

    alignment: str = "dtw"
    similarity: str = "sigmoid"
    orders: int = 0

    def __str__(self):
        return f"{self.alignment}, {self.similarity}" + ", contrast" * (self.orders > 0)


METHODS = {"published": Method(), "recommended": Method("paced", "evidence", ORDERS)}


def every_method(orders=ORDERS):
    """All that --alignment all tries: every alignment of every similarity, as it is and in order contrast."""
    return [Method(*pair, count) for pair in itertools.product(ALIGNMENTS, SIMILARITIES) for count in (0, orders)
            if not (pair[0] == "unordered" and count)]  # of which it is 0


class Aligned(NamedTuple):
    """What K options' alignment gives."""

    scores: np.ndarray  # (K,) float64
    paths: list | None  # K of (cells, 2) int32
    order: Contrast | None


def align(similarities, alignment="dtw", with_paths=False, orders=0, in_contrast=True):
    """The Aligned of K similarity matrices (T, M).

    orders: of how many its `order` is told, and the scores are the contrast unless `in_contrast` is False; 0: of none
    Raises ValueError if a matrix is empty or not finite.
    """
    function = globals()[alignment]
    scores, paths = zip(*[function(matrix, with_paths) for matrix in similarities], strict=True)
    order = contrast(similarities, scores, function, orders) if orders else None
    return Aligned(order.difference if order and in_contrast else np.array(scores),
                   None if paths[0] is None else list(paths), order)


def orders_told(method, is_needed=False):
    """Of how many orders a Method's Contrast is told: where it is not needed, only if that takes next to no time."""
    is_fast = method.alignment != "unordered" and hasattr(globals()[method.alignment], "py_func")  # it is compiled
    return method.orders or ORDERS * (is_needed or is_fast)

"""The method: smoothing over time, SigLIP's similarity, and the alignments that turn similarity into a score.

    V (T, D)  frame embeddings of a clip        U (M, D)  sub-action embeddings of an option
    S (T, M)  similarity(smooth(V, window), U)
    score     dtw(S), or another of ALIGNMENTS; the answer is the option with the greatest

No files and no flags. The loops are plain Python that numba compiles; to change one, edit it. To add an alignment,
write a function from (similarity, with_path) to (score, path) and give it a line in ALIGNMENTS.
"""

import numpy as np

from actalign.compilation import compiled


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


def similarity(video, subactions, logit_scale, logit_bias, device="cpu"):
    """SigLIP's similarity of every frame with every sub-action: sigmoid(exp(logit_scale) * cosine + logit_bias).

    video (T, D) and subactions (M, D): arrays; logit_scale and logit_bias are the checkpoint's; device: torch's.
    Returns (T, M) float64 in (0, 1), NaN for rows without direction. In float32 small values of the sigmoid would
    underflow to 0, and options that are 0 cannot be ranked. MPS has no float64, its CPU computes instead.
    Source: Zhai et al. 2023 (arXiv 2303.15343), section 3.2.
    """
    import torch

    device = "cpu" if torch.device(device).type == "mps" else device
    V, U = (torch.as_tensor(rows, dtype=torch.float64, device=device) for rows in (video, subactions))
    cosine = V @ U.T / torch.outer(V.norm(dim=1), U.norm(dim=1))  # (T, M)
    return torch.sigmoid(np.exp(logit_scale) * cosine + logit_bias).cpu().numpy()


@compiled
def dtw(similarity, with_path=True):
    """Dynamic time warping: the best monotonic path through a similarity matrix, by its mean.

    similarity: (T frames, M sub-actions) float, finite. A path leads from (0, 0) to (T-1, M-1) by steps of one frame,
    one sub-action, or both. The best one has the greatest sum; of several with that sum, the longest.

        D[t, m] = S[t, m] + max(D[t-1, m-1], D[t-1, m], D[t, m-1])

    Returns (score, path): the mean similarity over the path, and its (cells, 2) int32 array of (t, m), or None unless
    `with_path`. Where no entry is negative a diagonal step never beats the two steps around it, so that the path has
    T+M-1 cells. Raises ValueError if the matrix is empty or not finite.
    Source: Sakoe and Chiba 1978, maximising; ActAlign (arXiv 2506.22967), section on alignment.
    """
    T, M = similarity.shape
    if T == 0 or M == 0:
        raise ValueError("a similarity matrix must have at least one frame and one sub-action")
    D = np.empty((T, M))
    negative = False
    for t in range(T):
        left = -np.inf if t > 0 else 0.0
        for m in range(M):
            up = D[t - 1, m] if t > 0 else -np.inf
            left = similarity[t, m] + max(up, left)  # no diagonal step beats the two steps around it
            D[t, m] = left
            negative |= not similarity[t, m] >= 0
    if negative:
        return _dtw_of_any_sign(similarity, with_path)
    if not np.isfinite(D[-1, -1]):
        raise ValueError("a similarity matrix must be finite")
    # Entries of 0 tie, and then the longest path is asked for; it is found by the number of cells, here t + m + 1.
    path = _trace_back(D, np.arange(T).reshape(T, 1) + np.arange(1, M + 1)) if with_path else None
    return D[-1, -1] / (T + M - 1), path


@compiled
def _dtw_of_any_sign(similarity, with_path):
    """`dtw` that counts the cells of the paths, since where entries are negative a diagonal step may win."""
    if not np.isfinite(similarity).all():
        raise ValueError("a similarity matrix must be finite")
    T, M = similarity.shape
    D = np.empty((T, M))
    cells = np.empty((T, M), np.int64)  # of the best path to each cell; of several, the longest
    for t in range(T):
        for m in range(M):
            best, count = (-np.inf, 0) if t > 0 or m > 0 else (0.0, 0)
            for dt, dm in ((1, 0), (0, 1), (1, 1)):
                if t >= dt and m >= dm:
                    other, its_count = D[t - dt, m - dm], cells[t - dt, m - dm]
                    if other > best or (other == best and its_count > count):
                        best, count = other, its_count
            D[t, m] = similarity[t, m] + best
            cells[t, m] = count + 1
    return D[-1, -1] / cells[-1, -1], _trace_back(D, cells) if with_path else None


@compiled
def _trace_back(D, cells):
    """The best path, (cells, 2) int32 of (t, m). Of two that are equal, the one that stays in its sub-action."""
    t, m = D.shape[0] - 1, D.shape[1] - 1
    path = np.empty((cells[t, m], 2), np.int32)
    for i in range(len(path) - 1, -1, -1):
        path[i, 0], path[i, 1] = t, m
        up = D[t - 1, m] if t > 0 else -np.inf
        left = D[t, m - 1] if m > 0 else -np.inf
        best = max(up, left, D[t - 1, m - 1] if t > 0 and m > 0 else -np.inf)
        if t > 0 and up == best and cells[t - 1, m] == i:
            t -= 1
        elif m > 0 and left == best and cells[t, m - 1] == i:
            m -= 1
        else:
            t, m = t - 1, m - 1
    return path


def unordered(similarity, with_path=True):
    """The control that ignores order: every frame takes its best sub-action. Mean over t of max over m of (T, M)."""
    return float(np.mean(np.max(similarity, axis=1))), None


# The functions of this module that --alignment can name, which are looked up when they are called.
ALIGNMENTS = {
    "dtw": "the mean over the best path of frames and sub-actions in order, as published",
    "unordered": "the control that ignores the order of sub-actions",
}


def align(similarities, alignment="dtw", with_paths=False):
    """Align K similarity matrices (T, M). Returns (scores (K,) float64, K paths or None).

    Raises ValueError if a matrix is empty or not finite.
    """
    function = globals()[alignment]
    if not with_paths:
        return np.fromiter((function(matrix, False)[0] for matrix in similarities), np.float64), None
    scores, paths = zip(*[function(matrix, True) for matrix in similarities], strict=True)
    return np.array(scores), None if paths[0] is None else list(paths)

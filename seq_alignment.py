"""Stage 6: align every clip with the sub-actions of its options by dynamic time warping, and pick the best.

Reads generated_subactions.json, video_embeddings.npy and encoded_subactions.npy; prints accuracy, or predictions
where no answers are known; writes predictions.json, an HTML report and figures when asked. Needs no model: scale and
bias come with the embeddings.

    python seq_alignment.py --subactions generated_subactions.json --video_embeddings video_embeddings.npy \\
        --subaction_embeddings encoded_subactions.npy --device cuda:0
"""

import argparse
import itertools
from array import array
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from threadpoolctl import threadpool_limits

from actalign import artifacts, comparison, console, cores, evaluation, files
from actalign.checkpoint import add_trust_argument
from actalign.predictions import csv_path, predictions_output, write_predictions
from actalign.report import page as report
from actalign.subactions import iter_subactions

SMOOTH_FRAMES = 30  # the published window, about one second
CELLS_AT_ONCE = 1 << 19  # of similarity matrices, compared and aligned together: 4 MB, measured (benchmarks/)
MOST_WORKERS = 4  # threads; with more of them Python's interpreter lock is what they wait for


def window_sums(embeddings, window):
    """Centred moving average over time, but for its length: sums instead of means, which have the same directions.

    embeddings (T, D) float; window in frames, 1 leaves them as they are. An even window reaches one frame further back
    than ahead. At the ends only the frames that exist are added.
    Returns (T, D) float64.
    """
    T, D = embeddings.shape
    if window == 1:
        return embeddings.astype(np.float64)
    before = np.empty((T + 1, D))  # [t] the sum of all frames before t
    before[0], before[1:] = 0, embeddings
    for row, following in itertools.pairwise(before):  # numpy's cumsum down the columns takes ten times as long
        np.add(row, following, out=following)
    _, stop = _windows(T, window)
    inside = np.searchsorted(stop, T)  # frames whose window ends before the clip does
    sums = np.empty((T, D))
    sums[:inside], sums[inside:] = before[stop[0]:T], before[T]
    if window // 2 < T:
        sums[window // 2:] -= before[:T - window // 2]
    return sums


def _windows(T, window):
    """(T,) first frames of the windows around each frame, and (T,) the frames after their last."""
    first = np.arange(T) - window // 2
    return np.maximum(first, 0), np.minimum(first + window, T)


def similarity_matrix(video, subactions, logit_scale, logit_bias):
    """SigLIP's similarity of every frame with every sub-action: sigmoid(exp(logit_scale) * cosine + logit_bias).

    video (T, D), subactions (M, D); logit_scale and logit_bias are the checkpoint's.
    Returns (T, M) float64 in (0, 1), NaN for a frame without direction. All of it is float64: small values of the
    sigmoid underflow in float32, and what is rounded to 0 for every option cannot be ranked; and scores then depend on
    no device, batch or number of threads beyond their tenth digit.
    Source: Zhai et al. 2023 (arXiv 2303.15343), section 3.2.
    """
    video, subactions = np.asarray(video, np.float64), np.asarray(subactions, np.float64)
    with np.errstate(all="ignore"):  # of rows without direction; and exp(1000) is infinite, its sigmoid rightly 0
        logits = _normalised(subactions) @ video.T  # (M, T): a BLAS is quicker with the long side second
        logits *= np.exp(logit_scale) / _lengths(video)
        logits += logit_bias
        return _sigmoid(logits).T


def _lengths(rows):
    return np.sqrt(_dot(rows, rows))


def _dot(a, b):
    """(n,) products of the rows of (n, D) and (n, D)."""
    return np.vecdot(a, b) if hasattr(np, "vecdot") else np.einsum("nd,nd->n", a, b)  # numpy 2 has the quicker one


def _normalised(rows):
    return rows / _lengths(rows)[:, None]


def _sigmoid(logits):
    """1 / (1 + exp(-x)), in place."""
    np.exp(np.negative(logits, out=logits), out=logits)
    logits += 1
    return np.reciprocal(logits, out=logits)


def similarity_matrices_on(device, samples, window, logit_scale, logit_bias):
    """`similarity_matrix` of smoothed frames for many samples at once on a CUDA device.

    samples: list of (frames (T, D), subactions (M, D)), not smoothed, in one copy to the device and one back.
    Returns their (T, M) float64 matrices, those of `window_sums` and `similarity_matrix` but for rounding (1e-12).
    """
    import torch

    frames, rows = zip(*samples, strict=True)
    T, M = [len(part) for part in frames], [len(part) for part in rows]
    offsets = np.cumsum([0, *T])
    windows = [_windows(n, window) for n in T]
    first, stop = (torch.from_numpy(np.concatenate([part[end] + offset for part, offset in
                                                    zip(windows, offsets, strict=False)])).to(device) for end in (0, 1))
    video = torch.from_numpy(np.concatenate(frames)).to(device).double()
    sums = torch.nn.functional.pad(video.cumsum(0), (0, 0, 1, 0))  # across samples, which the differences take out
    video = torch.nn.functional.normalize(sums[stop] - sums[first], dim=1, eps=0)
    texts = torch.nn.functional.normalize(torch.from_numpy(np.concatenate(rows)).to(device).double(), dim=1, eps=0)
    logits = torch.cat([(part @ text.T).flatten() for part, text in zip(video.split(T), texts.split(M), strict=True)])
    similarities = torch.sigmoid(np.exp(logit_scale) * logits + logit_bias).cpu().numpy()
    sizes = np.cumsum([t * m for t, m in zip(T, M, strict=True)])[:-1]
    return [part.reshape(t, m) for part, t, m in zip(np.split(similarities, sizes), T, M, strict=True)]


def dtw(similarity):
    """Best monotonic path through a similarity matrix, by its mean.

    similarity: (T frames, M sub-actions) float, finite. A path leads from (0, 0) to (T-1, M-1) by steps of one frame,
    one sub-action, or both. The best one has the greatest sum; of several with that sum, the longest.
    Returns (score, path): the mean similarity over the path, and its (cells, 2) int array of (t, m).

    Where all entries are positive a diagonal step never beats the two steps around it, so the path has T+M-1 cells.
    Raises ValueError if the matrix is empty or not finite.
    Source: Sakoe and Chiba 1978, maximising; ActAlign (arXiv 2506.22967), section on alignment.
    """
    scores, paths = dtw_batch([similarity], with_paths=True)
    return scores[0], paths[0]


def dtw_batch(similarities, with_paths=False):
    """`dtw` of many similarity matrices (T_i, M_i) at once.

    Returns (scores, paths): (B,) float64, and the list of B paths, or None unless `with_paths`. Each is exactly what
    `dtw` returns for that matrix alone.
    Raises ValueError if a matrix is empty or not finite.
    """
    similarities = [np.asarray(similarity, dtype=np.float64) for similarity in similarities]
    shapes = [similarity.shape for similarity in similarities]
    for shape in set(shapes):
        if len(shape) != 2 or 0 in shape:
            raise ValueError(f"a similarity matrix must be (T, M) with at least one cell, not {shape}")
    shapes = np.fromiter(itertools.chain.from_iterable(shapes), np.intp, 2 * len(shapes)).reshape(-1, 2)
    scores = np.empty(len(similarities))
    paths = [None] * len(similarities) if with_paths else None
    workspace = np.empty(0)  # one for all chunks: fresh memory would have to be faulted in for each
    for chunk, cells in _chunks(*shapes.T):
        if cells > len(workspace):
            workspace = np.empty(cells)
        matrices = [similarities[i] for i in chunk.tolist()]
        scores[chunk], chunk_paths = _dtw_chunk(matrices, *shapes[chunk].T, with_paths, workspace[:cells])
        if with_paths:
            for i, path in zip(chunk.tolist(), chunk_paths, strict=True):
                paths[i] = path
    return scores, paths


def _chunks(T, M):
    """Split matrices (T_i, M_i) into chunks that fill CELLS_AT_ONCE or are one matrix, those with most diagonals first.

    Yields (indices, cells): an array, and what the chunk's diagonals side by side have room for.
    """
    diagonals = T + M - 1
    order = np.argsort(-diagonals, kind="stable")
    widths = np.cumsum(M[order] + 1)
    first = 0
    while first < len(order):
        before, most = widths[first - 1] if first else 0, diagonals[order[first]]
        stop = max(int(np.searchsorted(widths, before + CELLS_AT_ONCE // most, side="right")), first + 1)
        yield order[first:stop], int(most * (widths[stop - 1] - before))
        first = stop


def _dtw_chunk(similarities, T, M, with_paths, workspace):
    """Scores and paths of B matrices (T_i, M_i), those with most diagonals first; the 1-D workspace is overwritten.

    The cells of one anti-diagonal t + m need only those of the two before, and so all of them, of all matrices, are
    computed at once. Row d of `sums` holds diagonal d of every matrix side by side, whatever their widths: a border
    that never wins, and then its cells by m. Of matrices that have ended nothing is computed, and nothing is padded.
    What lies in a row outside of a matrix (t < 0) never wins either; where t >= T it is left as it is, since no cell
    of the matrix looks there.
    """
    diagonals = T + M - 1
    starts = np.concatenate([[0], np.cumsum(M + 1)])  # of the matrices in a row
    m = np.arange(starts[-1]) - np.repeat(starts[:-1] + 1, M + 1)  # (width,), -1 in the borders
    sums = workspace.reshape(diagonals[0], starts[-1])
    sums.fill(0)
    row, cell = sums.strides
    # The strides of a view in which cell (t, m) lies in row t + m. With m backwards C-order matrices would take 0.94 of
    # the time, but those of `similarity_matrix`, whose frames follow one another in memory, 1.3 times as long.
    slanted = (row, row + cell)
    for similarity, offset in zip(similarities, ((starts[:-1] + 1) * cell).tolist(), strict=True):
        np.ndarray(similarity.shape, np.float64, sums, offset, slanted)[...] = similarity
    has_negative = not sums.min() >= 0  # also where a matrix is NaN
    if has_negative and not all(np.isfinite(similarity).all() for similarity in similarities):
        raise ValueError("a similarity matrix must be finite")
    sums[:, starts[:-1]] = -np.inf
    first = sums[:M.max() - 1]
    np.copyto(first, -np.inf, where=m > np.arange(len(first))[:, None])

    ends = starts[np.searchsorted(-diagonals, -np.arange(len(sums)))]  # (diagonals,) where the rows end
    last = (diagonals - 1, starts[1:] - 1)
    moves = None
    with np.errstate(all="ignore"):  # outside of the matrices there may be anything
        if has_negative:
            cells, moves = _fill_counting(sums, ends, with_paths)
            cells = cells[last]
        else:
            _fill(sums, ends)
            cells = diagonals
    if not np.isfinite(sums[last]).all():
        raise ValueError("a similarity matrix must be finite")
    scores = sums[last] / cells
    if not with_paths:
        return scores, None
    visited = _visited_of_moves(moves, diagonals, starts) if has_negative else _visited_of_sums(sums, diagonals, starts)
    return scores, _paths(*visited)


def _fill(sums, ends):
    """The dynamic programme D[t,m] = S[t,m] + max(D[t-1,m], D[t,m-1]) in place, where no S is negative.

    sums (diagonals, width) holds S and then D; ends (diagonals,) is where each row ends.
    A step in both t and m never beats the two steps around it, and of equal sums the longer path is asked for.
    """
    best = np.empty(sums.shape[1] - 1)
    rows, lefts = list(sums[:, 1:]), list(sums[:, :-1])  # left of a cell, at m - 1, is the element before it
    for d, end in enumerate((ends[1:] - 1).tolist(), start=1):
        up, left, row = rows[d - 1], lefts[d - 1], rows[d]
        if end < len(row):  # some matrices have ended
            best, up, left, row = best[:end], up[:end], left[:end], row[:end]
        np.maximum(up, left, out=best)
        np.add(row, best, out=row)


UP, LEFT, DIAGONAL = 0, 1, 2  # moves to a cell from t - 1, from m - 1, and from both


def _fill_counting(sums, ends, with_moves):
    """`_fill` where S may be negative, and so a step in both t and m may be best: it has a cell less.

    Returns two (diagonals, width) int arrays: the number of cells of the best path to each cell, of equal sums the
    longest; and the last move to each cell, or None unless `with_moves`. Staying in m wins ties.
    """
    counts = np.ones(sums.shape, dtype=np.int32)
    moves = np.zeros(sums.shape, dtype=np.int8) if with_moves else None
    nowhere, nothing = np.full(sums.shape[1], -np.inf), np.zeros(sums.shape[1], dtype=np.int32)
    for d, end in enumerate(ends[1:].tolist(), start=1):
        up, left = slice(1, end), slice(0, end - 1)
        best, count, move = sums[d - 1, up].copy(), counts[d - 1, up].copy(), np.full(end - 1, UP, dtype=np.int8)
        before, before_counts = (sums[d - 2], counts[d - 2]) if d > 1 else (nowhere, nothing)
        for code, other, other_count in ((LEFT, sums[d - 1, left], counts[d - 1, left]),
                                         (DIAGONAL, before[left], before_counts[left])):
            better = (other > best) | ((other == best) & (other_count > count))
            best[better], count[better], move[better] = other[better], other_count[better], code
        sums[d, up] += best
        counts[d, up] += count
        if with_moves:
            moves[d, up] = move
    return counts, moves


# Tracing back B matrices at once. What their best paths visit are two (B, diagonals) arrays: whether a path has a cell
# on a diagonal, and the m of that cell.


def _visited_of_sums(sums, diagonals, starts):
    """What the best paths visit where `_fill` made the sums: a cell on every diagonal. Staying in m wins ties."""
    moves = sums[:-1, :-1] > sums[:-1, 1:]  # [d-1, column-1] whether a cell is reached from m - 1
    from_left = np.zeros((len(sums), len(diagonals)), dtype=bool)  # the moves that the paths make
    columns = starts[1:] - 2  # in `moves`, of the cells in hand
    alive = np.searchsorted(-diagonals, -np.arange(len(sums))).tolist()  # matrices that have the diagonal come first
    for d in range(len(sums) - 1, 0, -1):
        here, move = columns, from_left[d]
        if alive[d] < len(columns):
            here, move = here[:alive[d]], move[:alive[d]]
        moves[d - 1].take(here, out=move, mode="clip")  # any mode but the default writes into `out` directly
        np.subtract(here, move, out=here)
    m = np.cumsum(from_left.T, axis=1, dtype=_cell_dtype(sums))
    return np.arange(len(sums)) < diagonals[:, None], m


def _visited_of_moves(moves, diagonals, starts):
    """What the best paths visit, by the moves to their cells; a DIAGONAL one leaves a diagonal out."""
    m = np.full((len(diagonals), len(moves)), -1, dtype=_cell_dtype(moves))
    at, column = diagonals - 1, starts[1:] - 1  # diagonal and column of the cell in hand
    for d in range(len(moves) - 1, -1, -1):
        here = np.flatnonzero(at == d)
        move = moves[d, column[here]]
        m[here, d] = column[here] - starts[here] - 1
        column[here] -= move != UP
        at[here] -= 1 + (move == DIAGONAL)
    return m >= 0, m


def _cell_dtype(diagonals):
    """The small one in which the cells of paths over so many diagonals are kept."""
    return np.int16 if len(diagonals) < 1 << 15 else np.int32


def _paths(visited, m):
    """B arrays (cells, 2) of (t, m)."""
    # One array for all, whose parts the paths are: small ones that stay would keep large freed ones from being used.
    ends = np.cumsum(np.count_nonzero(visited, axis=1))
    cells = np.empty((ends[-1], 2), dtype=m.dtype)
    cells[:, 1] = m[visited]
    diagonal = np.broadcast_to(np.arange(m.shape[1], dtype=m.dtype), m.shape)
    np.subtract(diagonal[visited], cells[:, 1], out=cells[:, 0])
    return np.split(cells, ends[:-1])


class PackedPaths(Sequence):
    """Some paths, two bits a cell: those of all samples are kept until they are written."""

    __slots__ = ("_steps", "_stops")

    def __init__(self, paths):
        """paths: arrays (cells, 2) of (t, m), as `dtw_batch` returns them."""
        self._stops = array("q", itertools.accumulate(map(len, paths)))
        self._steps = np.packbits(np.diff(np.concatenate(paths), axis=0) > 0).tobytes()

    def __len__(self):
        return len(self._stops)

    def __getitem__(self, k):
        """Path k: an array (cells, 2) of (t, m); of a slice, the list of them."""
        if isinstance(k, slice):
            return [self[i] for i in range(len(self))[k]]
        k = range(len(self))[k]
        start, stop = self._stops[k - 1] if k else 0, self._stops[k]
        path = np.zeros((stop - start, 2), dtype=np.int64)
        steps = np.unpackbits(np.frombuffer(self._steps, np.uint8), count=2 * stop - 2).reshape(-1, 2)
        np.cumsum(steps[start:], axis=0, out=path[1:])
        return path


def unordered(similarity):
    """The control that ignores order: every frame takes its best sub-action. Mean over t of max over m of (T, M)."""
    return float(np.mean(np.max(similarity, axis=1)))


# The stage


def join(scripts, video, subactions):
    """Bring together by id what belongs to one sample.

    scripts: iterable of SubActions, of which one at a time is held; video, subactions: ArrayArtifact.
    Returns (samples, not_scored): the Samples that can be scored, and {id: reason} of the others.
    Raises InputError if the embeddings were made from other sub-actions than those of `scripts`.
    """
    samples, not_scored, known = [], {}, set()
    for script in scripts:
        id = script.sample.id
        known.add(id)
        if id in subactions:
            _require_same_texts(script, subactions)
        if script.lacking:
            not_scored[id] = f"no sub-actions for {', '.join(script.lacking)}"
        elif id not in video:
            not_scored[id] = f"not in {video.path.name}"
        elif id not in subactions:
            not_scored[id] = f"not in {subactions.path.name}"
        else:
            samples.append(script.sample)
    not_scored.update((id, "not among the generated sub-actions") for id in video if id not in known)
    return samples, not_scored


def _require_same_texts(script, subactions):
    try:
        encoded = {option["key"]: option["texts"] for option in subactions.item(script.sample.id)["options"]}
    except (KeyError, TypeError):
        raise console.InputError(f"{subactions.path}: its index does not tell the options of sample "
                                 f"{script.sample.id}; run encode_subactions.py again with --overwrite") from None
    for key, texts in zip(script.sample.keys, script.texts, strict=True):
        if list(texts) != encoded.get(key, []):
            raise console.InputError(f"{subactions.path}: {key!r} of sample {script.sample.id} was encoded from other "
                                     "sub-actions; run encode_subactions.py again")


def option_embeddings(sample, subactions):
    """K arrays (M, D) of one sample, in the order of its options."""
    rows = subactions.embeddings(sample.id)
    item = subactions.item(sample.id)
    first = item["start"]
    ranges = {option["key"]: (option["start"] - first, option["stop"] - first) for option in item["options"]}
    return [rows[slice(*ranges[key])] for key in sample.keys]


def sample_similarities(sample, video, subactions, window, device="cpu"):
    """K similarity matrices (T, M) of one sample."""
    return next(compare([sample], video, subactions, window, device))


def compare(samples, video, subactions, window, device="cpu"):
    """For every sample its K similarity matrices (T, M); on a CUDA device all samples are compared at once.

    Raises InputError if frames cancel out within a window.
    """
    embeddings = ((video.embeddings(sample.id), option_embeddings(sample, subactions)) for sample in samples)
    scale, bias = video.meta["logit_scale"], video.meta["logit_bias"]
    if device == "cpu":
        for sample, (frames, options) in zip(samples, embeddings, strict=True):
            matrix = similarity_matrix(window_sums(frames, window), np.concatenate(options), scale, bias)
            yield _by_option(matrix, options, sample, video, window)
    else:
        frames, options = zip(*embeddings, strict=True)
        pairs = [(part, np.concatenate(texts)) for part, texts in zip(frames, options, strict=True)]
        matrices = similarity_matrices_on(device, pairs, window, scale, bias)
        for sample, matrix, texts in zip(samples, matrices, options, strict=True):
            yield _by_option(matrix, texts, sample, video, window)


def _by_option(matrix, options, sample, video, window):
    """Split the columns of (T, M of all options) into K matrices. Raises InputError if a row is not finite."""
    lost = np.flatnonzero(~np.isfinite(matrix).all(axis=1))
    if len(lost):
        raise console.InputError(f"{video.path}: frame {lost[0]} of sample {sample.id} has no direction within the "
                                 f"smoothing window of {window} frames, whose embeddings cancel out; choose another "
                                 "--smooth")
    return np.split(matrix, np.cumsum([len(option) for option in options])[:-1], axis=1)


def batches(samples, video, subactions):
    """The samples in order, in lists whose similarity matrices have CELLS_AT_ONCE cells, or of one sample."""
    batch, cells = [], 0
    for sample in samples:
        of_sample = video.length(sample.id) * (subactions.length(sample.id) + len(sample.options))
        if batch and cells + of_sample > CELLS_AT_ONCE:
            yield batch
            batch, cells = [], 0
        batch.append(sample)
        cells += of_sample
    if batch:
        yield batch


def predict(samples, video, subactions, window, alignment="dtw", device="cpu", with_paths=False):
    """Score every option of every sample; one Prediction for each of `samples`, in order.

    On the CPU batches are worked on side by side, each by one thread: products of this size are too small to be shared
    among the threads of a BLAS, which wait for one another by turning in circles where a core is busy.
    """
    def score(batch):
        flat = [matrix for matrices in compare(batch, video, subactions, window, device) for matrix in matrices]
        if alignment == "dtw":
            scores, paths = dtw_batch(flat, with_paths)
        else:
            scores, paths = np.array([unordered(matrix) for matrix in flat]), None
        return scores, paths

    predictions, todo = [], list(batches(samples, video, subactions))
    workers = min(cores.count(), MOST_WORKERS) if device == "cpu" else 1
    with (console.progress(len(samples), "samples") as bar, threadpool_limits(1, user_api="blas"),
          ThreadPoolExecutor(workers) as pool):
        for batch, (scores, paths) in zip(todo, pool.map(score, todo), strict=True):
            stop = 0
            for sample in batch:
                start, stop = stop, stop + len(sample.options)
                of_sample = None if paths is None else PackedPaths(paths[start:stop])
                predictions.append(evaluation.Prediction(sample, scores[start:stop].copy(), of_sample))
            bar.update(len(batch))
    return predictions


def smoothing_note(samples, video, subactions, window):
    """What the smoothing window means for these clips: one line for the result."""
    if window == 1:
        return "no smoothing"
    rates = [rate for rate in (video.frame_rate(sample.id) for sample in samples) if rate]
    seconds = f" ({window / np.median(rates):.2f} s)" if rates else ""
    phases = np.array([video.length(sample.id) * len(sample.options) / subactions.length(sample.id)
                       for sample in samples])  # T/M
    note = f"smoothing window {window} frames{seconds}, median phase T/M {np.median(phases):.1f} frames"
    blurred = int(np.sum(window > phases))
    if blurred:
        note += f"; in {blurred} of {len(samples)} samples the window is longer than a phase and blurs it: see --smooth"
    return note


def pick_device(name):
    """"cpu", or the CUDA device called `name`. Loading torch takes longer than aligning, so only CUDA is worth it."""
    if name in (None, "cpu"):
        return "cpu"
    device = console.pick_device(name)
    return device if device.type == "cuda" else "cpu"  # other devices have no float64


def parse_args(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0], formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="example:\n  python seq_alignment.py --subactions generated_subactions.json "
               "--video_embeddings video_embeddings.npy \\\n      --subaction_embeddings encoded_subactions.npy "
               "--device cuda:0")
    parser.add_argument("--subactions", required=True, help="generated_subactions.json")
    parser.add_argument("--video_embeddings", required=True, help="video_embeddings.npy")
    parser.add_argument("--subaction_embeddings", required=True, help="encoded_subactions.npy")
    parser.add_argument("--smooth", type=console.positive_int, default=SMOOTH_FRAMES, metavar="FRAMES",
                        help="window of the moving average over frame embeddings; 1 for none (default: %(default)s)")
    parser.add_argument("--alignment", choices=("dtw", "unordered"), default="dtw",
                        help="unordered is the control that ignores the order of sub-actions (default: %(default)s)")
    parser.add_argument("--output", help="write scores, rankings and paths to this predictions.json, and its .csv twin")
    parser.add_argument("--report", metavar="HTML", help="write a page that shows why each sample is answered as it is")
    parser.add_argument("--frames", metavar="NPY", help="processed_dataset.npy: pictures for --report and --figures")
    parser.add_argument("--compare", metavar="JSON",
                        help="predictions.json of another method on the same samples, to compare this run with")
    parser.add_argument("--report_limit", type=console.positive_int, default=report.MOST_SAMPLES, metavar="N",
                        help="show the N most telling samples in --report (default: %(default)s)")
    parser.add_argument("--figures", metavar="DIR", help="draw figures of samples into this folder, as PNG and PDF")
    parser.add_argument("--samples", nargs="+", metavar="ID",
                        help="the samples of --report and --figures (default: the most telling ones)")
    parser.add_argument("--model", help="checkpoint that made embeddings of the published scripts, for its scale and "
                                        "bias (default: google/siglip-so400m-patch14-384)")
    add_trust_argument(parser)
    console.add_device_argument(parser, "cpu; a CUDA device compares many samples at once")
    return parser.parse_args(argv)


def _noting(ids, scripts):
    """The scripts; their ids are added to `ids` as they pass."""
    for script in scripts:
        ids.add(script.sample.id)
        yield script


def keep_freed_memory():
    """Have the C library keep the memory of arrays that are let go of, for the next ones.

    glibc gives arrays back to the system one by one, and faulting them in again took more than half of the stage's
    time. Freeing one untouched array raises its thresholds (mallopt(3), M_MMAP_THRESHOLD) to the greatest that there
    are, 32 MB; elsewhere nothing happens.
    """
    np.empty(31 << 20, np.uint8)


@console.script
def main(argv=None):
    args = parse_args(argv)
    report.require_usable(args)
    with predictions_output(args.output):
        return align(args)


def align(args):
    """The stage with its parsed arguments."""
    video = artifacts.read_array(args.video_embeddings, "video_embeddings", args.subactions)
    subactions = artifacts.read_array(args.subaction_embeddings, "subaction_embeddings", args.subactions)
    artifacts.take_checkpoint((video, subactions), args.model, args.trust_pickle_weights)
    artifacts.require_same_checkpoint(video, subactions)
    device = pick_device(args.device)

    ids = set(video)
    samples, not_scored = join(_noting(ids, iter_subactions(args.subactions)), video, subactions)
    method = {"name": args.alignment, "smooth": args.smooth}
    compared = comparison.read_compared(args.compare, samples, method) if args.compare else None
    frames = report.open_frames(args.frames, video) if args.frames else None
    report.require_samples(args.samples or (), samples, not_scored)
    keep_freed_memory()
    stopwatch = console.Stopwatch()
    predictions = predict(samples, video, subactions, args.smooth, args.alignment, device,
                          with_paths=bool(args.output or args.report or args.figures))
    evaluation.require_all_joined(predictions, not_scored, ids)
    beside = {compared.name: list(compared.predictions.values())} if compared else None
    evaluation.print_results(comparison.method_name(method), predictions, not_scored, beside)
    if predictions:
        note = smoothing_note(samples, video, subactions, args.smooth)
        print(f"{note}; {stopwatch.rate(len(predictions))} samples/s")
    if predictions and compared:
        print("\n".join(comparison.lines(method, predictions, compared)))
    sources = {"subactions": {"path": args.subactions, "fingerprint": files.fingerprint(args.subactions)},
               "video_embeddings": video.source(), "subaction_embeddings": subactions.source()}
    print(evaluation.made_from(sources))
    if args.output:
        write_predictions(args.output, method, sources, predictions, not_scored)
        print(f"predictions -> {args.output}, {csv_path(args.output)}")
    if not predictions:
        raise console.StageError("no sample could be scored; the lines above say why")
    if args.report or args.figures:
        report.write(args, report.Run(
            method, predictions, not_scored, video, subactions, frames, compared,
            lambda sample: sample_similarities(sample, video, subactions, args.smooth, device)))


if __name__ == "__main__":
    raise SystemExit(main())

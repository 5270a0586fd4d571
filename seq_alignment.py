"""Stage 6: align every clip with the sub-actions of its options by dynamic time warping, and pick the best.

Reads generated_subactions.json, video_embeddings.npy and encoded_subactions.npy; prints accuracy, or predictions
where no answers are known; writes predictions.json when asked. Needs no model: scale and bias come with the embeddings.

    python seq_alignment.py --subactions generated_subactions.json --video_embeddings video_embeddings.npy \\
        --subaction_embeddings encoded_subactions.npy --device cuda:0
"""

import argparse

import numpy as np

from actalign import artifacts, console, evaluation
from actalign.subactions import read_scripts

SMOOTH_FRAMES = 30  # the published window, about one second
CELLS_AT_ONCE = 1 << 19  # of the padded similarity matrices that one batch of DTW holds: 4 MB, near the cache's size
SAMPLES_AT_ONCE = 64  # read, compared and aligned together; bounds memory whatever the number of samples


def smooth(embeddings, window):
    """Centred moving average over time.

    embeddings (T, D) float; window in frames, 1 leaves them as they are. An even window reaches one frame further back
    than ahead. At the ends only the frames that exist are averaged.
    Returns (T, D) float64.
    """
    T = len(embeddings)
    if window == 1:
        return embeddings.astype(np.float64)
    sums = np.zeros((T + 1, embeddings.shape[1]))
    np.cumsum(embeddings, axis=0, dtype=np.float64, out=sums[1:])
    first = np.maximum(np.arange(T) - window // 2, 0)
    stop = np.minimum(np.arange(T) - window // 2 + window, T)
    return (sums[stop] - sums[first]) / (stop - first)[:, None]


def similarity_matrix(video, subactions, logit_scale, logit_bias, device="cpu"):
    """SigLIP's similarity of every frame with every sub-action: sigmoid(exp(logit_scale) * cosine + logit_bias).

    video (T, D), subactions (M, D); logit_scale and logit_bias are the checkpoint's.
    Returns (T, M) float64 in (0, 1). The sigmoid is taken in float64: its small values underflow in float32, and
    what is rounded to 0 for every option cannot be ranked.
    Source: Zhai et al. 2023 (arXiv 2303.15343), section 3.2.
    """
    import torch

    video, subactions = (torch.nn.functional.normalize(torch.as_tensor(np.asarray(rows, np.float32)).to(device), dim=1)
                         for rows in (video, subactions))
    cosines = (video @ subactions.T).cpu().double()  # (T, M)
    return torch.sigmoid(np.exp(logit_scale) * cosines + logit_bias).numpy()


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
    for similarity in similarities:
        if similarity.ndim != 2 or 0 in similarity.shape:
            raise ValueError(f"a similarity matrix must be (T, M) with at least one cell, not {similarity.shape}")
    scores = np.empty(len(similarities))
    paths = [None] * len(similarities) if with_paths else None
    # Alike matrices together, so that little padding is computed; the longest first, so that finished ones fall off.
    order = sorted(range(len(similarities)), key=lambda i: similarities[i].shape[::-1], reverse=True)
    for chunk in _chunks(order, similarities):
        chunk_scores, chunk_paths = _dtw_chunk([similarities[i] for i in chunk], with_paths)
        scores[chunk] = chunk_scores
        if with_paths:
            for i, path in zip(chunk, chunk_paths, strict=True):
                paths[i] = path
    return scores, paths


def _chunks(order, similarities):
    """Split indices so that each chunk's padded matrices have at most CELLS_AT_ONCE cells, or it is one matrix."""
    chunk, longest, widest = [], 0, 0
    for i in order:
        T, M = similarities[i].shape
        diagonals, width = max(longest, T + M - 1), max(widest, M + 1)
        if chunk and diagonals * width * (len(chunk) + 1) > CELLS_AT_ONCE:
            yield chunk
            chunk, diagonals, width = [], T + M - 1, M + 1
        chunk.append(i)
        longest, widest = diagonals, width
    if chunk:
        yield chunk


def _dtw_chunk(similarities, with_paths):
    """Scores and paths of B matrices, by anti-diagonals: the cells of one t + m need only those of the two before.

    In sums (diagonals, B, M + 1) one anti-diagonal of every matrix is one contiguous slab, in which column 0 stands
    for m = -1 and column m + 1 for sub-action m. What lies outside a matrix is -inf and never wins.
    """
    T = np.array([len(similarity) for similarity in similarities])
    M = np.array([similarity.shape[1] for similarity in similarities])
    by_end = np.argsort(-(T + M), kind="stable")  # the matrices still running are then the first of every slab
    T, M = T[by_end], M[by_end]
    B, width = len(T), int(M.max()) + 1
    sums = np.full((int((T + M).max()) - 1, B, width), -np.inf)
    has_negative = False
    for b, i in enumerate(by_end):
        similarity = similarities[i]
        if not np.isfinite(similarity).all():
            raise ValueError("a similarity matrix must be finite")
        has_negative = has_negative or similarity.min() < 0
        _slanted(sums, b, *similarity.shape)[...] = similarity
    counts = _fill(sums, T + M - 1, has_negative)
    last = (T + M - 2, np.arange(B), M)
    back = np.argsort(by_end)
    scores = (sums[last] / (T + M - 1 if counts is None else counts[last]))[back]
    if not with_paths:
        return scores, None
    paths = _trace_back(sums, counts, T, M)
    return scores, [paths[b] for b in back]


def _slanted(sums, b, T, M):
    """The (T, M) view of matrix b in which cell (t, m) lies on diagonal t + m."""
    diagonal, matrix, column = sums.strides
    return np.ndarray((T, M), sums.dtype, sums, offset=b * matrix + column, strides=(diagonal, diagonal + column))


def _fill(sums, diagonals_of, count_cells):
    """The dynamic programme D[t,m] = S[t,m] + max(D[t-1,m-1], D[t-1,m], D[t,m-1]), in place.

    sums (diagonals, B, width) holds S and then D; diagonals_of (B,) how many each matrix has, decreasing.
    Returns the number of cells on the best path to each cell, shaped like sums; None unless `count_cells`, where the
    entries are not negative and so the number is t + m + 1.
    """
    diagonals, B, width = sums.shape
    running = np.searchsorted(-diagonals_of, -np.arange(1, diagonals + 1), side="right")
    flat = sums.reshape(diagonals, B * width)
    best = np.empty(B * width)
    counts = np.ones(flat.shape, dtype=np.int32) if count_cells else None
    for d in range(1, diagonals):
        # In a flat slab the neighbour at m - 1 is the element before; where a row begins, that is column 0 or -inf.
        size = running[d] * width
        up, left = flat[d - 1, 1:size], flat[d - 1, :size - 1]
        diagonal = flat[d - 2, :size - 1] if d >= 2 else np.full(size - 1, -np.inf)
        if count_cells:
            up_count, left_count = counts[d - 1, 1:size], counts[d - 1, :size - 1]
            counts[d, 1:size] += _longest(up, left, diagonal, up_count, left_count,
                                          counts[d - 2, :size - 1] if d >= 2 else up_count)
        np.maximum(up, left, out=best[1:size])
        np.maximum(best[1:size], diagonal, out=best[1:size])
        flat[d, 1:size] += best[1:size]
    return None if counts is None else counts.reshape(sums.shape)


def _longest(up, left, diagonal, up_count, left_count, diagonal_count):
    """The cell count of the greatest predecessor; of equal ones, of that with most cells."""
    best, count = np.maximum(up, left), np.where(up > left, up_count, left_count)
    count = np.where(up == left, np.maximum(up_count, left_count), count)
    longer = (diagonal > best) | ((diagonal == best) & (diagonal_count > count))
    return np.where(longer, diagonal_count, count)


def _trace_back(sums, counts, T, M):
    """The best paths of B matrices from D and, where entries can be negative, cell counts: B arrays (cells, 2)."""
    B = len(T)
    matrix, t, m = np.arange(B), T - 1, M - 1
    steps = np.empty((len(sums), B, 2), dtype=np.int64)  # from the end
    cells = np.zeros(B, dtype=np.int64)
    while len(matrix):
        steps[cells[matrix], matrix] = np.stack([t, m], axis=1)
        cells[matrix] += 1
        going = t + m > 0
        matrix, t, m = matrix[going], t[going], m[going]
        step_t, step_m = _step_back(sums, counts, matrix, t, m)
        t, m = t - step_t, m - step_m
    return [steps[:cells[b], b][::-1] for b in range(B)]


def _step_back(sums, counts, matrix, t, m):
    """(step in t, step in m), 0 or 1 each, from cells (t, m) to their best predecessors; staying in m wins ties."""
    d = t + m
    up, left = (d - 1, matrix, m + 1), (d - 1, matrix, m)
    if counts is None:
        goes_up = sums[up] >= sums[left]
        return goes_up.astype(int), (~goes_up).astype(int)
    diagonal = (np.maximum(d - 2, 0), matrix, m)
    goes_up = (sums[up] > sums[left]) | ((sums[up] == sums[left]) & (counts[up] >= counts[left]))
    straight = np.where(goes_up, sums[up], sums[left])
    straight_count = np.where(goes_up, counts[up], counts[left])
    across = (t > 0) & (m > 0) & ((sums[diagonal] > straight) |
                                  ((sums[diagonal] == straight) & (counts[diagonal] > straight_count)))
    return (goes_up | across).astype(int), (~goes_up | across).astype(int)


def unordered(similarity):
    """The control that ignores order: every frame takes its best sub-action. Mean over t of max over m of (T, M)."""
    return float(np.mean(np.max(similarity, axis=1)))


# The stage


def join(scripts, video, subactions):
    """Bring together by id what belongs to one sample.

    Returns (joined, not_scored): the Scripts of all samples that can be scored, and {id: reason} of the others.
    Raises InputError if the embeddings were made from other sub-actions than those of `scripts`.
    """
    joined, not_scored = [], {}
    for script in scripts:
        id = script.sample.id
        if id in subactions:
            _require_same_texts(script, subactions)
        if script.lacking:
            not_scored[id] = f"no sub-actions for {', '.join(script.lacking)}"
        elif id not in video:
            not_scored[id] = f"not in {video.path.name}"
        elif id not in subactions:
            not_scored[id] = f"not in {subactions.path.name}"
        else:
            joined.append(script)
    known = {script.sample.id for script in scripts}
    for item in video.items:
        if item["id"] not in known:
            not_scored[item["id"]] = "not among the generated sub-actions"
    return joined, not_scored


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


def option_embeddings(script, subactions):
    """K arrays (M, D) of one sample, in the order of its options."""
    rows = subactions.embeddings(script.sample.id)
    first = subactions.item(script.sample.id)["start"]
    ranges = {option["key"]: (option["start"] - first, option["stop"] - first)
              for option in subactions.item(script.sample.id)["options"]}
    return [rows[slice(*ranges[key])] for key in script.sample.keys]


def sample_similarities(script, video, subactions, window, device):
    """K similarity matrices (T, M) of one sample."""
    frames = smooth(video.embeddings(script.sample.id), window)  # (T, D)
    options = option_embeddings(script, subactions)
    meta = video.meta
    similarity = similarity_matrix(frames, np.concatenate(options), meta["logit_scale"], meta["logit_bias"], device)
    return np.split(similarity, np.cumsum([len(option) for option in options])[:-1], axis=1)


def predict(joined, video, subactions, window, alignment="dtw", device="cpu", with_paths=False):
    """Score every option of every sample; one Prediction for each of `joined`, in order."""
    predictions = []
    with console.progress(len(joined), "samples") as bar:
        for first in range(0, len(joined), SAMPLES_AT_ONCE):
            batch = joined[first:first + SAMPLES_AT_ONCE]
            matrices = [sample_similarities(script, video, subactions, window, device) for script in batch]
            flat = [matrix for sample in matrices for matrix in sample]
            if alignment == "dtw":
                scores, paths = dtw_batch(flat, with_paths)
            else:
                scores, paths = np.array([unordered(matrix) for matrix in flat]), None
            start = 0
            for script in batch:
                stop = start + len(script.texts)
                predictions.append(evaluation.Prediction(script.sample, scores[start:stop],
                                                         None if paths is None else paths[start:stop]))
                start = stop
            bar.update(len(batch))
    return predictions


def smoothing_note(joined, video, window):
    """What the smoothing window means for these clips: one line for the result."""
    if window == 1:
        return "no smoothing"
    lengths = {script.sample.id: video.item(script.sample.id) for script in joined}
    rates = [item["fps"] for item in lengths.values() if item.get("fps")]
    seconds = f" ({window / np.median(rates):.2f} s)" if rates else ""
    phases = [(item["stop"] - item["start"]) / np.mean([len(texts) for texts in script.texts])
              for script, item in zip(joined, lengths.values(), strict=True)]
    note = f"smoothing window {window} frames{seconds}, median phase T/M {np.median(phases):.1f} frames"
    blurred = sum(window > phase for phase in phases)
    if blurred:
        note += f"; in {blurred} of {len(joined)} samples the window is longer than a phase and blurs it: see --smooth"
    return note


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
    parser.add_argument("--output", help="write scores, rankings and paths to this predictions.json")
    console.add_device_argument(parser)
    return parser.parse_args(argv)


@console.script
def main(argv=None):
    args = parse_args(argv)
    if args.output:
        console.require_folder_of(args.output)
        evaluation.require_replaceable(args.output)
    scripts = read_scripts(args.subactions)
    video = artifacts.read_array(args.video_embeddings, "video_embeddings")
    subactions = artifacts.read_array(args.subaction_embeddings, "subaction_embeddings")
    artifacts.require_same_checkpoint(video, subactions)
    device = console.pick_device(args.device)

    joined, not_scored = join(scripts, video, subactions)
    stopwatch = console.Stopwatch()
    predictions = predict(joined, video, subactions, args.smooth, args.alignment, device,
                          with_paths=bool(args.output))
    evaluation.print_results(args.alignment, predictions, not_scored)
    if predictions:
        print(f"{smoothing_note(joined, video, args.smooth)}; {stopwatch.rate(len(predictions))} samples/s")
    if args.output:
        method = {"name": args.alignment, "smooth": args.smooth}
        sources = {"subactions": {"path": args.subactions}, "video_embeddings": video.source(),
                   "subaction_embeddings": subactions.source()}
        evaluation.write_predictions(args.output, method, sources, predictions, not_scored)
        print(f"predictions -> {args.output}")
    if not predictions:
        raise console.StageError("no sample could be scored; the lines above say why")


if __name__ == "__main__":
    raise SystemExit(main())

"""Time the alignment of an ActionAtlas-sized job, beside a plain Python double loop on the same matrices.

    python benchmarks/alignment.py
"""

import argparse
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from seq_alignment import dtw_batch

SAMPLES, OPTIONS = 898, 5  # the clips of ActionAtlas that the published figures were measured on
FRAMES, FRAMES_SPREAD, FRAMES_RANGE = 195, 80, (30, 500)  # 6.07 s at 32 frames/s on average
SUBACTIONS, SUBACTIONS_SPREAD, SUBACTIONS_RANGE = 11, 1.5, (8, 15)
SEED = 0


def make_job(samples=SAMPLES):
    """samples x OPTIONS random similarity matrices (T, M) in (0, 1), T shared by the options of a sample."""
    rng = np.random.default_rng(SEED)
    frames = np.clip(rng.normal(FRAMES, FRAMES_SPREAD, samples), *FRAMES_RANGE).astype(int)
    widths = np.clip(rng.normal(SUBACTIONS, SUBACTIONS_SPREAD, (samples, OPTIONS)), *SUBACTIONS_RANGE).astype(int)
    return [rng.random((T, M)) for T, row in zip(frames, widths, strict=True) for M in row]


def plain_loop(similarity):
    """The score of one positive similarity matrix, cell by cell in Python."""
    T, M = similarity.shape
    sums = [[0.0] * M for _ in range(T)]
    for t in range(T):
        for m in range(M):
            before = [sums[i][j] for i, j in ((t - 1, m - 1), (t - 1, m), (t, m - 1)) if i >= 0 and j >= 0]
            sums[t][m] = similarity[t, m] + max(before, default=0.0)
    return sums[-1][-1] / (T + M - 1)


def best_time(function, repeats):
    """(seconds, result) of the fastest of some runs."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        result = function()
        times.append(time.perf_counter() - start)
    return min(times), result


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--repeats", type=int, default=5,
                        help="runs of the batched one, of which the fastest counts (default: %(default)s)")
    args = parser.parse_args(argv)
    job = make_job()
    seconds, (scores, _) = best_time(lambda: dtw_batch(job), args.repeats)
    path_seconds, _ = best_time(lambda: dtw_batch(job, with_paths=True), args.repeats)
    loop_seconds, loop_scores = best_time(lambda: np.array([plain_loop(matrix) for matrix in job]), 1)
    if not np.allclose(scores, loop_scores, rtol=0, atol=1e-12):
        print("the scores differ", file=sys.stderr)
        return 1
    T, M = np.mean([matrix.shape for matrix in job], axis=0)
    cells = sum(matrix.size for matrix in job)
    print(f"{len(job)} alignments of {T:.0f} x {M:.1f} on average, {cells / 1e6:.1f} million cells; same scores")
    for name, value in (("plain loop", loop_seconds), ("batched", seconds), ("batched, with paths", path_seconds)):
        print(f"{name:20s} {value:8.3f} s  {loop_seconds / value:7.1f} x")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

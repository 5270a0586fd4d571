"""Time the alignment of an ActionAtlas-sized job beside other implementations, its growth, and the whole stage.

    python benchmarks/alignment.py
"""

import argparse
import functools
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import seq_alignment  # noqa: E402
from actalign import artifacts, evaluation, tables  # noqa: E402
from actalign.subactions import read_subactions  # noqa: E402
from seq_alignment import dtw_batch  # noqa: E402

SAMPLES, OPTIONS = 898, 5  # the clips of ActionAtlas that the published figures were measured on
ACTIONS = 1896  # that its options name
FRAMES, FRAMES_SPREAD, FRAMES_RANGE = 195, 80, (30, 500)  # 6.07 s at 32 frames/s on average
SUBACTIONS, SUBACTIONS_SPREAD, SUBACTIONS_RANGE = 11, 1.5, (8, 15)
FEATURES = 1152  # of so400m
FEW_FEATURES = 128  # for the job of eight times the samples, which would fill 8 GB otherwise
CHECKPOINT = {"checkpoint": "none", "logit_scale": 4.77, "logit_bias": -16.5, "dtype": "float32"}
SEED = 0


def lengths_of(samples):
    """T of every sample (N,), and M of its options (N, K)."""
    rng = np.random.default_rng(SEED)
    frames = np.clip(rng.normal(FRAMES, FRAMES_SPREAD, samples), *FRAMES_RANGE).astype(int)
    widths = np.clip(rng.normal(SUBACTIONS, SUBACTIONS_SPREAD, (samples, OPTIONS)), *SUBACTIONS_RANGE).astype(int)
    return frames, widths


def make_job(samples=SAMPLES, t=1, m=1, k=1):
    """samples x OPTIONS random similarity matrices (T, M) in (0, 1); t, m and k multiply frames, widths and options."""
    rng = np.random.default_rng(SEED)
    frames, widths = lengths_of(samples)
    return [rng.random((T * t, M * m)) for T, row in zip(frames, widths, strict=True) for M in list(row) * k]


# The peers. Each takes a positive similarity matrix and returns the mean over its best path, which has T + M - 1 cells.


def plain_loop(similarity):
    """Cell by cell in Python."""
    T, M = similarity.shape
    sums = [[0.0] * M for _ in range(T)]
    for t in range(T):
        for m in range(M):
            before = [sums[i][j] for i, j in ((t - 1, m - 1), (t - 1, m), (t, m - 1)) if i >= 0 and j >= 0]
            sums[t][m] = similarity[t, m] + max(before, default=0.0)
    return sums[-1][-1] / (T + M - 1)


def by_librosa(similarity):
    from librosa.sequence import dtw

    return -dtw(C=-similarity, backtrack=False)[-1, -1] / (sum(similarity.shape) - 1)


def by_librosa_with_path(similarity):
    from librosa.sequence import dtw

    sums, _ = dtw(C=-similarity)
    return -sums[-1, -1] / (sum(similarity.shape) - 1)


def by_dtw_python(similarity):
    from dtw import dtw

    return -dtw(-similarity, step_pattern="symmetric1", distance_only=True).distance / (sum(similarity.shape) - 1)


def by_dtw_python_with_path(similarity):
    from dtw import dtw

    return -dtw(-similarity, step_pattern="symmetric1").distance / (sum(similarity.shape) - 1)


def by_tslearn_with_path(similarity):
    from tslearn.metrics import dtw_path_from_metric

    _, distance = dtw_path_from_metric(-similarity, metric="precomputed")
    return -distance / (sum(similarity.shape) - 1)


def by_dtaidistance(similarity):
    """Of two series of these lengths, by its C code: it takes no matrices, and so gives another score."""
    from dtaidistance import dtw

    return dtw.distance_fast(similarity[:, 0].copy(), similarity[0].copy())


SCORES = {"librosa.sequence.dtw": by_librosa, "dtw-python, symmetric1": by_dtw_python,
          "dtaidistance, of series": by_dtaidistance}
PATHS = {"librosa.sequence.dtw": by_librosa_with_path, "dtw-python, symmetric1": by_dtw_python_with_path,
         "tslearn dtw_path_from_metric": by_tslearn_with_path}


def best_time(function, repeats):
    """(seconds, result) of the fastest of some runs."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        result = function()
        times.append(time.perf_counter() - start)
    return min(times), result


def compare_with_peers(repeats):
    """Lines of the table; raises ValueError if a peer's scores differ."""
    job = make_job()
    T, M = np.mean([matrix.shape for matrix in job], axis=0)
    yield f"{len(job)} alignments of {T:.0f} x {M:.1f} on average"
    rows = [("", "seconds", "times ours", "scores differ by")]
    loop_seconds, expected = best_time(lambda: np.array([plain_loop(matrix) for matrix in job]), 1)
    for with_paths, title, peers in ((False, "scores", SCORES), (True, "scores and paths", PATHS)):
        ours, (scores, _) = best_time(lambda with_paths=with_paths: dtw_batch(job, with_paths), repeats)
        found = {f"ActAlign, {title}": (ours, scores)}
        for name, align in peers.items():
            align(job[0])  # compiles it, where it is compiled
            found[f"{name}, {title}"] = best_time(lambda align=align: np.array([align(matrix) for matrix in job]), 2)
        if not with_paths:
            found["plain Python loop, scores"] = loop_seconds, expected
        for name, (seconds, scores) in found.items():
            difference = np.abs(scores - expected).max()
            if not difference < 1e-9 and "series" not in name:
                raise ValueError(f"the scores of {name} differ by {difference}")
            rows.append((name, f"{seconds:.3f}", f"{seconds / ours:.1f}",
                         "another score" if "series" in name else f"{difference:.0e}"))
    yield from tables.table(rows)


def growth(repeats):
    """Lines of the table of times where T, M, K or N is 2, 4, 8 times as large."""
    def seconds_of(job):
        return best_time(lambda: dtw_batch(job), repeats)[0]

    samples = SAMPLES // 4
    seconds = seconds_of(make_job(samples))
    yield f"growth, times the {seconds:.3f} s of a quarter of the samples"
    rows = [("", "x 2", "x 4", "x 8")]
    for name in "TMKN":
        jobs = (make_job(samples * factor) if name == "N" else make_job(samples, **{name.lower(): factor})
                for factor in (2, 4, 8))
        rows.append((name, *(f"{seconds_of(job) / seconds:.1f}" for job in jobs)))
    yield from tables.table(rows)


# The whole stage


def write_artifacts(folder, samples, features):
    """Write the stage's three inputs with random embeddings; returns the script's arguments."""
    rng = np.random.default_rng(SEED)
    frames, widths = lengths_of(samples)
    entries = []
    actions = [sorted(rng.choice(ACTIONS, OPTIONS, replace=False).tolist()) for _ in range(samples)]
    with artifacts.ArrayWriter(folder / "v.npy", "video_embeddings", CHECKPOINT) as writer:
        for number, T in enumerate(frames.tolist()):
            writer.append(f"clip-{number}", rng.standard_normal((T, features), np.float32), fps=32.0,
                          timestamps=[round(t / 32, 6) for t in range(T)])
    with artifacts.ArrayWriter(folder / "u.npy", "subaction_embeddings", CHECKPOINT) as writer:
        for number, row in enumerate(widths.tolist()):
            texts = {f"action {action} in sport": [f"phase {m} of action {action}, told in a phrase of some length"
                                                   for m in range(M)]
                     for action, M in zip(actions[number], row, strict=True)}
            options, start = [], writer.row_count
            for key, phrases in texts.items():
                options.append({"key": key, "start": start, "stop": start + len(phrases), "texts": phrases})
                start += len(phrases)
            writer.append(f"clip-{number}", rng.standard_normal((sum(row), features), np.float32), options=options)
            entries.append({"id": f"clip-{number}", "domain": "sport", "correct_answer_index": number % OPTIONS,
                            "cleaned_options": [key.removesuffix(" in sport") for key in texts], "subactions": texts})
    (folder / "g.json").write_text(json.dumps(entries), encoding="utf-8")
    return ["--subactions", str(folder / "g.json"), "--video_embeddings", str(folder / "v.npy"),
            "--subaction_embeddings", str(folder / "u.npy"), "--device", "cpu"]


def profile(folder, repeats):
    """Lines that tell where the stage's time goes, each part measured alone and the whole as the script runs it."""
    args = write_artifacts(folder, SAMPLES, FEATURES)
    seconds = {}

    def measure(name, function):
        seconds[name], result = best_time(function, repeats)
        return result

    video, subactions = measure("read and check indexes", lambda: (
        artifacts.read_array(folder / "v.npy", "video_embeddings"),
        artifacts.read_array(folder / "u.npy", "subaction_embeddings")))
    samples, _ = measure("read sub-actions, join by id", lambda: seq_alignment.join(
        read_subactions(folder / "g.json"), video, subactions))
    measure("read embeddings", lambda: [(video.embeddings(sample.id), subactions.embeddings(sample.id))
                                        for sample in samples])
    matrices = measure("the same, smoothed and compared", lambda: [
        matrix for matrices in seq_alignment.compare(samples, video, subactions, seq_alignment.SMOOTH_FRAMES)
        for matrix in matrices])
    measure("align", functools.partial(dtw_batch, matrices))
    predictions = measure("all three, batches side by side", lambda: seq_alignment.predict(
        samples, video, subactions, seq_alignment.SMOOTH_FRAMES))
    measure("accuracy with intervals", lambda: evaluation.accuracy_table({"dtw": predictions}))
    whole, _ = best_time(lambda: run_stage(args), repeats)
    yield f"the stage on {SAMPLES} samples of {FEATURES} features, files in memory"
    yield from tables.table([("", "seconds")] + [(name, f"{value:.3f}") for name, value in seconds.items()]
                                + [("the script, with its start", f"{whole:.3f}")])
    work = seconds["all three, batches side by side"]
    yield f"beyond reading, comparing and aligning: {100 * (whole - work) / whole:.0f}% of the script's time"


def run_stage(args):
    """Run the script as a process of its own."""
    subprocess.run([sys.executable, str(ROOT / "seq_alignment.py"), *args], check=True, stdout=subprocess.DEVNULL,
                   stderr=subprocess.DEVNULL)


def peak_memory(args):
    """The script's peak resident memory in MB."""
    code = ("import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL, "
            "stderr=subprocess.DEVNULL); print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024)")
    found = subprocess.run([sys.executable, "-c", code, sys.executable, str(ROOT / "seq_alignment.py"), *args],
                           check=True, capture_output=True, text=True)
    return float(found.stdout)


def memory(folder):
    """A line on the script's peak memory for the samples of ActionAtlas and for eight times as many."""
    peaks = []
    for times in (1, 8):
        part = folder / str(times)
        part.mkdir()
        args = write_artifacts(part, times * SAMPLES, FEW_FEATURES)
        peaks.append(peak_memory([*args, "--output", str(part / "predictions.json")]))
    yield (f"peak memory of the script with --output, {FEW_FEATURES} features: {peaks[0]:.0f} MB for {SAMPLES} "
           f"samples, {peaks[1]:.0f} MB for {8 * SAMPLES} ({100 * (peaks[1] / peaks[0] - 1):+.0f}%)")


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--repeats", type=int, default=5,
                        help="runs, of which the fastest counts (default: %(default)s)")
    args = parser.parse_args(argv)
    seq_alignment.keep_freed_memory()  # as the script does
    print("\n".join(compare_with_peers(args.repeats)), flush=True)
    print("\n" + "\n".join(growth(args.repeats)), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        print("\n" + "\n".join(profile(Path(folder), min(args.repeats, 3))), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        print("\n".join(memory(Path(folder))), flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

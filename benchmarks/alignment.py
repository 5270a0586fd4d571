"""Time the alignment of an ActionAtlas-sized job beside other implementations, its growth, and the whole stage.

    python benchmarks/alignment.py
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import seq_alignment  # noqa: E402
from actalign import artifacts, cores, evaluation, tables  # noqa: E402
from actalign.alignment import ALIGNMENTS, METHODS, ORDERS, align  # noqa: E402
from actalign.files import json_checksum, write_json, write_json_items  # noqa: E402
from actalign.subactions import read_subactions  # noqa: E402

SAMPLES, OPTIONS = 898, 5  # the clips of ActionAtlas that the published figures were measured on
ACTIONS = 1896  # that its options name
FRAMES, FRAMES_SPREAD, FRAMES_RANGE = 195, 80, (30, 500)  # 6.07 s at 32 frames/s on average
SUBACTIONS, SUBACTIONS_SPREAD, SUBACTIONS_RANGE = 11, 1.5, (8, 15)
FEATURES = 1152  # of so400m
MANY_SAMPLES, FEW_FEATURES = 100_000, 8  # a job whose indexes and sub-actions are what takes memory
CHECKPOINT = {"checkpoint": "none", "logit_scale": 4.77, "logit_bias": -16.5, "dtype": "float32"}
CACHED_PART = 75  # so many times fewer samples, whose matrices the cache holds
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
    """Lines of the table; raises ValueError if a peer's scores differ.

    The matrices of a few samples are aligned again and again, so that they are in the processor's cache, as they are in
    the stage, which has just made them; where they come from memory, reading them once takes longer than aligning them.
    """
    job = make_job(SAMPLES // CACHED_PART) * CACHED_PART
    T, M = np.mean([matrix.shape for matrix in job], axis=0)
    yield f"{len(job)} alignments of {T:.0f} x {M:.1f} on average, matrices in the cache"
    rows = [("", "seconds", "times ours", "scores differ by")]
    loop_seconds, expected = best_time(lambda: np.array([plain_loop(matrix) for matrix in job]), 1)
    for with_paths, title, peers in ((False, "scores", SCORES), (True, "scores and paths", PATHS)):
        align(job[:1], "dtw", with_paths)
        ours, (scores, *_) = best_time(lambda with_paths=with_paths: align(job, "dtw", with_paths), repeats)
        found = {f"ActAlign, {title}": (ours, scores)}
        for name, peer in peers.items():
            peer(job[0])  # compiles it, where it is compiled
            found[f"{name}, {title}"] = best_time(lambda peer=peer: np.array([peer(matrix) for matrix in job]), 2)
        if not with_paths:
            found["plain Python loop, scores"] = loop_seconds, expected
        for name, (seconds, scores) in found.items():
            difference = np.abs(scores - expected).max()
            if not difference < 1e-12 and "series" not in name:
                raise ValueError(f"the scores of {name} differ by {difference}")
            rows.append((name, f"{seconds:.3f}", f"{seconds / ours:.1f}",
                         "another score" if "series" in name else f"{difference:.0e}"))
    yield from tables.table(rows)
    job = make_job()
    from_memory, reading = (best_time(function, repeats)[0] for function in (
        lambda: align(job), lambda: [matrix.sum() for matrix in job]))
    librosa, _ = best_time(lambda: [by_librosa(matrix) for matrix in job], 2)
    yield (f"{len(job)} matrices from memory: scores in {from_memory:.3f} s, librosa {librosa / from_memory:.1f} "
           f"times as long; numpy.sum of them takes {reading:.3f} s")


def contrasts(repeats):
    """Lines of the table of every alignment, alone and in order contrast, with a thread for each core."""
    job = make_job()
    samples = [[OPTIONS * n + k for k in range(OPTIONS)] for n in range(SAMPLES)]

    def seconds_of(name, orders):
        def score(numbers):
            align([job[number] for number in numbers], name, False, orders)

        score(samples[0])  # compiles it
        with ThreadPoolExecutor(cores.count()) as pool:
            return best_time(lambda: list(pool.map(score, samples)), repeats)[0]

    yield f"{len(job)} matrices from memory, {cores.count()} threads, seconds; in contrast of {ORDERS} orders"
    yield from tables.table([("", "alone", "in contrast")] + [
        (name, f"{seconds_of(name, 0):.3f}", f"{seconds_of(name, ORDERS):.2f}")
        for name in ALIGNMENTS if name != "unordered"])


def growth(repeats):
    """Lines of the table of times where T, M, K or N is 2, 4, 8 times as large."""
    def seconds_of(job):
        return best_time(lambda: align(job), repeats)[0]

    samples = SAMPLES  # more than the caches hold, as all that it is compared with
    seconds = seconds_of(make_job(samples))
    yield f"growth, times the {seconds:.3f} s of one"
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
    actions = [sorted(rng.choice(ACTIONS, OPTIONS, replace=False).tolist()) for _ in range(samples)]
    texts = [{f"action {action} in sport": [f"phase {m} of action {action}, told in a phrase of some length"
                                            for m in range(M)] for action, M in zip(of_sample, row, strict=True)}
             for of_sample, row in zip(actions, widths.tolist(), strict=True)]
    write_array(folder / "v.npy", "video_embeddings", features, (
        (T, {"fps": 32.0, "timestamps": [round(t / 32, 6) for t in range(T)]}) for T in frames.tolist()), frames.sum())
    write_array(folder / "u.npy", "subaction_embeddings", features, (
        (sum(map(len, of_sample.values())), {"options": of_sample}) for of_sample in texts), widths.sum())
    write_json(folder / "g.json", [
        {"id": f"clip-{number}", "domain": "sport", "correct_answer_index": number % OPTIONS,
         "cleaned_options": [key.removesuffix(" in sport") for key in of_sample], "subactions": of_sample}
        for number, of_sample in enumerate(texts)])
    return ["--subactions", str(folder / "g.json"), "--video_embeddings", str(folder / "v.npy"),
            "--subaction_embeddings", str(folder / "u.npy"), "--device", "cpu"]


def write_array(path, kind, features, items, rows):
    """Write an artifact of random rows at once: ArrayWriter waits for the disk twice an item."""
    rng = np.random.default_rng(SEED)
    array = np.lib.format.open_memmap(path, "w+", np.float32, (int(rows), features))

    def entries():
        start = 0
        for number, (length, fields) in enumerate(items):
            array[start:start + length] = rng.standard_normal((length, features), np.float32)
            entry = {"id": f"clip-{number}", "start": start, "stop": start + length,
                     "checksum": artifacts.Checksum(array[start:start + length]).hexdigest(), **fields}
            if "options" in fields:
                entry["options"] = option_entries(fields["options"], start)
            yield {**entry, "metadata_checksum": json_checksum(entry)}
            start += length

    write_json_items(path.with_suffix(".json"), {
        "format": artifacts.FORMAT, "version": artifacts.VERSION, "kind": kind, "dtype": "float32",
        "shape": list(array.shape), "meta": CHECKPOINT}, "items", entries())


def option_entries(texts, start):
    """The index's options of {key: texts}, whose rows begin at `start`."""
    options = []
    for key, phrases in texts.items():
        options.append({"key": key, "start": start, "stop": start + len(phrases), "texts": phrases})
        start += len(phrases)
    return options


def profile(folder, repeats):
    """Lines that tell where the stage's time goes, each part measured alone and the whole as the script runs it."""
    args = write_artifacts(folder, SAMPLES, FEATURES)
    seconds = {}

    def measure(name, function):
        seconds[name], result = best_time(function, repeats)
        return result

    measure("Python and numpy", lambda: run_python("import numpy"))
    measure("the same with torch", lambda: run_python("import numpy, torch"))
    measure("the same with torch and numba", lambda: run_python("import numpy, torch, numba"))
    video, texts = measure("read and check indexes", lambda: (
        artifacts.read_array(folder / "v.npy", "video_embeddings"),
        artifacts.read_array(folder / "u.npy", "subaction_embeddings")))
    samples, _ = measure("read sub-actions, join by id", lambda: seq_alignment.join(
        read_subactions(folder / "g.json"), video, texts))
    measure("read embeddings", lambda: [(video.embeddings(sample.id), texts.embeddings(sample.id))
                                        for sample in samples])

    def matrices_of(sample, kinds):
        return seq_alignment.similarities(sample, video, texts, 1, kinds)

    with cores.one_torch_thread():
        matrices = measure("the same, and compared", lambda: [
            matrix for sample in samples
            for matrix in next(matrices_of(sample, ["sigmoid"]))])
    measure("align", lambda: align(matrices))
    predictions = measure("all three, samples side by side", lambda: seq_alignment.predict(
        samples, METHODS["published"], matrices_of))
    measure("accuracy with intervals", lambda: evaluation.accuracy_table({"dtw": predictions}))
    measure("the script, with its start", lambda: run_stage(args))
    measure("the same by the recommended method", lambda: run_stage([*args, "--method", "recommended"]))
    measure("the same with every method beside it", lambda: run_stage([*args, "--alignment", "all"]))
    yield f"the stage on {SAMPLES} samples of {FEATURES} features, files in memory, compiled before"
    yield from tables.table([("", "seconds")] + [(name, f"{value:.3f}") for name, value in seconds.items()])


def first_call():
    """A line on the first call on a machine, which compiles."""
    with tempfile.TemporaryDirectory() as cache:
        code = ("import time, numpy; from actalign import alignment; start = time.perf_counter(); "
                "alignment.align([numpy.ones((3, 2))], 'dtw', True); alignment.smooth(numpy.ones((3, 2), 'f4'), 2); "
                "print(time.perf_counter() - start)")
        found = run_python(code, NUMBA_CACHE_DIR=cache)
    yield f"the first call on a machine compiles in {float(found):.1f} s and says: {' '.join(found.stderr.split())}"


def run_python(code, **environment):
    """Run Python code as a process of its own; returns what it prints, with its `stderr`."""
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env={**os.environ, **environment}, check=True,
                         capture_output=True, text=True)
    return Printed(ran.stdout, ran.stderr)


class Printed(str):
    """What a process wrote to stdout, and beside it to stderr."""

    def __new__(cls, stdout, stderr):
        printed = super().__new__(cls, stdout)
        printed.stderr = stderr
        return printed


def run_stage(args):
    """Run the script as a process of its own; returns what it prints."""
    return subprocess.run([sys.executable, str(ROOT / "seq_alignment.py"), *args], check=True, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout


def many_samples(folder):
    """Lines on the time and memory of the script for very many samples of few features."""
    args = write_artifacts(folder, MANY_SAMPLES, FEW_FEATURES)
    code = ("import resource, time; start = time.perf_counter(); import seq_alignment\n"
            "predict = seq_alignment.predict\n"
            "def timed(*args, **kwargs):\n"
            "    print('ready after', time.perf_counter() - start)\n"
            "    return predict(*args, **kwargs)\n"
            f"seq_alignment.predict = timed; seq_alignment.main({args!r})\n"
            "print('peak', resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)")
    printed = run_python(code)
    ready, peak = (float(re.search(rf"{word} (\S+)", printed)[1]) for word in ("ready after", "peak"))
    yield (f"{MANY_SAMPLES} samples ({FRAMES} frames with timestamps, {OPTIONS} options of {SUBACTIONS} sub-actions on "
           f"average): ready to align after {ready:.1f} s, peak memory of the script {peak / 1e9:.2f} GB")


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--repeats", type=int, default=5,
                        help="runs, of which the fastest counts (default: %(default)s)")
    args = parser.parse_args(argv)
    for part in (compare_with_peers(args.repeats), contrasts(min(args.repeats, 3)),
                 growth(args.repeats), first_call()):
        print("\n".join(part), end="\n\n", flush=True)
    for part in (lambda folder: profile(folder, min(args.repeats, 3)), many_samples):
        with tempfile.TemporaryDirectory() as folder:
            print("\n".join(part(Path(folder))), flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

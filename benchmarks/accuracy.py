"""Measure every alignment where the truth is known: drawn worlds, one strong encoder and weak ones.

    python benchmarks/accuracy.py            all of it, written to docs/evidence.md with pictures (make evidence)
    python benchmarks/accuracy.py --quick    60 clips of three worlds, one weak encoder, a table on stdout

Worlds, encoders and embeddings are made once and kept in --cache. What is recommended is chosen on the clips of one
seeds, and reported on those of another.
"""

import argparse
import contextlib
import functools
import json
import multiprocessing
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "examples")]

import candidates  # noqa: E402
import encoders  # noqa: E402
import worlds  # noqa: E402
from findings import Results, draw, encoder_rows, page, recommended  # noqa: E402
from methods import EMBEDDING_NOISE, METHODS, STRONG, VARIANTS  # noqa: E402

import baseline  # noqa: E402
import encode_subactions  # noqa: E402
import encode_videos  # noqa: E402
import process_data  # noqa: E402
from actalign import alignment, artifacts, cores  # noqa: E402
from actalign.predictions import read_predictions  # noqa: E402
from actalign.subactions import read_subactions  # noqa: E402
from actalign.tables import table  # noqa: E402

CHOICE_SEEDS, REPORT_SEED = (3, 4), 5  # of the clips that the recommendation is chosen on, and is reported on
QUICK = {"clips": 60, "worlds": ("base", "content", "lead"), "encoders": (STRONG, encoders.NOISY)}
CLIPS = 200  # a world and seed
SHUFFLE_SEED, NOISE_SEED = 5, 6
PART = 50  # samples that a worker scores at once


# Clips and embeddings: made once


def make_clips(cache, seed, names, clips):
    """Draw worlds and put them into one dataset, whose frames are decoded; returns its folder."""
    folder = cache / f"seed-{seed}-{clips}-clips"
    worlds.main(["--output", str(folder), "--seed", str(seed), "--clips", str(clips), "--worlds", *names])
    rows, records = [], []
    for name in names:
        for line in (folder / name / "manifest.jsonl").read_text().splitlines():
            row = json.loads(line)
            rows.append({**row, "video": f"{name}/{row['video']}"})
        records += json.loads((folder / name / "generated_subactions.json").read_text())
    (folder / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "generated_subactions.json").write_text(json.dumps(records))
    stage(process_data, "--dataset", folder / "manifest.jsonl", "--output", folder / "frames.npy", "--image_size", 48)
    return folder


def stage(script, *arguments):
    """Run a stage; what it finished before is kept."""
    with contextlib.redirect_stdout(sys.stderr):
        if code := script.main(list(map(str, arguments))):
            raise SystemExit(code)


def embed(folder, checkpoint, name):
    """Embeddings of all clips and texts by a checkpoint, and the baseline's predictions; returns their folder."""
    output = folder / encoders.folder_of(name)
    output.mkdir(exist_ok=True)
    video, frames = output / "video_embeddings.npy", folder / "frames.npy"
    stage(encode_videos, "--input", frames, "--output", video, "--model", checkpoint, "--device", "cpu")
    stage(encode_subactions, "--subactions", folder / "generated_subactions.json", "--output",
          output / "encoded_subactions.npy", "--model", checkpoint, "--device", "cpu")
    if not (output / "baseline.json").exists():
        stage(baseline, "--input_dataset", frames, "--video_embeddings", video, "--device", "cpu",
              "--output", output / "baseline.json")
    return output


# Scores


@functools.cache
def opened(folder):
    """(video, texts) embeddings in a folder, opened once a process."""
    return (artifacts.read_array(folder / "video_embeddings.npy", "video_embeddings"),
            artifacts.read_array(folder / "encoded_subactions.npy", "subaction_embeddings"))


def noisy(rows, each, alike, rng):
    """Unit rows (n, D) with Gaussian noise of these lengths: on every row, and on all rows alike."""
    n, D = rows.shape
    noise = each * rng.standard_normal((n, D)) + alike * rng.standard_normal((1, D))
    return rows / np.linalg.norm(rows, axis=1, keepdims=True) + noise / np.sqrt(D)


def scores_of(folder, noise, id, number):
    """{method or control: scores (K,)} of one sample; noise: None or lengths of EMBEDDING_NOISE."""
    video, texts = opened(folder)
    frames, rows, item = video.embeddings(id), texts.embeddings(id), texts.item(id)
    if noise:
        rng, (frame, clip, text) = np.random.default_rng([NOISE_SEED, number]), noise
        frames, rows = noisy(frames, frame, clip, rng), noisy(rows, text, 0, rng)
    options = [rows[option["start"] - item["start"]:option["stop"] - item["start"]] for option in item["options"]]
    scale, bias, found = video.meta["logit_scale"], video.meta["logit_bias"], {}
    cosines = [alignment.cosines(frames, rows) for rows in options]
    by_kind = {kind: [alignment.similarity_of(of_option, scale, bias, kind) for of_option in cosines]
               for kind in alignment.SIMILARITIES}
    shuffled = [np.random.default_rng([SHUFFLE_SEED, number, k]).permutation(rows.shape[0])
                for k, rows in enumerate(options)]
    for method in (*METHODS, *VARIANTS):
        matrices = by_kind[method.similarity]
        found[str(method)] = score(method, matrices)
        if not method.orders and method.alignment != "unordered":
            found[f"{method}; reversed"] = score(method, [matrix[::-1].copy() for matrix in matrices])
            found[f"{method}; shuffled"] = score(method, [
                matrix[:, order] for matrix, order in zip(matrices, shuffled, strict=True)])
    return found


def score(method, matrices):
    """Scores (K,) of K similarity matrices."""
    function = {**candidates.ALIGNMENTS, **candidates.VARIANTS}[method.alignment]
    scores = [function(matrix, False)[0] for matrix in matrices]
    if method.orders:
        scores = alignment.contrast(matrices, scores, function).difference
    return scores


def _scores_in_worker(folder, noise, ids):
    with cores.one_torch_thread():  # else the workers' threads wait for one another most of the time
        return [scores_of(folder, noise, id, number) for number, id in ids]


def hits_of(folder, executor, noise=None):
    """{world: {method or control: hits (N,) bool}} of one encoder's embeddings, kept in the folder."""
    path = folder / f"hits{'-'.join(map(str, noise or ()))}.npz"
    samples = [one.sample for one in read_subactions(folder.parent / "generated_subactions.json")]
    if not path.exists() or not set(map(str, (*METHODS, *VARIANTS))) <= np.load(path).keys():
        ids = list(enumerate(sample.id for sample in samples))
        parts = [ids[start:start + PART] for start in range(0, len(ids), PART)]
        found = [one for part in executor.map(_scores_in_worker, [folder] * len(parts), [noise] * len(parts), parts)
                 for one in part]
        hits = {name: np.array([np.argmax(scores[name]) == sample.answer
                                for scores, sample in zip(found, samples, strict=True)]) for name in found[0]}
        right = {one.sample.id: one.is_right for one in read_predictions(folder / "baseline.json")[1]}
        hits["mean pool"] = np.array([right[sample.id] for sample in samples])
        np.savez(path, **hits)
    with np.load(path) as hits:
        hits = dict(hits)
    world = np.array([sample.id.rpartition("-")[0] for sample in samples])
    return {name: {method: found[world == name] for method, found in hits.items()} for name in dict.fromkeys(world)}


# The run


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="little of everything, a table on stdout")
    parser.add_argument("--clips", type=int, default=CLIPS, help="clips a world and seed (%(default)s)")
    parser.add_argument("--cache", type=Path, default=ROOT / "evidence", help="folder to keep things in (%(default)s)")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "evidence.md", help="page (%(default)s)")
    return parser.parse_args(argv)


def measure(cache, names, world_names, clips, executor):
    """(Results of CHOICE_SEEDS together, Results of REPORT_SEED, {encoder: its strength})."""
    encoders.main(["--output", str(cache / "encoders"), "--encoders", *(name for name in names if name != STRONG)])
    checkpoints = {name: encoders.EXAMPLE if name == STRONG else cache / "encoders" / encoders.folder_of(name)
                   for name in names}
    results = {}
    for seed in (*CHOICE_SEEDS, REPORT_SEED):
        folder = make_clips(cache, seed, world_names, clips)
        hits = {name: hits_of(embed(folder, checkpoint, name), executor) for name, checkpoint in checkpoints.items()}
        results[seed] = hits | {name: hits_of(folder / STRONG, executor, noise)
                                for name, noise in EMBEDDING_NOISE.items()}
    path = cache / "strengths.json"
    if not path.exists():
        path.write_text(json.dumps({name: encoders.pose_accuracy(one) for name, one in checkpoints.items()}))
    chosen_on = {name: {world: {method: np.concatenate([results[seed][name][world][method] for seed in CHOICE_SEEDS])
                                for method in methods} for world, methods in of_worlds.items()}
                 for name, of_worlds in results[REPORT_SEED].items()}
    return Results(chosen_on), Results(results[REPORT_SEED]), json.loads(path.read_text())


def main(argv=None):
    args, began = parse_args(argv), time.monotonic()
    names, world_names = (STRONG, *encoders.ENCODERS), tuple(worlds.WORLDS)
    if args.quick:
        names, world_names, args.clips = QUICK["encoders"], QUICK["worlds"], QUICK["clips"]
        args.cache /= "quick"
    args.cache.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(cores.count(), multiprocessing.get_context("spawn")) as executor:
        chosen_on, reported, strengths = measure(args.cache, names, world_names, args.clips, executor)
    best = recommended(chosen_on)
    print(f"recommended: {best or 'nothing, no method beats the published one'}")
    if best is None:
        return 1
    print("\n".join(table(list(encoder_rows(reported, strengths, best)))))
    if not args.quick:
        args.output.write_text(page(chosen_on, reported, strengths, best, clips=args.clips,
                                    choice_seeds=CHOICE_SEEDS, report_seed=REPORT_SEED, frame_rate=worlds.FRAME_RATE))
        draw(args.output.with_suffix(".png"), reported, strengths, best)
        print(f"page -> {args.output}")
    print(f"{(time.monotonic() - began) / 60:.1f} minutes")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

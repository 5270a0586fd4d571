"""Measure every alignment where the truth is known: drawn worlds, one strong encoder and weak ones.

    python benchmarks/accuracy.py            all of it, written to docs/evidence.md with pictures (make evidence)
    python benchmarks/accuracy.py --quick    60 clips of three worlds, one weak encoder, a table on stdout

Worlds, encoders and embeddings are made once and kept in --cache. What is recommended is chosen on the clips of one
seed, and reported on those of another.
"""

import argparse
import contextlib
import functools
import json
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "examples")]

import candidates  # noqa: E402
import encoders  # noqa: E402
import worlds  # noqa: E402

import baseline  # noqa: E402
import encode_subactions  # noqa: E402
import encode_videos  # noqa: E402
import process_data  # noqa: E402
from actalign import alignment, artifacts, comparison, evaluation  # noqa: E402
from actalign.predictions import read_predictions  # noqa: E402
from actalign.subactions import read_subactions  # noqa: E402
from actalign.tables import table  # noqa: E402

CHOICE_SEED, REPORT_SEED = 1, 2  # of the clips that the recommendation is chosen on, and of those it is reported on
STRONG = "example"
QUICK = {"clips": 60, "worlds": ("base", "content", "lead"), "encoders": (STRONG, encoders.NOISY)}
SMOOTH = 3  # frames; a phase has about nine
SHUFFLE_SEED = 5
# Noise that is added to unit embeddings, as lengths on every frame, on the whole clip, and on every text.
EMBEDDING_NOISE = {"embeddings + (2, 1, 1.5)": (2, 1, 1.5), "embeddings + (3, 2, 2)": (3, 2, 2)}


@dataclass(frozen=True)
class Method:
    """A similarity, an alignment, and whether its score is an order contrast."""

    similarity: str
    alignment: str
    contrast: bool = False

    def __str__(self):
        return f"{self.alignment}, {self.similarity}" + ", contrast" * self.contrast


PUBLISHED = Method("sigmoid", "dtw")
METHODS = [Method(similarity, name, contrast) for similarity in ("sigmoid", "cosine", "centred")
           for name in candidates.ALIGNMENTS for contrast in (False, True)
           if not (name == "unordered" and contrast)]  # of which it is 0


# Clips and embeddings: made once


def make_clips(cache, seed, names, clips):
    """Draw worlds and put them into one dataset, whose frames are decoded; returns its folder."""
    folder = cache / f"seed-{seed}"
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


def sigmoid(cosine, meta):
    """SigLIP's similarity (T, M) from a cosine and an index's meta."""
    return 1 / (1 + np.exp(-(np.exp(meta["logit_scale"]) * cosine + meta["logit_bias"])))


def noisy(rows, lengths, rng):
    """Unit rows (n, D) with Gaussian noise of some lengths: (of every row, of all rows alike)."""
    n, D = rows.shape
    each, alike = (length * rng.standard_normal(shape) / np.sqrt(D) for length, shape in
                   zip(lengths, ((n, D), (1, D)), strict=True))
    return rows / np.linalg.norm(rows, axis=1, keepdims=True) + each + alike


class Embeddings:
    """The embeddings of one encoder, opened once a process."""

    def __init__(self, folder, noise=None):
        self.video = artifacts.read_array(folder / "video_embeddings.npy", "video_embeddings")
        self.texts = artifacts.read_array(folder / "encoded_subactions.npy", "subaction_embeddings")
        self._noise = noise

    def of(self, id, number):
        """(frames (T, D), [texts (M, D)] of a sample's options)."""
        video, texts, item = self.video.embeddings(id), self.texts.embeddings(id), self.texts.item(id)
        if self._noise:
            rng, (frame, clip, text) = np.random.default_rng([SHUFFLE_SEED, number]), self._noise
            video, texts = noisy(video, (frame, clip), rng), noisy(texts, (text, 0), rng)
        start = item["start"]
        return video, [texts[option["start"] - start:option["stop"] - start] for option in item["options"]]


def scores_of(embeddings, id, number):
    """{method or control: scores (K,)} of one sample."""
    video, options = embeddings.of(id, number)
    frames = alignment.smooth(np.asarray(video), SMOOTH)
    meta, found = embeddings.video.meta, {}
    by_kind = {"cosine": [candidates.cosine(frames, rows) for rows in options],
               "centred": [candidates.centred(frames, rows) for rows in options]}
    by_kind["sigmoid"] = [sigmoid(cosine, meta) for cosine in by_kind["cosine"]]
    shuffled = [np.random.default_rng([SHUFFLE_SEED, number, k]).permutation(len(rows))
                for k, rows in enumerate(options)]
    for method in METHODS:
        matrices = by_kind[method.similarity]
        found[str(method)] = score(method, matrices)
        if method.alignment != "unordered":
            found[f"{method}; reversed"] = score(method, [matrix[::-1].copy() for matrix in matrices])
            found[f"{method}; shuffled"] = score(method, [
                matrix[:, order] for matrix, order in zip(matrices, shuffled, strict=True)])
    return found


def score(method, matrices):
    """Scores (K,) of K similarity matrices."""
    function = candidates.ALIGNMENTS[method.alignment]
    scores = [function(matrix, False)[0] for matrix in matrices]
    if method.contrast:
        scores = [candidates.contrast(matrix, own, function)[0] for matrix, own in zip(matrices, scores, strict=True)]
    return scores


@functools.cache
def opened(folder, noise):
    return Embeddings(folder, noise)


def _scores_in_worker(folder, noise, ids):
    return [scores_of(opened(folder, noise), id, number) for number, id in ids]


def hits_of(folder, noise, executor):
    """({world: {method or control: hits (N,) bool}}, {world: {its ...: domains}}) of one encoder's embeddings."""
    path = folder / f"hits{'-'.join(map(str, noise or ()))}.npz"
    samples = [one.sample for one in read_subactions(folder.parent / "generated_subactions.json")]
    if not path.exists():
        ids = list(enumerate(sample.id for sample in samples))
        parts = [ids[start:start + 50] for start in range(0, len(ids), 50)]
        found = [one for part in executor.map(_scores_in_worker, [folder] * len(parts), [noise] * len(parts), parts)
                 for one in part]
        hits = {name: np.array([np.argmax(scores[name]) == sample.answer
                                for scores, sample in zip(found, samples, strict=True)]) for name in found[0]}
        if not noise:
            hits["mean pool"] = evaluation.top_k_hits(read_predictions(folder / "baseline.json")[1], 1)
        np.savez(path, **hits)
    with np.load(path) as hits:
        world = np.array([sample.id.rpartition("-")[0] for sample in samples])
        return {name: {method: found[world == name] for method, found in hits.items()} for name in np.unique(world)}

"""How sure, when none of the options fits, and when phases are: measured where the truth is known.

    python benchmarks/confidence.py     after make evidence, whose clips and embeddings it reads
"""

import argparse
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "examples")]

import encoders  # noqa: E402
import worlds  # noqa: E402
from methods import STRONG  # noqa: E402

import seq_alignment  # noqa: E402
from actalign import alignment, artifacts, confidence, phases  # noqa: E402
from actalign.subactions import read_subactions  # noqa: E402
from actalign.tables import table  # noqa: E402

COVERAGE = 0.9


def area_under_curve(positive, negative):
    """The share of pairs in which the positive is the greater, ties by half: the AUROC."""
    difference = np.subtract.outer(positive, negative)
    return np.mean(difference > 0) + np.mean(difference == 0) / 2


def z_without_answer(prediction):
    """The z of the option that would be taken if the answer were none of them."""
    return prediction.order.z[next(k for k in prediction.ranking if k != prediction.sample.answer)]


def phase_figures(predictions, video):
    """(share of frames told right, the same of equal parts, median error of borders in seconds) of the true options."""
    found = []
    for one in predictions:
        truth, times = video.item(one.sample.id)["phases"], video.timestamps(one.sample.id)
        frames = one.phases[one.sample.answer].frames
        found.append([phases.against_truth(part, times, truth)
                      for part in (frames, phases.equal_parts(len(times), len(frames)))])
    (right, errors), (in_parts, _) = [map(np.concatenate, zip(*part, strict=True)) for part in zip(*found, strict=True)]
    return right.mean(), in_parts.mean(), np.median(np.abs(errors))


def measure(folder, encoder, method):
    """Print what one encoder's embeddings and a Method give."""
    video = artifacts.read_array(folder / encoder / "video_embeddings.npy", "video_embeddings")
    texts = artifacts.read_array(folder / encoder / "encoded_subactions.npy", "subaction_embeddings")
    samples, _ = seq_alignment.join(read_subactions(folder / "generated_subactions.json"), video, texts)

    def matrices_of(sample, kinds, of=None):
        return seq_alignment.similarities(sample, video, texts, 1, kinds, of=of)

    predictions = seq_alignment.predict(samples, method, matrices_of, with_paths=True)
    world = np.array([sample.id.rpartition("-")[0] for sample in samples])
    hits = np.array([one.is_right for one in predictions])
    z, without = (np.array([of(one) for one in predictions]) for of in (confidence.z_of, z_without_answer))
    rows = [("world", "Top-1", "AUROC", "frames right", "equal parts", "borders off")]
    for name in worlds.WORLDS:
        here = world == name
        figures = phase_figures([one for one, is_here in zip(predictions, here, strict=True) if is_here], video)
        rows.append((name, f"{100 * hits[here].mean():.1f}", f"{area_under_curve(z[here], without[here]):.3f}",
                     f"{100 * figures[0]:.1f}", f"{100 * figures[1]:.1f}", f"{figures[2]:.3f} s"))
    print(f"\n{encoder}: {method}", *table(rows), sep="\n")
    told = np.array([one.confidence for one in predictions])
    calibrated = np.array([one.confidence for one in confidence.calibrate(predictions)])
    errors = [confidence.calibration_error(confidence.reliability(one, hits)) for one in (told, calibrated)]
    _, accuracies = confidence.coverage_curve(z, hits)
    threshold, origin = seq_alignment.chance_threshold(samples, method, matrices_of)
    print(f"expected calibration error {errors[0]:.3f}, calibrated and cross-fitted {errors[1]:.3f}",
          f"Top-1 {100 * hits.mean():.1f}, of the {100 * COVERAGE:.0f}% with the greatest z "
          f"{100 * accuracies[int(COVERAGE * len(hits)) - 1]:.1f}",
          f"--reject auto: below {threshold:.2f}, {origin}; {100 * np.mean(z < threshold):.1f}% rejected, "
          f"{100 * np.mean(without < threshold):.1f}% were the answer none of the options; "
          f"of the right answers {100 * np.mean(z[hits] < threshold):.1f}%", sep="\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=Path, default=ROOT / "evidence" / "seed-4-200-clips",
                        help="folder of clips and embeddings that benchmarks/accuracy.py left (%(default)s)")
    parser.add_argument("--encoders", nargs="+", default=[STRONG, encoders.folder_of(encoders.NOISY)])
    args = parser.parse_args()
    for encoder in args.encoders:
        for method in alignment.METHODS.values():
            measure(args.clips, encoder, method)


if __name__ == "__main__":
    main()

"""Draw the README's picture: a clip of the demo, its true action and the one with the same phases in another order.

    python examples/draw_alignment.py --sample yoga-03 --output docs/alignment.png

Needs matplotlib, which nothing else here does, and what `make demo` wrote.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from actalign import artifacts, evaluation  # noqa: E402
from actalign.subactions import read_scripts  # noqa: E402
from examples.demo import DEMO, SMOOTH  # noqa: E402
from seq_alignment import sample_similarities  # noqa: E402

STRIP_FRAMES = 10  # of the film strip


def load(sample_id):
    """(frames, timestamps, prediction, texts of its options, similarity matrices) of one sample of the demo."""
    video = artifacts.read_array(DEMO / "video_embeddings.npy", "video_embeddings")
    texts = artifacts.read_array(DEMO / "encoded_subactions.npy", "subaction_embeddings")
    frames = artifacts.read_array(DEMO / "processed_dataset.npy", "frames")
    script = next(s for s in read_scripts(DEMO / "generated_subactions.json") if s.sample.id == sample_id)
    prediction = next(p for p in evaluation.read_predictions(DEMO / "predictions.json")[1] if p.sample.id == sample_id)
    matrices = sample_similarities(script, video, texts, SMOOTH, "cpu")
    return frames.rows(sample_id), video.item(sample_id)["timestamps"], prediction, script.texts, matrices


def draw(sample_id, output):
    """Film strip on top; below it the similarity of both options with their best paths."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    frames, timestamps, prediction, texts, matrices = load(sample_id)
    first, second = prediction.ranking[:2]
    figure, (strip, *panels) = plt.subplots(
        3, 1, figsize=(10, 5.9), layout="constrained", gridspec_kw={"height_ratios": [0.95, 2.2, 2.2]})
    chosen = np.linspace(0, len(frames) - 1, STRIP_FRAMES).round().astype(int)
    strip.imshow(np.concatenate(frames[chosen], axis=1))
    strip.axis("off")
    highest = max(matrices[first].max(), matrices[second].max())
    for panel, k in zip(panels, (first, second), strict=True):
        path = np.asarray(prediction.paths[k])
        image = panel.imshow(matrices[k].T, aspect="auto", cmap="cividis", vmin=0, vmax=highest,
                             interpolation="nearest")
        panel.plot(path[:, 0], path[:, 1], color="white", linewidth=3.5)
        panel.plot(path[:, 0], path[:, 1], color="#d62728", linewidth=2)
        panel.set_yticks(range(len(texts[k])), [text if len(text) < 48 else text[:46] + "…" for text in texts[k]])
        panel.tick_params(axis="y", labelsize=8)
        mark = "✓ true action" if k == prediction.sample.answer else "✗ same phases, another order"
        panel.set_title(f"{prediction.sample.options[k]}   score {prediction.scores[k]:.3f}   {mark}", loc="left",
                        fontsize=10)
        ticks = np.linspace(0, len(frames) - 1, 7).round().astype(int)
        panel.set_xticks(ticks, [f"{timestamps[t]:.1f} s" for t in ticks], fontsize=8)
    figure.colorbar(image, ax=panels, shrink=0.8, label="similarity")
    figure.savefig(output, dpi=130)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--sample", required=True, help="id of a sample of the example")
    parser.add_argument("--output", type=Path, required=True, help="a .png file")
    args = parser.parse_args(argv)
    draw(args.sample, args.output)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

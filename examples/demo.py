"""Run the six scripts in order on the example, show their command lines, compare the methods, and write the report.

    python examples/demo.py
"""

import argparse
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DEMO = ROOT / "demo"
sys.path.insert(0, str(ROOT))

from actalign import evaluation  # noqa: E402
from actalign.predictions import read_predictions  # noqa: E402

IMAGE_SIZE = 48  # pixels, what the example's checkpoint takes

WHAT_IT_IS = """\
This is a controlled world: a drawn athlete, actions that are mostly one another's phases in another order, and a tiny
SigLIP trained on such drawings. It shows that the pipeline and the method work. It says nothing about accuracy on real
sport."""


def commands(folder, device):
    """The six scripts' command lines, in order; alignment also runs as the recommended method and as a control."""
    checkpoint = "examples/checkpoint"
    frames, video = f"{folder}/processed_dataset.npy", f"{folder}/video_embeddings.npy"
    scripts, texts = f"{folder}/generated_subactions.json", f"{folder}/encoded_subactions.npy"
    align = ["seq_alignment.py", "--subactions", scripts, "--video_embeddings", video, "--subaction_embeddings", texts,
             "--device", device]
    return [
        ["process_data.py", "--dataset", "examples/manifest.jsonl", "--output", frames, "--image_size",
         str(IMAGE_SIZE)],
        ["encode_videos.py", "--input", frames, "--output", video, "--model", checkpoint, "--device", device],
        ["generate_subactions.py", "--input", frames, "--output", scripts],
        ["encode_subactions.py", "--subactions", scripts, "--output", texts, "--model", checkpoint,
         "--device", device],
        ["baseline.py", "--input_dataset", frames, "--video_embeddings", video, "--device", device,
         "--output", f"{folder}/baseline_predictions.json"],
        [*align, "--alignment", "unordered", "--output", f"{folder}/unordered_predictions.json"],
        [*align, "--method", "recommended", "--output", f"{folder}/recommended_predictions.json"],
        [*align, "--output", f"{folder}/predictions.json", "--report", f"{folder}/report.html", "--frames", frames,
         "--compare", f"{folder}/baseline_predictions.json"],
    ]


def run_all(folder, device):
    """Run the commands from the project's folder, into the new `folder`; stops at the first that fails."""
    folder.mkdir(parents=True)
    # The example brings its sub-actions, so that no language model has to be asked.
    shutil.copy(ROOT / "examples/generated_subactions.json", folder / "generated_subactions.json")
    for command in commands(_shown(folder), device):
        print(f"\n$ python {shlex.join(command)}", flush=True)
        subprocess.run([sys.executable, *command], cwd=ROOT, check=True)


def _shown(folder):
    """A path as short as it can be written from the project's folder."""
    return folder.relative_to(ROOT) if folder.is_relative_to(ROOT) else folder


def print_comparison(folder):
    """The table that everything was for, and where the files are."""
    methods = {"mean pool": "baseline_predictions.json", "unordered": "unordered_predictions.json",
               "published": "predictions.json", "recommended": "recommended_predictions.json"}
    predictions = {name: read_predictions(folder / file)[1] for name, file in methods.items()}
    print(f"\n{WHAT_IT_IS}\n")
    print("\n".join(evaluation.accuracy_table(predictions)))
    print("""
mean pool    the mean of all frames against the action's name
unordered    every frame takes its best sub-action: the same frames and texts as below, without their order
published    frames and sub-actions aligned in order by dynamic time warping, as in the paper
recommended  what does better with weak encoders in drawn worlds: docs/evidence.md""")
    print(f"\nThe files of this run are in {_shown(folder)}/; predictions.json there holds every score and path.")
    print(f"To see why each clip was answered as it was, open {_shown(folder)}/report.html in a browser.")


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--device", default="cpu", help="torch device (default: %(default)s)")
    return parser.parse_args(argv)


def main(argv=None):
    args = parse_args(argv)
    began = time.monotonic()
    shutil.rmtree(DEMO, ignore_errors=True)  # what an earlier demo wrote
    try:
        run_all(DEMO, args.device)
    except subprocess.CalledProcessError as error:
        return error.returncode
    print_comparison(DEMO)
    print(f"The demo took {time.monotonic() - began:.0f} s.")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

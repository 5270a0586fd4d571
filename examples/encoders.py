"""Encoders that are weak by nature: trained for fewer steps, on fewer poses, with less width, or on wrong captions.

    python examples/encoders.py --output encoders

writes a checkpoint folder for each, and for the example's with noise in its weights. One that is there is kept.
"""

import argparse
import multiprocessing
import shutil
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch
import train_checkpoint
from transformers import AutoModel, AutoProcessor
from transformers.utils import logging

EXAMPLE = Path(__file__).resolve().parent / "checkpoint"
SEED = 11
WEIGHT_NOISE = 0.5  # times the standard deviation of each weight matrix

# How each is trained; the others of the example's 2,200 steps, 20 poses, width of 128 and right captions stay.
TRAININGS = {
    "500 steps": {"steps": 500},
    "600 steps": {"steps": 600},
    "800 steps": {"steps": 800},
    "8 poses": {"steps": 900, "poses": 8},
    "narrow": {"steps": 900, "width": 32},
    "wrong captions": {"steps": 900, "wrong_captions": 0.5},
}
NOISY = "noisy weights"
ENCODERS = (*TRAININGS, NOISY)


def folder_of(name):
    """The folder's name of an encoder."""
    return name.replace(" ", "_")


def add_weight_noise(output):
    """Save the example's checkpoint with Gaussian noise in all of its weight matrices."""
    model, generator = AutoModel.from_pretrained(EXAMPLE), torch.Generator().manual_seed(SEED)
    with torch.no_grad():
        for weights in model.parameters():
            if weights.ndim >= 2:
                weights += WEIGHT_NOISE * weights.std() * torch.randn(weights.shape, generator=generator)
    model.save_pretrained(output)
    AutoProcessor.from_pretrained(EXAMPLE).save_pretrained(output)


def pose_accuracy(checkpoint):
    """Share of new drawings whose pose, of twenty, a checkpoint tells right by held-out captions: how strong it is."""
    return train_checkpoint.evaluate(checkpoint)["test looks, held-out captions"]


def make_encoder(output, training):
    """Write a checkpoint folder unless it is there. Returns the minutes it took.

    training: a value of TRAININGS, or None for the example's checkpoint with noise in its weights
    """
    began, unfinished = time.monotonic(), output.with_name(f"{output.name}.partial")
    if not output.exists():
        shutil.rmtree(unfinished, ignore_errors=True)
        if training is None:
            add_weight_noise(unfinished)
        else:
            train_checkpoint.make_checkpoint(unfinished, seed=SEED, threads=1, **training)
        unfinished.rename(output)
    return (time.monotonic() - began) / 60


def be_quiet():
    logging.set_verbosity_error()
    logging.disable_progress_bar()


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder to write into, one folder an encoder")
    parser.add_argument("--encoders", nargs="+", choices=ENCODERS, default=ENCODERS, metavar="ENCODER",
                        help=f"which of {', '.join(ENCODERS)} (default: all)")
    return parser.parse_args(argv)


def main(argv=None):
    args = parse_args(argv)
    args.output.mkdir(parents=True, exist_ok=True)
    context = multiprocessing.get_context("spawn")  # forked workers of a process that has threads can hang
    with ProcessPoolExecutor(mp_context=context, initializer=be_quiet) as executor:
        minutes = executor.map(make_encoder, [args.output / folder_of(name) for name in args.encoders],
                               [TRAININGS.get(name) for name in args.encoders])
        for name, taken in zip(args.encoders, minutes, strict=True):
            print(f"{name}: {taken:.1f} minutes", file=sys.stderr)
    print(f"{args.output}: {len(args.encoders)} encoders")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

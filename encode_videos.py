"""Stage 2: embed every frame of every clip with SigLIP's image encoder.

Reads processed_dataset.npy, writes video_embeddings.npy: float32 (frames of all clips, D), not normalised.

    python encode_videos.py --output video_embeddings.npy --device cuda:0
"""

import argparse
from collections import deque

import numpy as np

from actalign import artifacts, console, cores
from actalign.artifacts.writer import ArrayWriter
from actalign.siglip import DTYPES, SO400M, add_trust_argument, find_checkpoint, load_siglip, resolve_dtype

BATCH_SIZE = 128  # frames at once on CUDA, where they fit
PATCHES_A_CORE = 8192  # of frames at once on a CPU; more gain nothing and take memory, measured (benchmarks/)
LEAST_A_CORE, MOST_A_CORE = 8, 32  # frames

# What later stages need to know of a clip besides its embeddings.
CLIP_FIELDS = ("domain", "fps", "timestamps")


def encode_videos(frames, writer, encoder):
    """Embed the clips of `frames` that `writer` does not hold yet; batches run across the borders of clips.

    frames  ArrayArtifact of kind "frames"    writer  ArrayWriter of kind "video_embeddings"    encoder  Siglip
    Returns the number of frames encoded. Raises InputError if the frames of a clip are not those that were written.
    """
    todo = [item for item in frames.items if item["id"] not in writer]
    total = sum(item["stop"] - item["start"] for item in todo)
    parts = []  # embeddings so far of the first clip of todo
    with console.progress(total, "frames") as bar:
        batches = list(_batches(todo, encoder.batch_size, frames.shape[0]))
        encoded = encoder.encode_batches(_read_checked(frames, todo, batches))
        for (start, stop), embeddings in zip(batches, encoded, strict=True):  # (n, D)
            while todo and todo[0]["start"] < stop:
                item = todo[0]
                parts.append(embeddings[max(item["start"] - start, 0):item["stop"] - start])
                bar.update(len(parts[-1]))
                if item["stop"] > stop:
                    break
                writer.append(item["id"], np.concatenate(parts), frames_checksum=item["checksum"],
                              **{name: item[name] for name in CLIP_FIELDS if name in item})
                todo, parts = todo[1:], []
    return total


def _batches(items, batch_size, rows):
    """The (start, stop) rows of the batches that hold frames of the items.

    Batches lie on one grid over all rows, whichever items are asked for. So a frame has the same place in its batch in
    every run, and after an interruption comes out the same to the last bit, however the cores share the work.
    """
    done = 0
    for item in items:
        start = max(item["start"] // batch_size * batch_size, done)
        for first in range(start, item["stop"], batch_size):
            done = first + batch_size
            yield first, min(done, rows)


def _read_checked(frames, items, batches):
    """The frames of every (start, stop) of `batches`, which hold those of `items`.

    Raises InputError, before it gives the last frames of an item, where these are not the frames that were written.
    """
    items, checksum = deque(items), None
    for start, stop in batches:
        rows = frames.read(start, stop)
        while items and items[0]["start"] < stop:
            checksum = checksum or artifacts.Checksum()
            checksum.update(rows[max(items[0]["start"] - start, 0):items[0]["stop"] - start])
            if items[0]["stop"] > stop:
                break
            artifacts.require_checksum(frames, items[0], checksum)
            items.popleft()
            checksum = None
        yield rows


def require_same_frames(writer, frames):
    """Raise InputError if a clip was encoded from other frames than those of `frames`."""
    for id, item in writer.items.items():
        if id in frames and frames.item(id)["checksum"] != item.get("frames_checksum"):
            raise console.InputError(f"{writer.path}: clip {id} was encoded from other frames than those in "
                                     f"{frames.path}; start over with --overwrite")


def warn_of_other_frames(frames, encoder):
    """Say it once where the frames are not what the checkpoint's own image processor would have made."""
    if frames.shape[1:3] != (encoder.image_size, encoder.image_size):
        console.log.warning(f"frames of {frames.shape[1]} pixels are resized to {encoder.image_size} for this "
                     f"checkpoint; --image_size {encoder.image_size} in process_data.py avoids that")
    resample = frames.meta.get("resample", encoder.resample)
    if resample != encoder.resample:
        console.log.warning(f"frames were resized by {resample} filtering, this checkpoint's image processor uses "
                     f"{encoder.resample}; --resample {encoder.resample} in process_data.py avoids that")


def auto_batch_size(device, checkpoint):
    """Frames at once on a device; `Siglip` takes fewer where these do not fit."""
    if device.type != "cpu":
        return BATCH_SIZE if device.type == "cuda" else MOST_A_CORE
    a_core = PATCHES_A_CORE // checkpoint.patches // LEAST_A_CORE * LEAST_A_CORE  # `Siglip` pads parts to multiples
    return cores.count() * min(max(a_core, LEAST_A_CORE), MOST_A_CORE)


def batch_size(text):
    """argparse type: "auto" or a whole number from 1 on."""
    return text if text == "auto" else console.positive_int(text)


def parse_args(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0], formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="example:\n  python encode_videos.py --output video_embeddings.npy --device cuda:0")
    parser.add_argument("--input", default="processed_dataset.npy", help="frames (default: %(default)s)")
    parser.add_argument("--output", required=True, help="where the embeddings go, a .npy file")
    parser.add_argument("--model", default=SO400M,
                        help="SigLIP checkpoint, a hub name or a folder (default: %(default)s)")
    parser.add_argument("--batch_size", type=batch_size, default="auto",
                        help=f"frames at once; auto is {BATCH_SIZE} on CUDA, {LEAST_A_CORE} to {MOST_A_CORE} for every "
                             "core of a CPU; fewer where memory does not suffice (default: %(default)s)")
    parser.add_argument("--dtype", choices=DTYPES, default="auto",
                        help="of the forward pass; auto is bfloat16 on CUDA, and for large models on a CPU made for "
                             "it, else float32 (default: %(default)s)")
    add_trust_argument(parser)
    console.add_device_argument(parser)
    console.add_overwrite_argument(parser)
    return parser.parse_args(argv)


@console.script
def main(argv=None):
    args = parse_args(argv)
    console.require_folder_of(args.output)
    frames = artifacts.read_array(args.input, "frames")
    device = console.pick_device(args.device)
    checkpoint = find_checkpoint(args.model, args.trust_pickle_weights)
    dtype = resolve_dtype(args.dtype, device, checkpoint)
    frames_at_once = auto_batch_size(device, checkpoint) if args.batch_size == "auto" else args.batch_size
    encoded, stopwatch = 0, console.Stopwatch()
    with ArrayWriter(args.output, "video_embeddings", checkpoint.settings(dtype), {"model": args.model},
                               args.overwrite) as writer:
        require_same_frames(writer, frames)
        kept = len(writer.items)
        if any(item["id"] not in writer for item in frames.items):
            encoder = load_siglip(checkpoint, device, frames_at_once, dtype)
            warn_of_other_frames(frames, encoder)
            stopwatch = console.Stopwatch()  # without the loading
            encoded = encode_videos(frames, writer, encoder)
    print(f"{len(writer.items) - kept} clips encoded ({encoded} frames, {stopwatch.rate(encoded)} frames/s on {device})"
          f", {kept} were there already -> {args.output}")


if __name__ == "__main__":
    raise SystemExit(main())

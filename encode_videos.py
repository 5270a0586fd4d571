"""Stage 2: embed every frame of every clip with SigLIP's image encoder.

Reads processed_dataset.npy, writes video_embeddings.npy: float32 (frames of all clips, D), not normalised.

    python encode_videos.py --output video_embeddings.npy --device cuda:0
"""

import actalign  # isort: skip  # noqa: F401 - before what takes long to load
import numpy as np

from actalign import artifacts, console, cores
from actalign.artifacts.writer import ArrayWriter
from actalign.checkpoint import add_encoder_arguments, find_checkpoint, resolve_dtype

BATCH_SIZE = 128  # frames at once on CUDA, where they fit
PATCHES_A_CORE = 8192  # of frames at once on a CPU; more gain nothing and take memory, measured (benchmarks/)
LEAST_A_CORE, MOST_A_CORE = 8, 32  # frames

# What later stages need to know of a clip besides its embeddings.
CLIP_FIELDS = (*artifacts.QUESTION, "video", "start_timestamp", "end_timestamp", "fps", "timestamps", "note", "phases")


def encode_videos(frames, writer, encoder):
    """Embed the clips of `frames` that `writer` does not hold yet.

    frames  ArrayArtifact of kind "frames"    writer  ArrayWriter of kind "video_embeddings"    encoder  Siglip
    Returns the number of frames encoded. Raises InputError if the frames of a clip are not those that were written.
    """
    clips = sorted((item for item in frames.items if item["id"] not in writer), key=lambda clip: clip["start"])
    total = sum(clip["stop"] - clip["start"] for clip in clips)
    read = ((clip, read_clip(frames, clip, encoder.part_size)) for clip in clips)
    with console.progress(total, "frames") as bar:
        for clip, parts in encoder.encode_clips(read):
            writer.append(clip["id"], np.concatenate(parts))
            bar.update(clip["stop"] - clip["start"])
    return total


def read_clip(frames, clip, count):
    """Yield a clip's frames, so many at once (n, H, W, 3); InputError at the last if they are not as written."""
    checksum = artifacts.Checksum()
    for start in range(clip["start"], clip["stop"], count):
        read = frames.read(start, stop := min(start + count, clip["stop"]))
        checksum.update(read)
        if stop == clip["stop"]:
            artifacts.require_checksum(frames, clip, checksum)
        yield read


def auto_batch_size(device, checkpoint):
    """Frames at once on a device; `Siglip` takes fewer where these do not fit."""
    if device.type != "cpu":
        return BATCH_SIZE if device.type == "cuda" else MOST_A_CORE
    a_core = PATCHES_A_CORE // checkpoint.patches // LEAST_A_CORE * LEAST_A_CORE  # `Siglip` pads parts to multiples
    return cores.count() * min(max(a_core, LEAST_A_CORE), MOST_A_CORE)


def parse_args(argv=None):
    parser = console.parser(__doc__)
    parser.add_argument("--input", default="processed_dataset.npy", help="frames (default: %(default)s)")
    parser.add_argument("--output", required=True, help="where the embeddings go, a .npy file")
    add_encoder_arguments(parser, f"frames at once; auto is {BATCH_SIZE} on CUDA, {LEAST_A_CORE} to {MOST_A_CORE} for "
                                  "every core of a CPU")
    return parser.parse_args(argv)


@console.script
def main(argv=None):
    args = parse_args(argv)
    console.require_folder_of(args.output)
    frames = artifacts.read_array(args.input, "frames")
    device = console.pick_device(args.device)
    checkpoint = find_checkpoint(args.model, args.trust_pickle_weights)
    dtype = resolve_dtype(args.dtype, device, checkpoint)
    batch_size = args.batch_size or auto_batch_size(device, checkpoint)
    encoded, stopwatch = 0, console.Stopwatch()
    with ArrayWriter(args.output, "video_embeddings", checkpoint.settings(dtype), {"model": args.model},
                     args.overwrite) as writer:
        if untold := [id for id, item in writer.items.items() if "frames_checksum" not in item]:
            raise console.InputError(f"{args.output}: does not say which frames {console.some_of(untold)} were encoded "
                                     "from; choose another --output, or start over with --overwrite")
        source = {clip["id"]: {"frames_checksum": clip["checksum"], **{name: clip[name] for name in CLIP_FIELDS
                                                                       if name in clip}} for clip in frames.items}
        again = {id for id, item in writer.items.items() if id in source
                 and item["frames_checksum"] != source[id]["frames_checksum"]}
        writer.follow(source, again)
        kept = len(writer.items)
        if any(id not in writer for id in frames):
            from actalign.siglip import load_siglip

            encoder = load_siglip(checkpoint, device, batch_size, dtype)
            size, resample = encoder.image_size, encoder.resample
            if frames.shape[1:3] != (size, size) or frames.meta.get("resample", resample) != resample:
                console.log.warning("the checkpoint's image processor makes other frames than these; take --image_size "
                                    f"{size} --resample {resample} in process_data.py")
            stopwatch = console.Stopwatch()  # without the loading
            encoded = encode_videos(frames, writer, encoder)
    console.say(f"{len(writer.items) - kept} clips encoded ({encoded} frames, {stopwatch.rate(encoded)} frames/s on "
                f"{device}), {kept} were there already -> {args.output}")


if __name__ == "__main__":
    raise SystemExit(main())

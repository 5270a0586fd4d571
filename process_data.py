"""Stage 1: cut every clip out of its video and store its frames, resized for SigLIP.

Reads a dataset (ActionAtlas by default, or a file whose rows name videos, a folder of videos, videos), writes
processed_dataset.npy: uint8 (frames of all clips, image_size, image_size, 3) RGB, with all metadata in its index.

    python process_data.py --output processed_dataset.npy
    python process_data.py --dataset my_clips.csv --output processed_dataset.npy
    python process_data.py --dataset my_clips/ --options "hook shot" "jump shot" --domain basketball --output frames.npy
    python process_data.py --dataset my_clips.csv --output processed_dataset.npy --shard 3/16
"""

import actalign  # isort: skip  # noqa: F401 - before what takes long to load
import shutil
from pathlib import Path

from actalign import clips, console, cores, dataset
from actalign.artifacts import shards
from actalign.artifacts.writer import ArrayWriter
from actalign.download import VideoError

DECODED_RATE = 150  # frames/s and worker from 1080 lines, measured on one core (benchmarks/decoding.py)


def process_data(samples, writer, videos, image_size, workers=1, fps=None, resample="bicubic"):
    """Decode the clips that `writer` does not hold yet into it; what fails is named in its missing items.

    samples  list of Sample    writer  ArrayWriter of kind "frames"    videos  Videos
    Returns (number of frames written, lines about bugs that ended a clip).
    """
    frame_bytes = image_size * image_size * 3
    total, bugs, stopwatch = 0, [], console.Stopwatch()
    with (clips.decoding(samples, videos, workers, image_size, fps, resample) as decoded,
          console.progress(len(samples), "clips") as bar):
        for sample, chunks in decoded:
            try:
                total += _write_clip(writer, sample, chunks)
            except VideoError as error:
                clips.add_missing(writer, sample, error, bugs)
            videos.done(sample)
            bar.set_postfix_str(f"{stopwatch.rate(total)} frames/s, {total * frame_bytes / 1e6:.0f} MB", refresh=False)
            bar.update()
    return total, bugs


def _write_clip(writer, sample, chunks):
    """Write one clip as one item; returns its number of frames."""
    timestamps = []
    with writer.item(sample.id) as item:
        for chunk_timestamps, frames in chunks:
            timestamps += chunk_timestamps
            item.write(frames)
        item.fields.update(clips.times_of(timestamps))
    return len(timestamps)


def estimate(samples, videos, args):
    """What processing the samples would take, as lines; nothing is fetched or written."""
    lengths = list(clips.lengths(samples, videos))
    seconds, unknown = sum(length or 0 for length, _ in lengths), sum(length is None for length, _ in lengths)
    absent = sum(not is_here for _, is_here in lengths)
    frames = seconds * (args.fps or clips.SOURCE_FRAME_RATE)
    free = shutil.disk_usage(Path(args.output).parent).free
    workers = args.workers or cores.count()
    minutes = seconds * clips.SOURCE_FRAME_RATE / DECODED_RATE / workers / 60
    return (f"{len(samples)} clips to process, {absent} of them from videos that are not on this machine",
            f"{seconds:.0f} s of video, about {frames:.0f} frames; {unknown} clips of unknown length not counted",
            f"disk: about {frames * args.image_size ** 2 * 3 / 1e9:.2f} GB, of {free / 1e9:.2f} GB that are free",
            f"time: about {minutes:.0f} min with {workers} workers, downloads not counted")


def parse_args(argv=None):
    parser = console.parser(__doc__)
    parser.add_argument("--output", required=True, help="where the frames go, a .npy file")
    dataset.add_arguments(parser)
    clips.add_arguments(parser)
    parser.add_argument("--dry_run", action="store_true", help="only say how many clips, how much disk and how long")
    shards.add_argument(parser)
    console.add_overwrite_argument(parser)
    return parser.parse_args(argv)


@console.script
def main(argv=None):
    args = parse_args(argv)
    console.require_folder_of(args.output)
    samples, settings = clips.read_samples(args), clips.settings_of(args)
    share, notes = shards.share(args, [sample.id for sample in samples])
    stopwatch, frames, bugs = console.Stopwatch(), 0, []
    notes["dataset"] = ", ".join(args.dataset)
    with ArrayWriter(args.output, "frames", settings, notes, args.overwrite) as writer:
        left, todo, videos = clips.follow(samples, share, writer, args)
        kept = len(writer.items)
        if args.dry_run:
            writer.leave_unfinished()
            console.say(*estimate(todo, videos, args))
            return
        if todo:
            frames, bugs = process_data(todo, writer, videos, workers=args.workers, **settings)
    outcome = clips.outcome(left, frames, kept, writer, args, bugs)
    clips.say(outcome, f"processed ({frames} frames, {stopwatch.rate(frames)} frames/s)", args.output, args.shard)


if __name__ == "__main__":
    raise SystemExit(main())

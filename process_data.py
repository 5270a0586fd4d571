"""Stage 1: cut every clip out of its video and store its frames, resized for SigLIP.

Reads a dataset (ActionAtlas by default, or a file whose rows name videos, a folder of videos, videos), writes
processed_dataset.npy: uint8 (frames of all clips, image_size, image_size, 3) RGB, with all metadata in its index.

    python process_data.py --output processed_dataset.npy
    python process_data.py --dataset my_clips.csv --output processed_dataset.npy
    python process_data.py --dataset my_clips/ --options "hook shot" "jump shot" --domain basketball --output frames.npy
"""

import actalign  # isort: skip  # noqa: F401 - before what takes long to load
import collections
import contextlib
import gc
import itertools
import queue
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from actalign import artifacts, console, cores, dataset, files
from actalign.artifacts.writer import ArrayWriter
from actalign.download import YOUTUBE_URL, VideoError, Videos, place_of

IMAGE_SIZE = 384  # pixels; what google/siglip-so400m-patch14-384 takes
CHUNK_FRAMES = 32  # frames that a worker hands over at once
BYTES_IN_FLIGHT = 1 << 28  # of decoded frames that may wait for their turn, for each worker
SOURCE_FRAME_RATE = 32  # frames/s, ActionAtlas's average; for the estimate of --dry_run
DECODED_RATE = 150  # frames/s and worker from 1080 lines, measured on one core (benchmarks/decoding.py)
# Of what a clip's frames are made, besides the settings of the run; where it has changed, they are decoded again.
MADE_FROM = ("youtube_id", "video", "video_file", "start_timestamp", "end_timestamp", "masks")


class ClipBug(VideoError):
    """An exception that no clip should raise: the program's own mistake, and yet only this clip's end."""


def clip_chunks(path, sample, image_size, fps=None, resample="bicubic"):
    """Decode one clip, blurred where its masks say so.

    Yields (timestamps, frames): up to CHUNK_FRAMES seconds and (n, image_size, image_size, 3) uint8.
    Raises VideoError if the video does not give the clip whole.
    """
    from actalign import video  # not before a clip is decoded: it loads FFmpeg

    resized = ((t, video.resize(image, image_size, resample))
               for t, image in video.read_frames(path, sample.start, sample.end, fps, sample.masks))
    while chunk := list(itertools.islice(resized, CHUNK_FRAMES)):
        timestamps, frames = zip(*chunk, strict=True)
        yield list(timestamps), np.stack(frames)


def decoded_clips(samples, decode, workers, chunks_ahead):
    """Decode clips in threads: yields (sample, its chunks) in the samples' order, to be taken whole.

    FFmpeg and torch do not hold Python's interpreter lock, so threads decode side by side; each clip stays in one, as
    PyAV's objects must. At most `workers` + 1 clips are in flight, so that uneven clips leave nobody idle, with so many
    chunks waiting each. Taking a clip's chunks raises what `decode(sample)` raised. Closing this ends the threads.
    """
    stopping, in_flight, rest = threading.Event(), collections.deque(), iter(samples)
    with ThreadPoolExecutor(workers) as pool:
        try:
            while True:
                for sample in itertools.islice(rest, workers + 1 - len(in_flight)):
                    in_flight.append((sample, queue.Queue(chunks_ahead)))
                    pool.submit(_decode_clip, decode, *in_flight[-1], stopping)
                if not in_flight:
                    return
                sample, chunks = in_flight[0]
                yield sample, _taken(chunks)
                in_flight.popleft()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
            stopping.set()
            for _, chunks in in_flight:  # a thread that waits for room finds it, and sees that the run stops
                with contextlib.suppress(queue.Empty):
                    while True:
                        chunks.get_nowait()


def _decode_clip(decode, sample, chunks, stopping):
    """Put a clip's chunks, and then None or the error that ended it, into a queue."""
    try:
        for chunk in decode(sample):
            chunks.put(chunk)
            if stopping.is_set():
                return
        chunks.put(None)
    except BaseException as error:  # whatever it is, it is raised where the clip is asked for
        chunks.put(error)
    # PyAV's objects refer to one another: 50 MB of pictures would stay until Python happens to look for such cycles.
    gc.collect(1)  # the young generations, where a clip's objects are


def _taken(chunks):
    while (chunk := chunks.get()) is not None:
        if isinstance(chunk, BaseException):
            raise chunk
        yield chunk


def process_data(samples, writer, videos, image_size, workers=1, fps=None, resample="bicubic"):
    """Decode the clips that `writer` does not hold yet into it; what fails is named in its missing items.

    samples  list of Sample    writer  ArrayWriter of kind "frames"    videos  Videos
    Returns (number of frames written, lines about bugs that ended a clip).
    """
    def decode(sample):
        if sample.problem:
            raise VideoError(sample.problem, retry=False)
        try:
            yield from clip_chunks(videos.path(sample), sample, image_size, fps, resample)
        except (VideoError, console.StageError):
            raise
        except OSError as error:  # such as a name that is too long, or a folder that may not be searched
            raise VideoError(f"cannot be opened: {error.strerror or error}") from None
        except Exception as error:
            raise ClipBug(f"{type(error).__name__} at {place_of(error)[1]}: {error}") from error

    frame_bytes = image_size * image_size * 3
    chunks_ahead = max(BYTES_IN_FLIGHT // (CHUNK_FRAMES * frame_bytes), 1)
    total, bugs, stopwatch = 0, [], console.Stopwatch()
    with (cores.one_torch_thread(),
          contextlib.closing(decoded_clips(samples, decode, workers, chunks_ahead)) as clips,
          contextlib.closing(videos), console.progress(len(samples), "clips") as bar):
        for sample, chunks in clips:
            try:
                total += _write_clip(writer, sample, chunks)
            except VideoError as error:
                reason = f"{sample.video or sample.youtube_id}: {error}"
                writer.missing.add(sample.id, reason, error.retry)
                if isinstance(error, ClipBug):
                    bugs.append(reason)
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
        span = timestamps[-1] - timestamps[0]
        item.fields.update(timestamps=timestamps, fps=round((len(timestamps) - 1) / span, 3) if span else None)
    return len(timestamps)


def known_fields(sample, videos):
    """What an item says of its clip by the dataset, as it is read back, and which local file was behind its name."""
    boxes = sample.masks.boxes
    fields = sample.record() | {
        "video": sample.video, "start_timestamp": sample.start, "end_timestamp": sample.end,
        "choices": list(sample.labels), "extra": sample.extra, "masked_frames": len(boxes),
        "note": sample.note, "phases": sample.phases,
        "masks": artifacts.metadata_checksum(list(boxes.items())) if boxes else None}
    with contextlib.suppress(VideoError, OSError):
        if path := videos.local_path(sample):
            stat = path.stat()
            fields["video_file"] = [stat.st_size, stat.st_mtime_ns]
    return files.parse_json(files.dump_json(fields))


def estimate(samples, videos, args):
    """What processing the samples would take, as lines; nothing is fetched or written."""
    from actalign.video import video_seconds

    seconds, unknown, absent = 0.0, 0, 0
    for sample in samples:
        path = None
        with contextlib.suppress(VideoError, OSError):
            path = videos.local_path(sample)
        absent += path is None
        end = video_seconds(path) if path and sample.end is None else sample.end
        unknown += end is None
        seconds += max((end or 0) - (sample.start or 0), 0)
    frames = seconds * (args.fps or SOURCE_FRAME_RATE)
    free = shutil.disk_usage(Path(args.output).parent).free
    minutes = seconds * SOURCE_FRAME_RATE / DECODED_RATE / args.workers / 60
    return (f"{len(samples)} clips to process, {absent} of them from videos that are not on this machine",
            f"{seconds:.0f} s of video, about {frames:.0f} frames; {unknown} clips of unknown length not counted",
            f"disk: about {frames * args.image_size ** 2 * 3 / 1e9:.2f} GB, of {free / 1e9:.2f} GB that are free",
            f"time: about {minutes:.0f} min with {args.workers} workers, downloads not counted")


def parse_args(argv=None):
    parser = console.parser(__doc__)
    parser.add_argument("--output", required=True, help="where the frames go, a .npy file")
    dataset.add_arguments(parser)
    parser.add_argument("--keep_videos", action="store_true", help="keep downloads, in NAME.videos beside NAME.npy")
    parser.add_argument("--cookies", type=Path, help="cookie file (Netscape format) for downloads")
    parser.add_argument("--cookies_from_browser", metavar="BROWSER", help="take those of a browser such as firefox")
    parser.add_argument("--video_url", default=YOUTUBE_URL, metavar="TEMPLATE",
                        help="where videos named by a youtube_id are fetched from (default: %(default)s)")
    parser.add_argument("--max_video_gb", type=console.positive_float, default=20,
                        help="give up a download beyond so many gigabytes (default: %(default)s)")
    parser.add_argument("--retry_missing", action="store_true", help="ask again for videos that were gone before")
    parser.add_argument("--dry_run", action="store_true", help="only say how many clips, how much disk and how long")
    parser.add_argument("--workers", type=console.workers, default=cores.count(),
                        help="clips decoded side by side (default: the number of cores, here %(default)s)")
    parser.add_argument("--image_size", type=console.pixels, default=IMAGE_SIZE,
                        help="frames are resized to this many pixels squared (default: %(default)s)")
    parser.add_argument("--resample", choices=("bicubic", "bilinear"), default="bicubic",
                        help="how frames are resized: as the checkpoint's image processor does (default: %(default)s)")
    parser.add_argument("--fps", type=console.positive_float, help="keep so many frames a second (default: all)")
    console.add_overwrite_argument(parser)
    return parser.parse_args(argv)


@console.script
def main(argv=None):
    args = parse_args(argv)
    console.require_folder_of(args.output)
    if args.cookies and not args.cookies.is_file():
        raise console.InputError(f"--cookies {args.cookies}: no such file; export it from a browser in Netscape format")
    samples = dataset.load(args)
    if masked := sum(bool(sample.masks) for sample in samples):
        console.log.info(f"{masked} of {len(samples)} samples have masks; what they cover is blurred")
    downloads = Path(args.output).with_suffix(".videos")
    settings = {"image_size": args.image_size, "resample": args.resample, "fps": args.fps}
    stopwatch, frames, bugs = console.Stopwatch(), 0, []
    with ArrayWriter(args.output, "frames", settings, {"dataset": ", ".join(args.dataset)}, args.overwrite) as writer:
        local = Videos(args.videos_dir, downloads / "none", ())  # those are gone when their clips are done
        source = {sample.id: known_fields(sample, local) for sample in samples}
        again = {id for id, item in writer.items.items() for name in MADE_FROM
                 if name in item and item[name] != source.get(id, item).get(name, item[name])}
        writer.follow(source, again, MADE_FROM)
        kept = len(writer.items)
        left = [sample for sample in samples[:args.limit] if sample.id not in writer]
        todo = [sample for sample in left if args.retry_missing or not writer.missing.is_final(sample.id)]
        videos = Videos(args.videos_dir, downloads, todo, args.keep_videos, args.video_url, cookies=args.cookies,
                        browser=args.cookies_from_browser, most_bytes=args.max_video_gb * 1e9)
        if args.dry_run:
            writer.leave_unfinished()
            console.say(*estimate(todo, videos, args))
            return
        if todo:
            frames, bugs = process_data(todo, writer, videos, workers=args.workers, **settings)
        failed = [sample.id for sample in left if sample.id not in writer]
    with contextlib.suppress(OSError):  # it may hold videos to keep, or parts of unfinished ones
        downloads.rmdir()
    if failed:
        console.say(f"{len(failed)} clips failed, see {artifacts.missing_path(args.output)} for the reasons "
                    f"({console.some_of(failed)})")
    console.say(f"{len(left) - len(failed)} clips processed ({frames} frames, {stopwatch.rate(frames)} frames/s), "
                f"{kept} were there already, {len(failed)} failed -> {args.output}")
    if not writer.items:
        raise console.StageError("no clip could be processed; nothing was written")
    if bugs:
        raise console.StageError(f"{bugs[0]}; {len(bugs)} clips met such a bug of this program: report it, "
                                 "and run the same command again once it is mended")


if __name__ == "__main__":
    raise SystemExit(main())

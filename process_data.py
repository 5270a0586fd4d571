"""Stage 1: cut every clip out of its video and store its frames, resized for SigLIP.

Reads a dataset (ActionAtlas by default, or a .json, .jsonl, .csv or .parquet whose rows name local video files), writes
processed_dataset.npy: uint8 (frames of all clips, image_size, image_size, 3) RGB, with all metadata in its index.

    python process_data.py --output processed_dataset.npy
"""

import argparse
import contextlib
import gc
import queue
import shutil
import threading
from pathlib import Path

import numpy as np

from actalign import artifacts, console, cores, dataset
from actalign.artifacts.writer import ArrayWriter
from actalign.download import YOUTUBE_URL, Downloader, Videos
from actalign.video import RESAMPLES, VideoError, read_frames, resize, video_seconds

IMAGE_SIZE = 384  # pixels; what google/siglip-so400m-patch14-384 takes
CHUNK_FRAMES = 32  # frames that a worker hands over at once
BYTES_IN_FLIGHT = 1 << 28  # of decoded frames that may wait for their turn, for each worker
SOURCE_FRAME_RATE = 32  # frames/s, ActionAtlas's average; for the estimate of --dry_run
DECODED_RATE = 150  # frames/s and worker from 1080 lines, measured on one core (benchmarks/decoding.py)


def clip_chunks(path, sample, image_size, fps=None, resample="bicubic"):
    """Decode one clip, blurred where its masks say so.

    Yields (timestamps, frames): up to CHUNK_FRAMES seconds and (n, image_size, image_size, 3) uint8.
    Raises VideoError if the video does not give the clip whole.
    """
    if sample.problem:
        raise VideoError(sample.problem, retry=False)
    count = 0

    def blur(image, number):
        nonlocal count
        count = number
        return None if image is None else sample.masks.blur(image, number)

    timestamps, frames = [], []
    for t, image in read_frames(path, sample.start, sample.end, fps, blur):
        timestamps.append(t)
        frames.append(resize(image, image_size, resample))
        if len(frames) == CHUNK_FRAMES:
            yield timestamps, np.stack(frames)
            timestamps, frames = [], []
    if frames:
        yield timestamps, np.stack(frames)
    sample.masks.require_frames(count)


class DecodedClips:
    """Decodes clips in threads and gives them out in their order, with a bounded number of frames waiting.

    FFmpeg and torch do not hold Python's interpreter lock, so threads decode side by side.

        with DecodedClips(samples, decode, workers, chunks_ahead) as clips:
            for sample, chunks in clips:
                for timestamps, frames in chunks: ...   # raises what `decode(sample)` raised
    """

    def __init__(self, samples, decode, workers, chunks_ahead):
        self._samples = samples
        self._decode = decode
        self._chunks_ahead = chunks_ahead
        self._queues = {}  # number of the clip -> its chunks, then None or the error that ended it
        self._numbers = iter(range(len(samples)))
        self._taking = threading.Condition()
        self._in_flight, self._most_in_flight = 0, workers + 1  # one more, so that uneven clips leave nobody idle
        self._stopping = False
        self._threads = [threading.Thread(target=self._work, daemon=True) for _ in range(workers)]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        with self._taking:
            self._stopping = True
            self._taking.notify_all()
        for thread in self._threads:
            thread.join()

    def __iter__(self):
        for number, sample in enumerate(self._samples):
            with self._taking:
                self._taking.wait_for(lambda number=number: number in self._queues)
            yield sample, self._chunks(self._queues[number])
            with self._taking:
                del self._queues[number]
                self._in_flight -= 1
                self._taking.notify_all()

    def _chunks(self, chunks):
        while (chunk := chunks.get()) is not None:
            if isinstance(chunk, BaseException):
                raise chunk
            yield chunk

    def _work(self):
        while (taken := self._take_clip()) is not None:
            sample, chunks = taken
            try:
                for chunk in self._decode(sample):
                    if not self._put(chunks, chunk):
                        return
                self._put(chunks, None)
            except BaseException as error:  # whatever it is, it is raised where the clip is asked for
                self._put(chunks, error)
            # PyAV's containers and streams refer to one another, so that 50 MB of a decoder's pictures would stay until
            # Python happens to look for such cycles.
            gc.collect(1)  # the young generations, where a clip's objects are

    def _take_clip(self):
        """The next (sample, queue) in order once there is room for it; None when all are taken or the run stops."""
        with self._taking:
            self._taking.wait_for(lambda: self._stopping or self._in_flight < self._most_in_flight)
            number = None if self._stopping else next(self._numbers, None)
            if number is None:
                return None
            self._in_flight += 1
            self._queues[number] = queue.Queue(maxsize=self._chunks_ahead)
            self._taking.notify_all()
            return self._samples[number], self._queues[number]

    def _put(self, chunks, chunk):
        """Hand a chunk over, waiting for room; False if the run stops meanwhile."""
        while not self._stopping:
            try:
                chunks.put(chunk, timeout=0.1)  # s between two looks at whether the run stops
                return True
            except queue.Full:
                continue
        return False


def process_data(samples, writer, videos, image_size, workers=1, fps=None, resample="bicubic"):
    """Decode the clips that `writer` does not hold yet into it; what fails is named in its missing items.

    samples  list of Sample    writer  ArrayWriter of kind "frames"    videos  Videos
    Returns the number of frames written.
    """
    def decode(sample):
        return clip_chunks(videos.path(sample), sample, image_size, fps, resample)

    chunk_bytes = CHUNK_FRAMES * image_size * image_size * 3
    total, stopwatch = 0, console.Stopwatch()
    chunks_ahead = max(BYTES_IN_FLIGHT // chunk_bytes, 1)
    with (cores.one_torch_thread(), DecodedClips(samples, decode, workers, chunks_ahead) as clips,
          console.progress(len(samples), "clips") as bar):
        for sample, chunks in clips:
            try:
                total += _write_clip(writer, sample, chunks)
            except VideoError as error:
                writer.missing.add(sample.id, f"{sample.video or sample.youtube_id}: {error}", error.retry)
            videos.done(sample)
            written = total * chunk_bytes / CHUNK_FRAMES / 1e6
            bar.set_postfix_str(f"{stopwatch.rate(total)} frames/s, {written:.0f} MB", refresh=False)
            bar.update()
    return total


def _write_clip(writer, sample, chunks):
    """Write one clip as one item; returns its number of frames."""
    timestamps = []
    with writer.item(sample.id) as item:
        for chunk_timestamps, frames in chunks:
            timestamps += chunk_timestamps
            item.write(frames)
        item.fields.update(
            {key: value for key, value in sample.record().items() if key != "id"}, choices=list(sample.labels),
            video=sample.video, start_timestamp=sample.start, end_timestamp=sample.end, fps=_rate(timestamps),
            timestamps=timestamps, masked_frames=len(sample.masks.boxes), extra=sample.extra)
    return len(timestamps)


def _rate(timestamps):
    """Mean frames a second of a clip; None for a single frame."""
    if len(timestamps) < 2:
        return None
    return round((len(timestamps) - 1) / (timestamps[-1] - timestamps[0]), 3)


def parse_args(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0], formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="examples:\n  python process_data.py --output processed_dataset.npy\n"
               "  python process_data.py --dataset my_clips.csv --output processed_dataset.npy")
    parser.add_argument("--output", required=True, help="where the frames go, a .npy file")
    parser.add_argument("--dataset", default=dataset.ACTION_ATLAS,
                        help="hub name, or a .json, .jsonl, .csv or .parquet file (default: %(default)s)")
    parser.add_argument("--split", default="test", help="of a dataset on the hub (default: %(default)s)")
    parser.add_argument("--videos_dir", type=Path,
                        help="folder of videos that are there already: the dataset's paths, or files named by their "
                             "youtube_id (default: the dataset file's own folder)")
    parser.add_argument("--keep_videos", action="store_true",
                        help="keep what was downloaded, in the folder NAME.videos beside the output NAME.npy")
    parser.add_argument("--cookies", type=Path, help="cookie file (Netscape format) for downloads")
    parser.add_argument("--cookies_from_browser", metavar="BROWSER",
                        help="take the cookies of this browser, such as firefox")
    parser.add_argument("--video_url", default=YOUTUBE_URL, metavar="TEMPLATE",
                        help="where videos named by a youtube_id are fetched from (default: %(default)s)")
    parser.add_argument("--retry_missing", action="store_true",
                        help="ask again for videos that were private, removed or locked before")
    parser.add_argument("--dry_run", action="store_true", help="only say how many clips, how much disk and how long")
    parser.add_argument("--workers", type=console.positive_int, default=cores.count(),
                        help="clips decoded side by side (default: the number of cores, here %(default)s)")
    parser.add_argument("--image_size", type=console.positive_int, default=IMAGE_SIZE,
                        help="frames are resized to this many pixels squared (default: %(default)s)")
    parser.add_argument("--resample", choices=RESAMPLES, default="bicubic",
                        help="how frames are resized: as the checkpoint's image processor does (default: %(default)s)")
    parser.add_argument("--fps", type=console.positive_float,
                        help="keep so many frames a second, chosen by timestamp (default: all)")
    parser.add_argument("--limit", type=console.positive_int, help="only the first so many samples")
    console.add_overwrite_argument(parser)
    return parser.parse_args(argv)


@console.script
def main(argv=None):
    args = parse_args(argv)
    console.require_folder_of(args.output)
    if args.dry_run and args.overwrite:
        raise console.InputError("--dry_run changes nothing; leave --overwrite out")
    samples = dataset.load_samples(args.dataset, args.split)[:args.limit]
    is_local = Path(args.dataset).is_file()
    folder = args.videos_dir or (Path(args.dataset).parent if is_local else downloads_folder(args.output))
    if args.videos_dir and not folder.is_dir():
        raise console.InputError(f"--videos_dir {folder}: no such folder")
    masked = sum(bool(sample.masks) for sample in samples)
    if masked:
        console.log.info(f"{masked} of {len(samples)} samples have masks; what they cover is blurred")
    downloader = Downloader(downloads_folder(args.output), args.cookies, args.cookies_from_browser)
    settings = {"image_size": args.image_size, "resample": args.resample, "fps": args.fps}
    stopwatch = console.Stopwatch()
    with ArrayWriter(args.output, "frames", settings, {"dataset": args.dataset}, args.overwrite) as writer:
        require_same_samples(writer, samples)
        kept = len(writer.items)
        left = [sample for sample in samples if sample.id not in writer]
        given_up = [] if args.retry_missing else [sample for sample in left if writer.missing.is_final(sample.id)]
        todo = [sample for sample in left if sample not in given_up]
        videos = Videos(folder, downloader, todo, args.keep_videos, args.video_url)
        if args.dry_run:
            writer.leave_unfinished()
            print("\n".join(estimate(todo, videos, args)))
            return
        frames = 0
        if todo:
            frames = process_data(todo, writer, videos, args.image_size, args.workers, args.fps, args.resample)
        failed = [sample.id for sample in left if sample.id not in writer]
        done = len(writer.items) - kept
    remove_if_empty(downloader.folder)
    if failed:
        print(f"{len(failed)} clips failed, see {artifacts.missing_path(args.output)} for the reasons "
              f"({console.some_of(failed)})")
    print(f"{done} clips processed ({frames} frames, {stopwatch.rate(frames)} frames/s), {kept} were there already, "
          f"{len(failed)} failed -> {args.output}")
    if not kept + done:
        raise console.StageError("no clip could be processed; nothing was written")


def downloads_folder(output):
    """Where videos are downloaded to for an output: processed_dataset.videos/ beside processed_dataset.npy."""
    return Path(output).with_suffix(".videos")


def remove_if_empty(folder):
    """Remove a folder unless it holds something, as kept videos or the parts of unfinished ones."""
    with contextlib.suppress(OSError):
        folder.rmdir()


def estimate(samples, videos, args):
    """Lines that tell what processing the samples would take; nothing is fetched or written."""
    seconds, unknown, absent = 0.0, 0, 0
    for sample in samples:
        try:
            path = videos.local_path(sample)
        except VideoError:
            path = None
        absent += path is None
        if sample.start is not None and sample.end is not None:
            seconds += max(sample.end - sample.start, 0)
        elif path is not None:
            seconds += video_seconds(path) - (sample.start or 0)
        else:
            unknown += 1
    frames = seconds * (args.fps or SOURCE_FRAME_RATE)
    disk = frames * args.image_size ** 2 * 3
    free = shutil.disk_usage(Path(args.output).parent).free
    hours = seconds * SOURCE_FRAME_RATE / DECODED_RATE / args.workers / 3600
    yield f"{len(samples)} clips to process, {absent} of them from videos that are not on this machine"
    yield f"{seconds:.0f} s of video, about {frames:.0f} frames" + (
        f"; {unknown} clips of unknown length not counted" if unknown else "")
    yield f"disk: about {disk / 1e9:.2f} GB for {args.output}, {free / 1e9:.2f} GB are free"
    yield (f"time: about {hours * 60:.0f} min with {args.workers} workers" if hours < 1 else
           f"time: about {hours:.1f} h with {args.workers} workers") + (", downloads not counted" if absent else "")


def require_same_samples(writer, samples):
    """Raise InputError if a clip that is there already now has other options, another answer or another segment."""
    for sample in samples:
        item = writer.items.get(sample.id)
        if item is None:
            continue
        now = {**sample.record(), "video": sample.video, "start_timestamp": sample.start, "end_timestamp": sample.end}
        for key, value in now.items():
            if item.get(key) != value:
                raise console.InputError(f"{writer.path}: sample {sample.id} is there with {key} {item.get(key)!r}, "
                                         f"the dataset has {value!r}; start over with --overwrite")


if __name__ == "__main__":
    raise SystemExit(main())

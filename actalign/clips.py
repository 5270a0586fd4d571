"""The clips of a dataset, decoded in threads, and what an artifact says of each; stages 1 and 2 share it.

    python process_data.py --dataset my_clips.csv --output processed_dataset.npy     frames on disk
    python encode_videos.py --dataset my_clips.csv --output video_embeddings.npy     frames in memory, while they pass
"""

import collections
import contextlib
import gc
import itertools
import math
import queue
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from actalign import artifacts, console, cores, dataset, files
from actalign.download import YOUTUBE_URL, VideoError, Videos, place_of

IMAGE_SIZE = 384  # pixels; what google/siglip-so400m-patch14-384 takes
SOURCE_FRAME_RATE = 32  # frames/s, ActionAtlas's average; for estimates
USUAL_SECONDS = 10  # of a clip whose video is still to be fetched; for estimates
RESAMPLES = ("bicubic", "bilinear")
CHUNK_FRAMES = 32  # frames that a worker hands over at once
BYTES_IN_FLIGHT = 1 << 28  # of decoded frames that may wait for their turn, for each worker
# Of what a clip's frames are made: the settings of a run, and what it says of the clip; where that has changed, they
# are decoded again.
SETTINGS = ("image_size", "resample", "fps")
MADE_FROM = ("youtube_id", "video", "video_file", "start_timestamp", "end_timestamp", "masks")


class ClipBug(VideoError):
    """An exception that no clip should raise: the program's own mistake, and yet only this clip's end."""


def clip_chunks(path, sample, image_size, fps=None, resample="bicubic", count=CHUNK_FRAMES):
    """Decode one clip, blurred where its masks say so.

    Yields (timestamps, frames): up to `count` seconds and (n, image_size, image_size, 3) uint8.
    Raises VideoError if the video does not give the clip whole.
    """
    from actalign import video  # not before a clip is decoded: it loads FFmpeg

    resized = ((t, video.resize(image, image_size, resample))
               for t, image in video.read_frames(path, sample.start, sample.end, fps, sample.masks))
    while chunk := list(itertools.islice(resized, count)):
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


@contextlib.contextmanager
def decoding(samples, videos, workers, image_size, fps=None, resample="bicubic", count=CHUNK_FRAMES):
    """Within it (sample, its chunks) of every sample is yielded, as `decoded_clips` and `clip_chunks` have them.

    samples  list of Sample    videos  Videos, closed at the end    workers  threads; None: as many as cores
    """
    def decode(sample):
        if sample.problem:
            raise VideoError(sample.problem, retry=False)
        try:
            yield from clip_chunks(videos.path(sample), sample, image_size, fps, resample, count)
        except (VideoError, console.StageError):
            raise
        except OSError as error:  # such as a name that is too long, or a folder that may not be searched
            raise VideoError(f"cannot be opened: {error.strerror or error}") from None
        except Exception as error:
            raise ClipBug(f"{type(error).__name__} at {place_of(error)[1]}: {error}") from error

    chunks_ahead = max(BYTES_IN_FLIGHT // (count * image_size * image_size * 3), 1)
    with (cores.one_torch_thread(),
          contextlib.closing(decoded_clips(samples, decode, workers or cores.count(), chunks_ahead)) as decoded,
          contextlib.closing(videos)):
        yield decoded


class PassingClip:
    """A clip whose chunks are taken one by one, once: iterating gives its frames (n, H, W, 3).

    Then it tells its `timestamps`, the `checksum` of its frames, and the VideoError that ended it, or None.
    """

    def __init__(self, sample, chunks):
        self.sample = sample
        self.timestamps, self.checksum, self.error = [], artifacts.Checksum(), None
        self._chunks = chunks

    def __iter__(self):
        try:
            for timestamps, frames in self._chunks:
                self.timestamps += timestamps
                self.checksum.update(frames)
                yield frames
        except VideoError as error:
            self.error = error


class DecodedFrames:
    """The frames of clips, decoded when they are asked for, as far as their videos are on this machine.

    What the report takes of an ArrayArtifact of frames; the rows are those of the embeddings.
    path  of the dataset    samples  list of Sample    video  ArrayArtifact of their embeddings    videos  Videos
    """

    def __init__(self, path, samples, video, videos):
        self.path, self.length, self.item = path, video.length, video.item
        self._video, self._rows = video, range(0)  # those that are held
        self._clips = {}
        for sample in samples:
            with contextlib.suppress(VideoError, OSError):
                if sample.id in video and (path := videos.local_path(sample)):
                    self._clips[sample.id] = sample, path
        self._settings = {name: video.meta.get(name) for name in SETTINGS}

    def __contains__(self, id):
        return id in self._clips

    def read(self, start, stop):
        """Rows start:stop, of one clip. Raises InputError if it is not the one that was encoded."""
        if start not in self._rows:
            item = next(item for item in self._video.items if item["start"] <= start < item["stop"])
            sample, path = self._clips[item["id"]]
            clip = PassingClip(sample, clip_chunks(path, sample, **self._settings))
            self._rows, self._frames = range(item["start"], item["stop"]), np.concatenate([*clip] or [np.empty(0)])
            if clip.error or item.get("frames_checksum") not in (None, "", clip.checksum.hexdigest()):
                raise console.InputError(
                    f"--dataset: the clip of {item['id']} is not the one that was encoded "
                    f"({clip.error or 'it has other frames'}); give the dataset and --videos_dir that it was made from")
        return self._frames[start - self._rows.start:stop - self._rows.start]


def times_of(timestamps):
    """What an item says of the times of its frames."""
    span = timestamps[-1] - timestamps[0]
    return {"timestamps": timestamps, "fps": round((len(timestamps) - 1) / span, 3) if span else None}


def add_missing(writer, sample, error, bugs):
    """Name a clip that a VideoError ended among the missing items, and a bug of the program in the list `bugs`."""
    reason = f"{sample.video or sample.youtube_id}: {error}"
    writer.missing.add(sample.id, reason, error.retry)
    if isinstance(error, ClipBug):
        bugs.append(reason)


def known_fields(sample, videos):
    """What an item says of its clip by the dataset, as it is read back, and which local file was behind its name."""
    fields = sample.record() | {
        "video": sample.video, "start_timestamp": sample.start, "end_timestamp": sample.end,
        "choices": list(sample.labels), "extra": sample.extra, "masked_frames": len(sample.masks),
        "note": sample.note, "phases": sample.phases,
        "masks": files.json_checksum(list(sample.masks.items())) if sample.masks else None}
    with contextlib.suppress(VideoError, OSError):
        if path := videos.local_path(sample):
            stat = path.stat()
            fields["video_file"] = [stat.st_size, stat.st_mtime_ns]
    return files.parse_json(files.dump_json(fields))


def lengths(samples, videos):
    """Yield (seconds of the clip, None if not known, and whether its video is on this machine); nothing is fetched."""
    from actalign.video import video_seconds

    for sample in samples:
        path = None
        with contextlib.suppress(VideoError, OSError):
            path = videos.local_path(sample)
        end = video_seconds(path) if path and sample.end is None else sample.end
        yield None if end is None else max(end - (sample.start or 0), 0), path is not None


def seconds_of(samples, videos):
    """About how many seconds all clips have together; nothing is fetched."""
    return sum(USUAL_SECONDS if length is None else length for length, _ in lengths(samples, videos))


def add_arguments(parser):
    """Add the flags that say where videos are and how clips are decoded; returns the actions."""
    add = parser.add_argument
    return [
        add("--keep_videos", action="store_true", help="keep downloads, in NAME.videos beside NAME.npy"),
        add("--cookies", type=Path, help="cookie file (Netscape format) for downloads"),
        add("--cookies_from_browser", metavar="BROWSER", help="take those of a browser such as firefox"),
        add("--video_url", default=YOUTUBE_URL, metavar="TEMPLATE",
            help="where videos named by a youtube_id are fetched from (default: %(default)s)"),
        add("--max_video_gb", type=console.positive_float, default=20,
            help="give up a download beyond so many gigabytes (default: %(default)s)"),
        add("--retry_missing", action="store_true", help="ask again for videos that were gone before"),
        add("--workers", type=console.workers,
            help=f"clips decoded side by side (default: the number of cores, here {cores.count()})"),
        add("--image_size", type=console.pixels, default=IMAGE_SIZE,
            help="frames are resized to this many pixels squared (default: %(default)s)"),
        add("--resample", choices=RESAMPLES, default=RESAMPLES[0],
            help="how frames are resized: as the checkpoint's image processor does (default: %(default)s)"),
        add("--fps", type=console.positive_float, help="keep so many frames a second (default: all)"),
        add("--limit", type=console.positive_int, help="only the first so many samples"),
    ]


def read_samples(args):
    """The Samples of --dataset. Raises InputError if it, or a file or folder that the flags name, is not there."""
    if args.cookies and not args.cookies.is_file():
        raise console.InputError(f"--cookies {args.cookies}: no such file; export it from a browser in Netscape format")
    samples = dataset.load(args)
    if masked := sum(bool(sample.masks) for sample in samples):
        console.log.info(f"{masked} of {len(samples)} samples have masks; what they cover is blurred")
    return samples


def settings_of(args):
    """What decides frames, by the flags, as `decoding` takes it and `ArrayWriter` compares it."""
    return {name: getattr(args, name) for name in SETTINGS}


def are_settings(meta):
    """Whether what an index says of its frames is what `settings_of` gives."""
    size, resample, fps = (meta.get(name) for name in SETTINGS)
    return (type(size) is int and 0 < size <= 4096 and resample in RESAMPLES
            and (fps is None or (type(fps) in (int, float) and 0 < fps < math.inf)))


def follow(samples, share, writer, args, names=None):
    """Have `writer` follow the samples: (those that it lacks, those of them to be tried, the Videos of these).

    share: {id: fields besides} of those that are the run's    names: of the fields that an item has; all if None
    """
    local = Videos(args.videos_dir, downloads_of(args) / "none", ())  # those are gone when their clips are done
    source = {sample.id: known_fields(sample, local) for sample in samples if sample.id in share}
    again = {id for id, item in writer.items.items() for name in MADE_FROM
             if name in item and item[name] != source.get(id, item).get(name, item[name])}
    source = {id: {**{name: known[name] for name in names or known if name in known}, **share[id]}
              for id, known in source.items()}
    writer.follow(source, again, MADE_FROM)
    left = [sample for sample in samples[:args.limit] if sample.id in share and sample.id not in writer]
    todo = [sample for sample in left if args.retry_missing or not writer.missing.is_final(sample.id)]
    return left, todo, Videos(
        args.videos_dir, downloads_of(args), todo, args.keep_videos, args.video_url, cookies=args.cookies,
        browser=args.cookies_from_browser, most_bytes=args.max_video_gb * 1e9)


def downloads_of(args):
    """The folder of what is fetched."""
    return Path(args.output).with_suffix(".videos")


class Outcome(NamedTuple):
    """What became of the clips of a run; outcomes of shards can be added."""

    done: int = 0
    frames: int = 0
    kept: int = 0  # clips that were there already
    failed: tuple[str, ...] = ()
    bugs: tuple[str, ...] = ()  # of the program, that ended clips

    def __add__(self, other):
        return Outcome(*(one + another for one, another in zip(self, other, strict=True)))


def outcome(left, frames, kept, writer, args, bugs):
    """The Outcome of a run that had so many clips `left` to do, once its writer is closed."""
    with contextlib.suppress(OSError):  # it may hold videos to keep, or parts of unfinished ones
        downloads_of(args).rmdir()
    failed = tuple(sample.id for sample in left if sample.id not in writer)
    return Outcome(len(left) - len(failed), frames, kept, failed, tuple(bugs))


def say(outcome, what, output, may_be_empty=False):
    """Print an Outcome; what: was done to the clips. Raises StageError if none is there, or after bugs."""
    done, _, kept, failed, bugs = outcome
    if failed:
        console.say(f"{len(failed)} clips failed, see {artifacts.missing_path(output)} for the reasons "
                    f"({console.some_of(failed)})")
    console.say(f"{done} clips {what}, {kept} were there already, {len(failed)} failed -> {output}")
    if not done + kept and not may_be_empty:
        missing = artifacts.missing_path(output)
        [why, *_] = [entry["reason"] for entry in files.read_json(missing)] if missing.exists() else ["there is none"]
        raise console.StageError(f"no clip could be processed ({why}); nothing was written")
    if bugs:
        raise console.StageError(f"{bugs[0]}; {len(bugs)} clips met such a bug of this program: report it, "
                                 "and run the same command again once it is mended")

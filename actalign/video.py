"""Frames of a video file: decoded by timestamp, upright, RGB, and resized as SigLIP's image processor does."""

from fractions import Fraction

import numpy as np

TIMESTAMP_TOLERANCE = Fraction(1, 10_000)  # s; containers round timestamps, some to a microsecond
SEGMENT_SLACK = Fraction(1, 10)  # s; benchmarks round their segments to this
CUT_SHORT_SLACK = Fraction(1, 4)  # s; what containers' durations miss in sound files, from those of FFmpeg's own muxers
RESAMPLES = ("bicubic", "bilinear")
SEEK_BACK = (0, 2, 10, None)  # s before the wanted start; None is the beginning of the file


class VideoError(Exception):
    """This file does not give this clip whole; the reason is one line."""


def read_frames(path, start=None, end=None, fps=None):
    """Decode the frames of the first video stream with start <= t < end.

    path   a file that FFmpeg reads; start, end   seconds from the file's beginning, None for the whole file
    fps    keep so many frames a second, chosen by timestamp; None keeps all

    Yields (t, image): t in seconds from the file's beginning, image (H, W, 3) uint8 RGB, turned upright.
    Raises VideoError if the file is no video, is damaged, or stops before its end or the segment's.
    """
    import av

    lower = Fraction(0) if start is None else Fraction(str(start))
    upper = None if end is None else Fraction(str(end))
    if lower < 0 or (upper is not None and upper <= lower):
        raise VideoError(f"segment {start} to {end} s is empty or begins before the video")
    try:
        yield from _read_range(path, lower, upper, fps)
    except av.error.FFmpegError as error:
        raise VideoError(f"cannot be decoded: {error.strerror or type(error).__name__}") from None


def _read_range(path, lower, upper, fps):
    grid = lower  # the next moment to take a frame at
    taken = 0
    last_end = None
    with _Decoding(path, lower) as decoding:
        for t, frame in decoding.frames():
            if upper is not None and t >= upper - TIMESTAMP_TOLERANCE:
                break
            last_end = t + decoding.frame_duration(frame)
            if t < lower - TIMESTAMP_TOLERANCE:
                continue
            if frame.is_corrupt:
                raise VideoError(f"is damaged at {float(t):.3f} s")
            if fps is None or t >= grid - TIMESTAMP_TOLERANCE:
                yield float(round(t, 6)), _upright(frame)
                taken += 1
                while fps is not None and grid <= t + TIMESTAMP_TOLERANCE:
                    grid += 1 / Fraction(str(fps))
        else:
            decoding.require_whole(last_end)
            if upper is not None and last_end < upper - SEGMENT_SLACK:
                raise VideoError(f"ends at {float(last_end):.3f} s, before the segment's end at {float(upper):g} s")
    if not taken:
        raise VideoError("has no frame in this segment")


class _Decoding:
    """An open file, positioned on a keyframe at or before a moment."""

    def __init__(self, path, start):
        self._path = path
        self._start = start

    def __enter__(self):
        import av

        self._size = _file_size(self._path)
        self._container = av.open(str(self._path))
        if not self._container.streams.video:
            self._container.close()
            raise VideoError("has no video stream")
        self._stream = self._container.streams.video[0]
        self._offset = self._time_zero()
        self._packets_end = Fraction(0)  # where the last packet of any stream ends
        return self

    def __exit__(self, *_):
        self._container.close()

    def frames(self):
        """(t, frame) from the last keyframe that does not lie after the start; t a Fraction in seconds."""
        for back in SEEK_BACK if self._start > 0 else (None,):
            target = None if back is None else self._start - back
            if target is not None and target <= 0:
                continue
            self._seek(target)
            decoded = self._decode()
            first = next(decoded, None)
            # An index by decoding time can land on a keyframe that is shown after the start: go back further.
            if target is None or (first is not None and first[0] <= self._start + TIMESTAMP_TOLERANCE):
                break
        if first is None:
            raise VideoError("has no frames")
        yield first
        yield from decoded

    def frame_duration(self, frame):
        """How long a frame is shown, in seconds."""
        return (frame.duration or 0) * frame.time_base

    def require_whole(self, last_end):
        """Raise VideoError if the file was read to its end and the end came too early."""
        index_end = max((entry.pos + entry.size for entry in self._stream.index_entries), default=0)
        if index_end > self._size:
            raise VideoError(f"is cut short: has {self._size} bytes of {index_end}")
        if self._stream.duration:
            expected = self._stream.duration * self._stream.time_base + self._stream_start() - self._offset
            if last_end < expected - CUT_SHORT_SLACK:
                raise VideoError(f"stops at {float(last_end):.3f} s of {float(expected):.3f} s")
        elif self._container.duration:
            expected = Fraction(self._container.duration, 1_000_000)
            if max(self._packets_end, last_end) < expected - CUT_SHORT_SLACK:
                raise VideoError(f"stops at {float(last_end):.3f} s of {float(expected):.3f} s")

    def _stream_start(self):
        return (self._stream.start_time or 0) * self._stream.time_base

    def _time_zero(self):
        """The timestamp that a player calls 0 s: the earliest of all streams."""
        start = Fraction(self._container.start_time or 0, 1_000_000)
        stream_start = self._stream_start()
        return stream_start if abs(stream_start - start) < Fraction(1, 1000) else start  # the exact one of the two

    def _seek(self, target):
        moment = self._offset + (target or 0)
        if target is None:
            self.__exit__()
            self.__enter__()
            return
        self._container.seek(int(moment / self._stream.time_base), stream=self._stream, backward=True)

    def _decode(self):
        for packet in self._container.demux():
            time = packet.pts if packet.pts is not None else packet.dts
            if time is not None and packet.time_base:
                self._packets_end = max(self._packets_end, (time + (packet.duration or 0)) * packet.time_base
                                        - self._offset)
            if packet.stream is not self._stream:
                continue
            for frame in packet.decode():
                pts = frame.pts if frame.pts is not None else frame.dts
                if pts is None:
                    raise VideoError("has frames without timestamps")
                yield pts * frame.time_base - self._offset, frame


def _upright(frame):
    """(H, W, 3) uint8 RGB, turned as the file's rotation metadata asks."""
    image = frame.to_ndarray(format="rgb24")
    return np.rot90(image, round(frame.rotation / 90)) if frame.rotation else image


def _file_size(path):
    from pathlib import Path

    try:
        return Path(path).stat().st_size
    except OSError as error:
        raise VideoError(f"cannot be opened: {error.strerror}") from None


def resize(image, size, resample="bicubic"):
    """Resize (H, W, 3) uint8 to (size, size, 3) as SigLIP's image processor does: antialiased, aspect ignored.

    Pillow is the implementation that this processor uses itself, so that the pixels are the same. SigLIP's checkpoints
    ask for bicubic, some of SigLIP 2's for bilinear.
    """
    from PIL import Image

    return np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling[resample.upper()]))

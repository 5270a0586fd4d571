"""Frames of a video file: decoded by timestamp, upright, RGB, and resized as SigLIP's image processor does."""

import re
from fractions import Fraction
from pathlib import Path

import numpy as np

TIMESTAMP_TOLERANCE = Fraction(1, 10_000)  # s; containers round timestamps, some to a microsecond
SEGMENT_SLACK = Fraction(1, 10)  # s; benchmarks round their segments to this
CUT_SHORT_SLACK = Fraction(1, 4)  # s; what containers' durations miss in sound files, from those of FFmpeg's own muxers
# Containers that hold pictures themselves; FFmpeg's other demuxers read playlists, which name files and addresses.
CONTAINERS = "mov,matroska,avi,mpegts,mpeg,mpegvideo,flv,asf,ogg,mxf,h264,hevc,obu,ivf,nut,rm,dv,m4v,wtv,gif"
MOST_PIXELS = 8192 * 4352  # of a picture: 8K; a damaged header can claim any number
RESAMPLES = ("bicubic", "bilinear")
SEEK_BACK = (0, 2, 10)  # s before the wanted start, one after the other


class VideoError(Exception):
    """This video does not give this clip whole; the reason is one line. `retry` tells whether another try can help."""

    def __init__(self, reason, retry=True):
        super().__init__(reason)
        self.retry = retry


def read_frames(path, start=None, end=None, fps=None, edit=None):
    """Decode the frames of the first video stream with start <= t < end.

    path   a file that FFmpeg reads; start, end   seconds from the file's beginning, None for the whole file
    fps    keep so many frames a second, chosen by timestamp; None keeps all
    edit   called as edit(image, number) for every frame of the segment, counted from 1, to give the image to yield;
           image is None for the frames that fps leaves out

    Yields (t, image): t in seconds from the file's beginning, image (H, W, 3) uint8 RGB, turned upright.
    Raises VideoError if the file is no video, is damaged, or stops before its end or the segment's.
    """
    import av

    lower = Fraction(0) if start is None else Fraction(str(start))
    upper = None if end is None else Fraction(str(end))
    if lower < 0 or (upper is not None and upper <= lower):
        raise VideoError(f"segment {start} to {end} s is empty or begins before the video")
    try:
        yield from _read_range(path, lower, upper, fps, edit)
    except av.error.FFmpegError as error:
        raise VideoError(f"cannot be decoded: {error.strerror or type(error).__name__}") from None


def _read_range(path, lower, upper, fps, edit):
    grid = lower  # the next moment to take a frame at
    number = 0  # of the segment's frames so far
    last_end = matrix = None
    with _Decoding(path, lower) as decoding:
        for t, frame in decoding.frames():
            if upper is not None and t >= upper - TIMESTAMP_TOLERANCE:
                break
            last_end = t + decoding.frame_duration(frame)
            if frame.is_corrupt and t >= (decoding.keyframe or 0) - TIMESTAMP_TOLERANCE:
                raise VideoError(f"is damaged at {float(t):.3f} s")
            if t < lower - TIMESTAMP_TOLERANCE:
                continue
            number += 1
            if fps is None or t >= grid - TIMESTAMP_TOLERANCE:
                matrix = matrix or _display_matrix(frame)
                image = _upright(frame, matrix)
                yield float(round(t, 6)), image if edit is None else edit(image, number)
                while fps is not None and grid <= t + TIMESTAMP_TOLERANCE:
                    grid += 1 / Fraction(str(fps))
            elif edit is not None:
                edit(None, number)
        else:
            if last_end is None:
                raise VideoError("has no frames")
            decoding.require_whole(last_end)
            if upper is not None and last_end < upper - SEGMENT_SLACK:
                raise VideoError(f"ends at {float(last_end):.3f} s, before the segment's end at {float(upper):g} s")
    if not number:
        raise VideoError("has no frame in this segment")


def _open(path):
    """A file as PyAV's container. Raises VideoError if it is of no kind that is read here."""
    import av

    try:
        return av.open(str(path), options={"max_pixels": str(MOST_PIXELS)}, metadata_errors="replace",
                       container_options={"format_whitelist": CONTAINERS, "protocol_whitelist": "file"})
    except av.error.ArgumentError:
        raise VideoError("is in no container of videos that is read here") from None


def video_seconds(path):
    """How long a file says it is, in seconds; 0.0 if it cannot be opened."""
    import av

    try:
        with _open(path) as container:
            return (container.duration or 0) / 1e6
    except (av.error.FFmpegError, OSError, VideoError):
        return 0.0


class _Decoding:
    """An open file, positioned on a keyframe at or before a moment."""

    def __init__(self, path, start):
        self._path = Path(path)
        self._start = start

    def __enter__(self):
        self._declared_size = _declared_size(self._path)
        self._open()
        return self

    def __exit__(self, *_):
        self._container.close()
        self._container = self._stream = None

    def _open(self):
        self._container = _open(self._path)
        if not self._container.streams.video:
            self._container.close()
            raise VideoError("has no video stream")
        self._stream = self._container.streams.video[0]
        if self._stream.codec_context is None:
            self._container.close()
            raise VideoError("cannot be decoded: there is no decoder for its codec")
        self._stream.codec_context.thread_count = 1  # clips are decoded side by side, one core each
        self._stream.codec_context.options = {
            "max_pixels": str(MOST_PIXELS), "err_detect": "explode"}  # raise where it would repair or leave out
        self._offset = self._time_zero()
        self._packets_end = Fraction(0)  # where the last packet of any stream ends

    def frames(self):
        """(t, frame) from the last keyframe that does not lie after the start; t a Fraction in seconds."""
        import av

        for back in SEEK_BACK:
            if self._start - back <= 0:
                break
            self._container.seek(int((self._offset + self._start - back) / self._stream.time_base), stream=self._stream)
            decoded = self._decode()
            try:
                first = next(decoded, None)
            except av.error.InvalidDataError:
                first = None
            # An index by decoding time can land on a keyframe that is shown after the start, or among pictures that
            # refer to others before it: then go back further.
            if first is not None and first[0] <= self._start + TIMESTAMP_TOLERANCE:
                yield first
                yield from decoded
                return
        if self._start > 0:  # the index leads nowhere: begin at the beginning
            self._container.close()
            self._open()
        yield from self._decode()

    def frame_duration(self, frame):
        """How long a frame is shown, in seconds."""
        return (frame.duration or 0) * frame.time_base

    def require_whole(self, last_end):
        """Raise VideoError if the file was read to its end and the end came too early."""
        size = self._path.stat().st_size
        if self._declared_size is not None and size < self._declared_size:
            raise VideoError(f"is cut short: has {size} bytes of {self._declared_size}")
        if self._stream.duration:
            found = last_end
            expected = self._stream.duration * self._stream.time_base + self._stream_start() - self._offset
        else:  # Matroska counts from 0, wherever its clock starts
            found = max(self._packets_end, last_end)
            expected = Fraction(self._container.duration or 0, 1_000_000) - max(self._offset, 0)
        if found < expected - CUT_SHORT_SLACK:
            raise VideoError(f"stops at {float(found):.3f} s of {float(expected):.3f} s")

    def _stream_start(self):
        return (self._stream.start_time or 0) * self._stream.time_base

    def _time_zero(self):
        """The timestamp that a player calls 0 s: the earliest of all streams."""
        start = Fraction(self._container.start_time or 0, 1_000_000)
        stream_start = self._stream_start()
        return stream_start if abs(stream_start - start) < Fraction(1, 1000) else start  # the exact one of the two

    def _decode(self):
        self.keyframe = None  # when the picture is shown that decoding begins with
        for packet in self._container.demux():
            time = packet.pts if packet.pts is not None else packet.dts
            if time is not None and packet.time_base:
                self._packets_end = max(self._packets_end, (time + (packet.duration or 0)) * packet.time_base
                                        - self._offset)
            if packet.stream is not self._stream:
                continue
            if self.keyframe is None and time is not None:
                self.keyframe = time * packet.time_base - self._offset
            for frame in self._frames_of(packet, time):
                pts = frame.pts if frame.pts is not None else frame.dts
                if pts is None:
                    raise VideoError("has frames without timestamps")
                yield pts * frame.time_base - self._offset, frame

    def _frames_of(self, packet, time):
        """The frames that a packet completes; what cannot be decoded before the keyframe is of no matter.

        After a seek the first pictures may refer to others before the keyframe.
        """
        import av

        try:
            return packet.decode()
        except av.error.InvalidDataError:
            if time is None or time * packet.time_base - self._offset >= self.keyframe:
                raise
            return []


def _display_matrix(frame):
    """(a, b, c, d) of a frame: a pixel (x, y) is shown at x' = a x + c y, y' = b x + d y.

    Source: FFmpeg, libavutil/display.h. To be called once a file: a frame whose side data were looked at stays there
    until Python looks for cycles.
    """
    data = next((data for data in frame.side_data if data.type.name == "DISPLAYMATRIX"), None)
    if data is None:
        return 1, 0, 0, 1
    a, b, _, c, d, *_ = np.frombuffer(bytes(data), dtype=np.int32).tolist()
    return a, b, c, d


def _upright(frame, matrix):
    """(H, W, 3) uint8 RGB, turned and mirrored as the display matrix asks, to the nearest quarter turn."""
    image = frame.reformat(format="rgb24", threads=1).to_ndarray()
    a, b, c, d = matrix
    if abs(b) + abs(c) > abs(a) + abs(d):
        image, a, d = image.transpose(1, 0, 2), c, b
    return np.ascontiguousarray(image[::-1 if d < 0 else 1, ::-1 if a < 0 else 1])


def _declared_size(path):
    """How many bytes a file should have by its own account (mp4's boxes, Matroska's segment); None if it gives none.

    AVI's RIFF chunk tells it as well; where a file has more than one, its first is no more than a part.
    Sources: ISO/IEC 14496-12, section 4.2; RFC 8794, section 4 and RFC 9559, section 4.5.
    """
    try:
        with open(path, "rb") as file:
            head = file.read(64)
            if head[:4] == b"\x1a\x45\xdf\xa3":
                return _end_of_segment(head)
            if head[:4] == b"RIFF":
                return 8 + int.from_bytes(head[4:8], "little")
            if re.fullmatch(rb"ftyp|moov|mdat|free|skip|wide|styp", head[4:8]):
                return _end_of_boxes(file)
    except OSError as error:
        raise VideoError(f"cannot be opened: {error.strerror}") from None
    return None


def _end_of_boxes(file):
    """Where the last of an mp4's top-level boxes ends."""
    end = 0
    while True:
        file.seek(end)
        head = file.read(16)
        if not head or (len(head) >= 8 and not re.fullmatch(rb"[ -~]{4}", head[4:8])):
            return end
        size = int.from_bytes(head[:4], "big")
        size = int.from_bytes(head[8:16], "big") if size == 1 else size
        if size < 8:  # 0: to the end of the file, wherever that is; else it is no box
            return end
        end += size


def _end_of_segment(head):
    """Where Matroska's one segment ends; None if it was written without a known size."""
    def number(at):
        """(value, length) of a variable-length number; all ones mean that the size is not known."""
        length = 9 - head[at].bit_length()
        value = int.from_bytes(head[at:at + length], "big") - (1 << 7 * length)
        return (None if value == (1 << 7 * length) - 1 else value), length

    size, length = number(4)
    at = 4 + length + (size or 0)
    if head[at:at + 4] != b"\x18\x53\x80\x67":
        return None
    size, length = number(at + 4)
    return None if size is None else at + 4 + length + size


def resize(image, size, resample="bicubic"):
    """Resize (H, W, 3) uint8 to (size, size, 3) as SigLIP's image processor does: antialiased, aspect ignored.

    That processor resizes by torch where torchvision is installed and by Pillow elsewhere. Torch's pixels differ from
    Pillow's in a few of a thousand values, by 1 or 2 of 255, and take a tenth of the time. SigLIP's checkpoints ask for
    bicubic, some of SigLIP 2's for bilinear.
    """
    import torch

    pixels = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None]  # (1, 3, H, W), channels last
    pixels = torch.nn.functional.interpolate(pixels, (size, size), mode=resample, antialias=True)
    return np.ascontiguousarray(pixels[0].permute(1, 2, 0).numpy())

"""Frames of a video file: decoded by timestamp, upright, RGB, and resized as SigLIP's image processor does."""

import contextlib
import itertools
import os
import re
from fractions import Fraction

import numpy as np

TIMESTAMP_TOLERANCE = Fraction(1, 10_000)  # s; containers round timestamps, some to a microsecond
SEGMENT_SLACK = Fraction(1, 10)  # s; benchmarks round their segments to this
CUT_SHORT_SLACK = Fraction(1, 4)  # s; what containers' durations miss in sound files, from those of FFmpeg's own muxers
FRAME_SLACK = 4  # frames, 0.1 s and one more at 32 frames a second: how far the benchmark's cuts and ours may differ
# Containers that hold pictures themselves; FFmpeg's other demuxers read playlists, which name files and addresses.
CONTAINERS = "mov,matroska,avi,mpegts,mpeg,mpegvideo,flv,asf,ogg,mxf,h264,hevc,obu,ivf,nut,rm,dv,m4v,wtv,gif"
MOST_PIXELS = 8192 * 4352  # of a picture: 8K; a damaged header can claim any number
RESAMPLES = ("bicubic", "bilinear")
HEAD_BYTES = 1024  # of a file, in which Matroska's segment begins
SEEK_BACK = (0, 2, 10)  # s before the wanted start, one after the other


class VideoError(Exception):
    """This video does not give this clip whole; the reason is one line. `retry` tells whether another try can help."""

    def __init__(self, reason, retry=True):
        super().__init__(reason)
        self.retry = retry


def read_frames(path, start=None, end=None, fps=None, masks=None):
    """Decode the frames of the first video stream with start <= t < end.

    path   a file that FFmpeg reads; start, end   seconds from the file's beginning, None for the whole file
    fps    keep so many frames a second, chosen by timestamp; None keeps all
    masks  the Masks of this segment, whose frame numbers also count the frames that fps leaves out

    Yields (t, image): t in seconds from the file's beginning, image (H, W, 3) uint8 RGB, turned upright and blurred.
    Raises VideoError if the file is no video, is damaged, or stops before its end, the segment's or the masks'.
    """
    import av

    lower = Fraction(0) if start is None else Fraction(str(start))
    upper = None if end is None else Fraction(str(end))
    if lower < 0 or (upper is not None and upper <= lower):
        raise VideoError(f"segment {start} to {end} s is empty or begins before the video")
    step = None if fps is None else 1 / Fraction(str(fps))
    due = lower  # the next moment to take a frame at
    matrix, number = None, 0
    try:
        with contextlib.closing(_Decoding(path)) as decoding:
            for number, (t, frame) in enumerate(decoding.segment(lower, upper), start=1):
                if step is not None:
                    if t < due - TIMESTAMP_TOLERANCE:
                        continue
                    due = lower + step * ((t + TIMESTAMP_TOLERANCE - lower) // step + 1)
                matrix = matrix or _display_matrix(frame)
                image = _upright(frame, matrix)
                yield float(round(t, 6)), masks.blur(image, number) if masks else image
    except (av.error.FFmpegError, OSError) as error:
        raise VideoError(f"cannot be decoded: {error.strerror or type(error).__name__}") from None
    if not number:
        raise VideoError("has no frame in this segment")
    if masks and masks.last_frame > number + FRAME_SLACK:
        raise VideoError(f"has {number} frames in this segment, its masks go up to frame {masks.last_frame}")


def video_seconds(path):
    """How long a file says it is, in seconds; 0.0 if it cannot be opened."""
    import av

    try:
        with _open(path) as container:
            return (container.duration or 0) / 1e6
    except (av.error.FFmpegError, OSError, VideoError):
        return 0.0


def _open(path):
    """A file as PyAV's container. Raises VideoError if it is of no kind that is read here."""
    import av

    try:
        return av.open(str(path), options={"max_pixels": str(MOST_PIXELS)}, metadata_errors="replace",
                       container_options={"format_whitelist": CONTAINERS, "protocol_whitelist": "file"})
    except av.error.ArgumentError:
        raise VideoError("is in no container of videos that is read here") from None


class _Decoding:
    """The decoding of a file's first video stream. Times are Fractions in seconds from the file's beginning."""

    def __init__(self, path):
        self._path = path
        self._container = None

    def close(self):
        """Close the file."""
        if self._container is not None:
            self._container.close()
        self._container = self._stream = None

    def segment(self, lower, upper):
        """(t, frame) of the frames with lower <= t < upper, None for the file's end.

        Raises VideoError if one is damaged or the last ones are not there.
        """
        last_end = None
        for t, frame in self._frames_from(lower):
            if upper is not None and t >= upper - TIMESTAMP_TOLERANCE:
                return
            last_end = t + (frame.duration or 0) * frame.time_base
            if frame.is_corrupt and t >= (self._keyframe or 0) - TIMESTAMP_TOLERANCE:
                raise VideoError(f"is damaged at {float(t):.3f} s")
            if t >= lower - TIMESTAMP_TOLERANCE:
                yield t, frame
        if last_end is None:
            raise VideoError("has no frames")
        self._require_whole(last_end)
        if upper is not None and last_end < upper - SEGMENT_SLACK:
            raise VideoError(f"ends at {float(last_end):.3f} s, before the segment's end at {float(upper):g} s")

    def _open(self):
        self.close()
        self._container = _open(self._path)
        self._stream = next(iter(self._container.streams.video), None)
        if self._stream is None:
            raise VideoError("has no video stream")
        if self._stream.codec_context is None:
            raise VideoError("cannot be decoded: there is no decoder for its codec")
        self._stream.codec_context.thread_count = 1  # clips are decoded side by side, one core each
        self._stream.codec_context.options = {
            "max_pixels": str(MOST_PIXELS), "err_detect": "explode"}  # raise where it would repair or leave out
        # What a player calls 0 s: the earliest timestamp of all streams, and the exact one of two that are the same.
        self._offset = Fraction(self._container.start_time or 0, 1_000_000)
        self._stream_start = (self._stream.start_time or 0) * self._stream.time_base
        if abs(self._stream_start - self._offset) < Fraction(1, 1000):
            self._offset = self._stream_start
        self._packets_end = Fraction(0)  # where the last packet of any stream ends

    def _frames_from(self, start):
        """(t, frame) from a keyframe on that does not lie after the start."""
        import av

        self._open()
        for back in SEEK_BACK:
            if start - back <= 0:
                break
            self._container.seek(int((self._offset + start - back) / self._stream.time_base), stream=self._stream)
            decoded, first = self._decode(), None
            with contextlib.suppress(av.error.InvalidDataError):
                first = next(decoded, None)
            # An index by decoding time can land on a keyframe that is shown after the start, or among pictures that
            # refer to others before it: then go back further.
            if first is not None and first[0] <= start + TIMESTAMP_TOLERANCE:
                return itertools.chain([first], decoded)
        if start > 0:  # the index leads nowhere: begin at the beginning
            self._open()
        return self._decode()

    def _decode(self):
        """(t, frame) of all frames from here on."""
        import av

        self._keyframe = None  # when the picture is shown that decoding begins with
        for packet in self._container.demux():
            time = self._time_of(packet)
            if time is not None:
                self._packets_end = max(self._packets_end, time + (packet.duration or 0) * packet.time_base)
            if packet.stream is not self._stream:
                continue
            if self._keyframe is None:
                self._keyframe = time
            try:
                frames = packet.decode()
            except av.error.InvalidDataError:
                if time is None or time >= self._keyframe:
                    raise
                continue  # after a seek the first pictures may refer to others before the keyframe
            for frame in frames:
                t = self._time_of(frame)
                if t is None:
                    raise VideoError("has frames without timestamps")
                yield t, frame

    def _time_of(self, timed):
        """When a packet or frame is shown; None if it does not say."""
        ticks = timed.dts if timed.pts is None else timed.pts
        return None if ticks is None or not timed.time_base else ticks * timed.time_base - self._offset

    def _require_whole(self, last_end):
        """Raise VideoError if the file, read to its end, ended too early."""
        size, declared_size = os.stat(self._path).st_size, _declared_size(self._path)
        if size < declared_size:
            raise VideoError(f"is cut short: has {size} bytes of {declared_size}")
        if self._stream.duration:
            found = last_end
            expected = self._stream.duration * self._stream.time_base + self._stream_start - self._offset
        else:  # Matroska counts from 0, wherever its clock starts
            found = max(self._packets_end, last_end)
            expected = Fraction(self._container.duration or 0, 1_000_000) - max(self._offset, 0)
        if found < expected - CUT_SHORT_SLACK:
            raise VideoError(f"stops at {float(found):.3f} s of {float(expected):.3f} s")


def _declared_size(path):
    """How many bytes a file should have by its own account (mp4's boxes, Matroska's segment); 0 if it gives none.

    AVI's RIFF chunk tells it as well; where a file has more than one, its first is no more than a part.
    Sources: ISO/IEC 14496-12, section 4.2; RFC 8794, section 4 and RFC 9559, section 4.5.
    """
    with open(path, "rb") as file:
        head = file.read(HEAD_BYTES)
        if head.startswith(b"\x1a\x45\xdf\xa3"):
            return _end_of_segment(head)
        if head.startswith(b"RIFF"):
            return 8 + int.from_bytes(head[4:8], "little")
        if re.fullmatch(rb"ftyp|moov|mdat|free|skip|wide|styp", head[4:8]):
            return _end_of_boxes(file)
    return 0


def _end_of_boxes(file):
    """Where the last of an mp4's top-level boxes ends."""
    end, file_size = 0, os.fstat(file.fileno()).st_size
    while end < file_size:
        file.seek(end)
        head = file.read(16)
        size = int.from_bytes(head[:4], "big")
        if size == 1:  # it follows the box's name, in 64 bits
            size = int.from_bytes(head[8:16], "big")
        if size < 8 or not all(32 <= byte < 127 for byte in head[4:8]):  # 0: to the file's end; else it is no box
            break
        end += size
    return end


def _end_of_segment(head):
    """Where Matroska's one segment ends; 0 if it was written without a known size."""
    at = head.find(b"\x18\x53\x80\x67") + 4  # its size stands behind its name, in 1 to 8 bytes
    if at == 3:
        return 0
    length = 9 - int.from_bytes(head[at:at + 1], "big").bit_length()
    unknown = (1 << 7 * length) - 1  # all ones
    size = int.from_bytes(head[at:at + length], "big") & unknown
    return 0 if size == unknown else at + length + size


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

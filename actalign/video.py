"""Frames of a video file: decoded by timestamp, upright, RGB, and resized as SigLIP's image processor does."""

import contextlib
import itertools
import math
import os
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.sidedata.sidedata import Type

from actalign.download import VideoError, place_of
from actalign.masks import blur

TIMESTAMP_TOLERANCE = Fraction(1, 10_000)  # s; containers round timestamps, some to a microsecond
SEGMENT_SLACK = Fraction(1, 10)  # s; benchmarks round their segments to this
CUT_SHORT_SLACK = Fraction(1, 4)  # s; what containers' durations miss in sound files, from those of FFmpeg's own muxers
FRAME_SLACK = 4  # frames, 0.1 s and one more at 32 frames a second: how far the benchmark's cuts and ours may differ
# Containers that hold pictures themselves; FFmpeg's other demuxers read playlists, which name files and addresses.
CONTAINERS = "mov,matroska,avi,mpegts,mpeg,mpegvideo,flv,asf,ogg,mxf,h264,hevc,obu,ivf,nut,rm,dv,m4v,wtv,gif"
MOST_PIXELS = 8192 * 4352  # of a picture: 8K; a damaged header can claim any number
SEEK_BACK = (0, 2, 10, math.inf)  # s before the wanted start, one after the other; the last is the file's beginning
REFERENCES = 16  # pictures; the most that H.264 refers back to
LONGEST_GAP = 10  # s in the clock of an MPEG stream, beyond which FFmpeg takes it for another clock
BOXES = (b"ftyp styp moov moof mfra mdat free skip wide uuid meta meco sidx ssix pdin prft emsg imda udta pnot PICT "
         b"junk").split()  # of an mp4's outermost level: ISO/IEC 14496-12, table 1, and QuickTime's
MATRICES = {8: "YCgCo", 10: "BT.2020 constant luminance", 11: "YDzDx", 12: "derived from the primaries",
            13: "derived from the primaries, constant luminance", 14: "ICtCp", 15: "IPT-C2", 16: "YCgCo-Re",
            17: "YCgCo-Ro"}  # by their numbers in ITU-T H.273; those that FFmpeg does not convert

# Frames carry side data that PyAV's list lacks, as spatial video does; it would raise where only others are looked for.
Type._missing_ = classmethod(lambda cls, number: cls.VIDEO_HINT)


def read_frames(path, start=None, end=None, fps=None, masks=()):
    """Decode the frames of the first video stream with start <= t < end.

    path   a file that FFmpeg reads; start, end   seconds from the file's beginning, None for the whole file
    fps    keep so many frames a second, chosen by timestamp; None keeps all
    masks  of this segment, see masks.py, whose frame numbers also count the frames that fps leaves out

    Yields (t, image): t in seconds from the file's beginning, image (H, W, 3) uint8 RGB, turned upright and blurred.
    Raises VideoError if the file is no video, is damaged, or stops before its end, the segment's or the masks'.
    """
    lower = Fraction(0) if start is None else Fraction(str(start))
    upper = None if end is None else Fraction(str(end))
    if lower < 0 or (upper is not None and upper <= lower):
        raise VideoError(f"segment {start} to {end} s is empty or begins before the video")
    due = lower  # the next moment to take a frame at
    number = 0
    try:
        for number, (t, frame, matrix) in enumerate(_segment(path, lower, upper), start=1):
            if fps is not None:
                if t < due - TIMESTAMP_TOLERANCE:
                    continue
                step = 1 / Fraction(str(fps))
                due = lower + step * ((t + TIMESTAMP_TOLERANCE - lower) // step + 1)
            image = _upright(frame, matrix)
            yield float(round(t, 6)), blur(image, masks, number)
    except (av.error.FFmpegError, OSError) as error:
        raise VideoError(f"cannot be decoded: {error.strerror or type(error).__name__}") from None
    except VideoError:
        raise
    except Exception as error:  # PyAV raises anything on what it does not know; what our own lines raise is a bug
        file, place = place_of(error)
        if Path(file).parent == Path(__file__).parent:
            raise
        raise VideoError(f"cannot be decoded: {type(error).__name__} at {place}: {error}") from None
    if not number:
        raise VideoError("has no frame in this segment")
    if masks and max(masks) > number + FRAME_SLACK:
        raise VideoError(f"has {number} frames in this segment, its masks go up to frame {max(masks)}")


def video_seconds(path):
    """How long a file says it is, in seconds; 0.0 if it cannot be opened."""
    try:
        with _open(path) as container:
            return (container.duration or 0) / 1e6
    except (av.error.FFmpegError, OSError, VideoError):
        return 0.0


def _open(path):
    path = os.path.abspath(path)  # else FFmpeg takes what stands before a colon for a protocol
    if os.path.exists(path) and not os.path.isfile(path):  # a pipe would be waited for
        raise VideoError("is a folder or a device; for pictures: ffmpeg -i FOLDER/%05d.jpg clip.mp4", retry=False)
    try:
        container = av.open(path, metadata_errors="replace",
                            container_options={"format_whitelist": CONTAINERS, "protocol_whitelist": "file"})
    except av.error.ArgumentError:
        raise VideoError("is in no container of videos that is read here; remux it: ffmpeg -i FILE -c copy clip.mkv",
                         retry=False) from None
    if _declared_size(path) == 8 + 0xFFFFFFFF:
        raise VideoError("is an AVI without length and index, as it leaves a pipe; write it anew: "
                         "ffmpeg -i FILE -c copy clip.avi", retry=False)
    container.flags &= ~av.container.Flags.gen_pts.value  # it makes up timestamps as if pictures came in their order
    return container


def _segment(path, lower, upper):
    """(t, frame, display matrix) of the frames with lower <= t < upper, None for the file's end.

    Raises VideoError if one is damaged or the last ones are not there.
    """
    for back in SEEK_BACK:
        with contextlib.closing(_open(path)) as container:
            decoding, last_end, is_there = _Decoding(container), Fraction(0), False
            try:
                for t, frame in decoding.frames_from(lower, back):
                    if upper is not None and t >= upper - TIMESTAMP_TOLERANCE:
                        return
                    last_end = t + (frame.duration or 0) * frame.time_base
                    if frame.is_corrupt and not decoding.is_before_keyframe(t):
                        raise _damaged_at(t)
                    if t >= lower - TIMESTAMP_TOLERANCE:
                        is_there = True
                        yield t, frame, decoding.matrix
            except (av.error.FFmpegError, VideoError) as error:
                if is_there or lower <= back or not getattr(error, "retry", True):
                    raise
                continue  # not every index leads to where decoding can begin
            decoding.require_whole(last_end)
            if upper is not None and last_end < upper - SEGMENT_SLACK:
                raise VideoError(f"ends at {float(last_end):.3f} s, before the segment's end at {float(upper):g} s")
            return


def _damaged_at(t):
    return VideoError(f"is damaged at {float(t):.3f} s")


class _Decoding:
    """The decoding of a file's first video stream.

    Times are Fractions in seconds: outside from the file's beginning, in here by the file's own clock.
    """

    def __init__(self, container):
        self._container = container
        self._stream = next((stream for stream in container.streams.video
                             if not stream.disposition & av.stream.Disposition.attached_pic), None)
        codec = self._stream and self._stream.codec_context
        if codec is None:
            raise VideoError("has no video stream with a known codec")
        if codec.width * codec.height > MOST_PIXELS:
            raise VideoError(f"has pictures of {codec.width}x{codec.height} pixels, too large to be read here; make "
                             "them smaller: ffmpeg -i FILE -vf scale=-2:720 clip.mp4", retry=False)
        codec.thread_count = 1  # clips are decoded side by side, one core each
        codec.options = {"max_pixels": str(MOST_PIXELS), "err_detect": "explode"}  # raise, where it would leave out
        self._clock_can_restart = container.format.flags & av.format.Flags.ts_discont.value  # MPEG-TS and its like
        # What a player calls 0 s: when pictures or sound begin; _begin_at makes it exact.
        self._zero = Fraction(container.start_time or 0, 1_000_000)
        self._first = (self._stream.start_time or 0) * self._stream.time_base  # when the first picture is shown
        self._packets_end = self._zero  # where the last packet of any stream ends
        self.matrix = None  # of the first picture; later ones need not say it again
        self._delay = 0  # s of packets that the decoder took before it gave its first picture
        self._keyframe = None  # when the picture is shown that decoding begins with

    def is_before_keyframe(self, t):
        """Whether a picture may refer to others before the keyframe that decoding began with."""
        return self._keyframe is not None and t + self._zero < self._keyframe - TIMESTAMP_TOLERANCE

    def frames_from(self, start, back):
        """(t, frame) from a keyframe at least `back` s before the start on; raises where the index leads elsewhere."""
        seeks, frames, first = start > back, self._decode(), None
        with contextlib.suppress(*[av.error.InvalidDataError] * seeks):
            first = next(frames, None)
        if first:
            self._begin_at(*first)
        if seeks:
            frames.close()
            self._require_one_clock()
            ticks = (self._zero + start - back) / self._stream.time_base
            self._container.seek(min(int(ticks), 1 << 60), stream=self._stream)
            first = next(frames := self._decode(can_begin=False), None)
            # An index by decoding time can land on a keyframe that is shown after the start.
            if first is None or first[0] - self._zero > start + TIMESTAMP_TOLERANCE:
                raise VideoError(f"has an index that does not lead to {float(start):g} s")
        return ((time - self._zero, frame) for time, frame in itertools.chain([first] if first else [], frames))

    def _begin_at(self, time, frame):
        """Have the file begin with its first picture, which need not be in its first packet."""
        # Without pts it is told when a picture was decoded: by so much the pictures' clock is late.
        delay = self._delay if frame.pts is None else 0
        self._first = min(self._first + delay, time)
        sounds = [stream.start_time * stream.time_base + delay for stream in self._container.streams.audio
                  if stream.start_time is not None]
        self._zero = min([time, *(begin for begin in sounds if begin < time - Fraction(1, 1000))])  # not for rounding

    def _require_one_clock(self):
        """Raise VideoError if a time means more than one place in this file, any of which its index could lead to."""
        if self._clock_can_restart:
            for _ in self._packets():
                pass
            self._clock_can_restart = False  # from here on; behind a jump some demuxers' first times are odd

    def _packets(self):
        """All packets, from where the file is read. Raises VideoError where another clock begins."""
        last = None
        for packet in self._container.demux():
            if packet.stream is self._stream and packet.dts is not None:
                gap = 0 if last is None else (packet.dts - last) * packet.time_base
                last = packet.dts
                if self._clock_can_restart and not 0 <= gap <= LONGEST_GAP:
                    raise VideoError("is of several recordings, whose times begin anew; join them: "
                                     "ffmpeg -i FILE -c copy clip.mkv", retry=False)
            yield packet

    def _decode(self, can_begin=True):
        """(time, frame) from where the file is read, or from its next keyframe."""
        self._keyframe, awaited, last, step = None, set(), None, None
        excused = 0  # of how many H.264 pictures to come errors may pass; other decoders report none that is harmless
        for packet in self._packets():
            ticks = packet.dts if packet.pts is None else packet.pts
            time = None if ticks is None else ticks * packet.time_base
            if time is not None:
                self._packets_end = max(self._packets_end, time + (packet.duration or 0) * packet.time_base)
            if packet.stream is not self._stream or not (can_begin := can_begin or packet.is_keyframe):
                continue
            if packet.has_sidedata("encryption_info") or "enc_key_id" in self._stream.metadata:  # as Matroska says it
                raise VideoError("is encrypted; give a file without copy protection", retry=False)
            excused -= 1
            if self._keyframe is None:
                self._keyframe = time
                excused = REFERENCES * (packet.is_keyframe and self._stream.codec_context.name == "h264")
            try:
                frames = packet.decode()
            except av.error.InvalidDataError:
                # Pictures shown before the keyframe refer to others before it, and are left out. Those behind it may
                # only ask that such ones be forgotten, which harms none: each must come all the same.
                if time is None or (time >= self._keyframe and (excused <= 0 or packet.pts is None)):
                    raise
                if time >= self._keyframe and not packet.is_discard:  # by an mp4's edit list
                    awaited.add(time)
                continue
            if last is None and not frames:
                self._delay += 1 / (self._stream.guessed_rate or 25)
            for frame in frames:
                self.matrix = self.matrix or _display_matrix(frame)
                # Where the container holds no pts the dts tells, as FFmpeg does it, and in the end there is none.
                ticks = frame.dts if frame.pts is None else frame.pts
                if ticks is not None:
                    time = ticks * frame.time_base
                elif last is not None:
                    time = last + step
                elif self._keyframe is not None:
                    time = self._keyframe + self._delay
                else:
                    raise VideoError("is in no container, so that nothing tells when its frames are shown; put it into "
                                     "one: ffmpeg -i FILE -c copy clip.avi", retry=False)
                if last is not None and time < last:
                    raise VideoError(f"has frames whose times run backwards, at {float(last - self._zero):.3f} s")
                if awaited and time > min(awaited):
                    raise _damaged_at(min(awaited) - self._zero)
                awaited.discard(time)
                step = frame.duration * frame.time_base if last is None else time - last
                last = time
                yield time, frame
        if awaited:
            raise _damaged_at(min(awaited) - self._zero)

    def require_whole(self, last_end):
        """Raise VideoError if the file, read to its end, ended too early."""
        size, declared_size = os.stat(self._container.name).st_size, _declared_size(self._container.name)
        if size < declared_size:
            raise VideoError(f"is cut short: has {size} bytes of {declared_size}")
        if self._stream.duration:
            found, duration = last_end, self._stream.duration * self._stream.time_base
            expected = self._first + duration - self._zero
            if self._container.format.name.startswith("mov"):  # fragments may count from their clock's 0
                expected = min(expected, duration - self._zero)
        else:  # Matroska counts from 0, wherever its clock starts
            found = max(self._packets_end - self._zero, last_end)
            expected = Fraction(self._container.duration or 0, 1_000_000) - max(self._zero, 0)
        if found < expected - CUT_SHORT_SLACK:
            raise VideoError(f"stops at {float(found):.3f} s of {float(expected):.3f} s")


def _declared_size(path):
    """How many bytes a file should have by its own account; 0 if it gives none.

    Sources: ISO/IEC 14496-12, section 4.2; RFC 8794, section 4 and RFC 9559, section 4.5.
    """
    with open(path, "rb") as file:
        head = file.read(1024)  # in which Matroska's segment begins
        if head.startswith(b"RIFF"):  # AVI; where a file has more than one such chunk, the first is a part
            return 8 + int.from_bytes(head[4:8], "little")
        if (place := head.find(bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365"))) > 0:  # WMV's file properties
            return int.from_bytes(head[place + 40:place + 48], "little")
        if head.startswith(b"\x1a\x45\xdf\xa3"):  # Matroska: its one segment's size, in 1 to 8 bytes behind the name
            before, name, rest = head.partition(b"\x18\x53\x80\x67")
            length = 9 - int.from_bytes(rest[:1], "big").bit_length()
            unknown = (1 << 7 * length) - 1  # all ones
            size = int.from_bytes(rest[:length], "big") & unknown
            return len(before + name) + length + size if rest and size != unknown else 0
        end, file_size = 0, os.fstat(file.fileno()).st_size
        while end < file_size:  # from box to box of an mp4; text may follow the last
            file.seek(end)
            box = file.read(16)
            size = int.from_bytes(box[:4], "big")
            if size == 1:  # it follows the box's name, in 64 bits
                size = int.from_bytes(box[8:16], "big")
            if size < 8 or box[4:8] not in BOXES:  # 0: to the file's end
                break
            end += size
        return end


def _display_matrix(frame):
    """(a, b, c, d) of a frame: a pixel (x, y) is shown at x' = a x + c y, y' = b x + d y.

    Source: FFmpeg, libavutil/display.h. To be called once a file: a frame whose side data were looked at stays there
    until Python looks for cycles.
    """
    for data in frame.side_data:
        if data.type.name == "DISPLAYMATRIX":
            return np.frombuffer(bytes(data), np.int32)[[0, 1, 3, 4]].tolist()
    return 1, 0, 0, 1


def _upright(frame, matrix):
    """(H, W, 3) uint8 RGB, turned and mirrored as the display matrix asks, to the nearest quarter turn."""
    try:
        image = frame.reformat(format="rgb24", interpolation="BICUBIC", threads=1).to_ndarray()
    except av.error.FFmpegError as error:
        if frame.colorspace not in MATRICES:
            raise
        raise VideoError(f"has colours by the matrix {MATRICES[frame.colorspace]}, which FFmpeg does not convert "
                         f"({error.strerror}); encode it anew as BT.709", retry=False) from None
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

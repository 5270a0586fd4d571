"""Draws test videos whose frames carry their own number, and reads that number back after lossy coding and resizing."""

import itertools
import os
import struct
from fractions import Fraction

import av
import numpy as np

os.environ.setdefault("SVT_LOG", "1")  # the AV1 encoder prints its settings to stderr otherwise

COLUMNS, ROWS = 4, 4  # cells of a frame: the corners tell which side is up, the other twelve are the number's bits
CORNERS = {(0, 0): 1, (0, COLUMNS - 1): 0, (ROWS - 1, 0): 0, (ROWS - 1, COLUMNS - 1): 0}
BITS = [(row, column) for row in range(ROWS) for column in range(COLUMNS) if (row, column) not in CORNERS]

# Encoder settings by codec: as fast as it goes, a keyframe where the group of pictures ends and nowhere else.
OPTIONS = {
    "libx264": lambda gop, b_frames: {"preset": "veryfast", "x264-params":
                                      f"keyint={gop}:min-keyint={gop}:scenecut=0:bframes={b_frames}:b-adapt=0"},
    "libx265": lambda gop, b_frames: {"preset": "ultrafast", "x265-params":
                                      f"keyint={gop}:min-keyint={gop}:scenecut=0:bframes={b_frames}:b-adapt=0:"
                                      "log-level=none"},
    "libvpx-vp9": lambda gop, b_frames: {"g": str(gop), "deadline": "realtime", "cpu-used": "8", "b": "300k"},
    "mpeg4": lambda gop, b_frames: {"g": str(gop), "bf": str(b_frames), "sc_threshold": "1000000000", "b": "400k"},
    "wmv2": lambda gop, b_frames: {"g": str(gop), "b": "400k"},
    "libsvtav1": lambda gop, b_frames: {"g": str(gop), "preset": "6"},  # faster ones leave frames out
}


def draw_number(number, size=(128, 96)):
    """A frame (H, W, 3) uint8 that carries a number from 0 to 4095 as black and white cells; size is (W, H)."""
    cells = np.zeros((ROWS, COLUMNS), np.uint8)
    for cell, value in CORNERS.items():
        cells[cell] = value
    for bit, cell in enumerate(BITS):
        cells[cell] = number >> bit & 1
    width, height = size
    rows = np.arange(height) * ROWS // height
    columns = np.arange(width) * COLUMNS // width
    return np.repeat((16 + 224 * cells[rows][:, columns])[:, :, None], 3, axis=2)


def read_number(image):
    """The number that a decoded frame (H, W, 3) carries. Raises ValueError if the frame is not upright or not clear."""
    height, width = image.shape[:2]
    brightness = {}
    for row in range(ROWS):
        for column in range(COLUMNS):
            top, left = (row + 0.3) * height / ROWS, (column + 0.3) * width / COLUMNS
            bottom, right = (row + 0.7) * height / ROWS, (column + 0.7) * width / COLUMNS
            brightness[row, column] = image[int(top):int(bottom), int(left):int(right)].mean()
    unclear = [cell for cell, value in brightness.items() if 96 < value < 160]
    if unclear:
        raise ValueError(f"cells {unclear} are neither black nor white")
    bright = {cell: int(value > 128) for cell, value in brightness.items()}
    if any(bright[cell] != value for cell, value in CORNERS.items()):
        raise ValueError("the corners are not those of an upright frame")
    return sum(bright[cell] << bit for bit, cell in enumerate(BITS))


def numbers_of(images):
    """The numbers of many frames."""
    return [read_number(image) for image in images]


def write_video(path, frames=24, codec="libx264", pixel_format="yuv420p", fps=24, timestamps=None, size=(128, 96),
                gop=12, b_frames=2, first=0, options=None, container_options=None, sound=None, turned=0):
    """Write a video of numbered frames; the suffix of `path` says the container. Returns the frames' seconds.

    frames        how many, numbered from `first`       timestamps  their seconds where the rate is not constant
    gop           frames from one keyframe to the next  b_frames    between two others (H.264 and HEVC)
    sound         (start, end) in seconds of a tone beside the pictures
    turned        store the pictures turned by so many degrees counter-clockwise
    """
    times = [Fraction(i) / fps for i in range(frames)] if timestamps is None else [Fraction(str(t)) for t in timestamps]
    images = (np.ascontiguousarray(np.rot90(draw_number(first + i, size), turned // 90)) for i in range(len(times)))
    write_images(path, images, times, codec, pixel_format, fps, OPTIONS[codec](gop, b_frames) | (options or {}),
                 container_options, sound)
    return [float(t) for t in times]


def write_images(path, images, times, codec="libx264", pixel_format="yuv420p", fps=24, options=None,
                 container_options=None, sound=None, tags=None):
    """Write images (H, W, 3) uint8 RGB, or VideoFrames ready for the encoder, shown at `times` (Fractions in seconds).

    tags  attributes of the codec context, such as colorspace
    """
    steps = [later - earlier for earlier, later in itertools.pairwise(times)]
    steps.append(steps[-1] if steps else Fraction(1) / fps)  # how long each is shown
    constant = all(time * fps == i for i, time in enumerate(times))
    time_base = Fraction(1) / fps if constant else Fraction(1, 90_000)
    with av.open(str(path), "w", options=container_options or {}) as container:
        stream = container.add_stream(codec, rate=fps, options=options or {})
        stream.pix_fmt = pixel_format
        stream.codec_context.time_base = time_base
        for name, value in (tags or {}).items():
            setattr(stream.codec_context, name, value)
        voice = None if sound is None else container.add_stream("libopus" if str(path).endswith("webm") else "aac",
                                                                rate=48_000)
        packets = []
        for image, time, step in zip(images, times, steps, strict=True):
            frame = image if isinstance(image, av.VideoFrame) else av.VideoFrame.from_ndarray(image, format="rgb24")
            if not stream.codec_context.is_open:
                stream.width, stream.height = frame.width, frame.height
            frame.pts, frame.time_base, frame.duration = round(time / time_base), time_base, round(step / time_base)
            packets += stream.encode(frame)
        packets += stream.encode()
        if voice is not None:
            packets += _tone(voice, *sound)
        for packet in sorted(packets, key=lambda packet: packet.dts * packet.time_base):
            container.mux(packet)


def write_sound(path, seconds=1):
    """Write a file with a tone and no pictures."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=48_000)
        for packet in _tone(stream, 0, seconds):
            container.mux(packet)


def _tone(stream, start, end):
    samples = np.sin(np.arange(round(start * 48_000), round(end * 48_000)) * (2 * np.pi * 440 / 48_000))
    packets = []
    for first in range(0, len(samples) - 959, 960):
        frame = av.AudioFrame.from_ndarray(samples[None, first:first + 960].astype(np.float32), format="fltp",
                                           layout="mono")
        frame.sample_rate, frame.time_base = 48_000, Fraction(1, 48_000)
        frame.pts = round(start * 48_000) + first
        packets += stream.encode(frame)
    return packets + stream.encode()


def set_display_matrix(path, a, b, c, d):
    """Have an mp4's pictures shown transformed: x' = a x + c y, y' = b x + d y, with y pointing down."""
    content = bytearray(path.read_bytes())
    at = content.index(b"tkhd") + 4
    at += 40 if content[at] == 0 else 52  # the times before the matrix are twice as wide in version 1
    fixed = [value << 16 for value in (a, b, 0, c, d, 0, 0, 0)]
    struct.pack_into(">9i", content, at, *fixed, 1 << 30)
    path.write_bytes(content)


def set_rotation(path, degrees):
    """Have an mp4's pictures shown turned by 90, 180 or 270 degrees clockwise."""
    set_display_matrix(path, *{90: (0, 1, -1, 0), 180: (-1, 0, 0, -1), 270: (0, -1, 1, 0)}[degrees])


def encrypt_webm(path):
    """Have a WebM's pictures be encrypted, as its header says and as they look.

    Source: RFC 9559, section 5.1.4.1.31: ContentEncodings, which is put into the entry of the one track.
    """
    encodings = _element(0x6D80, _element(0x6240, _element(0x5033, b"\1") + _element(
        0x5035, _element(0x47E1, b"\5") + _element(0x47E2, bytes(range(16))))))
    rng = np.random.default_rng(0)

    def changed(parts):
        content = b""
        for name, part in parts:
            if name in (0x18538067, 0x1654AE6B, 0x1F43B675):  # Segment, Tracks, Cluster
                part = changed(_elements(part))
            elif name == 0xAE:  # TrackEntry
                part += encodings
            elif name == 0xA3:  # SimpleBlock, whose first four bytes are the track and the time
                part = part[:4] + b"\1" + rng.bytes(len(part) + 4)
            if name not in (0x114D9B74, 0x1C53BB6B):  # SeekHead, Cues: the places are others now
                content += _element(name, part)
        return content

    path.write_bytes(changed(_elements(path.read_bytes())))


def _elements(content):
    """(name, content) of the EBML elements of a content."""
    at = 0
    while at < len(content):
        length = 9 - content[at].bit_length()
        name, at = int.from_bytes(content[at:at + length], "big"), at + length
        length = 9 - content[at].bit_length()
        size, at = int.from_bytes(content[at:at + length], "big") & ((1 << 7 * length) - 1), at + length
        yield name, content[at:at + size]
        at += size


def _element(name, content):
    return name.to_bytes((name.bit_length() + 7) // 8, "big") + (1 << 56 | len(content)).to_bytes(8, "big") + content


def keyframe_times(path):
    """Seconds of the keyframes of a video, in the order they are shown."""
    with av.open(str(path)) as container:
        return sorted(float(packet.pts * packet.time_base) for packet in container.demux(video=0)
                      if packet.is_keyframe and packet.pts is not None)


def has_b_frames(path):
    """Whether frames are stored in another order than they are shown."""
    with av.open(str(path)) as container:
        shown = [packet.pts for packet in container.demux(video=0) if packet.pts is not None]
    return shown != sorted(shown)

"""actalign/video.py: which frames come out of a file, how they look, and which files are refused."""

import contextlib
import io
import os
import random
import re
import shutil
import subprocess
from fractions import Fraction

import av
import cv2
import numpy as np
import pytest
from drawn_videos import (
    OPTIONS,
    draw_number,
    encrypt_webm,
    has_b_frames,
    keyframe_times,
    numbers_of,
    read_number,
    set_display_matrix,
    set_rotation,
    write_images,
    write_sound,
    write_video,
)

from actalign import video
from actalign.video import VideoError, read_frames, resize, video_seconds

TICK = 0.0006  # s; Matroska rounds timestamps to a millisecond

# As far apart as 0.01 s and 0.9 s: the frame number says nothing about the time.
UNEVEN = [0, 0.05, 0.1, 0.2, 0.5, 0.51, 0.52, 0.8, 1.4, 1.5, 1.6, 2.4, 2.45, 2.5, 2.9, 3.0]

OPEN_GOP = {
    "libx264": {"x264-params": "keyint=30:min-keyint=30:scenecut=0:bframes=3:b-adapt=0:open-gop=1:b-pyramid=normal"},
    "libx265": {"x265-params": "keyint=30:min-keyint=30:scenecut=0:bframes=3:b-adapt=0:open-gop=1:log-level=none"},
}

CUTTABLE = {  # name of the file: how it is written
    "faststart.mp4": {"container_options": {"movflags": "faststart"}},
    "plain.mp4": {},
    "fragmented.mp4": {"container_options": {"movflags": "frag_keyframe+empty_moov+default_base_moof"}},
    "h264.mkv": {},
    "vp9.webm": {"codec": "libvpx-vp9"},
    "mpeg4.avi": {"codec": "mpeg4", "b_frames": 0},
    "wmv2.wmv": {"codec": "wmv2"},
}


def read(path, *segment, **options):
    """(seconds, numbers) of a segment's frames."""
    frames = list(read_frames(path, *segment, **options))
    return [t for t, _ in frames], numbers_of(image for _, image in frames)


def reason(path, *segment, **options):
    """Why a file is refused; fails if it is not, or if the reason is more than a line."""
    with pytest.raises(VideoError) as caught:
        list(read_frames(path, *segment, **options))
    text = str(caught.value)
    assert text
    assert "\n" not in text
    return text


# Which frames


@pytest.mark.parametrize(("name", "codec", "pixel_format"), [
    ("h264.mp4", "libx264", "yuv420p"),
    ("h264_10_bit.mp4", "libx264", "yuv420p10le"),
    ("h264.mkv", "libx264", "yuv420p"),
    ("h264.mov", "libx264", "yuv420p"),
    ("hevc.mp4", "libx265", "yuv420p"),
    ("hevc_10_bit.mkv", "libx265", "yuv420p10le"),
    ("vp9.webm", "libvpx-vp9", "yuv420p"),
    ("vp9.mp4", "libvpx-vp9", "yuv420p"),
    ("av1.mp4", "libsvtav1", "yuv420p"),
    ("av1_10_bit.mkv", "libsvtav1", "yuv420p10le"),
    ("av1.webm", "libsvtav1", "yuv420p"),
])
def test_every_frame_comes_once_in_order_with_its_time(tmp_path, name, codec, pixel_format):
    times = write_video(tmp_path / name, 40, codec, pixel_format)
    found_times, numbers = read(tmp_path / name)
    assert numbers == list(range(40))
    assert found_times == pytest.approx(times, abs=TICK)


def test_frames_are_rgb_bytes_of_the_stored_size(tmp_path):
    write_video(tmp_path / "a.mp4", 2, size=(130, 98))
    for _, image in read_frames(tmp_path / "a.mp4"):
        assert image.dtype == np.uint8
        assert image.shape == (98, 130, 3)


@pytest.mark.parametrize(("frames", "fps"), [(1, 24), (2, 24), (5, 1), (3, Fraction(1, 5)),
                                             (60, Fraction(60_000, 1001))])
@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_few_slow_and_fractional_rates_are_whole(tmp_path, name, frames, fps):
    times = write_video(tmp_path / name, frames, fps=fps)
    found_times, numbers = read(tmp_path / name)
    assert numbers == list(range(frames))
    assert found_times == pytest.approx(times, abs=TICK)


@pytest.mark.parametrize(("name", "codec"), [("uneven.mp4", "libx264"), ("uneven.mkv", "libx264"),
                                             ("uneven.webm", "libvpx-vp9"), ("uneven_hevc.mp4", "libx265")])
def test_segments_of_uneven_files_are_cut_by_timestamp(tmp_path, name, codec):
    path = tmp_path / name
    write_video(path, codec=codec, timestamps=UNEVEN, gop=5)
    found_times, numbers = read(path)
    assert numbers == list(range(len(UNEVEN)))
    assert found_times == pytest.approx(UNEVEN, abs=TICK)
    for start, end in [(0, 0.5), (0.1, 0.52), (0.505, 1.5), (1.4, 2.4), (0.21, 2.45), (2.4, 3.0), (0, 3.05),
                       (1.39, 1.41)]:
        expected = [i for i, t in enumerate(UNEVEN) if start <= t < end]
        assert read(path, start, end)[1] == expected, (start, end)


def test_a_segment_holds_its_start_and_not_its_end(tmp_path):
    path = tmp_path / "a.mp4"
    write_video(path, 48, fps=24)
    assert read(path, 0.5, 1)[1] == list(range(12, 24))
    assert read(path, 0.501, 1.001)[1] == list(range(13, 25))


def test_an_open_start_or_end_is_the_files_own(tmp_path):
    path = tmp_path / "a.mp4"
    write_video(path, 48, fps=24)
    assert read(path, None, 1)[1] == list(range(24))
    assert read(path, 1, None)[1] == list(range(24, 48))
    assert read(path, 0, 2)[1] == list(range(48))


@pytest.mark.parametrize(("name", "codec", "options"), [
    ("h264.mp4", "libx264", None),
    ("h264.mkv", "libx264", None),
    ("h264_open_gop.mp4", "libx264", OPEN_GOP["libx264"]),
    ("hevc.mp4", "libx265", None),
    ("hevc_open_gop.mp4", "libx265", OPEN_GOP["libx265"]),
    ("hevc_open_gop.mkv", "libx265", OPEN_GOP["libx265"]),
    ("vp9.webm", "libvpx-vp9", {"deadline": "good", "cpu-used": "5", "auto-alt-ref": "1", "lag-in-frames": "20"}),
    ("av1.mkv", "libsvtav1", None),
    ("mpeg4.mp4", "mpeg4", None),
    ("h264.ts", "libx264", None),
    ("h264_open_gop.ts", "libx264", OPEN_GOP["libx264"]),
    ("hevc_open_gop.ts", "libx265", OPEN_GOP["libx265"]),
    ("fragmented.mp4", "libx264", None),
])
def test_a_segment_has_the_frames_of_a_full_decode_wherever_it_starts(tmp_path, name, codec, options):
    path = tmp_path / name
    write_video(path, 90, codec, gop=30, b_frames=3, options=options,
                container_options=CUTTABLE.get(name, {}).get("container_options"))
    whole = list(read_frames(path))
    keyframes = [t - keyframe_times(path)[0] for t in keyframe_times(path)]
    assert 3 <= len(keyframes) <= 4
    assert has_b_frames(path) == (codec in ("libx264", "libx265", "mpeg4"))
    around_keyframes = [t + shift for t in keyframes for shift in (-0.05, -0.001, 0, 0.001, 0.05)]
    starts = [t for t in (*around_keyframes, *(t for t, _ in whole[1:84:7])) if 0 <= t < 3.5]
    for start in starts:
        expected = [(t, image) for t, image in whole if start - 1e-4 <= t < start + 0.2 - 1e-4]
        found = list(read_frames(path, start, start + 0.2))
        assert [t for t, _ in found] == [t for t, _ in expected], start
        assert all(np.array_equal(a, b) for (_, a), (_, b) in zip(found, expected, strict=True)), start


def test_a_segment_far_from_the_only_keyframe_is_exact(tmp_path):
    path = tmp_path / "a.mp4"
    write_video(path, 300, gop=300, b_frames=3)
    assert keyframe_times(path) == [0]
    assert read(path, 10.5, 11)[1] == list(range(252, 264))


@pytest.fixture
def demuxed(monkeypatch):
    """The pts of all packets that are read in a test."""
    decoded = []
    to_packets = av.container.InputContainer.demux

    def demux(container, *streams, **options):
        for packet in to_packets(container, *streams, **options):
            decoded.append(packet.pts)
            yield packet

    class Counting:
        def __init__(self, container):
            self._container = container

        def __getattr__(self, name):
            return getattr(self._container, name)

        def demux(self, *streams, **options):
            return demux(self._container, *streams, **options)

    opened = av.open
    monkeypatch.setattr(av, "open", lambda *args, **options:
                        opened(*args, **options) if "w" in args else Counting(opened(*args, **options)))
    return decoded


def test_a_segment_far_into_a_file_is_not_decoded_from_the_beginning(tmp_path, demuxed):
    path = tmp_path / "a.mp4"
    write_video(path, 480, gop=24)
    assert read(path, 15, 16)[1] == list(range(360, 384))
    assert 24 <= len(demuxed) < 120


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_a_segment_at_minute_fifteen_of_an_open_gop_file_is_decoded_from_near_it(tmp_path, demuxed, name):
    path = tmp_path / name
    write_video(path, 1900, fps=2, b_frames=3, options=OPEN_GOP["libx264"])
    assert read(path, 900, 910)[1] == list(range(1800, 1820))
    assert 20 <= len(demuxed) < 60


@pytest.fixture
def backs(monkeypatch):
    """How far before the wanted start decoding was tried from, in seconds, at every try of a test."""
    tried, frames_from = [], video._Decoding.frames_from
    monkeypatch.setattr(video._Decoding, "frames_from", lambda decoding, start, back: (
        tried.append(back), frames_from(decoding, start, back))[1])
    return tried


@pytest.mark.parametrize("codec", ["libx264", "libx265"])
def test_a_segment_that_an_index_leads_to_the_middle_of_a_group_of_pictures_of_begins_at_a_keyframe(tmp_path, backs,
                                                                                                   codec):
    path = tmp_path / "a.ts"  # has no index: a place by its bytes
    write_video(path, 480, codec, fps=24, b_frames=3, options=OPEN_GOP[codec])
    for start in (6, 8.1, 15.4):
        assert read(path, start, start + 0.5)[1] == [i for i in range(480) if start <= i / 24 < start + 0.5]
    assert max(backs) <= 2


class Seeking:
    """A container that seeks as told."""

    def __init__(self, container, seek):
        self._container, self.seek = container, seek

    def __getattr__(self, name):
        return getattr(self._container, name)


def test_a_file_that_cannot_be_sought_in_is_decoded_from_its_beginning(tmp_path, monkeypatch, backs):
    def refuse(*_, **__):
        raise av.error.PermissionError(1, "Operation not permitted")

    write_video(tmp_path / "a.mp4", 480)
    opened = video._open
    monkeypatch.setattr(video, "_open", lambda path: Seeking(opened(path), refuse))
    assert read(tmp_path / "a.mp4", 15, 15.5)[1] == list(range(360, 372))
    assert backs == list(video.SEEK_BACK)


@pytest.mark.parametrize("start", [1e18, 1e300])
def test_a_start_behind_all_time_is_refused_in_a_line(tmp_path, start):
    write_video(tmp_path / "a.mp4", 48)
    assert "no frame in this segment" in reason(tmp_path / "a.mp4", start, None)
    assert "ends at" in reason(tmp_path / "a.mp4", start, start * 2)


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.webm"])
def test_time_counts_from_the_files_beginning_wherever_its_clock_starts(tmp_path, name):
    path = tmp_path / name
    codec = "libvpx-vp9" if name.endswith("webm") else "libx264"
    write_video(path, codec=codec, timestamps=[5 + Fraction(i, 24) for i in range(48)])
    found_times, numbers = read(path)
    assert numbers == list(range(48))
    assert found_times == pytest.approx([i / 24 for i in range(48)], abs=TICK)
    assert read(path, 0.99, 1.2)[1] == [24, 25, 26, 27, 28]


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.webm"])
def test_pictures_that_begin_after_the_sound_keep_their_delay(tmp_path, name):
    path = tmp_path / name
    codec = "libvpx-vp9" if name.endswith("webm") else "libx264"
    write_video(path, codec=codec, timestamps=[0.5 + Fraction(i, 24) for i in range(48)], sound=(0, 3))
    found_times, numbers = read(path)
    assert numbers == list(range(48))
    assert found_times == pytest.approx([0.5 + i / 24 for i in range(48)], abs=0.01)
    assert read(path, 0.98, 1.2)[1] == [12, 13, 14, 15, 16]


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
@pytest.mark.parametrize("sound", [(0, 6), (1, 1.5)])
def test_sound_may_be_longer_or_shorter_than_the_pictures(tmp_path, name, sound):
    write_video(tmp_path / name, 48, sound=sound)
    assert read(tmp_path / name)[1] == list(range(48))


def test_a_last_frame_that_is_held_for_seconds_belongs_to_the_clip(tmp_path):
    for name in ("a.mp4", "a.mkv"):
        times = [0, 0.1, 0.2, 0.3, 3]
        write_video(tmp_path / name, timestamps=times)
        assert read(tmp_path / name)[0] == pytest.approx(times, abs=TICK)


def write_open_gop_cut(path, gop=30, skipped=0):
    """Write an open-GOP file of 90 frames without its first group of pictures, as a cut without re-encoding leaves it.

    The pictures behind its first keyframe ask the decoder to forget others that are not there. So many frames are kept
    in front of the file's 0 s, for decoding alone.
    """
    whole = path.with_name("whole.mp4")
    write_video(whole, 90, gop=gop, b_frames=3, options=OPEN_GOP["libx264"])
    with av.open(str(whole)) as source, av.open(str(path), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        packets = [packet for packet in source.demux(video=0) if packet.size]
        first = next(number for number, packet in enumerate(packets) if number and packet.is_keyframe)
        start = packets[first].pts
        for packet in packets[first:]:
            if packet.pts >= start:  # those before it refer to what was cut off
                shift = start + round(skipped / 24 / packet.time_base) if skipped else 0
                packet.stream, packet.pts, packet.dts = stream, packet.pts - shift, packet.dts - shift
                target.mux(packet)


@pytest.mark.parametrize("name", ["a.mkv", "a.mp4"])
def test_a_file_cut_in_front_of_an_open_gop_keeps_every_frame(tmp_path, name):
    write_open_gop_cut(tmp_path / name)
    found_times, numbers = read(tmp_path / name)
    assert numbers == list(range(30, 90))
    assert found_times == pytest.approx([i / 24 for i in range(60)], abs=2 * TICK)


def test_frames_that_an_edit_list_hides_behind_a_cut_are_decoded_and_not_waited_for(tmp_path):
    write_open_gop_cut(tmp_path / "a.mp4", skipped=8)
    found_times, numbers = read(tmp_path / "a.mp4")
    assert numbers == list(range(38, 90))
    assert found_times == pytest.approx([i / 24 for i in range(52)], abs=2 * TICK)


def test_damage_among_the_first_pictures_is_refused_although_errors_may_pass_there(tmp_path):
    path = tmp_path / "a.mp4"
    write_video(path, 48, gop=48, b_frames=3, size=(320, 240))
    expected, content = list(read_frames(path)), path.read_bytes()
    with av.open(str(path)) as container:
        packets = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    rng, refused = random.Random(0), 0
    for position, size in packets[:16]:
        at = position + rng.randrange(4, size - 8)
        path.write_bytes(content[:at] + rng.randbytes(8) + content[at + 8:])
        try:
            found = list(read_frames(path))
        except VideoError:
            refused += 1
            continue
        assert all(np.abs(a.astype(int) - b).mean() < 1 for (_, a), (_, b) in zip(found, expected, strict=True))
    assert refused >= 12


@pytest.mark.parametrize("b_frames", [0, 2])
@pytest.mark.parametrize("codec", ["libx264", "mpeg4"])
def test_an_avi_holds_no_times_of_showing_and_its_frames_come_at_their_rate(tmp_path, codec, b_frames):
    path = tmp_path / "a.avi"
    write_video(path, 60, codec, gop=12, b_frames=b_frames, size=(320, 240))
    found_times, numbers = read(path)
    assert numbers == list(range(60))
    assert found_times == pytest.approx([i / 24 for i in range(60)], abs=TICK)
    for start, end in [(0, 1), (0.5, 1.5), (1.26, 2.4)]:
        assert read(path, start, end)[1] == [i for i in range(60) if start <= i / 24 < end], (start, end)


@pytest.mark.parametrize("frames", [1, 2, 3, 4])
@pytest.mark.parametrize("codec", ["libx264", "mpeg4"])
def test_a_short_avi_has_all_its_frames_although_the_decoder_waits_for_more(tmp_path, codec, frames):
    write_video(tmp_path / "a.avi", frames, codec, b_frames=2)
    found_times, numbers = read(tmp_path / "a.avi")
    assert numbers == list(range(frames))
    assert found_times == pytest.approx([i / 24 for i in range(frames)], abs=TICK)


def test_pictures_of_an_avi_that_begin_after_the_sound_keep_their_delay(tmp_path):
    write_video(tmp_path / "a.avi", timestamps=[1 + Fraction(i, 24) for i in range(48)], b_frames=2, sound=(0, 3))
    found_times, numbers = read(tmp_path / "a.avi")
    assert numbers == list(range(48))
    assert found_times == pytest.approx([1 + i / 24 for i in range(48)], abs=0.1)  # by a clock of frames


def test_an_avi_that_was_written_into_a_pipe_is_refused_with_the_way_to_an_index(tmp_path):
    path = tmp_path / "a.avi"
    write_video(path, 48)
    content = path.read_bytes()
    path.write_bytes(content[:4] + b"\xff" * 4 + content[8:content.rindex(b"idx1")])
    for segment in [(), (1, 1.5)]:
        assert "ffmpeg -i FILE -c copy clip.avi" in reason(path, *segment)


def test_joined_transport_streams_are_refused_wherever_they_are_asked_for(tmp_path):
    for first in (0, 48):
        write_video(tmp_path / f"{first}.ts", 48, first=first)
    path = tmp_path / "a.ts"
    path.write_bytes((tmp_path / "0.ts").read_bytes() + (tmp_path / "48.ts").read_bytes())
    for segment in [(), (1, 1.5), (1, 3), (3, 3.5)]:
        assert "times begin anew" in reason(path, *segment)
    assert read(path, 0, 1)[1] == list(range(24))


@pytest.mark.parametrize("flags", ["cmaf+frag_keyframe+frag_discont", "frag_keyframe+delay_moov"])
def test_a_fragmented_file_that_starts_late_is_whole(tmp_path, flags):
    path = tmp_path / "a.mp4"
    write_video(path, timestamps=[4 + Fraction(i, 24) for i in range(96)], gop=24,
                container_options={"movflags": flags})
    found_times, numbers = read(path)
    assert numbers == list(range(96))
    assert found_times == pytest.approx([i / 24 for i in range(96)], abs=TICK)


@pytest.mark.parametrize("text", [b"<html>404 not found</html>", b"\0\0\1\0text text", b"\r\n"])
def test_text_behind_the_last_box_is_no_truncation(tmp_path, text):
    path = tmp_path / "a.mp4"
    write_video(path, 24)
    path.write_bytes(path.read_bytes() + text)
    assert read(path)[1] == list(range(24))


@pytest.mark.parametrize("name", ["dunk:1.mp4", "file:a.mp4", "http:a.mp4", "a%03d.mp4", "-i.mp4", "concat:a|b.mp4",
                                  "data:video", "pipe:0"])
def test_names_of_files_are_no_protocols(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    write_video(tmp_path / "a.mp4", 24)
    (tmp_path / "a.mp4").rename(tmp_path / name)
    assert read(name)[1] == list(range(24))
    assert video_seconds(name) == pytest.approx(1, abs=0.01)


def test_two_frames_of_one_time_are_two_frames(tmp_path):
    write_video(tmp_path / "a.mkv", timestamps=[0, 0.0001], b_frames=0)
    assert read(tmp_path / "a.mkv") == ([0, 0], [0, 1])


def test_frames_that_a_file_shows_in_another_order_than_it_says_are_refused(tmp_path):
    with av.open(str(tmp_path / "a.mkv"), "w") as container:
        stream = container.add_stream("mjpeg", rate=25)
        stream.width, stream.height, stream.pix_fmt = 128, 96, "yuvj420p"
        for number in range(10):
            [packet] = stream.encode(av.VideoFrame.from_ndarray(draw_number(number), format="rgb24"))
            packet.pts, packet.dts, packet.time_base = {4: 5, 5: 4}.get(number, number), number - 8, Fraction(1, 25)
            container.mux(packet)
    assert "times run backwards, at 0.200 s" in reason(tmp_path / "a.mkv")


# Frames a second


def first_frames_of_steps(times, start, end, fps):
    """What sampling means: of every moment start + n / fps, the first frame that is shown from then on."""
    inside = [i for i, t in enumerate(times) if t >= start - 1e-4 and (end is None or t < end - 1e-4)]
    moments = np.arange(start, times[-1] + 1, 1 / fps)
    return sorted({next((i for i in inside if times[i] >= moment - 1e-4), None) for moment in moments} - {None})


@pytest.mark.parametrize("fps", [1, 3, 8, 10, 12, 23.976, 24, 50])
@pytest.mark.parametrize("segment", [(0, None), (0.7, 2.9)])
def test_fps_keeps_the_first_frame_of_every_step_at_constant_rate(tmp_path, fps, segment):
    path = tmp_path / "a.mp4"
    times = write_video(path, 96, fps=24)
    assert read(path, *segment, fps=fps)[1] == first_frames_of_steps(times, *segment, fps)


@pytest.mark.parametrize("fps", [1, 2, 5, 10, 30])
@pytest.mark.parametrize("segment", [(0, None), (0.15, 2.45)])
def test_fps_goes_by_timestamp_at_uneven_rate(tmp_path, fps, segment):
    path = tmp_path / "a.mp4"
    write_video(path, timestamps=UNEVEN, gop=4)
    assert read(path, *segment, fps=fps)[1] == first_frames_of_steps(UNEVEN, *segment, fps)


def test_half_the_rate_is_every_second_frame(tmp_path):
    write_video(tmp_path / "a.mp4", 96, fps=24)
    assert read(tmp_path / "a.mp4", fps=12)[1] == list(range(0, 96, 2))


@pytest.mark.parametrize("fps", [240, 1e9])
def test_a_higher_rate_than_the_files_keeps_every_frame_once(tmp_path, fps):
    write_video(tmp_path / "a.mp4", 24, fps=24)
    assert read(tmp_path / "a.mp4", fps=fps)[1] == list(range(24))
    write_video(tmp_path / "late.mkv", timestamps=[0, 0.1, 1e6, 1e6 + 0.1])
    assert read(tmp_path / "late.mkv", fps=fps)[1] == [0, 1, 2, 3]


# How frames look


@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
@pytest.mark.parametrize("name", ["a.mp4", "a.mov"])
def test_frames_are_upright_whatever_way_the_camera_was_held(tmp_path, name, degrees):
    path = tmp_path / name
    write_video(path, 6, turned=degrees)
    if degrees:
        with pytest.raises(ValueError, match="upright"):  # so stored, the numbers cannot be read
            read(path)
        set_rotation(path, degrees)
    assert [image.shape for _, image in read_frames(path)] == [(96, 128, 3)] * 6
    assert read(path)[1] == list(range(6))
    assert read_number(cv2.VideoCapture(str(path)).read()[1]) == 0  # OpenCV turns it the same way


@pytest.mark.parametrize(("stored", "matrix"), [
    (lambda image: image[:, ::-1], (-1, 0, 0, 1)),
    (lambda image: image[::-1], (1, 0, 0, -1)),
    (lambda image: image.transpose(1, 0, 2), (0, 1, 1, 0)),
    (lambda image: image[::-1, ::-1].transpose(1, 0, 2), (0, -1, -1, 0)),
], ids=["left-right", "upside-down", "diagonal", "other-diagonal"])
def test_frames_are_upright_where_the_file_says_mirrored(tmp_path, stored, matrix):
    path = tmp_path / "a.mp4"
    images = [np.ascontiguousarray(stored(draw_number(i))) for i in range(4)]
    write_images(path, images, [Fraction(i, 24) for i in range(4)])
    set_display_matrix(path, *matrix)
    assert read(path)[1] == [0, 1, 2, 3]


@pytest.mark.parametrize(("orientation", "stored"), list(enumerate([
    lambda image: image, lambda image: image[:, ::-1], lambda image: image[::-1, ::-1], lambda image: image[::-1],
    lambda image: image.transpose(1, 0, 2), np.rot90, lambda image: image[::-1, ::-1].transpose(1, 0, 2),
    lambda image: np.rot90(image, -1)], start=1)))
def test_frames_are_upright_by_the_exif_of_motion_jpeg(tmp_path, orientation, stored):
    """The EXIF itself is side data of a kind that PyAV's list lacks."""
    from PIL import Image

    exif, jpeg, path = Image.Exif(), io.BytesIO(), tmp_path / "a.mov"
    exif[0x0112] = orientation
    image = Image.fromarray(np.ascontiguousarray(stored(draw_number(5))))
    image.save(jpeg, "JPEG", exif=exif.tobytes(), quality=95)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=24)
        stream.width, stream.height, stream.pix_fmt = *image.size, "yuvj420p"
        packet = av.Packet(jpeg.getvalue())
        packet.stream, packet.pts, packet.dts, packet.time_base = stream, 0, 0, Fraction(1, 24)
        container.mux(packet)
    assert read(path)[1] == [5]


@pytest.mark.parametrize(("how", "stored"), [
    ("flip=horizontal", lambda image: image[:, ::-1]), ("rotate=180", lambda image: image[::-1, ::-1])])
def test_frames_are_upright_where_the_first_picture_alone_says_how(tmp_path, how, stored):
    path = tmp_path / "a.mkv"
    images = [np.ascontiguousarray(stored(draw_number(i))) for i in range(48)]
    write_images(tmp_path / "plain.mkv", images, [Fraction(i, 24) for i in range(48)],
                 options=OPTIONS["libx264"](12, 0))
    with av.open(str(tmp_path / "plain.mkv")) as source, av.open(str(path), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        said = av.bitstream.BitStreamFilterContext(f"h264_metadata=display_orientation=insert:{how}",
                                                   source.streams.video[0])
        first, *rest = (packet for packet in source.demux(video=0) if packet.size)
        for packet in [*said.filter(first), *rest]:
            packet.stream = stream
            target.mux(packet)
    assert read(path)[1] == list(range(48))
    assert read(path, 1, 1.5)[1] == list(range(24, 36))


PATCHES = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [200, 150, 100],
                    [255, 255, 255], [20, 20, 20], [255, 255, 0], [128, 128, 128]], np.uint8)


def colour_frame(kr, kb, full_range):
    """A VideoFrame of PATCHES as a standard with these weights of red and blue stores them."""
    image = np.repeat(np.repeat(PATCHES.reshape(2, 4, 3), 32, 0), 32, 1)
    red, green, blue = np.moveaxis(image / 255, 2, 0)
    luma = kr * red + (1 - kr - kb) * green + kb * blue
    chroma = (blue - luma) / (2 - 2 * kb), (red - luma) / (2 - 2 * kr)
    black, luma_span, chroma_span = (0, 255, 255) if full_range else (16, 219, 224)
    frame = av.VideoFrame(128, 64, "yuv420p")
    planes = [black + luma_span * luma, *(128 + chroma_span * c[::2, ::2] for c in chroma)]
    for plane, values in zip(frame.planes, planes, strict=True):
        stored = np.zeros((plane.height, plane.line_size), np.uint8)
        stored[:, :plane.width] = values.round().clip(0, 255)
        plane.update(stored)
    return frame


@pytest.mark.parametrize("full_range", [False, True], ids=["tv-range", "full-range"])
@pytest.mark.parametrize(("name", "codec", "options"), [
    ("a.mp4", "libx264", {"crf": "1"}), ("a.mkv", "libx265", {"crf": "1", "x265-params": "log-level=none"}),
    ("a.webm", "libvpx-vp9", {"crf": "4", "b": "0"})])
@pytest.mark.parametrize(("standard", "kr", "kb"), [(6, 0.299, 0.114), (5, 0.299, 0.114), (1, 0.2126, 0.0722)],
                         ids=["BT.601-NTSC", "BT.601-PAL", "BT.709"])
def test_colours_are_those_of_the_standard_in_the_file(tmp_path, name, codec, options, standard, kr, kb, full_range):
    tags = {"colorspace": standard, "color_range": 2 if full_range else 1}
    frames = [colour_frame(kr, kb, full_range) for _ in range(3)]
    for frame in frames:
        frame.colorspace, frame.color_range = tags["colorspace"], tags["color_range"]
    write_images(tmp_path / name, frames, [Fraction(i, 24) for i in range(3)], codec, options=options, tags=tags)
    for _, image in read_frames(tmp_path / name):
        middles = image[16::32, 16::32].reshape(-1, 3).astype(int)
        assert np.abs(middles - PATCHES).max() <= 4


# Resizing


@pytest.mark.parametrize("shape", [(96, 128), (720, 1280), (31, 47), (48, 48), (384, 20)])
def test_resize_gives_the_pixels_of_siglips_image_processor(shape):
    from PIL import Image
    from transformers import SiglipImageProcessor

    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    for size in (48, 384):
        processor = SiglipImageProcessor(size={"height": size, "width": size}, do_rescale=False, do_normalize=False)
        expected = np.asarray(processor(Image.fromarray(image), return_tensors="np")["pixel_values"][0])
        resized = resize(image, size)
        assert resized.dtype == np.uint8
        assert resized.shape == (size, size, 3)
        # The processor uses Pillow here, which rounds its weights to more digits, most of all where a few columns of
        # pixels become many.
        difference = np.abs(resized.astype(int) - expected.transpose(1, 2, 0).astype(int))
        most, share = (4, 0.3) if min(shape) < 24 else (2, 0.01)
        assert difference.max() <= most
        assert (difference > 0).mean() < share


def test_resize_takes_turned_frames_and_leaves_its_input_alone():
    image = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    before = image.copy()
    turned = np.rot90(image)
    assert np.array_equal(resize(turned, 24), resize(np.ascontiguousarray(turned), 24))
    assert np.array_equal(image, before)


def test_numbers_can_be_read_after_resizing(tmp_path):
    write_video(tmp_path / "a.mp4", 10, first=4086)
    assert numbers_of(resize(image, 48) for _, image in read_frames(tmp_path / "a.mp4")) == list(range(4086, 4096))


# Refused


@pytest.fixture(scope="module", params=["silent", "with-sound"])
def whole_files(request, tmp_path_factory):
    """A folder with the files of CUTTABLE, four seconds each."""
    folder = tmp_path_factory.mktemp(request.param)
    for name, settings in CUTTABLE.items():
        write_video(folder / name, 96, sound=None if request.param == "silent" else (0, 4), **settings)
    return folder


@pytest.mark.parametrize("kept", [0.05, 0.3, 0.6, 0.9])
@pytest.mark.parametrize("name", CUTTABLE)
def test_a_file_that_was_cut_short_is_refused(whole_files, tmp_path, name, kept):
    assert len(read(whole_files / name)[1]) == 96
    content = (whole_files / name).read_bytes()
    (tmp_path / name).write_bytes(content[:int(len(content) * kept)])
    reason(tmp_path / name)


@pytest.mark.parametrize(("name", "codec"), [("a.flv", "libx264"), ("a.ivf", "libvpx-vp9")])
def test_a_file_that_tells_its_duration_and_not_its_size_is_refused_as_well(tmp_path, name, codec):
    path = tmp_path / name
    write_video(path, 96, codec=codec, sound=(0, 4) if name == "a.flv" else None)
    assert len(read(path)[1]) == 96
    path.write_bytes(path.read_bytes()[:path.stat().st_size * 6 // 10])
    assert re.fullmatch(r"stops at 2\.\d+ s of 4\.\d+ s", reason(path))


@pytest.mark.parametrize("lost", [1, 3, 5])
@pytest.mark.parametrize("name", CUTTABLE)
def test_a_file_that_lacks_only_its_last_frames_is_refused(tmp_path, name, lost):
    path = tmp_path / name
    write_video(path, 96, **CUTTABLE[name])
    with av.open(str(path)) as container:
        places = sorted(packet.pos for packet in container.demux(video=0) if packet.size)
    with path.open("r+b") as file:
        file.truncate(places[-lost] + 4)
    reason(path)


def test_damage_in_the_middle_of_an_h264_file_is_refused(tmp_path):
    path = tmp_path / "a.mp4"
    write_video(path, 96, size=(320, 240))
    content = path.read_bytes()
    pictures = content.index(b"mdat") + 1000
    rng = random.Random(0)
    for share in np.linspace(0, 0.9, 10):
        at = pictures + int((len(content) - pictures - 2500) * share)
        path.write_bytes(content[:at] + rng.randbytes(600) + content[at + 600:])
        reason(path)


@pytest.mark.parametrize(("codec", "options"), [
    ("libx264", {"preset": "medium", "x264-params": "keyint=96:scenecut=0:bframes=2:slices=4"}),
    ("libx265", {"preset": "medium", "x265-params": "keyint=96:scenecut=0:bframes=2:log-level=none"}),
    ("mpeg4", None),
])
def test_damage_before_a_segment_never_spoils_its_frames(tmp_path, codec, options):
    path = tmp_path / "a.mp4"
    write_video(path, 96, codec=codec, gop=96, b_frames=0, size=(320, 240), options=options)
    expected = [image for _, image in read_frames(path, 3, 4)]
    content = path.read_bytes()
    with av.open(str(path)) as container:
        packets = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    assert keyframe_times(path) == [0]  # so that every frame before the segment counts
    rng = random.Random(0)
    refused = 0
    for number in range(0, 66, 3):
        start, size = packets[number]
        at = start + rng.randrange(8, max(size - 16, 9))
        path.write_bytes(content[:at] + rng.randbytes(16) + content[at + 16:])
        with contextlib.suppress(VideoError):
            list(read_frames(path, 0, 4))
            continue  # the decoder does not see this one
        refused += 1
        with contextlib.suppress(VideoError):
            found = [image for _, image in read_frames(path, 3, 4)]
            assert len(found) == len(expected), number
            assert all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True)), number
    assert refused >= 5


def test_damage_never_makes_an_hevc_file_shorter(tmp_path):
    path = tmp_path / "a.mp4"
    write_video(path, 96, codec="libx265", size=(320, 240))
    content = path.read_bytes()
    pictures, moov = content.index(b"mdat") + 500, content.rindex(b"moov")
    rng = random.Random(0)
    for _ in range(40):
        at = rng.randrange(pictures, moov - 600)
        path.write_bytes(content[:at] + rng.randbytes(64) + content[at + 64:])
        try:
            frames = list(read_frames(path))
        except VideoError:
            continue
        assert len(frames) == 96


PLAYLISTS = {
    "concat": "ffconcat version 1.0\nfile secret.mp4\n",
    "hls": "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nsecret.mp4\n#EXT-X-ENDLIST\n",
    "live hls": "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nsecret.mp4\n",
    "dash": '<?xml version="1.0"?>\n<MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"><Period><AdaptationSet>'
            '<Representation id="1"><BaseURL>secret.mp4</BaseURL></Representation></AdaptationSet></Period></MPD>\n',
    "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n"
           "a=rtpmap:96 H264/90000\n",
}


@pytest.mark.parametrize("playlist", PLAYLISTS.values(), ids=PLAYLISTS)
def test_a_playlist_called_a_video_opens_no_other_file_or_address(tmp_path, playlist):
    write_video(tmp_path / "secret.mp4", 5)
    (tmp_path / "a.mp4").write_text(playlist)
    with pytest.raises(VideoError):
        list(read_frames(tmp_path / "a.mp4"))
    assert video_seconds(tmp_path / "a.mp4") == 0.0


def final_reason(path):
    """Why a file is refused, where no other try can help."""
    with pytest.raises(VideoError) as caught:
        list(read_frames(path))
    assert not caught.value.retry
    return reason(path)


@pytest.mark.parametrize(("name", "codec", "pixel_format"), [
    ("a.mp4", "libx264", "yuv420p"), ("a.webm", "libvpx-vp9", "yuv420p"), ("a.avi", "mjpeg", "yuvj420p"),
    ("a.mkv", "ffv1", "yuv420p"), ("a.mov", "png", "rgb24")])
def test_a_picture_beyond_the_limit_is_refused_before_it_is_decoded(tmp_path, monkeypatch, name, codec, pixel_format):
    write_images(tmp_path / name, [draw_number(i) for i in range(5)], [Fraction(i, 24) for i in range(5)], codec,
                 pixel_format)
    monkeypatch.setattr(video, "MOST_PIXELS", 128 * 96 - 1)
    assert "128x96 pixels, too large" in final_reason(tmp_path / name)
    monkeypatch.setattr(video, "MOST_PIXELS", 1 << 20)
    assert len(list(read_frames(tmp_path / name))) == 5


def test_an_encrypted_file_is_called_so(tmp_path):
    key = {"encryption_scheme": "cenc-aes-ctr", "encryption_key": "76a6c65c5ea762046bd749a2e632ccbb",
           "encryption_kid": "a7e61c373e219033c21091fa607bf3b8"}
    write_video(tmp_path / "a.mp4", 24, container_options=key)
    assert "encrypted" in final_reason(tmp_path / "a.mp4")
    write_video(tmp_path / "a.webm", 24, "libvpx-vp9")
    encrypt_webm(tmp_path / "a.webm")
    assert "encrypted" in final_reason(tmp_path / "a.webm")


@pytest.mark.parametrize(("name", "codec"), [("a.h264", "libx264"), ("a.hevc", "libx265")])
def test_pictures_in_no_container_are_refused_with_the_way_into_one(tmp_path, name, codec):
    write_video(tmp_path / name, 24, codec)
    assert "ffmpeg -i FILE -c copy clip.avi" in final_reason(tmp_path / name)


@pytest.mark.parametrize(("number", "name"), [(8, "YCgCo"), (10, "BT.2020 constant luminance"), (14, "ICtCp")])
def test_a_colour_matrix_that_cannot_be_converted_is_named(tmp_path, number, name):
    images = [draw_number(i) for i in range(3)]
    write_images(tmp_path / "a.mp4", images, [Fraction(i, 24) for i in range(3)], tags={"colorspace": number})
    assert f"matrix {name}" in final_reason(tmp_path / "a.mp4")


def test_what_is_a_folder_or_a_device_is_called_so_and_not_waited_for(tmp_path):
    (tmp_path / "clip").mkdir()
    os.mkfifo(tmp_path / "pipe.mp4")
    (tmp_path / "zero.mp4").symlink_to("/dev/zero")
    for name in ("clip", "pipe.mp4", "zero.mp4"):
        assert "is a folder or a device" in final_reason(tmp_path / name)


def test_what_pyav_raises_is_the_files_and_what_our_own_lines_raise_is_a_bug(tmp_path, monkeypatch):
    def fail(*_):
        raise ValueError("99 is not valid")

    write_video(tmp_path / "a.mp4", 5)
    monkeypatch.setattr(video, "_display_matrix", fail)
    assert "ValueError at test_video.py:" in reason(tmp_path / "a.mp4")
    monkeypatch.setattr(video, "_display_matrix", lambda frame: 5)
    with pytest.raises(TypeError):
        read(tmp_path / "a.mp4")


def test_names_in_a_container_need_not_be_text(tmp_path):
    write_video(tmp_path / "a.mkv", 5)
    raw = (tmp_path / "a.mkv").read_bytes()
    assert b"Lavf" in raw
    (tmp_path / "a.mkv").write_bytes(raw.replace(b"Lavf", b"La\xffF"))
    assert len(list(read_frames(tmp_path / "a.mkv"))) == 5


def test_what_is_no_video_is_refused_in_a_line(tmp_path):
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("<html>not found</html>\n" * 100)
    (tmp_path / "folder.mp4").mkdir()
    write_sound(tmp_path / "sound.m4a")
    for name in ("empty.mp4", "text.mp4", "folder.mp4"):
        reason(tmp_path / name)
    assert "no video stream" in reason(tmp_path / "sound.m4a")
    assert "No such file" in reason(tmp_path / "absent.mp4")


def test_segments_that_make_no_sense_are_refused_in_a_line(tmp_path):
    path = tmp_path / "a.mp4"
    write_video(path, 48, fps=24)
    for segment in [(1, 1), (1.5, 1), (-1, 1), (0, 0), (-2, -1)]:
        assert "segment" in reason(path, *segment)


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_segments_past_the_files_end_are_refused_in_a_line(tmp_path, name):
    path = tmp_path / name
    write_video(path, 48, fps=24)
    for segment in [(0, 2.2), (1, 3), (1.9, 60), (3, 4), (100, 101), (5, None)]:
        reason(path, *segment)


def test_a_segments_end_may_be_rounded(tmp_path):
    path = tmp_path / "a.mp4"
    write_video(path, 48, fps=24)
    assert read(path, 1, 2.05)[1] == list(range(24, 48))


def test_a_segment_between_two_frames_is_refused(tmp_path):
    write_video(tmp_path / "a.mp4", timestamps=[0, 0.1, 3, 3.1])
    assert "no frame" in reason(tmp_path / "a.mp4", 1, 2)


def test_readers_that_stop_early_leave_no_open_file(tmp_path):
    import gc
    from pathlib import Path

    path = tmp_path / "a.mp4"
    write_video(path, 48)

    def is_open():
        return any(link.is_symlink() and link.readlink() == path for link in Path("/proc/self/fd").iterdir())

    if not Path("/proc/self/fd").is_dir():
        pytest.skip("open files cannot be listed here")
    frames = read_frames(path)
    next(frames)
    assert is_open()
    frames.close()
    gc.collect()
    assert not is_open()


# Real files


@pytest.mark.parametrize(("name", "count", "shape"), [
    ("demo.mp4", 280, (256, 340, 3)),
    ("test.mp4", 300, (256, 340, 3)),
    ("flipping_a_pancake.mkv", 310, (240, 426, 3)),
    ("vid1.mp4", 56, (360, 640, 3)),
    ("video_90.mov", 3, (568, 320, 3)),
    ("av1_video.mkv", 125, (360, 640, 3)),
    ("nasa_13013.mp4", 325, (180, 320, 3)),
])
def test_real_files_give_all_their_frames_upright(real_videos, name, count, shape):
    images = [image for _, image in read_frames(real_videos / name)]
    assert len(images) == count
    assert {image.shape for image in images} == {shape}


@pytest.mark.parametrize("name", ["demo.mp4", "flipping_a_pancake.mkv", "vid1.mp4", "video_90.mov", "nasa_13013.mp4"])
def test_real_files_look_as_opencv_shows_them(real_videos, name):
    capture = cv2.VideoCapture(str(real_videos / name))
    for _, (_, image) in zip(range(3), read_frames(real_videos / name), strict=False):
        seen, expected = capture.read()
        assert seen
        assert np.abs(image.astype(int) - expected[:, :, ::-1]).mean() < 6


def test_real_segments_are_those_of_a_full_decode(real_videos):
    for name in ("flipping_a_pancake.mkv", "av1_video.mkv", "nasa_13013.mp4"):
        whole = list(read_frames(real_videos / name))
        for start in (0.8, 2.5, 3.97):
            expected = [(t, image) for t, image in whole if start <= t < start + 0.5]
            found = list(read_frames(real_videos / name, start, start + 0.5))
            assert [t for t, _ in found] == [t for t, _ in expected]
            assert all(np.array_equal(a, b) for (_, a), (_, b) in zip(found, expected, strict=True))


@pytest.fixture(scope="session")
def faults(real_videos):
    """Files with faults that people reported, beside the real ones."""
    return real_videos.parent / "faults"


@pytest.mark.parametrize(("name", "seconds"), [
    ("stereo_spatial.mp4", [i / 30 for i in range(10)]),
    ("h264_b.avi", [i / 25 for i in range(50)]),
    ("og264_cutv.mkv", [i / 25 for i in range(100)]),
    ("hls23.mp4", [i / 25 for i in range(100)]),
    ("vvc_400kbps_2s.mp4", [i / 25 for i in range(50)]),
    ("cover_first.mp4", [i / 25 for i in range(50)]),
    ("two_in_a_ms.mkv", [0, 0]),
    ("trail_html.mp4", [i / 25 for i in range(50)]),
])
def test_faulty_files_give_all_their_frames(faults, name, seconds):
    assert [t for t, _ in read_frames(faults / name)] == pytest.approx(seconds, abs=1e-3)


@pytest.mark.parametrize(("name", "part"), [
    ("concat.ts", "times begin anew"), ("cover.m4a", "no video stream"), ("matrix_8.mp4", "YCgCo"),
    ("raw.h264", "ffmpeg -i"),
])
def test_faulty_files_are_refused_in_a_line_that_helps(faults, name, part):
    assert part in reason(faults / name)


def test_the_first_second_of_a_real_avi_has_its_25_frames(faults):
    assert len(list(read_frames(faults / "h264_b.avi", 0, 1))) == 25
    assert len(list(read_frames(faults / "h264_b.avi", 1, 2))) == 25


@pytest.mark.parametrize("name", [
    "videos/demo.mp4", "videos/test.mp4", "videos/flipping_a_pancake.mkv", "videos/vid1.mp4", "videos/video_90.mov",
    "videos/av1_video.mkv", "videos/nasa_13013.mp4", "faults/stereo_spatial.mp4", "faults/h264_b.avi",
    "faults/og264_cutv.mkv", "faults/hls23.mp4", "faults/vvc_400kbps_2s.mp4", "faults/cover_first.mp4",
    "faults/two_in_a_ms.mkv", "faults/trail_html.mp4"])
def test_frames_are_those_of_ffmpegs_own_program(real_videos, name):
    if not shutil.which("ffmpeg"):
        pytest.skip("no ffmpeg here")
    command = ["ffmpeg", "-i", str(real_videos.parent / name), "-map", "0:V:0", "-fps_mode", "passthrough",
               "-vf", "showinfo,format=rgb24", "-f", "rawvideo", "-"]
    run = subprocess.run(command, capture_output=True, check=False)
    expected_times = np.array([float(t) for t in re.findall(rb"pts_time:(\S+)", run.stderr)])
    if not len(expected_times):
        pytest.skip("this ffmpeg cannot decode it")
    times, images = zip(*read_frames(real_videos.parent / name), strict=True)
    # FFmpeg's program leaves the decoder's delay in what has no pts, and older ones count the sound's.
    assert np.array(times) == pytest.approx(expected_times - expected_times[0], abs=1e-3)
    expected = np.frombuffer(run.stdout, np.uint8).reshape(len(images), *images[0].shape)
    assert max(np.abs(a.astype(int) - b).mean() for a, b in zip(images, expected, strict=True)) < 1


@pytest.mark.parametrize("pixel_format", ["yuv420p", "yuv411p", "yuv410p", "yuv444p10le", "gray", "bgra"])
def test_colours_are_those_of_ffmpegs_own_program(tmp_path, pixel_format):
    if not shutil.which("ffmpeg"):
        pytest.skip("no ffmpeg here")
    noise = np.random.default_rng(0).integers(0, 256, (3, 30, 40, 3), dtype=np.uint8).repeat(4, 1).repeat(4, 2)
    write_images(tmp_path / "a.mkv", noise, [Fraction(i, 24) for i in range(3)], "ffv1", pixel_format)
    run = subprocess.run(["ffmpeg", "-i", str(tmp_path / "a.mkv"), "-pix_fmt", "rgb24", "-f", "rawvideo", "-"],
                         capture_output=True, check=True)
    expected = np.frombuffer(run.stdout, np.uint8).reshape(noise.shape)
    images = np.stack([image for _, image in read_frames(tmp_path / "a.mkv")])
    assert np.abs(images.astype(int) - expected).mean() < 1


def test_the_damaged_real_file_is_refused(real_videos):
    reason(real_videos / "corrupted.mp4")

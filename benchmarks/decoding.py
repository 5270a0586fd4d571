"""Time decoding and resizing of clips, beside plain OpenCV reading with Pillow resizing.

    python benchmarks/decoding.py
"""

import argparse
import multiprocessing
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from actalign import clips, cores
from actalign.dataset import Sample
from actalign.tables import table

SIZES = {"720p": (1280, 720), "1080p": (1920, 1080)}
FRAMES = 96
FRAME_RATE = 32
SEED = 0


def write_clip(path, size):
    """An H.264 clip of a picture that moves over a textured ground, as cameras do."""
    import av
    import cv2

    width, height = size
    rng = np.random.default_rng(SEED)
    ground = cv2.resize(rng.integers(0, 256, (height // 6, width // 6, 3), np.uint8), (width * 2, height * 2))
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FRAME_RATE, options={"crf": "23", "preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for number in range(FRAMES):
            picture = ground[2 * number:2 * number + height, 4 * number:4 * number + width]
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")))
        container.mux(stream.encode())


def ours(path):
    """The stage's way: (frames, 384, 384, 3)."""
    sample = Sample(id="x", domain="x", options=("x",))
    with cores.one_torch_thread():
        return np.concatenate([frames for _, frames in clips.clip_chunks(path, sample, clips.IMAGE_SIZE)])


def obvious(path):
    """The obvious way: OpenCV reads, Pillow resizes."""
    import cv2
    from PIL import Image

    cv2.setNumThreads(1)
    size, frames = (clips.IMAGE_SIZE, clips.IMAGE_SIZE), []
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
    while (read := capture.read())[0]:
        picture = Image.fromarray(cv2.cvtColor(read[1], cv2.COLOR_BGR2RGB))
        frames.append(np.asarray(picture.resize(size, Image.Resampling.BICUBIC)))
    return np.stack(frames)


def cpu_seconds(function, repeats):
    """(least processor time of some runs, result): what other programs do matters little to it."""
    seconds = []
    for _ in range(repeats):
        start = time.process_time()
        result = function()
        seconds.append(time.process_time() - start)
    return min(seconds), result


def by_threads(paths, workers):
    """Decode the clips in threads, as the stage does; returns the number of frames."""
    def decode(path):
        return clips.clip_chunks(path, Sample(id="x", domain="x", options=("x",)), clips.IMAGE_SIZE)

    with cores.one_torch_thread():
        return sum(len(frames) for _, chunks in clips.decoded_clips(paths, decode, workers, 16)
                   for _, frames in chunks)


def by_processes(paths, workers):
    """Decode the clips in processes that hand their frames over; returns the number of frames."""
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        return sum(len(frames) for frames in pool.imap(ours, paths))


def wall_seconds(function):
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--repeats", type=int, default=3,
                        help="runs, of which the fastest counts (default: %(default)s)")
    args = parser.parse_args(argv)
    rows = [("frames a second and core", "ours", "OpenCV + Pillow", "ratio", "largest difference")]
    with tempfile.TemporaryDirectory() as folder:
        for name, size in SIZES.items():
            path = Path(folder) / f"{name}.mp4"
            write_clip(path, size)
            mine, frames = cpu_seconds(lambda path=path: ours(path), args.repeats)
            plain, expected = cpu_seconds(lambda path=path: obvious(path), args.repeats)
            if frames.shape != expected.shape:
                print(f"{name}: {len(frames)} frames, OpenCV has {len(expected)}", file=sys.stderr)
                return 1
            difference = np.abs(frames.astype(int) - expected).max()
            rows.append((name, f"{FRAMES / mine:.0f}", f"{FRAMES / plain:.0f}", f"{plain / mine:.1f} x",
                         f"{difference} of 255"))
        print("\n".join(table(rows)))
        paths = [path] * 8
        threads = min(wall_seconds(lambda: by_threads(paths, 2)) for _ in range(2))
        processes = min(wall_seconds(lambda: by_processes(paths, 2)) for _ in range(2))
        one = wall_seconds(lambda: by_threads(paths[:4], 1)) * 2
        print(f"\n8 clips of {name}: 1 thread {one:.1f} s, 2 threads {threads:.1f} s, 2 processes {processes:.1f} s "
              "with their start")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

"""Measure what decides on scale: decoding to embeddings without frames on disk, shards, Ray, memory.

    python benchmarks/scale.py
    python benchmarks/scale.py --device cuda:0 --compile

Videos are H.264 of 720 lines, 96 frames each. On a CPU the encoder is the example's, on a CUDA device so400m as its
configuration has it, randomly initialised, since speed does not depend on weights. What is compared runs in turn in one
run. Without Ray (requirements-ray.txt) its figures are left out.
"""

import argparse
import importlib.util
import json
import os
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

import decoding  # noqa: E402
import encoding  # noqa: E402

import encode_videos  # noqa: E402
import process_data  # noqa: E402
from actalign import artifacts, console, cores, tables  # noqa: E402
from actalign.artifacts.writer import ArrayWriter  # noqa: E402
from actalign.checkpoint import find_checkpoint, resolve_dtype  # noqa: E402
from actalign.dataset import Sample  # noqa: E402
from actalign.download import Videos  # noqa: E402
from actalign.siglip import load_siglip  # noqa: E402

CHECKPOINT = str(ROOT / "examples" / "checkpoint")
MANY_ROWS = 100_000  # of a manifest
ROUNDS = 3


def write_manifest(path, count, videos):
    """A dataset of so many clips, whose videos are taken in turn."""
    rows = ({"id": f"clip-{n}", "video": str(videos[n % len(videos)]), "domain": "yoga", "choices": ["a", "b", "c"],
             "answer": 1} for n in range(count))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def run(arguments, cpus=None, wait=True):
    """Run encode_videos.py: (wall seconds, most bytes of memory, processor's seconds); with wait=False a function that
    waits for these.
    """
    began, pid = time.perf_counter(), os.fork()
    if pid == 0:
        if cpus:
            os.sched_setaffinity(0, cpus)
        for stream in (1, 2):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
        os.execv(sys.executable, [sys.executable, str(ROOT / "encode_videos.py"), *map(str, arguments)])

    def ended():
        _, status, usage = os.wait4(pid, 0)
        if status:
            raise SystemExit(f"encode_videos.py {' '.join(map(str, arguments))} failed")
        return time.perf_counter() - began, usage.ru_maxrss * 1024, usage.ru_utime + usage.ru_stime

    return ended() if wait else ended


def arguments_of(folder, name, manifest, *more):
    return ["--dataset", manifest, "--videos_dir", manifest.parent, "--output", folder / f"{name}.npy", "--model",
            CHECKPOINT, "--device", "cpu", "--image_size", 48, *more]


def rates(folder, siglip, count):
    """Rows of a table: frames a second of the fused path, of both stages in turn, of stored frames, and obvious."""
    samples = [Sample(id=f"{n}", domain="x", options=("x",), video="clip.mp4") for n in range(count)]
    settings = {"image_size": siglip.image_size, "resample": siglip.resample, "fps": None}
    frames = count * decoding.FRAMES

    def timed(name, kind, work):
        path = folder / f"{name}.npy"
        with ArrayWriter(path, kind, {}, overwrite=True) as writer:
            start = time.perf_counter()
            work(writer)
            return path, time.perf_counter() - start

    def videos():
        return Videos(folder, folder / "none", samples)

    _, fused = timed("fused", "video_embeddings", lambda writer: encode_videos.encode_dataset(
        samples, writer, videos(), siglip, None, **settings))
    stored, first = timed("frames", "frames", lambda writer: process_data.process_data(
        samples, writer, videos(), workers=None, **settings))
    stored = artifacts.read_array(stored, "frames")
    _, second = timed("stored", "video_embeddings", lambda writer: encode_videos.encode_videos(stored, writer, siglip))
    few = max(count // 8, 1)
    start = time.perf_counter()
    obvious(folder / "clip.mp4", few, siglip)
    plain = time.perf_counter() - start
    return [("decoded and encoded at once", f"{frames / fused:.4g}", "1.00 x"),
            ("stage 1, then stage 2", f"{frames / (first + second):.4g}", f"{fused / (first + second):.2f} x"),
            ("stage 2 alone, of stored frames", f"{frames / second:.4g}", f"{fused / second:.2f} x"),
            ("obvious: OpenCV, Pillow, batches of 32", f"{few * decoding.FRAMES / plain:.4g}",
             f"{fused / count / (plain / few):.2f} x")], frames / fused


def obvious(path, count, siglip):
    """Clip by clip, one thing after another, in the model's own dtype."""
    import torch
    from transformers import SiglipImageProcessor

    processor = SiglipImageProcessor(size={"height": siglip.image_size, "width": siglip.image_size})
    for _ in range(count):
        pictures = list(decoding.obvious(path))
        for first in range(0, len(pictures), encoding.OBVIOUS_BATCH):
            inputs = processor(pictures[first:first + encoding.OBVIOUS_BATCH], return_tensors="pt")
            with torch.no_grad():
                siglip._model.get_image_features(inputs["pixel_values"].to(siglip.device, siglip._model.dtype))


def memory(folder, video):
    """The fused path's memory for 16 and for 64 clips of 384 pixels, and the disk that it takes."""
    most = {}
    for count in (16, 64):
        manifest = write_manifest(folder / "clips.jsonl", count, [video])
        most[count] = run(arguments_of(folder, f"m{count}", manifest, "--image_size", 384))[1]
    yield (f"memory: {most[16] / 1e6:.0f} MB for 16 clips, {most[64] / 1e6:.0f} MB for 64, "
           f"{most[64] / most[16]:.2f} times")
    size = (folder / "m64.npy").stat().st_size
    yield f"disk: {size / 1e6:.2f} MB of embeddings; the frames of stage 1 would be {64 * 96 * 384**2 * 3 / 1e6:.0f} MB"


def side_by_side(folder, manifest):
    """Two shards at once, a core each, beside one of them alone."""
    first, second, *_ = sorted(os.sched_getaffinity(0))
    flags = arguments_of(folder, "a", manifest, "--overwrite")
    alone, both = [], []
    for _ in range(ROUNDS):
        alone.append(run([*flags, "--shard", "0/2"], {first}))
        ended = [run([*flags, "--shard", f"{number}/2"], {core}, wait=False)
                 for number, core in enumerate((first, second))]
        both.append([one() for one in ended])
    one, two = min(one[0] for one in alone), min(max(one[0] for one in pair) for pair in both)
    yield f"shards: one on a core {one:.1f} s, two on two cores {two:.1f} s: {2 * one / two:.2f} times"
    one, two = min(one[2] for one in alone), min(sum(one[2] for one in pair) for pair in both)
    yield (f"shards, processor's time, to which other work matters less: {one:.1f} s, {two:.1f} s: "
           f"{4 * one / two:.2f} times")


def by_ray(folder, manifest, count):
    """The fused path beside Ray on one node, and the driver's memory for many rows."""
    few = write_manifest(folder / "few.jsonl", 1, [folder / "clip.mp4"])
    start, *_ = run(arguments_of(folder, "s", few, "--ray", "--shards", 1))
    least, *_ = run(arguments_of(folder, "t", few))
    fused, *_ = run(arguments_of(folder, "u", manifest))
    ray, *_ = run(arguments_of(folder, "v", manifest, "--ray"))
    start = max(start - least, 0)
    yield (f"Ray, {count} clips: {ray:.1f} s, of them {start:.1f} s its own start; without it {fused:.1f} s: "
           f"{(ray - start) / fused:.2f} times")
    many = write_manifest(folder / "many.jsonl", MANY_ROWS, [folder / "clip.mp4"])
    _, most, _ = run(arguments_of(folder, "w", many, "--ray", "--limit", 8))
    yield f"Ray, {MANY_ROWS} rows: the driver takes {most / 1e6:.0f} MB"


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    console.add_device_argument(parser)
    parser.add_argument("--clips", type=int, default=32, help="of the first table (default: %(default)s)")
    parser.add_argument("--ray_clips", type=int, default=200, help="(default: %(default)s)")
    parser.add_argument("--compile", action="store_true", help="measure torch.compile as well")
    args = parser.parse_args(argv)
    device = console.pick_device(args.device)
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        decoding.write_clip(folder / "clip.mp4", decoding.SIZES["720p"])
        if device.type == "cuda":
            dtype = resolve_dtype("auto", device, argparse.Namespace(width=1152))
            siglip = encoding.random_so400m(27, dtype, device, encode_videos.BATCH_SIZE)
        else:
            checkpoint = find_checkpoint(CHECKPOINT)
            siglip = load_siglip(checkpoint, device, encode_videos.auto_batch_size(device, checkpoint), "float32")
        rows, rate = rates(folder, siglip, args.clips)
        print("\n".join(tables.table([("frames a second, 720p files", "", "of the first"), *rows])), flush=True)
        if device.type == "cuda":
            share = rate * encoding.FLOP_A_FRAME / encoding.matrix_rate(device)
            print(f"at once: {100 * share:.0f}% of the device's measured bfloat16 matrix rate", flush=True)
        if args.compile:
            import torch

            siglip._image_features = torch.compile(siglip._image_features)
            rates(folder, siglip, 1)  # warms up
            print(f"at once, by torch.compile: {rates(folder, siglip, args.clips)[1]:.4g}", flush=True)
        example = sorted((ROOT / "examples" / "clips").glob("*.mp4"))
        for video in example:
            (folder / video.name).symlink_to(video)
        manifest = write_manifest(folder / "example.jsonl", args.ray_clips, [video.name for video in example])
        parts = [memory(folder, "clip.mp4")]
        parts += [side_by_side(folder, manifest)] if cores.count() > 1 else []
        parts += [by_ray(folder, manifest, args.ray_clips)] if importlib.util.find_spec("ray") else []
        for part in parts:
            for line in part:
                print(line, flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

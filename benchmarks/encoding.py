"""Time the encoding of frames beside the obvious way.

    python benchmarks/encoding.py
    python benchmarks/encoding.py --device cuda:0

The obvious way is float32, batches of 32, the image processor on PIL frames, one thing after another. Both encode
with the example's checkpoint, frames of its size; and with so400m as its configuration has it, randomly initialised,
since speed does not depend on weights: whole on a CUDA device, two of its 27 layers elsewhere.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import encode_videos  # noqa: E402
from actalign import artifacts, console, tables  # noqa: E402
from actalign.artifacts.writer import ArrayWriter  # noqa: E402
from actalign.checkpoint import find_checkpoint, resolve_dtype  # noqa: E402
from actalign.siglip import Siglip, load_siglip  # noqa: E402

SO400M_VISION = {"hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27, "num_attention_heads": 16,
                 "image_size": 384, "patch_size": 14}
SO400M_TEXT = {"hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 1, "num_attention_heads": 16,
               "vocab_size": 100, "projection_size": 1152}
FLOP_A_FRAME = 0.67e12  # of so400m's 27 layers
FEW_LAYERS = 2  # of so400m on a CPU, where 27 would take a minute a batch
OBVIOUS_BATCH = 32
CLIP = 195  # frames
SEED = 0


def write_frames(path, count, size):
    """An artifact of random frames in clips of CLIP."""
    rng = np.random.default_rng(SEED)
    with ArrayWriter(path, "frames", {"image_size": size, "fps": None}) as writer:
        for start in range(0, count, CLIP):
            frames = rng.integers(0, 256, (min(CLIP, count - start), size, size, 3), np.uint8)
            writer.append(f"clip-{start}", frames, fps=32.0)
    return artifacts.read_array(path, "frames")


def random_so400m(layers, dtype, device, batch_size):
    """A Siglip of so400m's shape, the same weights at every call."""
    import torch
    from transformers import AutoTokenizer, SiglipConfig, SiglipImageProcessor, SiglipModel

    torch.manual_seed(SEED)
    config = SiglipConfig(vision_config=SO400M_VISION | {"num_hidden_layers": layers}, text_config=SO400M_TEXT)
    model = SiglipModel(config).to(device, getattr(torch, dtype)).eval()
    images = SiglipImageProcessor(size={"height": 384, "width": 384})
    tokenizer = AutoTokenizer.from_pretrained(ROOT / "examples" / "checkpoint")  # any: it reads no text here
    return Siglip(model, SimpleNamespace(image_processor=images, tokenizer=tokenizer), "so400m", device, batch_size)


def ours(frames, siglip, folder):
    """(frames a second, embeddings) of the stage: reading, copying, forward passes, writing."""
    path = Path(folder) / f"{time.monotonic_ns()}.npy"
    with ArrayWriter(path, "video_embeddings", {"checkpoint": siglip.name}) as writer:
        start = time.perf_counter()
        encode_videos.encode_videos(frames, writer, siglip)
        seconds = time.perf_counter() - start
    return frames.shape[0] / seconds, np.load(path)


def obvious(frames, model, image_processor, device):
    """(frames a second, embeddings) of the obvious way."""
    import torch
    from PIL import Image

    start, found = time.perf_counter(), []
    for id in frames:
        clip = frames.rows(id)
        for first in range(0, len(clip), OBVIOUS_BATCH):
            pictures = [Image.fromarray(frame) for frame in clip[first:first + OBVIOUS_BATCH]]
            inputs = image_processor(pictures, return_tensors="pt").to(device)
            with torch.no_grad():
                found.append(model.get_image_features(**inputs).pooler_output.float().cpu().numpy())
    return frames.shape[0] / (time.perf_counter() - start), np.concatenate(found)


def cosine(a, b):
    """The least cosine of a row of a with the same row of b."""
    return float((np.einsum("nd,nd->n", a, b) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)).min())


def matrix_rate(device):
    """The device's measured rate of bfloat16 matrix products, in flop a second."""
    import torch

    a = torch.randn(8192, 8192, device=device, dtype=torch.bfloat16)
    for repeats in (3, 20):  # the first warms up
        torch.cuda.synchronize(device)
        start = time.perf_counter()
        for _ in range(repeats):
            a @ a
        torch.cuda.synchronize(device)
    return 2 * 8192**3 * 20 / (time.perf_counter() - start)


def compare(name, frames, siglip, peer, folder, repeats):
    """(frames a second, row of the table): medians of some runs of both, in turn, and of their ratios."""
    import transformers

    transformers.logging.set_verbosity_error()
    processor = transformers.SiglipImageProcessor(size={"height": siglip.image_size, "width": siglip.image_size})
    rates = []
    for _ in range(repeats):
        plain, expected = obvious(frames, peer._model, processor, siglip.device)
        rate, embeddings = ours(frames, siglip, folder)
        rates.append((rate, plain, rate / plain))
    rate, plain, ratio = np.median(rates, axis=0)
    dtype = str(siglip._model.dtype).removeprefix("torch.")
    return rate, (name, f"{frames.shape[0]}", dtype, f"{rate:.4g}", f"{plain:.4g}", f"{ratio:.2f} x",
                  f"{cosine(embeddings, expected):.5f}")


def compiled(siglip, frames, folder):
    """(seconds that torch.compile takes, frames a second after it)."""
    import torch

    eager, siglip._image_features = siglip._image_features, torch.compile(siglip._image_features)
    start = time.perf_counter()
    siglip.encode_frames(frames.read(0, siglip.batch_size))
    warm_up = time.perf_counter() - start
    rate, _ = ours(frames, siglip, folder)
    siglip._image_features = eager
    return warm_up, rate


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    console.add_device_argument(parser)
    parser.add_argument("--frames", type=int, help="of so400m (default: 5,000 on CUDA, 16 elsewhere)")
    parser.add_argument("--repeats", type=int, default=5, help="runs with the example (default: %(default)s)")
    parser.add_argument("--compile", action="store_true", help="measure torch.compile as well, warm-up and rate")
    args = parser.parse_args(argv)
    device = console.pick_device(args.device)
    on_cuda = device.type == "cuda"
    rows = [("frames a second", "frames", "dtype", "ours", "obvious", "ratio", "cosine at least")]
    notes = []
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = find_checkpoint(str(ROOT / "examples" / "checkpoint"))
        frames = write_frames(Path(folder) / "small.npy", 1950, 48)
        batch = encode_videos.auto_batch_size(device, checkpoint)
        siglip = load_siglip(checkpoint, device, batch, resolve_dtype("auto", device, checkpoint))
        rate, row = compare("example's checkpoint", frames, siglip, load_siglip(checkpoint, device, 32, "float32"),
                            folder, args.repeats)
        rows.append(row)
        if args.compile:
            warm_up, compiled_rate = compiled(siglip, frames, folder)
            notes.append(f"example's checkpoint by torch.compile: {compiled_rate:.4g} frames/s after {warm_up:.0f} s, "
                         f"{compiled_rate / rate:.2f} times")
        layers, count = (27, args.frames or 5000) if on_cuda else (FEW_LAYERS, args.frames or 16)
        dtype = resolve_dtype("auto", device, SimpleNamespace(width=SO400M_VISION["hidden_size"]))
        frames = write_frames(Path(folder) / "large.npy", count, 384)
        batch = encode_videos.auto_batch_size(device, SimpleNamespace(patches=(384 // 14) ** 2))
        siglip = random_so400m(layers, dtype, device, min(batch, count))
        rate, row = compare(f"so400m, {layers} of 27 layers", frames, siglip,
                            random_so400m(layers, "float32", device, 32), folder, 1)
        rows.append(row)
        if args.compile:
            warm_up, compiled_rate = compiled(siglip, frames, folder)
            notes.append(f"so400m by torch.compile: {compiled_rate:.4g} frames/s after {warm_up:.0f} s, "
                         f"{compiled_rate / rate:.2f} times")
        if on_cuda:
            share = rate * FLOP_A_FRAME / matrix_rate(device)
            notes.append(f"so400m: {100 * share:.0f}% of the device's measured bfloat16 matrix rate")
    print("\n".join([*tables.table(rows), *notes]))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

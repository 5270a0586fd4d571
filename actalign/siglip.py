"""A SigLIP model on a device: embeds frames and texts. Importing this imports torch."""

import contextlib
import itertools
from collections import deque
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from actalign import cores
from actalign.checkpoint import RESAMPLE_NAMES, Tokenizer, loading
from actalign.console import InputError, StageError, log

# Rows of a forward pass come in such multiples: CPU kernels treat the rest of an odd number of rows in another way.
BATCH_MULTIPLE = 8

IN_FLIGHT = 2  # parts that a core or another device has to do while the caller writes the results of another
OUT_OF_MEMORY = ("out of memory", "can't allocate memory")  # as CUDA and MPS say it, and a CPU


def load_siglip(checkpoint, device, batch_size, dtype):
    """The Siglip of a Checkpoint on a device. Raises InputError if it cannot be loaded or lacks weights."""
    import transformers

    name = checkpoint.name
    with loading(name):
        config = transformers.AutoConfig.from_pretrained(name, trust_remote_code=False)
        config._attn_implementation = "sdpa"  # whatever the file says: it can name kernels that are fetched and run
        model, report = transformers.AutoModel.from_pretrained(
            name, config=config, dtype=getattr(torch, dtype), use_safetensors=not checkpoint.pickled,
            trust_remote_code=False, output_loading_info=True)
        processor = transformers.AutoProcessor.from_pretrained(name, trust_remote_code=False)
    if missing := sorted(report["missing_keys"]):
        raise InputError(f"--model {name}: lacks {len(missing)} weights such as {missing[0]}; give a whole checkpoint")
    return Siglip(model.to(device).eval(), processor, name, device, batch_size)


class Siglip:
    """A SigLIP checkpoint on a device.

    What is encoded is computed in parts: on a CPU every core takes one, another device has one at a time. A part never
    has frames of two clips, and those of texts have one shape, padded where need be, because matrix products of another
    shape can differ in the last bits: so an embedding depends on its own clip or text, not on what stood beside it.
    """

    def __init__(self, model, processor, name, device, batch_size):
        self.name = name
        self.device = device
        self.batch_size = batch_size  # most frames or texts at once; fewer where memory does not suffice
        self.image_size = model.config.vision_config.image_size  # frames are (image_size, image_size)
        images = processor.image_processor
        self.resample = RESAMPLE_NAMES.get(images.resample, "bicubic")  # how it resizes to that
        with loading(name):
            self.tokenizer = Tokenizer(processor.tokenizer, model.config.text_config.max_position_embeddings)
        self._model = model
        factor = images.rescale_factor if images.do_rescale else 1.0
        mean, std = (np.array((images.image_mean, images.image_std)) if images.do_normalize else
                     np.array(([0.0] * 3, [1.0] * 3)))
        scale_and_shift = np.stack((factor / std, -mean / std))  # its arithmetic on a channel as a product and a sum
        self._scale, self._shift = torch.tensor(scale_and_shift, dtype=torch.float32, device=device).view(2, 3, 1, 1)
        workers = cores.count() if device.type == "cpu" else 1
        self._workers = ThreadPoolExecutor(workers)  # each computes one part at a time
        self._in_flight = IN_FLIGHT * workers
        self.part_size = batch_size  # most frames or texts of a part
        if device.type == "cpu" and batch_size > 1:
            self.part_size = -(-batch_size // (workers * BATCH_MULTIPLE)) * BATCH_MULTIPLE
        self._rows = self.part_size  # fewer where memory does not suffice

    def encode_frames(self, frames):
        """Embed up to batch_size frames (n, H, W, 3) uint8 RGB of any size: (n, D) float32, not normalised."""
        return next(self.encode_batches([frames]))

    def encode_batches(self, batches):
        """Yield for every batch of frames, in order, what `encode_frames` gives.

        While the caller has a result, or `batches` makes the next one, the device has more to do, so that neither costs
        the other time. What `batches` raises comes after the results before it.
        """
        return self._encoded(self._image_features, batches)

    def encode_clips(self, clips, told=len):
        """Yield (clip, its embeddings, a list of (n, D)) for each (clip, batches of up to part_size frames), in order.

        told: function of the embeddings of each batch, called when they are there
        A clip's batches are all taken before it is yielded, and the first ones of those after it too.
        """
        ended, parts = deque(), deque()  # (clip, number of its batches) of those that were taken whole

        def batches():
            for clip, of_clip in clips:
                count = 0
                for count, frames in enumerate(of_clip, start=1):  # noqa: B007
                    yield frames
                ended.append((clip, count))

        for embeddings in itertools.chain(self.encode_batches(batches()), [None]):
            if embeddings is not None:
                parts.append(embeddings)
                told(embeddings)
            while ended and ended[0][1] <= len(parts):
                clip, count = ended.popleft()
                yield clip, [parts.popleft() for _ in range(count)]

    def encode_texts(self, texts):
        """Embed up to batch_size texts: (n, D) float32, not normalised."""
        tokens = self.tokenizer.encode(texts)
        if tokens.max() >= self._model.config.text_config.vocab_size:
            raise InputError(f"--model {self.name}: its tokenizer has more tokens than the model; give it its own")
        whole = _padded(tokens, self.part_size)
        return next(self._encoded(lambda tokens: self._model.get_text_features(input_ids=tokens).pooler_output,
                                  [whole]))[:len(tokens)]

    def iter_texts(self, texts):
        """Yield the (D,) embedding of each of any number of texts, in order; batch_size of them are encoded at once."""
        for start in range(0, len(texts), self.batch_size):
            yield from self.encode_texts(texts[start:start + self.batch_size])

    def _image_features(self, frames):
        pixels = frames.permute(0, 3, 1, 2).float()
        if pixels.shape[2:] != (self.image_size, self.image_size):
            pixels = torch.nn.functional.interpolate(
                pixels, (self.image_size, self.image_size), mode=self.resample, antialias=True)
            pixels = pixels.round_().clamp_(0, 255)  # an image processor resizes uint8 to uint8
        pixels = pixels.mul_(self._scale).add_(self._shift)
        return self._model.get_image_features(pixel_values=pixels.to(self._model.dtype)).pooler_output

    def _encoded(self, forward, batches):
        """Yield the (n, D) float32 features that `forward` gives of every batch (n, ...)."""
        alone = cores.one_torch_thread() if self.device.type == "cpu" else contextlib.nullcontext()
        batches, begun, failure = iter(batches), deque(), None
        with alone:
            while True:
                try:
                    batch = next(batches, None)
                except Exception as error:
                    batch, failure = None, error
                if batch is not None:
                    begun.append((batch, *self._begin(forward, batch)))
                while begun and (batch is None or len(begun) > self._in_flight):
                    yield self._finish(forward, *begun.popleft())
                if failure:
                    raise failure
                if batch is None:
                    return

    def _begin(self, forward, batch):
        """Have the workers compute a batch (n, ...) in parts; returns the rows of a part, and a future of each part."""
        rows = self._rows
        batch = torch.from_numpy(_padded(batch, min(rows, BATCH_MULTIPLE)))
        if self.device.type == "cuda":
            batch = batch.pin_memory()  # so that nothing waits for the upload, a few of a hundred of a batch's time
        return rows, [self._workers.submit(self._compute, forward, part) for part in batch.split(rows)]

    def _compute(self, forward, part):
        """Start `forward` of a part; returns a function that waits for its features, or None if memory lacks."""
        try:
            with torch.inference_mode():
                return forward(part.to(self.device, non_blocking=True)).float().cpu
        except RuntimeError as error:
            if not any(words in str(error) for words in OUT_OF_MEMORY):
                raise
            return None  # instead of the error, which would hold what the forward pass had allocated

    def _finish(self, forward, batch, rows, parts):
        """Wait for a batch's (n, D) features; parts that do not fit the device's memory are halved and tried again."""
        while None in (waits := [part.result() for part in parts]):
            if rows == 1:
                raise StageError(f"{self.device} lacks memory even with a batch of one; free memory or change --device")
            if rows == self._rows:  # else a batch before this one has halved them
                self._rows //= 2
                log.warning(f"a batch of {rows} does not fit into the memory of {self.device}; going on with "
                            f"{self._rows} at once")
                torch.cuda.empty_cache()
            rows, parts = self._begin(forward, batch)
        embeddings = torch.cat([wait() for wait in waits])[:len(batch)].numpy()
        if not np.isfinite(embeddings).all():
            raise StageError(f"{self.name} gives NaN or infinite embeddings in {self._model.dtype}; use --dtype "
                             "float32 or weights that are not damaged")
        return embeddings


def _padded(rows, multiple):
    """A copy of rows (n, ...) in which the last one is repeated up to a multiple of so many."""
    return np.take(rows, np.minimum(np.arange(-(-len(rows) // multiple) * multiple), len(rows) - 1), axis=0)

"""SigLIP: load a checkpoint, embed frames and texts, read its scale and bias."""

import contextlib
import functools
import hashlib
import json
import os
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from actalign import cores
from actalign.console import InputError, StageError, log
from actalign.files import reason_of

SO400M = "google/siglip-so400m-patch14-384"
DTYPES = ("auto", "float32", "bfloat16", "float16")
RESAMPLE_NAMES = {2: "bilinear", 3: "bicubic"}  # of Pillow's numbers, as checkpoints' processors hold them
MODEL_TYPE = "siglip"  # SigLIP, and the fixed-resolution checkpoints of SigLIP 2

# Rows of a forward pass come in such multiples: CPU kernels treat the rest of an odd number of rows in another way.
BATCH_MULTIPLE = 8

IN_FLIGHT = 2  # batches that a device has to do while the caller writes the results of another

# What a CPU needs to compute in bfloat16, and the width of layers from which that pays, both measured: layers of 1152
# features are 1.8 times as fast, those of 128 only 1.1 times.
BFLOAT16_UNITS = ("avx512_bf16", "amx_bf16")
BFLOAT16_WIDTH = 512

# Small tensors that any training changes; with all names and shapes they tell one checkpoint from another.
FINGERPRINT_TENSORS = ("logit_scale", "logit_bias", "vision_model.head.probe", "vision_model.post_layernorm.weight",
                       "text_model.final_layer_norm.weight", "text_model.head.bias")


class Siglip:
    """A SigLIP checkpoint on a device.

    image_size    frames are (image_size, image_size)    resample  how its image processor resizes to that
    batch_size    most frames or texts at once; where memory does not suffice, fewer. On a CPU every core takes a part.
                  All passes have one shape, padded where need be, because
                  matrix products of another shape differ in the last bits: so an embedding depends on its own frame
                  or text, not on what stood beside it.
    """

    def __init__(self, model, processor, name, device, batch_size):
        self.name = name
        self.device = device
        self.batch_size = batch_size
        self._cores = ThreadPoolExecutor(cores.count()) if device.type == "cpu" else None
        self._rows = batch_size
        if self._cores and batch_size > 1:
            self._rows = -(-batch_size // (cores.count() * BATCH_MULTIPLE)) * BATCH_MULTIPLE
        self.image_size = model.config.vision_config.image_size
        self._model = model
        self.tokenizer = Tokenizer(processor.tokenizer, model.config.text_config.max_position_embeddings)
        self.resample = RESAMPLE_NAMES.get(processor.image_processor.resample, "bicubic")
        self._scale, self._shift = _rescale_and_normalise(processor.image_processor, device)
        self._uploads = None  # the CUDA stream that frames travel on

    def encode_frames(self, frames):
        """Embed up to batch_size frames (n, H, W, 3) uint8 RGB: (n, D) float32, not normalised.

        Frames of another size than the checkpoint's are resized on the device.
        """
        return next(self.encode_batches([frames]))

    def encode_batches(self, batches):
        """Yield for every batch of frames, in order, what `encode_frames` gives.

        A thread takes the next batch from `batches` meanwhile, and the device has IN_FLIGHT of them to do when the
        caller is given a result, so that what the caller does with it costs no time there. To a CUDA device batches
        travel through pinned memory, on a stream of their own. On a CPU every core computes a part of each.
        """
        results = deque()
        with contextlib.nullcontext() if self._cores is None else cores.one_torch_thread():
            for result in self._begun(batches):
                results.append(result)
                if len(results) > IN_FLIGHT:
                    yield self._checked(results.popleft()())
            while results:
                yield self._checked(results.popleft()())

    def _begun(self, batches):
        """Start every batch: yields functions that wait for its (n, D) features, or raise what `batches` did."""
        try:
            for frames in _ahead(map(self._staged, batches)):
                yield self._begin(frames)
        except Exception as error:  # its turn comes when those before it are done
            yield functools.partial(_raise, error)

    def _staged(self, frames):
        import torch

        frames = torch.from_numpy(np.ascontiguousarray(frames))
        return frames.pin_memory() if self.device.type == "cuda" else frames

    def _begin(self, frames):
        """Start a batch; returns a function that waits for its features."""
        import torch

        if self._cores is not None:
            return self._spread(self._image_features, frames)
        with torch.inference_mode():
            features = self._in_parts(self._image_features, self._upload(frames)).float()
            if self.device.type != "cuda":
                return lambda: features
            embeddings = torch.empty(features.shape, dtype=features.dtype, pin_memory=True)
            embeddings.copy_(features, non_blocking=True)
            done = torch.cuda.Event()
            done.record(torch.cuda.current_stream(self.device))

        def wait():
            done.synchronize()
            return embeddings

        return wait

    def _upload(self, frames):
        import torch

        if self.device.type != "cuda":
            return frames.to(self.device)
        if self._uploads is None:
            self._uploads = torch.cuda.Stream(self.device)
        with torch.cuda.stream(self._uploads):
            uploaded = frames.to(self.device, non_blocking=True)
        computing = torch.cuda.current_stream(self.device)
        computing.wait_stream(self._uploads)
        uploaded.record_stream(computing)
        return uploaded

    def _image_features(self, frames):
        import torch

        pixels = frames.permute(0, 3, 1, 2).float()
        if pixels.shape[2:] != (self.image_size, self.image_size):
            pixels = torch.nn.functional.interpolate(
                pixels, (self.image_size, self.image_size), mode=self.resample, antialias=True)
            pixels = pixels.round_().clamp_(0, 255)  # an image processor resizes uint8 to uint8
        pixels = pixels.mul_(self._scale).add_(self._shift).to(self._model.dtype)
        return self._model.get_image_features(pixel_values=pixels).pooler_output

    def encode_texts(self, texts):
        """Embed up to batch_size texts: (n, D) float32, not normalised.

        The pooled feature is that of the last position, so any other padding than to the checkpoint's length would give
        other features.
        """
        import torch

        tokens = self.tokenizer.encode(texts)
        if tokens.max() >= self._model.config.text_config.vocab_size:
            raise InputError(f"--model {self.name}: its tokenizer has more tokens than the model; give a checkpoint "
                             "with a tokenizer of its own")
        def forward(ids):
            return self._model.get_text_features(input_ids=ids).pooler_output

        tokens = torch.from_numpy(tokens)
        if self._cores is not None:
            with cores.one_torch_thread():
                return self._checked(self._spread(forward, tokens)())
        with torch.inference_mode():
            return self._checked(self._in_parts(forward, tokens.to(self.device)))

    def _parts(self, inputs):
        """Split (n, ...) into parts of one shape, the last one padded."""
        return _pad(inputs, -(-len(inputs) // self._rows) * self._rows).split(self._rows)

    def _in_parts(self, forward, inputs):
        """`forward` of (n, ...) in parts that fit the device's memory, one after another: (n, D)."""
        import torch

        while True:
            try:
                return torch.cat([forward(part) for part in self._parts(inputs)])[:len(inputs)]
            except RuntimeError as error:
                if not _is_out_of_memory(error):
                    raise
            self._halve()  # here, where the error no longer holds what the forward pass had allocated

    def _spread(self, forward, inputs):
        """Start `forward` of (n, ...) on a CPU, every part on a core; returns a function that waits for all: (n, D)."""
        import torch

        def alone(part):
            with torch.inference_mode():  # which every thread has to enter
                return forward(part)

        rows, parts = self._rows, [self._cores.submit(alone, part) for part in self._parts(inputs)]

        def wait():
            try:
                return torch.cat([part.result() for part in parts])[:len(inputs)]
            except RuntimeError as error:
                if not _is_out_of_memory(error):
                    raise
            if rows == self._rows:  # else a batch before this one has done it
                self._halve()
            return self._in_parts(alone, inputs)  # one after another, since memory is short

        return wait

    def _halve(self):
        import torch

        if self._rows == 1:
            raise StageError(f"{self.name} does not fit into the memory of {self.device} with a batch of one; free "
                             "memory there or choose another --device")
        tried, self._rows = self._rows, self._rows // 2
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        log.warning(f"a batch of {tried} does not fit into the memory of {self.device}; going on with {self._rows} at "
                    "once")

    def _checked(self, features):
        embeddings = features.float().cpu().numpy()
        if not np.isfinite(embeddings).all():
            dtype = str(self._model.dtype).removeprefix("torch.")
            advice = "its weights are damaged" if dtype == "float32" else "use --dtype float32"
            raise StageError(f"{self.name} gives NaN or infinite embeddings in {dtype}; {advice}")
        return embeddings


class Tokenizer:
    """A checkpoint's tokenizer as its text encoder was trained with it: lower case, padded to a fixed length."""

    def __init__(self, tokenizer, length):
        self._tokenizer = tokenizer
        self._length = length

    def encode(self, texts):
        """(n, length) token ids of n texts."""
        return self._tokenizer([text.lower() for text in texts], padding="max_length", truncation=True,
                               max_length=self._length, return_tensors="np")["input_ids"]

    def too_long(self, texts):
        """Those of the texts that have more tokens than the checkpoint reads; their ends are cut off."""
        if not texts:
            return []
        lengths = [len(ids) for ids in self._tokenizer([text.lower() for text in texts])["input_ids"]]
        return [text for text, length in zip(texts, lengths, strict=True) if length > self._length]


def _pad(rows, count):
    """The tensor rows (n, ...) with the last one repeated up to `count`."""
    return rows if len(rows) == count else rows[list(range(len(rows))) + [-1] * (count - len(rows))]


def _raise(error):
    raise error


def _ahead(items):
    """Yield the items; a thread makes the next one while one is in use."""
    items, end = iter(items), object()
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(next, items, end)
        while (item := coming.result()) is not end:
            coming = pool.submit(next, items, end)
            yield item


def _is_out_of_memory(error):
    import torch

    says = ("out of memory", "can't allocate memory")  # on MPS and on a CPU
    return isinstance(error, torch.OutOfMemoryError) or any(words in str(error) for words in says)


def _rescale_and_normalise(image_processor, device):
    """The image processor's per-channel arithmetic as one product and one sum: (1, 3, 1, 1) scale and shift."""
    import torch

    scale = image_processor.rescale_factor if image_processor.do_rescale else 1.0
    mean, std = (image_processor.image_mean, image_processor.image_std) if image_processor.do_normalize else (0.0, 1.0)
    mean, std = (np.broadcast_to(np.asarray(value, np.float64), 3) for value in (mean, std))
    return (torch.tensor(value, dtype=torch.float32, device=device).view(1, 3, 1, 1)
            for value in (scale / std, -mean / std))


def add_trust_argument(parser):
    """Add the --trust_pickle_weights flag of whatever takes a --model."""
    parser.add_argument("--trust_pickle_weights", action="store_true",
                        help="also load a checkpoint whose weights are a pickle (pytorch_model.bin); only where you "
                             "trust who made it")


def load_tokenizer(name):
    """The Tokenizer of a checkpoint, without its weights. Raises InputError if it cannot be loaded."""
    import transformers

    _be_quiet()
    with _loading(name):
        config = transformers.AutoConfig.from_pretrained(name, trust_remote_code=False)
        tokenizer = transformers.AutoTokenizer.from_pretrained(name, trust_remote_code=False)
        return Tokenizer(tokenizer, config.text_config.max_position_embeddings)


@dataclass(frozen=True)
class Checkpoint:
    """What is known of a checkpoint without building its model.

    name         a hub name or a folder               fingerprint  the same for the same weights, whatever their place
    logit_scale  similarity is sigmoid(exp(logit_scale) * cosine + logit_bias)
    width        features of the vision tower's layers      patches  of a frame, which it attends to
    pickled      whether its weights are a pickle that the user trusts
    """

    name: str
    fingerprint: str
    logit_scale: float
    logit_bias: float
    width: int
    patches: int
    pickled: bool = False

    def settings(self, dtype):
        """What decides embeddings, as `ArrayWriter` compares it."""
        return {"checkpoint": self.fingerprint, "logit_scale": self.logit_scale, "logit_bias": self.logit_bias,
                "dtype": dtype}


def resolve_dtype(dtype, device, checkpoint):
    """The forward pass's dtype. "auto" is bfloat16 on CUDA, and on a CPU that computes in it where that pays, which
    it does for wide models (1.8 times as fast for so400m's layers, measured); else float32.
    """
    import torch

    if dtype != "auto":
        return dtype
    able = getattr(torch.cpu, "get_capabilities", dict)() if device.type == "cpu" else {}
    pays = checkpoint.width >= BFLOAT16_WIDTH and any(able.get(name) for name in BFLOAT16_UNITS)
    return "bfloat16" if device.type == "cuda" or pays else "float32"


def load_siglip(checkpoint, device, batch_size, dtype):
    """Load a Checkpoint's model and processor onto a device.

    Raises InputError if it cannot be loaded or lacks weights.
    """
    import torch
    import transformers

    name = checkpoint.name
    _be_quiet()
    with _loading(name):
        model, report = transformers.AutoModel.from_pretrained(
            name, dtype=getattr(torch, dtype), use_safetensors=not checkpoint.pickled, trust_remote_code=False,
            output_loading_info=True)
        processor = transformers.AutoProcessor.from_pretrained(name, trust_remote_code=False)
    if report["missing_keys"]:
        raise InputError(f"--model {name}: lacks {len(report['missing_keys'])} weights, for instance "
                         f"{sorted(report['missing_keys'])[0]}; give a complete checkpoint")
    return Siglip(model.to(device).eval(), processor, name, device, batch_size)


def find_checkpoint(name, trust_pickle_weights=False):
    """The Checkpoint of a hub name or folder, read from its configuration and its weights' few small tensors.

    Weights are safetensors, or with `trust_pickle_weights` what torch.load reads by its own restricted unpickler.
    No code that a checkpoint brings is ever run.
    The two numbers are the stored ones: a model loaded in bfloat16 has them rounded to three digits.
    Raises InputError if there is no such checkpoint or it is no fixed-resolution SigLIP.
    """
    import transformers

    _be_quiet()
    with _loading(name):
        config = transformers.AutoConfig.from_pretrained(name, trust_remote_code=False)
        if config.model_type != MODEL_TYPE:
            raise InputError(f"--model {name}: is a {config.model_type!r} checkpoint; give a SigLIP or a "
                             f"fixed-resolution SigLIP 2 checkpoint such as {SO400M}")
        return _read_checkpoint(str(name), config.vision_config, trust_pickle_weights)


def _be_quiet():
    """Keep transformers' advice (on torchvision, say) and its loading bars away from a user who cannot act on it."""
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()


def _read_checkpoint(name, vision, trust_pickle_weights):
    state = hashlib.blake2b(digest_size=8)
    numbers = {}
    pickle = _pickled_weights(name)
    if pickle is None:
        tensors = _safe_tensors(name)
    elif trust_pickle_weights:
        tensors = _pickled_tensors(pickle)
    else:
        raise InputError(f"--model {name}: has its weights only as a pickle ({os.path.basename(pickle)}), which can "
                         "run code; give a checkpoint with safetensors, or --trust_pickle_weights if you trust it")
    for tensor_name, shape, read in tensors:
        state.update(f"{tensor_name} {shape}\n".encode())
        if tensor_name in FINGERPRINT_TENSORS:
            tensor = read()
            state.update(tensor.tobytes())
            numbers[tensor_name] = tensor
    try:
        scale, bias = (float(numbers[key].reshape(())) for key in ("logit_scale", "logit_bias"))
    except (KeyError, ValueError):
        raise InputError(f"--model {name}: has no logit_scale and logit_bias; give a SigLIP checkpoint") from None
    if not np.isfinite([scale, bias]).all():
        raise InputError(f"--model {name}: its logit_scale {scale} and logit_bias {bias} are no finite numbers; give "
                         "another checkpoint")
    return Checkpoint(name, state.hexdigest(), scale, bias, vision.hidden_size,
                      (vision.image_size // vision.patch_size) ** 2, pickle is not None)


def _safe_tensors(name):
    """(name, shape, function to read it) of every tensor of a checkpoint's safetensors, by name."""
    from safetensors import safe_open

    for tensor_name, path in sorted(_tensor_files(name).items()):
        with safe_open(path, framework="np") as file:
            shape = file.get_slice(tensor_name).get_shape()
        yield tensor_name, shape, functools.partial(_as_float32, path, tensor_name)


def _pickled_tensors(path):
    """The same of a pickle, read by torch's unpickler of plain tensors, which runs nothing that the file names."""
    import torch

    for tensor_name, tensor in sorted(torch.load(path, map_location="cpu", weights_only=True).items()):
        yield tensor_name, list(tensor.shape), tensor.float().numpy


def _pickled_weights(name):
    """The pickle of a checkpoint that has no safetensors, or None."""
    from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, WEIGHTS_NAME, cached_file

    for file in (SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME):
        if cached_file(name, file, _raise_exceptions_for_missing_entries=False) is not None:
            return None
    return cached_file(name, WEIGHTS_NAME, _raise_exceptions_for_missing_entries=False)


def _as_float32(path, tensor_name):
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:  # numpy has no bfloat16
        return file.get_tensor(tensor_name).float().numpy()


def _tensor_files(name):
    """{tensor name: safetensors file} of a checkpoint in one file or in shards."""
    from safetensors import safe_open
    from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, cached_file

    path = cached_file(name, SAFE_WEIGHTS_NAME, _raise_exceptions_for_missing_entries=False)
    if path is not None:
        with safe_open(path, framework="np") as file:
            return dict.fromkeys(file.keys(), path)
    with open(cached_file(name, SAFE_WEIGHTS_INDEX_NAME), encoding="utf-8") as file:
        shards = json.load(file)["weight_map"]
    return {tensor: cached_file(name, shard) for tensor, shard in shards.items()}


class _loading:
    """Turns what transformers raises over a bad checkpoint into one line."""

    def __init__(self, name):
        self.name = name

    def __enter__(self):
        return self

    def __exit__(self, kind, error, traceback):
        # What a damaged configuration makes transformers raise is of every kind.
        if isinstance(error, Exception) and not isinstance(error, InputError):
            reason = f"{type(error).__name__}: {reason_of(error)[:300]}"
            advice = ("check the folder's files" if os.path.isdir(self.name) else
                      "check the name and the connection, or give the folder of a checkpoint")
            raise InputError(f"--model {self.name}: cannot be loaded ({reason}); {advice}") from None
        return False

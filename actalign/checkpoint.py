"""A SigLIP checkpoint without its model: its flags, fingerprint, scale, bias, and tokenizer."""

import contextlib
import json
import os
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import xxhash

from actalign import console
from actalign.console import InputError
from actalign.files import parse_json, read_bytes, reason_of, write_json

SO400M = "google/siglip-so400m-patch14-384"
RESAMPLE_NAMES = {2: "bilinear", 3: "bicubic"}  # of Pillow's numbers, as checkpoints' processors hold them
MODEL_TYPE = "siglip"  # SigLIP, and the fixed-resolution checkpoints of SigLIP 2
LONGEST_TEXT = 10_000  # tokens; SigLIP reads 64
DTYPES = ("auto", "float32", "bfloat16", "float16")

# What a CPU needs to compute in bfloat16, and the width of layers from which that pays, both measured: layers of 1152
# features are 1.8 times as fast, those of 128 only 1.1 times.
BFLOAT16_UNITS = ("avx512_bf16", "amx_bf16")
BFLOAT16_WIDTH = 512

# What decides an embedding besides the weights: the model, how texts become tokens, and frames become pixels.
FILES = ("config.json", "tokenizer.json", "spiece.model", "tokenizer_config.json", "special_tokens_map.json",
         "added_tokens.json", "processor_config.json", "preprocessor_config.json")
# Of config.json, and whatever names an attn_implementation: who made the weights, and how to compute, not what.
NOTES = ("transformers_version", "_name_or_path", "architectures", "dtype", "torch_dtype")
MOST_REMEMBERED = 100  # checkpoints


def add_trust_argument(parser):
    """Add the --trust_pickle_weights flag of whatever takes a --model."""
    parser.add_argument("--trust_pickle_weights", action="store_true",
                        help="also load pickled weights (pytorch_model.bin); only where you trust who made them")


def add_encoder_arguments(parser, auto_batch_size):
    """Add the flags of the stages that encode with SigLIP. auto_batch_size: what --batch_size is without the flag."""
    add = parser.add_argument
    add("--model", default=SO400M,
        help="SigLIP checkpoint, a hub name or a folder, the same for frames and texts (default: %(default)s)")
    add("--batch_size", type=console.batch_size, default="auto",
        help=f"{auto_batch_size}; fewer where memory does not suffice (default: %(default)s)")
    add("--dtype", choices=DTYPES, default="auto", help="of the forward pass; auto is bfloat16 on CUDA, and for large "
        "models on a CPU made for it, else float32 (default: %(default)s)")
    add_trust_argument(parser)
    console.add_device_argument(parser)
    console.add_overwrite_argument(parser)


@dataclass(frozen=True)
class Checkpoint:
    """What is known of a checkpoint without building its model."""

    name: str  # a hub name or a folder
    fingerprint: str  # the same for the same weights, tokenizer and processor, whatever their place
    logit_scale: float  # similarity is sigmoid(exp(logit_scale) * cosine + logit_bias); both as stored, not rounded
    logit_bias: float
    image_size: int  # pixels, of either side of a frame
    patches: int  # of a frame, which the vision tower attends to
    width: int  # features of its layers
    operations: float  # of it for a frame: two for each product and sum
    pickled: bool = False  # whether its weights are a pickle that the user trusts

    def settings(self, dtype):
        """What decides embeddings, as `ArrayWriter` compares it."""
        return {"checkpoint": self.fingerprint, "logit_scale": self.logit_scale, "logit_bias": self.logit_bias,
                "dtype": dtype}

    @property
    def resample(self):
        """How its image processor resizes frames. Raises InputError if that cannot be loaded."""
        import transformers

        with loading(self.name):
            images = transformers.AutoImageProcessor.from_pretrained(self.name, trust_remote_code=False)
        return RESAMPLE_NAMES.get(images.resample, "bicubic")


def resolve_dtype(dtype, device, checkpoint):
    """The forward pass's dtype: "auto" is bfloat16 on CUDA and, for wide models, on a CPU made for it; else float32."""
    import torch

    if dtype != "auto":
        return dtype
    able = getattr(torch.cpu, "get_capabilities", dict)() if device.type == "cpu" else {}
    pays = checkpoint.width >= BFLOAT16_WIDTH and any(able.get(name) for name in BFLOAT16_UNITS)
    return "bfloat16" if device.type == "cuda" or pays else "float32"


@contextlib.contextmanager
def loading(name):
    """Turn what transformers raises over a bad checkpoint into one line, and keep its advice and bars off stderr."""
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # a damaged file makes transformers raise errors of every kind
        raise InputError(f"--model {name}: cannot be loaded ({type(error).__name__}: {reason_of(error)[:300]}); check "
                         "the name and the connection, or the folder's files") from None


def find_checkpoint(name, trust_pickle_weights=False):
    """The Checkpoint of a hub name or folder, read from its files without building the model.

    No code that a checkpoint brings is ever run; a trusted pickle is read by torch's restricted unpickler.
    Raises InputError if there is no such checkpoint or it is no fixed-resolution SigLIP.
    """
    import transformers

    with loading(name):
        config = transformers.AutoConfig.from_pretrained(name, trust_remote_code=False)
        if config.model_type != MODEL_TYPE:
            raise InputError(f"--model {name}: is a {config.model_type!r} checkpoint; give a SigLIP one like {SO400M}")
        weights, pickled, others = _find_files(name, trust_pickle_weights)
        fingerprint, scale, bias = _remembered([*weights, *others], lambda: _read(name, weights, pickled, others))
        vision = config.vision_config
        patches, width = (vision.image_size // vision.patch_size) ** 2, vision.hidden_size
        of_layer = 2 * patches * (4 * width**2 + 2 * width * vision.intermediate_size) + 4 * patches**2 * width
        return Checkpoint(str(name), fingerprint, scale, bias, vision.image_size, patches, width,
                          float(vision.num_hidden_layers * of_layer), pickled)


def _find_files(name, trust_pickle_weights):
    """(paths of a checkpoint's weights, whether they are a pickle, paths of those of FILES that it has)."""
    from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, WEIGHTS_NAME, cached_file
    from transformers.utils.hub import get_checkpoint_shard_files

    def find(file):
        return cached_file(name, file, _raise_exceptions_for_missing_entries=False)

    others = list(filter(None, map(find, FILES)))
    if path := find(SAFE_WEIGHTS_NAME):
        return [path], False, others
    if path := find(SAFE_WEIGHTS_INDEX_NAME):
        return get_checkpoint_shard_files(name, path)[0], False, others
    if trust_pickle_weights and (path := find(WEIGHTS_NAME)):
        return [path], True, others
    raise InputError(f"--model {name}: has no weights as safetensors; give a checkpoint that has, or with "
                     f"--trust_pickle_weights one whose {WEIGHTS_NAME} you trust, since a pickle can run code")


def _read(name, weights, pickled, others):
    """[fingerprint, logit_scale, logit_bias] of a checkpoint's files: of every bit that decides an embedding."""
    import torch
    from safetensors.torch import load_file

    if pickled:  # those of torch before 1.6 are no zip files and cannot be mapped
        tensors = torch.load(weights[0], map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(weights[0]))
    else:
        tensors = {key: tensor for shard in weights for key, tensor in load_file(shard).items()}
    state = xxhash.xxh3_128()
    for key, tensor in sorted(tensors.items()):
        state.update(f"{key} {tensor.dtype} {list(tensor.shape)}\n".encode())
        state.update(tensor.reshape(-1).view(torch.uint8).numpy())
    for path in map(Path, others):
        content = path.read_bytes()
        if path.name == FILES[0]:
            deciding = json.loads(content, object_hook=lambda part: {
                key: part[key] for key in sorted(part) if key not in NOTES and "attn_implementation" not in key})
            content = json.dumps(deciding).encode()
        state.update(f"{path.name} {len(content)}\n".encode() + content)
    scale, bias = (float(tensors[key].float().ravel()[0]) if key in tensors else np.nan
                   for key in ("logit_scale", "logit_bias"))
    if not np.isfinite([scale, bias]).all():
        raise InputError(f"--model {name}: has no finite logit_scale and logit_bias; give a SigLIP checkpoint")
    return [state.hexdigest(), scale, bias]


def _remembered(files, read):
    """What `read` gives of files, from the user's cache where they have the places, sizes and times that they had."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "actalign", "checkpoints.json")
    stats = ((os.path.realpath(file), os.stat(file)) for file in files)
    key = repr([(path, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns) for path, stat in stats])
    known = {}
    with contextlib.suppress(OSError, ValueError, TypeError):
        known.update(parse_json(read_bytes(cache)))
    found = known.get(key)
    if not (isinstance(found, list) and [*map(type, found)] == [str, float, float]):
        found = read()
        with contextlib.suppress(OSError):
            cache.parent.mkdir(parents=True, exist_ok=True)
            write_json(cache, dict([*known.items(), (key, found)][-MOST_REMEMBERED:]))
    return found


def load_tokenizer(name):
    """The Tokenizer of a checkpoint, without its weights. Raises InputError if it cannot be loaded."""
    import transformers

    with loading(name):
        config = transformers.AutoConfig.from_pretrained(name, trust_remote_code=False)
        tokenizer = transformers.AutoTokenizer.from_pretrained(name, trust_remote_code=False)
        return Tokenizer(tokenizer, config.text_config.max_position_embeddings)


class Tokenizer:
    """A checkpoint's tokenizer as its text encoder was trained with it: lower case, a fixed length. See `loading`."""

    def __init__(self, tokenizer, length):
        self._tokenizer, self._length = tokenizer, length
        if not 0 < length < LONGEST_TEXT or self.encode(["a \ufffd"]).shape != (1, length):
            raise ValueError("its tokenizer gives texts no fixed length")
        self.read(["a \ufffd"])  # raises on any text or on none

    def encode(self, texts):
        """(n, length) token ids of n texts."""
        return self._tokenizer([text.lower() for text in texts], padding="max_length", truncation=True,
                               max_length=self._length, return_tensors="np")["input_ids"]

    def read(self, texts):
        """A Reading of each of a list of texts."""
        special, readings = set(self._tokenizer.all_special_ids), []
        all_ids = self._tokenizer([text.lower() for text in texts])["input_ids"] if texts else []
        for text, ids in zip(texts, all_ids, strict=True):
            ordinary = [id for id in ids if id not in special]
            is_unknown = not ordinary
            if ordinary and not (text.isascii() and self._tokenizer.unk_token_id not in ids):  # else there is no doubt
                known = "".join(self._tokenizer.convert_ids_to_tokens(ordinary))
                is_unknown = 2 * sum(map(str.isalnum, known)) < max(1, sum(map(str.isalnum, text)))
            tokens = np.array(ids[:self._length - 1], np.int64).tobytes()  # the last one read ends every text
            readings.append(Reading(tokens, len(ids) > self._length, is_unknown, len(ids)))
        return readings


class Reading(NamedTuple):
    """What a tokenizer makes of a text."""

    tokens: bytes  # two texts with the same have the same embedding
    is_cut: bool  # it has more tokens than the checkpoint reads
    is_unknown: bool  # fewer than half of its letters and digits are in tokens of the vocabulary, or nothing of it is
    length: int  # tokens

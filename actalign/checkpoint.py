"""A SigLIP checkpoint without its model: its flags, fingerprint, scale, bias, and tokenizer."""

import contextlib
import hashlib
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from actalign import console
from actalign.console import InputError
from actalign.files import reason_of

SO400M = "google/siglip-so400m-patch14-384"
MODEL_TYPE = "siglip"  # SigLIP, and the fixed-resolution checkpoints of SigLIP 2
LONGEST_TEXT = 10_000  # tokens; SigLIP reads 64
DTYPES = ("auto", "float32", "bfloat16", "float16")

# What a CPU needs to compute in bfloat16, and the width of layers from which that pays, both measured: layers of 1152
# features are 1.8 times as fast, those of 128 only 1.1 times.
BFLOAT16_UNITS = ("avx512_bf16", "amx_bf16")
BFLOAT16_WIDTH = 512

# Small tensors that any training changes; with all names and shapes they tell one checkpoint from another.
FINGERPRINT_TENSORS = ("logit_scale", "logit_bias", "vision_model.head.probe", "vision_model.post_layernorm.weight",
                       "text_model.final_layer_norm.weight", "text_model.head.bias")


def add_trust_argument(parser):
    """Add the --trust_pickle_weights flag of whatever takes a --model."""
    parser.add_argument("--trust_pickle_weights", action="store_true",
                        help="also load pickled weights (pytorch_model.bin); only where you trust who made them")


def add_encoder_arguments(parser, auto_batch_size):
    """Add the flags of the stages that encode with SigLIP. auto_batch_size: what --batch_size is without the flag."""
    add = parser.add_argument
    add("--model", default=SO400M,
        help="SigLIP checkpoint, a hub name or a folder, the same for frames and texts (default: %(default)s)")
    add("--batch_size", type=batch_size, default="auto",
        help=f"{auto_batch_size}; fewer where memory does not suffice (default: %(default)s)")
    add("--dtype", choices=DTYPES, default="auto", help="of the forward pass; auto is bfloat16 on CUDA, and for large "
        "models on a CPU made for it, else float32 (default: %(default)s)")
    add_trust_argument(parser)
    console.add_device_argument(parser)
    console.add_overwrite_argument(parser)


def batch_size(text):
    """argparse type: a whole number from 1 on, or None for "auto"."""
    return None if text == "auto" else console.batch(text)


@dataclass(frozen=True)
class Checkpoint:
    """What is known of a checkpoint without building its model."""

    name: str  # a hub name or a folder
    fingerprint: str  # the same for the same weights, whatever their place
    logit_scale: float  # similarity is sigmoid(exp(logit_scale) * cosine + logit_bias); both as stored, not rounded
    logit_bias: float
    width: int  # features of the vision tower's layers
    patches: int  # of a frame, which it attends to
    pickled: bool = False  # whether its weights are a pickle that the user trusts

    def settings(self, dtype):
        """What decides embeddings, as `ArrayWriter` compares it."""
        return {"checkpoint": self.fingerprint, "logit_scale": self.logit_scale, "logit_bias": self.logit_bias,
                "dtype": dtype}


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
    """The Checkpoint of a hub name or folder, read from its configuration and its weights' few small tensors.

    No code that a checkpoint brings is ever run; a trusted pickle is read by torch's restricted unpickler.
    Raises InputError if there is no such checkpoint or it is no fixed-resolution SigLIP.
    """
    import transformers

    with loading(name):
        config = transformers.AutoConfig.from_pretrained(name, trust_remote_code=False)
        if config.model_type != MODEL_TYPE:
            raise InputError(f"--model {name}: is a {config.model_type!r} checkpoint; give a SigLIP one like {SO400M}")
        weights, pickled = _map_weights(name, trust_pickle_weights)
        small = {key: weights[key].float().numpy() for key in FINGERPRINT_TENSORS if key in weights}
        state = hashlib.blake2b(digest_size=8)
        for key in sorted(weights):
            state.update(f"{key} {list(weights[key].shape)}\n".encode())
            state.update(small[key].tobytes() if key in small else b"")
        scale, bias = (float(np.ravel(small.get(key, np.nan))[0]) for key in ("logit_scale", "logit_bias"))
        if not np.isfinite([scale, bias]).all():
            raise InputError(f"--model {name}: has no finite logit_scale and logit_bias; give a SigLIP checkpoint")
        vision = config.vision_config
        patches = (vision.image_size // vision.patch_size) ** 2
        return Checkpoint(str(name), state.hexdigest(), scale, bias, vision.hidden_size, patches, pickled)


def _map_weights(name, trust_pickle_weights):
    """({name: tensor} of a checkpoint, mapped from its files where they are safetensors, whether they are a pickle)."""
    import torch
    from safetensors.torch import load_file
    from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, WEIGHTS_NAME, cached_file
    from transformers.utils.hub import get_checkpoint_shard_files

    def find(file):
        return cached_file(name, file, _raise_exceptions_for_missing_entries=False)

    shards = [path] if (path := find(SAFE_WEIGHTS_NAME)) else []
    if not shards and (path := find(SAFE_WEIGHTS_INDEX_NAME)):
        shards, _ = get_checkpoint_shard_files(name, path)
    if shards:
        return {key: tensor for shard in shards for key, tensor in load_file(shard).items()}, False
    if trust_pickle_weights and (path := find(WEIGHTS_NAME)):
        return torch.load(path, map_location="cpu", weights_only=True), True
    raise InputError(f"--model {name}: has no weights as safetensors; give a checkpoint that has, or with "
                     f"--trust_pickle_weights one whose {WEIGHTS_NAME} you trust, since a pickle can run code")


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
            readings.append(Reading(tokens, len(ids) > self._length, is_unknown))
        return readings


class Reading(NamedTuple):
    """What a tokenizer makes of a text."""

    tokens: bytes  # two texts with the same have the same embedding
    is_cut: bool  # it has more tokens than the checkpoint reads
    is_unknown: bool  # fewer than half of its letters and digits are in tokens of the vocabulary, or nothing of it is

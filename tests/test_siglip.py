"""actalign/siglip.py: embeddings are those of the plain transformers pipeline, whatever else is in the batch."""

import contextlib
import dataclasses
import json
import os
import shutil

import numpy as np
import pytest
from conftest import TINY_TEXT, TINY_VISION
from drawn_videos import write_video

from actalign.checkpoint import find_checkpoint, resolve_dtype
from actalign.console import InputError, StageError
from actalign.siglip import load_siglip
from actalign.video import read_frames, resize

TEXTS = ["Bend the knees", "JUMP, and turn in the air!", "land on both feet without a step backwards", "x", ""]


@pytest.fixture(scope="module")
def cpu():
    import torch

    return torch.device("cpu")


@pytest.fixture(scope="module")
def frames(tmp_path_factory):
    """Full-size frames of demo.mp4 where it is there, else of a drawn video."""
    from conftest import ROOT

    path = ROOT.parent / "shared" / "videos" / "demo.mp4"
    if not path.is_file():
        path = tmp_path_factory.mktemp("drawn") / "drawn.mp4"
        write_video(path, 280, size=(340, 256))
    return [image for _, image in read_frames(path)][::40]


@pytest.fixture(scope="module")
def siglip(checkpoint, cpu):
    """The tiny checkpoint with a batch of 5."""
    return load_siglip(find_checkpoint(str(checkpoint)), cpu, 5, "float32")


@pytest.fixture
def own_checkpoint(checkpoint, tmp_path):
    """A copy of the tiny checkpoint that a test may spoil."""
    return shutil.copytree(checkpoint, tmp_path / "own")


@pytest.fixture
def change_weights():
    """change_weights(folder, edit): have `edit` change the dict of a checkpoint's tensors."""
    from safetensors.torch import load_file, save_file

    def change(folder, edit):
        tensors = load_file(folder / "model.safetensors")
        edit(tensors)
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})

    return change


def plain_features(folder, frames, texts):
    """What transformers itself makes of full-size frames and texts: two float32 arrays (n, D)."""
    import torch
    from PIL import Image
    from transformers import AutoModel, AutoProcessor

    model = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    processor = AutoProcessor.from_pretrained(folder)
    pixels = processor.image_processor([Image.fromarray(frame) for frame in frames], return_tensors="pt")
    tokens = processor.tokenizer([text.lower() for text in texts], padding="max_length", truncation=True,
                                 max_length=model.config.text_config.max_position_embeddings, return_tensors="pt")
    with torch.inference_mode():
        video = model.get_image_features(**pixels).pooler_output.numpy()
        text = model.get_text_features(input_ids=tokens["input_ids"]).pooler_output.numpy()
    return video, text


def cosines(a, b):
    """Cosine of every row of a with the same row of b."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    return (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


# Embeddings


def test_features_are_those_of_the_plain_pipeline(checkpoint, siglip, frames):
    video, text = plain_features(checkpoint, frames[:5], TEXTS)
    found = siglip.encode_frames(np.stack([resize(frame, siglip.image_size) for frame in frames[:5]]))
    assert found.dtype == np.float32
    assert cosines(found, video).min() > 0.9999
    assert cosines(siglip.encode_texts(TEXTS), text).min() > 0.9999
    # Random weights send everything into one direction; these would not pass for one another all the same.
    assert cosines(video[:-1], video[1:]).max() < 0.9999
    assert cosines(text[:-1], text[1:]).max() < 0.9999


def test_features_are_those_of_the_plain_pipeline_with_so400ms_settings(so400m_settings_checkpoint, frames, cpu):
    video, text = plain_features(so400m_settings_checkpoint, frames[:2], TEXTS[:3])
    siglip = load_siglip(find_checkpoint(str(so400m_settings_checkpoint)), cpu, 3, "float32")
    assert siglip.image_size == 384
    found = siglip.encode_frames(np.stack([resize(frame, 384) for frame in frames[:2]]))
    found_text = siglip.encode_texts(TEXTS[:3])
    assert found.shape == (2, 1152)
    assert cosines(found, video).min() > 0.9999
    assert cosines(found_text, text).min() > 0.9999
    assert cosines(text[:-1], text[1:]).max() < 0.9999
    # With these widths, products of another shape do differ in the last bits where nothing is padded.
    assert np.array_equal(siglip.encode_texts(TEXTS[2:3])[0], found_text[2])


@pytest.mark.parametrize(("batch_size", "threads"), [(5, 2), (16, 1), (16, 2)])
def test_a_frames_embedding_does_not_depend_on_its_batch(checkpoint, frames, cpu, batch_size, threads):
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(threads)  # how the work is shared out is what makes the difference, if there is one
    try:
        siglip = load_siglip(find_checkpoint(str(checkpoint)), cpu, batch_size, "float32")
        shifted = [np.roll(frame, shift, 1) for shift in (0, 9, 31) for frame in frames]
        images = np.stack([resize(frame, 48) for frame in shifted[:batch_size]])
        alone = np.concatenate([siglip.encode_frames(image[None]) for image in images])
        assert np.array_equal(siglip.encode_frames(images), alone)
        assert np.array_equal(siglip.encode_frames(images[::-1])[::-1], alone)
        for count in (2, 3, batch_size - 1):
            assert np.array_equal(siglip.encode_frames(images[:count]), alone[:count])
            assert np.array_equal(siglip.encode_frames(images[-count:]), alone[-count:])
    finally:
        torch.set_num_threads(before)


def test_a_texts_embedding_does_not_depend_on_its_batch(siglip):
    alone = np.concatenate([siglip.encode_texts([text]) for text in TEXTS])
    assert np.array_equal(siglip.encode_texts(TEXTS), alone)
    assert np.array_equal(siglip.encode_texts(TEXTS[::-1])[::-1], alone)
    assert np.array_equal(siglip.encode_texts(TEXTS[1:3]), alone[1:3])


def test_texts_are_read_without_regard_to_case(siglip):
    assert np.array_equal(siglip.encode_texts(["Bend The KNEES"]), siglip.encode_texts(["bend the knees"]))


def test_frames_of_another_size_are_resized_as_the_image_processor_would(checkpoint, siglip, frames):
    video, _ = plain_features(checkpoint, frames[:3], TEXTS[:1])
    assert cosines(siglip.encode_frames(np.stack(frames[:3])), video).min() > 0.9999


def test_frames_that_lie_oddly_in_memory_are_read_right(siglip, frames):
    images = np.stack([resize(frame, 48) for frame in frames[:2]])
    turned = np.rot90(images, axes=(1, 2))
    assert not turned.flags.c_contiguous
    assert np.array_equal(siglip.encode_frames(turned), siglip.encode_frames(np.ascontiguousarray(turned)))


def test_encoding_leaves_the_frames_alone(siglip, frames):
    images = np.stack([resize(frame, 48) for frame in frames[:5]])
    before = images.copy()
    siglip.encode_frames(images)
    assert np.array_equal(images, before)


def test_bfloat16_comes_near_float32_and_gives_float32(checkpoint, siglip, frames, cpu):
    images = np.stack([resize(frame, 48) for frame in frames[:5]])
    half = load_siglip(find_checkpoint(str(checkpoint)), cpu, 5, "bfloat16")
    found = half.encode_frames(images)
    assert found.dtype == np.float32
    assert not np.array_equal(found, siglip.encode_frames(images))
    assert cosines(found, siglip.encode_frames(images)).min() > 0.999


def test_the_dtype_follows_the_device_unless_it_is_named(checkpoint, cpu, monkeypatch):
    import torch

    tiny = find_checkpoint(str(checkpoint))
    large = dataclasses.replace(tiny, width=1152)
    for able in ({"avx512_bf16": True}, {"amx_bf16": True}, {"avx512_bf16": False, "avx2": True}):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda able=able: able, raising=False)
        on_cpu = "float32" if "avx2" in able else "bfloat16"
        assert resolve_dtype("auto", cpu, large) == on_cpu
        assert resolve_dtype("auto", cpu, tiny) == "float32"
        for found in (tiny, large):
            assert resolve_dtype("auto", torch.device("cuda:1"), found) == "bfloat16"
            assert resolve_dtype("auto", torch.device("mps"), found) == "float32"
            assert resolve_dtype("float16", cpu, found) == "float16"


def test_bfloat16_embeddings_of_so400ms_layers_are_those_of_float32(so400m_settings_checkpoint, cpu, frames):
    images = np.stack([resize(frame, 384) for frame in frames[:2]])
    found = find_checkpoint(str(so400m_settings_checkpoint))
    assert found.width == 1152
    half, full = (load_siglip(found, cpu, 2, dtype) for dtype in ("bfloat16", "float32"))
    assert cosines(half.encode_frames(images), full.encode_frames(images)).min() > 0.999
    assert cosines(half.encode_texts(TEXTS[:2]), full.encode_texts(TEXTS[:2])).min() > 0.999


@pytest.fixture
def small_memory(monkeypatch):
    """small_memory(siglip, rows, error): have larger forward passes than `rows` fail; returns the list of sizes."""
    def restrict(siglip, rows, error):
        sizes = []
        for name in ("get_image_features", "get_text_features"):
            forward = getattr(siglip._model, name)

            def guarded(forward=forward, **inputs):
                sizes.append(len(next(iter(inputs.values()))))
                if sizes[-1] > rows:
                    raise error
                return forward(**inputs)

            monkeypatch.setattr(siglip._model, name, guarded)
        return sizes

    return restrict


def test_a_batch_too_large_for_memory_is_halved_and_no_frame_lost(checkpoint, frames, cpu, small_memory, capsys):
    import torch

    images = np.stack([resize(frames[i % len(frames)], 48) + np.uint8(i) for i in range(13)])
    expected = load_siglip(find_checkpoint(str(checkpoint)), cpu, 16, "float32").encode_frames(images)
    for error in (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
                  RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9")):
        siglip = load_siglip(find_checkpoint(str(checkpoint)), cpu, 16, "float32")
        sizes = small_memory(siglip, 3, error)
        found = list(siglip.encode_batches([images[:5], images[5:6], images[6:]]))
        assert [len(part) for part in found] == [5, 1, 7]
        assert np.concatenate(found) == pytest.approx(expected, abs=1e-5)
        halves = list(dict.fromkeys(sizes))  # from what a core has to do of 16 frames
        assert halves == [halves[0], *(size for size in (8, 4, 2) if size < halves[0])]
        assert sizes[-2:] == [2, 2]
        told = capsys.readouterr().err
        assert "a batch of 4 does not fit into the memory of cpu; going on with 2 at once" in told
        assert siglip.encode_texts(TEXTS).shape == (5, 64)


def test_a_frame_that_memory_does_not_hold_is_an_error_in_a_line(checkpoint, cpu, small_memory):
    import torch

    siglip = load_siglip(find_checkpoint(str(checkpoint)), cpu, 4, "float32")
    small_memory(siglip, 0, torch.OutOfMemoryError("CUDA out of memory"))
    with pytest.raises(StageError, match="with a batch of one; free memory"):
        siglip.encode_frames(np.zeros((4, 48, 48, 3), np.uint8))


def test_other_errors_of_a_forward_pass_are_not_taken_for_a_lack_of_memory(checkpoint, cpu, small_memory):
    siglip = load_siglip(find_checkpoint(str(checkpoint)), cpu, 4, "float32")
    sizes = small_memory(siglip, 0, RuntimeError("shapes cannot be multiplied"))
    with pytest.raises(RuntimeError, match="shapes"):
        siglip.encode_frames(np.zeros((4, 48, 48, 3), np.uint8))
    assert len(sizes) == 1


def test_the_next_batch_is_taken_while_one_is_in_use_and_errors_come_in_their_place(siglip):
    taken = []

    def batches():
        for number in range(3):
            taken.append(number)
            yield np.full((2, 48, 48, 3), number, np.uint8)
        raise InputError("the fourth cannot be read")

    embeddings = siglip.encode_batches(batches())
    for number in range(3):
        assert np.array_equal(next(embeddings), siglip.encode_frames(np.full((2, 48, 48, 3), number, np.uint8)))
        assert number in taken
    with pytest.raises(InputError, match="fourth"):
        next(embeddings)
    assert list(siglip.encode_batches([])) == []


def test_embeddings_that_are_not_finite_are_an_error_in_a_line(own_checkpoint, change_weights, cpu):
    change_weights(own_checkpoint, lambda tensors: tensors["vision_model.head.layernorm.bias"].fill_(float("nan")))
    siglip = load_siglip(find_checkpoint(str(own_checkpoint)), cpu, 1, "float32")
    with pytest.raises(StageError, match="NaN") as caught:
        siglip.encode_frames(np.zeros((1, 48, 48, 3), np.uint8))
    assert "\n" not in str(caught.value)


def test_too_long_names_the_texts_whose_ends_are_cut_off(siglip):
    fits, cut = "a" * 23, "a" * 24  # and the end token: 24 and 25 of the 24 tokens that the checkpoint reads
    assert siglip.tokenizer.too_long([fits, cut, "b", cut + "c"]) == [cut, cut + "c"]
    assert siglip.tokenizer.too_long([fits]) == []
    assert siglip.tokenizer.too_long([]) == []
    assert not np.array_equal(siglip.encode_texts([fits]), siglip.encode_texts(["a" * 22]))
    assert np.array_equal(siglip.encode_texts([cut + "b"]), siglip.encode_texts([cut + "cc"]))


# The checkpoint


def test_scale_and_bias_are_the_stored_ones_to_the_last_bit(checkpoint, own_checkpoint, change_weights, cpu):
    expected = float(np.float32(4.7654321)), float(np.float32(-12.9876543))
    found = find_checkpoint(str(checkpoint))
    assert (found.logit_scale, found.logit_bias) == expected
    for dtype in ("bfloat16", "float16", "float32"):
        assert load_siglip(found, cpu, 1, dtype)
        settings = found.settings(dtype)
        assert (settings["logit_scale"], settings["logit_bias"]) == expected
    assert json.loads(json.dumps(found.settings("float32"))) == found.settings("float32")

    def set_numbers(tensors):
        tensors["logit_scale"].fill_(0.1)
        tensors["logit_bias"].fill_(1e-30)

    change_weights(own_checkpoint, set_numbers)
    found = find_checkpoint(str(own_checkpoint))
    assert (found.logit_scale, found.logit_bias) == (float(np.float32(0.1)), float(np.float32(1e-30)))


def test_the_fingerprint_stays_when_the_folder_moves(checkpoint, own_checkpoint):
    assert find_checkpoint(str(own_checkpoint)).fingerprint == find_checkpoint(str(checkpoint)).fingerprint
    assert find_checkpoint(f"{own_checkpoint}/").fingerprint == find_checkpoint(str(checkpoint)).fingerprint


def test_the_fingerprint_tells_other_weights_and_other_shapes(checkpoint, own_checkpoint, make_checkpoint, tmp_path):
    own = make_checkpoint(tmp_path / "seed-1", seed=1)
    deeper = make_checkpoint(tmp_path / "deeper", vision=TINY_VISION | {"num_hidden_layers": 3})
    found = {find_checkpoint(str(folder)).fingerprint for folder in (checkpoint, own, deeper)}
    assert len(found) == 3


@pytest.mark.parametrize("tensor", ["logit_scale", "logit_bias", "vision_model.head.probe"])
def test_the_fingerprint_tells_the_least_change_in_a_small_tensor(checkpoint, own_checkpoint, change_weights, tensor):
    change_weights(own_checkpoint, lambda tensors: tensors[tensor].view(-1)[0].mul_(1 + 1e-6))
    assert find_checkpoint(str(own_checkpoint)).fingerprint != find_checkpoint(str(checkpoint)).fingerprint


def test_a_checkpoint_in_shards_is_the_same_checkpoint(checkpoint, siglip, own_checkpoint, frames, cpu):
    from transformers import AutoModel

    model = AutoModel.from_pretrained(checkpoint)
    (own_checkpoint / "model.safetensors").unlink()
    model.save_pretrained(own_checkpoint, max_shard_size="200KB")
    assert len(list(own_checkpoint.glob("model-*.safetensors"))) > 2
    found, whole = find_checkpoint(str(own_checkpoint)), find_checkpoint(str(checkpoint))
    assert (found.fingerprint, found.logit_scale, found.logit_bias) == (
        whole.fingerprint, whole.logit_scale, whole.logit_bias)
    images = np.stack([resize(frame, 48) for frame in frames[:2]])
    sharded = load_siglip(found, cpu, siglip.batch_size, "float32")
    assert np.array_equal(sharded.encode_frames(images), siglip.encode_frames(images))


def test_a_checkpoint_stored_in_bfloat16_is_read_as_it_is(checkpoint, own_checkpoint, cpu, frames):
    import torch
    from transformers import AutoModel

    AutoModel.from_pretrained(checkpoint, dtype=torch.bfloat16).save_pretrained(own_checkpoint)
    found = find_checkpoint(str(own_checkpoint))
    assert found.fingerprint != find_checkpoint(str(checkpoint)).fingerprint
    assert found.logit_scale == float(torch.tensor(4.7654321).bfloat16())
    assert found.logit_bias == float(torch.tensor(-12.9876543).bfloat16())
    embeddings = load_siglip(found, cpu, 2, "float32").encode_frames(resize(frames[0], 48)[None])
    assert embeddings.shape == (1, 64)


# Refused


def refusal(name):
    """The line in which a checkpoint is refused, before or while its model is loaded."""
    import torch

    with pytest.raises(InputError) as caught:
        load_siglip(find_checkpoint(str(name)), torch.device("cpu"), 1, "float32")
    text = str(caught.value)
    assert "\n" not in text
    assert text.startswith(f"--model {name}: ")
    assert ";" in text  # what to do about it
    return text


def test_names_that_are_no_checkpoint_are_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file.txt").touch()
    for name in ("nobody/nothing", "nothing", tmp_path / "absent", tmp_path / "empty", tmp_path / "file.txt", ""):
        refusal(name)


def test_checkpoints_of_other_models_are_refused(tmp_path):
    from transformers import CLIPConfig, Siglip2Config

    for config in (CLIPConfig(), Siglip2Config()):
        config.save_pretrained(tmp_path)
        assert config.model_type in refusal(tmp_path)


def test_a_tower_alone_is_refused(tmp_path, checkpoint):
    from transformers import AutoModel

    AutoModel.from_pretrained(checkpoint).vision_model.save_pretrained(tmp_path)
    refusal(tmp_path)


@pytest.mark.parametrize("tensor", ["vision_model.post_layernorm.bias", "text_model.head.weight",
                                    "vision_model.encoder.layers.1.mlp.fc1.weight"])
def test_missing_weights_are_refused_by_name(own_checkpoint, change_weights, tensor):
    change_weights(own_checkpoint, lambda tensors: tensors.pop(tensor))
    assert tensor in refusal(own_checkpoint)


@pytest.mark.parametrize("tensor", ["logit_scale", "logit_bias"])
def test_a_checkpoint_without_scale_or_bias_is_refused(own_checkpoint, change_weights, tensor):
    change_weights(own_checkpoint, lambda tensors: tensors.pop(tensor))
    assert "logit_scale and logit_bias" in refusal(own_checkpoint)


@pytest.mark.parametrize("tensor", ["logit_scale", "logit_bias"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_scale_or_bias_that_is_no_number_is_refused(own_checkpoint, change_weights, tensor, value):
    change_weights(own_checkpoint, lambda tensors: tensors[tensor].fill_(value))
    refusal(own_checkpoint)


@pytest.mark.parametrize("kept", [0, 5, 1000, -1000])
def test_truncated_weights_are_refused(own_checkpoint, kept):
    weights = own_checkpoint / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:kept])
    refusal(own_checkpoint)


def test_a_missing_shard_is_refused(checkpoint, own_checkpoint):
    from transformers import AutoModel

    (own_checkpoint / "model.safetensors").unlink()
    AutoModel.from_pretrained(checkpoint).save_pretrained(own_checkpoint, max_shard_size="200KB")
    sorted(own_checkpoint.glob("model-*.safetensors"))[1].unlink()
    refusal(own_checkpoint)


def test_pickled_weights_are_refused(own_checkpoint):
    import torch
    from safetensors.torch import load_file

    torch.save(load_file(own_checkpoint / "model.safetensors"), own_checkpoint / "pytorch_model.bin")
    (own_checkpoint / "model.safetensors").unlink()
    assert "--trust_pickle_weights" in refusal(own_checkpoint)


def test_pickled_weights_that_are_trusted_are_the_same_checkpoint(checkpoint, own_checkpoint, cpu):
    import torch
    from safetensors.torch import load_file

    torch.save(load_file(own_checkpoint / "model.safetensors"), own_checkpoint / "pytorch_model.bin")
    (own_checkpoint / "model.safetensors").unlink()
    safe, pickled = find_checkpoint(str(checkpoint)), find_checkpoint(str(own_checkpoint), trust_pickle_weights=True)
    assert pickled.settings("float32") == safe.settings("float32")
    ours, theirs = (load_siglip(found, cpu, 1, "float32") for found in (safe, pickled))
    assert np.array_equal(ours.encode_texts(["a run"]), theirs.encode_texts(["a run"]))


def test_not_even_trusted_pickles_run_what_they_name(own_checkpoint, tmp_path):
    import torch

    class Runs:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path / 'it-was-run'}",)

    torch.save({"logit_scale": Runs()}, own_checkpoint / "pytorch_model.bin")
    (own_checkpoint / "model.safetensors").unlink()
    with pytest.raises(InputError) as caught:
        find_checkpoint(str(own_checkpoint), trust_pickle_weights=True)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "it-was-run").exists()


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json", "processor_config.json"])
@pytest.mark.parametrize("entry", ["AutoConfig", "AutoModel", "AutoTokenizer", "AutoProcessor", "AutoImageProcessor"])
def test_code_that_a_checkpoint_brings_is_never_run(own_checkpoint, tmp_path, cpu, name, entry):
    mark = tmp_path / "it-was-run"
    (own_checkpoint / "code.py").write_text(f"open({str(mark)!r}, 'w')\nclass Mine: pass\n")
    content = json.loads((own_checkpoint / name).read_text())
    target = ["code.Mine", "code.Mine"] if entry == "AutoTokenizer" else "code.Mine"
    (own_checkpoint / name).write_text(json.dumps({**content, "auto_map": {entry: target}}))
    with contextlib.suppress(InputError):
        load_siglip(find_checkpoint(str(own_checkpoint)), cpu, 1, "float32")
    assert not mark.exists()


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json", "processor_config.json"])
def test_a_missing_file_is_refused(own_checkpoint, name):
    (own_checkpoint / name).unlink()
    refusal(own_checkpoint)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "processor_config.json"])
@pytest.mark.parametrize("content", ["", "{", "null", "[]"])
def test_a_damaged_file_is_refused(own_checkpoint, name, content):
    (own_checkpoint / name).write_text(content)
    refusal(own_checkpoint)


@pytest.mark.parametrize("content", ["{", "{}", "[]", '{"weight_map": []}', '{"weight_map": {"a": 5}}'])
def test_a_damaged_index_of_shards_is_refused(own_checkpoint, content):
    (own_checkpoint / "model.safetensors").unlink()
    (own_checkpoint / "model.safetensors.index.json").write_text(content)
    refusal(own_checkpoint)


@pytest.mark.parametrize("changed", [
    {"vision_config": TINY_VISION | {"hidden_size": 128}},
    {"vision_config": TINY_VISION | {"hidden_size": "wide"}},
    {"vision_config": TINY_VISION | {"num_attention_heads": 7}},
    {"vision_config": TINY_VISION | {"num_hidden_layers": 3}},
    {"vision_config": "tiny"},
    {"text_config": TINY_TEXT | {"max_position_embeddings": 64}},
    {"text_config": [1]},
])
def test_a_configuration_that_does_not_fit_the_weights_is_refused(own_checkpoint, changed):
    config = json.loads((own_checkpoint / "config.json").read_text())
    (own_checkpoint / "config.json").write_text(json.dumps(config | changed))
    refusal(own_checkpoint)


def test_loading_says_nothing_to_the_user(checkpoint, cpu, capfd):
    load_siglip(find_checkpoint(str(checkpoint)), cpu, 1, "float32")
    captured = capfd.readouterr()
    assert captured.out == ""
    assert captured.err == ""

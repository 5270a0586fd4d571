"""actalign/checkpoint.py: what a checkpoint is told by, and that a bad one is refused in a line, never run."""

import contextlib
import dataclasses
import json
import os
import shutil

import numpy as np
import pytest
from conftest import TINY_TEXT, TINY_VISION
from made_artifacts import make_entries, write_frames_index

import actalign.checkpoint as checkpoint_module
import baseline
import encode_videos
from actalign.checkpoint import find_checkpoint, load_tokenizer, resolve_dtype
from actalign.console import InputError
from actalign.siglip import load_siglip


@pytest.fixture(scope="module")
def cpu():
    import torch

    return torch.device("cpu")


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


LAYER = "vision_model.encoder.layers.0.mlp.fc1.weight"


def merge_lora(tensors):
    """Add a product of two narrow matrices to a layer, as a LoRA is merged."""
    import torch

    rows, columns = tensors[LAYER].shape
    tensors[LAYER] += 1e-3 * torch.ones(rows, 1) @ torch.ones(1, columns)


def edit_json(name, *keys, to):
    """A function that replaces a value in a file of a checkpoint's folder; `to` is the value or a function of it."""
    def edit(folder):
        content = part = json.loads((folder / name).read_text())
        for key in keys[:-1]:
            part = part[key]
        part[keys[-1]] = to(part[keys[-1]]) if callable(to) else to
        (folder / name).write_text(json.dumps(content))

    return edit


def weights_of(edit):
    """A function that edits the tensors in a checkpoint's folder."""
    from safetensors.torch import load_file, save_file

    def edit_file(folder):
        tensors = load_file(folder / "model.safetensors")
        edit(tensors)
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})

    return edit_file


OTHERS = {
    **{f"the least of {name}": weights_of(lambda tensors, name=name: tensors[name].view(-1)[0].mul_(1 + 1e-6))
       for name in ("logit_scale", "logit_bias", "vision_model.head.probe", LAYER,
                    "text_model.encoder.layers.1.self_attn.q_proj.weight")},
    "a merged LoRA": weights_of(merge_lora),
    "a permuted vocabulary": edit_json("tokenizer.json", "model", "vocab",
                                       to=lambda vocabulary: vocabulary | {"a": vocabulary["b"], "b": vocabulary["a"]}),
    "another mean": edit_json("processor_config.json", "image_processor", "image_mean", to=[0.4, 0.5, 0.5]),
    "another epsilon": edit_json("config.json", "vision_config", "layer_norm_eps", to=1e-5),
}


@pytest.mark.parametrize("edit", OTHERS.values(), ids=OTHERS)
def test_a_stage_begun_with_one_checkpoint_is_never_finished_with_another(own_checkpoint, tmp_path, capsys, edit):
    before = find_checkpoint(str(own_checkpoint))
    frames = write_frames_index(tmp_path, make_entries({"a": ["hook shot"]}), image_size=48)
    arguments = ["--input", str(frames), "--output", str(tmp_path / "v.npy"), "--model", str(own_checkpoint),
                 "--device", "cpu"]
    assert encode_videos.main(arguments) == 0
    edit(own_checkpoint)
    after = find_checkpoint(str(own_checkpoint))
    assert after.fingerprint != before.fingerprint
    assert encode_videos.main(arguments) == 2
    assert "was begun with " in capsys.readouterr().err
    assert baseline.main(["--input_dataset", str(frames), "--video_embeddings", str(tmp_path / "v.npy"),
                          "--device", "cpu"]) == 2
    assert "was made with another checkpoint" in capsys.readouterr().err


@pytest.mark.parametrize("edit", [
    edit_json("config.json", "transformers_version", to="5.0.0"),
    edit_json("config.json", "architectures", to=["Mine"]),
    edit_json("config.json", "dtype", to="bfloat16"), edit_json("config.json", "_name_or_path", to="elsewhere"),
    lambda folder: (folder / "README.md").write_text("# Mine"),
])
def test_what_decides_no_embedding_is_not_in_the_fingerprint(checkpoint, own_checkpoint, edit):
    config = own_checkpoint / "config.json"
    config.write_text(json.dumps({"_name_or_path": "", **json.loads(config.read_text())}))
    edit(own_checkpoint)
    assert find_checkpoint(str(own_checkpoint)).fingerprint == find_checkpoint(str(checkpoint)).fingerprint


@pytest.mark.parametrize("named", ["eager", "flash_attention_2", "nobody/kernels"])
@pytest.mark.parametrize("key", ["attn_implementation", "_attn_implementation"])
def test_how_attention_is_computed_is_not_the_checkpoints_choice(checkpoint, own_checkpoint, cpu, key, named):
    config = json.loads((own_checkpoint / "config.json").read_text())
    (own_checkpoint / "config.json").write_text(json.dumps({
        **config, key: named, "vision_config": {**config["vision_config"], key: named}}))
    found = find_checkpoint(str(own_checkpoint))
    assert found.fingerprint == find_checkpoint(str(checkpoint)).fingerprint
    model = load_siglip(found, cpu, 1, "float32")._model
    assert {part.config._attn_implementation for part in (model, model.vision_model, model.text_model)} == {"sdpa"}


def test_a_checkpoint_is_read_once_until_a_file_of_it_changes(own_checkpoint, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    reads, read = [], checkpoint_module._read
    monkeypatch.setattr(checkpoint_module, "_read", lambda *args: reads.append(args) or read(*args))
    first = find_checkpoint(str(own_checkpoint))
    assert (tmp_path / "cache" / "actalign" / "checkpoints.json").exists()
    assert find_checkpoint(str(own_checkpoint)) == first
    assert find_checkpoint(os.path.relpath(own_checkpoint)).fingerprint == first.fingerprint
    assert len(reads) == 1
    for number, name in enumerate(("model.safetensors", "config.json", "tokenizer.json", "processor_config.json")):
        os.utime(own_checkpoint / name, (0, 0))
        assert find_checkpoint(str(own_checkpoint)) == first
        assert len(reads) == 2 + number


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff", None])
def test_a_cache_that_cannot_be_used_is_no_failure(checkpoint, tmp_path, monkeypatch, content):
    expected = find_checkpoint(str(checkpoint))
    cache = tmp_path / "actalign" / "checkpoints.json"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    cache.parent.mkdir()
    if content is None:
        cache.mkdir()
    else:
        cache.write_bytes(content)
    assert find_checkpoint(str(checkpoint)) == expected
    known = json.loads(cache.read_bytes()) if cache.is_file() else {}
    for found in ([1, 2, 3], ["x"], None, {"a": 1}):  # what is no fingerprint, scale and bias is read again
        if cache.is_file():
            cache.write_text(json.dumps(dict.fromkeys(known, found)))
        assert find_checkpoint(str(checkpoint)) == expected


def test_a_checkpoint_in_shards_is_the_same_checkpoint(checkpoint, own_checkpoint, cpu):
    from transformers import AutoModel

    model = AutoModel.from_pretrained(checkpoint)
    (own_checkpoint / "model.safetensors").unlink()
    model.save_pretrained(own_checkpoint, max_shard_size="200KB")
    assert len(list(own_checkpoint.glob("model-*.safetensors"))) > 2
    found, whole = find_checkpoint(str(own_checkpoint)), find_checkpoint(str(checkpoint))
    assert (found.fingerprint, found.logit_scale, found.logit_bias) == (
        whole.fingerprint, whole.logit_scale, whole.logit_bias)
    frames = np.random.default_rng(0).integers(0, 256, (2, 48, 48, 3), np.uint8)
    sharded, siglip = (load_siglip(each, cpu, 2, "float32") for each in (found, whole))
    assert np.array_equal(sharded.encode_frames(frames), siglip.encode_frames(frames))


def test_a_checkpoint_stored_in_bfloat16_is_read_as_it_is(checkpoint, own_checkpoint, cpu):
    import torch
    from transformers import AutoModel

    AutoModel.from_pretrained(checkpoint, dtype=torch.bfloat16).save_pretrained(own_checkpoint)
    found = find_checkpoint(str(own_checkpoint))
    assert found.fingerprint != find_checkpoint(str(checkpoint)).fingerprint
    assert found.logit_scale == float(torch.tensor(4.7654321).bfloat16())
    assert found.logit_bias == float(torch.tensor(-12.9876543).bfloat16())
    embeddings = load_siglip(found, cpu, 2, "float32").encode_frames(np.zeros((1, 48, 48, 3), np.uint8))
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


def test_a_checkpoint_without_weights_is_refused(own_checkpoint):
    (own_checkpoint / "model.safetensors").unlink()
    assert "has no weights as safetensors" in refusal(own_checkpoint)


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


def spoiled_tokenizer(folder, name, *path, value):
    """Set what is at a path of keys in one of a checkpoint's JSON files."""
    whole = part = json.loads((folder / name).read_text())
    for key in path[:-1]:
        part = part[key]
    part[path[-1]] = value
    (folder / name).write_text(json.dumps(whole))


@pytest.mark.parametrize(("name", "path", "value"), [
    ("tokenizer_config.json", ["pad_token"], None), ("tokenizer_config.json", ["model_max_length"], "many"),
    ("tokenizer.json", ["model", "vocab"], {}), ("tokenizer.json", ["model", "unk_token"], "gone"),
    ("tokenizer.json", ["post_processor", "special_tokens", "</s>", "ids"], [999_999]),
    ("tokenizer.json", ["post_processor", "special_tokens", "</s>"],
     {"id": "</s>", "ids": [1] * 100, "tokens": ["</s>"] * 100}),
])
def test_a_tokenizer_that_reads_no_text_is_refused(own_checkpoint, cpu, name, path, value):
    spoiled_tokenizer(own_checkpoint, name, *path, value=value)
    refusal(own_checkpoint)
    with pytest.raises(InputError) as caught:
        load_tokenizer(str(own_checkpoint))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("length", [0, -5, 10 ** 9])
def test_texts_of_an_impossible_length_are_refused(own_checkpoint, length):
    spoiled_tokenizer(own_checkpoint, "config.json", "text_config", "max_position_embeddings", value=length)
    with pytest.raises(InputError) as caught:
        load_tokenizer(str(own_checkpoint))
    assert "no fixed length" in str(caught.value)


def test_tokens_beyond_all_vocabularies_are_read_where_only_lengths_are_wanted(own_checkpoint):
    spoiled_tokenizer(own_checkpoint, "tokenizer.json", "model", "vocab", "r", value=2 ** 32 - 1)
    assert not load_tokenizer(str(own_checkpoint)).read(["runs"])[0].is_cut


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

"""actalign/siglip.py: embeddings are those of the plain transformers pipeline, whatever else is in the batch."""

import itertools

import numpy as np
import pytest
from drawn_videos import write_video

from actalign.checkpoint import Tokenizer, find_checkpoint
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


def test_bfloat16_embeddings_of_so400ms_layers_are_those_of_float32(so400m_settings_checkpoint, cpu, frames):
    images = np.stack([resize(frame, 384) for frame in frames[:2]])
    found = find_checkpoint(str(so400m_settings_checkpoint))
    assert found.width == 1152
    half, full = (load_siglip(found, cpu, 2, dtype) for dtype in ("bfloat16", "float32"))
    assert cosines(half.encode_frames(images), full.encode_frames(images)).min() > 0.999
    assert cosines(half.encode_texts(TEXTS[:2]), full.encode_texts(TEXTS[:2])).min() > 0.999


def test_tokenizer_of_another_model_is_refused(siglip, monkeypatch):
    vocabulary = siglip._model.config.text_config.vocab_size
    monkeypatch.setattr(siglip.tokenizer, "encode", lambda texts: np.full((len(texts), 64), vocabulary))
    with pytest.raises(InputError, match="more tokens than the model"):
        siglip.encode_texts(["a"])


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


def test_embeddings_that_are_not_finite_are_an_error_in_a_line(checkpoint, cpu):
    siglip = load_siglip(find_checkpoint(str(checkpoint)), cpu, 1, "float32")
    siglip._model.vision_model.head.layernorm.bias.data.fill_(float("nan"))
    with pytest.raises(StageError, match="NaN") as caught:
        siglip.encode_frames(np.zeros((1, 48, 48, 3), np.uint8))
    assert "\n" not in str(caught.value)


def test_any_number_of_texts_comes_one_by_one_and_is_encoded_in_batches(siglip, monkeypatch):
    sizes, encode = [], siglip.encode_texts
    monkeypatch.setattr(siglip, "encode_texts", lambda texts: sizes.append(len(texts)) or encode(texts))
    texts = [f"jump {number}" for number in range(12)]
    rows = list(siglip.iter_texts(texts))
    assert sizes == [5, 5, 2]
    assert np.array_equal(rows, np.concatenate([encode([text]) for text in texts]))
    assert list(siglip.iter_texts([])) == []


def test_a_reading_tells_whether_a_texts_end_is_cut_off(siglip):
    fits, cut = "a" * 23, "a" * 24  # and the end token: 24 and 25 of the 24 tokens that the checkpoint reads
    assert [reading.is_cut for reading in siglip.tokenizer.read([fits, cut, "b", cut + "c"])] == [False, True] * 2
    assert siglip.tokenizer.read([]) == []
    assert not np.array_equal(siglip.encode_texts([fits]), siglip.encode_texts(["a" * 22]))
    assert np.array_equal(siglip.encode_texts([cut + "b"]), siglip.encode_texts([cut + "cc"]))


# What the tokenizer makes of texts


CHINESE = ["快速助跑", "双腿分开", "屈膝下蹲", "头朝前扑"]  # four characters each, so that their tokens are the same


def test_texts_of_which_the_tokenizer_knows_little_are_unknown(siglip):
    texts = [*CHINESE, "Прыжок", "🤸", "", "jump 跳跃起来", "jump up 跳", "élan, née", "JUMP up!", "!!"]
    unknown = [text for text, reading in zip(texts, siglip.tokenizer.read(texts), strict=True) if reading.is_unknown]
    assert unknown == [*CHINESE, "Прыжок", "🤸", ""]


def test_texts_are_unknown_to_the_sentencepiece_tokenizer_of_siglip_1_too(tmp_path):
    import sentencepiece
    import transformers

    (tmp_path / "corpus.txt").write_text("bends the knees and jumps\nraises both arms over the head\n" * 50)
    sentencepiece.SentencePieceTrainer.train(
        input=tmp_path / "corpus.txt", model_prefix=tmp_path / "spiece", vocab_size=60, hard_vocab_limit=False,
        pad_id=-1, bos_id=-1, eos_id=1, unk_id=2, minloglevel=2)
    tokenizer = Tokenizer(transformers.SiglipTokenizer(str(tmp_path / "spiece.model")), 64)
    texts = [*CHINESE, "Bends the knees!", "raises the 手", "!!"]  # of which SigLIP 1 strips punctuation
    assert [reading.is_unknown for reading in tokenizer.read(texts)] == [True] * 4 + [False, False, True]
    assert len({reading.tokens for reading in tokenizer.read(CHINESE)}) == 1


def test_readings_are_the_same_where_embeddings_are(siglip):
    cut = "a" * 24
    texts = ["Jump", "jump", "jump ", *CHINESE[:2], cut[1:], cut + "b", cut + "c", cut[2:] + "b"]
    readings, embeddings = siglip.tokenizer.read(texts), [siglip.encode_texts([text])[0] for text in texts]
    for i, j in itertools.combinations(range(len(texts)), 2):
        assert (readings[i].tokens == readings[j].tokens) == np.array_equal(embeddings[i], embeddings[j]), (i, j)

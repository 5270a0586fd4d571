"""What tests share: drawn clips, tiny SigLIP checkpoints, and real video files where there are some; all offline."""

import json
import os
import shutil
import signal
import tempfile
from pathlib import Path

import pytest
from chat_server import Server

from actalign import console

ROOT = Path(__file__).resolve().parent.parent

os.environ["HF_HUB_OFFLINE"] = "1"  # read when the libraries are imported, and by the processes that tests start
os.environ["TOKENIZERS_PARALLELISM"] = "false"
CACHE = tempfile.TemporaryDirectory(prefix="actalign-tests-")  # removed when this process ends
os.environ["XDG_CACHE_HOME"] = CACHE.name  # what is remembered of checkpoints that tests make is not the user's
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's job in the background ignores it, and its children

SLOWEST = ("test_crashes.py", "test_cluster.py")  # minutes each

# google/siglip-so400m-patch14-384 as its config.json has it, but for its 27 layers.
SO400M_VISION = {"hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 2, "num_attention_heads": 16,
                 "image_size": 384, "patch_size": 14}
SO400M_TEXT = {"hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 2, "num_attention_heads": 16,
               "vocab_size": 32_000, "max_position_embeddings": 64, "projection_size": 1152}

TINY_VISION = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2,
               "image_size": 48, "patch_size": 8}
TINY_TEXT = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2,
             "vocab_size": 300, "max_position_embeddings": 24, "projection_size": 64}


def pytest_collection_modifyitems(items):
    """Have the files that take minutes come first, so that no core waits for them at the end."""
    items.sort(key=lambda item: item.path.name not in SLOWEST)


@pytest.fixture(autouse=True)
def no_progress_lines(monkeypatch):
    """However slow the machine, a run in this process says only what the test is about."""
    monkeypatch.setattr(console, "LOG_INTERVAL", 36_000)


@pytest.fixture(scope="session")
def root():
    """The folder of the scripts."""
    return ROOT


@pytest.fixture(scope="session")
def real_videos():
    """Real video files beside the checkout, where there are some."""
    folder = ROOT.parent / "shared" / "videos"
    if not folder.is_dir():
        pytest.skip(f"no real video files in {folder}")
    return folder


@pytest.fixture(scope="session")
def demo_folder(tmp_path_factory):
    """The folder that the commands of `make demo` filled. Not to be changed."""
    from examples import demo

    folder = tmp_path_factory.mktemp("run") / "demo"
    demo.run_all(folder, "cpu")
    return folder


@pytest.fixture
def server():
    """A chat_server.Server, which answers well until a test says otherwise."""
    running = Server()
    yield running
    running.close()


# The browser

CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM_FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-component-update",
                  "--disable-background-networking", "--disable-sync")  # so that it asks for nothing of its own


@pytest.fixture(scope="session")
def browser():
    """A headless Chromium, driven by Playwright. Without one the tests are skipped, and fail where CI is set."""
    chromium = next(filter(None, map(shutil.which, CHROMIUM)), None)
    if chromium is None:
        reason = f"no browser: none of {', '.join(CHROMIUM)} is installed (apt-get install chromium)"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=chromium, args=list(CHROMIUM_FLAGS))
        yield running
        running.close()


# Checkpoints


def save_checkpoint(folder, seed=0, vision=TINY_VISION, text=TINY_TEXT):
    """Save a randomly initialised SigLIP with a tokenizer of characters, as `from_pretrained` loads it."""
    import torch
    from transformers import SiglipConfig, SiglipModel

    # </s> is pad and end: ids outside the vocabulary make transformers warn at every load.
    special = {"pad_token_id": 1, "eos_token_id": 1, "bos_token_id": 1}
    torch.manual_seed(seed)
    model = SiglipModel(SiglipConfig(vision_config=vision, text_config=text | special)).eval()
    with torch.no_grad():  # as a training leaves them: two numbers that no shorter float holds
        model.logit_scale.fill_(4.7654321 + seed / 10)
        model.logit_bias.fill_(-12.9876543 - seed / 10)
    model.save_pretrained(folder)
    save_processor(folder, vision["image_size"], text["max_position_embeddings"])
    return Path(folder)


def save_processor(folder, image_size, text_length):
    """Save an image processor and a tokenizer of characters."""
    from tokenizers import Tokenizer, models, processors
    from transformers import PreTrainedTokenizerFast, SiglipImageProcessor, SiglipProcessor

    pieces = {"<unk>": 0, "</s>": 1} | {chr(code): code - 30 for code in range(32, 127)}
    tokenizer = Tokenizer(models.BPE(vocab=pieces, merges=[], unk_token="<unk>"))
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="</s>", eos_token="</s>",
                                        unk_token="<unk>", model_max_length=text_length,
                                        model_input_names=["input_ids"])
    images = SiglipImageProcessor(size={"height": image_size, "width": image_size})
    SiglipProcessor(image_processor=images, tokenizer=tokenizer).save_pretrained(folder)


@pytest.fixture(scope="session")
def make_checkpoint():
    """save_checkpoint(folder, seed=0), for tests that want more than one or spoil theirs."""
    return save_checkpoint


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """A folder with a tiny SigLIP: frames of 48 pixels, texts of 24 tokens, 64 features. Not to be changed."""
    return save_checkpoint(tmp_path_factory.mktemp("checkpoint") / "tiny-siglip")


@pytest.fixture(scope="session")
def so400m_settings_checkpoint(tmp_path_factory):
    """A folder with a SigLIP of so400m's settings, cut to two layers a tower. Not to be changed."""
    folder = tmp_path_factory.mktemp("so400m")
    yield save_checkpoint(folder / "so400m-two-layers", vision=SO400M_VISION, text=SO400M_TEXT)
    shutil.rmtree(folder)  # half a gigabyte


# Clips


def write_manifest(path, rows):
    """Write dataset rows as .jsonl."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def videos(tmp_path_factory):
    """A folder with drawn clips and manifest.jsonl, whose rows' frames carry the numbers of `CLIPS`. Not to be changed.

    Tests that spoil a clip copy the folder.
    """
    from drawn_videos import write_video

    folder = tmp_path_factory.mktemp("videos")
    write_video(folder / "plain.mp4", 70, first=0)  # more than process_data.py hands over at once
    write_video(folder / "vp9.webm", 20, codec="libvpx-vp9", first=100)
    write_video(folder / "ten_bit.mkv", 26, codec="libx265", pixel_format="yuv420p10le", first=200)
    write_video(folder / "uneven.mp4", timestamps=[0, .1, .15, .5, .6, .65, .7, 1.1, 1.2, 1.25], first=300)
    write_video(folder / "long.mp4", 96, gop=48, b_frames=3, first=400)
    rows = [
        {"id": "plain", "video": "plain.mp4"},
        {"id": "vp9", "video": "vp9.webm"},
        {"id": "middle", "video": "long.mp4", "start_timestamp": 1.0, "end_timestamp": 1.5},
        {"id": "ten-bit", "video": "ten_bit.mkv"},
        {"id": "uneven", "video": "uneven.mp4", "start_timestamp": 0.15, "end_timestamp": 1.1},
        {"id": "end", "video": "long.mp4", "start_timestamp": 3.0, "end_timestamp": 4.0},
    ]
    write_manifest(folder / "manifest.jsonl", [
        {**row, "domain": "yoga", "choices": ["Sun Salutation", "360 flip", "Crow pose"], "answer": number % 3 + 1}
        for number, row in enumerate(rows)])
    return folder


# The numbers that the frames of each row of `videos` carry.
CLIPS = {
    "plain": list(range(70)),
    "vp9": list(range(100, 120)),
    "middle": list(range(424, 436)),
    "ten-bit": list(range(200, 226)),
    "uneven": [302, 303, 304, 305, 306],
    "end": list(range(472, 496)),
}

"""Train a tiny SigLIP from scratch on drawings of the athlete and their captions, and save it as a checkpoint.

    python examples/train_checkpoint.py --output examples/checkpoint
"""

import argparse
import math
import sys
import time
from pathlib import Path

import athlete
import numpy as np
import torch
from actions import DOMAINS, FRAME_SIZE, SUPERSAMPLING
from PIL import Image
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    AutoModel,
    AutoProcessor,
    PreTrainedTokenizerFast,
    SiglipConfig,
    SiglipImageProcessorPil,
    SiglipModel,
    SiglipProcessor,
)
from transformers.utils import logging

SEED = 7
STEPS = 2200
THREADS = 2

IMAGE_SIZE = 48  # pixels
PATCH_SIZE = 8
WIDTH = 128  # of the vision tower, and of the space that both towers share
TEXT_WIDTH = 64
TEXT_LENGTH = 32  # tokens; the sentences of the example have up to 24
VOCABULARY = 512
PAD_TOKEN, UNKNOWN_TOKEN = "</s>", "<unk>"  # as SigLIP's own tokenizer, which pads with its end token

IMAGES = 96  # a step
POSES_PER_LOOK = 4  # drawings that share a look: setting one up costs as much as half a drawing
CAPTIONS = 3  # a pose and step
DRAWING_SUPERSAMPLING = 3
HALF_WAY_SHARE = 0.2  # largest part of the way to another pose that still counts as the pose

LEARNING_RATE = 1e-3
WARM_UP_STEPS = 100
WEIGHT_DECAY = 0.05
GRADIENT_NORM = 1.0
EASY_UNTIL, HARD_FROM = 80, 420  # steps: plain pictures first, or the towers do not find each other
FIRST_LOGIT_SCALE, FIRST_LOGIT_BIAS = math.log(10.0), -5.0
TOKEN_SPREAD, POSITION_SPREAD = 1.0, 0.5  # initial standard deviations; with the small defaults nothing is learnt

WORD_DROP_RATE = 0.1
MIN_WORDS_TO_DROP = 4  # names such as "high kick" stay whole
MADE_UP_WORD_RATE = 0.3  # of sentences: a made-up word teaches the model to pass over words that it does not know
MADE_UP_WORD_LETTERS = (2, 7)
LETTERS = "abcdefghijklmnopqrstuvwxyz"

REPORT_EVERY = 100  # steps
TEST_DRAWINGS = 1000
TEST_SEED = 1_000_003  # far from SEED, which draws the training pictures


def build_tokenizer():
    """A byte-pair tokenizer learnt from the training sentences; every lower-case letter is in its alphabet.

    Pieces that begin a word are marked, or the end of "next" would be the x that stands for a pose.
    """
    sentences = [
        template.format(caption=caption, domain=domain)
        for pose in athlete.POSES.values()
        for caption in pose.training
        for template in athlete.TRAINING_TEMPLATES
        for domain in DOMAINS
    ]
    tokenizer = Tokenizer(models.BPE(unk_token=UNKNOWN_TOKEN))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Whitespace(), pre_tokenizers.Metaspace(prepend_scheme="always")]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[PAD_TOKEN, UNKNOWN_TOKEN],
        initial_alphabet=list(LETTERS + "0123456789"),
        show_progress=False,
    )
    tokenizer.train_from_iterator(sentences, trainer)
    end = tokenizer.token_to_id(PAD_TOKEN)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {PAD_TOKEN}", special_tokens=[(PAD_TOKEN, end)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=PAD_TOKEN,
        pad_token=PAD_TOKEN,
        unk_token=UNKNOWN_TOKEN,
        model_max_length=TEXT_LENGTH,
        model_input_names=["input_ids"],
    )


def build_processor():
    """SigLIP's processor: bicubic resize, rescale to [0, 1], normalise to [-1, 1]; and the tokenizer."""
    images = SiglipImageProcessorPil(
        size={"height": IMAGE_SIZE, "width": IMAGE_SIZE},
        resample=Image.Resampling.BICUBIC,
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    )
    return SiglipProcessor(image_processor=images, tokenizer=build_tokenizer())


def build_model(tokenizer, width=WIDTH):
    """An untrained SiglipModel; width: of its vision tower, and of the space that both towers share."""
    end = tokenizer.eos_token_id
    config = SiglipConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": TEXT_WIDTH,
            "intermediate_size": 2 * TEXT_WIDTH,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "max_position_embeddings": TEXT_LENGTH,
            "projection_size": width,
            "bos_token_id": end,
            "eos_token_id": end,
            "pad_token_id": end,
        },
        vision_config={
            "image_size": IMAGE_SIZE,
            "patch_size": PATCH_SIZE,
            "hidden_size": width,
            "intermediate_size": 2 * width,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
        },
    )
    model = SiglipModel(config)
    with torch.no_grad():
        model.text_model.embeddings.token_embedding.weight.normal_(std=TOKEN_SPREAD)
        model.vision_model.embeddings.position_embedding.weight.normal_(std=POSITION_SPREAD)
        model.logit_scale.fill_(FIRST_LOGIT_SCALE)
        model.logit_bias.fill_(FIRST_LOGIT_BIAS)
    return model


def sentence(caption, rng):
    """A training sentence around a caption: some words dropped, sometimes one made up, in a random template."""
    words = caption.split()
    if len(words) >= MIN_WORDS_TO_DROP:
        kept = [word for word in words if rng.random() >= WORD_DROP_RATE]
        words = kept or words
    if rng.random() < MADE_UP_WORD_RATE:
        low, high = MADE_UP_WORD_LETTERS
        made_up = "".join(rng.choice(list(LETTERS), size=rng.integers(low, high + 1)))
        words = [made_up, *words] if rng.random() < 0.5 else [*words, made_up]
    template = str(rng.choice(athlete.TRAINING_TEMPLATES))
    return template.format(caption=" ".join(words), domain=str(rng.choice(DOMAINS)))


def draw_batch(rng, difficulty, poses):
    """Training pictures (IMAGES, IMAGE_SIZE, IMAGE_SIZE, 3) uint8 and the index of each one's pose (IMAGES,)."""
    vectors = [pose.vector() for pose in poses]
    style = athlete.TRAINING_STYLE
    pictures, labels = [], rng.integers(len(vectors), size=IMAGES)
    for number, label in enumerate(labels):
        if number % POSES_PER_LOOK == 0:
            look = athlete.sample_look(rng, style, difficulty)
        other = vectors[rng.integers(len(vectors))]
        pose = athlete.blend(vectors[label], other, difficulty * rng.uniform(0.0, HALF_WAY_SHARE))
        pose = athlete.perturb(pose, rng, style.pose_noise)
        pictures.append(athlete.draw(pose, look, IMAGE_SIZE, DRAWING_SUPERSAMPLING, rng))
    return np.stack(pictures), labels


def caption_batch(rng, poses):
    """CAPTIONS training sentences for each pose, pose by pose, and the index of each one's pose."""
    sentences, labels = [], []
    for label, pose in enumerate(poses):
        for caption in rng.choice(pose.training, size=CAPTIONS, replace=False):
            sentences.append(sentence(str(caption), rng))
            labels.append(label)
    return sentences, np.array(labels)


def tokenize(tokenizer, sentences):
    """Token ids (N, TEXT_LENGTH) of sentences."""
    return tokenizer(sentences, padding="max_length", truncation=True, return_tensors="pt")["input_ids"]


def sigmoid_loss(logits, matches):
    """SigLIP's loss: every pair of picture and sentence is one yes-or-no question. logits and matches (N, M), bool."""
    signs = torch.where(matches, 1.0, -1.0)
    return -torch.nn.functional.logsigmoid(signs * logits).sum(dim=1).mean()


def build_optimizer(model, steps):
    """AdamW with decay on matrices only, and a schedule that warms up and then falls along a cosine to zero."""
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    others = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": WEIGHT_DECAY}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=LEARNING_RATE, betas=(0.9, 0.98))

    def factor(step):
        if step < WARM_UP_STEPS:
            return (step + 1) / WARM_UP_STEPS
        return 0.5 * (1.0 + math.cos(math.pi * (step - WARM_UP_STEPS) / max(1, steps - WARM_UP_STEPS)))

    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


def train(model, tokenizer, steps, seed, poses=None, wrong_captions=0.0):
    """Train in place on the first so many poses, or all. Returns the mean loss over the last REPORT_EVERY steps.

    wrong_captions: share of pictures that are shown as another pose than theirs
    """
    rng = np.random.default_rng(seed)
    shown = list(athlete.POSES.values())[:poses]
    optimizer, schedule = build_optimizer(model, steps)
    model.train()
    losses, hits, started = [], [], time.monotonic()
    for step in range(1, steps + 1):
        difficulty = min(1.0, max(0.0, (step - EASY_UNTIL) / (HARD_FROM - EASY_UNTIL)))
        pictures, labels = draw_batch(rng, difficulty, shown)
        if wrong_captions:
            labels = np.where(rng.random(IMAGES) < wrong_captions, rng.integers(len(shown), size=IMAGES), labels)
        sentences, sentence_poses = caption_batch(rng, shown)
        pixels = torch.from_numpy(pictures).permute(0, 3, 1, 2).contiguous().float() / 127.5 - 1.0  # (N, 3, H, W)
        logits = model(input_ids=tokenize(tokenizer, sentences), pixel_values=pixels).logits_per_image
        loss = sigmoid_loss(logits, torch.from_numpy(labels[:, None] == sentence_poses[None, :]))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), GRADIENT_NORM)
        optimizer.step()
        schedule.step()

        losses.append(loss.item())
        hits.append(float((sentence_poses[logits.argmax(dim=1).numpy()] == labels).mean()))
        if step % REPORT_EVERY == 0 or step == steps:
            rate = step / (time.monotonic() - started)
            print(
                f"step {step}/{steps}  loss {np.mean(losses[-REPORT_EVERY:]):.3f}  "
                f"accuracy {np.mean(hits[-REPORT_EVERY:]):.1%}  {rate:.2f} steps/s  "
                f"{(steps - step) / rate / 60:.1f} min left",
                file=sys.stderr,
                flush=True,
            )
    model.eval()
    return float(np.mean(losses[-REPORT_EVERY:]))


def new_drawings(style, seed):
    """New pictures, drawn at the size of a clip's frames, and the index of each one's pose."""
    rng = np.random.default_rng(seed)
    vectors = [pose.vector() for pose in athlete.POSES.values()]
    labels = np.arange(TEST_DRAWINGS) % len(vectors)
    pictures = []
    for label in labels:
        pose = athlete.perturb(vectors[label], rng, style.pose_noise)
        pictures.append(athlete.draw(pose, athlete.sample_look(rng, style), FRAME_SIZE, SUPERSAMPLING, rng))
    return pictures, labels


@torch.inference_mode()
def encode_pictures(model, processor, pictures):
    """Normalised embeddings (N, D) of RGB arrays, through the processor's own resizing."""
    pixels = processor.image_processor(images=[Image.fromarray(p) for p in pictures], return_tensors="pt")
    features = model.get_image_features(pixel_values=pixels["pixel_values"]).pooler_output
    return torch.nn.functional.normalize(features, dim=-1).numpy()


@torch.inference_mode()
def encode_sentences(model, processor, sentences):
    """Normalised embeddings (N, D) of sentences."""
    features = model.get_text_features(input_ids=tokenize(processor.tokenizer, sentences)).pooler_output
    return torch.nn.functional.normalize(features, dim=-1).numpy()


def pose_accuracy(model, processor, pictures, labels, caption_sets):
    """Share of pictures whose pose is told right, averaged over caption sets with one sentence a pose each."""
    images = encode_pictures(model, processor, pictures)
    guesses = [(images @ encode_sentences(model, processor, texts).T).argmax(axis=1) for texts in caption_sets]
    return float(np.mean([guess == labels for guess in guesses]))


def evaluate(checkpoint):
    """Frame-to-pose accuracies of a saved checkpoint on new drawings, by a line of description."""
    model, processor = AutoModel.from_pretrained(checkpoint).eval(), AutoProcessor.from_pretrained(checkpoint)
    poses = athlete.POSES.values()
    training = [[pose.training[i] for pose in poses] for i in range(len(next(iter(poses)).training))]
    held_out = [[pose.held_out[i] for pose in poses] for i in range(len(next(iter(poses)).held_out))]
    in_templates = [
        [template.format(caption=caption) for caption in captions]
        for captions in held_out
        for template in athlete.HELD_OUT_TEMPLATES[1:]
    ]
    figures = {}
    for look, style in (("training looks", athlete.TRAINING_STYLE), ("test looks", athlete.TEST_STYLE)):
        pictures, labels = new_drawings(style, TEST_SEED)
        for texts, caption_sets in (
            ("training captions", training),
            ("held-out captions", held_out),
            ("held-out captions in held-out sentences", in_templates),
        ):
            figures[f"{look}, {texts}"] = pose_accuracy(model, processor, pictures, labels, caption_sets)
    return figures


def make_checkpoint(output, steps, seed, width=WIDTH, threads=THREADS, **training):
    """Train and save a checkpoint folder. Returns (loss of the last steps, number of parameters).

    training: poses and wrong_captions of `train`, for encoders that are to be weak
    """
    torch.manual_seed(seed)
    torch.set_num_threads(threads)
    processor = build_processor()
    model = build_model(processor.tokenizer, width)
    loss = train(model, processor.tokenizer, steps, seed, **training)
    model.save_pretrained(output)
    processor.save_pretrained(output)
    return loss, model.num_parameters()


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description="Train a tiny SigLIP on drawings of the athlete.")
    parser.add_argument(
        "--output", type=Path, default=Path(__file__).resolve().parent / "checkpoint", help="folder to write into"
    )
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--seed", type=int, default=SEED)
    return parser.parse_args(argv)


def main(argv=None):
    args = parse_args(argv)
    # transformers compares a SigLIP's configuration with its defaults, and warns of the defaults' own token ids.
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    loss, parameters = make_checkpoint(args.output, args.steps, args.seed)
    print(f"{args.output}: {parameters / 1e6:.2f} M parameters, loss {loss:.3f}; poses told right on new drawings:")
    for description, accuracy in evaluate(args.output).items():
        print(f"  {accuracy:6.1%}  {description}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

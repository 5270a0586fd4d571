"""Measure what the check of sub-actions finds, what several scripts are worth, and what 900 samples with three take.

    python benchmarks/texts.py --video_embeddings demo/video_embeddings.npy      after make demo

On the example, whose checkpoint knows its world, and which says nothing about real sport. The tables are printed.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "examples")]

import actions  # noqa: E402
import athlete  # noqa: E402
from confidence import area_under_curve  # noqa: E402

import seq_alignment  # noqa: E402
from actalign import alignment, artifacts, comparison, evaluation, quality  # noqa: E402
from actalign.artifacts.writer import ArrayWriter  # noqa: E402
from actalign.checkpoint import find_checkpoint  # noqa: E402
from actalign.subactions import SubActions, options_of, read_subactions  # noqa: E402
from actalign.tables import table  # noqa: E402

PLANTED, AT_ONCE = 200, 10  # faults of each kind, and of how many different options in one copy of the file
LEAST = 4  # phases; the example's actions have four to six
SCRIPTS, CORRUPTED = 3, (0.2, 0.4)
REPEATS = 5  # of corrupting all steps, each with a seed of its own
SAMPLES, PHASES, FRAMES, D = 900, 10, 194, 1152  # about what ActionAtlas and so400m have
SEED = 9
MEMORY_OF = """import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"""  # of a stage alone: a child begins with its parent's
FAULTS = ("twin made equal", "twin told in other words", "step repeated", "step repeated in other words",
          "step that never happens", "caption of another action")
STRANGE = (  # steps of no pose that is drawn
    "a goalkeeper saves the ball with both hands", "the swimmer touches the wall", "a horse jumps over the fence",
    "throwing the ball at the basket", "two players shake hands", "riding a bicycle down the hill",
    "rowing a boat across the lake", "the climber reaches the next hold")


def pose_of(text):
    """The pose that a caption tells of."""
    return next(name for name, pose in athlete.POSES.items() if any(one in text for one in pose.held_out))


def reworded(text, rng):
    """The same pose's other caption, in a sentence of the same kinds."""
    other = next(one for one in athlete.POSES[pose_of(text)].held_out if one not in text)
    return str(rng.choice(athlete.HELD_OUT_TEMPLATES)).format(caption=other)


def with_texts(subactions, texts):
    """SubActions in which options have the texts of {key: texts} instead of theirs."""
    return [replace(one, texts=tuple(tuple(texts.get(key, own)) for key, own in zip(
        one.sample.keys, one.texts, strict=True))) for one in subactions]


# What the check finds


def plant(kind, key, scripts, twins, captions, rng):
    """(texts of an option with a fault, place of the fault or None)."""
    texts, m = list(scripts[key]), int(rng.integers(1, len(scripts[key])))
    if kind == "twin made equal":
        return scripts[twins[key]], None
    if kind == "twin told in other words":
        return [reworded(text, rng) for text in scripts[twins[key]]], None
    if kind.startswith("step repeated"):
        other = texts[rng.integers(m)]
        texts[m] = other if kind == "step repeated" else reworded(other, rng)
    elif kind == "step that never happens":
        texts[m] = str(rng.choice(STRANGE))
    else:
        poses = {pose_of(text) for text in texts}
        texts[m] = str(rng.choice([one for one in captions if pose_of(one) not in {*poses, "stand"}]))
    return texts, m


def measure_check(subactions, encoder, video, count):
    """Print what is found of planted faults, and what of the clean file."""
    scripts = {key: texts for one in subactions for key, texts in zip(one.sample.keys, one.texts, strict=True)}
    names = {f"{one.name.lower()} in {one.domain}": f"{one.twin.lower()} in {one.domain}"
             for one in actions.all_actions()}
    twins = {key: names[key] for key in scripts}
    together = {frozenset(pair) for one in subactions for pair in ((key, twins[key]) for key in one.sample.keys)
                if set(pair) <= set(one.sample.keys)}
    captions = sorted({text for texts in scripts.values() for text in texts})
    check = quality.Check(subactions, LEAST, encoder.tokenizer, encoder, video)
    clean = [one for one in check.findings(subactions) if one.kind != quality.OTHER_ORDER]
    rows = [("planted", "found", "figure", "of clean ones")]
    by_kind = defaultdict(set)
    for one in clean:
        by_kind[one.kind].update((key, one.script) for key in filter(None, (one.key, one.other)))
    false = {kind: len(by_kind[kind]) / len(scripts) for kind in (quality.SAME, quality.REPEATED, quality.NEVER)}
    for kind in FAULTS:
        rng, found, figures, clean_figures, done = np.random.default_rng([SEED, FAULTS.index(kind)]), 0, [], [], 0
        keys = sorted(key for key in scripts if not kind.startswith("twin") or frozenset((key, twins[key])) in together)
        while done < count:
            chosen = rng.choice(keys, min(AT_ONCE, count - done, len(keys)), replace=False).tolist()
            if kind.startswith("twin"):  # one of a pair at a time
                chosen = [key for n, key in enumerate(chosen) if twins[key] not in chosen[:n]]
            planted = {key: plant(kind, key, scripts, twins, captions, rng) for key in chosen}
            copy = with_texts(subactions, {key: texts for key, (texts, _) in planted.items()})
            if kind in FAULTS[:4]:
                for one in quality.Check(copy, LEAST, encoder.tokenizer, encoder).findings(copy):
                    if kind.startswith("twin"):
                        hit = [key for key in chosen if one.kind == quality.SAME and {key, twins[key]} == {
                            one.key, one.other}]
                    else:
                        hit = [one.key] if one.key in planted and (
                            one.kind == quality.REPEATED or "repeated" in one.problem) else []
                    found += len(hit)
                    figures += [one.figure or 1.0 for _ in hit]
            else:
                for (key, _, _), (_, margins) in check.margins(copy).items():
                    place = planted.get(key, (None, None))[1]
                    lacking = 1 - margins / check._margin
                    figures += [lacking[place]] if place is not None else []
                    clean_figures += [one for m, one in enumerate(lacking) if m != place]
                found = np.count_nonzero(np.array(figures) >= quality.NOT_FOUND)
            done += len(chosen)
        if clean_figures:
            values, lost = np.array(figures), np.array(clean_figures)
            shown = f"AUROC {area_under_curve(values, lost):.3f}"
            alarms = f"{100 * np.mean(lost >= quality.NOT_FOUND):.1f}% of steps"
        else:
            shown = f"{np.median(figures):.2f} in the median"
            alarms = f"{100 * false[quality.SAME if kind.startswith('twin') else quality.REPEATED]:.1f}% of options"
        rows.append((kind, f"{found} of {done} ({100 * found / done:.1f}%)", shown, alarms))
    print(*table(rows), sep="\n")
    print(f"the clean file: {len(scripts)} options, {len(clean)} findings")
    print(*(f"  {one}" for one in clean), sep="\n")


# Several scripts


def measure_scripts(subactions, encoder, video):
    """Print the accuracy of one corrupted script and of the mean of several, with a paired test."""
    captions = sorted({text for one in subactions for texts in one.texts for text in texts})
    embeddings = dict(zip(captions, encoder.iter_texts(captions), strict=True))
    rows = [("method", "steps wrong", "one script", "mean of three", "gain", "p")]
    for method_name, method in alignment.METHODS.items():
        for share in (0.0, *CORRUPTED):
            ones, means = [], []
            for repeat in range(REPEATS if share else 1):
                rng = np.random.default_rng([SEED, round(100 * share), repeat])
                corrupted = [SubActions(one.sample, first, tuple(more)) for one, (first, *more) in (
                    (one, [corrupt(one, share, captions, rng) for _ in range(SCRIPTS)]) for one in subactions)]
                with tempfile.TemporaryDirectory() as folder:
                    path = Path(folder) / "texts.npy"
                    write_texts(path, corrupted, embeddings, video.meta)
                    texts = artifacts.read_array(path, "subaction_embeddings")
                    ones += hits_of(subactions, video, texts, method, "first")
                    means += hits_of(subactions, video, texts, method, "mean")
            ones, means = np.array(ones), np.array(means)
            p = comparison.mcnemar(np.count_nonzero(means & ~ones), np.count_nonzero(ones & ~means))
            rows.append((method_name, f"{100 * share:.0f}%", str(evaluation.accuracy(ones)),
                         str(evaluation.accuracy(means)), str(evaluation.gain(means, ones)), comparison.p_text(p)))
    print("\n".join("  ".join(row) for row in rows))


def hits_of(subactions, video, texts, method, scripts):
    """[whether the answer came first] of every sample."""
    def matrices_of(sample, kinds):
        return seq_alignment.similarities(sample, video, texts, 1, kinds, scripts=scripts)

    samples = [one.sample for one in subactions]
    return [one.is_right for one in seq_alignment.predict(samples, method, matrices_of, scripts=scripts)]


def corrupt(of_sample, share, captions, rng):
    """The texts of a SubActions of which a share is any other caption of the file."""
    return tuple(tuple(str(rng.choice(captions)) if rng.random() < share else text for text in texts)
                 for texts in of_sample.texts)


def write_texts(path, subactions, embeddings, meta):
    settings = {name: meta[name] for name in ("checkpoint", "logit_scale", "logit_bias", "dtype")}
    with ArrayWriter(path, "subaction_embeddings", settings) as writer:
        for one in subactions:
            rows = np.stack([embeddings[text] for script in one.scripts for texts in script.texts for text in texts])
            writer.append(one.sample.id, rows, **options_of(one, writer.row_count))


# Size


def measure_size(folder, checkpoint):
    """Print what 900 samples with three scripts take: files, memory and time of every stage."""
    rng, words = np.random.default_rng(SEED), [f"{a} {b}" for a in ["left", "right", "near", "far", "both"] for b in
                                               ["arm", "leg", "hand", "foot", "knee", "hip", "elbow", "head"]]
    entries = []
    for n in range(SAMPLES):
        keys = [f"move {n} {k} in sport" for k in range(5)]
        scripts = [{key: [f"the {rng.choice(words)} goes to the {rng.choice(words)}, then to the {rng.choice(words)}"
                          for _ in range(PHASES)] for key in keys} for _ in range(SCRIPTS)]
        entries.append({"id": f"clip-{n}", "domain": "sport", "cleaned_options": [key[:-9] for key in keys],
                        "correct_answer_index": 0, "subactions": scripts[0], "more_subactions": scripts[1:]})
    path = folder / "generated.json"
    path.write_text(json.dumps(entries))
    settings = {"checkpoint": checkpoint.fingerprint, "logit_scale": checkpoint.logit_scale,
                "logit_bias": checkpoint.logit_bias, "dtype": "float32"}
    width = 128  # the example's; texts and frames of so400m have 9 times the bytes
    with ArrayWriter(folder / "videos.npy", "video_embeddings", settings) as writer:
        for n in range(SAMPLES):
            writer.append(f"clip-{n}", rng.standard_normal((FRAMES, width), dtype=np.float32), fps=32.0)
    texts, videos = folder / "texts.npy", folder / "videos.npy"
    align = ["seq_alignment.py", "--subactions", path, "--video_embeddings", videos, "--subaction_embeddings", texts]
    stages = {
        "generate_subactions.py --check": ["generate_subactions.py", "--check", path],
        "... --text_model": ["generate_subactions.py", "--check", path, "--text_model", checkpoint.name,
                             "--device", "cpu"],
        "... --video_embeddings": ["generate_subactions.py", "--check", path, "--text_model", checkpoint.name,
                                   "--video_embeddings", videos, "--device", "cpu"],
        "encode_subactions.py": ["encode_subactions.py", "--subactions", path, "--output", texts, "--model",
                                 checkpoint.name, "--device", "cpu"],
        "seq_alignment.py": align,
        "... --scripts mean": [*align, "--scripts", "mean"],
        "... --scripts mean --method recommended --output": [*align, "--scripts", "mean", "--method", "recommended",
                                                             "--output", folder / "predictions.json"],
    }
    rows = [("stage", "s", "MB of memory")]
    for name, command in stages.items():
        began = time.monotonic()
        ran = subprocess.run([sys.executable, "-c", MEMORY_OF, sys.executable, *map(str, command)], cwd=ROOT, text=True,
                             env={**os.environ, "HF_HUB_OFFLINE": "1"}, capture_output=True, check=True)
        rows.append((name, f"{time.monotonic() - began:.1f}", f"{int(ran.stdout) / 1024:.0f}"))
    print(*table(rows), sep="\n")
    print(*table([("file", "MB"), *((file.name, f"{file.stat().st_size / 1e6:.1f}")
                                    for file in sorted(folder.iterdir()))]), sep="\n")


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--video_embeddings", default=ROOT / "demo" / "video_embeddings.npy", type=Path,
                        help="of the example (default: those of make demo)")
    parser.add_argument("--planted", type=int, default=PLANTED, help="faults of each kind (default: %(default)s)")
    parser.add_argument("--parts", nargs="+", default=["check", "scripts", "size"], help="which (default: all)")
    args = parser.parse_args(argv)
    import torch

    from actalign.siglip import load_siglip

    checkpoint = find_checkpoint(str(ROOT / "examples" / "checkpoint"))
    encoder = load_siglip(checkpoint, torch.device("cpu"), 64, "float32")
    subactions = read_subactions(ROOT / "examples" / "generated_subactions.json")
    video = artifacts.read_array(args.video_embeddings, "video_embeddings")
    if "check" in args.parts:
        measure_check(subactions, encoder, video, args.planted)
    if "scripts" in args.parts:
        measure_scripts(subactions, encoder, video)
    if "size" in args.parts:
        with tempfile.TemporaryDirectory() as folder:
            measure_size(Path(folder), checkpoint)


if __name__ == "__main__":
    main()

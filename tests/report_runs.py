"""Runs of seq_alignment.py on made-up artifacts whose texts do their worst, for the tests of report and figures."""

import numpy as np
from made_artifacts import CHECKPOINT, make_entries, random_rows, write_entries, write_subaction_embeddings

import seq_alignment
from actalign.artifacts import read_array
from actalign.artifacts.writer import ArrayWriter
from actalign.evaluation import Prediction
from actalign.predictions import write_predictions
from actalign.subactions import read_subactions

INJECTED = '<img src=x onerror="document.title=\'hacked\'">'
HOSTILE = [
    INJECTED,
    "</script><script>document.title='hacked'</script><!--",
    "קפיצה \u202eמעלה ثم لفة",
    "🤸 flip \U0001f469\u200d\U0001f680 & <b>bold</b> \"quoted\" 'single' ${x} {{ 7*7 }} \u2028",
    "$\\frac{1}{0}$ costs $5, 50% & more_under^score #1",
    "ein " + "sehr langes Wort " * 29,
    "日本語のとても長いラベル" * 12,
    "x" * 500,
]
LENGTHS = {"plain": 24, "wide one": 7, INJECTED: 40, "single frame": 1, "no/frames": 12}


def make_run(folder, lengths=None, answers=None, frame_size=(32, 48), without_frames=("no/frames",), fields=None):
    """Write artifacts of samples {id: T} into `folder`; options and sub-actions are those of HOSTILE, three a sample.

    fields: function of T that returns what the index of the video embeddings says of a clip, instead of its timestamps.
    Returns the arguments of seq_alignment.py for them.
    """
    lengths = lengths or LENGTHS
    options = {id: [HOSTILE[(n + k) % len(HOSTILE)] for k in range(3)] for n, id in enumerate(lengths)}
    entries = make_entries(options, dict.fromkeys(lengths, 1) if answers is None else answers)
    for n, entry in enumerate(entries):
        entry["question"] = HOSTILE[n % len(HOSTILE)]
        entry["subactions"] = {key: [f"{text} {m}" for m, text in enumerate(HOSTILE[k:k + 4])]
                               for k, key in enumerate(entry["subactions"])}
    write_entries(folder / "generated.json", entries)
    frames = _write_frames(folder / "frames.npy", {id: T for id, T in lengths.items() if id not in without_frames},
                           frame_size)
    with ArrayWriter(folder / "videos.npy", "video_embeddings", CHECKPOINT, {"model": INJECTED}) as writer:
        for id, T in lengths.items():
            checksum = frames.item(id)["checksum"] if id in frames else ""
            told = fields(T) if fields else {"fps": 25.0, "timestamps": [t / 25 for t in range(T)]}
            writer.append(id, random_rows(T, f"{id} video", 0), frames_checksum=checksum, **told)
    write_subaction_embeddings(folder, entries, name="texts.npy")
    return ["--subactions", str(folder / "generated.json"), "--video_embeddings", str(folder / "videos.npy"),
            "--subaction_embeddings", str(folder / "texts.npy"), "--device", "cpu", "--smooth", "1"]


def _write_frames(path, lengths, size):
    """Frames whose red says which frame they are: 5 t."""
    with ArrayWriter(path, "frames", {"image_size": size[0], "fps": None}) as writer:
        for id, T in lengths.items():
            frames = np.zeros((T, *size, 3), np.uint8)
            frames[..., 0] = 5 * np.arange(T)[:, None, None]
            writer.append(id, frames, fps=25.0, timestamps=[t / 25 for t in range(T)])
    return read_array(path, "frames")


def write_other_predictions(path, folder, change=lambda samples: samples, name="mean <pool>"):
    """Write predictions of another method: the last option of every sample of the run in `folder`."""
    samples = change([script.sample for script in read_subactions(folder / "generated.json")])
    write_predictions(path, {"name": name}, {}, [
        Prediction(sample, np.arange(len(sample.options), dtype=float)) for sample in samples], {})
    return str(path)


def run_all(folder, *more):
    """A run with everything asked for; returns its folder."""
    arguments = make_run(folder)
    other = write_other_predictions(folder / "other.json", folder)
    assert seq_alignment.main([*arguments, "--output", str(folder / "predictions.json"), "--report",
                               str(folder / "report.html"), "--frames", str(folder / "frames.npy"), "--compare", other,
                               *more]) == 0
    return folder

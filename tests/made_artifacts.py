"""Small artifacts with made-up embeddings, for tests of the stages that need no model."""

import json

import numpy as np

from actalign.artifacts.writer import ArrayWriter

CHECKPOINT = {"checkpoint": "0123456789abcdef", "logit_scale": 2.0, "logit_bias": -1.0, "dtype": "float32"}
D = 8


def make_entries(options_of, answers=None, phases=3):
    """Entries of generated_subactions.json: {id: options} with `phases` made-up texts an option."""
    return [{
        "youtube_id": None, "id": id, "domain": "sport", "action": None, "question": None,
        "cleaned_options": list(options), "correct_answer_index": (answers or {}).get(id, 0),
        "subactions": {f"{option} in sport": [f"{option} phase {m}" for m in range(phases)]
                       for option in options},
    } for id, options in options_of.items()]


def write_entries(path, entries):
    """Write generated_subactions.json."""
    path.write_text(json.dumps(entries), encoding="utf-8")
    return path


def write_frames_index(folder, entries, image_size=4, name="processed_dataset.npy"):
    """Write a dataset with two black frames a sample."""
    path = folder / name
    with ArrayWriter(path, "frames", {"image_size": image_size, "fps": None}) as writer:
        for entry in entries:
            fields = {key: value for key, value in entry.items() if key not in ("id", "subactions")}
            writer.append(entry["id"], np.zeros((2, image_size, image_size, 3), np.uint8), fps=25.0,
                          timestamps=[0.0, 0.04], **fields)
    return path


def write_video_embeddings(folder, lengths, seed=0, name="video_embeddings.npy", settings=CHECKPOINT, features=D):
    """Write random embeddings: {id: T}. A sample's rows depend on its id and the seed alone."""
    path = folder / name
    with ArrayWriter(path, "video_embeddings", settings, {"model": "made-up"}) as writer:
        for id, T in lengths.items():
            writer.append(id, random_rows(T, f"{id} video", seed, features), fps=25.0,
                          timestamps=[t / 25 for t in range(T)])
    return path


def write_subaction_embeddings(folder, entries, seed=0, name="encoded_subactions.npy", settings=CHECKPOINT):
    """Write random embeddings of the entries' texts; equal texts get equal rows."""
    path = folder / name
    with ArrayWriter(path, "subaction_embeddings", settings, {"model": "made-up"}) as writer:
        for entry in entries:
            options, rows, start = [], [], writer.row_count
            for key, texts in entry["subactions"].items():
                options.append({"key": key, "start": start, "stop": start + len(texts), "texts": texts})
                rows += [random_rows(1, text, seed)[0] for text in texts]
                start += len(texts)
            writer.append(entry["id"], np.stack(rows), options=options)
    return path


def random_rows(count, name, seed, features=D):
    """(count, features) float32 that depend on the name and the seed."""
    rng = np.random.default_rng([seed, *name.encode()])
    return rng.normal(size=(count, features)).astype(np.float32)

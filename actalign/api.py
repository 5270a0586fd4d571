"""What `import actalign` offers: from clips to answers, and from arrays to scores."""

import contextlib
import sys
import tempfile
from collections import namedtuple
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from actalign import alignment, confidence, phases, pipeline
from actalign.console import InputError
from actalign.files import read_json, write_json

Classified = namedtuple("Classified", "answers report")


@dataclass(frozen=True)
class Answer:
    """What is known of a clip: its answer, and the scores and phases of its K options.

    option      the answer, None where none of the options fits (`reject`) or the clip could not be scored
    confidence  of it, in 0..1, not calibrated; None where options cannot be compared by their order
    scores      {option: score}, the greater the better       phases  {option: [phase]}, see docs/artifacts.md
    reason      why there is no score, else None
    """

    id: str
    option: str | None
    confidence: float | None
    scores: dict
    phases: dict
    reason: str | None = None


def classify(clips, options=None, domain=None, subactions=None, model=None, output=None, **flags):
    """Answer clips as `python -m actalign` does: Classified(answers, report), a list of Answer and the page's path.

    clips: a video, folder, address or dataset, or a list of them    options: K names, or a text file of them
    subactions: a file, or {option: [phases in order]}; a language model is asked for what it lacks
    model: SigLIP checkpoint    output: folder of all artifacts, a temporary one without it
    flags: others of that command, such as method="recommended", fps=8, device="cuda:0"
    Raises InputError for what is given and cannot be used, StageError where a stage fails.
    """
    folder = Path(output or tempfile.mkdtemp(prefix="actalign-"))
    folder.mkdir(parents=True, exist_ok=True)
    if isinstance(subactions, dict):
        write_json(folder / "own_subactions.json", subactions)
        subactions = folder / "own_subactions.json"
    given = {"options": options, "domain": domain, "subactions": subactions, "model": model, "output": folder, **flags}
    argv = _texts(clips)
    for flag, value in given.items():
        if value not in (None, False):
            argv += [f"--{flag}", *([] if value is True else _texts(value))]
    with contextlib.redirect_stdout(sys.stderr):
        try:
            args = pipeline.parse_args(argv)
        except SystemExit:  # argparse has said what is wrong
            raise InputError(f"classify: cannot use {' '.join(argv)}; the lines above say why") from None
        made = pipeline.run_all(args)
    content = read_json(made["predictions"])
    answers = [Answer(
        one["id"], None if one.get("none_of_these") else one["cleaned_options"][one["ranking"][0]],
        one.get("confidence"), dict(zip(one["cleaned_options"], one["scores"], strict=True)),
        dict(zip(one["cleaned_options"], one.get("phases", ()), strict=False))) for one in content["samples"]]
    answers += [Answer(one["id"], None, None, {}, {}, one["reason"]) for one in content["not_scored"]]
    return Classified(answers, made["report"])


def _texts(value):
    return [str(one) for one in ([value] if isinstance(value, str | Path | int | float) else value)]


@dataclass(frozen=True)
class Scores:
    """How K options align with a clip.

    scores (K,), the greater the better; paths: K of (cells, 2), [t, m]; phases: K phases.Phases (None: "unordered")
    order_p (K,): share of chance orders of the same sub-actions that align at least as well; confidence of the best
    """

    scores: np.ndarray
    paths: list | None
    phases: list | None
    order_p: np.ndarray
    confidence: float

    @property
    def best(self):
        """The index of the option that aligns best."""
        return int(np.argmax(self.scores))


def align(frame_embeddings, subaction_embeddings, logit_scale, logit_bias, method="published", smooth=1):
    """The Scores of one clip's frames (T, D) against K options, a list of (M, D): arrays of your own, of any length.

    logit_scale, logit_bias: as the SigLIP checkpoint stores them; method: a name or alignment.Method; smooth: frames
    Raises ValueError if an array is empty or a row has no direction.
    """
    method = alignment.METHODS.get(method, method)
    frames = alignment.smooth(np.ascontiguousarray(frame_embeddings, dtype=np.float32), smooth)
    matrices = [np.ascontiguousarray(alignment.similarity_of(alignment.cosines(frames, rows), logit_scale, logit_bias,
                                                             method.similarity)) for rows in subaction_embeddings]
    found = alignment.align(matrices, method.alignment, True, alignment.orders_told(method, True), method.orders > 0)
    return Scores(found.scores, found.paths, found.paths and [*map(phases.phases_of, matrices, found.paths)],
                  found.order.p, confidence.confidence_of(found.order.z, np.argmax(found.scores)))

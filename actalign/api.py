"""What `import actalign` offers: from clips to answers, and from arrays to scores."""

import contextlib
import sys
import tempfile
from collections import namedtuple
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from actalign import alignment, confidence, phases, pipeline
from actalign.artifacts import MOST_SCALE
from actalign.console import InputError
from actalign.files import write_json

Classified = namedtuple("Classified", "answers report")


def classify(clips, options=None, domain=None, subactions=None, model=None, output=None, **flags):
    """Answer clips as `python -m actalign` does: Classified(answers, report), pipeline.Answers and the page's path.

    clips: a video, folder, address or dataset, or a list of them    options: K names, or a text file of them
    subactions: a file, or {option: [phases in order]}; a language model is asked for what it lacks
    model: SigLIP checkpoint    output: folder of all artifacts, a temporary one without it
    flags: others of that command, such as method="recommended", fps=8, device="cuda:0"
    Raises InputError for what is given and cannot be used, StageError where a stage fails.
    """
    folder = Path(output or tempfile.mkdtemp(prefix="actalign-"))
    if isinstance(subactions, dict):
        try:
            write_json(pipeline.made_folder(folder) / "own_subactions.json", subactions)
        except TypeError as error:
            raise InputError(f"subactions: {error}; give {{option: [phases in order]}}, all of them texts") from None
        subactions = folder / "own_subactions.json"
    argv = pipeline.texts_of(clips) + pipeline.flags_of(
        options=options, domain=domain, subactions=subactions, model=model, output=folder, **flags)
    with contextlib.redirect_stdout(sys.stderr):
        try:
            made = pipeline.run_all(pipeline.parse_args(argv))
        except SystemExit:  # argparse has said what is wrong
            raise InputError(f"classify: cannot use {' '.join(argv)}; the lines above say why") from None
    return Classified(pipeline.read_answers(made), made["report"])


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
    """The Scores of one clip's frames (T, D) against K options, a list of (M, D): arrays or tensors, of any length.

    logit_scale, logit_bias: as the SigLIP checkpoint stores them, the scale as a logarithm
    method: a name or alignment.Method    smooth: frames
    Raises ValueError if one of them cannot be used, as an array that is empty or has a row without direction.
    """
    method, logit_scale, logit_bias = alignment.METHODS.get(method, method), float(logit_scale), float(logit_bias)
    if not isinstance(method, alignment.Method):
        raise ValueError(f"method {method!r}: is none of {', '.join(alignment.METHODS)} and no alignment.Method")
    if not abs(logit_scale) < MOST_SCALE:  # such as its exponential, 110, which would make every similarity 0 or 1
        raise ValueError(f"logit_scale {logit_scale}: is no logarithm as SigLIP's checkpoints store it, such as 4.7")
    if not (isinstance(smooth, int) and smooth > 0):
        raise ValueError(f"smooth {smooth!r}: is no number of frames from 1 on")
    frames = _rows(frame_embeddings, "frame_embeddings")
    options = [_rows(rows, f"subaction_embeddings[{k}]", frames.shape[1])
               for k, rows in enumerate(subaction_embeddings)]
    if not options:
        raise ValueError("subaction_embeddings: is empty; give an array (M, D) for every option")
    frames = alignment.smooth(frames, smooth)
    cosines = [alignment.cosines(frames, rows) for rows in options]
    matrices = [np.ascontiguousarray(alignment.similarity_of(of_option, logit_scale, logit_bias, method.similarity))
                for of_option in cosines]
    found = alignment.align(matrices, method.alignment, True, alignment.orders_told(method, True), method.orders > 0)
    return Scores(found.scores, found.paths, found.paths and [*map(phases.phases_of, matrices, found.paths)],
                  found.order.p, confidence.confidence_of(found.order.z, np.argmax(found.scores)))


def _rows(values, what, D=None):
    """An array (rows, D) of float32, of whatever a model gives; raises ValueError if it is empty or none."""
    if hasattr(values, "detach"):  # a tensor of any type, on any device
        values = values.detach().float().cpu()
    array = np.ascontiguousarray(values, dtype=np.float32)
    if array.ndim != 2 or 0 in array.shape or D not in (None, array.shape[1]):
        raise ValueError(f"{what}: has shape {array.shape}, not ({'T' if D is None else 'M'}, {D or 'D'})")
    return array

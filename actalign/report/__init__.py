"""The report and the figures that the flags of seq_alignment.py ask for. Only drawing them loads heavy libraries."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from actalign import clips, comparison, dataset, exports
from actalign.artifacts import ArrayArtifact, read_array
from actalign.console import InputError, require_folder_of, say, some_of
from actalign.download import Videos
from actalign.files import begins_with, lock
from actalign.predictions import csv_path

MOST_SAMPLES = 100  # on a page, unless --report_limit says otherwise
GENERATOR = '(?s).*content="ActAlign report"'  # in the head of page.html.jinja


@dataclass(frozen=True)
class Run:
    """What a report or a figure is made from.

    method  {"name": ..., settings}, as in predictions.json
    predictions  with paths, unless the alignment has none      not_scored  {sample id: reason}
    frames  None where they were not given
    compared_all  the methods that this one is compared with, of which the first is shown in full
    similarities  function of a Sample that returns its K matrices (T, M)
    tried, without_order  what trials.of_methods and trials.of_order give, if they were asked for
    sources  {flag: {"path", "fingerprint", ...}}, as in predictions.json
    threshold  the z of --reject and where it is from, if samples are rejected
    found  what phases.found_counts gives, where there are phases
    """

    method: dict
    predictions: list
    not_scored: dict
    video: ArrayArtifact
    subactions: ArrayArtifact
    frames: ArrayArtifact | clips.DecodedFrames | None
    compared_all: list
    similarities: Callable
    tried: list = ()
    without_order: list = ()
    sources: dict = field(default_factory=dict)
    threshold: tuple | None = None
    found: list = ()

    @property
    def name(self):
        return comparison.method_name(self.method)

    @property
    def compared(self):
        return self.compared_all[0] if self.compared_all else None

    def texts(self, sample):
        """K lists of sub-actions, in the order of the options."""
        return [option["texts"] for option in self.subactions.item(sample.id)["options"]]

    def has_frames(self, sample):
        return self.frames is not None and sample.id in self.frames


def chosen_predictions(run, ids, limit):
    """The predictions to show, and in words how they were chosen: those of `ids`, or else the `limit` most telling.

    These are taken in turns from lists of each kind, so that whatever there is of it is seen.
    """
    if ids:
        by_id = {prediction.sample.id: prediction for prediction in run.predictions}
        return [by_id[id] for id in dict.fromkeys(ids)], "named by --samples"
    if len(run.predictions) <= limit:
        return run.predictions, ""
    surest = sorted(run.predictions, key=lambda prediction: prediction.margin or 0)[::-1]
    pairs = comparison.paired(run.predictions, run.compared)
    differing = {ours.sample.id for ours, _ in comparison.disagreements(pairs)}
    not_wrong = [one for one in surest if one.is_right is not False]
    kinds = {
        f"samples on which {run.name} and {run.compared and run.compared.name} disagree":
            [one for one in surest if one.sample.id in differing],
        "wrong answers, the surest first": [one for one in surest if one.is_right is False],
        "the narrowest decisions": not_wrong[::-1], "the clearest decisions": not_wrong,
    }
    *names, last = [kind for kind, predictions in kinds.items() if predictions]
    chosen, turns = {}, itertools.cycle([iter(predictions) for predictions in kinds.values()])
    while len(chosen) < limit:
        one = next((one for one in next(turns) if one.sample.id not in chosen), None)
        if one is not None:
            chosen[one.sample.id] = one
    return list(chosen.values()), f"taken in turns from {', '.join([*names, f'and {last}']) if names else last}"


def outputs(args):
    """The lock of what the flags of seq_alignment.py ask for. Raises InputError if that cannot be written."""
    if args.report:
        report = Path(args.report)
        if args.output and report in (Path(args.output), csv_path(args.output)):
            raise InputError(f"--report {report}: is where the predictions go; choose another name")
        require_folder_of(report)
        if report.exists() and not begins_with(report, GENERATOR):
            raise InputError(f"--report {report}: is there and is no report of this program; choose another name")
    if args.figures:
        exports.require_usable(args.figures, "--figures")
    return lock(*filter(None, (args.report, args.figures)))


def open_pictures(args, video):
    """What the flags of seq_alignment.py name for pictures: frames, or a dataset's videos; None for neither.

    Raises InputError if they are not those of `video`, an ArrayArtifact of embeddings.
    """
    if args.frames or not args.dataset:
        return args.frames and open_frames(args.frames, video)
    if not clips.are_settings(video.meta):
        raise InputError(f"{video.path}: does not say how its frames were made; run encode_videos.py again, or give "
                         "--frames")
    samples = dataset.load(args)
    videos = Videos(args.videos_dir, video.path.with_suffix(".videos"), ())
    return clips.DecodedFrames(some_of(args.dataset), samples, video, videos)


def open_frames(path, video):
    """The frames at `path`, where clips may be missing. Raises InputError if `video` was made from other frames."""
    frames = read_array(path, "frames")
    shared = [id for id in video if id in frames]
    other = [id for id in shared if frames.length(id) != video.length(id)
             or video.item(id).get("frames_checksum") not in (None, "", frames.item(id)["checksum"])]
    if other or not shared:
        raise InputError(f"--frames {path}: {some_of(other) or 'all clips'} were not encoded from these frames; give "
                         f"those that {video.path} was made from, or run encode_videos.py again")
    return frames


def require_samples(ids, samples, not_scored):
    """Raise InputError unless all of `ids` can be scored."""
    known = {sample.id for sample in samples}
    for id in ids:
        if id not in known:
            raise InputError(f"--samples {id}: {not_scored.get(id, 'there is no such sample')}; name a scored one")


def write(args, run):
    """Write what the flags ask for, and say where it is."""
    if args.report:
        from actalign.report import page
        count, size = page.write(args.report, run, args.samples, args.report_limit)
        say(f"report of {count} samples ({size / 1e6:.1f} MB) -> {args.report}")
    if args.figures:
        from actalign.report import figures
        count = figures.write(args.figures, run, args.samples)
        say(f"{count} {'figure' if count == 1 else 'figures'} -> {args.figures}")

"""The report and the figures that the flags of seq_alignment.py ask for. Only drawing them loads heavy libraries."""

from pathlib import Path

from actalign.artifacts import read_array
from actalign.console import InputError, require_folder_of, some_of
from actalign.files import begins_with
from actalign.predictions import csv_path
from actalign.report.run import Run

__all__ = ["MOST_SAMPLES", "Run", "open_frames", "require_samples", "require_usable", "write"]

MOST_SAMPLES = 100  # on a page, unless --report_limit says otherwise
GENERATOR = '(?s).*content="ActAlign report"'  # in the head of page.html.jinja


def require_usable(args):
    """Raise InputError if what the flags of seq_alignment.py ask for cannot be written."""
    if args.report:
        report = Path(args.report)
        if args.output and report.resolve() in (Path(args.output).resolve(), csv_path(args.output).resolve()):
            raise InputError(f"--report {report}: is where the predictions go; choose another name")
        require_folder_of(report)
        if report.exists() and not begins_with(report, GENERATOR):
            raise InputError(f"--report {report}: is there and is no report of this program; choose another name")
    if args.figures:
        figures = Path(args.figures)
        require_folder_of(figures, is_file=False)
        if figures.exists() and not figures.is_dir():
            raise InputError(f"--figures {figures}: is no folder; choose another name")


def open_frames(path, video):
    """The frames at `path`, which must be those that `video` was made from; clips may be missing there.

    Raises InputError if they are others.
    """
    frames = read_array(path, "frames")
    shared = [id for id in video if id in frames]
    if not shared:
        raise InputError(f"--frames {path}: has none of the clips of {video.path}; give the frames it was made from")
    other = [id for id in shared if frames.length(id) != video.length(id)
             or video.item(id).get("frames_checksum") not in (None, "", frames.item(id)["checksum"])]
    if other:
        raise InputError(f"--frames {path}: {some_of(other)} were not encoded from these frames; give those that "
                         f"{video.path} was made from, or run encode_videos.py again")
    return frames


def require_samples(ids, samples, not_scored):
    """Raise InputError unless all of `ids` can be scored."""
    known = {sample.id for sample in samples}
    for id in ids:
        if id not in known:
            raise InputError(f"--samples {id}: {not_scored.get(id, 'there is no such sample')}; the ids are those of "
                             "generated_subactions.json")


def write(args, run):
    """Write what the flags ask for, and say where it is."""
    if args.report:
        from actalign.report import page
        count, size = page.write(args.report, run, args.samples, args.report_limit)
        print(f"report of {count} samples ({size / 1e6:.1f} MB) -> {args.report}")
    if args.figures:
        from actalign.report import figures
        count = figures.write(args.figures, run, args.samples)
        print(f"{count} {'figure' if count == 1 else 'figures'} -> {args.figures}")

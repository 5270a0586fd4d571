"""The report of a run: one HTML page, complete in itself, that shows why each sample was answered as it was.

Here is what the page holds, as plain records; page.html.jinja, page.css and page.js beside this file are how it
looks. The page asks nothing of any network: Plotly, the frames and all figures are inside.
"""

import base64
import hashlib
import io
import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote

import numpy as np

from actalign import artifacts, comparison, console, evaluation, tables
from actalign.console import InputError, some_of
from actalign.files import replacing
from actalign.predictions import csv_path

MOST_SAMPLES = 100  # on a page, unless --report_limit says otherwise
PAGE_FRAME_BYTES = 10_000_000  # of all samples' pictures: with Plotly and 100 samples the page stays under 25 MB
SAMPLE_FRAME_BYTES = 500_000  # of one sample's, where few share the page
MOST_FRAMES = 192  # pictures of a sample
FEWEST_FRAMES = 8
FRAME_SIZE = 96  # pixels of a picture's longer side, at most
SPRITE_COLUMNS = 16
WEBP_QUALITY = 62
LEVELS = 65_535  # of a similarity on the page
MOST_CONFUSIONS = 12
GENERATOR = "ActAlign report"


@dataclass(frozen=True)
class Run:
    """What a report or a figure is made from.

    method  {"name": ..., settings}, as in predictions.json
    predictions  with paths, unless order was ignored      not_scored  {sample id: reason}
    frames, compared  None where they were not given
    similarities  function of a Sample that returns its K matrices (T, M)
    """

    method: dict
    predictions: list
    not_scored: dict
    video: artifacts.ArrayArtifact
    subactions: artifacts.ArrayArtifact
    frames: artifacts.ArrayArtifact | None
    compared: comparison.Compared | None
    similarities: Callable

    @property
    def name(self):
        return comparison.method_name(self.method)

    def texts(self, sample):
        """K lists of sub-actions, in the order of the options."""
        by_key = {option["key"]: option["texts"] for option in self.subactions.item(sample.id)["options"]}
        return [by_key[key] for key in sample.keys]

    def timestamps(self, sample):
        """(T,) seconds from the clip's first frame, or None where the index does not tell."""
        T, times = self.video.length(sample.id), self.video.item(sample.id).get("timestamps")
        try:
            times = np.array(times, dtype=np.float64)
        except (TypeError, ValueError):
            return None
        return times - times[0] if times.shape == (T,) and np.isfinite(times).all() else None

    def has_frames(self, sample):
        return self.frames is not None and sample.id in self.frames


# What can be refused before anything is computed


def require_usable(args):
    """Raise InputError if what the flags of seq_alignment.py ask for cannot be written, or lacks a library."""
    if args.report:
        if args.output and Path(args.report).resolve() in (Path(args.output).resolve(),
                                                           csv_path(args.output).resolve()):
            raise InputError(f"--report {args.report}: is where the predictions go; choose another name")
        _require_writable(args.report)
        require_installed("--report", "plotly", "jinja2")
    if args.figures:
        folder = Path(args.figures)
        if not folder.parent.is_dir():
            raise InputError(f"--figures {folder}: the folder {folder.parent} does not exist; create it or choose "
                             "another")
        if folder.exists() and not folder.is_dir():
            raise InputError(f"--figures {folder}: is no folder; choose another name")
        require_installed("--figures", "matplotlib")


def _require_writable(report):
    """Raise InputError if the page cannot be written to `report`, or would replace a file of another kind."""
    path = Path(report)
    if not path.parent.is_dir():
        raise InputError(f"--report {path}: the folder {path.parent} does not exist; create it or choose another")
    if path.is_dir():
        raise InputError(f"--report {path}: is a folder; give the name of a file such as {path / 'report.html'}")
    if path.exists():
        with open(path, "rb") as file:
            if f'content="{GENERATOR}"'.encode() not in file.read(1000):
                raise InputError(f"--report {path}: is there and is no report of this program; choose another name")


def require_installed(flag, *modules):
    """Raise InputError if a library that `flag` needs is not there."""
    for module in modules:
        if find_spec(module) is None:
            raise InputError(f"{flag}: needs {module}, which is not installed; pip install -r requirements.txt")


def open_frames(path, video):
    """The frames at `path`, which must be those that `video` was made from; clips may be missing there.

    Raises InputError if they are others.
    """
    frames = artifacts.read_array(path, "frames")
    if len(frames.shape) != 4 or frames.shape[3] != 3 or frames.dtype != np.uint8:
        raise InputError(f"--frames {path}: holds no RGB frames; give the output of process_data.py")
    other = []
    for id in video:
        if id in frames:
            checksum = video.item(id).get("frames_checksum")
            if frames.length(id) != video.length(id) or (checksum and checksum != frames.item(id)["checksum"]):
                other.append(id)
    if other:
        raise InputError(f"--frames {path}: {some_of(other)} were not encoded from these frames; give those that "
                         f"{video.path} was made from, or run encode_videos.py again")
    if not any(id in frames for id in video):
        raise InputError(f"--frames {path}: has none of the clips of {video.path}; give the frames it was made from")
    return frames


def require_samples(ids, samples, not_scored):
    """Raise InputError unless all of `ids` can be scored."""
    known = {sample.id for sample in samples}
    for id in ids:
        if id not in known:
            reason = not_scored.get(id, "there is no such sample")
            raise InputError(f"--samples {id}: {reason}; the ids are those of generated_subactions.json")


# Which samples


def telling(run, limit):
    """The `limit` most telling predictions, and in words how they were chosen.

    They are taken in turns from four lists, so that whatever there is of each kind is seen: samples on which only one
    of two compared methods is right, wrong answers, narrow ones and clear ones. Wrong answers begin with the greatest
    margin, where the method was surest.
    """
    if len(run.predictions) <= limit:
        return run.predictions, ""
    by_margin = sorted(run.predictions, key=lambda prediction: prediction.margin or 0)
    kinds = {}
    if run.compared:
        result = comparison.paired(run.predictions, run.compared)
        differing = {*result.first, *result.second} or {
            one.sample.id for one in run.predictions if one.sample.id in run.compared.predictions
            and not comparison.same_prediction(one, run.compared)}
        kinds[f"samples on which {run.name} and {run.compared.name} disagree"] = [
            one for one in reversed(by_margin) if one.sample.id in differing]
    kinds["wrong answers, the surest first"] = [one for one in reversed(by_margin) if one.is_right is False]
    kinds["the narrowest decisions"] = [one for one in by_margin if one.is_right is not False]
    kinds["the clearest decisions"] = kinds["the narrowest decisions"][::-1]
    kinds = {name: list(of_kind) for name, of_kind in kinds.items() if of_kind}
    chosen, queues = {}, [iter(of_kind) for of_kind in kinds.values()]
    while len(chosen) < limit:
        for queue in queues:
            one = next((one for one in queue if one.sample.id not in chosen), None)
            if one is not None and len(chosen) < limit:
                chosen[one.sample.id] = one
    return list(chosen.values()), f"taken in turns from {_listed(list(kinds))}"


def _listed(names):
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])}, and {names[-1]}"


def chosen_predictions(run, ids, limit):
    """The predictions to show, and in words how they were chosen: those of `ids`, or else the most telling."""
    if ids:
        by_id = {prediction.sample.id: prediction for prediction in run.predictions}
        return [by_id[id] for id in dict.fromkeys(ids)], "named by --samples"
    return telling(run, limit)


# One sample


def sample_record(run, prediction, frame_bytes):
    """All that the page shows of one sample, as JSON values.

    Options come in the order of their rank. `similarity` holds, option after option and sub-action after sub-action,
    T numbers of 16 bits (little-endian, base64): 0 stands for `low` and LEVELS for `high`, the extremes of the sample.
    A path is a text of moves from (0, 0): 0 to the next frame, 1 to the next sub-action, 2 to both.
    """
    sample = prediction.sample
    matrices, texts = run.similarities(sample), run.texts(sample)
    low, high = min(matrix.min() for matrix in matrices), max(matrix.max() for matrix in matrices)
    scale = LEVELS / (high - low) if high > low else 0.0
    order = [int(k) for k in prediction.ranking]
    levels = np.concatenate([np.round((matrices[k].T - low) * scale).astype("<u2").ravel() for k in order])
    times = run.timestamps(sample)
    record = {
        "id": sample.id, "question": sample.question if isinstance(sample.question, str) else None,
        "frames": len(matrices[0]), "times": None if times is None else [round(t, 4) for t in times.tolist()],
        "low": float(low), "high": float(high), "similarity": base64.b64encode(levels.tobytes()).decode(),
        "options": [{
            "name": sample.options[k], "index": k, "score": float(prediction.scores[k]), "texts": list(texts[k]),
            "answer": k == sample.answer, "path": None if prediction.paths is None else moves_of(prediction.paths[k]),
        } for k in order],
    }
    if run.compared and sample.id in run.compared.predictions:
        record["compared"] = int(run.compared.predictions[sample.id].ranking[0])
    if run.has_frames(sample):
        record["pictures"] = sprite(run.frames, sample.id, frame_bytes)
    return record


def moves_of(path):
    """The moves of a path (cells, 2) from (0, 0): a text of 0 (next frame), 1 (next sub-action) and 2 (both)."""
    t, m = np.diff(np.asarray(path), axis=0).reshape(-1, 2).T
    return "".join(map(str, (m + (t & m)).tolist()))


def sprite(frames, id, most_bytes):
    """Small pictures of a clip's frames, side by side in one image of at most so many bytes if that can be.

    Returns the image (WebP, base64), its columns, the size of a picture, and which frames are kept: evenly spaced ones,
    and fewer where the bytes do not suffice for all.
    """
    start, stop = frames.item(id)["start"], frames.item(id)["stop"]
    H, W = frames.shape[1:3]
    scale = min(1, FRAME_SIZE / max(H, W))
    height, width = max(1, round(H * scale)), max(1, round(W * scale))
    small = {}
    count = min(stop - start, MOST_FRAMES)
    while True:
        kept = np.unique(np.linspace(0, stop - start - 1, count).round().astype(int)).tolist()
        for t in kept:
            if t not in small:
                small[t] = _small(frames.read(start + t, start + t + 1)[0], width, height)
        image = _webp(_side_by_side([small[t] for t in kept]))
        if len(image) <= most_bytes or count <= FEWEST_FRAMES:
            break
        count = max(FEWEST_FRAMES, min(int(count * most_bytes / len(image)), count - 1))
    return {"image": base64.b64encode(image).decode(), "columns": SPRITE_COLUMNS, "width": width,
            "height": height, "kept": kept}


def _small(frame, width, height):
    from PIL import Image

    image = Image.fromarray(frame)
    factor = max(1, min(image.width // width, image.height // height))
    return np.asarray(image.reduce(factor).resize((width, height), Image.Resampling.BILINEAR))


def _side_by_side(pictures):
    """(n) pictures (H, W, 3) as one image of SPRITE_COLUMNS columns, the last row filled up with black."""
    rows = -(-len(pictures) // SPRITE_COLUMNS)
    H, W, _ = pictures[0].shape
    image = np.zeros((rows, H, SPRITE_COLUMNS, W, 3), np.uint8)
    for number, picture in enumerate(pictures):
        image[number // SPRITE_COLUMNS, :, number % SPRITE_COLUMNS] = picture
    return image.reshape(rows * H, SPRITE_COLUMNS * W, 3)


def _webp(image):
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(image).save(file, "webp", quality=WEBP_QUALITY, method=2)
    return file.getvalue()


# The summary


def summary(run, shown, how):
    """What the page says above its samples, as values for the template."""
    answered = [prediction for prediction in run.predictions if prediction.is_right is not None]
    page = {
        "name": run.name, "other": run.compared.name if run.compared else None,
        "scored": len(run.predictions), "answered": len(answered), "not_scored": _not_scored(run.not_scored),
        "shown": len(shown), "how": how, "ordered": run.method.get("name") != "unordered",
        "settings": _settings(run), "methods": [], "domains": [], "confusions": [], "comparison": None,
    }
    if answered:
        page["methods"] = _methods(run, answered)
        page["domains"] = _domains(run, answered)
        page["confusions"] = _confusions(answered)
    if run.compared:
        page["comparison"] = _comparison(run, {prediction.sample.id for prediction in shown})
    return page


def _accuracies(predictions):
    """The Accuracy at each of TOP_K, in percent."""
    results = [evaluation.accuracy(evaluation.top_k_hits(predictions, k)) for k in evaluation.TOP_K]
    return [{"value": 100 * one.value, "low": 100 * one.low, "high": 100 * one.high} for one in results]


def _chances(predictions):
    samples = [prediction.sample for prediction in predictions]
    return [100 * evaluation.chance(samples, k) for k in evaluation.TOP_K]


def _theirs(run, predictions):
    """The other method's predictions of those samples that it scored."""
    return [run.compared.predictions[one.sample.id] for one in predictions
            if one.sample.id in run.compared.predictions] if run.compared else []


def _methods(run, answered):
    methods = [{"name": run.name, "n": len(answered), "top": _accuracies(answered), "chance": _chances(answered)}]
    theirs = _theirs(run, answered)
    if theirs:
        methods.append({"name": run.compared.name, "n": len(theirs), "top": _accuracies(theirs),
                        "chance": _chances(theirs)})
    return methods


def _domains(run, answered):
    """Top-1 in every domain, if there is more than one."""
    by_domain = defaultdict(list)
    for prediction in answered:
        by_domain[prediction.sample.domain].append(prediction)
    rows = []
    for domain, predictions in sorted(by_domain.items()):
        theirs = _theirs(run, predictions)
        rows.append({"name": domain, "n": len(predictions), "top1": _accuracies(predictions)[0],
                     "chance": _chances(predictions)[0], "other": _accuracies(theirs)[0] if theirs else None})
    return rows if len(rows) > 1 else []


def _confusions(answered):
    """Which option was taken for which, the most frequent first: rows of at most MOST_CONFUSIONS, and how many more."""
    asked = Counter((one.sample.domain, one.sample.options[one.sample.answer]) for one in answered)
    pairs = defaultdict(list)
    for one in answered:
        if not one.is_right:
            truth, taken = one.sample.options[one.sample.answer], one.sample.options[one.ranking[0]]
            pairs[one.sample.domain, truth, taken].append(one.sample.id)
    rows = [{"domain": domain, "truth": truth, "taken": taken, "count": len(ids), "of": asked[domain, truth],
             "ids": ids} for (domain, truth, taken), ids in pairs.items()]
    rows.sort(key=lambda row: (-row["count"], -row["count"] / row["of"], row["domain"], row["truth"], row["taken"]))
    return {"rows": rows[:MOST_CONFUSIONS], "more": max(0, len(rows) - MOST_CONFUSIONS)} if rows else []


def _comparison(run, shown):
    result = comparison.paired(run.predictions, run.compared)
    shared = [one for one in run.predictions if one.sample.id in run.compared.predictions]
    differing = {*result.first, *result.second}
    rows = []
    for one in shared:
        other = run.compared.predictions[one.sample.id]
        if one.sample.id in differing or (not result.n and not comparison.same_prediction(one, run.compared)):
            options = one.sample.options
            rows.append({"id": one.sample.id, "on_page": one.sample.id in shown, "right": one.is_right,
                         "ours": options[one.ranking[0]], "theirs": options[other.ranking[0]]})
    return {
        "path": run.compared.path, "shared": len(shared), "missing": len(run.predictions) - len(shared),
        "others": len(run.compared.others), "n": result.n, "both": len(result.both), "first": len(result.first),
        "second": len(result.second), "neither": len(result.neither), "p": p_parts(result.p_value), "rows": rows,
    }


def p_parts(p):
    """(digits, power of ten or None) of a p-value in two significant digits."""
    if p >= 0.001 or p == 0:
        return comparison.p_text(p), None
    digits, _, power = f"{p:.1e}".partition("e")
    return digits, int(power)


def _not_scored(not_scored):
    by_reason = defaultdict(list)
    for id, reason in not_scored.items():
        by_reason[reason].append(id)
    return [{"reason": reason, "count": len(ids), "ids": some_of(ids, 10)} for reason, ids in by_reason.items()]


def _settings(run):
    settings = [(key.replace("_", " "), str(value)) for key, value in run.method.items()]
    read = [artifact.path for artifact in (run.video, run.subactions, run.frames) if artifact is not None]
    return [*settings, ("checkpoint", str(run.video.meta.get("model", ""))), ("made from", ", ".join(map(str, read))),
            *([("compared with", run.compared.path)] if run.compared else [])]


def row_record(run, prediction, number):
    """What the page's list says of one sample before it is opened, and what it is filtered and sorted by."""
    sample = prediction.sample
    other = run.compared.predictions.get(sample.id) if run.compared else None
    words = [sample.id, sample.domain, str(sample.question or ""), *sample.options,
             *(text for texts in run.texts(sample) for text in texts)]
    return {
        "number": number, "anchor": anchor(sample.id), "id": sample.id, "domain": sample.domain,
        "right": prediction.is_right, "taken": sample.options[prediction.ranking[0]], "margin": prediction.margin,
        "truth": None if sample.answer is None else sample.options[sample.answer], "words": " ".join(words).lower(),
        "other": None if other is None else {"right": other.is_right, "taken": sample.options[other.ranking[0]]},
        "tied": prediction.is_tied,
    }


def anchor(id):
    """The name by which a sample's place on the page is linked to: #sample-<id>, percent-encoded."""
    return "sample-" + quote(id.encode("utf-8", "replace"), safe="")


# The page


def write(args, run):
    """Write what the flags ask for, and say where it is."""
    if args.report:
        count, size = write_report(args.report, run, args.samples, args.report_limit)
        print(f"report of {count} samples ({size / 1e6:.1f} MB) -> {args.report}")
    if args.figures:
        from actalign.report import figures

        drawn = figures.write_figures(args.figures, run, args.samples)
        print(f"{len(drawn)} {'figure' if len(drawn) == 1 else 'figures'} -> {args.figures}")


def write_report(path, run, ids=None, limit=MOST_SAMPLES):
    """Write the page in one step. ids: the samples to show; without them the `limit` most telling ones.

    Returns (number of samples on the page, bytes).
    """
    shown, how = chosen_predictions(run, ids, limit)
    with_frames = sum(run.has_frames(prediction.sample) for prediction in shown)
    frame_bytes = min(SAMPLE_FRAME_BYTES, PAGE_FRAME_BYTES // max(1, with_frames))
    records = []
    with console.progress(len(shown), "samples on the page") as bar:
        for prediction in shown:
            records.append(_escaped_json(sample_record(run, prediction, frame_bytes)))
            bar.update()
    rows = [row_record(run, prediction, number) for number, prediction in enumerate(shown)]
    page = render(summary(run, shown, how), rows, records).encode("utf-8", "replace")
    with replacing(path, binary=True) as file:
        file.write(page)
    return len(shown), len(page)


def render(page, rows, records):
    """The HTML of the page: `page` as `summary` makes it, a row and a record (escaped JSON) of every sample."""
    import jinja2
    from plotly.offline import get_plotlyjs

    folder = Path(__file__).parent
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(folder), autoescape=True, trim_blocks=True,
                                     lstrip_blocks=True, undefined=jinja2.StrictUndefined)
    environment.filters.update(percent=lambda value: f"{value:.1f}", score=tables.score_text, anchor=anchor,
                               upfirst=lambda text: text[:1].upper() + text[1:])
    plotly, script = _script(get_plotlyjs()), _script((folder / "page.js").read_text(encoding="utf-8"))
    labels = {"name": page["name"], "other": page["other"], "ordered": page["ordered"], "levels": LEVELS}
    return environment.get_template("page.html.jinja").render(
        page=page, rows=rows, records=records, plotly=plotly, script=script,
        hashes=[_csp_hash(plotly), _csp_hash(script)],
        labels=_escaped_json(labels), style=(folder / "page.css").read_text(encoding="utf-8"), generator=GENERATOR,
        words=_escaped_json([row["words"] for row in rows]))


def small_number(value):
    """Three significant digits, as the page's own script writes numbers: 0.0120, or 1.23e-5."""
    if value == 0 or 0.001 <= abs(value) < 1000:
        return f"{value:#.3g}".rstrip(".") if value else "0"
    digits, _, power = f"{value:.2e}".partition("e")
    return f"{digits}e{int(power)}"


def _escaped_json(content):
    """JSON that can stand in a <script> element: no character of it can end the element or begin a comment."""
    text = json.dumps(content, allow_nan=False, separators=(",", ":"))  # ASCII alone, so no U+2028 either
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _script(source):
    """A script as it stands in its element: newlines as the browser reads them, nothing that ends the element or that
    begins a comment, in which its end would be overlooked."""
    return re.sub("<(/script|!--)", r"<\\\1", source.replace("\r\n", "\n"), flags=re.IGNORECASE)


def _csp_hash(script):
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()

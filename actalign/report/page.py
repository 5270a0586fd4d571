"""The report of a run: one HTML page that asks nothing of any network, and shows why each sample was answered so.

Here is what the page holds; page.html.jinja, page.css and page.js beside this file are how it looks.
"""

import base64
import hashlib
import io
import itertools
import os
import re
from collections import Counter
from datetime import datetime, timezone
from pathlib import Path
from urllib.parse import quote

import jinja2
import numpy as np
from PIL import Image
from plotly.offline import get_plotlyjs

from actalign import comparison, confidence, console, phases, tables, trials
from actalign.alignment import ALIGNMENTS, METHODS, SIMILARITIES
from actalign.evaluation import grouped, top_k
from actalign.files import read_json, replacing
from actalign.report import chosen_predictions

FOLDER = Path(__file__).parent
PAGE_FRAME_BYTES = 10_000_000  # of all samples' pictures: with Plotly and 100 samples the page stays under 25 MB
SAMPLE_FRAME_BYTES = 500_000  # of one sample's, where few share the page
MOST_FRAMES = 192  # pictures of a sample
FEWEST_FRAMES = 8
FRAME_SIZE = 96  # pixels of a picture's longer side, at most
SPRITE_COLUMNS = 16
WEBP_QUALITY = 62
LEVELS = 65_535  # of a similarity on the page
MOST_NOTES = 3  # of a dataset, under the headline
MARGIN_SAMPLES, MARGIN_GROUPS = 10, 5  # least samples of like margins, and most groups of them
CURVE_POINTS = 200  # of the risk-coverage curve


def write(path, run, ids, limit):
    """Write a page of the samples `ids`, or else of the `limit` most telling ones. Returns how many, and its bytes."""
    shown, how = chosen_predictions(run, ids, limit)
    with_frames = sum(run.has_frames(prediction.sample) for prediction in shown)
    frame_bytes = min(SAMPLE_FRAME_BYTES, PAGE_FRAME_BYTES // max(1, with_frames))
    with console.progress(len(shown), "samples on the page", iterable=shown) as bar:
        groups = margin_groups(run.predictions)
        records = [sample_record(run, prediction, frame_bytes, groups) for prediction in bar]
    words = [[one.sample.id, one.sample.domain, str(one.sample.question or ""), *one.sample.options,
              *itertools.chain(*run.texts(one.sample))] for one in shown]  # in which a sample is found
    jinja = jinja2.Environment(loader=jinja2.FileSystemLoader(FOLDER), autoescape=True, trim_blocks=True,
                               lstrip_blocks=True, undefined=jinja2.StrictUndefined)
    jinja.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}
    jinja.filters.update(anchor=anchor, score=tables.score_text, some_of=console.some_of, sure=sure_text,
                         sha256=lambda text: base64.b64encode(hashlib.sha256(text.encode()).digest()).decode())
    page = jinja.get_template("page.html.jinja").render(
        run=run, page=summary(run), shown=shown, how=how, records=records, levels=LEVELS, generated=generated_with(run),
        date=made_on(run), sure=sureness(run), recommended=METHODS["recommended"],
        words=[" ".join(words).lower() for words in words], plotly=_script(get_plotlyjs()),
        script=_script((FOLDER / "page.js").read_text(encoding="utf-8")),
        style=(FOLDER / "page.css").read_text(encoding="utf-8")).encode("utf-8", "replace")
    with replacing(path, binary=True) as file:
        file.write(page)
    return len(shown), len(page)


def anchor(id):
    """The name by which a sample's place on the page is linked to: #sample-<id>, percent-encoded."""
    return "sample-" + quote(id, safe="", errors="replace")


def _script(source):
    """A script as it can stand in its element: nothing in it ends the element or begins a comment."""
    return re.sub("<(/script|!--)", r"<\\\1", source, flags=re.IGNORECASE)


def summary(run):
    """What the page says around its samples, as values for the template."""
    def measured(ours):
        """What `top_k` is of this run's predictions and of the other method's of their samples, and how many."""
        theirs = [theirs for _, theirs in comparison.paired(ours, run.compared)]
        return {"ours": top_k(ours), "n": len(ours), "theirs": top_k(theirs), "n_theirs": len(theirs)}

    answered = [prediction for prediction in run.predictions if prediction.is_right is not None]
    pairs = comparison.paired(run.predictions, run.compared)
    others = [(other, [theirs for _, theirs in comparison.paired(answered, other)]) for other in run.compared_all[1:]]
    by_domain = grouped((prediction.sample.domain, prediction) for prediction in answered)
    notes = dict.fromkeys(run.video.item(prediction.sample.id).get("note") for prediction in run.predictions)
    notes = [note for note in notes if note and isinstance(note, str)]
    return {
        **measured(answered), **comparison.outcomes(pairs), "confusions": confusions(answered),
        "domains": {domain: measured(by_domain[domain]) for domain in sorted(by_domain)},
        "not_scored": grouped((reason, id) for id, reason in run.not_scored.items()),
        "shared": len(pairs), "disagreements": comparison.disagreements(pairs),
        "others": [(other.name, top_k(theirs), len(theirs)) for other, theirs in others],
        "tried": grid(run.tried), "kinds": list(SIMILARITIES), "controls": trials.CONTROLS,
        "significant": trials.SIGNIFICANT, "notes": notes if len(notes) <= MOST_NOTES else [],
    }


def sureness(run):
    """What the page says of confidences and of "none of these"; None where there is no order to judge by."""
    if not run.predictions or run.predictions[0].confidence is None:
        return None
    known = [one for one in run.predictions if one.is_right is not None]
    found = {"n": len(known), "least": confidence.LEAST_ANSWERS,
             "rejected": sum(one.is_none for one in run.predictions)}
    if known:
        hits, is_kept = np.array([(one.is_right, not one.is_none) for one in known]).T
        rows = confidence.reliability(np.array([one.confidence for one in known]), hits)
        coverages, accuracies = confidence.coverage_curve(np.array([*map(confidence.z_of, known)]), hits)
        at = np.linspace(0, len(hits) - 1, min(len(hits), CURVE_POINTS)).round().astype(int)
        found |= {"rows": rows, "error": confidence.calibration_error(rows), "coverage": is_kept.mean(),
                  "kept": top_k([one for one in known if not one.is_none]), "n_kept": is_kept.sum(),
                  "lost": np.count_nonzero(hits & ~is_kept), "spared": np.count_nonzero(~hits & ~is_kept),
                  "curve": list(zip(coverages[at], accuracies[at], strict=True))}
    return found


def sure_text(value):
    """A confidence as people read it; none is told as certain."""
    return f"{value:.2f}" if value < 0.995 else "> 0.99"


def margin_groups(predictions):
    """[(least margin, greatest, how many are right, n)] of equally many samples with like margins, rising.

    Empty where answers are known of too few for two groups.
    """
    known = sorted((one.margin, one.is_right) for one in predictions if None not in (one.margin, one.is_right))
    count = min(MARGIN_GROUPS, len(known) // MARGIN_SAMPLES)
    return [(group[0, 0], group[-1, 0], int(group[:, 1].sum()), len(group))
            for group in np.array_split(np.array(known, dtype=float), count)] if count > 1 else []


def made_on(run):
    """The day on which the newest of the files was written that a Run reads, so that the same files give one page."""
    times = [os.path.getmtime(source["path"]) for source in run.sources.values() if os.path.exists(source["path"])]
    return datetime.fromtimestamp(max(times), timezone.utc).date() if times else None


def generated_with(run):
    """{"model", "temperature", "prompt"} of the sub-actions, "" where their file does not tell; the first prompt."""
    path = run.sources.get("subactions", {}).get("path")
    told = [one for entry in (read_json(path) if path else []) if isinstance(one := entry.get("generated_with"), dict)]
    values = {key: [*dict.fromkeys(str(one[key]) for one in told if one.get(key) is not None)]
              for key in ("model", "temperature", "prompt")}
    return {key: ", ".join(of_key[:1] if key == "prompt" else of_key) for key, of_key in values.items()}


def grid(tried):
    """{alignment: a cell for every similarity as it is, and for each in contrast, or None} of trials.of_methods.

    A cell has the row's keys, the value to show in 0..1, its share of the way from the least to the greatest in
    percent, and a sign where it is really better or worse than the published method.
    """
    def value(row):
        return row["same"] if row["accuracy"] is None else row["accuracy"].value

    cells, values = {}, [value(row) for row in tried]
    for row in tried:
        method = row["method"]
        is_real = row["gain"] is not None and row["p"] is not None and row["p"] < trials.SIGNIFICANT
        cells[method.alignment, method.similarity, method.orders > 0] = {
            **row, "value": value(row), "is_published": method == METHODS["published"],
            "share": 100 * (value(row) - min(values)) / (max(values) - min(values) or 1),
            "sign": "" if not is_real else "▲" if row["gain"].value > 0 else "▼"}
    return {name: [cells.get((name, kind, in_contrast)) for in_contrast in (False, True) for kind in SIMILARITIES]
            for name in sorted({name for name, *_ in cells}, key=list(ALIGNMENTS).index)}


def confusions(answered):
    """Which option was taken for which and in what samples, and how often it was asked for; the frequent first."""
    asked = Counter((one.sample.domain, one.sample.options[one.sample.answer]) for one in answered)
    pairs = grouped(((one.sample.domain, one.sample.options[one.sample.answer], one.sample.options[one.ranking[0]]),
                      one.sample.id) for one in answered if not one.is_right)
    rows = [{"domain": domain, "truth": truth, "taken": taken, "ids": ids, "of": asked[domain, truth]}
            for (domain, truth, taken), ids in pairs.items()]
    return sorted(rows, key=lambda row: (-len(row["ids"]), row["of"], row["domain"], row["truth"], row["taken"]))


def sample_record(run, prediction, frame_bytes, groups=()):
    """All that the page shows of one sample, as JSON values.

    Options come in the order of their rank. `similarity` holds, option after option and sub-action after sub-action,
    T numbers of 16 bits (little-endian, base64): 0 stands for `low` and LEVELS for `high`, the extremes of the sample.
    A path is a list of cells (t, m). Phases are [first frame, last, found, similarity inside, outside, start, end]; -1
    is no frame, and start and end are in seconds.
    `times` has one more than there are frames, for when the last one ends. groups: what `margin_groups` gives
    """
    sample = prediction.sample
    matrices, texts, times = run.similarities(sample), run.texts(sample), run.video.timestamps(sample.id)
    borders = None if times is None else phases.borders_of(times)
    low, high = min(matrix.min() for matrix in matrices), max(matrix.max() for matrix in matrices)
    scale = LEVELS / (high - low) if high > low else 0.0
    order = prediction.ranking.tolist()
    levels = np.concatenate([np.round((matrices[k].T - low) * scale).astype("<u2").ravel() for k in order])
    return {
        "id": sample.id, "question": sample.question if isinstance(sample.question, str) else None,
        "frames": len(matrices[0]), "times": None if times is None else phases.with_end(times).round(4).tolist(),
        "low": float(low), "high": float(high), "similarity": base64.b64encode(levels.tobytes()).decode(),
        "options": [{
            "name": sample.options[k], "index": k, "score": float(prediction.scores[k]), "texts": list(texts[k]),
            "answer": k == sample.answer, "path": None if prediction.paths is None else prediction.paths[k].tolist(),
            "phases": None if prediction.phases is None else phase_rows(prediction.phases[k], borders),
        } for k in order],
        "none": prediction.is_none, "margin": prediction.margin,
        "such": max([group for group in groups if group[0] <= prediction.margin] or groups[:1])
        if groups and prediction.margin is not None else None,
        "sure": None if prediction.confidence is None else [
            sure_text(prediction.confidence), *(round(float(of[order[0]]), 4) for of in prediction.order[1:])],
        "compared": [int(theirs.ranking[0]) for _, theirs in comparison.paired([prediction], run.compared)],
        "pictures": sprite(run.frames, sample.id, frame_bytes) if run.has_frames(sample) else None,
    }


def phase_rows(of_option, borders):
    """The phases.Phases of an option, as `sample_record` has them; without seconds where there are no borders."""
    seconds = phases.seconds_of(of_option.frames, borders)
    return [[*frames.tolist(), bool(found), *(None if np.isnan(mean) else float(f"{mean:.4g}") for mean in means),
             *map(phases.known, times)]
            for frames, means, found, times in zip(*of_option, of_option.found, seconds.tolist(), strict=True)]


def sprite(frames, id, most_bytes):
    """Small pictures of a clip's frames, side by side in one image of at most so many bytes if that can be.

    Returns the image (WebP, base64), its columns, the size of a picture, and which frames are kept: evenly spaced ones,
    and fewer where the bytes do not suffice for all.
    """
    T, start = frames.length(id), frames.item(id)["start"]

    def picture(t):
        image = Image.fromarray(frames.read(start + t, start + t + 1)[0])
        image.thumbnail((FRAME_SIZE, FRAME_SIZE), Image.Resampling.BILINEAR, reducing_gap=1)
        return np.asarray(image)

    count = min(T, MOST_FRAMES)
    while True:
        kept = np.linspace(0, T - 1, count).round().astype(int).tolist()
        pictures = np.stack([picture(t) for t in kept])
        pictures = np.pad(pictures, ((0, -count % SPRITE_COLUMNS), (0, 0), (0, 0), (0, 0)))  # the last row, with black
        _, height, width, _ = pictures.shape
        rows = pictures.reshape(-1, SPRITE_COLUMNS, height, width, 3).swapaxes(1, 2)
        file = io.BytesIO()
        Image.fromarray(rows.reshape(-1, SPRITE_COLUMNS * width, 3)).save(file, "webp", quality=WEBP_QUALITY, method=2)
        if file.tell() <= most_bytes or count <= FEWEST_FRAMES:
            return {"image": base64.b64encode(file.getvalue()).decode(), "columns": SPRITE_COLUMNS, "width": width,
                    "height": height, "kept": kept}
        count = max(FEWEST_FRAMES, min(int(count * most_bytes / file.tell()), count - 1))

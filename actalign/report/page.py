"""The report of a run: one HTML page that asks nothing of any network, and shows why each sample was answered so.

Here is what the page holds; page.html.jinja, page.css and page.js beside this file are how it looks.
"""

import base64
import hashlib
import io
import itertools
import re
from collections import Counter
from pathlib import Path
from urllib.parse import quote

import jinja2
import numpy as np
from PIL import Image
from plotly.offline import get_plotlyjs

from actalign import comparison, console, tables, trials
from actalign.alignment import ALIGNMENTS, METHODS, SIMILARITIES
from actalign.evaluation import grouped, top_k
from actalign.files import replacing
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


def write(path, run, ids, limit):
    """Write a page of the samples `ids`, or else of the `limit` most telling ones. Returns how many, and its bytes."""
    shown, how = chosen_predictions(run, ids, limit)
    with_frames = sum(run.has_frames(prediction.sample) for prediction in shown)
    frame_bytes = min(SAMPLE_FRAME_BYTES, PAGE_FRAME_BYTES // max(1, with_frames))
    with console.progress(len(shown), "samples on the page", iterable=shown) as bar:
        records = [sample_record(run, prediction, frame_bytes) for prediction in bar]
    words = [[one.sample.id, one.sample.domain, str(one.sample.question or ""), *one.sample.options,
              *itertools.chain(*run.texts(one.sample))] for one in shown]  # in which a sample is found
    jinja = jinja2.Environment(loader=jinja2.FileSystemLoader(FOLDER), autoescape=True, trim_blocks=True,
                               lstrip_blocks=True, undefined=jinja2.StrictUndefined)
    jinja.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}
    jinja.filters.update(anchor=anchor, score=tables.score_text, some_of=console.some_of,
                         sha256=lambda text: base64.b64encode(hashlib.sha256(text.encode()).digest()).decode())
    page = jinja.get_template("page.html.jinja").render(
        run=run, page=summary(run), shown=shown, how=how, records=records, levels=LEVELS,
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
    return {
        **measured(answered), **comparison.outcomes(pairs), "confusions": confusions(answered),
        "domains": {domain: measured(by_domain[domain]) for domain in sorted(by_domain)},
        "not_scored": grouped((reason, id) for id, reason in run.not_scored.items()),
        "shared": len(pairs), "disagreements": comparison.disagreements(pairs),
        "others": [(other.name, top_k(theirs), len(theirs)) for other, theirs in others],
        "tried": grid(run.tried), "kinds": list(SIMILARITIES), "controls": trials.CONTROLS,
        "significant": trials.SIGNIFICANT,
    }


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


def sample_record(run, prediction, frame_bytes):
    """All that the page shows of one sample, as JSON values.

    Options come in the order of their rank. `similarity` holds, option after option and sub-action after sub-action,
    T numbers of 16 bits (little-endian, base64): 0 stands for `low` and LEVELS for `high`, the extremes of the sample.
    A path is a list of cells (t, m).
    """
    sample = prediction.sample
    matrices, texts, times = run.similarities(sample), run.texts(sample), run.timestamps(sample)
    low, high = min(matrix.min() for matrix in matrices), max(matrix.max() for matrix in matrices)
    scale = LEVELS / (high - low) if high > low else 0.0
    order = prediction.ranking.tolist()
    levels = np.concatenate([np.round((matrices[k].T - low) * scale).astype("<u2").ravel() for k in order])
    return {
        "id": sample.id, "question": sample.question if isinstance(sample.question, str) else None,
        "frames": len(matrices[0]), "times": None if times is None else times.round(4).tolist(),
        "low": float(low), "high": float(high), "similarity": base64.b64encode(levels.tobytes()).decode(),
        "options": [{
            "name": sample.options[k], "index": k, "score": float(prediction.scores[k]), "texts": list(texts[k]),
            "answer": k == sample.answer, "path": None if prediction.paths is None else prediction.paths[k].tolist(),
        } for k in order],
        "compared": [int(theirs.ranking[0]) for _, theirs in comparison.paired([prediction], run.compared)],
        "pictures": sprite(run.frames, sample.id, frame_bytes) if run.has_frames(sample) else None,
    }


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

"""Figures of single samples for papers: film strip, similarity, best path, names, right or wrong; PNG and PDF."""

import hashlib
import logging
import re
import warnings
from pathlib import Path

import numpy as np
from matplotlib import font_manager, patheffects, style
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from actalign import console
from actalign.files import replacing
from actalign.report import chosen_predictions
from actalign.tables import shortened

MOST_FIGURES = 8  # unless --samples names them
WIDTH = 10.0  # inches
ROW = 0.3  # inches of a sub-action
STRIP, STRIP_FRAMES = 0.6, 10  # inches, in which so many square frames fit side by side
DPI = 150
TEXT_COLUMNS, TITLE_COLUMNS = 48, 52  # of a sub-action, and of an option's name, before they are cut
RIGHT, WRONG = "#0a6b50", "#a8391a"
# Whatever of these is installed draws what DejaVu Sans, which matplotlib brings, has no glyphs for.
FONTS = ("DejaVu Sans", "Noto Sans CJK SC", "Noto Sans CJK JP", "Noto Sans Arabic", "Noto Sans Hebrew",
         "Noto Sans Devanagari", "Noto Emoji", "Arial Unicode MS")
STYLE = {
    "text.usetex": False, "text.parse_math": False,  # a dollar in a name is a dollar
    "axes.unicode_minus": False, "font.size": 9, "axes.linewidth": 0.6, "xtick.major.width": 0.6, "axes.titlesize": 10,
    "pdf.fonttype": 42,  # TrueType, which journals ask for
    "savefig.facecolor": "white",
}


def write(folder, run, ids):
    """Draw a PNG and a PDF of the samples `ids`, or else of the most telling ones, into `folder`. Returns how many."""
    folder = Path(folder).resolve()
    folder.mkdir(exist_ok=True)
    predictions, _ = chosen_predictions(run, ids, MOST_FIGURES)
    fonts = {"font.family": [name for name in FONTS if name in font_manager.get_font_names()]}
    logging.getLogger("fontTools").setLevel(logging.ERROR)  # it tells of every font that it embeds
    with (console.progress(len(predictions), "figures", iterable=predictions) as bar, warnings.catch_warnings(),
          style.context(["default", STYLE, fonts])):
        warnings.filterwarnings("ignore", message=".*[Gg]lyph")  # drawn as a box; no font here has it
        for prediction in bar:
            figure = draw(run, prediction)
            for suffix, undated in (("png", {"Software": None}), ("pdf", {"CreationDate": None})):
                with replacing(folder / f"{file_name(prediction.sample.id)}.{suffix}", binary=True) as file:
                    figure.savefig(file, format=suffix, dpi=DPI, metadata=undated)
    return len(predictions)


def file_name(id):
    """A file's name for a sample: its id where that can be one, else what can be of it and a hash."""
    plain = re.sub(r"[^\w.-]+", "_", id)[:60].strip(".")
    digest = hashlib.blake2b(id.encode("utf-8", "replace"), digest_size=4).hexdigest()
    return plain if plain and plain == id else f"{plain or 'sample'}-{digest}"


def options_drawn(prediction):
    """The two options that tell most, the better first: the answer and its strongest rival, or else the two best."""
    ranking, answer = prediction.ranking.tolist(), prediction.sample.answer
    return ranking[:2] if answer is None or answer in ranking[:2] else [ranking[0], answer]


def draw(run, prediction):
    """One sample's Figure: the film strip, if there are frames, and below it its two options, with one colour bar."""
    sample = prediction.sample
    matrices, texts, times = run.similarities(sample), run.texts(sample), run.video.timestamps(sample.id)
    chosen = options_drawn(prediction)
    heights = [STRIP] * run.has_frames(sample) + [ROW * len(texts[k]) + 0.25 for k in chosen]
    figure = Figure(figsize=(WIDTH, sum(heights) + 0.3 * len(heights) + 0.2), layout="constrained")
    panels = list(figure.subplots(len(heights), 1, squeeze=False, gridspec_kw={"height_ratios": heights})[:, 0])
    if run.has_frames(sample):
        T, start = run.frames.length(sample.id), run.frames.item(sample.id)["start"]
        count = min(STRIP_FRAMES, T)
        at = start + ((np.arange(count) + 0.5) * T / count).astype(int)  # each in the middle of what it stands for
        panel = panels.pop(0)
        panel.imshow(np.concatenate([run.frames.read(t, t + 1)[0] for t in at], axis=1), aspect="auto")
        panel.axis("off")
    low, high = min(matrices[k].min() for k in chosen), max(matrices[k].max() for k in chosen)
    for panel, k in zip(panels, chosen, strict=True):
        image = _draw_option(panel, prediction, k, matrices[k], texts[k], times, low, high)
    bar = figure.colorbar(image, ax=panels, shrink=0.85, aspect=25, pad=0.01, label="similarity")
    bar.outline.set_visible(False)
    bar.formatter = lambda value, _: f"{value:.3g}"  # no power of ten far from its number
    return figure


def _draw_option(panel, prediction, k, similarity, texts, times, low, high):
    """One option: its (T, M) similarity with time to the right and sub-actions downwards, and its path."""
    T, M = similarity.shape
    image = panel.imshow(similarity.T, aspect="auto", cmap="cividis", vmin=low, vmax=high if high > low else low + 1,
                         interpolation="nearest")
    if prediction.paths is not None:
        t, m = prediction.paths[k].T
        panel.plot(t, m, color="white", linewidth=1.8, marker="o" if len(t) == 1 else None, clip_on=False,
                   solid_joinstyle="miter", path_effects=[patheffects.withStroke(linewidth=4, foreground="black")])
    panel.set_xlim(-0.5, T - 0.5)
    panel.set_ylim(M - 0.5, -0.5)
    panel.set_yticks(range(M), [shortened(text, TEXT_COLUMNS) for text in texts])
    panel.tick_params(axis="y", length=0)
    panel.spines[:].set_visible(False)
    at, unit = (np.arange(T), "") if times is None else (times, " s")  # ticks are round frames, or round seconds
    locator = MaxNLocator(8, steps=[1, 2, 5, 10], integer=times is None)
    ticks = [tick for tick in locator.tick_values(at[0], max(at[-1], at[0] + 1e-9)) if at[0] <= tick <= at[-1]]
    panel.set_xticks(np.interp(ticks, at, np.arange(T)), [f"{tick:g}{unit}" for tick in ticks])
    word, color = mark(prediction, k)
    name = shortened(prediction.sample.options[k], TITLE_COLUMNS)
    panel.set_title(f"{name}   {prediction.scores[k]:#.3g}".rstrip("."), loc="left")
    panel.set_title(word, loc="right", color=color)
    return image


def mark(prediction, k):
    """What a figure says of an option, and in which colour."""
    is_first, answer = k == prediction.ranking[0], prediction.sample.answer
    if k == answer:
        return ("✓ predicted, right" if is_first else "the answer"), RIGHT
    if not is_first:
        return "", "black"
    return ("predicted", "black") if answer is None else ("✗ predicted, wrong", WRONG)

"""When the phases of an action happen in a clip: from a path and the frames' times to seconds, and to what was found.

A phase is the frames that a path gives to one sub-action. Truth, where a dataset knows it, is in its rows' `phases`:
[{"start": 0.2, "end": 1.1, "subactions": [0]}, ...], in seconds of the video.
"""

import math
from typing import NamedTuple

import numpy as np

from actalign import tables
from actalign.compilation import compiled
from actalign.exports import FOUND_COLUMNS

MOST_NEVER, MOST_TEXT = 10, 60  # sub-actions that are never found, and characters of one, on the terminal
TOLERANCE = 0.3  # seconds by which a border may be off and still count as told right


class Phases(NamedTuple):
    """The phases of an option's M sub-actions."""

    frames: np.ndarray  # (M, 2) int32, first and last; -1 where a sub-action has none
    means: np.ndarray  # (M, 2) float64, mean similarity of its frames and of all others; NaN where there are none

    @property
    def found(self):
        """(M,) bool: whether a phase's frames are more like its sub-action than the rest of the clip is."""
        inside, outside = self.means.T
        return (self.frames[:, 0] >= 0) & ~(inside <= outside)


def phases_of(similarity, path):
    """The Phases of a path (cells, 2) through S (T, M).

    A frame that the path gives to several sub-actions, as `dtw` does at every border, is of the one that it is most
    like; so phases do not overlap, and a sub-action may be left without a frame.
    """
    return Phases(*_phases_of(similarity, path))


@compiled
def _phases_of(similarity, path):
    T, M = similarity.shape
    owners = np.full(T, -1, np.int32)
    for i in range(len(path)):
        t, m = path[i, 0], path[i, 1]
        if owners[t] < 0 or similarity[t, m] > similarity[t, owners[t]]:
            owners[t] = m
    frames, sums, counts = np.full((M, 2), -1, np.int32), np.zeros((M, 2)), np.zeros((M, 2))
    for t in range(T):
        owner = owners[t]
        if owner >= 0:
            frames[owner, 1] = t
            if frames[owner, 0] < 0:
                frames[owner, 0] = t
        for m in range(M):
            side = 0 if m == owner else 1
            sums[m, side] += similarity[t, m]
            counts[m, side] += 1
    return frames, np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)


def with_end(timestamps):
    """(T + 1,) float64: the timestamps (T,), and when the last frame ends, which is shown as long as most others."""
    return np.append(timestamps, timestamps[-1] + (np.median(np.diff(timestamps)) if len(timestamps) > 1 else 0))


def borders_of(timestamps):
    """(T + 1,) float64: when what each frame shows began, and when the last one ends, in seconds as timestamps (T,).

    What a frame is the first to show began half a frame earlier, on average; not more, since a picture that stands for
    long had not changed. The first one begins when it is shown.
    """
    times = with_end(timestamps)
    gaps = np.diff(times, prepend=times[0])
    return times - np.minimum(gaps, gaps[-1]) / 2


def seconds_of(frames, borders):
    """(M, 2) float64: when phases begin and end; NaN where one has no frame, or nothing tells.

    frames (M, 2) as in `Phases`; borders (T + 1,) as of `borders_of`, or None
    """
    return np.where(frames < 0, np.nan, np.nan if borders is None else borders[frames + np.array([0, 1])])


def records(phases, texts, borders=None):
    """The phases as predictions.json holds them: a dict for every sub-action.

    Frames count within the clip, from 0; seconds are those of the video, of `borders_of`. Both are None where a
    sub-action has no frame, seconds also where nothing tells the borders.
    """
    rows = zip(texts, phases.frames.tolist(), seconds_of(phases.frames, borders).tolist(), phases.means.tolist(),
               phases.found.tolist(), strict=True)
    return [{"subaction": text, "start": known(start), "end": known(end), "first_frame": None if first < 0 else first,
             "last_frame": None if last < 0 else last, "inside": known(inside), "outside": known(outside),
             "found": found} for text, (first, last), (start, end), (inside, outside), found in rows]


def found_counts(predictions, options_of):
    """A dict with the keys FOUND_COLUMNS for every sub-action, the most seldom found first.

    Of all clips that have its option, the answer or not, in how many a phase is found. options_of: function from a
    Prediction to what the index says of the options whose phases it has
    """
    counts = {}
    for one in predictions:
        for option, of_option in zip(options_of(one), one.phases, strict=True):
            for m, (text, found) in enumerate(zip(option["texts"], of_option.found, strict=True)):
                count = counts.setdefault((option["key"], option.get("script", 0), m, text), [0, 0])
                count[0] += 1
                count[1] += int(found)
    rows = [dict(zip(FOUND_COLUMNS, (*what, *count), strict=True)) for what, count in counts.items()]
    return sorted(rows, key=lambda row: (row["found"] / row["clips"], -row["clips"]))


def found_lines(rows):
    """What the terminal says of `found_counts`: how many are never found, and the first of these."""
    never = [row for row in rows if not row["found"]]
    said = [f"sub-actions: {len(rows) - len(never)} of {len(rows)} are found in a clip, {len(never)} never"
            + (" (generate_subactions.py --repair asks again for those that its check finds):" if never else "")]
    said += [f"  0 of {row['clips']} clips: {tables.shortened(row['subaction'], MOST_TEXT)!r} ({row['option']})"
             for row in never[:MOST_NEVER]]
    return said + [f"  and {len(never) - MOST_NEVER} more"] * (len(never) > MOST_NEVER) if rows else []


def known(value):
    """A number as JSON holds it; None for NaN."""
    return None if math.isnan(value) else round(value, 6)


# Against the truth


def equal_parts(T, M):
    """The control: frames (M, 2) of M equal parts of a clip, as in `Phases`."""
    owners = np.arange(T) * M // T
    starts, stops = np.searchsorted(owners, np.arange(M)), np.searchsorted(owners, np.arange(M), side="right")
    return np.where((starts < stops)[:, None], np.stack([starts, stops - 1], axis=1), -1).astype(np.int32)


def against_truth(frames, timestamps, truth):
    """(right (n,) bool, errors (B,) in seconds) of phases against the truth.

    right: of the frames within true phases, whether they are told right. errors: how late borders are, those where a
    true phase first begins, and where the last one ends; a sub-action without a frame begins where the next one does.
    frames (M, 2) as in `Phases`; timestamps (T,); truth: a row's `phases`
    """
    truth = [phase for phase in truth if phase["subactions"]]
    times, told = np.array(timestamps), np.full(len(timestamps), -1)
    for m in np.flatnonzero(frames[:, 0] >= 0):
        told[frames[m, 0]:frames[m, 1] + 1] = m
    right = [np.isin(told[(phase["start"] <= times) & (times < phase["end"])], phase["subactions"]) for phase in truth]
    seconds = seconds_of(frames, borders_of(times))
    starts = np.append(seconds[:, 0], np.nanmax(seconds[:, 1]))
    for m in reversed(range(len(frames))):
        starts[m] = starts[m + 1] if np.isnan(starts[m]) else starts[m]
    begins = {min(phase["subactions"]): phase["start"] for phase in reversed(truth)}  # the first time that it is done
    errors = [starts[m] - start for m, start in sorted(begins.items())]
    return np.concatenate(right), np.array([*errors, starts[-1] - truth[-1]["end"]])


def lines(predictions, video):
    """What the terminal says of the true options' phases, of samples whose dataset knows when they are."""
    known = []
    for one in predictions:
        id, answer = one.sample.id, one.sample.answer
        truth, times = video.item(id).get("phases"), video.timestamps(id)
        if truth and times is not None and answer is not None and one.phases:
            frames = one.phases[answer].frames
            known.append([against_truth(part, times, truth) for part in (frames, equal_parts(len(times), len(frames)))])
    if not known:
        return []
    (right, errors), (in_parts, _) = [map(np.concatenate, zip(*found, strict=True))
                                      for found in zip(*known, strict=True)]
    return [f"phases of the true options, known in {len(known)} samples: {100 * right.mean():.1f}% of frames right "
            f"(equal parts: {100 * in_parts.mean():.1f}%), borders {np.median(np.abs(errors)):.3f} s off in the median"
            f" ({np.median(errors):+.3f} late), {100 * np.mean(np.abs(errors) <= TOLERANCE):.1f}% within {TOLERANCE} s"]

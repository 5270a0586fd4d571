"""The predicted option's phases for other programs: WebVTT, ELAN, FiftyOne, CSV; a file a sample, or one for all.

A clip without timestamps has its frames counted as seconds, from 0.
"""

import hashlib
import html
import json
import mimetypes
import re
import xml.etree.ElementTree as ET
from datetime import datetime, timezone
from pathlib import Path, PurePosixPath
from typing import NamedTuple
from urllib.parse import quote

from actalign.console import InputError, require_folder_of, say, some_of
from actalign.files import lock, replacing, write_csv

EAF_SCHEMA = "http://www.mpi.nl/tools/elan/EAFv3.0.xsd"
NOT_IN_XML = re.compile(r"[^\t\n\r -\U0010ffff]")  # control characters
MOST_NAME = 150  # characters of a file name, of 255 bytes that file systems take
COLUMNS = ("id", "domain", "option_index", "option", "is_prediction", "is_answer", "subaction_index", "subaction",
           "start", "end", "first_frame", "last_frame", "inside", "outside", "found")

FOUND_COLUMNS = ("option", "script", "subaction_index", "subaction", "clips", "found")


class Timeline(NamedTuple):
    """The phases of one sample's option."""

    id: str
    video: str | None  # the dataset's path or address of it
    option: str
    phases: list  # as phases.records gives them

    @property
    def spans(self):
        """[(number, phase, start, end)] of the phases that have frames, in seconds, or in frames where that is all."""
        spans = []
        for number, phase in enumerate(self.phases, start=1):
            if phase["first_frame"] is not None:
                times = phase["start"], phase["end"]
                times = (phase["first_frame"], phase["last_frame"] + 1) if None in times else times
                spans.append((number, phase, *times))
        return spans


def file_name(id, suffix):
    """A file name for an id, whatever characters it has: no two ids share one, and none leaves its folder."""
    name = quote(id, safe=" ")
    if len(name) > MOST_NAME or name != name.strip(". "):
        name = f"{name[:MOST_NAME].strip('. ')}-{hashlib.blake2b(id.encode(), digest_size=8).hexdigest()}"
    return name + suffix


def write_webvtt(folder, timelines):
    """A .vtt a sample, a cue a phase, that plays as subtitles beside the whole video."""
    for timeline in timelines:
        cues = [f"{number}{'' if phase['found'] else ' not found'}\n"
                f"{_clock(start)} --> {_clock(max(end, start + 0.001))}\n"
                f"{_as_cue(phase['subaction'])}\n" for number, phase, start, end in timeline.spans]
        with replacing(folder / file_name(timeline.id, ".vtt")) as file:
            file.write("\n".join([f"WEBVTT {_as_cue(timeline.option)}\n", *cues]))


def _clock(seconds):
    """Seconds as WebVTT writes a time."""
    milliseconds = round(1000 * seconds)
    return (f"{milliseconds // 3_600_000:02}:{milliseconds // 60_000 % 60:02}:{milliseconds // 1000 % 60:02}."
            f"{milliseconds % 1000:03}")


def _as_cue(text):
    """A text as it may stand in a cue, which ends at an empty line and knows tags."""
    return html.escape(text, quote=False).replace("\n", "&#10;").replace("\r", "&#13;")


def write_elan(folder, timelines):
    """An .eaf a sample, ELAN's annotations, in the tiers `action`, `phases` and `not found`.

    Source of the form: EAF_SCHEMA.
    """
    for timeline in timelines:
        root = ET.Element("ANNOTATION_DOCUMENT", {
            "AUTHOR": "ActAlign", "DATE": datetime.now(timezone.utc).isoformat(timespec="seconds"), "FORMAT": "3.0",
            "VERSION": "3.0", "xmlns:xsi": "http://www.w3.org/2001/XMLSchema-instance",
            "xsi:noNamespaceSchemaLocation": EAF_SCHEMA})
        header = ET.SubElement(root, "HEADER", MEDIA_FILE="", TIME_UNITS="milliseconds")
        if video := timeline.video:
            ET.SubElement(header, "MEDIA_DESCRIPTOR", MEDIA_URL=video if "://" in video else quote(video),
                          MIME_TYPE=mimetypes.guess_type(video)[0] or "video/mp4")
        order = ET.SubElement(root, "TIME_ORDER")
        spans = timeline.spans
        tiers = {"action": [(timeline.option, spans[0][2], spans[-1][3])] if spans else [],
                 "phases": [], "not found": []}
        for _, phase, start, end in spans:
            tiers["phases" if phase["found"] else "not found"].append((phase["subaction"], start, end))
        for tier, annotations in tiers.items():
            element = ET.SubElement(root, "TIER", LINGUISTIC_TYPE_REF="default", TIER_ID=tier)
            for text, *times in annotations:
                slots = [f"ts{len(order) + side}" for side in (1, 2)]
                for slot, time in zip(slots, times, strict=True):
                    ET.SubElement(order, "TIME_SLOT", TIME_SLOT_ID=slot, TIME_VALUE=str(round(1000 * time)))
                annotation = ET.SubElement(ET.SubElement(element, "ANNOTATION"), "ALIGNABLE_ANNOTATION", {
                    "ANNOTATION_ID": f"a{len(order) // 2}", "TIME_SLOT_REF1": slots[0], "TIME_SLOT_REF2": slots[1]})
                ET.SubElement(annotation, "ANNOTATION_VALUE").text = NOT_IN_XML.sub("\ufffd", text)
        ET.SubElement(root, "LINGUISTIC_TYPE", GRAPHIC_REFERENCES="false", LINGUISTIC_TYPE_ID="default",
                      TIME_ALIGNABLE="true")
        ET.indent(root)
        with replacing(folder / file_name(timeline.id, ".eaf")) as file:
            file.write('<?xml version="1.0" encoding="UTF-8"?>\n')
            file.write(ET.tostring(root, encoding="unicode").replace("\r", "&#13;"))


def write_fiftyone(folder, timelines):
    """labels.json as FiftyOne's FiftyOneTemporalDetectionDataset reads it: each video's TemporalDetections.

    A video is named without its suffix, as that importer does. Times are seconds, or frames where that is all.
    """
    labels = {}
    for timeline in timelines:
        name = timeline.id if timeline.video is None else str(PurePosixPath(timeline.video).with_suffix(""))
        labels.setdefault(name, []).extend({
            "label": phase["subaction"],
            **({"support": [start + 1, end]} if phase["start"] is None else {"timestamps": [start, end]}),
            "attributes": {"sample_id": timeline.id, "option": timeline.option, "found": phase["found"],
                           "inside": phase["inside"], "outside": phase["outside"]}}
            for _, phase, start, end in timeline.spans)
    with replacing(folder / "labels.json") as file:
        json.dump({"classes": None, "labels": labels}, file, indent=1)


def write_phases_csv(folder, timelines):
    """phases.csv of the predicted options."""
    write_csv(folder / "phases.csv", COLUMNS, (
        {"id": one.id, "option": one.option, "is_prediction": True, "subaction_index": m, **phase}
        for one in timelines for m, phase in enumerate(one.phases)))


FORMATS = {"webvtt": write_webvtt, "elan": write_elan, "fiftyone": write_fiftyone, "csv": write_phases_csv}


def require_usable(folder, flag="--phases"):
    """Raise InputError unless the folder that a flag names is there or can be made."""
    require_folder_of(folder, is_file=False)
    if Path(folder).is_file():
        raise InputError(f"{flag} {folder}: is no folder; choose another name")


def export(folder, form, predictions, video, phases_of):
    """Write the predicted options' phases, of samples that one of the options fits, and say where they are.

    form: one of FORMATS; video: the ArrayArtifact of the frames' embeddings; phases_of: as `write_predictions` takes it
    Raises InputError if another run writes them.
    """
    folder.mkdir(exist_ok=True)
    answered = [one for one in predictions if not one.is_none]
    with lock(folder):
        FORMATS[form](folder, [Timeline(one.sample.id, video.item(one.sample.id).get("video"),
                                        one.sample.options[one.ranking[0]], phases_of(one)[one.ranking[0]])
                               for one in answered])
    if without := [one.sample.id for one in answered if video.timestamps(one.sample.id) is None]:
        say(f"{len(without)} clips have no timestamps: their phases are in frames ({some_of(without)})")
    say(f"phases of {len(answered)} samples as {form} -> {folder}")

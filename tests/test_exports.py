"""Phases as other programs read them, by readers that are not ours."""

import csv
import html
import json
from pathlib import Path

import pympi
import pytest
import webvtt
from lxml import etree

from actalign import exports
from actalign.console import InputError
from actalign.exports import Timeline
from actalign.files import lock

LABELS = ["a --> b", "R&D <i>x</i>", "two\nlines", "\n\nblank lines\n", "right\u200fto\u200eleft \u0634",
          "\u8d77\u8df3 \U0001f938"]


def phase(text, start, end, first, last, found=True):
    return {"subaction": text, "start": start, "end": end, "first_frame": first, "last_frame": last, "inside": 0.5,
            "outside": 0.25, "found": found}


def timeline(id="clip", texts=LABELS, video="clips/a clip.mp4"):
    return Timeline(id, video, "dunk & <b>", [phase(text, 3600.5 + n, 3601.5 + n, 10 * n, 10 * n + 9, found=n != 1)
                                              for n, text in enumerate(texts)])


SKIPPED = phase("never", None, None, None, None, False)


def test_webvtt_comes_back_whole(tmp_path):
    exports.write_webvtt(tmp_path, [timeline()])
    captions = webvtt.read(tmp_path / "clip.vtt").captions
    assert [html.unescape(caption.raw_text) for caption in captions] == LABELS
    assert [caption.identifier for caption in captions] == ["1", "2 not found", "3", "4", "5", "6"]
    assert [(caption.start, caption.end) for caption in captions][:2] == [
        ("01:00:00.500", "01:00:01.500"), ("01:00:01.500", "01:00:02.500")]


def test_elan_comes_back_whole(tmp_path):
    exports.write_elan(tmp_path, [timeline()])
    eaf = pympi.Elan.Eaf(tmp_path / "clip.eaf")
    phases, not_found = (sorted(eaf.get_annotation_data_for_tier(tier)) for tier in ("phases", "not found"))
    assert [text for *_, text in phases] == [LABELS[0], *LABELS[2:]]
    assert not_found == [(3601500, 3602500, LABELS[1])]
    assert eaf.get_annotation_data_for_tier("action") == [(3600500, 3606500, "dunk & <b>")]
    assert eaf.get_linked_files()[0]["MEDIA_URL"] == "clips/a%20clip.mp4"


def test_elans_elements_are_as_its_schema_orders_them(tmp_path):
    exports.write_elan(tmp_path, [timeline(), timeline("none", [])])
    for name in ("clip", "none"):
        root = etree.parse(tmp_path / f"{name}.eaf").getroot()
        assert root.tag == "ANNOTATION_DOCUMENT"
        assert {"AUTHOR", "DATE", "VERSION"} <= set(root.attrib)
        assert [child.tag for child in root] == ["HEADER", "TIME_ORDER", "TIER", "TIER", "TIER", "LINGUISTIC_TYPE"]
        ids = [slot.get("TIME_SLOT_ID") for slot in root.iter("TIME_SLOT")]
        references = [one.get(side) for one in root.iter("ALIGNABLE_ANNOTATION")
                      for side in ("TIME_SLOT_REF1", "TIME_SLOT_REF2")]
        assert sorted(ids) == sorted(references)
        assert len(set(ids)) == len(ids)
        names = [one.get("ANNOTATION_ID") for one in root.iter("ALIGNABLE_ANNOTATION")]
        assert len(set(names)) == len(names)
        assert {tier.get("LINGUISTIC_TYPE_REF") for tier in root.iter("TIER")} == {
            root.find("LINGUISTIC_TYPE").get("LINGUISTIC_TYPE_ID")}


def test_fiftyones_labels_are_seconds_of_each_video(tmp_path):
    exports.write_fiftyone(tmp_path, [timeline(), timeline("other", ["again"])])
    content = json.loads((tmp_path / "labels.json").read_text(encoding="utf-8"))
    assert content["classes"] is None
    [(video, labels)] = content["labels"].items()
    assert video == "clips/a clip"
    assert [one["label"] for one in labels] == [*LABELS, "again"]
    assert labels[0]["timestamps"] == [3600.5, 3601.5]
    assert labels[1]["attributes"] == {"sample_id": "clip", "option": "dunk & <b>", "found": False, "inside": 0.5,
                                       "outside": 0.25}


def test_a_table_comes_back_whole(tmp_path):
    exports.write_phases_csv(tmp_path, [timeline()])
    with open(tmp_path / "phases.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["subaction"] for row in rows] == LABELS
    assert rows[0]["start"] == "3600.5"
    assert {row["option"] for row in rows} == {"dunk & <b>"}


def test_without_timestamps_frames_stand_for_seconds_and_what_was_skipped_is_left_out(tmp_path):
    one = Timeline("clip", None, "dunk", [phase("up", None, None, 0, 4), SKIPPED, phase("down", None, None, 5, 7)])
    for write in exports.FORMATS.values():
        write(tmp_path, [one])
    assert [(caption.start, caption.end) for caption in webvtt.read(tmp_path / "clip.vtt")] == [
        ("00:00:00.000", "00:00:05.000"), ("00:00:05.000", "00:00:08.000")]
    assert pympi.Elan.Eaf(tmp_path / "clip.eaf").get_annotation_data_for_tier("phases") == [
        (0, 5000, "up"), (5000, 8000, "down")]
    labels = json.loads((tmp_path / "labels.json").read_text())["labels"]["clip"]
    assert [one["support"] for one in labels] == [[1, 5], [6, 8]]  # frames count from 1 there, the last one included
    assert len((tmp_path / "phases.csv").read_text().splitlines()) == 4


IDS = ["../../etc/passwd", "/etc/passwd", "..", ".", "a/b", "a\\b", "a%2Fb", "nul\0", "line\nbreak", "x" * 300,
       "x" * 301, " ", "a ", "a", "a.", "CON:", "\u202eidea", "\u8d77" * 100]


@pytest.mark.parametrize("format", ["webvtt", "elan"])
def test_ids_neither_leave_the_folder_nor_share_a_file(tmp_path, format):
    folder = tmp_path / "phases"
    folder.mkdir()
    exports.FORMATS[format](folder, [timeline(id) for id in IDS])
    assert len(list(folder.iterdir())) == len(IDS)
    assert [path.name for path in tmp_path.iterdir()] == ["phases"]


def test_control_characters_do_not_make_a_file_that_no_xml_reader_takes(tmp_path):
    exports.write_elan(tmp_path, [timeline(texts=["a\0b\x1b[31m", "c\r\nd"])])
    data = sorted(pympi.Elan.Eaf(tmp_path / "clip.eaf").get_annotation_data_for_tier("phases"))
    assert data[0][2] == "a\ufffdb\ufffd[31m"
    eaf = etree.parse(tmp_path / "clip.eaf")
    assert "c\r\nd" in [value.text for value in eaf.iter("ANNOTATION_VALUE")]


def test_a_phase_of_no_length_is_still_a_cue(tmp_path):
    exports.write_webvtt(tmp_path, [Timeline("clip", None, "x", [phase("now", 2.0, 2.0, 0, 0)])])
    assert "00:00:02.000 --> 00:00:02.001" in Path(tmp_path / "clip.vtt").read_text()


def test_what_another_run_writes_is_refused(tmp_path):
    folder = tmp_path / "phases"
    with lock(folder), pytest.raises(InputError, match="another run is writing it"):
        exports.export(folder, "csv", [], None, None)
    assert list(folder.iterdir()) == []
    exports.export(folder, "csv", [], None, None)
    assert [path.name for path in tmp_path.iterdir()] == ["phases"]

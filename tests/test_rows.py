"""Datasets as people have them: every spelling gives the same samples, and what was guessed of it is said."""

import csv
import io
import json
import os
from pathlib import Path

import av
import pytest
from drawn_videos import write_video
from made_artifacts import make_entries, write_entries, write_subaction_embeddings, write_video_embeddings
from refusals import refusal

import process_data
import seq_alignment
from actalign import dataset
from actalign.artifacts import read_array
from actalign.console import parser
from actalign.dataset import load_samples

OPTIONS = ("Clapping, slow", "Café dance")
LINES = "\n".join(OPTIONS)
HEADER = ("video", "domain", "choices", "answer", "start_timestamp", "end_timestamp")


def spell(delimiter=",", header=HEADER, options=LINES, times=("2", "3723.5"), encoding="utf-8",
          domain="dance", answer="Café dance"):
    """The bytes of a table of two clips, of which the second has neither an answer nor times."""
    text = io.StringIO()
    writer = csv.writer(text, delimiter=delimiter)
    writer.writerow(header)
    cells = dict(zip(HEADER, ("one.mp4", domain, options, answer, *times), strict=True))
    for row in (cells, cells | {"video": "two.mp4", "answer": "", "start_timestamp": "", "end_timestamp": ""}):
        writer.writerow([cell for cell, name in zip(row.values(), header, strict=True) if name is not None])
    return text.getvalue().encode(encoding)


def json_rows(**changes):
    rows = [{"path": "one.mp4", "Label": "Café dance", "Start": "0:02", "End": "1:02:03.5"}, {"path": "two.mp4"}]
    return [{**row, "domain": "dance", "Options": list(OPTIONS), **changes} for row in rows]


SPELLINGS = {
    "as it is": ("a.csv", spell(), []),
    "semicolons": ("a.csv", spell(";"), ["cells are separated by semicolons"]),
    "tabs": ("a.csv", spell("\t"), ["cells are separated by tabs"]),
    "a table of tabs": ("a.tsv", spell("\t"), []),
    "a table of commas": ("a.tsv", spell(","), ["cells are separated by commas"]),
    "a text as Excel saves it": ("a.txt", spell("\t", encoding="utf-16"), ["is read as UTF-16"]),
    "UTF-8 with a mark": ("a.csv", spell(encoding="utf-8-sig"), []),
    "UTF-16": ("a.CSV", spell(";", encoding="utf-16"), ["is read as UTF-16", "separated by semicolons"]),
    "Windows-1252": ("a.csv", spell(encoding="cp1252"), ["warning: ", "is no UTF-8 and is read as Windows-1252"]),
    "options with |": ("a.csv", spell(options=" | ".join(OPTIONS)), ["options are separated by |"]),
    "options with ;": ("a.csv", spell(options=";".join(OPTIONS) + ";"), ["options are separated by ;"]),
    "options with ; among ;": ("a.csv", spell(";", options="; ".join(OPTIONS)), ["options are separated by ;", "cel"]),
    "options numbered": ("a.csv", spell(options=f"1. {OPTIONS[0]}\r\n2. {OPTIONS[1]}\r\n"), []),
    "options as a list": ("a.csv", spell(options=json.dumps(OPTIONS)), []),
    "clocks": ("a.csv", spell(times=("00:02", "1:02:03.50")), []),
    "long minutes": ("a.csv", spell(times=("0:2", "62:03.5")), []),
    "decimal commas": ("a.csv", spell(";", times=("2,0", "1:02:03,5")), ["semicolons", "commas in times are decimal"]),
    "decimal commas of synonyms": ("a.tsv", spell("\t", ("Video", "domain", "choices", "answer", "Start", "END time"),
                                                  times=("2,0", "3723,5")),
                                   ["commas in times", "Video as video, Start as start_timestamp, END time as end_"]),
    "synonyms": ("a.csv", spell(header=("File Name", "Sport", "labels", "class", "start", "end")),
                 ["columns read as others: File Name as video, Sport as domain, start as start_timestamp, end as "
                  "end_timestamp, labels as choices", "class is read as the answer"]),
    "other synonyms": ("a.csv", spell(header=("PATH", "domain", "Candidates", "Label", "Start-Time", "end_time")),
                       ["PATH as video", "Label is read as the answer"]),
    "the answer in other signs": ("a.csv", spell(answer="CAFE\u0301  dance").replace(b"answer", b"label"),
                                  ["label is read as the answer"]),
    "the answer by number": ("a.csv", spell(answer="2"), []),
    "JSON": ("a.json", json.dumps(json_rows()).encode(), ["path as video", "Label is read"]),
    "JSON lines with a mark": ("a.jsonl", "\n".join(map(json.dumps, json_rows())).encode("utf-8-sig"),
                               ["path as video", "Label is read"]),
}


@pytest.mark.parametrize(("name", "content", "said"), SPELLINGS.values(), ids=SPELLINGS)
def test_every_spelling_of_a_dataset_gives_the_same_samples_and_every_guess_is_said(
        tmp_path, capsys, name, content, said):
    (tmp_path / name).write_bytes(content)
    one, two = load_samples(str(tmp_path / name))
    assert [(s.id, s.video, s.domain, s.labels, s.answer, s.start, s.end, s.extra) for s in (one, two)] == [
        ("one", "one.mp4", "dance", OPTIONS, 1, 2, 3723.5, {}),
        ("two", "two.mp4", "dance", OPTIONS, None, None, None, {})]
    assert one.folder == tmp_path
    err = capsys.readouterr().err
    assert all(part in err for part in said), err
    assert err.count("\n") <= len(said)
    assert bool(err) == bool(said)


@pytest.fixture
def clips(tmp_path):
    """A folder of clips in folders, with hidden and other files among them."""
    folder = tmp_path / "clips"
    for name in ("b.mp4", "sub/a.MOV", "sub/a.b.webm", "a.mp4", "c/twin.mp4", "c/twin.mkv", ".hidden.mp4",
                 ".trash/d.mp4", "notes.txt", "b.csv"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def load(*arguments):
    arguments_of = parser("test")
    dataset.add_arguments(arguments_of)
    return dataset.load(arguments_of.parse_args([*map(str, arguments)]))


GIVEN = ("--domain", "dance", "--options", *OPTIONS)


def test_a_folder_is_its_videos_sorted_with_their_paths_as_ids(clips):
    samples = load("--dataset", clips, *GIVEN)
    assert [(sample.id, sample.video) for sample in samples] == [
        ("a", "a.mp4"), ("b", "b.mp4"), ("c/twin.mkv", "c/twin.mkv"), ("c/twin.mp4", "c/twin.mp4"),
        ("sub/a", "sub/a.MOV"), ("sub/a.b", "sub/a.b.webm")]
    assert {(sample.domain, sample.labels, sample.folder) for sample in samples} == {("dance", OPTIONS, clips)}
    ids = {sample.id for sample in samples}
    (clips / "0.mp4").touch()
    (clips / "sub/0.mp4").touch()
    assert {sample.id for sample in load("--dataset", clips, *GIVEN)} == ids | {"0", "sub/0"}


def test_several_datasets_of_every_kind_are_one_and_names_that_they_share_are_numbered(clips):
    (clips / "b.csv").write_text("video,choices\na.mp4,\nb.mp4,x|y\n")
    samples = load("--dataset", clips / "b.csv", clips / "a.mp4", "https://example.org/far.mp4?x=1", clips / "sub",
                   clips / "sub", *GIVEN)
    assert [sample.id for sample in samples] == ["a", "b", "a-2", "far", "a-3", "a.b", "a-4", "a.b-2"]
    assert [sample.labels for sample in samples[:3]] == [OPTIONS, ("x", "y"), OPTIONS]
    assert [sample.folder for sample in samples[:3]] == [clips] * 3
    assert samples[3].video == "https://example.org/far.mp4?x=1"


@pytest.mark.parametrize(("content", "encoding"), [("{0}\n\n{1}\n", "utf-8"), ("1. {0}\r\n2. {1}", "utf-8-sig"),
                                                   ("{0} | {1}\n", "utf-16"), ("- {0}\n- {1}", "windows-1252")])
def test_options_come_from_a_text_file_too(clips, tmp_path, content, encoding):
    (tmp_path / "options.txt").write_bytes(content.format(*OPTIONS).encode(encoding))
    for options in (tmp_path / "options.txt", "|".join(OPTIONS)):
        [sample] = load("--dataset", clips / "a.mp4", "--domain", "dance", "--options", options)
        assert sample.labels == OPTIONS


def test_where_rows_have_answers_alone_the_options_are_the_answers_of_the_domain(tmp_path, capsys):
    (tmp_path / "a.csv").write_text("file,sport,class\n1.mp4,yoga,Tree\n2.mp4,yoga,crow\n3.mp4,yoga,tree\n"
                                    "4.mp4,judo,throw\n5.mp4,yoga,\n6.mp4,judo,choke\n")
    samples = load_samples(str(tmp_path / "a.csv"))
    assert [(sample.labels, sample.answer) for sample in samples] == [
        (("Tree", "crow"), 0), (("Tree", "crow"), 1), (("Tree", "crow"), 0), (("choke", "throw"), 1),
        (("Tree", "crow"), None), (("choke", "throw"), 0)]
    assert "every row gets all answers of its domain: 2 of yoga, 2 of judo" in capsys.readouterr().err


def test_a_column_that_names_no_option_is_no_answer_and_is_said_to_be_none(tmp_path, capsys):
    (tmp_path / "a.csv").write_text("video,domain,choices,label\n1.mp4,yoga,tree|crow,tree\n2.mp4,yoga,tree|crow,1\n")
    assert [(sample.answer, sample.extra) for sample in load_samples(str(tmp_path / "a.csv"))] == [
        (None, {"label": "tree"}), (None, {"label": "1"})]
    assert "label is not taken as the answer, since that of row 2 is none of the options" in capsys.readouterr().err


def test_an_action_that_names_an_option_is_the_answer_and_stays_the_action(tmp_path):
    (tmp_path / "a.csv").write_text("video,domain,choices,action\n1.mp4,yoga,tree|crow,Crow\n")
    [sample] = load_samples(str(tmp_path / "a.csv"))
    assert (sample.answer, sample.action) == (1, "Crow")


def test_options_and_a_domain_that_no_row_needs_are_said_to_be_unused(tmp_path, capsys):
    (tmp_path / "a.csv").write_text("video,domain,choices\n1.mp4,yoga,tree|crow\n2.mp4,,tree|crow\n")
    load_samples(str(tmp_path / "a.csv"), options=OPTIONS, domain="dance")
    said = capsys.readouterr().err
    assert "a.csv: --options is not used, since every row has its own" in said
    assert "--domain" not in said


def test_a_single_option_is_warned_of(tmp_path, capsys):
    (tmp_path / "a.csv").write_text('video,domain,choices\n1.mp4,yoga,"tree, crow"\n2.mp4,yoga,tree|crow\n')
    load_samples(str(tmp_path / "a.csv"))
    assert "warning: " in (said := capsys.readouterr().err)
    assert "1 of 2 samples have one option, so that every answer is right" in said


# Bad input

REFUSED = {
    "no folder or file": (["nowhere.csv"], ["nowhere.csv", "No such file"]),
    "no video file": (["nowhere.mp4"], ["nowhere.mp4", "no such file"]),
    "no video in the folder": (["empty"], ["empty", "has no video in it"]),
    "another address": (["ftp://example.org/a.mp4"], ["no http or https address"]),
    "an option twice": (["clips", "--domain", "d", "--options", "Dunk", "dunk"], ["--options", "Dunk, dunk"]),
    "no options": (["clips", "--domain", "d"], ["has no options", "--options"]),
    "no domain": (["clips", "--options", "a", "b"], ["has no domain", "--domain"]),
    "an empty options file": (["clips", "--domain", "d", "--options", "empty.txt"], ["--options: has no options"]),
    "a folder for a folder": (["clips", "--videos_dir", "empty"], ["--videos_dir empty", "clips is no dataset"]),
    "a folder for a video": (["clips/a.mp4", "--videos_dir", "empty"], ["clips/a.mp4 is no dataset"]),
    "an empty name": (["", "--options", "a", "b"], ["--dataset: a name is empty"]),
    "no options file": (["clips", "--domain", "d", "--options", "nowhere.txt"], ["--options nowhere.txt", "No such"]),
    "options of another kind": (["clips", "--domain", "d", "--options", "odd.txt"], ["--options odd.txt", "decode"]),
    "no answer but numbers": (["numbers.csv"], ["numbers.csv, row 1", "no options"]),
    "a file in another format": (["odd.doc"], ["odd.doc", "is none of .csv"]),
}


@pytest.mark.parametrize(("arguments", "parts"), REFUSED.values(), ids=REFUSED)
def test_what_is_no_dataset_is_refused_in_one_line(clips, monkeypatch, arguments, parts):
    monkeypatch.chdir(clips.parent)
    Path("empty").mkdir()
    Path("odd.txt").write_bytes(b"\x81\xff")
    Path("odd.doc").touch()
    Path("empty.txt").touch()
    Path("numbers.csv").write_text("video,domain,label\na.mp4,yoga,1\n")
    refusal(lambda: load("--dataset", *arguments), *parts)


@pytest.mark.parametrize("name", ["choices", "choices_str", "domain", "label", "key", "question", "start"])
def test_fields_that_nest_deep_are_refused(tmp_path, name):
    row = json.dumps({"video": "a.mp4", "domain": "d", name: 0}).replace("0", "[" * 1000 + "]" * 1000)
    (tmp_path / "a.json").write_text(f"[{row}]")
    refusal(lambda: load_samples(str(tmp_path / "a.json"), options=["a", "b"]), "a.json, row 1")


def test_a_folder_that_may_not_be_read_is_refused_by_name(clips, monkeypatch):
    scan = os.scandir

    def scandir(path):
        if str(path).endswith("sub"):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", scandir)
    refusal(lambda: load("--dataset", clips, *GIVEN), str(clips / "sub"), "Permission denied")


# Through the first stage


def frames_of(folder, *arguments):
    """Run process_data.py; returns ({id: number of frames}, {id: reason})."""
    assert process_data.main(["--output", str(folder / "p.npy"), "--image_size", "48", *map(str, arguments)]) == 0
    missing = folder / "p.missing.json"
    reasons = json.loads(missing.read_text()) if missing.exists() else []
    frames = read_array(folder / "p.npy", "frames")
    return ({item["id"]: len(frames.rows(item["id"])) for item in frames.items},
            {entry["id"]: entry["reason"] for entry in reasons})


def test_a_folder_goes_through_and_a_clip_without_frames_or_damaged_is_named_alone(tmp_path):
    clips = tmp_path / "clips"
    (clips / "sub").mkdir(parents=True)
    write_video(clips / "good.mp4", 6)
    write_video(clips / "sub" / "good.mp4", 7)
    with av.open(str(clips / "none.mkv"), "w") as container:
        stream = container.add_stream("libx264", rate=24)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        container.start_encoding()
    (clips / "odd.mp4").write_bytes(b"no video")
    found, reasons = frames_of(tmp_path, "--dataset", clips, *GIVEN)
    assert found == {"good": 6, "sub/good": 7}
    assert reasons.keys() == {"none", "odd"}
    assert "none.mkv: cannot be decoded" in reasons["none"]


def test_paths_of_a_dataset_of_ones_own_may_lead_anywhere_and_two_datasets_each_to_its_folder(tmp_path):
    for name, frames in (("one", 5), ("two", 6), ("out", 7)):
        (tmp_path / name).mkdir()
        write_video(tmp_path / name / "a.mp4", frames)
    (tmp_path / "one/a.csv").write_text(f"video,id\na.mp4,1\n../out/a.mp4,up\n{tmp_path}/out/a.mp4,absolute\n")
    (tmp_path / "two/a.csv").write_text("video,id\na.mp4,2\n")
    found, reasons = frames_of(tmp_path, "--dataset", tmp_path / "one/a.csv", tmp_path / "two/a.csv", *GIVEN)
    assert found == {"1": 5, "up": 7, "absolute": 7, "2": 6}
    assert reasons == {}


def test_ids_that_are_paths_name_files_beside_one_another(tmp_path):
    entries = make_entries({"sub/a": ["x", "y"], "sub/../b": ["x", "y"], "sub": ["x", "y"]})
    write_entries(tmp_path / "s.json", entries)
    videos = write_video_embeddings(tmp_path, {entry["id"]: 9 for entry in entries})
    texts = write_subaction_embeddings(tmp_path, entries)
    outputs = {"report": "r.html", "figures": "figures", "phases": "phases", "output": "p.json", "videonet": "v.json"}
    assert seq_alignment.main([
        "--subactions", str(tmp_path / "s.json"), "--video_embeddings", str(videos),
        "--subaction_embeddings", str(texts),
        *(part for flag, name in outputs.items() for part in (f"--{flag}", str(tmp_path / name)))]) == 0
    assert len(list((tmp_path / "figures").glob("*.png"))) == len(list((tmp_path / "phases").glob("*.vtt"))) == 3
    assert json.loads((tmp_path / "v.json").read_text()).keys() == {"sub/a", "sub/../b", "sub"}

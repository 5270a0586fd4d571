"""Samples of datasets: the same rows mean the same in every file format, and a row that makes no sense is named."""

import contextlib
import csv
import json
import re
import subprocess
import sys
from dataclasses import replace

import pytest
from held_runs import LIMIT
from refusals import refusal

from actalign.console import InputError
from actalign.dataset import (
    Sample,
    load_samples,
    parse_answer,
    parse_choices,
    require_unique_ids,
    sample_from_record,
    sample_from_row,
)
from actalign.files import dump_json, parse_json

ROW = {"video": "clips/flip.mp4", "domain": "skateboarding", "choices": ["Kickflip", "360 flip"]}


# Choices


@pytest.mark.parametrize(("choices", "labels"), [
    ("1. Kickflip\n2. Heelflip", ("Kickflip", "Heelflip")),
    ("1) Kickflip\n2) Heelflip", ("Kickflip", "Heelflip")),
    ("1.Kickflip\r\n2.Heelflip\r\n", ("Kickflip", "Heelflip")),
    ("\n  1.  Kickflip \n\n\t2. Heelflip\n \n", ("Kickflip", "Heelflip")),
    ("\n".join(f"{n}. option {n}" for n in range(1, 12)), tuple(f"option {n}" for n in range(1, 12))),
    ("Kickflip\nHeelflip", ("Kickflip", "Heelflip")),
    ("Kickflip", ("Kickflip",)),
    ("1. 360 flip\n2. 540 flip", ("360 flip", "540 flip")),
    ("360 flip\n540 flip", ("360 flip", "540 flip")),
    ("1. 2. Bundesliga\n2. 1. Bundesliga", ("2. Bundesliga", "1. Bundesliga")),
    (["3. Liga", "1. FC Köln"], ("3. Liga", "1. FC Köln")),
    (["1.5 somersault", "2.5 somersault", "3.5 somersault"], ("1.5 somersault", "2.5 somersault", "3.5 somersault")),
    ("1. back\n2. front\n3. 3.5 somersault", ("back", "front", "3.5 somersault")),
    ("1 on 1\n2 on 1", ("1 on 1", "2 on 1")),
    (["1. Kickflip", "2. Heelflip"], ("Kickflip", "Heelflip")),
    (("Kickflip ", " Heelflip"), ("Kickflip", "Heelflip")),
    ([1, 2], ("1", "2")),
    ('["Kickflip", "Don\'t know, \\"maybe\\""]', ("Kickflip", 'Don\'t know, "maybe"')),
    (' ["1. Kickflip", "2. Heelflip"] ', ("Kickflip", "Heelflip")),
    ("['Kickflip', \"Don't know\", 'pin, hold']", ("Kickflip", "Don't know", "pin, hold")),
    ("[wide] pass\n[long] pass", ("[wide] pass", "[long] pass")),
    ("[wide]\n[long]", ("[wide]", "[long]")),
    ("""["the 'one' 'two' combination", "pass"]""", ("the 'one' 'two' combination", "pass")),
    ("""['the "one" "two" combination', 'pass']""", ('the "one" "two" combination', "pass")),
    ("""["Kickflip",\n 'Heelflip' ,"Pop"]""", ("Kickflip", "Heelflip", "Pop")),
    ("- Kickflip\n\u2022 Heelflip\n3. Pop", ("Kickflip", "Heelflip", "Pop")),
    ("NA\nNone\nnull\nnan", ("NA", "None", "null", "nan")),
])
def test_choices_are_read_and_only_numbers_that_count_them_are_taken_off(choices, labels):
    assert parse_choices(choices, "row 1") == labels


@pytest.mark.parametrize("choices", [
    None, "", "  \n ", [], (), "[]", " [ ] ", ["Kickflip", ""], ["Kickflip", "  "], ["Kickflip", None],
    "1. Kickflip\n2.", '["Kickflip", ""]', "['Kickflip', None]", ["1.", "2. Kickflip"], {"1": "Kickflip"}, 5, 0.5,
    [{"name": "Kickflip"}, {"name": "Heelflip"}], [["Kickflip"], ["Heelflip"]],
])
def test_choices_without_a_name_are_refused(choices):
    refusal(lambda: parse_choices(choices, "rows.csv, row 7 (id x)"), "rows.csv, row 7 (id x)", "option")


@pytest.mark.parametrize("choices", [["Dunk", "hook", "dunk"], "1. Dunk\n2. DUNK", ["lay  up", "Lay up"],
                                     ["caf\u00e9", "Cafe\u0301"], ["Stra\u00dfe", "STRASSE"], ["a", "a"]])
def test_options_that_are_the_same_but_for_case_are_refused(choices):
    refusal(lambda: sample_from_row({**ROW, "choices": choices}, "rows.csv, row 7"), "row 7", "same but for case")


@pytest.mark.parametrize("choices", ["['Kickflip' 'Heelflip']", "['Kickflip'\n 'Heelflip' \"Don't\"]"])
def test_list_that_numpy_printed_is_not_glued_into_one_option(choices):
    refusal(lambda: parse_choices(choices, "row 1"), "row 1")


# Answers

LABELS = ("Kickflip", "360 Flip", "2", "1")


@pytest.mark.parametrize(("answer", "index"), [
    (None, None), (1, 0), (4, 3), (2, 1), (3.0, 2), ("4.0", 3), ("3", 2), (" 4 ", 3), ("Kickflip", 0),
    ("  kickFLIP ", 0), ("360 flip", 1), ("360  flip", 1), ("Ollie\u0301", 4),
])
def test_answer_is_a_number_from_one_or_a_name(answer, index):
    labels = ("Kickflip", "360 Flip", "Heelflip", "Pop", "Olli\u00e9")
    assert parse_answer(answer, labels, "row 1") == index


@pytest.mark.parametrize("answer", [
    0, -1, 5, 1.5, "0", "5", "-1", "1.5", "", "Ollie", "Kick flip", True, False, float("nan"), "nan", float("inf"),
    "-inf", [1], ["Kickflip"], {"index": 1}, 10**400, "1" * 400,
], ids=lambda answer: repr(answer)[:20])
def test_answer_that_is_no_option_is_refused(answer):
    refusal(lambda: parse_answer(answer, ("Kickflip", "360 Flip", "Heelflip", "Pop"), "rows.csv, row 7"),
            "rows.csv, row 7", "1 to 4")


def test_answer_that_fits_two_options_is_refused():
    refusal(lambda: parse_answer("2", LABELS, "row 1"), "two options", "'2'")
    refusal(lambda: parse_answer("1", LABELS, "row 1"), "two options")
    refusal(lambda: parse_answer("kickflip", ("Kickflip", "kickflip"), "row 1"), "two options")


def test_number_is_the_position_even_where_an_option_is_named_so():
    assert parse_answer(2, LABELS, "row 1") == 1
    assert parse_answer("2", ("1", "2"), "row 1") == 1  # both readings agree
    assert parse_answer("7", ("Kickflip", "7"), "row 1") == 1
    refusal(lambda: parse_answer(7, ("Kickflip", "7"), "row 1"), "none of the options")


# Rows


def test_row_of_an_own_video():
    sample = sample_from_row({**ROW, "id": 7, "answer": "360 Flip", "start_timestamp": "1.5", "end_timestamp": 3,
                              "action": " spin ", "camera": "left", "note": None, "question": ""}, "rows, row 1")
    assert sample == Sample(
        id="7", domain="skateboarding", options=("kickflip", "360 flip"), labels=("Kickflip", "360 flip"), answer=1,
        action="spin", video="clips/flip.mp4", start=1.5, end=3.0, extra={"camera": "left"})
    assert sample.keys == ("kickflip in skateboarding", "360 flip in skateboarding")


def test_fields_that_are_nobodys_are_kept_as_plain_json():
    row = {**ROW, "views": 7, "score": 0.5, "nan": float("nan"), "inf": [float("inf")], "live": True, "raw": b"x",
           "nested": {1: ("a", None)}}
    written = dump_json(sample_from_row(row, "rows, row 1").extra)
    assert parse_json(written) == {"views": 7, "score": 0.5, "nan": None, "inf": [None], "live": True, "raw": "b'x'",
                                   "nested": {"1": ["a", None]}}


@pytest.mark.parametrize(("changes", "part"), [
    ({"domain": None}, "domain"),
    ({"domain": "  "}, "domain"),
    ({"choices": None}, "options"),
    ({"choices": ["Kickflip", ""]}, "option 2"),
    ({"answer": 3}, "answer 3"),
    ({"answer": ["Kickflip"]}, "answer"),
    ({"start_timestamp": -0.1}, "start_timestamp -0.1"),
    ({"start_timestamp": "0:75"}, "start_timestamp '0:75'"),
    ({"end_timestamp": float("nan")}, "end_timestamp"),
    ({"end_timestamp": "inf"}, "end_timestamp"),
    ({"end_timestamp": [1]}, "end_timestamp"),
])
def test_refused_row_is_named_with_its_id(changes, part):
    refusal(lambda: sample_from_row({**ROW, "id": "clip-3", **changes}, "rows.csv, row 3"),
            "rows.csv, row 3", "clip-3", part)


def test_row_without_a_video_is_refused():
    for video in ({}, {"video": ""}, {"video": None}, {"video": " "}, {"id": "a"}, {"id": "a", "video": ""}):
        refusal(lambda video=video: sample_from_row({"domain": "yoga", "choices": ["a"], **video}, "rows.csv, row 3"),
                "rows.csv, row 3", "video")


@pytest.mark.parametrize(("row", "id"), [
    ({"video": "clips/flip.mp4"}, "flip"),
    ({"video": "https://example.org/a/flip.mp4?token=1.2"}, "flip"),
    ({"youtube_id": "-_dQw4w9WgX", "video": "flip.mp4"}, "-_dQw4w9WgX"),
    ({"id": "", "video": "flip.mp4"}, "flip"),
    ({"id": " 001 ", "video": "flip.mp4"}, "001"),
    ({"id": 0, "video": "flip.mp4"}, "0"),
])
def test_id_is_the_rows_own_or_the_name_of_its_video(row, id):
    assert sample_from_row({**ROW, **row}, "rows, row 1").id == id


def test_numbering_rows_without_ids_looks_at_each_once_or_twice():
    class Counted(dict):
        looks = 0

        def __contains__(self, id):
            self.looks += 1
            return super().__contains__(id)

    taken, row = Counted(), {"video": "a.mp4", "domain": "yoga", "choices": ["x", "y"]}
    for number in range(1, 2001):
        id = sample_from_row(row, "here", taken).id
        assert id == ("a" if number == 1 else f"a-{number}")
        taken.setdefault(id, 1)
    assert taken.looks <= 2 * 2000


def test_rows_without_ids_that_share_a_video_are_numbered(tmp_path):
    rows = [{**ROW, "start_timestamp": n} for n in range(3)] + [{**ROW, "video": "other/flip.mp4"}]
    assert [sample.id for sample in load_samples(write_jsonl(tmp_path / "rows.jsonl", rows), "test")] == [
        "flip", "flip-2", "flip-3", "flip-4"]


def test_duplicate_ids_are_refused(tmp_path):
    rows = [{**ROW, "id": "a"}, {**ROW, "id": "b"}, {**ROW, "id": "a"}]
    refusal(lambda: load_samples(write_jsonl(tmp_path / "rows.jsonl", rows), "test"), "rows.jsonl", "a occurs twice")
    samples = [Sample(id=id, domain="d", options=("o",)) for id in "aba"]
    refusal(lambda: require_unique_ids(samples, "file.json"), "file.json", "a occurs twice")
    require_unique_ids(samples[:2], "file.json")


def test_options_are_trimmed_and_lower_cased():
    sample = sample_from_row({**ROW, "choices": ["  360 Flip ", "KICKFLIP"]}, "row 1")
    assert (sample.options, sample.labels) == (("360 flip", "kickflip"), ("360 Flip", "KICKFLIP"))


# Files


def write_jsonl(path, rows):
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def write_json(path, rows):
    path.write_text(json.dumps(rows), encoding="utf-8")
    return str(path)


def write_csv(path, rows, spell_list="\n".join):
    fields = list(dict.fromkeys(field for row in rows for field in row))
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fields)
        writer.writeheader()
        writer.writerows({field: spell_list(value) if isinstance(value, list) else value
                          for field, value in row.items()} for row in rows)
    return str(path)


def write_parquet(path, rows):
    import pyarrow
    import pyarrow.parquet

    fields = dict.fromkeys(field for row in rows for field in row)
    pyarrow.parquet.write_table(
        pyarrow.table({field: pyarrow.array([row.get(field) for row in rows]) for field in fields}), path)
    return str(path)


SAME_ROWS = [
    {"id": "001", "video": "a.mp4", "domain": "figure skating", "choices": ["Toe Loop", "None", "3.5 turn, née"],
     "answer": 2, "start_timestamp": 0.5, "end_timestamp": 2.25, "camera": "NA"},
    {"id": "1e5", "video": "b c.mp4", "domain": "NA", "choices": ["NA", "null"], "answer": None, "question": "Which?"},
    {"id": "None", "video": "a.mp4", "domain": "yoga", "choices": ["crow pose"], "answer": 1, "start_timestamp": 3.0},
]
WRITERS = {
    "rows.jsonl": write_jsonl,
    "rows.json": write_json,
    "indented.json": lambda path, rows: (path.write_text(json.dumps(rows, indent=2)), str(path))[1],
    "ROWS.JSONL": write_jsonl,
    "rows.parquet": write_parquet,
    "lines.csv": write_csv,
    "numbered.csv": lambda path, rows: write_csv(
        path, rows, lambda labels: "\n".join(f"{n}. {label}" for n, label in enumerate(labels, start=1))),
    "json.csv": lambda path, rows: write_csv(path, rows, json.dumps),
    "python.csv": lambda path, rows: write_csv(path, rows, repr),
}


@pytest.mark.parametrize("name", WRITERS)
def test_same_rows_give_the_same_samples_in_every_format(tmp_path, name):
    samples = load_samples(WRITERS[name](tmp_path / name, SAME_ROWS), "test")
    assert [replace(sample, folder=None) for sample in samples] == [
        Sample(id="001", domain="figure skating", options=("toe loop", "none", "3.5 turn, née"),
               labels=("Toe Loop", "None", "3.5 turn, née"), answer=1, video="a.mp4", start=0.5, end=2.25,
               extra={"camera": "NA"}),
        Sample(id="1e5", domain="NA", options=("na", "null"), labels=("NA", "null"), video="b c.mp4",
               question="Which?"),
        Sample(id="None", domain="yoga", options=("crow pose",), labels=("crow pose",), answer=0, video="a.mp4",
               start=3.0),
    ]


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json", "rows.parquet", "lines.csv"])
def test_ids_and_options_that_look_like_something_else_stay_texts(tmp_path, name):
    ids = ["2024-05-01", "2024-05-02", "1.0"] if name.endswith("csv") else ["2024-05-01", "2024-05-02"]
    rows = [{**ROW, "id": id, "choices": ["2024-05-01 10:00:00", "2023-05-01 10:00:00"]} for id in ids]
    samples = load_samples(WRITERS[name](tmp_path / name, rows), "test")
    assert [sample.id for sample in samples] == ids
    assert samples[0].labels == ("2024-05-01 10:00:00", "2023-05-01 10:00:00")


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json", "rows.parquet", "lines.csv"])
def test_texts_keep_whatever_character_they_hold(tmp_path, name):
    for number, text in enumerate(["line\u2028paragraph\u2029next\x85page\x0cend", "tab\tand \"quotes\", comma; 技",
                                   "two\nlines", "x" * 200_000]):
        path = tmp_path / f"{number}{name}"
        samples = load_samples(WRITERS[name](path, [{**ROW, "remark": text}, {**ROW, "remark": text[::-1]}]), "test")
        assert [sample.extra["remark"] for sample in samples] == [text, text[::-1]]


def action_atlas_row(number, masks, **changes):
    return {"youtube_id": "dQw4w9WgXcQ", "id": f"dQw4w9WgXcQ_{number}", "domain": "Basketball",
            "action": "Euro Step", "question": "Which move is it?", "answer": 2,
            "choices_str": "1. Crossover\n2. Euro Step\n3. 360 layup",
            "choice_descriptions": ["a", "b", "c"], "start_timestamp": 61.5, "end_timestamp": 67.0,
            "frames_to_obfuscate": masks, **changes}


def mask(text, *vertices):
    return [{"description": text, "bounding_poly": {"vertices": [list(vertex) for vertex in vertices]}}]


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json", "rows.parquet"])
def test_rows_of_action_atlas_are_read_with_their_masks(tmp_path, name):
    rows = [action_atlas_row(1, {"1": mask("SCORE", [10, 20], [30, 20], [30, 40], [10, 40]),
                                 "12": mask("7:2", [0, 0], [5, 5])}),
            action_atlas_row(2, {"40": mask("Euro step", [1, 2], [3, 4])}),
            action_atlas_row(3, None)]
    samples = load_samples(WRITERS[name](tmp_path / name, rows), "test")
    first = samples[0]
    assert [sample.id for sample in samples] == [f"dQw4w9WgXcQ_{number}" for number in (1, 2, 3)]
    assert (first.youtube_id, first.video) == ("dQw4w9WgXcQ", None)
    assert (first.domain, first.action) == ("Basketball", "Euro Step")
    assert (first.options, first.answer) == (("crossover", "euro step", "360 layup"), 1)
    assert (first.start, first.end, first.question) == (61.5, 67.0, "Which move is it?")
    assert first.extra == {"choice_descriptions": ["a", "b", "c"]}
    assert [sample.problem for sample in samples] == [None] * 3
    assert [sample.masks for sample in samples] == [{1: [(10, 20, 30, 40)]}, {40: [(1, 2, 3, 4)]}, {}]


def test_refused_row_of_a_file_is_named_by_number_and_id(tmp_path):
    rows = [{**ROW, "id": "good"}, {**ROW, "id": "bad", "answer": 9}]
    for name, write in {"rows.jsonl": write_jsonl, "rows.csv": write_csv}.items():
        path = write(tmp_path / name, rows)
        refusal(lambda path=path: load_samples(path, "test"), path, "row 2", "bad", "9")


@pytest.mark.parametrize("folder", ["plain", "with space (1)", "[2024] clips", "née#1%20", "a;b"])
def test_dataset_is_found_whatever_its_folder_is_called(tmp_path, folder, monkeypatch):
    (tmp_path / folder).mkdir()
    monkeypatch.chdir(tmp_path)
    for name in ("rows.jsonl", "rows.parquet"):
        path = WRITERS[name](tmp_path / folder / name, [ROW])
        assert load_samples(path, "test")[0].id == "flip"
        assert load_samples(f"{folder}/{name}", "test")[0].id == "flip"


def test_file_with_a_byte_order_mark_is_read(tmp_path):
    for name in ("rows.csv", "rows.jsonl"):
        path = tmp_path / name
        WRITERS["lines.csv" if name == "rows.csv" else name](path, [{"id": "001", **ROW}])
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
        assert [sample.id for sample in load_samples(str(path), "test")] == ["001"]


UNREADABLE = {
    "empty": b"",
    "blank": b" \n \n",
    "empty list": b"[]",
    "zeros": bytes(60),
    "utf-16 without a mark": "video,domain,choices\na.mp4,yoga,crow\n".encode("utf-16-le"),
    "no encoding": b"video,domain,choices\na.mp4,yoga,caf\x81\n",
    "cut short": b'[{"video": "a.mp4", "domain": "yo',
    "deep": b"[" * 100_000,
    "numbers": b"[1, 2]",
    "binary": bytes(range(256)) * 4,
}


@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".csv", ".parquet"])
@pytest.mark.parametrize("content", UNREADABLE.values(), ids=UNREADABLE)
def test_unreadable_dataset_is_refused_in_one_line(tmp_path, content, suffix):
    path = tmp_path / f"rows{suffix}"
    path.write_bytes(content)
    assert len(refusal(lambda: load_samples(str(path), "test"), str(path))) < 800


@pytest.mark.parametrize(("name", "content"), [("rows.json", f"[null, {json.dumps(ROW)}]"),
                                               ("rows.jsonl", "null\nnull\n")], ids=["list", "lines"])
def test_row_that_is_null_is_refused(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    loading = subprocess.run(  # a process of its own: a library may crash, and the tests with it
        [sys.executable, "-c", "import sys\nfrom actalign.console import InputError\n"
         "from actalign.dataset import load_samples\n"
         "try:\n    load_samples(sys.argv[1], 'test')\nexcept InputError as error:\n    print(error)",
         str(tmp_path / name)], capture_output=True, text=True, timeout=LIMIT, check=False)
    assert loading.returncode == 0, loading.stderr[-500:]
    assert str(tmp_path / name) in loading.stdout
    assert len(loading.stdout.splitlines()) == 1


def test_dataset_of_null_choices_or_with_a_header_only_is_refused(tmp_path):
    (tmp_path / "header.csv").write_text("id,video,domain,choices\n")
    refusal(lambda: load_samples(str(tmp_path / "header.csv"), "test"), "header.csv")
    path = write_jsonl(tmp_path / "rows.jsonl", [ROW, {**ROW, "choices": None}])
    refusal(lambda: load_samples(path, "test"), "row 2", "options")


HEADER = "id,video,domain,choices,answer\n"


@pytest.mark.parametrize(("text", "part"), [
    ("1,a.mp4,yoga,crow pose,tree pose,1\n2,b.mp4,yoga,crow pose,tree pose,1\n", "row 1 has 6 cells"),
    ("1,a.mp4,yoga,crow pose,1\n2,b.mp4,yoga,crow pose,tree pose,1\n", "row 2 has 6 cells"),
    ("1,a.mp4,yoga,crow pose,1\n2,b.mp4,yoga,crow pose\n", "row 2 has 4 cells"),  # cut short: no answer is lost
    ('1,a.mp4,yoga,crow pose,1\n2,b.mp4,yoga,"crow pose,1\n', "quotes up to line 3"),
    ('1,a.mp4,yoga,"crow" pose,1\n', "quotes up to line 2"),
], ids=["all-more", "one-more", "fewer", "open-quote", "text-after-quote"])
def test_csv_whose_cells_do_not_fit_the_header_is_refused(tmp_path, text, part):
    path = tmp_path / "rows.csv"
    path.write_text(HEADER + text)
    refusal(lambda: load_samples(str(path), "test"), "rows.csv", part)


@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
def test_csv_of_any_line_ends_and_with_blank_lines_is_read(tmp_path, line_end):
    text = "\n" + HEADER + '\n001,a.mp4,yoga,"1. crow\n2. tree",2\n\n1e5,b.mp4,NA,null,\n\n'
    (tmp_path / "rows.csv").write_bytes(text.replace("\n", line_end).encode())
    samples = load_samples(str(tmp_path / "rows.csv"), "test")
    assert [(sample.id, sample.domain, sample.labels, sample.answer) for sample in samples] == [
        ("001", "yoga", ("crow", "tree"), 1), ("1e5", "NA", ("null",), None)]


def test_csv_rows_that_excel_left_blank_are_passed_over(tmp_path):
    (tmp_path / "rows.csv").write_text("video,domain,choices\na.mp4,yoga,crow\n,,\n , ,\nb.mp4,yoga,tree\n,,\n")
    assert [sample.id for sample in load_samples(str(tmp_path / "rows.csv"), "test")] == ["a", "b"]


@pytest.mark.parametrize(("text", "parts"), [
    ("where,domain,choices\na.mp4,yoga,crow\n", ("neither video", "where, domain, choices")),
    ("video,domain,names\na.mp4,yoga,crow\n", ("no options", "video, domain, names", "--options")),
    ("video,kind,choices\na.mp4,yoga,crow\n", ("no domain", "video, kind, choices", "--domain")),
    ("video/domain/choices\na.mp4/yoga/crow\n", ("neither video", "columns are video/domain/choices")),
    ("video/domain/choices\na.mp4/yoga/crow, tree\n", ("2 cells, the header 1 (video/domain/choices)",)),
])
def test_columns_that_were_found_are_named_where_one_is_lacking(tmp_path, text, parts):
    (tmp_path / "rows.csv").write_text(text)
    refusal(lambda: load_samples(str(tmp_path / "rows.csv"), "test"), "row 1", *parts)


def test_two_columns_of_one_name_are_refused_and_two_without_a_name_are_not(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("video,domain,video,choices\na.mp4,yoga,b.mp4,crow\n")
    refusal(lambda: load_samples(str(path), "test"), "rows.csv", "two columns are called video")
    path.write_text("video,domain,choices,,\na.mp4,yoga,crow,,\n")
    assert [sample.video for sample in load_samples(str(path), "test")] == ["a.mp4"]


def test_columns_that_are_not_understood_are_named_once(tmp_path, capsys):
    rows = [{**ROW, "video": f"{n}.mp4", "begins": n, "end_timestamp": 9} for n in range(3)]
    write_parquet(tmp_path / "rows.parquet", rows)
    assert load_samples(str(tmp_path / "rows.parquet"), "test")[2].extra == {"begins": 2}
    said = capsys.readouterr().err
    assert said.count("not used: begins; those that mean something are id, ") == 1
    assert "start_timestamp" in said
    write_parquet(tmp_path / "rows.parquet", [ROW])
    load_samples(str(tmp_path / "rows.parquet"), "test")
    assert capsys.readouterr().err == ""


def test_video_column_of_the_datasets_library_gives_its_path(tmp_path):
    rows = [{**ROW, "video": {"bytes": None, "path": "clips/a.mp4"}},
            {**ROW, "video": {"bytes": b"0", "path": "b.mp4"}}]
    samples = load_samples(write_parquet(tmp_path / "rows.parquet", rows), "test")
    assert [(sample.id, sample.video) for sample in samples] == [("a", "clips/a.mp4"), ("b", "b.mp4")]
    for video in ({"bytes": b"0", "path": None}, b"0", {"url": "a.mp4"}, ["a.mp4"]):
        path = write_parquet(tmp_path / "others.parquet", [{**ROW, "video": video}])
        refusal(lambda path=path: load_samples(path, "test"), "row 1", "video without a path")


def test_ids_of_a_parquet_file_that_are_numbers_stay_whole_where_a_row_has_none(tmp_path):
    rows = [{**ROW, "id": 7, "answer": 2}, {**ROW, "id": None, "answer": None}, {**ROW, "id": 2**53 + 1, "answer": 1}]
    samples = load_samples(write_parquet(tmp_path / "rows.parquet", rows), "test")
    assert [(sample.id, sample.answer) for sample in samples] == [("7", 1), ("flip", None), ("9007199254740993", 0)]


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity"])
@pytest.mark.parametrize("name", ["rows.json", "rows.jsonl"])
def test_numbers_that_json_does_not_know_are_refused_with_advice(tmp_path, name, number):
    path = WRITERS[name](tmp_path / name, [ROW, {**ROW, "end_timestamp": float(number)}])
    refusal(lambda: load_samples(path, "test"), path, "in JSON null instead of NaN")


def test_dataset_that_is_no_file_is_refused(tmp_path):
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "rows.xlsx").write_bytes(b"PK")
    refusal(lambda: load_samples(str(tmp_path / "rows.csv"), "test"), "rows.csv", "No such file")
    refusal(lambda: load_samples(str(tmp_path / "folder.csv"), "test"), "folder.csv")
    refusal(lambda: load_samples(str(tmp_path), "test"), str(tmp_path))
    refusal(lambda: load_samples(str(tmp_path / "rows.xlsx"), "test"), "rows.xlsx", ".parquet")


def test_hub_that_cannot_be_reached_is_one_line(monkeypatch):
    import datasets

    def fail(name, split):
        raise ConnectionError(f"Couldn't reach\n{name} ({split})")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    refusal(lambda: load_samples("somebody/videos", "test"), "somebody/videos", "--split", "connection")


def test_rows_of_a_hub_dataset_are_read(monkeypatch):
    import datasets

    asked = []
    rows = datasets.Dataset.from_list([action_atlas_row(1, {"1": None, "2": mask("A", [0, 0], [1, 1])})])
    monkeypatch.setattr(datasets, "load_dataset", lambda name, split: asked.append((name, split)) or rows)
    samples = load_samples("somebody/videos-v1.0", "validation")
    assert asked == [("somebody/videos-v1.0", "validation")]
    assert samples[0].masks == {2: [(0, 0, 1, 1)]}


def test_pictures_and_sounds_that_a_parquet_file_names_are_not_opened(tmp_path):
    import datasets
    import pyarrow
    from pyarrow import parquet

    columns = {name: [{"bytes": None, "path": f"{tmp_path}/secret"}] for name in ("picture", "sound")}
    features = datasets.Features({"video": datasets.Value("string"), "domain": datasets.Value("string"),
                                  "choices": datasets.List(datasets.Value("string")),
                                  "picture": datasets.Image(), "sound": datasets.Audio()})
    rows = {"video": ["a.mp4"], "domain": ["yoga"], "choices": [["x", "y"]], **columns}
    parquet.write_table(pyarrow.table(rows, schema=features.arrow_schema), tmp_path / "a.parquet")
    (sample,) = load_samples(str(tmp_path / "a.parquet"), "test")
    assert sample.extra["picture"] == {"bytes": None, "path": f"{tmp_path}/secret"}


@pytest.mark.parametrize("nested", ["[" * 10_000 + "]" * 10_000, '{"a":' * 2000 + "1" + "}" * 2000])
def test_rows_that_nest_too_deep_are_refused(tmp_path, nested):
    path = tmp_path / "a.json"
    for name in ("more", "domain"):
        row = json.dumps({**ROW, name: None}).replace("null", nested)
        path.write_text(f"[{row}]")
        message = refusal(lambda: load_samples(str(path), "test"), str(path))
        assert re.search("deep|depth", message.replace(str(path), ""))


@pytest.mark.parametrize("nested", ["[" * 900 + "]" * 900, '{"a":' * 33 + "1" + "}" * 33])
def test_rows_that_can_be_read_and_not_be_written_are_refused(nested):
    nested = json.loads(nested)
    for name in ("more", "domain", "id", "video", "answer", "choices", "start_timestamp"):
        message = refusal(lambda name=name: sample_from_row({**ROW, name: nested}, "rows.json, row 3"), "row 3")
        assert "deeper than 32 levels" in message or name == "video"


@pytest.mark.parametrize("expression", ["-" * 90_000 + "1", "+".join(["1"] * 40_000), "not " * 20_000 + "1",
                                        "x" + "()" * 40_000, "(" * 150 + "1" + ")" * 150, "a<b" + "<b" * 40_000],
                         ids=["minus", "plus", "not", "calls", "brackets", "comparisons"])
def test_no_expression_in_a_cell_is_too_deep_for_the_parser(expression, capfd):
    with contextlib.suppress(InputError):
        parse_choices(f"[{expression}]", "rows, row 1")
    assert capfd.readouterr().err == ""


# Records of artifacts


def test_record_comes_back():
    sample = Sample(id="001", domain="yoga", options=("crow pose", "tree pose"), answer=1, action="Tree", question="Q?",
                    youtube_id="dQw4w9WgXcQ")
    record = json.loads(json.dumps(sample.record()))
    assert list(record) == ["youtube_id", "id", "domain", "action", "question", "cleaned_options",
                            "correct_answer_index"]
    back = sample_from_record({**record, "start": 0, "anything": [1]}, "a.json")
    assert back.record() == sample.record()
    assert back.labels == sample.options


@pytest.mark.parametrize(("answer", "index"), [(0, 0), (1, 1), (None, None), (-1, None)])
def test_record_with_and_without_an_answer(answer, index):
    record = {"id": 5, "domain": "yoga", "cleaned_options": ["a", "b"], "correct_answer_index": answer}
    sample = sample_from_record(record, "a.json")
    assert sample.id == "5"
    assert sample.answer == index


@pytest.mark.parametrize(("record", "part"), [
    (None, "id"), ([], "id"), ("x", "id"), ({}, "id"), ({"id": ""}, "id"), ({"id": None}, "id"), ({"id": [1]}, "id"),
    ({"id": 1.5}, "id"),
    ({"id": "x"}, "x"), ({"id": "x", "cleaned_options": []}, "x"), ({"id": "x", "cleaned_options": "ab"}, "x"),
    ({"id": "x", "cleaned_options": ["a", ""]}, "x"), ({"id": "x", "cleaned_options": ["a", 1]}, "x"),
    ({"id": "x", "cleaned_options": {"a": 1}}, "x"),
    *(({"id": "x", "cleaned_options": ["a", "b"], "correct_answer_index": answer}, "0 to 1")
      for answer in (2, -2, True, "1", 0.5, [0])),
])
def test_record_that_is_no_sample_is_refused(record, part):
    refusal(lambda: sample_from_record(record, "a.json"), "a.json", part)


PHASES = [{"start": 0, "end": 1.5, "subactions": [0]}, {"start": 1.5, "end": 2, "subactions": []}]


@pytest.mark.parametrize("name", ["rows.jsonl", "lines.csv", "rows.parquet"])
def test_true_phases_and_a_note_are_the_samples(tmp_path, name):
    phases = json.dumps(PHASES) if name.endswith("csv") else PHASES
    path = WRITERS[name](tmp_path / name, [{**ROW, "phases": phases, "note": "a drawn world"}])
    [sample] = load_samples(path, "test")
    assert (sample.phases, sample.note, sample.extra) == (PHASES, "a drawn world", {})


@pytest.mark.parametrize("phases", [
    "soon", 3, [], [{"start": 0, "end": 1}], [{"start": 1, "end": 0, "subactions": [0]}], [{**PHASES[0], "end": "inf"}],
    [{**PHASES[0], "subactions": ["first"]}], [{**PHASES[0], "subactions": None}], [PHASES[1]], PHASES[::-1]])
def test_phases_that_are_none_are_refused(phases):
    refusal(lambda: sample_from_row({**ROW, "phases": phases}, "rows, row 1"), "rows, row 1", "phases are no list")

"""JSON lists read item by item: the values that the json module gives, whatever lies across the border of a block."""

import json
import tracemalloc

import pytest

from actalign import json_items
from actalign.console import InputError
from actalign.json_items import JsonItems

VALUES = [{"id": "ünï 🤸", "n": [1, -2.5e3, True, None], "deep": {"a": [{"b": "}]\",\\"}]}}, [], {},
          "text, [with] {marks}", 12345678901234567890, 1e+20, -0.5, "", None, False, [[["x"]]]]


def write(path, text):
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


@pytest.fixture(params=[1, 2, 3, 7, 1 << 16])
def block(request, monkeypatch):
    """The size of the blocks that a file is read in."""
    monkeypatch.setattr(json_items, "CHUNK", request.param)


@pytest.mark.usefixtures("block")
@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("ascii_only", [True, False])
def test_items_of_a_list_are_those_of_the_json_module(tmp_path, indent, ascii_only):
    path = write(tmp_path / "a.json", json.dumps(VALUES, indent=indent, ensure_ascii=ascii_only))
    items = JsonItems(path, "list")
    assert list(items) == VALUES
    assert items.is_list
    assert [items[number] for number in range(len(items))] == VALUES
    assert list(items) == VALUES  # again


@pytest.mark.usefixtures("block")
def test_an_objects_list_and_header_are_read_in_any_order(tmp_path):
    for members in ({"a": 1, "items": VALUES, "z": {"items": 3}}, {"items": VALUES, "a": [2]}, {"items": []}):
        items = JsonItems(write(tmp_path / "a.json", json.dumps(members)), "index", "items")
        assert list(items) == members["items"]
        assert items.header == {name: value for name, value in members.items() if name != "items"}
        assert [items[number] for number in range(len(items))] == members["items"]


@pytest.mark.parametrize(("text", "key"), [("{}", None), ("3", None), ('"x"', None), ("[]", "items"), ("null", "items"),
                                           ('{"items": 3}', "items"), ('{"other": []}', "items")])
def test_a_file_of_another_form_has_no_items_and_says_so(tmp_path, text, key):
    items = JsonItems(write(tmp_path / "a.json", text), "list", key)
    assert list(items) == []
    assert not items.is_list


@pytest.mark.usefixtures("block")
def test_every_cut_is_refused(tmp_path):
    for whole, key in ((json.dumps(VALUES[:3]), None), (json.dumps({"a": 1, "items": VALUES[:3]}), "items")):
        raw = whole.encode()
        for end in range(len(raw)):
            with pytest.raises(InputError) as refusal:
                list(JsonItems(write(tmp_path / "a.json", raw[:end]), "list", key))
            assert str(tmp_path / "a.json") in str(refusal.value)


NOT_JSON = ["[1 2]", "[1,]", "[,1]", "[1]]", "[1] x", "[tru]", "[01]", "{1: 2}", '{"a" 1}', '{"a": 1,}', '["\t"]',
            "[" * 5000, '[{"a": ' * 5000, "[" + "9" * 5000 + "]", b"[\xff]", b'["\xc3"]']


@pytest.mark.usefixtures("block")
@pytest.mark.parametrize("text", NOT_JSON, ids=range(len(NOT_JSON)))
def test_what_is_not_json_is_refused_in_one_line(tmp_path, text):
    path = write(tmp_path / "a.json", text)
    for key in (None, "items"):
        with pytest.raises(InputError) as refusal:
            list(JsonItems(path, "list", key))
        assert "\n" not in str(refusal.value)
        assert str(path) in str(refusal.value)


def test_a_mistake_is_told_without_reading_what_follows(tmp_path, monkeypatch):
    path = write(tmp_path / "a.json", "[1, 2, oops, " + "3, " * 1_000_000 + "4]")
    monkeypatch.setattr(json_items, "CHUNK", 1 << 12)
    tracemalloc.start()
    with pytest.raises(InputError, match="after byte 7"):
        list(JsonItems(path, "list"))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 200_000


def test_memory_does_not_grow_with_the_number_of_items(tmp_path):
    def peak_of(count):
        path = write(tmp_path / f"{count}.json", json.dumps([{"id": str(i), "x": "y" * 1000} for i in range(count)]))
        tracemalloc.start()
        items = JsonItems(path, "list")
        assert sum(1 for _ in items) == count
        assert items[count - 1]["id"] == str(count - 1)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return peak

    few = peak_of(500)
    assert peak_of(5000) < few + 5000 * 40  # two numbers an item


def test_a_file_that_is_replaced_meanwhile_is_read_as_it_was(tmp_path):
    items = JsonItems(write(tmp_path / "a.json", "[1, 2]"), "list")
    assert list(items) == [1, 2]
    write(tmp_path / "b.json", "[3]").replace(tmp_path / "a.json")
    assert items[1] == 2


def test_a_missing_empty_or_unreadable_file_is_refused(tmp_path):
    for path, says in ((tmp_path / "none.json", "no such file"), (write(tmp_path / "empty.json", " \n"), "is empty"),
                       (tmp_path, "cannot be read")):
        with pytest.raises(InputError, match=says):
            list(JsonItems(path, "list"))

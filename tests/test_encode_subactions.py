"""Stage 4: encoding sub-action texts once each, resuming, and following changed sub-actions."""

import json

import numpy as np
import pytest
from made_artifacts import make_entries, write_entries

import encode_subactions
from actalign.artifacts import read_array
from actalign.checkpoint import find_checkpoint
from actalign.siglip import Siglip, load_siglip

OPTIONS = {"a": ["hook shot", "jump shot"], "b": ["jump shot", "dunk"]}  # "jump shot" has the same texts in both


@pytest.fixture
def stage(tmp_path, checkpoint):
    """A function that writes entries, runs the script and returns its exit code."""
    def run(entries, *more):
        write_entries(tmp_path / "generated.json", entries)
        return encode_subactions.main(["--subactions", str(tmp_path / "generated.json"), "--output",
                                       str(tmp_path / "encoded.npy"), "--model", str(checkpoint), "--device", "cpu",
                                       "--batch_size", "4", *more])

    run.path = tmp_path / "encoded.npy"
    return run


def count_encoded(monkeypatch):
    """A list that every text the encoder sees is added to."""
    seen = []
    encode = Siglip.encode_texts
    monkeypatch.setattr(Siglip, "encode_texts", lambda self, texts: seen.extend(texts) or encode(self, texts))
    return seen


def rows_of(stage):
    """{id: its embeddings}, in order"""
    artifact = read_array(stage.path, "subaction_embeddings")
    return {id: artifact.embeddings(id) for id in artifact}


def assert_same_rows(found, expected):
    assert list(found) == list(expected)
    for id, rows in expected.items():
        assert np.array_equal(found[id], rows)


def test_rows_are_the_texts_of_each_option_in_order(stage, checkpoint):
    import torch

    entries = make_entries(OPTIONS)
    assert stage(entries) == 0
    artifact = read_array(stage.path, "subaction_embeddings")
    encoder = load_siglip(find_checkpoint(str(checkpoint)), torch.device("cpu"), 4, "float32")
    for entry in entries:
        rows, first = artifact.embeddings(entry["id"]), artifact.item(entry["id"])["start"]
        for option in artifact.item(entry["id"])["options"]:
            texts = entry["subactions"][option["key"]]
            assert option["texts"] == texts
            found = rows[option["start"] - first:option["stop"] - first]
            assert np.array_equal(found, encoder.encode_texts(texts))


def test_each_text_is_encoded_once(stage, monkeypatch):
    seen = count_encoded(monkeypatch)
    assert stage(make_entries(OPTIONS)) == 0
    assert len(seen) == len(set(seen)) == 9
    assert read_array(stage.path, "subaction_embeddings").shape[0] == 12


def test_batches_of_texts_run_across_samples(stage, monkeypatch):
    sizes, encode = [], Siglip.encode_texts
    monkeypatch.setattr(Siglip, "encode_texts", lambda self, texts: sizes.append(len(texts)) or encode(self, texts))
    assert stage(make_entries(OPTIONS)) == 0
    assert sizes == [4, 4, 1]
    assert stage(make_entries(OPTIONS), "--overwrite", "--batch_size", "auto") == 0
    assert sizes[3:] == [9]


def test_running_again_encodes_nothing_and_adds_what_is_new(stage, monkeypatch):
    assert stage(make_entries({"a": OPTIONS["a"]})) == 0
    seen = count_encoded(monkeypatch)
    assert stage(make_entries({"a": OPTIONS["a"]})) == 0
    assert seen == []
    assert stage(make_entries(OPTIONS)) == 0
    assert sorted(seen) == ["dunk phase 0", "dunk phase 1", "dunk phase 2"]
    assert [item["id"] for item in read_array(stage.path, "subaction_embeddings").items] == ["a", "b"]


def with_scripts(entries, *lengths):
    """Entries with further scripts, of other lengths."""
    return [{**entry, "more_subactions": [
        {key: [f"{text} otherwise {n}" for text in texts[:length]] for key, texts in entry["subactions"].items()}
        for n, length in enumerate(lengths)]} for entry in entries]


def test_all_scripts_of_an_option_are_encoded_and_the_first_stays_where_it_was(stage, monkeypatch):
    entries = make_entries(OPTIONS)
    assert stage(entries) == 0
    first = rows_of(stage)
    seen = count_encoded(monkeypatch)
    assert stage(with_scripts(entries[:1], 2, 3) + entries[1:]) == 0  # half of the samples
    assert len(seen) == len(set(seen)) == 2 * 2 + 2 * 3
    artifact = read_array(stage.path, "subaction_embeddings")
    item = artifact.item("a")
    assert "more_options" not in artifact.item("b")
    assert [(option["key"], option["script"], len(option["texts"])) for option in item["more_options"]] == [
        (f"{option} in sport", n + 1, length) for n, length in enumerate((2, 3)) for option in OPTIONS["a"]]
    assert np.array_equal(artifact.embeddings("a")[:6], first["a"])
    assert item["stop"] - item["start"] == 6 + 2 * 2 + 2 * 3
    seen.clear()
    assert stage(with_scripts(entries[:1], 2) + entries[1:]) == 0  # one of them is gone
    assert seen == []
    assert len(read_array(stage.path, "subaction_embeddings").item("a")["more_options"]) == 2


@pytest.mark.parametrize("spoil", [
    lambda more: more.pop(), lambda more: more[0].update(script=None), lambda more: more[1].update(script=[1]),
    lambda more: more[1].update(key=more[0]["key"]), lambda more: more[0].update(start=0), lambda more: more.append(1)])
def test_rows_of_scripts_that_do_not_fit_their_texts_are_refused(stage, capsys, spoil):
    assert stage(with_scripts(make_entries(OPTIONS), 2)) == 0
    index = stage.path.with_suffix(".json")
    content = json.loads(index.read_text())
    spoil(content["items"][0]["more_options"])
    index.write_text(json.dumps(content))
    capsys.readouterr()
    assert stage(with_scripts(make_entries(OPTIONS), 2)) == 2
    assert "does not tell the options of sample a and their rows" in capsys.readouterr().err


def test_changed_subactions_are_encoded_and_the_others_kept(stage, monkeypatch, tmp_path):
    entries = make_entries(OPTIONS)
    assert stage(entries) == 0
    seen = count_encoded(monkeypatch)
    entries[0]["subactions"]["hook shot in sport"][1] = "the arm comes over the head"
    assert stage(entries) == 0
    assert seen == ["the arm comes over the head"]
    changed = rows_of(stage)
    assert stage(entries, "--overwrite") == 0
    assert_same_rows(changed, rows_of(stage))


def in_other_domain(entries):
    return [{**entry, "domain": "basketball", "subactions": {
        key.replace(" in sport", " in basketball"): texts for key, texts in entry["subactions"].items()}}
            for entry in entries]


def in_another_order(entries):
    return [{**entry, "cleaned_options": entry["cleaned_options"][::-1],
             "subactions": dict(reversed(entry["subactions"].items()))} for entry in reversed(entries)]


def with_a_sample_less(entries):
    return [{**entries[1], "removed": True}, entries[0]]


def with_another_sample_of_known_texts(entries):
    return [{**entries[0], "id": "new"}, *entries]


@pytest.mark.parametrize("change", [in_other_domain, in_another_order, with_a_sample_less,
                                    with_another_sample_of_known_texts])
@pytest.mark.parametrize("flags", [[], ["--template", "a video of {subaction}"]])
def test_what_changed_about_known_texts_is_followed_without_encoding(stage, monkeypatch, change, flags):
    entries = make_entries(OPTIONS)
    assert stage(entries, *flags) == 0
    seen = count_encoded(monkeypatch)
    assert stage(change(entries), *flags) == 0
    assert seen == []
    followed = rows_of(stage)
    items = read_array(stage.path, "subaction_embeddings").items
    assert stage(change(entries), "--overwrite", *flags) == 0
    assert_same_rows(followed, rows_of(stage))
    for item, fresh in zip(items, read_array(stage.path, "subaction_embeddings").items, strict=True):
        assert [(option["key"], option["texts"]) for option in item["options"]] == [
            (option["key"], option["texts"]) for option in fresh["options"]]


def test_a_domain_in_the_template_is_encoded_again_and_what_is_not_told_is_not_guessed(stage, monkeypatch):
    entries, template = make_entries({"a": ["dunk"], "b": ["lay-up"]}), "{subaction}, {domain}"
    assert stage(entries, "--template", template) == 0
    seen = count_encoded(monkeypatch)
    assert stage([entries[0], in_other_domain(entries)[1]], "--template", template) == 0
    assert seen == [f"lay-up phase {m}, basketball" for m in range(3)]
    index = stage.path.with_suffix(".json")
    content = json.loads(index.read_text())
    content["version"] = 2
    for item in content["items"]:
        del item["metadata_checksum"], item["domain"]
    index.write_text(json.dumps(content))
    seen.clear()
    assert stage([{**entries[0], "id": "c"}, *entries], "--template", template) == 0
    assert sorted(seen) == [f"{option} phase {m}, sport" for option in ("dunk", "lay-up") for m in range(3)]


@pytest.mark.parametrize("change", ["a text", "a sample"])
def test_damaged_embeddings_are_not_kept_for_what_changed(stage, capsys, change):
    entries = make_entries({"a": OPTIONS["a"]} if change == "a sample" else OPTIONS)
    assert stage(entries) == 0
    raw = stage.path.read_bytes()
    damaged = raw[:200] + bytes([raw[200] ^ 1]) + raw[201:]
    stage.path.write_bytes(damaged)
    entries = make_entries(OPTIONS)  # sample b has texts of sample a
    if change == "a text":
        entries[1]["subactions"]["dunk in sport"][1] = "both hands hang on the rim"
    capsys.readouterr()
    assert stage(entries) == 2
    assert "the rows of sample a are not those that were written" in capsys.readouterr().err
    assert stage(entries, "--overwrite") == 0
    artifact = read_array(stage.path, "subaction_embeddings")
    for id in OPTIONS:
        artifact.embeddings(id)


def test_an_option_without_subactions_is_said_and_left_out(stage, capsys):
    entries = make_entries(OPTIONS)
    del entries[0]["subactions"]["hook shot in sport"]
    entries[1]["subactions"] = {}
    assert stage(entries) == 0
    artifact = read_array(stage.path, "subaction_embeddings")
    assert [option["key"] for option in artifact.item("a")["options"]] == ["jump shot in sport"]
    assert "b" not in artifact
    assert json.loads(stage.path.with_suffix(".missing.json").read_text())[0]["id"] == "b"
    assert "2 samples lack sub-actions of at least one option and cannot be scored (a, b)" in capsys.readouterr().out


def test_no_subactions_at_all_fails(stage, capsys):
    entries = make_entries(OPTIONS)
    for entry in entries:
        entry["subactions"] = {}
    assert stage(entries) == 1
    assert not stage.path.exists()
    assert "no sample has sub-actions" in capsys.readouterr().err


def test_the_index_never_replaces_the_subactions_file(tmp_path, checkpoint, capsys):
    source = write_entries(tmp_path / "generated_subactions.json", make_entries(OPTIONS))
    before = source.read_bytes()
    assert encode_subactions.main(["--subactions", str(source), "--output", str(source.with_suffix(".npy")),
                                   "--model", str(checkpoint), "--device", "cpu"]) == 2
    assert source.read_bytes() == before
    assert "is no index of subaction_embeddings" in capsys.readouterr().err


def test_texts_longer_than_the_checkpoint_reads_are_said(stage, capsys):
    entries = make_entries(OPTIONS)
    entries[0]["subactions"]["hook shot in sport"][0] = "bends the knees " * 20
    assert stage(entries) == 0
    assert "1 sub-actions are longer than the checkpoint reads" in capsys.readouterr().err


@pytest.mark.parametrize("content", ["", "[", "{}", "[]", "[{}]", '[{"id": "a"}]',
                                     '[{"id": "a", "cleaned_options": []}]',
                                     '[{"id": "a", "cleaned_options": ["x"], "subactions": {"x in ": "no list"}}]'])
def test_foreign_or_damaged_subactions_are_refused_in_one_line(stage, tmp_path, capsys, checkpoint, content):
    (tmp_path / "foreign.json").write_text(content)
    assert encode_subactions.main(["--subactions", str(tmp_path / "foreign.json"), "--output", str(stage.path),
                                   "--model", str(checkpoint), "--device", "cpu"]) == 2
    error = capsys.readouterr().err
    assert "foreign.json" in error
    assert error.count("\n") == 1
    assert not stage.path.exists()


# Templates

TEMPLATE = "{option} of {domain}: {subaction}"


def test_a_template_puts_option_and_domain_around_every_subaction(stage, checkpoint):
    import torch

    entries = make_entries(OPTIONS)
    entries[0]["subactions"]["hook shot in sport"][0] = entries[0]["subactions"]["jump shot in sport"][0]
    assert stage(entries, "--template", TEMPLATE) == 0
    artifact = read_array(stage.path, "subaction_embeddings")
    assert artifact.meta["template"] == TEMPLATE
    encoder = load_siglip(find_checkpoint(str(checkpoint)), torch.device("cpu"), 4, "float32")
    for entry in entries:
        for option in artifact.item(entry["id"])["options"]:
            name = option["key"].removesuffix(" in sport")
            assert option["texts"] == entry["subactions"][option["key"]]  # as they are, so that they can be compared
            assert np.array_equal(artifact.read(option["start"], option["stop"]), np.concatenate(
                [encoder.encode_texts([f"{name} of sport: {text}"]) for text in option["texts"]]))


@pytest.mark.parametrize(("first", "second"), [([], ["--template", TEMPLATE]), (["--template", TEMPLATE], []),
                                               (["--template", TEMPLATE], ["--template", TEMPLATE + "."])])
def test_a_run_never_mixes_two_templates(stage, capsys, first, second):
    assert stage(make_entries({"a": OPTIONS["a"]}), *first) == 0
    before = stage.path.read_bytes(), stage.path.with_suffix(".json").read_bytes()
    assert stage(make_entries(OPTIONS), *second) == 2
    assert "was begun with template " in capsys.readouterr().err
    assert (stage.path.read_bytes(), stage.path.with_suffix(".json").read_bytes()) == before
    assert stage(make_entries(OPTIONS), *first) == 0
    assert stage(make_entries(OPTIONS), *second, "--overwrite") == 0


def test_changed_subactions_are_encoded_within_the_template_and_the_others_kept(stage, monkeypatch):
    entries = make_entries(OPTIONS)
    assert stage(entries, "--template", TEMPLATE) == 0
    seen = count_encoded(monkeypatch)
    entries[0]["subactions"]["hook shot in sport"][1] = "dunk phase 0"  # which was encoded, but not of a hook shot
    assert stage(entries, "--template", TEMPLATE) == 0
    assert seen == ["hook shot of sport: dunk phase 0"]
    changed = rows_of(stage)
    assert stage(entries, "--template", TEMPLATE, "--overwrite") == 0
    assert_same_rows(changed, rows_of(stage))


def test_a_template_without_the_subaction_is_refused(stage, capsys):
    with pytest.raises(SystemExit) as ended:
        stage(make_entries(OPTIONS), "--template", "{option}")
    assert ended.value.code == 2
    assert "lacks {subaction}" in capsys.readouterr().err


# Texts that the tokenizer does not know


def test_texts_that_the_tokenizer_does_not_know_are_told_with_examples_and_a_checkpoint_that_does(stage, capsys):
    entries = make_entries(OPTIONS)
    entries[0]["subactions"]["hook shot in sport"] = ["快速助跑", "双腿分开", "屈膝下蹲"]
    assert stage(entries) == 0
    told = capsys.readouterr().err
    assert "3 sub-actions are mostly of characters that the tokenizer" in told
    assert "'快速助跑', '双腿分开', '屈膝下蹲'" in told
    assert "--model google/siglip2-so400m-patch14-384" in told
    assert "1 options have sub-actions that are all the same" in told
    assert "'hook shot' of sample a" in told


def test_chinese_subactions_of_a_real_file_are_told(stage, root, capsys):
    path = root.parent / "shared" / "faults" / "cjk_subactions.json"
    if not path.is_file():
        pytest.skip(f"no {path}")
    assert stage(json.loads(path.read_text())) == 0
    told = capsys.readouterr().err
    assert "5 sub-actions are mostly of characters that the tokenizer" in told
    assert "快速助跑" in told


def test_english_subactions_are_no_cause_for_a_warning(stage, capsys):
    assert stage(make_entries(OPTIONS)) == 0
    assert "warning" not in capsys.readouterr().err

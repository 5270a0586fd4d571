"""The drawn worlds and weak encoders: what is said of them holds for what they write."""

import itertools
import json
import sys

import av
import numpy as np
import pytest
from conftest import ROOT

sys.path.insert(0, str(ROOT / "examples"))
import encoders
import worlds

RNG_SEED = 4


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """Three worlds of three clips."""
    folder = tmp_path_factory.mktemp("worlds")
    names = ["base", "lead", "two"]
    assert worlds.main(["--output", str(folder), "--worlds", *names, "--clips", "3", "--seed", "9"]) == 0
    return {name: folder / name for name in names}


def test_a_world_is_a_dataset_with_its_sub_actions_and_the_truth(drawn):
    for name, folder in drawn.items():
        rows = lines(folder / "manifest.jsonl")
        records = json.loads((folder / "generated_subactions.json").read_text())
        assert [row["id"] for row in rows] == [one["id"] for one in records]
        for row, record in zip(rows, records, strict=True):
            phases = row["phases"]
            answer = record["cleaned_options"][record["correct_answer_index"]]
            assert row["choices"][row["answer"] - 1].lower() == answer
            assert len(set(row["choices"])) == worlds.OPTIONS
            told = [m for phase in phases for m in phase["subactions"]]
            assert told == list(range(len(record["subactions"][f"{answer} in {row['domain']}"])))
            with av.open(str(folder / row["video"])) as container:
                seconds = sum(1 for _ in container.decode(video=0)) / worlds.FRAME_RATE
            assert 0 < phases[0]["start"] < phases[-1]["end"] < seconds + 0.1
            assert all(a["end"] == b["start"] for a, b in itertools.pairwise(phases))
            assert (name == "lead") == any(not phase["subactions"] for phase in phases)


def test_the_same_seed_draws_the_same_clips_again(drawn, tmp_path):
    worlds.main(["--output", str(tmp_path), "--worlds", "two", "--clips", "3", "--seed", "9"])
    files = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file())
    assert len(files) == 3 + 3
    for file in files:
        assert (tmp_path / file).read_bytes() == (drawn["two"].parent / file).read_bytes(), file


def test_a_twin_has_the_same_phases_in_another_order():
    rng = np.random.default_rng(RNG_SEED)
    for _ in range(50):
        answer, twin, *others = worlds.make_options(worlds.WORLDS["base"], rng).values()
        assert sorted(answer) == sorted(twin)
        assert sum(a == b for a, b in zip(answer, twin, strict=True)) <= 1
        assert len(others) == worlds.OPTIONS - 2


@pytest.mark.parametrize("name", worlds.WORLDS)
def test_what_a_world_says_is_done_and_told(name):
    world, rng = worlds.WORLDS[name], np.random.default_rng(RNG_SEED)
    for _ in range(20):
        poses, _ = worlds.make_action(rng)
        performed = [phase for _, phase in world.perform(poses, rng)]
        told = [phase for _, phase in world.tell(poses, rng)]
        once = list(range(len(poses)))
        done = [phase for phase in performed if phase is not None]
        others = len(performed) - len(done)
        assert others == {"lead": round(0.8 * len(poses)), "idle": 5}.get(name, 0)
        if name == "skip":
            assert len(done) == len(poses) - 1
        elif name == "repeat":
            assert len(done) == len(poses) + 2
        elif name == "unordered":
            assert sorted(done) == once
        else:
            assert done == once
        if name == "double":
            assert told == [m for m in once for _ in range(2)]
        else:
            assert [phase for phase in told if phase is not None] == [m for m in once if m in told]
            assert told.count(None) == {"noise": 1, "extra": 2}.get(name, 0)


def test_the_camera_cuts_between_views_of_one_athlete():
    looks = worlds.looks_of(worlds.WORLDS["cuts"], 60, np.random.default_rng(RNG_SEED))
    assert len(looks) == 60
    assert 3 <= len({look.zoom for look in looks}) <= 4
    assert len({look.leg_length for look in looks}) == 1


def test_noise_in_the_weights_makes_another_checkpoint(tmp_path):
    encoders.main(["--output", str(tmp_path), "--encoders", encoders.NOISY])
    folder = tmp_path / encoders.folder_of(encoders.NOISY)
    assert (folder / "tokenizer.json").read_bytes() == (encoders.EXAMPLE / "tokenizer.json").read_bytes()
    assert (folder / "model.safetensors").read_bytes() != (encoders.EXAMPLE / "model.safetensors").read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]


def test_an_encoder_is_trained_as_it_says(tmp_path, monkeypatch):
    monkeypatch.setitem(encoders.TRAININGS, "narrow", {"steps": 2, "width": 32, "poses": 4, "wrong_captions": 0.5})
    encoders.main(["--output", str(tmp_path), "--encoders", "narrow"])
    assert json.loads((tmp_path / "narrow/config.json").read_text())["vision_config"]["hidden_size"] == 32



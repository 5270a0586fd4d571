"""ActionAtlas's masks: what is blurred where, and at which size."""

import cv2
import numpy as np
import pytest
from drawn_videos import write_video

from actalign.masks import blur, masks_of_row, scale_for
from actalign.video import VideoError, read_frames


def mask(box, description="text"):
    """One mask of a row, a quadrilateral around (left, top, right, bottom)."""
    left, top, right, bottom = box
    return {"description": description,
            "bounding_poly": {"vertices": [[left, top + 1], [right, top], [right - 1, bottom], [left, bottom]]}}


def test_string_keys_and_structs_with_none_read_alike():
    masks = [mask((1, 2, 30, 40))]
    expected = {2: [(1.0, 2.0, 30.0, 40.0)]}
    assert masks_of_row({"frames_to_obfuscate": {"2": masks}})[0] == expected
    assert masks_of_row({"frames_to_obfuscate": {"1": None, "2": masks, "3": None, "4": []}})[0] == expected
    assert masks_of_row({"frames_to_blur": {2: masks}})[0] == expected
    assert not masks_of_row({})[0]
    assert not masks_of_row({"frames_to_obfuscate": {"1": None}})[0]


def test_only_descriptions_with_a_letter_are_blurred():
    row = {"frames_to_obfuscate": {"1": [mask((0, 0, 9, 9), "23:14"), mask((1, 1, 5, 5), "Luka 77"),
                                         mask((2, 2, 6, 6), None), mask((3, 3, 7, 7), "скор")]}}
    assert masks_of_row(row)[0] == {1: [(1.0, 1.0, 5.0, 5.0), (3.0, 3.0, 7.0, 7.0)]}


@pytest.mark.parametrize("broken", [{"x": [mask((0, 0, 1, 1))]}, {"0": [mask((0, 0, 1, 1))]},
                                    {"1": [{"description": "a"}]},
                                    {"1": [{"description": "a", "bounding_poly": {"vertices": []}}]},
                                    {"1": [{"description": "a", "bounding_poly": {"vertices": [[1]]}}]}, {"1": ["a"]},
                                    [1, 2]])
def test_masks_that_make_no_sense_are_a_reason(broken):
    masks, problem = masks_of_row({"frames_to_obfuscate": broken})
    assert not masks
    assert "masks" in problem


def test_the_box_is_blurred_as_the_benchmark_does_and_nothing_else():
    image = np.random.default_rng(0).integers(0, 256, (200, 300, 3), dtype=np.uint8)
    before = image.copy()
    masks = masks_of_row({"frames_to_obfuscate": {"3": [mask((20, 30, 150, 120))]}})[0]
    blurred = blur(image, masks, 3)
    expected = before.copy()
    expected[30:120, 20:150] = cv2.GaussianBlur(before[30:120, 20:150], (111, 111), 0)
    assert np.array_equal(blurred, expected)
    assert np.array_equal(image, before)
    assert np.array_equal(blur(image, masks, 2), before)


def test_boxes_are_scaled_where_the_picture_is_another_copy():
    inside, outside = {1: [(10, 10, 100, 100)]}, {1: [(10, 10, 1000, 500)]}
    assert scale_for(inside, 1280, 720) == scale_for(outside, 1280, 720) == 1
    assert scale_for(outside, 640, 360) == 0.5
    assert scale_for(inside, 1920, 1080) == 1.5
    assert scale_for(inside, 640, 360) == 1  # nothing tells that it was larger


def test_boxes_over_the_border_are_cut_at_it():
    image = np.random.default_rng(1).integers(0, 256, (720, 1280, 3), dtype=np.uint8)
    blurred = blur(image, {1: [(-5.0, 700.0, 40.0, 721.0), (2000.0, 0.0, 2001.0, 5.0)]}, 1)
    assert (blurred != image).any()


def test_masks_far_behind_the_last_frame_are_refused(tmp_path):
    write_video(tmp_path / "a.mp4", 26)
    count = len(list(read_frames(tmp_path / "a.mp4", masks={30: [(0, 0, 1, 1)]})))
    assert count == 26
    with pytest.raises(VideoError, match="has 26 frames in this segment, its masks go up to frame 31"):
        list(read_frames(tmp_path / "a.mp4", masks={31: [(0, 0, 1, 1)]}))

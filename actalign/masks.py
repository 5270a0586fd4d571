"""ActionAtlas's masks: on-screen text that would give the answer away, blurred before anyone sees the frame.

Masks are those of one segment: {frame number, from 1 at its first frame: [(left, top, right, bottom) in pixels]}.
"""

MASK_FIELDS = ("frames_to_obfuscate", "frames_to_blur")  # names of the same thing in releases of the benchmark
KERNEL = (111, 111)  # pixels, the benchmark's Gaussian
MADE_FOR_HEIGHT = 720  # pixels; the benchmark's downloads are the best of at most this height
MOST_PIXELS = 1 << 20  # of a vertex's place
VERTEX_SLACK = 2  # pixels; boxes may touch or just cross the border


def scale_for(masks, width, height):
    """What the boxes are multiplied by for a picture of this size.

    They were made for a download of at most 720 lines. A larger picture therefore is a larger copy of that one,
    and boxes that lie outside of a smaller picture tell that it is a smaller copy.
    """
    outside = any(right > width + VERTEX_SLACK or bottom > height + VERTEX_SLACK
                  for boxes in masks.values() for _, _, right, bottom in boxes)
    return height / MADE_FOR_HEIGHT if height > MADE_FOR_HEIGHT or outside else 1.0


def blur(image, masks, number):
    """The image (H, W, 3) of frame `number` with its boxes blurred; the image itself where it has none."""
    if number not in masks:
        return image
    import cv2

    height, width = image.shape[:2]
    scale = scale_for(masks, width, height)
    image = image.copy()
    for box in masks[number]:
        left, top, right, bottom = (max(round(edge * scale), 0) for edge in box)
        inside = image[top:bottom, left:right]  # a slice ends at the border by itself
        if inside.size:
            image[top:bottom, left:right] = cv2.GaussianBlur(inside, KERNEL, 0)
    return image


def masks_of_row(row):
    """The masks of a dataset's row, and an error line if they make no sense.

    The row holds {frame number: [{"description", "bounding_poly": {"vertices": [[x, y], ..]}}]}; numbers may be texts,
    and frames without masks may be there as None. Only what has a letter in its description is blurred, as the
    benchmark does.
    Returns (masks, None) or ({}, reason).
    """
    by_frame = next((row[name] for name in MASK_FIELDS if row.get(name)), {})
    try:
        boxes = {int(number): [_box(mask) for mask in masks if any(map(str.isalpha, mask["description"] or ""))]
                 for number, masks in by_frame.items() if masks}
        if min(boxes, default=1) < 1:
            raise ValueError("they name a frame before the first")
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        return {}, f"its masks cannot be read ({type(error).__name__}: {error})"
    return {number: found for number, found in boxes.items() if found}, None


def _box(mask):
    """(left, top, right, bottom) around a mask's vertices."""
    vertices = [(float(x), float(y)) for x, y in mask["bounding_poly"]["vertices"]]
    across, down = zip(*vertices, strict=True)
    if not all(abs(edge) < MOST_PIXELS for edge in (*across, *down)):  # also where it is NaN
        raise ValueError("a vertex outside of any picture")
    return min(across), min(down), max(across), max(down)

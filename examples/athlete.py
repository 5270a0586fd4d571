"""The drawn world: an athlete, twenty poses, the captions of each pose, and the drawing.

A pose is a vector of ten segment angles and a height above the ground. Angles are in degrees, measured from straight up
towards the side that the athlete faces: 0 is up, 90 is forward, 180 is down, 270 is backward.

    python examples/athlete.py poses.png
"""

import argparse
import colorsys
import sys
from dataclasses import dataclass

import cv2
import numpy as np

# A segment's parent is the one that it hangs on; the torso has none. The order is that of a pose vector.
SEGMENT_PARENTS = {
    "torso": None,
    "head": "torso",
    "near upper arm": "torso",
    "near forearm": "near upper arm",
    "far upper arm": "torso",
    "far forearm": "far upper arm",
    "near thigh": "torso",
    "near shin": "near thigh",
    "far thigh": "torso",
    "far shin": "far thigh",
}
SEGMENTS = tuple(SEGMENT_PARENTS)
LIFT = len(SEGMENTS)  # index of the height above the ground in a pose vector

# Lengths and radii in units of the standing height of an average athlete.
TORSO, NECK, UPPER_ARM, FOREARM, THIGH, SHIN, FOOT = 0.29, 0.115, 0.155, 0.165, 0.24, 0.235, 0.075
HEAD_RADIUS, SHOULDER_RADIUS, HIP_RADIUS = 0.068, 0.062, 0.052
ARM_RADII = (0.032, 0.026, 0.022)  # shoulder, elbow, hand
LEG_RADII = (0.047, 0.036, 0.026)  # hip, knee, ankle
FOOT_RADIUS = 0.022
FOOT_ANGLE = 70.0  # degrees between shin and foot

# The capsules that make a body, in drawing order: part that gives the colour, and whether it is on the far side.
# Shoes have the colour of the hair.
FAR_ARM = (("shirt", True), ("skin", True))
FAR_LEG = (("shorts", True), ("skin", True), ("hair", True))
NEAR_LEG = (("shorts", False), ("skin", False), ("hair", False))
TRUNK = (("shirt", False), ("hair", False), ("skin", False))  # torso, hair, neck and face
NEAR_ARM = (("shirt", False), ("skin", False))
CAPSULES = (*FAR_ARM, *FAR_LEG, *NEAR_LEG, *TRUNK, *NEAR_ARM)

FAR_SIDE_SHADE = 0.72  # the far arm and leg are darker, which tells left from right
SHADOW_SHADE = 0.74
FIXED_POINT_BITS = 4  # fractional bits of the coordinates handed to OpenCV

TEST_HUES = ((18.0, 42.0), (160.0, 186.0), (264.0, 300.0))  # degrees
TRAINING_HUES = ((48.0, 154.0), (192.0, 258.0), (306.0, 372.0))  # the rest of the circle, less 6 degrees at each border
MIN_LUMA_CONTRAST = 58.0  # of 255, between any part of the body and both wall and floor
MIN_CLOTHES_CONTRAST = 20.0  # of 255, between clothes and skin


@dataclass(frozen=True)
class Pose:
    """One pose: angles (10,) in degrees, lift in standing heights, six captions to train on and two held out.

    The first training caption is the pose's short name.
    """

    angles: tuple[float, ...]
    lift: float
    training: tuple[str, ...]
    held_out: tuple[str, ...]

    @property
    def name(self):
        return self.training[0]

    def vector(self):
        """The pose as float64 (11,): ten angles in degrees, then the lift."""
        return np.array([*self.angles, self.lift])


def _pose(torso, head, near_arm, far_arm, near_leg, far_leg, training, held_out, lift=0.0):
    return Pose((torso, head, *near_arm, *far_arm, *near_leg, *far_leg), lift, training, held_out)


# The held-out captions are sentences that training never shows; most of their words occur in other captions.
POSES = {
    "stand": _pose(
        0, 0, (162, 160), (200, 202), (177, 179), (184, 183),
        ("stand", "standing still with the arms at the sides", "standing upright with hanging arms",
         "a still upright stand", "a person who stands tall and waits", "feet together, arms down, standing"),
        ("standing tall, both arms down at the sides", "a still stand with hanging arms"),
    ),
    "arms up": _pose(
        0, 0, (26, 20), (-26, -20), (177, 179), (184, 183),
        ("arms raised", "both arms raised straight overhead", "reaching up to the sky with both hands",
         "standing with the arms stretched overhead", "hands high above the head", "a tall overhead reach"),
        ("reaching high overhead with both arms raised", "standing with the hands stretched up above the head"),
    ),
    "t-pose": _pose(
        0, 0, (90, 90), (-90, -90), (171, 172), (189, 188),
        ("t-pose", "arms spread wide to both sides", "standing with the arms out like a letter t",
         "both arms held level with the shoulders", "arms stretched sideways at shoulder height",
         "a t-shape with outstretched arms"),
        ("arms spread sideways like a letter t", "both arms stretched out level at shoulder height"),
    ),
    "crouch": _pose(
        32, 18, (98, 86), (104, 92), (82, 208), (76, 204),
        ("squat", "squatting low with bent knees", "a deep crouch close to the floor", "crouching with the hips low",
         "sinking down into a deep squat", "knees bent deeply, hips dropped low"),
        ("a low squat with deeply bent knees", "crouching down deep, hips close to the floor"),
    ),
    "tuck": _pose(
        18, 30, (128, 78), (134, 84), (42, 222), (48, 226),
        ("tuck", "a tucked jump with the knees at the chest", "hugging the knees in mid air",
         "curled up into a ball in the air", "pulling both knees to the chest in flight", "a tight tucked ball"),
        ("curled into a tight tuck, hugging the knees", "a ball in mid air, knees pulled to the chest"),
        lift=0.34,
    ),
    "straddle": _pose(
        4, 0, (99, 92), (-99, -92), (76, 74), (-76, -74),
        ("straddle jump", "jumping with the legs straddled wide", "a straddle in the air, touching the toes",
         "legs spread sideways during a jump", "a wide toe touch jump", "leaping up into a straddle"),
        ("a leap with wide straddled legs", "jumping up, legs spread sideways in a straddle"),
        lift=0.34,
    ),
    "handstand": _pose(
        180, 180, (178, 180), (184, 181), (54, 50), (-54, -50),
        ("handstand", "balancing upside down on both hands", "a handstand with the legs up and open",
         "upside down with the feet above the head", "an inverted balance on straight arms",
         "standing on the hands"),
        ("an upside down balance on the hands", "inverted on straight arms, feet up in a handstand"),
    ),
    "split": _pose(
        0, 0, (48, 40), (-48, -40), (93, 91), (-93, -91),
        ("split", "sitting in a full split on the floor", "a split with one leg in front and one behind",
         "legs slid apart flat on the ground", "front split on the ground with open arms",
         "sliding down into the splits"),
        ("a full split, the legs slid apart on the floor", "in the splits, one leg in front, one leg behind"),
    ),
    "lunge": _pose(
        -2, 0, (212, 128), (206, 132), (84, 178), (222, 256),
        ("lunge", "a deep forward lunge", "stepping forward into a lunge", "front knee bent, back leg stretched long",
         "a low lunge with the hands on the hips", "one big step forward with a bent front knee"),
        ("a big step into a deep lunge", "lunging low, front knee bent and back leg long"),
    ),
    "bridge": _pose(
        -106, -160, (186, 184), (180, 178), (114, 182), (120, 188),
        ("bridge", "a backbend with hands and feet on the floor", "arching the back into a bridge",
         "the belly pushed up in an arch", "a full wheel with an arched back", "bending over backward into an arch"),
        ("an arched back with the belly pushed up in a bridge", "a wheel, hands and feet on the floor, back arched"),
    ),
    "arabesque": _pose(
        62, 48, (66, 70), (112, 106), (180, 180), (276, 282),
        ("arabesque", "balancing on one leg with the other leg behind", "a scale with one leg lifted backward",
         "leaning forward on one leg", "one leg raised high behind the body", "a forward balance on a single leg"),
        ("a balance on one leg, the other lifted behind", "leaning forward in a scale with one leg raised backward"),
    ),
    "high kick": _pose(
        -16, -6, (118, 52), (150, 62), (42, 40), (184, 182),
        ("high kick", "kicking one leg up to head height", "a front kick above the waist",
         "one straight leg kicked high in front", "a high kick with raised guard", "throwing a kick forward and up"),
        ("one leg kicked up high in a front kick", "throwing a straight leg kick to head height"),
    ),
    "lying": _pose(
        -90, -88, (94, 92), (90, 90), (91, 90), (89, 90),
        ("lying down", "lying flat on the back", "stretched out flat on the floor", "resting on the ground, face up",
         "a person lying on the mat", "the whole body flat on its back"),
        ("lying on the floor, flat on the back", "resting face up, stretched out on the mat"),
    ),
    "run": _pose(
        12, 8, (228, 132), (126, 36), (62, 172), (206, 272),
        ("run", "running with pumping arms", "a fast sprint", "sprinting forward with a high knee",
         "a running stride with bent elbows", "mid stride, one knee driven up"),
        ("sprinting, one knee driven high and arms pumping", "a fast running stride"),
        lift=0.03,
    ),
    "plank": _pose(
        66, 62, (182, 182), (178, 178), (246, 247), (248, 248),
        ("plank", "holding a plank on straight arms", "a push-up position",
         "the body straight, supported on hands and toes", "a straight line from head to heels above the floor",
         "supporting the body in a front plank"),
        ("a straight body supported in push-up position", "holding a line from head to heels on hands and toes"),
    ),
    "kneel": _pose(
        0, 0, (92, 88), (98, 94), (180, 268), (176, 270),
        ("kneeling", "kneeling upright with the arms forward", "on both knees, hands reaching ahead",
         "down on the knees with a tall back", "a person who kneels on the floor",
         "kneeling, arms held out in front"),
        ("kneeling tall with both hands reaching forward", "on the knees, arms out ahead"),
    ),
    "pike": _pose(
        6, 4, (214, 204), (208, 200), (91, 90), (93, 92),
        ("seated pike", "sitting on the floor with straight legs", "a pike seat, legs long in front",
         "seated with the legs stretched forward", "sitting upright, hands behind the hips",
         "a long sit with legs together"),
        ("sitting in a pike with long straight legs", "seated upright on the floor, legs forward"),
    ),
    "toe touch": _pose(
        142, 158, (212, 214), (206, 208), (181, 180), (184, 182),
        ("forward fold", "folding forward to the feet", "bending forward with straight knees",
         "hands at the feet, head down", "a standing forward bend", "folded in half at the hips"),
        ("bending forward, folded down over the feet", "a fold at the hips with straight knees"),
    ),
    "dive": _pose(
        96, 80, (88, 88), (94, 92), (272, 274), (268, 268),
        ("dive", "diving forward through the air", "flying flat with the arms ahead",
         "a long flying dive", "the body stretched out level in flight", "soaring head first like a bird"),
        ("a flat dive through the air, head first", "flying forward, stretched out level like a bird"),
        lift=0.42,
    ),
    "star": _pose(
        0, 0, (46, 44), (-46, -44), (146, 145), (-146, -145),
        ("star jump", "jumping in the shape of a star", "arms and legs spread to a big x",
         "a jumping jack in the air", "a star with open arms and open legs", "leaping into an x-shape"),
        ("a big star in the air, arms and legs open", "a leap in the shape of an x"),
        lift=0.24,
    ),
}  # fmt: skip

# Sentences around a caption. Half of those for training name a domain, as the label of an action does.
TRAINING_TEMPLATES = (
    "{caption}",
    "an athlete: {caption}",
    "a photo of {caption}",
    "the athlete shows {caption}",
    "a person performing {caption}",
    "{caption} in {domain}",
    "a person performing {caption} in {domain}",
    "a video of {caption} in {domain}",
    "a photo of an athlete, {caption}, in {domain}",
    "an example of {caption} in {domain}",
)
HELD_OUT_TEMPLATES = (
    "{caption}",
    "next, {caption}",
    "{caption}, held for a moment",
    "the athlete moves on: {caption}",
)


@dataclass(frozen=True)
class Style:
    """What a look is drawn from. Ranges are (low, high); lengths are factors on the average athlete.

    Each length has two ranges, of which one is taken at random, so that a style can lie on both sides of another.
    """

    hues: tuple[tuple[float, float], ...]  # degrees
    skin_hues: tuple[tuple[float, float], ...]
    leg_length: tuple[tuple[float, float], ...]
    arm_length: tuple[tuple[float, float], ...]
    head_size: tuple[tuple[float, float], ...]
    girth: tuple[tuple[float, float], ...]
    zoom: tuple[float, float]  # standing height as a share of the frame
    max_shift: float  # of the frame, sideways and up or down
    max_roll: float  # degrees
    max_blobs: int  # things on the wall
    max_noise: float  # standard deviation, of 255
    pose_noise: float  # degrees, standard deviation of each segment


TRAINING_STYLE = Style(
    hues=TRAINING_HUES, skin_hues=TRAINING_HUES,
    leg_length=((0.88, 1.10),), arm_length=((0.88, 1.12),), head_size=((0.85, 1.15),), girth=((0.80, 1.25),),
    zoom=(0.50, 0.66), max_shift=0.07, max_roll=8.0, max_blobs=4, max_noise=12.0, pose_noise=6.0,
)  # fmt: skip
TEST_STYLE = Style(
    hues=TEST_HUES, skin_hues=TEST_HUES[:1],
    leg_length=((0.83, 0.88), (1.10, 1.16)), arm_length=((0.83, 0.88), (1.12, 1.18)),
    head_size=((0.80, 0.86), (1.14, 1.22)), girth=((0.76, 0.82), (1.22, 1.32)),
    zoom=(0.54, 0.64), max_shift=0.04, max_roll=3.0, max_blobs=3, max_noise=0.0, pose_noise=3.0,
)  # fmt: skip


@dataclass(frozen=True)
class Look:
    """One athlete in one place: colours are RGB in [0, 255], lengths are shares of the frame unless noted."""

    wall: np.ndarray
    floor: np.ndarray
    shirt: np.ndarray
    shorts: np.ndarray
    skin: np.ndarray
    hair: np.ndarray
    leg_length: float  # factors on the average athlete
    arm_length: float
    head_size: float
    girth: float
    zoom: float
    centre: float  # of the athlete, from the left
    ground: float  # of the floor's line under the athlete, from the top
    roll: float  # degrees
    mirrored: bool
    gradient: float  # relative brightness from the middle of the wall to its upper and lower border
    blobs: tuple[tuple[float, float, float, float, bool, np.ndarray], ...]  # x, y, width, height, is round, colour
    noise: float  # standard deviation, of 255


def luma(colour):
    """Perceived brightness in [0, 255] of an RGB colour (BT.601 weights)."""
    return float(np.dot(colour, (0.299, 0.587, 0.114)))


def _uniform(rng, ranges):
    """A number from one of several (low, high) ranges, chosen at random."""
    low, high = ranges[rng.integers(len(ranges))]
    return rng.uniform(low, high)


def _colour(rng, hues, saturation, value):
    """An RGB colour (3,) in [0, 255]; hues in degrees, saturation and value as (low, high) in [0, 1]."""
    hue = _uniform(rng, hues) % 360.0
    return 255.0 * np.array(colorsys.hsv_to_rgb(hue / 360.0, rng.uniform(*saturation), rng.uniform(*value)))


def _contrasting_colour(rng, hues, contrasts):
    """A colour that stands out by brightness. contrasts: pairs of a luma and how far from it to stay, both of 255."""
    while True:
        colour = _colour(rng, hues, saturation=(0.35, 0.95), value=(0.08, 1.0))
        if all(abs(luma(colour) - other) >= distance for other, distance in contrasts):
            return colour


def sample_look(rng, style, difficulty=1.0):
    """A random Look. difficulty in [0, 1] scales camera, clutter and noise; 0 is a centred figure on a plain wall."""
    bright = rng.random() < 0.5
    value = (0.74, 0.98) if bright else (0.12, 0.42)  # a wall of middle brightness would leave no contrasting colours
    wall = _colour(rng, style.hues, saturation=(0.05, 0.45), value=value)
    floor = _colour(rng, style.hues, saturation=(0.05, 0.5), value=value)
    backdrop = [(luma(wall), MIN_LUMA_CONTRAST), (luma(floor), MIN_LUMA_CONTRAST)]
    skin = _contrasting_colour(rng, style.skin_hues, backdrop)
    clothes = [*backdrop, (luma(skin), MIN_CLOTHES_CONTRAST)]
    body = {part: _contrasting_colour(rng, style.hues, clothes) for part in ("shirt", "shorts", "hair")}

    blobs = []
    for _ in range(rng.integers(0, style.max_blobs + 1) if rng.random() < difficulty else 0):
        x, y = rng.uniform(0.0, 1.0), rng.uniform(0.0, 0.7)
        width, height = rng.uniform(0.06, 0.3, size=2)
        blobs.append((x, y, width, height, bool(rng.random() < 0.5), np.clip(wall * rng.uniform(0.82, 1.15), 0, 255)))

    shift_x, shift_y = difficulty * style.max_shift * rng.uniform(-1.0, 1.0, size=2)
    return Look(
        wall=wall,
        floor=floor,
        skin=skin,
        leg_length=_uniform(rng, style.leg_length),
        arm_length=_uniform(rng, style.arm_length),
        head_size=_uniform(rng, style.head_size),
        girth=_uniform(rng, style.girth),
        zoom=rng.uniform(*style.zoom),
        centre=0.5 + shift_x,
        ground=0.85 + shift_y,
        roll=difficulty * style.max_roll * rng.uniform(-1.0, 1.0),
        mirrored=bool(rng.random() < 0.5),
        gradient=difficulty * rng.uniform(0.0, 0.12),
        blobs=tuple(blobs),
        noise=difficulty * rng.uniform(0.0, style.max_noise),
        **body,
    )


def _wrap(degrees):
    """The same angle in [-180, 180)."""
    return (degrees + 180.0) % 360.0 - 180.0


def blend(start, end, weight):
    """The pose between two pose vectors (11,); weight 0 is start, 1 is end.

    Every joint turns the short way round relative to the segment that it hangs on, as a body does.
    """
    turns = np.zeros(len(SEGMENTS))
    for i, parent in enumerate(SEGMENT_PARENTS.values()):
        if parent is None:
            turns[i] = _wrap(end[i] - start[i])
        else:
            p = SEGMENTS.index(parent)
            turns[i] = turns[p] + _wrap((end[i] - end[p]) - (start[i] - start[p]))
    angles = start[:LIFT] + weight * turns
    return np.append(angles, (1.0 - weight) * start[LIFT] + weight * end[LIFT])


def _directions(degrees):
    """Unit vectors (..., 2), x forward and y up, of angles measured from straight up."""
    radians = np.deg2rad(degrees)
    return np.stack([np.sin(radians), np.cos(radians)], axis=-1)


def body_capsules(pose, look):
    """Where the body is. pose: (11,) degrees and lift.

    Returns ends (13, 2, 2) and radii (13, 2) of CAPSULES in standing heights, x forward and y up. The lowest point of
    the body is at height lift, the middle of the torso at x = 0.
    """
    angle = dict(zip(SEGMENTS, pose[:LIFT], strict=True))
    torso, head, *limbs = _directions(pose[:LIFT])
    near_upper, near_fore, far_upper, far_fore, near_thigh, near_shin, far_thigh, far_shin = limbs
    near_foot = _directions(angle["near shin"] - FOOT_ANGLE)
    far_foot = _directions(angle["far shin"] - FOOT_ANGLE)
    head_radius = look.head_size * HEAD_RADIUS

    hip = np.zeros(2)
    neck = TORSO * torso
    face = neck + NECK * head
    hair = face + 0.35 * head_radius * _directions(angle["head"] - 50.0)  # at the top and the back of the head
    shoulder = 0.92 * neck

    def arm(upper, fore):
        elbow = shoulder + look.arm_length * UPPER_ARM * upper
        hand = elbow + look.arm_length * FOREARM * fore
        return [(shoulder, elbow), (elbow, hand)]

    def leg(thigh, shin, foot):
        knee = hip + look.leg_length * THIGH * thigh
        ankle = knee + look.leg_length * SHIN * shin
        return [(hip, knee), (knee, ankle), (ankle, ankle + FOOT * foot)]

    ends = np.array(
        [
            *arm(far_upper, far_fore),
            *leg(far_thigh, far_shin, far_foot),
            *leg(near_thigh, near_shin, near_foot),
            (hip, neck),
            (hair, hair),
            (neck, face),
            *arm(near_upper, near_fore),
        ]
    )
    arm_radii = [ARM_RADII[:2], ARM_RADII[1:]]
    leg_radii = [LEG_RADII[:2], LEG_RADII[1:], (FOOT_RADIUS, FOOT_RADIUS)]
    trunk_radii = [(HIP_RADIUS, SHOULDER_RADIUS), (0.0, 0.0), (ARM_RADII[0], 0.0)]
    radii = look.girth * np.array([*arm_radii, *leg_radii, *leg_radii, *trunk_radii, *arm_radii])
    hair_row, face_row = 9, 10
    radii[hair_row], radii[face_row, 1] = 0.95 * head_radius, 0.82 * head_radius  # a head has its own size

    lowest = (ends[..., 1] - radii).min()
    return ends + np.array([-neck[0] / 2.0, pose[LIFT] - lowest]), radii


def _fixed(values):
    """Pixels as the fixed-point integers that OpenCV draws with."""
    return np.rint(np.asarray(values) * (1 << FIXED_POINT_BITS)).astype(np.int32)


def _draw_capsules(canvas, ends, radii, colours):
    """Each capsule is two discs and the strip between them. ends (N, 2, 2), radii (N, 2) in pixels, colours (N, 3)."""
    along = ends[:, 1] - ends[:, 0]
    across = np.stack([-along[:, 1], along[:, 0]], axis=1) / np.maximum(np.hypot(*along.T), 1e-6)[:, None]
    offsets = across[:, None] * radii[..., None]  # (N, 2, 2)
    strips = _fixed(np.stack([ends + offsets, ends - offsets], axis=1))  # (N, side, end, 2)
    strips = np.concatenate([strips[:, 0], strips[:, 1, ::-1]], axis=1)  # (N, 4, 2) around the strip
    for strip, disc, radius, colour in zip(
        strips, _fixed(ends).tolist(), _fixed(radii).tolist(), colours.tolist(), strict=True
    ):
        cv2.circle(canvas, disc[0], radius[0], colour, cv2.FILLED, shift=FIXED_POINT_BITS)
        cv2.circle(canvas, disc[1], radius[1], colour, cv2.FILLED, shift=FIXED_POINT_BITS)
        cv2.fillConvexPoly(canvas, strip, colour, shift=FIXED_POINT_BITS)


class Camera:
    """Maps world points (x forward, y up, in standing heights) to pixels of a square canvas."""

    def __init__(self, look, side):
        self.scale = look.zoom * side
        self.origin = np.array([look.centre, look.ground]) * side
        radians = np.deg2rad(look.roll)
        flip = -1.0 if look.mirrored else 1.0
        turn = np.array([[np.cos(radians), -np.sin(radians)], [np.sin(radians), np.cos(radians)]])
        self.matrix = turn @ np.diag([flip, -1.0]) * self.scale

    def __call__(self, points):
        return np.asarray(points) @ self.matrix.T + self.origin


def draw_background(look, side):
    """Wall, things on the wall and floor as (side, side, 3) uint8 RGB."""
    shade = 1.0 + look.gradient * np.linspace(1.0, -1.0, side)[:, None]
    column = np.clip(look.wall * shade, 0, 255).astype(np.uint8)  # (side, 3)
    canvas = np.repeat(column[:, None], side, axis=1)
    for x, y, width, height, is_round, colour in look.blobs:
        box = np.array([[x - width / 2, y - height / 2], [x + width / 2, y + height / 2]]) * side
        if is_round:
            cv2.circle(canvas, np.rint(box.mean(0)).astype(int).tolist(), int(width / 2 * side), colour, cv2.FILLED)
        else:
            cv2.rectangle(canvas, *np.rint(box).astype(int).tolist(), colour, cv2.FILLED)
    camera = Camera(look, side)
    horizon, far_away = 0.06, 4.0  # standing heights: the floor's far edge is a little above the feet
    floor = camera([[-far_away, horizon], [far_away, horizon], [far_away, -far_away], [-far_away, -far_away]])
    cv2.fillConvexPoly(canvas, _fixed(floor), look.floor.tolist(), shift=FIXED_POINT_BITS)
    return canvas


def draw(pose, look, size, supersampling, rng=None, behind=()):
    """The athlete in a pose as (size, size, 3) uint8 RGB.

    pose: (11,) degrees and lift. supersampling: pixels drawn per pixel and side, averaged to smooth the edges.
    rng makes the look's noise, and may be None for a look without. behind: (pose, look) of others, drawn before.
    """
    canvas = draw_background(look, size * supersampling)
    for body in (*behind, (pose, look)):
        _draw_body(canvas, *body)
    frame = cv2.resize(canvas, (size, size), interpolation=cv2.INTER_AREA)
    if look.noise > 0.0:
        noise = look.noise * rng.standard_normal(frame.shape, dtype=np.float32)
        frame = np.clip(frame + noise, 0, 255).astype(np.uint8)
    return frame


def _draw_body(canvas, pose, look):
    """Draw a body and its shadow onto a square canvas."""
    camera = Camera(look, len(canvas))
    ends, radii = body_capsules(pose, look)

    left, right = ends[..., 0].min(), ends[..., 0].max()
    shadow = _fixed(camera([(left + right) / 2, 0.0])).tolist()
    axes = _fixed(camera.scale * np.array([(right - left) / 2 + 0.05, 0.022])).tolist()
    colour = (look.floor * SHADOW_SHADE).tolist()
    cv2.ellipse(canvas, shadow, axes, look.roll, 0, 360, colour, cv2.FILLED, shift=FIXED_POINT_BITS)

    colours = np.array([getattr(look, part) * (FAR_SIDE_SHADE if far else 1.0) for part, far in CAPSULES])
    _draw_capsules(canvas, camera(ends), radii * camera.scale, colours)


def perturb(pose, rng, degrees):
    """The pose vector as another person would hold it: every segment off by some degrees (standard deviation)."""
    return pose + np.append(rng.normal(0.0, degrees, size=len(SEGMENTS)), 0.0)


def contact_sheet(style, seed, size=128, columns=5):
    """All poses in a grid, as (rows * size, columns * size, 3) uint8 RGB."""
    rng = np.random.default_rng(seed)
    tiles = [draw(pose.vector(), sample_look(rng, style), size, 4, rng) for pose in POSES.values()]
    return np.concatenate(
        [np.concatenate(tiles[i : i + columns], axis=1) for i in range(0, len(tiles), columns)], axis=0
    )


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description="Draw all poses into one picture.")
    parser.add_argument("output", help="picture to write, such as poses.png")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(argv)


def main(argv=None):
    args = parse_args(argv)
    sheet = np.concatenate([contact_sheet(style, args.seed) for style in (TRAINING_STYLE, TEST_STYLE)], axis=1)
    if not cv2.imwrite(args.output, cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR)):
        print(f"athlete.py: could not write {args.output}; name a .png or .jpg file", file=sys.stderr)
        return 1
    print(f"{args.output}: {len(POSES)} poses, training style on the left and test style on the right")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

"""Worlds where the truth is known: drawn clips that make alignment hard in one way each, with their phases' times.

Every clip has five options, one of them the answer's twin (the same phases in another order) unless said otherwise.

    python examples/worlds.py --output worlds --worlds base lead --clips 400 --seed 1

writes worlds/base/ and worlds/lead/: clips/, manifest.jsonl with the true phases, and generated_subactions.json.
"""

import argparse
import functools
import json
import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import actions
import athlete
import cv2
import numpy as np
from tqdm import tqdm

CLIPS = 400  # a world
OPTIONS = 5
PHASES = (4, 5, 6)  # of an action
FRAME_RATE, FRAME_SIZE, SUPERSAMPLING = 12, 96, 3
PRESET = "ultrafast"  # of x264; with a slower one, bytes depend on what the process has encoded before
LEAD = 0.8  # of the action's length, before and after it together
IDLE = 3  # phases' lengths that the athlete stands still in the middle of the action
DISTRACTORS = 2  # other poses beside that
CUTS = (2, 3)  # fewest and most
CUT_ZOOM = (0.42, 0.80)  # standing height as a share of the frame; training has 0.50 to 0.66


# Performances: from an action's poses to the [(pose, phase or None)] of a clip, each a phase long.


def as_told(poses, rng):
    return [(pose, m) for m, pose in enumerate(poses)]


def with_lead(poses, rng):
    other = [(pose, None) for pose in others(poses, round(LEAD * len(poses)), rng)]
    before = rng.integers(1, len(other))
    return [*other[:before], *as_told(poses, rng), *other[before:]]


def without_one(poses, rng):
    left_out = rng.integers(len(poses))
    return [part for part in as_told(poses, rng) if part[1] != left_out]


def with_two_repeated(poses, rng):
    parts, first = as_told(poses, rng), rng.integers(len(poses) - 1)
    return [*parts[:first + 2], *parts[first:]]


def with_idle(poses, rng):
    parts, first = as_told(poses, rng), rng.integers(1, len(poses))
    distractors = [(pose, None) for pose in others(poses, DISTRACTORS, rng)]
    idle = [distractors[0], *[("stand", None)] * IDLE, *distractors[1:]]
    return [*parts[:first], *idle, *parts[first:]]


def in_any_order(poses, rng):
    return [as_told(poses, rng)[m] for m in rng.permutation(len(poses))]


# Tellings: from an action's poses to its [(text, phase or None)].


def told(poses, rng):
    return [(text, m) for m, text in enumerate(texts_of(poses, rng))]


def told_with_one_wrong(poses, rng):
    lines, wrong = told(poses, rng), rng.integers(len(poses))
    lines[wrong] = (texts_of(others(poses, 1, rng), rng)[0], None)
    return lines


def told_with_two_more(poses, rng):
    lines = told(poses, rng)
    for text in texts_of(others(poses, 2, rng), rng):
        lines.insert(rng.integers(len(lines) + 1), (text, None))
    return lines


def told_twice(poses, rng):
    return [(caption, m) for m, pose in enumerate(poses) for caption in rng.permutation(athlete.POSES[pose].held_out)]


@dataclass(frozen=True)
class World:
    """What makes a world hard; `base` has the defaults."""

    what: str  # makes it hard
    has_twin: bool = True
    perform: callable = as_told
    tell: callable = told
    unevenness: float = actions.PHASE_UNEVENNESS  # a phase lasts up to this share longer or shorter
    has_second_athlete: bool = False
    has_cuts: bool = False


WORLDS = {
    "base": World("the answer's twin is among the options"),
    "content": World("no twin: options of other phases", has_twin=False),
    "lead": World("other poses before and after, as long as 80% of the action", perform=with_lead),
    "skip": World("the athlete leaves out a phase", perform=without_one),
    "uneven": World("phases up to 85% longer or shorter", unevenness=0.85),
    "repeat": World("two phases are done twice", perform=with_two_repeated),
    "noise": World("one sub-action of every option is wrong", tell=told_with_one_wrong),
    "extra": World("two sub-actions of every option never happen", tell=told_with_two_more),
    "double": World("every phase is told twice", tell=told_twice),
    "idle": World("the athlete stops, and does something else, in the middle", perform=with_idle),
    "two": World("a second athlete does something else behind the first", has_second_athlete=True),
    "cuts": World("the camera cuts to another view", has_cuts=True),
    # A control beside these twelve: order is worth nothing in it.
    "unordered": World("no twin, and phases in random order", has_twin=False, perform=in_any_order),
}
CONTROLS = ("unordered",)


def others(poses, count, rng):
    """So many different poses that an action does not have."""
    return rng.choice([pose for pose in athlete.POSES if pose not in {*poses, "stand"}], count, replace=False).tolist()


def texts_of(poses, rng):
    return actions.describe(actions.Action("", "", tuple(poses), ""), rng)


def make_action(rng):
    """A new action: (poses, two of them that its name says)."""
    poses = rng.permutation([pose for pose in athlete.POSES if pose != "stand"])[:rng.choice(PHASES)].tolist()
    return poses, rng.choice(poses, 2, replace=False).tolist()


def twin_of(poses, named, rng):
    """The poses in another order, in which the two named ones change places and at most one stays where it was."""
    first = poses.index(named[0]) < poses.index(named[1])
    while True:
        twin = rng.permutation(poses).tolist()
        moved = sum(a != b for a, b in zip(poses, twin, strict=True))
        if moved >= len(poses) - 1 and (twin.index(named[0]) < twin.index(named[1])) != first:
            return twin


def make_options(world, rng):
    """{name: poses} of a clip's options; the first is the answer."""
    poses, named = make_action(rng)
    options = {actions.action_name(poses, named): poses}
    if world.has_twin:
        twin = twin_of(poses, named, rng)
        options[actions.action_name(twin, named)] = twin
    while len(options) < OPTIONS:
        poses, named = make_action(rng)
        options.setdefault(actions.action_name(poses, named), poses)
    return options


def movement(parts, seconds, unevenness, rng):
    """(starts (P + 1,) in seconds, function from a time to the pose vector then) of a performance of P parts."""
    starts = actions.timeline(len(parts), seconds, rng, unevenness)
    poses = [athlete.perturb(athlete.POSES[pose].vector(), rng, athlete.TEST_STYLE.pose_noise)
             for pose in ("stand", *(pose for pose, _ in parts), "stand")]
    sway_phases = rng.uniform(0.0, 2.0 * np.pi, size=len(athlete.SEGMENTS))
    return starts, lambda time: actions.pose_at(time, starts, poses) + actions.sway(time, sway_phases)


def looks_of(world, frames, rng):
    """The Look of every frame: one athlete, and where the camera cuts, another view from there on."""
    look = athlete.sample_look(rng, athlete.TEST_STYLE)
    if not world.has_cuts:
        return [look] * frames
    looks, cuts = [], rng.integers(CUTS[0], CUTS[1] + 1)
    for stop in (*sorted(rng.choice(np.arange(4, frames - 4), cuts, replace=False)), frames):
        looks += [look] * (stop - len(looks))
        other = athlete.sample_look(rng, athlete.TRAINING_STYLE)
        look = replace(look, zoom=rng.uniform(*CUT_ZOOM), centre=other.centre, ground=other.ground, roll=other.roll,
                       mirrored=other.mirrored, gradient=other.gradient, blobs=other.blobs)
    return looks


def behind(look, rng):
    """The first athlete's Look beside a second one, and the Look of that: smaller, other clothes, in the same place."""
    side = rng.choice((-1.0, 1.0))
    first = replace(look, centre=0.5 + 0.12 * side)
    other = athlete.sample_look(rng, athlete.TEST_STYLE)
    return first, replace(first, centre=0.5 - 0.27 * side, zoom=0.75 * look.zoom, ground=look.ground - 0.03,
                          shirt=look.shorts, shorts=look.shirt, hair=look.skin, mirrored=other.mirrored,
                          leg_length=other.leg_length, arm_length=other.arm_length, girth=other.girth)


def draw_clip(world, options, rng):
    """(frames, [(phase or None, start s, end s)]) of a performance of the first of {name: poses}."""
    answer, *wrong = options.values()
    parts = world.perform(answer, rng)
    seconds = rng.uniform(*actions.CLIP_SECONDS) * len(parts) / len(answer)
    starts, pose_at = movement(parts, seconds, world.unevenness, rng)
    count = round(seconds * FRAME_RATE)
    looks, second = looks_of(world, count, rng), None
    if world.has_second_athlete:
        first, second = behind(looks[0], rng)
        looks = [first] * count
        _, other_pose_at = movement(as_told(wrong[-1], rng), seconds, world.unevenness, rng)
    frames = [athlete.draw(pose_at(n / FRAME_RATE), look, FRAME_SIZE, SUPERSAMPLING,
                           behind=[(other_pose_at(n / FRAME_RATE), second)] if second else [])
              for n, look in enumerate(looks)]
    return frames, [(phase, float(start), float(end))
                    for (_, phase), start, end in zip(parts, starts, starts[1:], strict=False)]


def make_clip(folder, name, seed, number):
    """Draw one clip of a world into folder/clips; returns its manifest's row and its sub-actions.

    A clip depends on world, seed and number alone.
    """
    world = WORLDS[name]
    rng = np.random.default_rng([seed, list(WORLDS).index(name), number])
    options = make_options(world, rng)
    lines = {option: world.tell(poses, rng) for option, poses in options.items()}
    frames, parts = draw_clip(world, options, rng)
    id, answer, domain = f"{name}-{number:04d}", next(iter(options)), actions.DOMAINS[number % len(actions.DOMAINS)]
    actions.write_video(folder / "clips" / f"{id}.mp4", frames, FRAME_RATE, FRAME_SIZE, PRESET)
    choices = rng.permutation(list(options)).tolist()
    row, record = actions.describe_sample(
        id, domain, answer, choices, {option: [text for text, _ in lines[option]] for option in options})
    row["phases"] = [actions.true_phase(start, end, [
        m for m, (_, of_phase) in enumerate(lines[answer]) if of_phase is not None and of_phase == phase])
        for phase, start, end in parts]
    return row, record


def draw_by_one_thread():
    cv2.setNumThreads(1)


def make_world(folder, name, clips, seed, executor):
    """Write a world's folder; what stands there with as many clips and the same seed is kept."""
    made = {"world": name, "clips": clips, "seed": seed}
    done = folder / "world.json"  # written last
    if done.exists() and json.loads(done.read_text()) == made:
        return
    done.unlink(missing_ok=True)
    (folder / "clips").mkdir(parents=True, exist_ok=True)
    draw = functools.partial(make_clip, folder, name, seed)
    found = list(tqdm(executor.map(draw, range(clips), chunksize=4), name, clips, unit=" clips"))
    rows, records = zip(*found, strict=True)
    (folder / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "generated_subactions.json").write_text(json.dumps(records, indent=1) + "\n")
    done.write_text(json.dumps(made) + "\n")


def parse_args(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="worlds:\n" + "\n".join(f"  {name:10} {world.what}" for name, world in WORLDS.items()))
    parser.add_argument("--output", type=Path, required=True, help="folder to write into, one folder a world")
    parser.add_argument("--worlds", nargs="+", choices=WORLDS, default=list(WORLDS), metavar="WORLD",
                        help="which (default: all)")
    parser.add_argument("--clips", type=int, default=CLIPS, help="clips a world (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="other seeds are other clips (default: %(default)s)")
    return parser.parse_args(argv)


def main(argv=None):
    args = parse_args(argv)
    began = time.monotonic()
    context = multiprocessing.get_context("spawn")  # forked workers of a process that has threads can hang
    with ProcessPoolExecutor(mp_context=context, initializer=draw_by_one_thread) as executor:
        for name in args.worlds:
            make_world(args.output / name, name, args.clips, args.seed, executor)
    minutes = (time.monotonic() - began) / 60
    print(f"{args.output}: {len(args.worlds)} worlds of {args.clips} clips in {minutes:.1f} minutes")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

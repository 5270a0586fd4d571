"""The actions of the example, and the clips, the manifest and the sub-actions made from them.

An action is an ordered list of poses. Actions come in twins: the same poses in another order, so that order decides.

    python examples/actions.py --output examples
"""

import argparse
import itertools
import json
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import athlete
import av
import numpy as np
from tqdm import tqdm

SEED = 20
CLIPS_PER_ACTION = 2
CHOICES = 5
NOTE = "a drawn world: nothing here is real sport"

FRAME_SIZE = 128  # pixels
SUPERSAMPLING = 4
FRAME_RATES = (Fraction(24), Fraction(25), Fraction(30), Fraction(30000, 1001))
QUALITY = 21  # x264's constant rate factor: a few hundred kbit/s and no visible blocks at this size
KEYFRAME_INTERVAL = 50  # frames, so that a reader can seek

CLIP_SECONDS = (3.4, 4.8)
STANDING_SECONDS = (0.1, 0.3)  # before the first phase and after the last
MOVING_SHARE = 0.35  # of a phase, spent on the way into its pose
PHASE_UNEVENNESS = 0.25  # each phase lasts up to this share longer or shorter than the average
SWAY_DEGREES = 2.5
SWAY_HERTZ = 0.8


@dataclass(frozen=True)
class Action:
    """poses are keys of athlete.POSES, in the order in which they are performed."""

    domain: str
    name: str
    poses: tuple[str, ...]
    twin: str  # name of the action with the same poses in another order


# Each line makes two actions: the poses as given, and the same poses in the second order (positions of the first).
# A name says two of the poses in the order in which they come.
TWINS = {
    "gymnastics": (
        (("arms up", "handstand", "lunge", "split", "t-pose"), (0, 3, 2, 1, 4), ("handstand", "split")),
        (("toe touch", "bridge", "kneel", "arabesque"), (3, 2, 1, 0), ("bridge", "arabesque")),
        (("run", "straddle", "crouch", "dive", "arms up"), (3, 2, 0, 1, 4), ("straddle", "dive")),
        (("t-pose", "high kick", "arabesque", "crouch", "star", "pike"), (5, 4, 3, 2, 1, 0), ("high kick", "star")),
    ),
    "trampoline": (
        (("arms up", "tuck", "crouch", "straddle", "stand"), (0, 3, 2, 1, 4), ("tuck", "straddle")),
        (("crouch", "star", "lying", "dive"), (3, 1, 2, 0), ("star", "dive")),
        (("dive", "tuck", "pike", "star", "kneel"), (4, 3, 2, 1, 0), ("tuck", "pike")),
        (("t-pose", "straddle", "lying", "arms up", "dive", "crouch"), (3, 4, 5, 0, 1, 2), ("straddle", "dive")),
    ),
    "martial arts": (
        (("lunge", "high kick", "crouch", "arabesque"), (3, 2, 1, 0), ("high kick", "arabesque")),
        (("kneel", "lunge", "t-pose", "split", "high kick"), (0, 3, 2, 1, 4), ("lunge", "split")),
        (("run", "dive", "tuck", "crouch", "t-pose"), (4, 3, 2, 1, 0), ("dive", "crouch")),
        (("stand", "plank", "high kick", "lying", "kneel"), (4, 3, 2, 1, 0), ("plank", "lying")),
    ),
    "yoga": (
        (("arms up", "toe touch", "plank", "lunge", "t-pose"), (0, 3, 2, 1, 4), ("toe touch", "lunge")),
        (("bridge", "lying", "pike", "kneel"), (3, 2, 1, 0), ("bridge", "pike")),
        (("t-pose", "arabesque", "stand", "split", "toe touch"), (4, 3, 2, 1, 0), ("arabesque", "split")),
        (("crouch", "handstand", "plank", "kneel", "arms up", "lying"), (2, 3, 4, 1, 0, 5), ("handstand", "plank")),
    ),
    "workout": (
        (("star", "crouch", "plank", "arms up"), (3, 2, 1, 0), ("crouch", "plank")),
        (("run", "lunge", "crouch", "tuck", "stand"), (0, 3, 2, 1, 4), ("lunge", "tuck")),
        (("plank", "pike", "lying", "bridge", "toe touch"), (4, 3, 2, 1, 0), ("pike", "bridge")),
        (("kneel", "plank", "star", "run", "t-pose", "lunge"), (3, 4, 5, 0, 1, 2), ("star", "lunge")),
    ),
}
DOMAINS = tuple(TWINS)


def action_name(poses, named):
    """Two of the poses, in the order in which they come, as a label such as "Handstand to split"."""
    first, second = sorted(named, key=poses.index)
    return f"{athlete.POSES[first].name} to {athlete.POSES[second].name}".capitalize()


def all_actions():
    """Every Action, domain by domain, twins next to each other."""
    actions = []
    for domain, twins in TWINS.items():
        for poses, order, named in twins:
            reordered = tuple(poses[i] for i in order)
            names = action_name(poses, named), action_name(reordered, named)
            actions.append(Action(domain, names[0], poses, names[1]))
            actions.append(Action(domain, names[1], reordered, names[0]))
    return actions


def cleaned(name):
    """A choice as it appears in generated_subactions.json."""
    return name.strip().lower()


def describe(action, rng):
    """The action's sub-action texts in order: held-out captions, some of them in a held-out sentence."""
    texts = []
    for pose in action.poses:
        caption = str(rng.choice(athlete.POSES[pose].held_out))
        template = str(rng.choice(athlete.HELD_OUT_TEMPLATES))
        texts.append(template.format(caption=caption))
    return texts


def timeline(phases, seconds, rng, unevenness=PHASE_UNEVENNESS):
    """Starts of the P phases and the end of the last one, (P + 1,) in seconds from the clip's start."""
    before, after = rng.uniform(*STANDING_SECONDS, size=2)
    lengths = rng.uniform(1.0 - unevenness, 1.0 + unevenness, size=phases)
    lengths *= (seconds - before - after) / lengths.sum()
    return before + np.concatenate([[0.0], np.cumsum(lengths)])


def pose_at(time, starts, poses):
    """The pose vector (11,) at a time in seconds.

    starts (P + 1,) are those of timeline; poses are P + 2 pose vectors: standing, the phases, standing.
    """
    phase = int(np.searchsorted(starts, time, side="right"))  # 0 before the first phase
    if phase == 0:
        return poses[0]
    start = starts[phase - 1]
    if phase == len(starts):
        moving = MOVING_SHARE * (starts[-1] - starts[0]) / (len(starts) - 1)
    else:
        moving = MOVING_SHARE * (starts[phase] - start)
    progress = min(1.0, (time - start) / moving)
    return athlete.blend(poses[phase - 1], poses[phase], progress * progress * (3.0 - 2.0 * progress))


def sway(time, phases):
    """How far the body is from its pose at a time, (11,): nobody stands quite still. phases (10,) are of its angles."""
    return np.append(SWAY_DEGREES * np.sin(2.0 * np.pi * SWAY_HERTZ * time + phases), 0.0)


def perform(action, frame_rate, rng):
    """One performance of an action: (its phases' starts and the last one's end, (P + 1,) in seconds; its frames).

    The frames are an iterator of (FRAME_SIZE, FRAME_SIZE, 3) uint8 RGB.
    """
    style = athlete.TEST_STYLE
    look = athlete.sample_look(rng, style)
    seconds = rng.uniform(*CLIP_SECONDS)
    starts = timeline(len(action.poses), seconds, rng)
    habits = [athlete.POSES[pose].vector() for pose in ("stand", *action.poses, "stand")]
    poses = [athlete.perturb(pose, rng, style.pose_noise) for pose in habits]
    sway_phases = rng.uniform(0.0, 2.0 * np.pi, size=len(athlete.SEGMENTS))
    times = (number / float(frame_rate) for number in range(round(seconds * frame_rate)))
    return starts, (athlete.draw(pose_at(time, starts, poses) + sway(time, sway_phases), look, FRAME_SIZE,
                                 SUPERSAMPLING) for time in times)


def write_video(path, frames, frame_rate, size=FRAME_SIZE, preset="slow"):
    """Encode RGB frames as H.264 in an .mp4 file. Returns the number of frames."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=frame_rate)
        stream.width = stream.height = size
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": str(QUALITY), "preset": preset, "g": str(KEYFRAME_INTERVAL)}
        stream.thread_count = 1  # the same bytes however many cores there are
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
        return stream.frames


def sample_choices(action, actions, rng):
    """Names of CHOICES actions of one domain in random order: the action, its twin, and others."""
    others = [a.name for a in actions if a.domain == action.domain and a.name not in (action.name, action.twin)]
    choices = [action.name, action.twin, *rng.choice(others, size=CHOICES - 2, replace=False).tolist()]
    return rng.permutation(choices).tolist()


def true_phase(start, end, subactions):
    """A phase as a manifest's row tells it: seconds, and which of the action's sub-actions it is."""
    return {"start": round(float(start), 4), "end": round(float(end), 4), "subactions": subactions}


def describe_sample(id, domain, action, choices, texts):
    """The manifest's row of a clip and its sub-action record; texts: {choice: its sub-actions}."""
    question = f"Which {domain} action does the athlete perform?"
    position = choices.index(action)
    row = {
        "id": id,
        "video": f"clips/{id}.mp4",
        "domain": domain,
        "action": action,
        "question": question,
        "choices": choices,
        "answer": position + 1,
        "note": NOTE,
    }
    record = {
        "youtube_id": None,
        "id": id,
        "domain": domain,
        "action": action,
        "question": question,
        "cleaned_options": [cleaned(choice) for choice in choices],
        "correct_answer_index": position,
        "subactions": {f"{cleaned(choice)} in {domain}": texts[choice] for choice in choices},
    }
    return row, record


def make_samples(actions, rng):
    """The manifest's rows and the sub-action records, as two lists of dicts in the same order."""
    texts = {(action.domain, action.name): describe(action, rng) for action in actions}
    rows, records = [], []
    for domain in DOMAINS:
        performances = [action for action in actions if action.domain == domain] * CLIPS_PER_ACTION
        for number, index in enumerate(rng.permutation(len(performances)), start=1):
            action = performances[index]
            choices = sample_choices(action, actions, rng)
            sample_id = f"{domain.replace(' ', '-')}-{number:02d}"
            row, record = describe_sample(sample_id, domain, action.name, choices,
                                          {choice: texts[domain, choice] for choice in choices})
            rows.append(row)
            records.append(record)
    return rows, records


def make_dataset(output, seed):
    """Write clips/, manifest.jsonl and generated_subactions.json into a folder.

    Returns the number of clips, of frames and of bytes of video. Clips of an earlier run are removed.
    """
    actions = all_actions()
    performed = {(action.domain, action.name): action for action in actions}
    rows, records = make_samples(actions, np.random.default_rng(seed))

    clips = output / "clips"
    clips.mkdir(parents=True, exist_ok=True)
    for stale in clips.glob("*.mp4"):
        stale.unlink()
    frames = 0
    for number, row in enumerate(tqdm(rows, desc="clips")):
        rng = np.random.default_rng([seed, number])  # a clip does not depend on the clips before it
        frame_rate = FRAME_RATES[number % len(FRAME_RATES)]
        starts, drawn = perform(performed[row["domain"], row["action"]], frame_rate, rng)
        row["phases"] = [true_phase(start, end, [m]) for m, (start, end) in enumerate(itertools.pairwise(starts))]
        frames += write_video(output / row["video"], drawn, frame_rate)

    (output / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (output / "generated_subactions.json").write_text(json.dumps(records, indent=1) + "\n")
    return len(rows), frames, sum(path.stat().st_size for path in clips.glob("*.mp4"))


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description="Draw the test clips; write their manifest and their sub-actions.")
    parser.add_argument("--output", type=Path, default=Path(__file__).resolve().parent, help="folder to write into")
    parser.add_argument("--seed", type=int, default=SEED)
    return parser.parse_args(argv)


def main(argv=None):
    args = parse_args(argv)
    clips, frames, size = make_dataset(args.output, args.seed)
    print(f"{args.output}: {clips} clips, {frames} frames, {size / 1e6:.1f} MB of video, manifest and sub-actions")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

"""Stage 2: embed every frame of every clip with SigLIP's image encoder.

Reads processed_dataset.npy, or a dataset, whose clips it then decodes as stage 1 does, without frames on disk. Writes
video_embeddings.npy: float32 (frames of all clips, D), not normalised; the same ones either way.

    python encode_videos.py --output video_embeddings.npy --device cuda:0
    python encode_videos.py --dataset my_clips.csv --output video_embeddings.npy --device cuda:0
    python encode_videos.py --dataset my_clips.csv --output video_embeddings.npy --shard 3/16
"""

import actalign  # isort: skip  # noqa: F401 - before what takes long to load
import argparse
import functools
from pathlib import Path

import numpy as np

from actalign import artifacts, clips, cluster, console, cores, dataset, files
from actalign.artifacts import shards
from actalign.artifacts.writer import ArrayWriter
from actalign.checkpoint import add_encoder_arguments, find_checkpoint, resolve_dtype

LONG, FEWER = 2, 8  # minutes that are worth a word; frames a second that are advised then
SMALLER = ("a smaller --model less, such as google/siglip-base-patch16-224, which has a nineteenth of so400m's "
           "operations, and a GPU least")
FRAMES = "processed_dataset.npy"
BATCH_SIZE = 128  # frames at once on CUDA, where they fit
PATCHES_A_CORE = 8192  # of frames at once on a CPU; more gain nothing and take memory, measured (benchmarks/)
LEAST_A_CORE, MOST_A_CORE = 8, 32  # frames

# What later stages need to know of a clip besides its embeddings.
CLIP_FIELDS = (*artifacts.QUESTION, "question", "action", *clips.MADE_FROM, "note", "phases", "timestamps", "fps")


def encode_videos(frames, writer, encoder):
    """Embed the clips of `frames` that `writer` does not hold yet.

    frames  ArrayArtifact of kind "frames"    writer  ArrayWriter of kind "video_embeddings"    encoder  Siglip
    Returns the number of frames encoded. Raises InputError if the frames of a clip are not those that were written.
    """
    clips = sorted((item for item in frames.items if item["id"] not in writer), key=lambda clip: clip["start"])
    total = sum(clip["stop"] - clip["start"] for clip in clips)
    read = ((clip, read_clip(frames, clip, encoder.part_size)) for clip in clips)
    rates = [clip["fps"] for clip in clips if clip.get("fps")]
    plan = Plan(total, np.mean(rates) if rates else None, encoder)
    with console.progress(total, "frames") as bar:
        for clip, parts in encoder.encode_clips(read, lambda embeddings: bar.update(plan.told(len(embeddings)))):
            writer.append(clip["id"], np.concatenate(parts))
    return total


class Plan:
    """Says how long a run on a CPU will take, measured on its first frames, and what would change that.

    total  frames of the run    rate  of them a second of video, None if not known
    """

    def __init__(self, total, rate, encoder):
        self._total, self._rate = total, rate
        self._least = encoder.part_size * cores.count()  # frames: a part of every core
        self._is_said = encoder.device.type != "cpu"
        self._done, self._stopwatch = 0, console.Stopwatch()

    def told(self, count):
        """`count` more frames are done; returns it."""
        self._done += count
        if not self._is_said and self._done >= self._least:
            self._is_said, minutes = True, self._total * self._stopwatch.seconds / self._done / 60
            if minutes >= LONG:
                fewer = (f"--fps {FEWER} where frames are made takes {minutes * FEWER / self._rate:.0f} min, "
                         if self._rate and self._rate > FEWER else "")
                console.log.info(f"{self._total:.0f} frames take about {minutes:.0f} min on this CPU, at "
                                 f"{self._stopwatch.rate(self._done)} frames/s; {fewer}{SMALLER}")
        return count


def read_clip(frames, clip, count):
    """Yield a clip's frames, so many at once (n, H, W, 3); InputError at the last if they are not as written."""
    checksum = artifacts.Checksum()
    for start in range(clip["start"], clip["stop"], count):
        read = frames.read(start, stop := min(start + count, clip["stop"]))
        checksum.update(read)
        if stop == clip["stop"]:
            artifacts.require_checksum(frames, clip, checksum)
        yield read


def encode_dataset(samples, writer, videos, encoder, workers, **settings):
    """Decode and embed the clips that `writer` does not hold yet; what fails is named in its missing items.

    samples  list of Sample    videos  Videos    encoder  Siglip    settings  those of the frames, `clips.settings_of`
    Returns (number of frames encoded, lines about bugs that ended a clip).
    """
    total, bugs, stopwatch = 0, [], console.Stopwatch()
    rate = settings["fps"] or clips.SOURCE_FRAME_RATE
    on_cpu = encoder.device.type == "cpu"  # elsewhere nothing is told, so that no file needs to be opened for it
    plan = Plan(clips.seconds_of(samples, videos) * rate if on_cpu else 0, rate, encoder)
    with (clips.decoding(samples, videos, workers, count=encoder.part_size, **settings) as decoded,
          console.progress(len(samples), "clips") as bar):
        passing = (clips.PassingClip(*clip) for clip in decoded)
        for clip, parts in encoder.encode_clips(((clip, clip) for clip in passing), lambda part: plan.told(len(part))):
            if clip.error:
                clips.add_missing(writer, clip.sample, clip.error, bugs)
            else:
                writer.append(clip.sample.id, np.concatenate(parts), **clips.times_of(clip.timestamps),
                              frames_checksum=clip.checksum.hexdigest())
                total += len(clip.timestamps)
            videos.done(clip.sample)
            bar.set_postfix_str(f"{stopwatch.rate(total)} frames/s", refresh=False)
            bar.update()
    return total, bugs


def auto_batch_size(device, checkpoint):
    """Frames at once on a device; `Siglip` takes fewer where these do not fit."""
    if device.type != "cpu":
        return BATCH_SIZE if device.type == "cuda" else MOST_A_CORE
    a_core = PATCHES_A_CORE // checkpoint.patches // LEAST_A_CORE * LEAST_A_CORE  # `Siglip` pads parts to multiples
    return cores.count() * min(max(a_core, LEAST_A_CORE), MOST_A_CORE)


class Model:
    """The checkpoint that the flags name, on a device; the encoder is loaded when it is first asked for."""

    def __init__(self, args):
        self.device = console.pick_device(args.device)
        self.checkpoint = find_checkpoint(args.model, args.trust_pickle_weights)
        self.dtype = resolve_dtype(args.dtype, self.device, self.checkpoint)
        self.batch_size = args.batch_size or auto_batch_size(self.device, self.checkpoint)
        self.settings = self.checkpoint.settings(self.dtype)

    @functools.cached_property
    def encoder(self):
        from actalign.siglip import load_siglip

        return load_siglip(self.checkpoint, self.device, self.batch_size, self.dtype)

    def require_frames(self, image_size, resample):
        """Warn unless frames are those that the checkpoint's image processor would make."""
        size, own = self.encoder.image_size, self.encoder.resample
        if image_size != size or (resample or own) != own:
            console.log.warning("the checkpoint's image processor makes other frames than these; take --image_size "
                                f"{size} --resample {own}")


def run_on_frames(args, model, frames):
    """Embed the frames of --input."""
    encoded, (share, notes) = 0, shards.share(args, list(frames))
    if "samples" in frames.meta:  # the same shard of the frames
        share = {item["id"]: {"position": item["position"]} for item in frames.items}
        notes["samples"] = frames.meta["samples"]
    frames.items = [item for item in frames.items if item["id"] in share]
    notes |= {"model": args.model, **{name: frames.meta.get(name) for name in clips.SETTINGS}}
    with ArrayWriter(args.output, "video_embeddings", model.settings, notes, args.overwrite) as writer:
        require_told(writer)
        source = {clip["id"]: {**{name: clip[name] for name in CLIP_FIELDS if name in clip},
                               "frames_checksum": clip["checksum"], **share[clip["id"]]} for clip in frames.items}
        again = {id for id, item in writer.items.items() if id in source
                 and item["frames_checksum"] != source[id]["frames_checksum"]}
        writer.follow(source, again)
        kept, stopwatch = len(writer.items), console.Stopwatch()
        if any(clip["id"] not in writer for clip in frames.items):
            model.require_frames(frames.shape[1], frames.meta.get("resample"))
            stopwatch = console.Stopwatch()  # without the loading
            encoded = encode_videos(frames, writer, model.encoder)
    console.say(f"{len(writer.items) - kept} clips encoded ({encoded} frames, {stopwatch.rate(encoded)} frames/s on "
                f"{model.device}), {kept} were there already -> {args.output}")


def run_on_dataset(args, model, samples, share, notes):
    """Decode and embed clips of --dataset into --output; returns (clips.Outcome, frames a second as text).

    samples  list of Sample    share, notes  of them, as `shards.share` has it
    """
    settings, encoded, bugs = clips.settings_of(args), 0, []
    with ArrayWriter(args.output, "video_embeddings", {**model.settings, **settings}, {"model": args.model, **notes},
                     args.overwrite) as writer:
        require_told(writer)
        left, todo, videos = clips.follow(samples, share, writer, args, CLIP_FIELDS)
        kept, stopwatch = len(writer.items), console.Stopwatch()
        if todo:
            model.require_frames(args.image_size, args.resample)
            stopwatch = console.Stopwatch()  # without the loading
            encoded, bugs = encode_dataset(todo, writer, videos, model.encoder, args.workers, **settings)
    return clips.outcome(left, encoded, kept, writer, args, bugs), stopwatch.rate(encoded)


def worker(args):
    """What an actor does with every shard: a function of flags of its own, and of samples, share and notes."""
    model = Model(args)
    return lambda own, *samples: run_on_dataset(argparse.Namespace(**{**vars(args), **own}), model, *samples)[0]


def run_on_ray(args, samples):
    """Decode and embed clips of --dataset into shards of --output, in actors of a Ray cluster."""
    ids, found = [sample.id for sample in samples], shards.counts_at(args.output)
    notes, stopwatch = {"samples": files.json_checksum(ids)}, console.Stopwatch()
    if shards.is_there(Path(args.output)) or (args.shards and found not in ([], [args.shards])):
        raise console.InputError(f"{args.output}: is there, as one or in {found} shards; move that away, or leave "
                                 "--shards out")
    with cluster.Cluster(args, args.device) as ray:
        count = args.shards or (found or [ray.shards_of(len(ids))])[0]
        tasks, outcome = [], clips.Outcome()
        for number in range(count):
            own = {"output": str(shards.shard_path(args.output, (number, count))),
                   "limit": args.limit and len(range(number, args.limit, count))}
            share = {id: {"position": number + n * count} for n, id in enumerate(ids[number::count])}
            tasks.append((own, samples[number::count], share, notes))
        with console.progress(len(ids), "clips") as bar:
            for number, of_shard in ray.run("encode_videos", args, tasks):
                outcome += of_shard
                bar.update(len(ids[number::count]))
    clips.say(outcome, f"encoded ({outcome.frames} frames, {stopwatch.rate(outcome.frames)} frames/s by {ray.actors} "
                       "actors)", args.output.removesuffix(".npy") + f"-*-of-{count:05d}.npy")


def require_told(writer):
    """Raise InputError unless embeddings of earlier runs tell the frames that they were made from."""
    if untold := [id for id, item in writer.items.items() if "frames_checksum" not in item]:
        raise console.InputError(f"{writer.path}: does not say which frames {console.some_of(untold)} were encoded "
                                 "from; choose another --output, or start over with --overwrite")


def parse_args(argv=None):
    parser = console.parser(__doc__)
    parser.add_argument("--input", help=f"frames (default: {FRAMES})")
    parser.add_argument("--output", required=True, help="where the embeddings go, a .npy file")
    add_encoder_arguments(parser, f"frames at once; auto is {BATCH_SIZE} on CUDA, {LEAST_A_CORE} to {MOST_A_CORE} for "
                                  "every core of a CPU")
    shards.add_argument(parser)
    group = parser.add_argument_group("instead of --input, clips that are decoded here; as in process_data.py")
    _, *decoding = dataset.add_arguments(group, "--input") + clips.add_arguments(group)
    decoding += [*cluster.add_arguments(group, "shards"), group.add_argument(
        "--shards", type=console.number(int, 1, shards.MOST), metavar="N",
        help=f"of a run on Ray (default: as there are, else of {cluster.SHARD_CLIPS} clips, and at least "
             f"{cluster.SHARDS_AN_ACTOR} for every actor)")]
    args = parser.parse_args(argv)
    if args.input and args.dataset:
        parser.error("--input and --dataset: give one of them")
    for action in decoding:
        if not args.dataset and getattr(args, action.dest) != action.default:
            parser.error(f"{action.option_strings[0]} is for --dataset")
    if args.ray and args.shard:
        parser.error("--shard does one shard here, --ray all of them; give one of the two")
    return args


@console.script
def main(argv=None):
    args = parse_args(argv)
    console.require_folder_of(args.output)
    if args.ray:
        run_on_ray(args, clips.read_samples(args))
    elif args.dataset:
        samples = clips.read_samples(args)
        share, notes = shards.share(args, [sample.id for sample in samples])
        model = Model(args)
        outcome, rate = run_on_dataset(args, model, samples, share, notes)
        clips.say(outcome, f"encoded ({outcome.frames} frames, {rate} frames/s on {model.device})", args.output,
                  args.shard)
    else:
        given = args.input or FRAMES
        own = args.shard and shards.shard_path(given, args.shard)
        if not own or shards.is_there(Path(given)) or not shards.is_there(own):
            own = given
        frames = artifacts.read_array(own, "frames")
        run_on_frames(args, Model(args), frames)


if __name__ == "__main__":
    raise SystemExit(main())

"""From clips to answers in one command: the six stages, one after the other in one process.

    python -m actalign clips --domain gymnastics --subactions phases.txt \\
        --options "handstand to split" "split to handstand"

Every stage's command is shown before it runs and can be run again alone. What is there already is kept, so that the
same command goes on after an interruption, and takes over what has changed.
"""

import importlib
import shlex
from dataclasses import dataclass, field
from pathlib import Path

from actalign import artifacts, clips, console, cores, dataset, tables
from actalign.alignment import METHODS
from actalign.checkpoint import SO400M, add_trust_argument, find_checkpoint
from actalign.download import Videos
from actalign.files import read_json
from actalign.own_subactions import OwnSubactions
from actalign.subactions import folded_key

FILES = {"frames": "processed_dataset.npy", "video": "video_embeddings.npy", "subactions": "generated_subactions.json",
         "texts": "encoded_subactions.npy", "baseline": "baseline_predictions.json", "predictions": "predictions.json",
         "report": "report.html"}
OPERATIONS = 277e9 / 2  # a second and core, of siglip-so400m on a CPU in bfloat16 (docs/speed.md)
MOST_MINUTES = 30  # of encoding on a CPU, for all clips together
LEAST_RATE = 4  # frames/s; with fewer phases are lost


def commands(folder, dataset, encoder, subactions=(), method=()):
    """[(script, flags)] of the six stages in order, whose files go into a folder.

    dataset: flags of process_data.py; encoder: of the stages that hold a checkpoint; subactions: of
    generate_subactions.py; method: of seq_alignment.py
    """
    at = {name: str(Path(folder) / file) for name, file in FILES.items()}
    return [
        ("process_data", [*dataset, "--output", at["frames"]]),
        ("generate_subactions", ["--input", at["frames"], "--output", at["subactions"], *subactions]),
        ("encode_videos", ["--input", at["frames"], "--output", at["video"], *encoder]),  # when no phases are missing
        ("encode_subactions", ["--subactions", at["subactions"], "--output", at["texts"], *encoder]),
        ("baseline", ["--input_dataset", at["frames"], "--video_embeddings", at["video"], *encoder,
                      "--output", at["baseline"]]),
        ("seq_alignment", ["--subactions", at["subactions"], "--video_embeddings", at["video"],
                           "--subaction_embeddings", at["texts"], "--output", at["predictions"], "--report",
                           at["report"], "--frames", at["frames"], "--compare", at["baseline"], *method])]


def run(stages):
    """Run stages as `commands` gives them; raises what they raise, of flags that they do not take before the first."""
    modules = [importlib.import_module(script) for script, _ in stages]
    for stage, (_, flags) in zip(modules, stages, strict=True):
        stage.parse_args(flags)
    for stage, (script, flags) in zip(modules, stages, strict=True):
        is_here = Path(stage.__file__).parent == Path.cwd()
        console.say("", f"$ python {f'{script}.py' if is_here else f'-m {script}'} {shlex.join(flags)}")
        stage.main.__wrapped__(flags)


@dataclass(frozen=True)
class Answer:
    """What is known of a clip: its answer, and the scores and phases of its K options.

    option      the answer, None where none of the options fits (`reject`) or there is none
    confidence  of it, in 0..1, not calibrated; None where options cannot be compared by their order
    scores      {option: score}, the greater the better       phases  {option: [phase]}, see docs/artifacts.md
    reason      why the clip has no scores, else None
    """

    id: str
    option: str | None = None
    confidence: float | None = None
    scores: dict = field(default_factory=dict)
    phases: dict = field(default_factory=dict)
    reason: str | None = None


def read_answers(made):
    """The Answers in the files of `run_all`: of the clips that were scored, and of those that could not be."""
    content = read_json(made["predictions"], "predictions")
    answers = [Answer(one["id"], None if one.get("none_of_these") else one["cleaned_options"][one["ranking"][0]],
                      one.get("confidence"), dict(zip(one["cleaned_options"], one["scores"], strict=True)),
                      dict(zip(one["cleaned_options"], one.get("phases", ()), strict=False)))
               for one in content["samples"]]
    missing = artifacts.missing_path(made["frames"])
    failed = {one["id"]: one["reason"] for one in (read_json(missing) if missing.exists() else [])}
    reasons = {one["id"]: one["reason"] for one in content["not_scored"]} | failed
    return answers + [Answer(id, reason=reason) for id, reason in reasons.items()]


def answer_lines(answers):
    """The table of Answers that ends a run, and a line for every clip without one."""
    rows = [(one.id, one.option or "none of these", "-" if one.confidence is None else f"{one.confidence:.2f}")
            for one in answers if not one.reason]
    return [*tables.table([("clip", "answer", "confidence"), *rows], texts=2),
            *(f"{one.id}: no answer, {one.reason}" for one in answers if one.reason)]


def run_all(args):
    """Run what the parsed flags ask for; returns {name: path} of FILES. Raises InputError and StageError."""
    folder = made_folder(args.output)
    own = OwnSubactions(args.subactions) if args.subactions else None
    options = args.options or (own and own_options(own, args.domain)) or None
    decoding = flags_of(dataset=args.clips, domain=args.domain, videos_dir=args.videos_dir, options=options)
    seconds = clip_seconds(decoding)  # before the checkpoint, which may have to be fetched
    checkpoint = find_checkpoint(args.model, args.trust_pickle_weights)
    decoding += flags_of(image_size=checkpoint.image_size, resample=checkpoint.resample)
    decoding += rate_flags(args, seconds, checkpoint, folder / FILES["frames"])
    encoder = flags_of(model=args.model, trust_pickle_weights=args.trust_pickle_weights, device=args.device)
    asking = flags_of(subactions=args.subactions, base_url=args.base_url, model=args.language_model or None)
    stages = commands(folder, decoding, encoder, asking, flags_of(method=args.method, reject=args.reject))
    for _, flags in stages[:4]:
        flags += flags_of(overwrite=args.overwrite)
    run(stages)
    return {name: folder / file for name, file in FILES.items()}


def made_folder(output):
    """The Path of --output, which is there. Raises InputError."""
    try:
        Path(output).mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise console.InputError(f"--output {output}: is no folder; choose another") from None
    return Path(output)


def flags_of(**given):
    """A command line of flags, each with a value or several, or True if it stands alone; None and False add nothing."""
    return [part for name, value in given.items() if value is not None and value is not False
            for part in (f"--{name}", *([] if value is True else texts_of(value)))]


def texts_of(value):
    """The list of texts that a command line holds of a value or of several."""
    return [str(one) for one in ([value] if isinstance(value, str | Path | int | float) else value)]


def own_options(own, domain):
    """The options that an OwnSubactions names, once each, for clips that come with none."""
    ending = f" in {domain}".casefold()
    names = [name[:-len(ending)] if name.casefold().endswith(ending) else name for name in own.names
             if own.is_free or name.casefold().endswith(ending)]
    return [*{folded_key(name): name for name in names}.values()]


def rate_flags(args, seconds, checkpoint, frames):
    """--fps for process_data.py: what was asked for, or else what a CPU can encode in MOST_MINUTES; says so.

    seconds: of all clips    frames: the Path of the artifact. Frames that are there keep their rate, so that new clips
    join them.
    """
    if args.fps != "auto":
        return flags_of(fps=args.fps)
    if console.pick_device(args.device).type != "cpu":
        return []
    if frames.exists() and not args.overwrite:
        return flags_of(fps=artifacts.read_index(frames, "frames")["meta"].get("fps"))
    a_second = cores.count() * OPERATIONS / checkpoint.operations  # frames
    rate = 60 * MOST_MINUTES * a_second / max(seconds, 1)
    if rate >= clips.SOURCE_FRAME_RATE:
        return []
    rate = max(LEAST_RATE, int(rate))
    console.log.info(f"{rate} frames a second of {seconds:.0f} s of video, about {seconds * rate / a_second / 60:.0f} "
                     f"minutes on this CPU; --fps (all, or a number), --device or a smaller --model change that")
    return flags_of(fps=rate)


def clip_seconds(flags):
    """The seconds of all clips that flags of process_data.py name, as far as they are known without fetching any."""
    parser = console.parser("")
    dataset.add_arguments(parser)
    args, _ = parser.parse_known_args(flags)
    console.log.disabled = True  # stage 1 says the same
    try:
        samples = dataset.load(args)
    finally:
        console.log.disabled = False
    return clips.seconds_of(samples, Videos(args.videos_dir, "none", ()))


def parse_args(argv=None):
    parser = console.parser(__doc__)
    add = parser.add_argument
    add("clips", nargs="+", metavar="CLIP", help="a video, a folder of videos, an http(s) address, or a dataset (.csv, "
                                                 ".json, .jsonl, .parquet, a name on the hub)")
    add("--domain", help="what the actions belong to, such as gymnastics")
    add("--options", nargs="+", action="extend", metavar="ACTION",
        help="the candidate actions, or a text file with one a line (default: those of the dataset or of --subactions)")
    add("--subactions", metavar="FILE",
        help="the options' phases in order: an option's name on a line, its phases indented below it; or JSON. For "
             "what it lacks a language model is asked")
    add("--output", default="actalign_output", metavar="DIR", help="folder of all that is made (default: %(default)s)")
    add("--videos_dir", help="folder of the paths in a dataset (default: the dataset's)")
    add("--model", default=SO400M, help="SigLIP checkpoint, a hub name or a folder (default: %(default)s)")
    add("--language_model", help="see --model of generate_subactions.py; its key is OPENAI_API_KEY")
    add("--base_url", help="a server of language models that speaks OpenAI's protocol, such as one on this machine")
    add("--method", choices=METHODS, default="published", help="of seq_alignment.py (default: %(default)s)")
    add("--reject", metavar="auto|Z", help="answer \"none of these\" where no option fits, see seq_alignment.py")
    add("--fps", type=console.number(float, 1e-9, 1e9, auto="auto", all=None), default="auto",
        help=f"frames a second, or all; auto: all, or on a CPU what it can encode in {MOST_MINUTES} minutes, at least "
             f"{LEAST_RATE} (default: %(default)s)")
    add_trust_argument(parser)
    console.add_overwrite_argument(parser)
    console.add_device_argument(parser)
    return parser.parse_args(argv)


@console.script
def main(argv=None):
    made = run_all(parse_args(argv))
    console.say("", *answer_lines(read_answers(made)), "",
                f"Why each clip was answered as it was: open {made['report']} in a browser.")

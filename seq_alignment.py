"""Stage 6: align every clip with the sub-actions of each of its options, and pick the option that aligns best.

Reads generated_subactions.json, video_embeddings.npy and encoded_subactions.npy; prints accuracy, or predictions
where no answers are known; writes predictions.json, an HTML report and figures when asked. Needs no model: scale and
bias come with the embeddings. The method itself is in actalign/alignment.py.

    python seq_alignment.py --subactions generated_subactions.json --video_embeddings video_embeddings.npy \\
        --subaction_embeddings encoded_subactions.npy --device cuda:0
"""

import actalign  # isort: skip  # noqa: F401 - before what takes long to load
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from actalign import (
    alignment,
    artifacts,
    cluster,
    comparison,
    confidence,
    console,
    cores,
    dataset,
    evaluation,
    exports,
    files,
    phases,
    report,
    trials,
    videonet,
)
from actalign.checkpoint import add_trust_argument, find_checkpoint
from actalign.predictions import predictions_output, publish
from actalign.subactions import is_of, read_subactions

AUTO_SMOOTH = 1 / 3  # of a phase, for --smooth auto
LONGEST_SMOOTH = 10**6  # frames or seconds
FIRST, BEST = "first", "best"
SCRIPTS = (FIRST, "mean", BEST)
MOST_ORDERS = 10_000
MOST_Z = 1000
ALL = "all"  # of --alignment
OTHERS_SEED, MOST_TRIED = 0, 50  # of the samples whose options stand for those that do not fit


def join(subactions, video, texts):
    """Bring together by id what belongs to one sample: (Samples that can be scored, {id: reason} of the others).

    subactions: list of SubActions; video, texts: ArrayArtifacts of the frames' and of the sub-actions' embeddings.
    Raises InputError if the embeddings were made from other sub-actions.
    """
    samples, not_scored = [], {}
    for of_sample in subactions:
        id = of_sample.sample.id
        if id in texts and not is_of(texts.item(id), of_sample):
            raise console.InputError(f"{texts.path}: sample {id} was encoded from other sub-actions; run "
                                     "encode_subactions.py again")
        if of_sample.lacking:
            not_scored[id] = f"no sub-actions for {', '.join(of_sample.lacking)}"
        elif id not in video:
            not_scored[id] = f"not in {video.path.name}"
        elif id not in texts:
            not_scored[id] = f"not in {texts.path.name}"
        else:
            samples.append(of_sample.sample)
    known = {of_sample.sample.id for of_sample in subactions}
    not_scored.update((id, "not among the generated sub-actions") for id in video if id not in known)
    return samples, not_scored


def smoothing(text):
    """argparse type of --smooth: a whole number of frames, or "auto" or seconds such as "0.5s" as they stand."""
    if text == "auto":
        return text
    kind, digits = (float, text[:-1]) if text.endswith("s") else (int, text)
    value = console.number(kind, 1e-9, LONGEST_SMOOTH)(digits)
    return text if kind is float else value


def scripts_of(item, how):
    """S lists of what an index's item says of its K options, a list a script; how: one of SCRIPTS.

    As many scripts as every option has, the first of each.
    """
    by_key = {option["key"]: [option] for option in item["options"]}
    for option in item.get("more_options", ()) if how != FIRST else ():
        by_key.get(option["key"], []).append(option)
    return [list(script) for script in zip(*by_key.values(), strict=False)]


def phase_length(sample, video, texts):
    """T/M of one sample, with the mean M of its options."""
    return video.length(sample.id) * len(sample.options) / sum(
        len(option["texts"]) for option in texts.item(sample.id)["options"])


def window_of(sample, video, texts, smooth):
    """The smoothing window of one sample in frames; smooth: what `smoothing` gives.

    Raises InputError if seconds are asked for and the frame rate is not known.
    """
    if smooth == "auto":
        return max(1, round(AUTO_SMOOTH * phase_length(sample, video, texts)))
    if isinstance(smooth, int):
        return smooth
    if not video.frame_rate(sample.id):
        raise console.InputError(f"{video.path}: does not say how many frames a second sample {sample.id} has; give "
                                 "--smooth in frames")
    return max(1, round(min(float(smooth[:-1]) * video.frame_rate(sample.id), LONGEST_SMOOTH)))


def similarities(sample, video, texts, smooth, kinds, device="cpu", scale=None, of=None, scripts="first"):
    """For each of the similarities `kinds`, the K matrices (T, M) of one sample's options in their order.

    of: the id of another sample, whose options it is then    scripts: one of SCRIPTS; of several scripts it is S * K
    smooth: what `smoothing` gives; scale: (logit_scale, logit_bias) instead of those that came with the embeddings
    Raises InputError if frames cancel out within a smoothing window.
    """
    scale = scale or (video.meta["logit_scale"], video.meta["logit_bias"])
    window = window_of(sample, video, texts, smooth)
    frames = alignment.smooth(video.embeddings(sample.id), window)  # (T, D)
    item = texts.item(of or sample.id)
    options, start = [option for script in scripts_of(item, scripts) for option in script], item["start"]
    cosines = alignment.cosines(frames, texts.embeddings(item["id"])[:options[-1]["stop"] - start], device)
    lost = np.flatnonzero(~np.isfinite(cosines.numpy()).all(axis=1))
    if len(lost):
        raise console.InputError(f"{video.path}: frame {lost[0]} of sample {sample.id} has no direction within the "
                                 f"smoothing window of {window} frames; choose another --smooth")
    for kind in kinds:
        whole = alignment.similarity_of(cosines, *scale, kind)
        yield [np.ascontiguousarray(whole[:, option["start"] - start:option["stop"] - start]) for option in options]


def on_all_cores(function, samples, what="samples"):
    """The list of what a function gives for each of `samples`, in order."""
    with cores.one_torch_thread(), ThreadPoolExecutor(cores.count()) as pool:
        return list(console.progress(len(samples), what, iterable=pool.map(function, samples)))


def combined(values, K, scripts, scores):
    """(K,) of S * K options' values and scores: the mean over the scripts, or what the best-scored script has."""
    values = values.reshape(-1, K)
    return values.mean(axis=0) if scripts != BEST else values[scores.reshape(-1, K).argmax(axis=0), np.arange(K)]


def align_scripts(matrices, K, method, with_paths, orders, scripts):
    """(alignment.Aligned of S * K matrices, its scores (K,), its Contrast of K options or None)."""
    found = alignment.align(matrices, method.alignment, with_paths, orders, in_contrast=method.orders > 0)
    order = found.order and alignment.Contrast(*(combined(of, K, scripts, found.scores) for of in found.order))
    return found, combined(found.scores, K, scripts, found.scores), order


def predict(samples, method, matrices_of, with_paths=False, with_order=False, scripts="first"):
    """Score every option of every sample by an alignment.Method; one Prediction for each of `samples`, in order.

    matrices_of: function of a sample and of similarities, as `similarities`
    with_paths, with_order: whether paths and phases are needed, and what tells how sure the answer is
    scripts: one of SCRIPTS, as for `matrices_of`; paths are those of the first one
    """
    orders = alignment.orders_told(method, with_order)

    def score(sample):
        [matrices] = matrices_of(sample, [method.similarity])
        K = len(sample.options)
        found, scores, order = align_scripts(matrices, K, method, with_paths, orders, scripts)
        return evaluation.Prediction(
            sample, scores, found.paths and found.paths[:K], order,
            found.paths and [*map(phases.phases_of, matrices, found.paths)],
            confidence.confidence_of(order.z, np.argmax(scores)) if orders else None,
            by_script=found.scores.reshape(-1, K) if len(matrices) > K else None)

    return on_all_cores(score, samples)


def matrices_by(args, video, texts):
    """`similarities` of what the flags say and two ArrayArtifacts: a function of a Sample and of similarities."""
    scale = None
    if args.scale_from:
        other = find_checkpoint(args.scale_from, args.trust_pickle_weights)
        scale = other.logit_scale, other.logit_bias
    device = console.pick_device(args.device or "cpu")  # which loads torch

    def matrices_of(sample, kinds, of=None):
        return similarities(sample, video, texts, args.smooth, kinds, device, scale, of, args.scripts)

    return matrices_of


def worker(args):
    """What an actor does over and over: `predict` of samples, without their matrices, which it makes."""
    video = artifacts.read_array(args.video_embeddings, "video_embeddings")
    texts = artifacts.read_array(args.subaction_embeddings, "subaction_embeddings")
    matrices_of = matrices_by(args, video, texts)
    return lambda samples, method, *how: predict(samples, method, matrices_of, *how)


def predict_on_ray(args, samples, *how):
    """`predict`, in actors of a Ray cluster that take a part of the samples at a time."""
    predictions = [None] * len(samples)
    with cluster.Cluster(args, args.device or "cpu") as ray:
        count = ray.shards_of(len(samples))
        tasks = [(samples[number::count], *how) for number in range(count)]
        with console.progress(len(samples), "samples") as bar:
            for number, found in ray.run("seq_alignment", args, tasks):
                predictions[number::count] = found
                bar.update(len(found))
    return predictions


def chance_threshold(samples, method, matrices_of, scripts="first"):
    """(z, where it comes from): what the best of options that do not fit exceeds in one sample of twenty.

    Every sample is scored against the options of another one that shares none with it; where there are no such
    samples, it is what chance orders would give.
    """
    rng, pairs = np.random.default_rng(OTHERS_SEED), []
    for sample in samples:
        for i in rng.choice(len(samples), min(len(samples), MOST_TRIED), replace=False):
            if not set(samples[i].keys) & set(sample.keys):
                pairs.append((sample, samples[i]))
                break
    if not pairs:
        K = int(np.median([len(sample.options) for sample in samples]))
        return confidence.chance_threshold(K), f"what chance orders of {K} options exceed in one of twenty"

    def best_z(pair):
        sample, other = pair
        [matrices] = matrices_of(sample, [method.similarity], of=other.id)
        _, scores, order = align_scripts(matrices, len(other.options), method, False,
                                         alignment.orders_told(method, True), scripts)
        return order.z[np.argmax(scores)]

    z = on_all_cores(best_z, pairs, "samples with others' options")
    return (float(np.quantile(z, 1 - confidence.PASSED_BY_CHANCE)),
            f"what other samples' options exceed in one of twenty of {len(z)} samples")


def try_all(samples, count, matrices_of):
    """Answer every sample by every method, print how they compare, and return trials.of_methods of them."""
    methods, kinds = alignment.every_method(count), alignment.SIMILARITIES
    taken = on_all_cores(lambda sample: trials.answers_of(
        methods, dict(zip(kinds, matrices_of(sample, kinds), strict=True))), samples, "samples by every method")
    rows = trials.of_methods(methods, samples, np.array(taken))
    console.say("", *trials.method_lines(rows))
    return rows


def try_controls(predictions, method, matrices_of):
    """Answer every sample without its order, print what is lost, and return trials.of_order of it."""
    samples = [prediction.sample for prediction in predictions]
    without = on_all_cores(lambda sample: trials.controls_of(
        sample.id, method, *matrices_of(sample, [method.similarity])), samples, "samples without order")
    rows = trials.of_order(samples, np.array([prediction.ranking[0] for prediction in predictions]), np.array(without))
    console.say("", *trials.order_lines(rows))
    return rows


def judge(predictions, method, args, matrices_of):
    """(predictions with what --calibrate and --reject make of them, lines about that, (threshold, origin) or None)."""
    threshold = None
    if args.calibrate:
        predictions = confidence.calibrate(predictions)
    if args.reject:
        samples = [prediction.sample for prediction in predictions]
        threshold = (chance_threshold(samples, method, matrices_of, args.scripts) if args.reject == "auto"
                     else (float(args.reject), "as --reject says"))
        predictions = confidence.reject(predictions, threshold[0])
    return predictions, confidence.lines(predictions, args.calibrate, *(threshold or ())), threshold


def smoothing_note(samples, video, texts, smooth):
    """What the smoothing window means for these clips: one line for the result."""
    windows = np.array([window_of(sample, video, texts, smooth) for sample in samples])
    phases = np.array([phase_length(sample, video, texts) for sample in samples])
    rates = [rate for rate in (video.frame_rate(sample.id) for sample in samples) if rate]
    seconds = f" ({np.median(windows) / np.median(rates):.2f} s)" if rates else ""
    frames = f"{windows[0]}" if np.ptp(windows) == 0 else f"{windows.min()} to {windows.max()}"
    window = "no smoothing" if windows.max() == 1 else f"smoothing window {frames} frames{seconds}"
    note = f"{window}, median phase T/M {np.median(phases):.1f} frames"
    if blurred := np.count_nonzero(windows > phases):
        note += f"; in {blurred} of {len(samples)} samples the window is longer than a phase and blurs it: see --smooth"
    return note


def rejection(text):
    """argparse type of --reject: "auto", or a z as it stands."""
    if text != "auto" and not abs(float(text)) < MOST_Z:
        raise ValueError(text)
    return text


def method_of(args):
    """The alignment.Method that the flags name. Raises InputError for the contrast of what has no order."""
    named = alignment.METHODS[args.method]
    name = named.alignment if args.alignment in (None, ALL) else args.alignment
    method = alignment.Method(name, args.similarity or named.similarity,
                              named.orders if args.contrast is None else args.contrast)
    if method.alignment == "unordered" and method.orders:
        raise console.InputError("--alignment unordered: ignores order, so that its contrast is always 0; give "
                                 "--contrast 0 with it")
    if args.scripts != FIRST and (args.alignment == ALL or args.controls):
        raise console.InputError(f"--scripts {args.scripts}: --alignment all and --controls look at one script; leave "
                                 "them or --scripts out")
    if method.alignment == "unordered" and (args.calibrate or args.reject or args.phases):
        raise console.InputError("--alignment unordered: has no path and no order to judge by; leave --calibrate, "
                                 "--reject and --phases out, or choose another")
    return method


def parse_args(argv=None):
    def names(table):
        return "; ".join(map(": ".join, table.items()))

    parser = console.parser(__doc__)
    add = parser.add_argument
    add("--subactions", required=True, help="generated_subactions.json")
    add("--video_embeddings", required=True, help="video_embeddings.npy")
    add("--subaction_embeddings", required=True, help="encoded_subactions.npy")
    add("--smooth", type=smoothing, default=1, metavar="WINDOW",
        help="window of the moving average over frame embeddings: frames; seconds as 0.5s; or auto, a third of each "
             "sample's phase T/M (default: %(default)s frame, none, as the published script runs)")
    add("--method", choices=alignment.METHODS, default="published",
        help="; ".join(f"{name}: {method}" for name, method in alignment.METHODS.items()) + ". The recommended one is "
             "better with weak encoders in drawn worlds, docs/evidence.md, and was never measured on real sport "
             "(default: %(default)s)")
    add("--alignment", choices=[*alignment.ALIGNMENTS, ALL], metavar="NAME",
        help=f"instead of the method's: {names(alignment.ALIGNMENTS)}; {ALL}: try every one with every similarity, "
             "with and without contrast, beside the method")
    add("--similarity", choices=alignment.SIMILARITIES, metavar="NAME",
        help=f"instead of the method's: {names(alignment.SIMILARITIES)}")
    add("--contrast", type=console.number(int, 0, MOST_ORDERS), nargs="?", const=alignment.ORDERS, metavar="N",
        help="instead of the method's: score by how much better the sub-actions align than in N random orders of "
             "them, or in all where these are no more (N: %(const)s; 0: no contrast)")
    add("--scripts", choices=SCRIPTS, default=FIRST,
        help="score an option that has several scripts by the first one, by the mean of their scores or by the best "
             "of them, and tell how much they disagree (default: %(default)s)")
    add("--controls", action="store_true",
        help="tell by domain what is lost when clips run backwards, when sub-actions are shuffled, and when order is "
             "ignored: what order is worth")
    add("--output", help="write scores, rankings and paths to this predictions.json, and its .csv twin")
    add("--videonet", metavar="JSON", help="write the answers to VideoNet's questions as its own evaluation does")
    add("--report", metavar="HTML", help="write a page that shows why each sample is answered as it is")
    add("--frames", metavar="NPY", help="processed_dataset.npy: pictures for --report and --figures")
    dataset.add_arguments(parser.add_argument_group(
        "instead of --frames, pictures from videos, as far as they are there; as in process_data.py"), "none")
    add("--compare", nargs="+", action="extend", default=[], metavar="JSON",
        help="predictions.json of other methods on the same samples, to compare with; the report shows the first one's "
             "disagreements")
    add("--report_limit", type=console.positive_int, default=report.MOST_SAMPLES, metavar="N",
        help="show the N most telling samples in --report (default: %(default)s)")
    add("--figures", metavar="DIR", help="draw figures of samples into this folder, as PNG and PDF")
    add("--samples", nargs="+", action="extend", metavar="ID",
        help="those of --report and --figures (default: the most telling ones)")
    add("--calibrate", action="store_true",
        help="fit confidences to the known answers, each sample's to those of other samples, so that of the answers "
             "told with 0.8 four of five are right")
    add("--reject", type=rejection, metavar="auto|Z",
        help="answer \"none of these\" where the best option's order scores less than Z standard deviations above "
             "chance orders; auto: what options that do not fit stay below in 19 of 20 samples")
    add("--phases", metavar="DIR", help="write the predicted options' phases into this folder")
    add("--phases_format", choices=exports.FORMATS, default="webvtt",
        help="subtitles, annotations for ELAN, FiftyOne's temporal detections, or a table (default: %(default)s)")
    add("--model", help="refuse embeddings of another checkpoint than this one")
    add("--scale_from", metavar="MODEL",
        help="take scale and bias from another checkpoint than the embeddings' own: the published script scores "
             "embeddings of siglip-so400m with those of siglip2-so400m")
    add_trust_argument(parser)
    console.add_device_argument(parser, "cpu")
    cluster.add_arguments(parser, "the alignment")
    args = parser.parse_args(argv)
    if args.frames and args.dataset:
        parser.error("--frames and --dataset: give one of them")
    return args


@console.script
def main(argv=None):
    args = parse_args(argv)
    method = method_of(args)
    if args.phases:
        exports.require_usable(args.phases)
    if args.videonet:
        videonet.require_usable(args.videonet)
    with report.outputs(args), predictions_output(args.output):
        video = artifacts.read_array(args.video_embeddings, "video_embeddings")
        texts = artifacts.read_array(args.subaction_embeddings, "subaction_embeddings")
        artifacts.require_same_checkpoint(video, texts)
        if args.model:
            artifacts.require_made_with(video, find_checkpoint(args.model, args.trust_pickle_weights))
        subactions = read_subactions(args.subactions)
        ids = {*video, *(of_sample.sample.id for of_sample in subactions)}
        artifacts.require_same_state(video, (of_sample.sample.record() for of_sample in subactions), args.subactions,
                                     "encode_videos.py and generate_subactions.py")
        samples, not_scored = join(subactions, video, texts)
        del subactions  # of 100,000 samples they take most of a gigabyte, and the index of `texts` holds them too
        settings = {"name": method.alignment, "similarity": method.similarity, "contrast": method.orders,
                    "smooth": args.smooth, **{flag: value for flag, value in vars(args).items()
                                              if flag in ("scale_from", "calibrate", "reject") and value},
                    **({"scripts": args.scripts} if args.scripts != FIRST else {})}
        compared = comparison.read_all_compared(args.compare, samples, settings)
        frames = report.open_pictures(args, video)
        report.require_samples(args.samples or (), samples, not_scored)
        matrices_of = matrices_by(args, video, texts)  # last of all, since it loads torch

        def phases_of(prediction):
            """The phases.records of each of a Prediction's K options."""
            times = video.timestamps(prediction.sample.id)
            borders = None if times is None else phases.borders_of(times)
            options = texts.item(prediction.sample.id)["options"]
            return [phases.records(of_option, option["texts"], borders)
                    for of_option, option in zip(prediction.phases, options, strict=False)]

        def options_of(prediction):
            return [option for script in scripts_of(texts.item(prediction.sample.id), args.scripts)
                    for option in script]

        stopwatch = console.Stopwatch()
        with_paths = bool(args.output or args.report or args.figures or args.phases)
        how = with_paths, bool(args.calibrate or args.reject), args.scripts
        predictions = (predict_on_ray(args, samples, method, *how) if args.ray and samples else
                       predict(samples, method, matrices_of, *how))
        notes, threshold = [], None
        if predictions:
            notes = [f"{method}; {smoothing_note(samples, video, texts, args.smooth)}; "
                     f"{stopwatch.rate(len(samples))} samples/s", *phases.lines(predictions, video),
                     *evaluation.script_lines(predictions, args.scripts),
                     *comparison.lines(settings, predictions, compared)]
        if predictions and predictions[0].order:
            predictions, more, threshold = judge(predictions, method, args, matrices_of)
            notes += more
        phases_of = phases_of if predictions and predictions[0].phases else None
        found = phases.found_counts(predictions, options_of) if phases_of else []
        notes += phases.found_lines(found)
        beside = {other.name: list(other.predictions.values()) for other in compared}
        sources = {"subactions": {"path": args.subactions, "fingerprint": files.fingerprint(args.subactions)},
                   "video_embeddings": video.source(), "subaction_embeddings": texts.source()}
        publish(args.output, comparison.method_name(settings), settings, sources, predictions, not_scored, ids, beside,
                notes, phases_of, found)
        if args.videonet:
            videonet.write_results(args.videonet, predictions)
        if args.phases:
            exports.export(Path(args.phases), args.phases_format, predictions, video, phases_of)
        tried = try_all(samples, method.orders or alignment.ORDERS, matrices_of) if args.alignment == ALL else []
        without_order = try_controls(predictions, method, matrices_of) if args.controls else []
        if args.report or args.figures:
            report.write(args, report.Run(
                settings, predictions, not_scored, video, texts, frames, compared,
                lambda sample: next(matrices_of(sample, [method.similarity]))[:len(sample.options)], tried,
                without_order, sources, threshold, found))


if __name__ == "__main__":
    raise SystemExit(main())

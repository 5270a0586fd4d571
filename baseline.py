"""Stage 5: the baseline that ignores time: the mean of a clip's frames against the names of its options.

Reads the index of processed_dataset.npy and video_embeddings.npy; prints accuracy, or predictions where no answers
are known; writes predictions.json when asked. The frames themselves are not needed.

    python baseline.py --input_dataset processed_dataset.npy --video_embeddings video_embeddings.npy --device cuda:0
"""

import actalign  # isort: skip  # noqa: F401 - before what takes long to load
import numpy as np

from actalign import artifacts, console
from actalign.checkpoint import add_trust_argument, find_checkpoint
from actalign.evaluation import Prediction
from actalign.predictions import predictions_output, publish
from actalign.sentences import LABEL_TEMPLATE, template_with, warnings_about
from actalign.subactions import SubActions

BATCH_SIZE = 32  # texts a forward pass


def mean_pool_scores(video, labels):
    """Cosine of the mean frame with each label: video (T, D), labels (K, D) -> (K,) float64, NaN where it has none."""
    rows = np.vstack([np.mean(video, axis=0, dtype=np.float64), *labels])
    with np.errstate(invalid="ignore"):
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows[1:] @ rows[0]


def predict(samples, video, labels, template):
    """One Prediction for each sample, from its frames in `video` and {sentence: embedding} `labels` of a template.

    Raises InputError if the frames of a sample cancel out.
    """
    predictions = []
    for sample in samples:
        sentences = [template.format(option=option, domain=sample.domain) for option in sample.options]
        texts = [labels[sentence] for sentence in sentences]  # K of (D,)
        scores = mean_pool_scores(video.embeddings(sample.id), texts)
        if not np.isfinite(scores).all():
            raise console.InputError(f"{video.path}: the frames of sample {sample.id} cancel out; leave that one out")
        predictions.append(Prediction(sample, scores))
    return predictions


def parse_args(argv=None):
    parser = console.parser(__doc__)
    parser.add_argument("--input_dataset", required=True, help="processed_dataset.npy; only its index is read")
    parser.add_argument("--video_embeddings", required=True, help="video_embeddings.npy")
    parser.add_argument("--model", help="SigLIP checkpoint (default: the one named in the video embeddings)")
    parser.add_argument("--output", help="write scores and rankings to this predictions.json, and a .csv beside it")
    parser.add_argument("--template", type=template_with("option", of=("option", "domain")), default=LABEL_TEMPLATE,
                        metavar="TEXT", help="the sentence that stands for an option, of {option} and, where it is "
                                             "wanted, {domain} (default: %(default)s)")
    add_trust_argument(parser)
    console.add_device_argument(parser)
    return parser.parse_args(argv)


@console.script
def main(argv=None):
    args = parse_args(argv)
    with predictions_output(args.output):
        samples, dataset, clips = artifacts.read_samples(args.input_dataset)
        video = artifacts.read_array(args.video_embeddings, "video_embeddings")
        device = console.pick_device(args.device)
        artifacts.require_checkpoint(video)
        name = args.model or video.meta.get("model")
        if not name:
            raise console.InputError(f"{video.path}: its index does not name the checkpoint; give it as --model")
        checkpoint = find_checkpoint(name, args.trust_pickle_weights)
        artifacts.require_made_with(video, checkpoint)
        artifacts.require_same_state(video, clips, args.input_dataset, "encode_videos.py")
        known = {sample.id for sample in samples}
        not_scored = {id: f"not in {video.path.name}" if id in known else "not in the dataset"
                      for id in sorted(known ^ set(video))}
        samples = [sample for sample in samples if sample.id in video]
        from actalign.siglip import load_siglip  # which loads torch

        encoder = load_siglip(checkpoint, device, BATCH_SIZE, video.meta.get("dtype", "float32"))
        names = [SubActions(sample, tuple((option,) for option in sample.options)) for sample in samples]
        for line in warnings_about(names, encoder.tokenizer, args.template, name, "labels"):
            console.log.warning(line)
        sentences = sorted({args.template.format(option=option, domain=sample.domain)
                            for sample in samples for option in sample.options})
        embeddings = console.progress(len(sentences), "labels", iterable=encoder.iter_texts(sentences))
        predictions = predict(samples, video, dict(zip(sentences, embeddings, strict=True)), args.template)
        sources = {"input_dataset": dataset, "video_embeddings": video.source()}
        method = {"name": "mean pool", "template": args.template}
        publish(args.output, method["name"], method, sources, predictions, not_scored, known | set(video))


if __name__ == "__main__":
    raise SystemExit(main())

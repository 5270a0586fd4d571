"""Stage 4: embed the sub-action texts with SigLIP's text encoder.

Reads generated_subactions.json, writes encoded_subactions.npy: float32 (sub-actions of all options of all samples, D),
not normalised. A sentence that occurs more than once is encoded once.

    python encode_subactions.py --subactions generated_subactions.json --output encoded_subactions.npy --device cuda:0
"""

import actalign  # isort: skip  # noqa: F401 - before what takes long to load
import numpy as np

from actalign import artifacts, console
from actalign.artifacts import shards
from actalign.artifacts.writer import ArrayWriter
from actalign.checkpoint import add_encoder_arguments, find_checkpoint, resolve_dtype
from actalign.sentences import SUBACTION_TEMPLATE, sentence_of, sentences_of, template_with, warnings_about
from actalign.subactions import is_of, options_of, read_subactions

KIND = "subaction_embeddings"
BATCH_SIZE = 256  # texts a forward pass on CUDA
BATCH_SIZE_ELSEWHERE = 32


def encode_subactions(subactions, writer, encoder, template, known):
    """Embed the sub-actions of samples that `writer` does not hold yet; returns how many sentences that took.

    subactions  list of SubActions with at least one option that has sub-actions    writer  ArrayWriter
    encoder  Siglip    known  {sentence: (D,) embedding} of what need not be encoded; others are added
    """
    unknown = [sentence for sentence in distinct_sentences(subactions, template) if sentence not in known]
    embeddings = iter(console.progress(len(unknown), "texts", iterable=encoder.iter_texts(unknown)))
    for of_sample in subactions:
        for sentence in distinct_sentences([of_sample], template):
            if sentence not in known:
                known[sentence] = next(embeddings)  # which come in this order
        rows = [known[sentence] for script in of_sample.scripts for of_option in sentences_of(script, template)
                for sentence in of_option]
        writer.append(of_sample.sample.id, np.stack(rows), **options_of(of_sample, writer.row_count))
    return len(unknown)


def distinct_sentences(subactions, template):
    """The sentences of a list of SubActions, each once, in order."""
    return list(dict.fromkeys(sentence for of_sample in subactions for script in of_sample.scripts
                              for of_option in sentences_of(script, template) for sentence in of_option))


def earlier_sentences(writer, template):
    """{sentence: (D,) embedding} of what an ArrayWriter holds, as far as its items tell the domain.

    Raises InputError if its rows are not as written.
    """
    known = {}
    for item in writer.items.values():
        rows, domain = writer.read(item["start"], item["stop"]), item.get("domain")
        artifacts.require_checksum(writer, item, artifacts.Checksum(rows))
        options = [*item["options"], *item.get("more_options", ())]
        for option in options if domain is not None or template == SUBACTION_TEMPLATE else ():
            of_option = rows[option["start"] - item["start"]:option["stop"] - item["start"]]
            name = option["key"].removesuffix(f" in {domain}")
            known.update(zip((sentence_of(template, text, name, domain) for text in option["texts"]), of_option,
                             strict=True))
    return known


def parse_args(argv=None):
    parser = console.parser(__doc__)
    parser.add_argument("--subactions", required=True, help="generated_subactions.json")
    parser.add_argument("--output", required=True, help="where the embeddings go, a .npy file")
    parser.add_argument("--template", type=template_with("subaction", of=("subaction", "option", "domain")),
                        default=SUBACTION_TEMPLATE, metavar="TEXT",
                        help="the sentence that is encoded for a sub-action, of {subaction} and, where they are "
                             "wanted, {option} and {domain} (default: %(default)s)")
    shards.add_argument(parser)
    add_encoder_arguments(parser, f"texts at once; auto is {BATCH_SIZE} on CUDA, {BATCH_SIZE_ELSEWHERE} elsewhere")
    return parser.parse_args(argv)


@console.script
def main(argv=None):
    args = parse_args(argv)
    console.require_folder_of(args.output)
    subactions = read_subactions(args.subactions)
    device = console.pick_device(args.device)
    checkpoint = find_checkpoint(args.model, args.trust_pickle_weights)
    dtype = resolve_dtype(args.dtype, device, checkpoint)
    batch_size = args.batch_size or (BATCH_SIZE if device.type == "cuda" else BATCH_SIZE_ELSEWHERE)
    settings = {**checkpoint.settings(dtype), "template": args.template}
    share, notes = shards.share(args, [of_sample.sample.id for of_sample in subactions])
    subactions = [of_sample for of_sample in subactions if of_sample.sample.id in share]
    wanted = {of_sample.sample.id: of_sample for of_sample in subactions if any(of_sample.texts)}
    encoded = 0
    with ArrayWriter(args.output, KIND, settings, {"model": args.model, **notes}, args.overwrite) as writer:
        again = {id for id, item in writer.items.items()
                 if id in wanted and not is_of(item, wanted[id])}
        known = earlier_sentences(writer, args.template) if again or wanted.keys() - writer.items.keys() else {}
        writer.follow({id: {"domain": of_sample.sample.domain, **share[id]} for id, of_sample in wanted.items()}, again)
        kept = len(writer.items)
        for of_sample in subactions:
            if not any(of_sample.texts):
                writer.missing.add(of_sample.sample.id, "no option has sub-actions", retry=False)
        todo = [of_sample for id, of_sample in wanted.items() if id not in writer]
        if todo:
            from actalign.siglip import load_siglip

            encoder = load_siglip(checkpoint, device, batch_size, dtype)
            scripts = [script for of_sample in todo for script in of_sample.scripts]
            for line in warnings_about(scripts, encoder.tokenizer, args.template, args.model):
                console.log.warning(line)
            encoded = encode_subactions(todo, writer, encoder, args.template, known)
        new, rows = len(writer.items) - kept, writer.row_count
    if lacking := [of_sample.sample.id for of_sample in subactions if of_sample.lacking]:
        console.say(f"{len(lacking)} samples lack sub-actions of at least one option and cannot be scored "
                    f"({console.some_of(lacking)}); run generate_subactions.py again")
    console.say(f"{new} samples encoded ({encoded} texts on {device}), {kept} were there; {rows} rows -> {args.output}")
    if not kept + new and not args.shard:
        raise console.StageError("no sample has sub-actions; nothing was written")


if __name__ == "__main__":
    raise SystemExit(main())

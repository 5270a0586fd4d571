"""Stage 4: embed the sub-action texts with SigLIP's text encoder.

Reads generated_subactions.json, writes encoded_subactions.npy: float32 (sub-actions of all options of all samples, D),
not normalised. A text that occurs more than once is encoded once.

    python encode_subactions.py --subactions generated_subactions.json --output encoded_subactions.npy --device cuda:0
"""

import contextlib
import functools

import numpy as np

from actalign import artifacts, console
from actalign.artifacts.writer import ArrayWriter
from actalign.checkpoint import add_encoder_arguments, find_checkpoint, resolve_dtype
from actalign.subactions import options_of, read_subactions

KIND = "subaction_embeddings"
BATCH_SIZE = 256  # texts a forward pass on CUDA
BATCH_SIZE_ELSEWHERE = 32


def encode_subactions(subactions, writer, encoder, known):
    """Embed the sub-actions of samples that `writer` does not hold yet; returns how many texts that took.

    subactions  list of SubActions with at least one option that has sub-actions    writer  ArrayWriter
    encoder  Siglip    known  {text: (D,) embedding} of what need not be encoded; others are added
    """
    unknown = [text for text in distinct_texts(subactions) if text not in known]
    embeddings = iter(console.progress(len(unknown), "texts", iterable=encoder.iter_texts(unknown)))
    for of_sample in subactions:
        for text in distinct_texts([of_sample]):
            if text not in known:
                known[text] = next(embeddings)  # which come in this order
        rows = [known[text] for texts in of_sample.texts for text in texts]
        writer.append(of_sample.sample.id, np.stack(rows), options=options_of(of_sample, writer.row_count))
    return len(unknown)


def distinct_texts(subactions):
    """The texts of a list of SubActions, each once, in order."""
    return list(dict.fromkeys(text for of_sample in subactions for texts in of_sample.texts for text in texts))


def earlier_texts(writer):
    """{text: (D,) embedding} of what an ArrayWriter holds. Raises InputError if its rows are not as written."""
    known = {}
    for item in writer.items.values():
        rows = writer.read(item["start"], item["stop"])
        artifacts.require_checksum(writer, item, artifacts.Checksum(rows))
        texts = [text for option in item["options"] for text in option["texts"]]
        known.update(zip(texts, rows, strict=True))
    return known


def parse_args(argv=None):
    parser = console.parser(__doc__)
    parser.add_argument("--subactions", required=True, help="generated_subactions.json")
    parser.add_argument("--output", required=True, help="where the embeddings go, a .npy file")
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
    open_output = functools.partial(ArrayWriter, args.output, KIND, checkpoint.settings(dtype), {"model": args.model})
    encoded = 0
    with contextlib.ExitStack() as stack:
        writer = stack.enter_context(open_output(overwrite=args.overwrite))
        changed = [of_sample.sample.id for of_sample in subactions if (item := writer.items.get(of_sample.sample.id))
                   and item["options"] != options_of(of_sample, item["start"])]
        lacks_some = any(of_sample.sample.id not in writer for of_sample in subactions)
        known = earlier_texts(writer) if changed or lacks_some else {}
        if changed:
            console.log.info(f"sub-actions of {len(changed)} samples have changed; texts encoded before are kept")
            stack.close()  # which finishes what an earlier run left, so that none of it is lost
            writer = stack.enter_context(open_output(overwrite=True))
        kept = len(writer.items)
        for of_sample in subactions:
            if not any(of_sample.texts):
                writer.missing.add(of_sample.sample.id, "no option has sub-actions", retry=False)
        todo = [of_sample for of_sample in subactions if of_sample.sample.id not in writer and any(of_sample.texts)]
        if todo:
            from actalign.siglip import load_siglip

            encoder = load_siglip(checkpoint, device, batch_size, dtype)
            if long := encoder.tokenizer.too_long(sorted(distinct_texts(todo))):
                console.log.warning(f"{len(long)} sub-actions are longer than the checkpoint reads and are cut, "
                                    f"such as {long[0]!r}")
            encoded = encode_subactions(todo, writer, encoder, known)
        done, rows = len(writer.items) - kept, writer.row_count
    if lacking := [of_sample.sample.id for of_sample in subactions if of_sample.lacking]:
        print(f"{len(lacking)} samples lack sub-actions of at least one option and cannot be scored "
              f"({console.some_of(lacking)}); run generate_subactions.py again")
    print(f"{done} samples encoded ({encoded} texts on {device}), {kept} were there; {rows} rows -> {args.output}")
    if not kept + done:
        raise console.StageError("no sample has sub-actions; nothing was written")


if __name__ == "__main__":
    raise SystemExit(main())

"""Stage 4: embed the sub-action texts with SigLIP's text encoder.

Reads generated_subactions.json, writes encoded_subactions.npy: float32 (sub-actions of all options of all samples, D),
not normalised. A text that occurs more than once is encoded once.

    python encode_subactions.py --subactions generated_subactions.json --output encoded_subactions.npy --device cuda:0
"""

import argparse
import contextlib

import numpy as np

from actalign import artifacts, console
from actalign.artifacts.writer import ArrayWriter
from actalign.siglip import DTYPES, SO400M, add_trust_argument, find_checkpoint, load_siglip, resolve_dtype
from actalign.subactions import read_subactions

BATCH_SIZE = 256  # texts a forward pass on CUDA
BATCH_SIZE_ELSEWHERE = 32


class KnownTexts:
    """Where the embedding of each text that was encoded before can be read: (array with `read`, row, item).

    An item whose rows are asked for is checked once, so that none that was damaged gets into another item.
    """

    def __init__(self):
        self._rows = {}
        self._checked = set()

    def __contains__(self, text):
        return text in self._rows

    def __getitem__(self, text):
        source, row, item = self._rows[text]
        if (source, item["id"]) not in self._checked:
            artifacts.require_checksum(source, item, artifacts.Checksum(source.read(item["start"], item["stop"])))
            self._checked.add((source, item["id"]))
        return source.read(row, row + 1)[0]

    def add_item(self, item, source):
        """Learn the texts of one index entry."""
        rows = {key: item[key] for key in ("id", "start", "stop", "checksum")}
        for option in item["options"]:
            for text, row in zip(option["texts"], range(option["start"], option["stop"]), strict=True):
                self._rows.setdefault(text, (source, row, rows))


def encode_subactions(scripts, writer, encoder, known):
    """Embed the sub-actions of the samples that `writer` does not hold yet.

    scripts  list of SubActions with at least one option that has sub-actions    writer  ArrayWriter
    encoder  Siglip    known  KnownTexts
    Returns the number of texts that were encoded.
    """
    total = len({text for script in scripts for texts in script.texts for text in texts if text not in known})
    with console.progress(total, "texts") as bar:
        for group in _groups(scripts, known, encoder.batch_size):
            fresh = list(dict.fromkeys(text for script in group for texts in script.texts for text in texts
                                       if text not in known))
            embedded = {}
            for start in range(0, len(fresh), encoder.batch_size):
                batch = fresh[start:start + encoder.batch_size]
                embedded.update(zip(batch, encoder.encode_texts(batch), strict=True))  # (n, D)
                bar.update(len(batch))
            for script in group:
                rows = [embedded[text] if text in embedded else known[text]
                        for texts in script.texts for text in texts]
                options = option_ranges(script, writer)
                writer.append(script.sample.id, np.stack(rows), options=options)
            for script in group:
                known.add_item(writer.items[script.sample.id], writer)
    return total


def option_ranges(script, writer):
    """The index's list of options, with the rows that each will have when the sample is appended next."""
    options, start = [], writer.row_count
    for key, texts in zip(script.sample.keys, script.texts, strict=True):
        options.append({"key": key, "start": start, "stop": start + len(texts), "texts": list(texts)})
        start += len(texts)
    return [option for option in options if option["texts"]]


def _groups(scripts, known, batch_size):
    """Split the samples so that each group but the last has at least batch_size texts to encode."""
    group, fresh = [], set()
    for script in scripts:
        group.append(script)
        fresh.update(text for texts in script.texts for text in texts if text not in known)
        if len(fresh) >= batch_size:
            yield group
            group, fresh = [], set()
    if group:
        yield group


def is_stale(item, script):
    """Whether a sample was encoded from other sub-actions than it has now."""
    now = [(key, list(texts)) for key, texts in zip(script.sample.keys, script.texts, strict=True) if texts]
    return [(option["key"], option["texts"]) for option in item["options"]] != now


@contextlib.contextmanager
def open_writer(args, checkpoint, dtype, scripts, known):
    """The ArrayWriter of the output; it starts over, keeping known embeddings, if sub-actions have changed since."""
    settings, notes = checkpoint.settings(dtype), {"model": args.model}
    current = {script.sample.id: script for script in scripts}
    with ArrayWriter(args.output, "subaction_embeddings", settings, notes, args.overwrite) as writer:
        stale = [id for id, item in writer.items.items() if id in current and is_stale(item, current[id])]
        if not stale:
            for item in writer.items.values():
                known.add_item(item, writer)
            yield writer
            return
    console.log.info(f"sub-actions of {len(stale)} samples have changed, {stale[0]} for one; texts that were encoded "
                     "before are kept")
    finished = artifacts.read_array(args.output, "subaction_embeddings")
    for item in finished.items:
        known.add_item(item, finished)
    with ArrayWriter(args.output, "subaction_embeddings", settings, notes, overwrite=True) as writer:
        yield writer


def parse_args(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0], formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="example:\n  python encode_subactions.py --subactions generated_subactions.json "
               "--output encoded_subactions.npy --device cuda:0")
    parser.add_argument("--subactions", required=True, help="generated_subactions.json")
    parser.add_argument("--output", required=True, help="where the embeddings go, a .npy file")
    parser.add_argument("--model", default=SO400M,
                        help="SigLIP checkpoint, the one of encode_videos.py (default: %(default)s)")
    parser.add_argument("--batch_size", type=console.positive_int,
                        help=f"texts a forward pass (default: {BATCH_SIZE} on CUDA, {BATCH_SIZE_ELSEWHERE} elsewhere)")
    parser.add_argument("--dtype", choices=DTYPES, default="auto",
                        help="of the forward pass; auto is bfloat16 on CUDA, and for large models on a CPU made for "
                             "it, else float32 (default: %(default)s)")
    add_trust_argument(parser)
    console.add_device_argument(parser)
    console.add_overwrite_argument(parser)
    return parser.parse_args(argv)


@console.script
def main(argv=None):
    args = parse_args(argv)
    console.require_folder_of(args.output)
    scripts = read_subactions(args.subactions)
    device = console.pick_device(args.device)
    checkpoint = find_checkpoint(args.model, args.trust_pickle_weights)
    dtype = resolve_dtype(args.dtype, device, checkpoint)
    batch_size = args.batch_size or (BATCH_SIZE if device.type == "cuda" else BATCH_SIZE_ELSEWHERE)
    known, encoded = KnownTexts(), 0
    with open_writer(args, checkpoint, dtype, scripts, known) as writer:
        kept = len(writer.items)
        todo = [script for script in scripts if script.sample.id not in writer and any(script.texts)]
        for script in scripts:
            if not any(script.texts):
                writer.missing.add(script.sample.id, "no option has sub-actions", retry=False)
        if todo:
            encoder = load_siglip(checkpoint, device, batch_size, dtype)
            texts = {text for script in todo for texts in script.texts for text in texts}
            long = encoder.tokenizer.too_long(sorted(texts))
            if long:
                console.log.warning(f"{len(long)} sub-actions are longer than the checkpoint reads and are cut, for "
                                    f"one {long[0]!r}")
            encoded = encode_subactions(todo, writer, encoder, known)
        done, rows = len(writer.items) - kept, writer.row_count
    lacking = [script.sample.id for script in scripts if script.lacking]
    if lacking:
        print(f"{len(lacking)} samples lack sub-actions of at least one option and cannot be scored "
              f"({console.some_of(lacking)}); run generate_subactions.py again")
    print(f"{done} samples encoded ({encoded} texts on {device}), {kept} were there already; {rows} rows "
          f"-> {args.output}")
    if not kept + done:
        raise console.StageError("no sample has sub-actions; nothing was written")


if __name__ == "__main__":
    raise SystemExit(main())

"""generated_subactions.json: the ordered sub-actions of every option of every sample."""

from dataclasses import dataclass

from actalign.console import InputError
from actalign.dataset import Sample, repeated_id, sample_from_record
from actalign.files import read_json


@dataclass(frozen=True)
class SubActions:
    """What the options of one sample consist of: K tuples of ordered sub-actions, empty where there are none."""

    sample: Sample
    texts: tuple[tuple[str, ...], ...]

    @property
    def lacking(self):
        """The options without sub-actions."""
        return [option for option, texts in zip(self.sample.options, self.texts, strict=True) if not texts]

    @property
    def known(self):
        """{option: sub-actions} of the others."""
        return {option: texts for option, texts in zip(self.sample.options, self.texts, strict=True) if texts}


def read_subactions(path):
    """The SubActions of every sample of a generated_subactions.json, in its order.

    Raises InputError if the file is no list of samples with options, an option's sub-actions are no list of texts, or
    ids repeat.
    """
    entries, found, seen = read_json(path, "list of samples with sub-actions"), [], set()
    for entry in entries if isinstance(entries, list) else ():
        scripts = subactions_from_entry(entry, path)
        if scripts.sample.id in seen:
            raise repeated_id(scripts.sample.id, path)
        seen.add(scripts.sample.id)
        found.append(scripts)
    if not seen:
        raise InputError(f"{path}: is no list of samples; give the output of generate_subactions.py")
    return found


def subactions_from_entry(entry, source):
    """The SubActions of one entry of the file; `source` names the file in errors."""
    sample = sample_from_record(entry, source)
    by_key = entry.get("subactions")
    if by_key is not None and not isinstance(by_key, dict):
        raise InputError(f"{source}: subactions of sample {sample.id} are no object of option and list; mend them")
    exact = by_key or {}  # for options that differ by nothing but case and white space
    folded = {folded_key(key): texts for key, texts in exact.items()}
    texts = tuple(_checked(exact.get(key, folded.get(folded_key(key))), key, sample, source) for key in sample.keys)
    return SubActions(sample, texts)


def entry_of(scripts):
    """The entry of the file for one SubActions; options without sub-actions are left out."""
    subactions = {key: list(texts) for key, texts in zip(scripts.sample.keys, scripts.texts, strict=True) if texts}
    return {**scripts.sample.record(), "subactions": subactions}


def folded_key(key):
    """A key as it is compared: without regard to case and white space."""
    return " ".join(key.split()).casefold()


def _checked(texts, key, sample, source):
    if texts is None:
        return ()
    if not isinstance(texts, list) or not all(isinstance(text, str) and text.strip() for text in texts):
        raise InputError(f"{source}: sub-actions of {key!r} in sample {sample.id} are no list of texts; "
                         "mend them, or take the option out and run generate_subactions.py again")
    return tuple(texts)

"""generated_subactions.json: the ordered sub-actions of every option of every sample, and the file while it grows."""

from dataclasses import dataclass
from pathlib import Path

from actalign.artifacts import MissingItems
from actalign.console import InputError
from actalign.dataset import Sample, require_unique_ids, sample_from_record
from actalign.files import Journal, read_json, write_json


@dataclass(frozen=True, slots=True)
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

    def entry(self):
        """The sample's entry of the file; options without sub-actions are left out."""
        of_keys = zip(self.sample.keys, self.texts, strict=True)
        return {**self.sample.record(), "subactions": {key: list(texts) for key, texts in of_keys if texts}}


def read_subactions(path):
    """The SubActions of every sample of a generated_subactions.json, as a list.

    Raises InputError if the file is no list of samples with options, an option's sub-actions are no list of texts, or
    ids repeat.
    """
    return [of_sample for of_sample, _ in _read(path)]


def _read(path):
    """[(SubActions, entry)] of a generated_subactions.json."""
    entries = read_json(path, "list of samples with sub-actions")
    if not isinstance(entries, list) or not entries:
        raise InputError(f"{path}: is no list of samples; give an output of generate_subactions.py")
    pairs = [(subactions_from_entry(entry, path), entry) for entry in entries]
    require_unique_ids([of_sample.sample for of_sample, _ in pairs], path)
    return pairs


def subactions_from_entry(entry, source, sample=None):
    """The SubActions of one entry of the file, for the options of `sample`, by default the entry's own.

    Raises InputError, which names the file by `source`, if they are no lists of texts.
    """
    sample = sample or sample_from_record(entry, source)
    by_key = entry.get("subactions") or {}
    if not isinstance(by_key, dict):
        raise InputError(f"{source}: subactions of sample {sample.id} are no object of option and list; mend them")
    folded = {folded_key(key): texts for key, texts in by_key.items()}
    texts = [by_key.get(key, folded.get(folded_key(key))) or [] for key in sample.keys]
    for key, of_key in zip(sample.keys, texts, strict=True):
        if not isinstance(of_key, list) or not all(isinstance(text, str) and text.strip() for text in of_key):
            raise InputError(f"{source}: sub-actions of {key!r} in sample {sample.id} are no list of texts; mend them")
    return SubActions(sample, tuple(map(tuple, texts)))


def folded_key(key):
    """A key as it is compared: without regard to case and white space."""
    return " ".join(key.split()).casefold()


class GeneratedFile:
    """generated_subactions.json while it grows: answers go to a journal one by one, the file is replaced at the end.

    It begins with what is in the file and in the journal of a run that was killed. One run at a time may have it: see
    `files.Lock`. generated_with: function from a Sample to what this run would record under that name.
    Raises InputError if the file is no such list, or has sub-actions from another model, temperature or prompt. Where
    it does not say, or no temperature was taken, they are taken as they are.
    """

    def __init__(self, path, generated_with):
        self.path = Path(path)
        self.missing = MissingItems(path)
        self._journal = Journal(self.path.with_name(self.path.name + ".partial"), "take that line out")
        self._entries = {}
        pairs = _read(self.path) if self.path.exists() else []
        pairs += [(subactions_from_entry(entry, self._journal.path), entry) for entry in self._journal.read()]
        for there, entry in pairs:
            self._entries[there.sample.id] = entry
            earlier = entry.get("generated_with")
            if there.known and isinstance(earlier, dict):
                for name, value in generated_with(there.sample).items():
                    if earlier.get(name, value) not in (value, None):
                        raise InputError(f"{path}: sample {there.sample.id} was generated with another {name}; run "
                                         "with the same settings or choose another --output")

    def subactions_of(self, sample):
        """The SubActions of a sample, without sub-actions if it is not there.

        Raises InputError if it is there with other options.
        """
        entry = self._entries.get(sample.id, sample.record())
        there = sample_from_record(entry, self.path)
        if sorted(map(folded_key, there.keys)) != sorted(map(folded_key, sample.keys)):
            raise InputError(f"{self.path}: sample {sample.id} is there with other options; choose another --output")
        return subactions_from_entry(entry, self.path, sample)

    def add(self, sample, texts, generated_with, problems):
        """Commit {option: phrases} of one sample, and {option: why it has none}. What it has already stays."""
        there = self.subactions_of(sample)
        known = {**texts, **there.known}
        subactions = SubActions(sample, tuple(known.get(option, ()) for option in sample.options))
        entry = {**self._entries.get(sample.id, {}), **subactions.entry()}
        if subactions != there:
            entry["generated_with"] = generated_with
        if entry != self._entries.get(sample.id):
            self._journal.append(entry)
            self._entries[sample.id] = entry
        if problems:
            self.missing.add(sample.id, "; ".join(f"{option}: {why}" for option, why in problems.items()), retry=True)
        elif not subactions.lacking:
            self.missing.drop(sample.id)

    def finish(self, order):
        """Replace the file by all entries: samples in `order` (ids) first, then what else it held."""
        self._journal.close()
        if self._journal.path.exists():
            ordered = {id: self._entries[id] for id in order if id in self._entries}
            write_json(self.path, list({**ordered, **self._entries}.values()), indent=True)
            self._journal.remove()

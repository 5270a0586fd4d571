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


def read_subactions(path):
    """The SubActions of every sample of a generated_subactions.json, as a list.

    Raises InputError if the file is no list of samples with options, an option's sub-actions are no list of texts, or
    ids repeat.
    """
    entries = read_json(path, "list of samples with sub-actions")
    if not isinstance(entries, list) or not entries:
        raise InputError(f"{path}: is no list of samples; give the output of generate_subactions.py")
    subactions = [subactions_from_entry(entry, path) for entry in entries]
    require_unique_ids([of_sample.sample for of_sample in subactions], path)
    return subactions


def subactions_from_entry(entry, source):
    """The SubActions of one entry of the file; `source` names the file in errors."""
    sample = sample_from_record(entry, source)
    return SubActions(sample, _texts_for(sample, entry, source))


def _texts_for(sample, entry, source):
    """K tuples: what an entry of the file holds for the options of a sample."""
    by_key = {} if entry.get("subactions") is None else entry["subactions"]
    if not isinstance(by_key, dict):
        raise InputError(f"{source}: subactions of sample {sample.id} are no object of option and list; mend them")
    keys = sample.keys
    if any(key not in by_key for key in keys):  # it lacks them, or spells them otherwise
        folded = {folded_key(key): texts for key, texts in by_key.items()}
        by_key = {key: by_key.get(key, folded.get(folded_key(key))) for key in keys}
    for key in keys:
        texts = by_key[key]
        if texts is not None and not (isinstance(texts, list) and set(map(type, texts)) <= {str}
                                      and all(map(str.strip, texts))):
            raise InputError(f"{source}: sub-actions of {key!r} in sample {sample.id} are no list of texts; "
                             "mend them, or take the option out and run generate_subactions.py again")
    return tuple(tuple(by_key[key] or ()) for key in keys)


def entry_of(subactions):
    """The entry of the file for one SubActions; options without sub-actions are left out."""
    sample = subactions.sample
    return {**sample.record(), "subactions": {key: list(texts) for key, texts in
                                              zip(sample.keys, subactions.texts, strict=True) if texts}}


def options_of(of_sample, start):
    """An index's list of the options of a SubActions that have any, with their rows, of which `start` is the first."""
    options = []
    for key, texts in zip(of_sample.sample.keys, of_sample.texts, strict=True):
        if texts:
            options.append({"key": key, "start": start, "stop": start + len(texts), "texts": list(texts)})
            start += len(texts)
    return options


def folded_key(key):
    """A key as it is compared: without regard to case and white space."""
    return " ".join(key.split()).casefold()


class GeneratedFile:
    """generated_subactions.json while it grows: answers go to a journal one by one, the file is replaced at the end.

    entries: {id: entry} of what is answered, from the file and from the journal of a run that was killed.
    One run at a time may have it: see `files.Lock`. settings_of: function from a Sample to what this run would record
    as "generated_with". Raises InputError if the file is there and is no such list, or has sub-actions from another
    model, temperature or prompt. Where it does not say, or no temperature was taken, they are taken as they are.
    """

    def __init__(self, path, settings_of):
        self.path = Path(path)
        self.entries = {}
        self.missing = MissingItems(path)
        self._settings_of = settings_of
        self._journal = Journal(self.path.with_name(self.path.name + ".partial"), "take that line out")
        entries = read_json(path, "list of samples") if self.path.exists() else []
        if not isinstance(entries, list):
            raise InputError(f"{path}: is there and is no list of samples; choose another --output")
        require_unique_ids([self._learn(entry, self.path) for entry in entries], path)
        for entry in self._journal.read():
            self._learn(entry, self._journal.path)

    def _learn(self, entry, source):
        there, earlier = subactions_from_entry(entry, source), entry.get("generated_with")
        if there.known and isinstance(earlier, dict):
            for name, value in self._settings_of(there.sample).items():
                if earlier.get(name, value) not in (value, None):
                    what = "another prompt" if name == "prompt" else f"{name} {earlier[name]}, this run has {value}"
                    raise InputError(f"{source}: sample {there.sample.id} was generated with {what}; run with the "
                                     "same settings or choose another --output")
        self.entries[there.sample.id] = entry
        return there.sample

    def subactions_of(self, sample):
        """The SubActions of a sample, without sub-actions if it is not there.

        Raises InputError if it is there with other options.
        """
        entry = self.entries.get(sample.id)
        if entry is None:
            return SubActions(sample, ((),) * len(sample.options))
        there = sample_from_record(entry, self.path)
        if sorted(map(folded_key, there.keys)) != sorted(map(folded_key, sample.keys)):
            raise InputError(f"{self.path}: sample {sample.id} is there with other options than in the dataset; move "
                             "the file away or choose another --output")
        return SubActions(sample, _texts_for(sample, entry, self.path))

    def add(self, sample, texts, generated_with):
        """Commit what is known of one sample: {option: phrases}. What it has already stays."""
        there = self.subactions_of(sample)
        known = {**texts, **there.known}
        subactions = SubActions(sample, tuple(known.get(option, ()) for option in sample.options))
        entry = {**self.entries.get(sample.id, {}), **entry_of(subactions)}
        if subactions.texts != there.texts:
            entry["generated_with"] = generated_with
        if entry != self.entries.get(sample.id):
            self._journal.append(entry)
            self.entries[sample.id] = entry
        if not subactions.lacking:
            self.missing.drop(sample.id)

    def finish(self, order):
        """Replace the file by all entries: samples in `order` (ids) first, then what else it held."""
        self._journal.close()
        if self._journal.path.exists():
            ordered = {id: self.entries[id] for id in order if id in self.entries}
            write_json(self.path, list({**ordered, **self.entries}.values()), indent=True)
            self._journal.remove()

"""Stage 3: ask a language model for the ordered sub-actions of every option of every sample.

Reads the index of processed_dataset.npy, writes generated_subactions.json. To change the prompt, edit
generate_prompt(). What the output holds already is not asked again.

    python generate_subactions.py --input processed_dataset.npy --output generated_subactions.json --temp 0.2
"""

import argparse
import contextlib
import itertools
import json
import os
import re
import unicodedata
from collections import defaultdict
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from pathlib import Path

from actalign import artifacts, console, files
from actalign.dataset import require_unique_ids, sample_from_record
from actalign.language_model import LanguageModel, NoAnswer
from actalign.subactions import Scripts, entry_of, read_scripts, scripts_from_entry

MODEL = "gpt-5.4-mini"
TEMPERATURE = 0.2  # the published setting
MIN_SUBACTIONS = 10  # phrases an option
MOST_SUBACTIONS = 60  # phrases an option; a model that gives more repeats itself without end
LONGEST_PHRASE = 400  # characters; SigLIP reads 64 tokens, about 250 characters of English
ATTEMPTS = 3  # questions about one option before its sample is recorded as failed
WORKERS = 4  # requests in flight
MOST_BRACKETS = 50  # where JSON is looked for in a reply; every look can cost as much as the reply is long
CHARACTERS_A_TOKEN = 4  # of English, for estimates

# The answer's form for servers that can hold a model to it. A list, because strict schemas allow no names as keys.
SCHEMA = {
    "type": "object", "additionalProperties": False, "required": ["actions"],
    "properties": {"actions": {"type": "array", "items": {
        "type": "object", "additionalProperties": False, "required": ["action", "subactions"],
        "properties": {"action": {"type": "string"}, "subactions": {"type": "array", "items": {"type": "string"}}}}}},
}


def generate_prompt(options, domain):
    """The question about some of a sample's options. Edit at will, but keep the JSON that the answer is asked for."""
    listed = "\n".join(f"- {option}" for option in options)
    return f"""\
You know {domain} well enough to coach it. A silent video shows one of these {domain} actions:
{listed}

Describe how each of them unfolds, so that a viewer who sees one frame at a time could tell them apart.
For every action, list at least {MIN_SUBACTIONS} sub-actions in the order in which they happen, from the set-up to the
follow-through. Each sub-action is one short phrase (at most 15 words) that says what is to be seen at that moment:
posture, limbs, equipment, direction, and other people where they matter. Name {domain} in the phrase where it would
be unclear otherwise. Do not repeat a phrase, do not number the phrases, and do not use the action's own name in them.
Dwell on the moments in which the listed actions differ.

{ANSWER_FORM}"""


def generate_short_prompt(options, domain):
    """The ablation: no context and no advice, only the question."""
    listed = "\n".join(f"- {option}" for option in options)
    return f"""\
List at least {MIN_SUBACTIONS} sub-actions of each of these {domain} actions, in order:
{listed}

{ANSWER_FORM}"""


ANSWER_FORM = """\
Answer with JSON and nothing else, one entry for every action, named exactly as above:
{"actions": [{"action": "name of the action", "subactions": ["first phrase", "second phrase"]}]}"""

# Looked up by name when asked, so that an edited or replaced generate_prompt() is the one that is used.
PROMPTS = {"context": "generate_prompt", "short": "generate_short_prompt"}


def make_prompt(name, options, domain):
    """The text of the prompt called `name`."""
    return globals()[PROMPTS[name]](list(options), domain)


# Replies


def parse_reply(text, options, domain, min_subactions=MIN_SUBACTIONS):
    """What a model's reply says of each of `options`.

    Accepts the JSON that the prompts ask for, or one that maps names to lists, alone or among other words. Names are
    matched without regard to case, spaces, quotes and "in <domain>", never by position.
    Returns (texts, problems): {option: tuple of phrases} of the good ones and {option: what is wrong} of the others.
    """
    lists = _lists_by_name(text, domain)
    if lists is None:
        return {}, dict.fromkeys(options, "the reply holds no JSON with lists of sub-actions")
    texts, problems = {}, {}
    for option in options:
        phrases = lists.get(_folded(option, domain))
        problem = f"the reply has no list for {option!r}" if phrases is None else None
        phrases = () if phrases is None else phrases
        if problem is None and not all(isinstance(phrase, str) for phrase in phrases):
            problem = f"the list for {option!r} holds something else than texts"
        if problem is None:
            phrases = [_clean(phrase) for phrase in phrases]
            problem = _problem_of(phrases, min_subactions)
        if problem is None:
            texts[option] = tuple(phrases)
        else:
            problems[option] = problem
    return texts, problems


def _problem_of(phrases, least):
    """Why a list of phrases cannot be used, or None."""
    distinct = {phrase.casefold() for phrase in phrases if phrase}
    if not all(phrases):
        return "an empty phrase"
    if len(distinct) < len(phrases):
        return f"{len(phrases) - len(distinct)} of {len(phrases)} phrases are repeated"
    if len(phrases) < least:
        return f"{len(phrases)} phrases, at least {least} are needed"
    if len(phrases) > MOST_SUBACTIONS:
        return f"{len(phrases)} phrases, at most {MOST_SUBACTIONS} make sense"
    if any(len(phrase) > LONGEST_PHRASE for phrase in phrases):
        return f"a phrase of more than {LONGEST_PHRASE} characters"
    return None


def _clean(phrase):
    """A phrase without its number, control characters and surplus white space."""
    visible = "".join(" " if unicodedata.category(character)[0] in "CZ" else character for character in phrase)
    return re.sub(r"^\s*(\d+[.)]|[-*•])\s+", "", " ".join(visible.split()))


def _lists_by_name(text, domain):
    """{folded name: list} of a reply's JSON, or None if it has none."""
    for match in itertools.islice(re.finditer(r"[{\[]", text), MOST_BRACKETS):
        try:
            value, _ = json.JSONDecoder().raw_decode(text, match.start())
        except (ValueError, RecursionError):
            continue
        lists = _lists_of(value)
        if lists:
            return {_folded(name, domain): phrases for name, phrases in lists.items()}
    return None


def _lists_of(value):
    """{name: list} of a JSON value: of [{"action", "subactions"}], of {name: list}, or of what wraps one of them."""
    if isinstance(value, list):
        return {entry["action"]: entry["subactions"] for entry in value
                if isinstance(entry, dict) and isinstance(entry.get("action"), str)
                and isinstance(entry.get("subactions"), list)}
    if not isinstance(value, dict):
        return {}
    for wrapped in value.values():
        if isinstance(wrapped, dict) or (isinstance(wrapped, list) and any(isinstance(e, dict) for e in wrapped)):
            lists = _lists_of(wrapped)
            if lists:
                return lists
    return {name: phrases for name, phrases in value.items() if isinstance(phrases, list)}


def _folded(name, domain):
    """A name as it is compared."""
    folded = " ".join(re.sub(r"[\"'`*_\u2018\u2019\u201c\u201d]", "", name).split()).casefold()  # quotes and emphasis
    ending = " in " + " ".join(domain.split()).casefold()
    return folded.removesuffix(ending) or folded


# Questions


class Question:
    """The options that some samples share, asked once. Samples with the same options in the same domain are one."""

    def __init__(self, samples, options, known):
        self.samples = samples
        self.options = options  # still to be asked
        self.known = known  # {option: phrases} of those that an earlier run got
        self.domain = samples[0].domain

    def ask(self, language_model, prompt, min_subactions, attempts):
        """Ask for the options, again for those that the reply leaves out or gets wrong, and say then what was wrong.

        Returns (texts, problems): {option: phrases}, and {option: reason} of those without.
        """
        texts, problems, options = dict(self.known), {}, list(self.options)
        messages = [{"role": "user", "content": make_prompt(prompt, options, self.domain)}]
        for _ in range(attempts):
            try:
                reply = language_model.ask(messages)
            except NoAnswer as error:
                return texts, dict.fromkeys(options, str(error))
            found, problems = parse_reply(reply, options, self.domain, min_subactions)
            texts |= found
            options = list(problems)
            if not options:
                break
            told = "\n".join(f"- {option}: {problem}" for option, problem in problems.items())
            messages = [{"role": "user", "content": make_prompt(prompt, options, self.domain)
                         + f"\n\nAn earlier answer could not be used:\n{told}"}]
        return texts, problems


def collect_questions(samples, generated):
    """The Questions that are left: samples whose options do not all have sub-actions yet.

    Raises InputError if an entry with a sample's id has other options.
    """
    groups = defaultdict(list)
    for sample in samples:
        groups[sample.domain, frozenset(sample.options)].append(sample)
    questions = []
    for group in groups.values():
        known, todo = {}, []
        for sample in group:
            there = generated.scripts_of(sample)
            if there is None or there.lacking:
                todo.append(sample)
            if there is not None:
                known |= {option: texts for option, texts in zip(there.sample.options, there.texts, strict=True)
                          if texts}
        options = [option for option in dict.fromkeys(group[0].options) if option not in known]
        if todo:
            questions.append(Question(todo, options, known))
    return questions


def generate_subactions(questions, generated, language_model, settings):
    """Ask the questions and add each answer to `generated` as it comes; what fails goes to its missing items.

    settings: the parsed arguments. Returns the ids of the samples that failed.
    """
    failed = []

    def take(question, answer):
        texts, problems = answer
        for sample in question.samples:
            generated.add(sample, texts, generated_with(settings, sample))
            if problems:
                generated.missing.add(sample.id, "; ".join(f"{option}: {why}" for option, why in problems.items()),
                                      retry=True)
                failed.append(sample.id)

    total = sum(len(question.samples) for question in questions)
    asked = iter(question for question in questions if question.options)
    with console.progress(total, "samples") as bar:
        for question in questions:
            if not question.options:  # another sample has the same options, and they are known
                take(question, (question.known, {}))
                bar.update(len(question.samples))
        pool = ThreadPoolExecutor(settings.workers)
        waiting = {}
        try:
            while True:
                for question in asked:
                    waiting[pool.submit(question.ask, language_model, settings.prompt, settings.min_subactions,
                                        settings.attempts)] = question
                    if len(waiting) >= settings.workers:
                        break
                if not waiting:
                    break
                for future in wait(waiting, return_when=FIRST_COMPLETED).done:
                    question = waiting.pop(future)
                    take(question, future.result())
                    bar.update(len(question.samples))
        except console.StageError:
            for future, question in waiting.items():  # what is in flight is paid for
                with contextlib.suppress(console.StageError):
                    take(question, future.result())
            raise
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
            language_model.close()
    return failed


def generated_with(settings, sample):
    """What is recorded of how a sample's sub-actions came about."""
    return {"model": settings.model, "temperature": settings.temp, "prompt": make_prompt(
        settings.prompt, sample.options, sample.domain)}


class GeneratedFile:
    """generated_subactions.json while it grows: answers go to a journal one by one, the file is replaced at the end.

    entries: {id: entry} of what is answered, from the file and from the journal of a run that was killed.
    Raises InputError if the file is there and is no such list, or another run writes it.
    """

    def __init__(self, path):
        self.path = Path(path)
        self.entries = {}
        self._journal = files.Journal(self.path.with_name(self.path.name + ".partial"))
        self._hold = files.Hold(path)
        try:
            entries = files.read_json(path, "list of samples") if self.path.exists() else []
            if not isinstance(entries, list):
                raise console.InputError(f"{path}: is there and is no list of samples; choose another --output")
            for entry in [*entries, *self._journal.read()]:
                self.entries[scripts_from_entry(entry, self.path).sample.id] = entry
            self.missing = artifacts.MissingItems(path)
        except BaseException:
            self._hold.release()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._hold.release()

    def scripts_of(self, sample):
        """The Scripts that are there for a sample, or None. Raises InputError if its options are others."""
        entry = self.entries.get(sample.id)
        if entry is None:
            return None
        there = scripts_from_entry(entry, self.path)
        if sorted(there.sample.keys) != sorted(sample.keys):
            raise console.InputError(f"{self.path}: sample {sample.id} is there with other options than in the "
                                     "dataset; move the file away or choose another --output")
        return there

    def require_same_settings(self, settings, samples):
        """Raise InputError if a sample's sub-actions came from another model, temperature or prompt.

        Files that do not say are taken as they are.
        """
        for sample in samples:
            earlier = self.entries.get(sample.id, {}).get("generated_with")
            for name, value in generated_with(settings, sample).items() if isinstance(earlier, dict) else ():
                if earlier.get(name, value) != value:
                    what = "another prompt" if name == "prompt" else f"{name} {earlier[name]}, this run has {value}"
                    raise console.InputError(f"{self.path}: sample {sample.id} was generated with {what}; run with "
                                             "the same settings or choose another --output")

    def add(self, sample, texts, generated_with):
        """Commit what is known of one sample: {option: phrases}."""
        scripts = Scripts(sample, tuple(texts.get(option, ()) for option in sample.options))
        entry = {**self.entries.get(sample.id, {}), **entry_of(scripts), "generated_with": generated_with}
        self._journal.append(entry)
        self.entries[sample.id] = entry
        if not scripts.lacking:
            self.missing.drop(sample.id)

    def finish(self, order):
        """Replace the file by all entries: samples in `order` (ids) first, then what else it held."""
        self._journal.close()
        if self._journal.path.exists():
            ordered = {id: self.entries[id] for id in order if id in self.entries}
            files.write_json(self.path, list({**ordered, **self.entries}.values()), indent=1)
            self._journal.remove()


# Without a connection: what it would cost, a batch for half the price, a look at a file


def estimate(questions, settings):
    """Lines that tell what asking would take, and one full prompt. Yields them."""
    asked = [question for question in questions if question.options]
    prompts = [make_prompt(settings.prompt, question.options, question.domain) for question in asked]
    answers = sum(len(question.options) for question in asked) * settings.min_subactions * 15  # tokens a phrase
    yield f"{len(asked)} requests for {sum(len(question.samples) for question in questions)} samples"
    yield (f"about {sum(map(len, prompts)) // CHARACTERS_A_TOKEN} tokens asked and {answers} tokens answered, if the "
           "first answers can be used")
    if prompts:
        yield f"\nthe first prompt:\n\n{prompts[0]}"


def write_batch(path, questions, settings):
    """Write the questions as a file for OpenAI's Batch API; the first sample's id is the custom_id of a request."""
    from actalign.language_model import Request

    if Path(path).exists():
        raise console.InputError(f"--batch {path}: is there already; remove it or choose another name")
    request = Request(settings.model, settings.temp, SCHEMA, settings.max_tokens)
    with files.replacing(path) as file:
        for question in questions:
            messages = [{"role": "user", "content": make_prompt(settings.prompt, question.options, question.domain)}]
            file.write(json.dumps({"custom_id": question.samples[0].id, "method": "POST",
                                   "url": "/v1/chat/completions", "body": request.body(messages)},
                                  ensure_ascii=False) + "\n")


def read_batch(path, questions, generated, settings):
    """Take the answers of a Batch result file by custom_id; returns the ids of the samples that failed."""
    by_id = {question.samples[0].id: question for question in questions}
    failed = []
    for line in files.Journal(path).read():
        question = by_id.pop(line.get("custom_id"), None) if isinstance(line, dict) else None
        if question is None:
            continue
        try:
            reply = line["response"]["body"]["choices"][0]["message"]["content"] or ""
        except (KeyError, IndexError, TypeError):
            reply = ""
        texts, problems = parse_reply(reply, question.options, question.domain, settings.min_subactions)
        for sample in question.samples:
            generated.add(sample, question.known | texts, generated_with(settings, sample))
            if problems:
                generated.missing.add(sample.id, "; ".join(f"{option}: {why}" for option, why in problems.items()),
                                      retry=True)
                failed.append(sample.id)
    return failed


def check_file(path, text_model, min_subactions):
    """Lines about a generated_subactions.json: what is missing, repeated, or too long to be read whole. Yields them."""
    scripts = read_scripts(path)
    too_long, how = _length_check(text_model)
    count = 0
    for script in scripts:
        for option, texts in zip(script.sample.options, script.texts, strict=True):
            problems = [] if texts else ["no sub-actions"]
            repeated = len(texts) - len({text.casefold() for text in texts})
            if texts and len(texts) < min_subactions:
                problems.append(f"{len(texts)} sub-actions, fewer than {min_subactions}")
            if repeated:
                problems.append(f"{repeated} repeated")
            problems += [f"too long: {text!r}" for text in too_long(list(texts))]
            count += bool(problems)
            for problem in problems:
                yield f"{script.sample.id}, {option}: {problem}"
    options = sum(len(script.texts) for script in scripts)
    yield f"{len(scripts)} samples with {options} options; {count} options to look at ({how})"


def _length_check(text_model):
    """(function from texts to those that the text encoder cuts, how it was told)."""
    from actalign.siglip import load_tokenizer

    try:
        tokenizer = load_tokenizer(text_model)
    except console.InputError:
        return (lambda texts: [text for text in texts if len(text) > 64 * CHARACTERS_A_TOKEN],
                f"lengths estimated, {text_model} is not on this machine")
    return tokenizer.too_long, f"lengths by the tokenizer of {text_model}"


def parse_args(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0], formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="examples:\n  OPENAI_API_KEY=... python generate_subactions.py --input processed_dataset.npy "
               "--output generated_subactions.json --temp 0.2\n"
               "  python generate_subactions.py --check generated_subactions.json")
    parser.add_argument("--input", help="processed_dataset.npy; only its index is read")
    parser.add_argument("--output", help="generated_subactions.json")
    parser.add_argument("--apikey", help="key of the API; better in the environment as OPENAI_API_KEY")
    parser.add_argument("--temp", type=float, default=TEMPERATURE, help="temperature (default: %(default)s)")
    parser.add_argument("--model", default=MODEL, help="language model (default: %(default)s)")
    parser.add_argument("--base_url", help="another server that speaks the OpenAI protocol (vLLM, Ollama, llama.cpp)")
    parser.add_argument("--prompt", choices=PROMPTS, default="context",
                        help="short is the ablation without context (default: %(default)s)")
    parser.add_argument("--min_subactions", type=console.positive_int, default=MIN_SUBACTIONS,
                        help="phrases that an option needs at least (default: %(default)s)")
    parser.add_argument("--max_tokens", type=console.positive_int,
                        help="limit of one answer (default: the server's own)")
    parser.add_argument("--attempts", type=console.positive_int, default=ATTEMPTS,
                        help="questions about an option before its sample counts as failed (default: %(default)s)")
    parser.add_argument("--workers", type=console.positive_int, default=WORKERS,
                        help="requests in flight (default: %(default)s)")
    parser.add_argument("--dry_run", action="store_true", help="only say what would be asked and what it would take")
    parser.add_argument("--batch", metavar="FILE", help="write the requests for OpenAI's Batch API instead of asking")
    parser.add_argument("--batch_results", metavar="FILE", help="take the answers from a Batch result file")
    parser.add_argument("--check", metavar="FILE", help="only tell what is missing, repeated or too long in a file")
    parser.add_argument("--text_model", default="google/siglip-so400m-patch14-384",
                        help="SigLIP checkpoint whose tokenizer --check measures with (default: %(default)s)")
    args = parser.parse_args(argv)
    if not args.check and not (args.input and args.output):
        parser.error("--input and --output are needed")
    return args


@console.script
def main(argv=None):
    args = parse_args(argv)
    if args.check:
        print("\n".join(check_file(args.check, args.text_model, args.min_subactions)))
        return
    console.require_folder_of(args.output)
    index = artifacts.read_index(args.input, "frames")
    samples = [sample_from_record(item, artifacts.index_path(args.input)) for item in index["items"]]
    require_unique_ids(samples, args.input)
    with GeneratedFile(args.output) as generated:
        questions = collect_questions(samples, generated)
        generated.require_same_settings(args, samples)
        todo = sum(len(question.samples) for question in questions)
        if args.dry_run:
            print("\n".join(estimate(questions, args)))
            return
        if args.batch:
            write_batch(args.batch, [question for question in questions if question.options], args)
            print(f"{len(questions)} requests -> {args.batch}; have them answered, then run again with --batch_results")
            return
        failed, tokens = [], ""
        try:
            if args.batch_results:
                failed = read_batch(args.batch_results, questions, generated, args)
            elif todo:
                language_model = LanguageModel(args.model, args.temp, require_key(args, todo), SCHEMA, args.base_url,
                                               args.max_tokens)
                try:
                    failed = generate_subactions(questions, generated, language_model, args)
                finally:
                    tokens = (f"; {language_model.tokens_asked} tokens asked, {language_model.tokens_answered} "
                              "answered")
        finally:
            generated.finish([sample.id for sample in samples])
        left = sum(1 for sample in samples if sample.id not in generated.entries)
    if failed:
        print(f"{len(failed)} samples lack an option after {args.attempts} attempts ({console.some_of(failed)}); "
              f"{artifacts.missing_path(args.output)} says why, run again to ask again")
    print(f"{todo - len(failed) - left} samples generated, {len(samples) - todo} were there already, "
          f"{len(failed) + left} failed{tokens} -> {args.output}")
    if todo and len(failed) + left == len(samples):
        raise console.StageError("no sample got all its sub-actions")


def require_key(args, count):
    """The API key from --apikey or the environment; a local server needs none. Raises InputError if it is lacking."""
    key = args.apikey or os.environ.get("OPENAI_API_KEY") or ("none" if args.base_url else None)
    if key is None:
        raise console.InputError(f"no API key to ask for {count} samples; set OPENAI_API_KEY, or give --base_url of a "
                                 "local server")
    return key


if __name__ == "__main__":
    raise SystemExit(main())

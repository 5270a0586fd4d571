"""Stage 3: ask a language model for the ordered sub-actions of every option of every sample.

Reads the index of processed_dataset.npy, writes generated_subactions.json. To change the prompt, edit
generate_prompt(). What the output holds already is not asked again.

    python generate_subactions.py --input processed_dataset.npy --output generated_subactions.json --temp 0.2
"""

import argparse
import contextlib
import hashlib
import json
import os
import queue
import threading
import urllib.parse
from collections import defaultdict
from pathlib import Path

from actalign import artifacts, console, files
from actalign.dataset import require_unique_ids, sample_from_record
from actalign.language_model import TIMEOUT, LanguageModel, NoAnswer, Request, answer_part, text_of_answer
from actalign.replies import MIN_SUBACTIONS, MOST_SUBACTIONS, bare, parse_reply
from actalign.subactions import SubActions, entry_of, folded_key, read_subactions, subactions_from_entry

MODEL = "gpt-5.4-mini"
TEMPERATURE = 0.2  # the published setting
ATTEMPTS = 3  # questions about one option before its sample is recorded as failed
WORKERS = 4  # requests in flight
CHARACTERS_A_TOKEN = 4  # of English, for estimates
TOKENS_A_PHRASE = 15

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


def make_prompt(settings, options, domain):
    """The text of the prompt that the parsed arguments choose."""
    prompt = globals()[PROMPTS[settings.prompt]](list(options), domain)
    if settings.min_subactions > MIN_SUBACTIONS:
        prompt += f"\n\nList at least {settings.min_subactions} sub-actions of every action."
    return prompt


# Questions


class Question:
    """The options that some samples share, asked once. Samples with the same options in the same domain are one.

    known     {option: phrases}, from earlier runs and growing with every reply
    options   those still to be asked
    problems  {option: why it has no phrases}, of those that were asked in vain
    """

    def __init__(self, samples, options, known):
        self.samples = samples
        self.domain = samples[0].domain
        self.known = known
        self.options = options
        self.problems = {}
        self._known_before = len(known)

    @property
    def has_grown(self):
        """Whether a reply has added to what is known."""
        return len(self.known) > self._known_before

    def prompt(self, settings):
        """The text to ask with: for the options that are left, with what was wrong with an earlier answer."""
        told = "\n".join(f"- {option}: {problem}" for option, problem in self.problems.items())
        return make_prompt(settings, self.options, self.domain) + (
            f"\n\nAn earlier answer could not be used:\n{told}" if told else "")

    def take(self, reply, min_subactions):
        """Learn from a reply; what it leaves out or gets wrong is still to be asked."""
        found, self.problems = parse_reply(reply, self.options, self.domain, min_subactions)
        self.known = {**self.known, **found}
        self.options = list(self.problems)

    def give_up(self, reason):
        """Record one reason for all options that are left."""
        self.problems = dict.fromkeys(self.options, reason)

    def ask(self, language_model, settings):
        """Ask until every option is known, at most `settings.attempts` times."""
        for _ in range(settings.attempts):
            try:
                reply = language_model.ask([{"role": "user", "content": self.prompt(settings)}])
            except NoAnswer as error:
                self.give_up(str(error))
                return
            self.take(reply, settings.min_subactions)
            if not self.options:
                return


def collect_questions(samples, generated):
    """The Questions that are left: samples whose options do not all have sub-actions yet.

    A question without options to ask is one whose options are all known from another sample.
    Raises InputError if an entry with a sample's id has other options.
    """
    groups = defaultdict(list)
    for sample in samples:
        groups[sample.domain, frozenset(sample.options)].append(sample)
    questions = []
    for group in groups.values():
        known, todo = {}, []
        for sample in group:
            there = generated.subactions_of(sample)
            if there.lacking:
                todo.append(sample)
            known |= there.known
        options = [option for option in dict.fromkeys(group[0].options) if option not in known]
        if todo:
            questions.append(Question(todo, options, known))
    return questions


def settle(question, generated, settings, temperature):
    """Commit what became of a question for each of its samples; what failed goes to the missing items."""
    for sample in question.samples:
        generated.add(sample, question.known, generated_with(settings, sample, temperature))
        if question.problems:
            generated.missing.add(sample.id, "; ".join(f"{option}: {why}" for option, why in question.problems.items()),
                                  retry=True)


def generate_subactions(questions, generated, language_model, settings):
    """Ask the questions, `settings.workers` at a time, and commit each answer before another question is asked.

    settings: the parsed arguments. Raises StageError if asking makes no sense any more; what is in flight then is
    waited for, since it is paid for. An interrupt keeps what has come and waits for nothing.
    """
    answered, uncommitted, in_flight = queue.SimpleQueue(), set(), 0

    def ask(question):
        error = None
        try:
            question.ask(language_model, settings)
        except BaseException as raised:  # to be raised in the main thread
            error = raised
        answered.put((question, error))

    def commit(question):
        settle(question, generated, settings, language_model.temperature)
        bar.update(len(question.samples))

    left = iter(questions)
    with console.progress(sum(len(question.samples) for question in questions), "samples") as bar:
        try:
            while True:
                while in_flight < settings.workers and (question := next(left, None)) is not None:
                    uncommitted.add(question)
                    in_flight += 1
                    # Of a pool, the interpreter would wait for every thread before it ends, however long it hangs.
                    threading.Thread(target=ask, args=(question,), daemon=True).start()
                if not in_flight:
                    break
                question, error = answered.get()
                in_flight -= 1
                if error is not None:
                    raise error
                uncommitted.remove(question)
                commit(question)
            language_model.close()
        except console.StageError:
            language_model.stop()
            while in_flight > len(language_model.pausing) or not answered.empty():
                with contextlib.suppress(queue.Empty):
                    answered.get(timeout=0.05)
                    in_flight -= 1
            raise
        finally:
            for question in uncommitted:
                if question.has_grown:
                    commit(question)


def generated_with(settings, sample, temperature):
    """What is recorded of how a sample's sub-actions came about; no temperature where the server takes none."""
    return {"model": settings.model, "temperature": temperature,
            "prompt": make_prompt(settings, sample.options, sample.domain)}


class GeneratedFile:
    """generated_subactions.json while it grows: answers go to a journal one by one, the file is replaced at the end.

    entries: {id: entry} of what is answered, from the file and from the journal of a run that was killed.
    Raises InputError if the file is there and is no such list, or another run writes it.
    """

    def __init__(self, path):
        self.path = Path(path)
        self.entries = {}
        self._journal = files.Journal(self.path.with_name(self.path.name + ".partial"), "take that line out")
        self._lock = files.Lock(path)
        try:
            entries = files.read_json(path, "list of samples") if self.path.exists() else []
            if not isinstance(entries, list):
                raise console.InputError(f"{path}: is there and is no list of samples; choose another --output")
            require_unique_ids([self._learn(entry, self.path) for entry in entries], path)
            for entry in self._journal.read():
                self._learn(entry, self._journal.path)
            self.missing = artifacts.MissingItems(path)
        except BaseException:
            self._lock.release()
            raise

    def _learn(self, entry, source):
        sample = subactions_from_entry(entry, source).sample
        self.entries[sample.id] = entry
        return sample

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._lock.release()

    def subactions_of(self, sample):
        """The SubActions of a sample, without sub-actions if it is not there.

        Raises InputError if it is there with other options.
        """
        entry = self.entries.get(sample.id)
        if entry is None:
            return SubActions(sample, ((),) * len(sample.options))
        there = subactions_from_entry(entry, self.path).sample
        if sorted(map(folded_key, there.keys)) != sorted(map(folded_key, sample.keys)):
            raise console.InputError(f"{self.path}: sample {sample.id} is there with other options than in the "
                                     "dataset; move the file away or choose another --output")
        return subactions_from_entry({**entry, **sample.record()}, self.path)

    def require_same_settings(self, settings):
        """Raise InputError if sub-actions came from another model, temperature or prompt.

        Files that do not say are taken as they are.
        """
        for id, entry in self.entries.items():
            earlier, there = entry.get("generated_with"), subactions_from_entry(entry, self.path)
            if not isinstance(earlier, dict) or not any(there.texts):
                continue
            for name, value in generated_with(settings, there.sample, settings.temp).items():
                if earlier.get(name, value) not in (value, None):  # a temperature of None: the server took none
                    what = "another prompt" if name == "prompt" else f"{name} {earlier[name]}, this run has {value}"
                    raise console.InputError(f"{self.path}: sample {id} was generated with {what}; run with "
                                             "the same settings or choose another --output")

    def add(self, sample, texts, generated_with):
        """Commit what is known of one sample: {option: phrases}. What it has already stays."""
        there = self.subactions_of(sample)
        scripts = SubActions(sample, tuple(there.known.get(option) or texts.get(option, ())
                                           for option in sample.options))
        entry = {**self.entries.get(sample.id, {}), **entry_of(scripts)}
        if scripts.texts != there.texts:
            entry["generated_with"] = generated_with
        if entry != self.entries.get(sample.id):
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
    prompts = [question.prompt(settings) for question in questions if question.options]
    answers = sum(len(question.options) for question in questions) * settings.min_subactions * TOKENS_A_PHRASE
    yield f"{len(prompts)} requests for {sum(len(question.samples) for question in questions)} samples"
    yield (f"about {sum(map(len, prompts)) // CHARACTERS_A_TOKEN} tokens asked and {answers} tokens answered, if the "
           "first answers can be used")
    if prompts:
        yield f"\nthe first prompt:\n\n{prompts[0]}"


def batch_id(sample, settings):
    """The custom_id of a request: the sample's id, and what tells apart other prompts, models and temperatures."""
    how = json.dumps(generated_with(settings, sample, settings.temp), sort_keys=True)
    return f"{sample.id}#{hashlib.blake2b(how.encode(), digest_size=4).hexdigest()}"


def write_batch(path, questions, settings):
    """Write the questions as a file for OpenAI's Batch API."""
    console.require_folder_of(path)
    if Path(path).exists():
        raise console.InputError(f"--batch {path}: is there already; remove it or choose another name")
    request = Request(settings.model, settings.temp, SCHEMA, settings.max_tokens)
    with files.replacing(path) as file:
        for question in questions:
            messages = [{"role": "user", "content": question.prompt(settings)}]
            file.write(json.dumps({"custom_id": batch_id(question.samples[0], settings), "method": "POST",
                                   "url": "/v1/chat/completions", "body": request.body(messages)}) + "\n")


def read_batch(path, questions, generated, settings):
    """Take the answers of a Batch result file, or of its error file, by custom_id.

    Raises InputError if it is no such file, or was asked with another prompt, model or temperature.
    """
    asked = {batch_id(sample, settings): question for question in questions for sample in question.samples}
    ids = {sample.id for question in questions for sample in question.samples}
    answered = {}
    for number, line in enumerate(files.read_json_lines(path, "Batch result file"), start=1):
        custom_id = answer_part(line, "custom_id")
        if not isinstance(custom_id, str):
            raise console.InputError(f"--batch_results {path}: line {number} has no custom_id; give the result file "
                                     "of a batch that --batch wrote")
        question = asked.get(custom_id)
        if question is None and custom_id.rpartition("#")[0] in ids:
            raise console.InputError(f"--batch_results {path}: {custom_id} was asked with another prompt, model or "
                                     "temperature; run with the same settings as --batch")
        if question is not None and question.options:
            answered[custom_id] = question
            _take_batch_answer(question, line, settings)
    for question in answered.values():
        settle(question, generated, settings, settings.temp)
    if questions and not answered:
        console.log.warning(f"{path} answers none of the questions that are left")


def _take_batch_answer(question, line, settings):
    status = answer_part(line, "response", "status_code")
    error = answer_part(line, "response", "body", "error") or answer_part(line, "error")
    if status == 200 and not error:
        try:
            question.take(text_of_answer(answer_part(line, "response", "body")), settings.min_subactions)
        except NoAnswer as refused:
            question.give_up(str(refused))
    elif answer_part(error, "param") == "temperature":
        question.give_up(f"the model does not take temperature {settings.temp}, try --temp 1")
    else:
        question.give_up(f"the batch has no answer (status {status if type(status) is int else 'unknown'})")


def check_file(path, text_model, min_subactions):
    """Lines about a generated_subactions.json: what is missing, repeated, or too long to be read whole. Yields them."""
    scripts = read_subactions(path)
    too_long, how = _length_check(text_model)
    count = 0
    for script in scripts:
        for option, texts in zip(script.sample.options, script.texts, strict=True):
            problems = [] if texts else ["no sub-actions"]
            repeated = len(texts) - len({bare(text) for text in texts})
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
    from actalign.checkpoint import load_tokenizer

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
    parser.add_argument("--temp", type=temperature, default=TEMPERATURE, help="temperature (default: %(default)s)")
    parser.add_argument("--model", default=MODEL, help="language model (default: %(default)s)")
    parser.add_argument("--base_url", help="another server that speaks the OpenAI protocol (vLLM, Ollama, llama.cpp)")
    parser.add_argument("--prompt", choices=PROMPTS, default="context",
                        help="short is the ablation without context (default: %(default)s)")
    parser.add_argument("--min_subactions", type=subaction_count, default=MIN_SUBACTIONS,
                        help="phrases that an option needs at least (default: %(default)s)")
    parser.add_argument("--max_tokens", type=console.positive_int,
                        help="limit of one answer (default: the server's own)")
    parser.add_argument("--attempts", type=console.positive_int, default=ATTEMPTS,
                        help="questions about an option before its sample counts as failed (default: %(default)s)")
    parser.add_argument("--timeout", type=console.positive_float, default=TIMEOUT,
                        help="seconds of silence before an answer is given up; slow local models need more "
                             "(default: %(default)s)")
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


def temperature(text):
    """argparse type: a finite number from 0 on."""
    value = float(text)
    if not 0 <= value < float("inf"):
        raise ValueError(text)
    return value


def subaction_count(text):
    """argparse type: a number of phrases that a reply may have."""
    value = console.positive_int(text)
    if value > MOST_SUBACTIONS:
        raise argparse.ArgumentTypeError(f"{value} is more than {MOST_SUBACTIONS}")
    return value


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
        generated.require_same_settings(args)
        todo = [sample for question in questions for sample in question.samples]
        asked = [question for question in questions if question.options]
        if args.dry_run:
            print("\n".join(estimate(questions, args)))
            return
        if args.batch and asked:
            write_batch(args.batch, asked, args)
            print(f"{len(asked)} requests -> {args.batch}; have them answered, then run again with --batch_results")
            return
        tokens = ""
        try:
            for question in questions:
                if not question.options:  # another sample has the same ones, and they are known
                    settle(question, generated, args, args.temp)
            if args.batch_results:
                read_batch(args.batch_results, asked, generated, args)
            elif asked:
                language_model = LanguageModel(args.model, args.temp, require_key(args, len(asked)), SCHEMA,
                                               require_address(args), args.max_tokens, args.timeout)
                generate_subactions(asked, generated, language_model, args)
                tokens = f"; {language_model.tokens_asked} tokens asked, {language_model.tokens_answered} answered"
        finally:
            generated.finish([sample.id for sample in samples])
        failed = [sample.id for sample in todo if generated.subactions_of(sample).lacking]
    if failed:
        print(f"{len(failed)} samples lack an option{'' if args.batch_results else f' after {args.attempts} attempts'} "
              f"({console.some_of(failed)}); {artifacts.missing_path(args.output)} says why, run again to ask again")
    print(f"{len(todo) - len(failed)} samples generated, {len(samples) - len(todo)} were there already, "
          f"{len(failed)} failed{tokens} -> {args.output}")
    if failed and len(failed) == len(samples):
        raise console.StageError("no sample got all its sub-actions")


def require_key(args, count):
    """The API key from --apikey or the environment; a local server needs none.

    Raises InputError if it is lacking, or cannot be sent: an HTTP library's own words on that quote it.
    """
    key = (args.apikey or os.environ.get("OPENAI_API_KEY") or "").strip() or ("none" if args.base_url else None)
    if key is None:
        raise console.InputError(f"no API key for {count} requests; set OPENAI_API_KEY, or give --base_url of a local "
                                 "server")
    if not (key.isascii() and key.isprintable() and " " not in key):
        raise console.InputError("the API key holds a space, a line break or a letter that no key has; copy it again")
    return key


def require_address(args):
    """The address of the server, None for OpenAI's own. Raises InputError if it is none."""
    address = args.base_url or os.environ.get("OPENAI_BASE_URL") or None
    try:
        parts = urllib.parse.urlsplit(address or "https://api.openai.com/v1")
        is_address = parts.scheme in ("http", "https") and parts.hostname and (parts.port is None or parts.port)
    except ValueError:
        is_address = False
    if not is_address:
        raise console.InputError("--base_url: is no address of a server; give one such as http://127.0.0.1:8000/v1")
    return address


if __name__ == "__main__":
    raise SystemExit(main())

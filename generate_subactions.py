"""Stage 3: ask a language model for the ordered sub-actions of every option of every sample.

Reads the index of processed_dataset.npy, writes generated_subactions.json. To change the prompt, edit
generate_prompt(). What the output holds already is not asked again.

    python generate_subactions.py --input processed_dataset.npy --output generated_subactions.json --temp 0.2
    python generate_subactions.py --check generated_subactions.json
"""

import hashlib
import json
import os
import queue
import re
import threading
import urllib.parse
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from actalign import artifacts, console, files, language_model
from actalign.language_model import NoAnswer, answer_part
from actalign.replies import MIN_SUBACTIONS, MOST_SUBACTIONS, parse_reply, problem_of
from actalign.subactions import GeneratedFile, read_subactions

MODEL = "gpt-5.4-mini"
TEMPERATURE = 0.2  # the published setting
TEXT_MODEL = "google/siglip-so400m-patch14-384"
ATTEMPTS = 3  # questions about one option before its sample is recorded as failed
WORKERS = 4  # requests in flight
CHARACTERS_A_TOKEN = 4  # of English, for estimates
TOKENS_A_PHRASE = 15
LONGEST_TEXT = 64 * CHARACTERS_A_TOKEN  # SigLIP reads 64 tokens


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

# The answer's form for servers that can hold a model to it. A list, because strict schemas allow no names as keys.
SCHEMA = {
    "type": "object", "additionalProperties": False, "required": ["actions"],
    "properties": {"actions": {"type": "array", "items": {
        "type": "object", "additionalProperties": False, "required": ["action", "subactions"],
        "properties": {"action": {"type": "string"}, "subactions": {"type": "array", "items": {"type": "string"}}}}}},
}


def make_prompt(settings, options, domain):
    """The text of the prompt that the parsed arguments choose."""
    make = generate_short_prompt if settings.prompt == "short" else generate_prompt
    prompt = make(list(options), domain)
    if settings.min_subactions > MIN_SUBACTIONS:
        prompt += f"\n\nList at least {settings.min_subactions} sub-actions of every action."
    return prompt


def generated_with(settings, sample, temperature):
    """What is recorded of how a sample's sub-actions came about; no temperature where the server takes none."""
    return {"model": settings.model, "temperature": temperature,
            "prompt": make_prompt(settings, sample.options, sample.domain)}


@dataclass(eq=False)
class Question:
    """The options that some samples share, asked once. Samples with the same options in the same domain are one.

    known  {option: phrases}, from earlier runs and growing with every reply
    """

    samples: list
    known: dict

    @property
    def options(self):
        """Those still to be asked, none if they are all known from other samples."""
        return [option for option in dict.fromkeys(self.samples[0].options) if option not in self.known]

    def prompt(self, settings, problems=None):
        """The text to ask with, which tells of the {option: problem} of an earlier answer."""
        told = "\n".join(f"- {option}: {problem}" for option, problem in (problems or {}).items())
        return make_prompt(settings, self.options, self.samples[0].domain) + (
            f"\n\nAn earlier answer could not be used:\n{told}" if told else "")

    def ask(self, answer, settings, attempts, commit):
        """Learn from the replies of `answer`, a function of a prompt, until every option is known or it has no answer.

        What a reply leaves out or gets wrong is asked again, `attempts` times in all. Every reply is committed, by
        commit(this question, {option: why it has no phrases}).
        """
        problems = {}
        while self.options and attempts:
            try:
                found, problems = parse_reply(answer(self.prompt(settings, problems)), self.options,
                                              self.samples[0].domain, settings.min_subactions)
                attempts -= 1
            except NoAnswer as error:
                found, problems, attempts = {}, dict.fromkeys(self.options, str(error)), 0
            self.known.update(found)
            commit(self, problems)


def collect_questions(samples, generated):
    """The Questions that are left: samples whose options do not all have sub-actions yet.

    Raises InputError if an entry with a sample's id has other options.
    """
    groups = defaultdict(list)
    for sample in samples:
        groups[sample.domain, frozenset(sample.options)].append(generated.subactions_of(sample))
    questions = [Question([of_sample.sample for of_sample in group if of_sample.lacking],
                          {option: texts for of_sample in group for option, texts in of_sample.known.items()})
                 for group in groups.values()]
    return [question for question in questions if question.samples]


def commit_answer(generated, settings, temperature, question, problems):
    """Commit what is known of a question's options for each of its samples, and why others have no phrases."""
    for sample in question.samples:
        generated.add(sample, question.known, generated_with(settings, sample, temperature), problems)


def generate_subactions(questions, generated, model, settings):
    """Ask the questions of a LanguageModel, `settings.workers` at a time. Each reply is committed before another asks.

    settings: the parsed arguments. Raises StageError if asking makes no sense any more; what is in flight then is
    waited for, since it is paid for. An interrupt keeps what has come and waits for nothing.
    """
    left, ended, committing = iter(questions), queue.SimpleQueue(), threading.Lock()

    def commit(question, problems):
        with committing:
            commit_answer(generated, settings, model.temperature, question, problems)

    def work():
        try:
            for question in left:  # of all threads: each question goes to one
                question.ask(model.ask, settings, settings.attempts, commit)
                bar.update(len(question.samples))
            ended.put(None)
        except BaseException as error:  # raised where they are waited for
            ended.put(error)

    # For threads of a pool the interpreter would wait, however long a request hangs.
    threads = [threading.Thread(target=work, daemon=True) for _ in range(min(settings.workers, len(questions)))]
    with console.progress(sum(len(question.samples) for question in questions), "samples") as bar:
        try:
            for thread in threads:
                thread.start()
            for _ in threads:
                if error := ended.get():
                    raise error
        except console.StageError:
            model.stopped.set()
            for thread in threads:
                thread.join()
            raise
        finally:
            committing.acquire()  # for good: after an interrupt, nobody writes beside what ends the run


def estimate(questions, settings):
    """Lines that tell what asking would take, and one full prompt. Yields them."""
    prompts = [question.prompt(settings) for question in questions]
    asked = sum(map(len, prompts)) // CHARACTERS_A_TOKEN
    answered = sum(len(question.options) for question in questions) * settings.min_subactions * TOKENS_A_PHRASE
    yield f"{len(prompts)} requests for {sum(len(question.samples) for question in questions)} samples"
    yield f"about {asked} tokens asked and {answered} tokens answered, if the first answers can be used"
    yield from (f"\nthe first prompt:\n\n{prompt}" for prompt in prompts[:1])


def write_batch(path, questions, settings):
    """Write the questions as a file for OpenAI's Batch API."""
    console.require_folder_of(path)
    if Path(path).exists():
        raise console.InputError(f"--batch {path}: is there already; remove it or choose another name")
    choices = language_model.request_choices(settings.temp, SCHEMA, settings.max_tokens)
    with files.replacing(path) as file:
        for question in questions:
            body = language_model.request_body(settings.model, question.prompt(settings), choices)
            file.write(json.dumps({"custom_id": batch_id(question.samples[0], settings), "method": "POST",
                                   "url": "/v1/chat/completions", "body": body}) + "\n")


def batch_id(sample, settings):
    """The custom_id of a request: the sample's id, and what tells apart other prompts, models and temperatures."""
    how = json.dumps(generated_with(settings, sample, settings.temp), sort_keys=True)
    return f"{sample.id}#{hashlib.blake2b(how.encode(), digest_size=4).hexdigest()}"


def read_batch(path, questions, generated, settings):
    """Take the answers of a Batch result file, or of its error file, by custom_id.

    Raises InputError if it is no such file, or was asked with another prompt, model or temperature.
    """
    asked = {batch_id(sample, settings): question for question in questions for sample in question.samples}
    ids = {custom_id.rpartition("#")[0] for custom_id in asked}
    answers = []
    for line in files.read_json_lines(path, "Batch result file"):
        custom_id = answer_part(line, "custom_id")
        if not isinstance(custom_id, str):
            raise console.InputError(f"--batch_results {path}: a line has no custom_id; give results of a --batch file")
        if custom_id in asked:
            answers.append((asked[custom_id], partial(batch_answer, line, settings.temp)))
        elif custom_id.rpartition("#")[0] in ids:
            raise console.InputError(f"--batch_results {path}: {custom_id} was asked with another prompt, model or "
                                     "temperature; run with the same settings as --batch")
    for question, answer in answers:
        question.ask(answer, settings, 1, partial(commit_answer, generated, settings, settings.temp))
    if questions and not answers:
        console.log.warning(f"{path} answers none of the questions that are left")


def batch_answer(line, temperature, _):
    """The text of an answer in a Batch result file. Raises NoAnswer if there is none."""
    status, answer = answer_part(line, "response", "status_code"), answer_part(line, "response", "body")
    error = answer_part(answer, "error") or answer_part(line, "error")
    if answer_part(error, "param") == "temperature":
        raise NoAnswer(f"the model does not take temperature {temperature}, try --temp 1")
    if status != 200 or error:
        raise NoAnswer(f"the batch has no answer (status {status or 'unknown'})")
    return language_model.text_of_answer(answer)


def check_file(path, text_model, min_subactions):
    """Lines about a generated_subactions.json: what is missing, repeated, or too long to be read whole. Yields them."""
    from actalign.checkpoint import load_tokenizer

    subactions = read_subactions(path)
    tokenizer, how = None, f"lengths estimated, {text_model} is not on this machine"
    with suppress(console.InputError):
        tokenizer, how = load_tokenizer(text_model), f"lengths by the tokenizer of {text_model}"
    options = flawed = 0
    for of_sample in subactions:
        for option, texts in zip(of_sample.sample.options, of_sample.texts, strict=True):
            cut = tokenizer.too_long(list(texts)) if tokenizer else [text for text in texts if len(text) > LONGEST_TEXT]
            problems = [f"too long: {text!r}" for text in cut]
            if problem := problem_of(texts, min_subactions):
                problems.append(problem)
            options, flawed = options + 1, flawed + bool(problems)
            yield from (f"{of_sample.sample.id}, {option}: {problem}" for problem in problems)
    yield f"{len(subactions)} samples with {options} options; {flawed} options to look at ({how})"


def parse_args(argv=None):
    parser = console.parser(__doc__)
    add, count = parser.add_argument, console.positive_int
    add("--input", help="processed_dataset.npy; only its index is read")
    add("--output", help="generated_subactions.json")
    add("--apikey", help="key of the API; better in the environment as OPENAI_API_KEY")
    add("--temp", type=float, default=TEMPERATURE, help="temperature (default: %(default)s)")
    add("--model", default=MODEL, help="language model (default: %(default)s)")
    add("--base_url", help="another server that speaks the OpenAI protocol (vLLM, Ollama, llama.cpp)")
    add("--prompt", choices=("context", "short"), default="context", help="short: the ablation without context")
    add("--min_subactions", type=count, default=MIN_SUBACTIONS, help="phrases an option needs (default: %(default)s)")
    add("--max_tokens", type=count, help="limit of one answer (default: the server's own)")
    add("--attempts", type=count, default=ATTEMPTS, help="questions about one option (default: %(default)s)")
    add("--timeout", type=console.positive_float, default=language_model.TIMEOUT,
        help="seconds of silence before an answer is given up; slow local models need more (default: %(default)s)")
    add("--workers", type=count, default=WORKERS, help="requests in flight (default: %(default)s)")
    add("--dry_run", action="store_true", help="only say what would be asked and what it would take")
    add("--batch", metavar="FILE", help="write the requests for OpenAI's Batch API instead of asking")
    add("--batch_results", metavar="FILE", help="take the answers from a Batch result file")
    add("--check", metavar="FILE", help="only tell what is missing, repeated or too long in a file")
    add("--text_model", default=TEXT_MODEL, help="checkpoint whose tokenizer --check takes (default: %(default)s)")
    args = parser.parse_args(argv)
    if not args.check and not (args.input and args.output):
        parser.error("--input and --output are needed")
    if not 0 <= args.temp < float("inf"):
        parser.error(f"--temp {args.temp}: a temperature is a number from 0 on")
    if args.min_subactions > MOST_SUBACTIONS:
        parser.error(f"--min_subactions {args.min_subactions}: is more than {MOST_SUBACTIONS}")
    return args


@console.script
def main(argv=None):
    args = parse_args(argv)
    if args.check:
        print("\n".join(check_file(args.check, args.text_model, args.min_subactions)))
        return
    console.require_folder_of(args.output)
    samples, _ = artifacts.read_samples(args.input)
    with files.Lock(args.output):
        generated = GeneratedFile(args.output, lambda sample: generated_with(args, sample, args.temp))
        questions = collect_questions(samples, generated)
        asked = [question for question in questions if question.options]
        if args.dry_run:
            print("\n".join(estimate(asked, args)))
        elif args.batch and asked:
            write_batch(args.batch, asked, args)
            print(f"{len(asked)} requests -> {args.batch}; have them answered, then run again with --batch_results")
        else:
            answer_questions(questions, asked, samples, generated, args)


def answer_questions(questions, asked, samples, generated, args):
    """Have those of the questions answered that are to be asked, and tell what became of the samples."""
    tokens = ""
    try:
        for question in questions:
            if not question.options:  # another sample has the same ones, and they are known
                commit_answer(generated, args, args.temp, question, {})
        if args.batch_results:
            read_batch(args.batch_results, asked, generated, args)
        elif asked:
            choices = language_model.request_choices(args.temp, SCHEMA, args.max_tokens)
            model = language_model.LanguageModel(args.model, choices, *server_of(args), args.timeout)
            generate_subactions(asked, generated, model, args)
            tokens = f"; {model.tokens_asked} tokens asked, {model.tokens_answered} answered"
    finally:
        generated.finish([sample.id for sample in samples])
    todo = sum(len(question.samples) for question in questions)
    failed = [sample.id for question in questions if question.options for sample in question.samples]
    if failed:
        print(f"{len(failed)} samples lack an option{'' if args.batch_results else f' after {args.attempts} attempts'} "
              f"({console.some_of(failed)}); {artifacts.missing_path(args.output)} says why, run again to ask again")
    print(f"{todo - len(failed)} samples generated, {len(samples) - todo} were there already, "
          f"{len(failed)} failed{tokens} -> {args.output}")
    if failed and len(failed) == len(samples):
        raise console.StageError("no sample got all its sub-actions")


def server_of(args):
    """(API key, address) of the server; an address of None is OpenAI's own, and a local one needs no key.

    Raises InputError if one is lacking, or cannot be used: an HTTP library's own words on that quote the key.
    """
    key = (args.apikey or os.environ.get("OPENAI_API_KEY", "")).strip()
    if not key and not args.base_url:
        raise console.InputError("no API key; set OPENAI_API_KEY, or give --base_url of a local server")
    if not re.fullmatch("[!-~]*", key):
        raise console.InputError("the API key holds a space, a line break or a letter that no key has; copy it again")
    address = args.base_url or os.environ.get("OPENAI_BASE_URL") or None
    with suppress(ValueError):
        parts = urllib.parse.urlsplit(address or "https://api.openai.com/v1")
        if parts.scheme in ("http", "https") and parts.hostname and parts.port != 0:
            return key or "none", address
    raise console.InputError("--base_url: is no address of a server; give one such as http://127.0.0.1:8000/v1")


if __name__ == "__main__":
    raise SystemExit(main())

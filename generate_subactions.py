"""Stage 3: ask a language model for the ordered sub-actions of every option of every sample.

Reads the index of processed_dataset.npy, writes generated_subactions.json. To change the prompt, edit
generate_prompt(). What the output holds already is not asked again; labels, options and domains follow the dataset.
Sub-actions of one's own (--subactions) stand in place of an answer.

    python generate_subactions.py --input processed_dataset.npy --output generated_subactions.json --temp 0.2
    python generate_subactions.py --check generated_subactions.json
"""

import actalign  # isort: skip  # noqa: F401 - before what takes long to load
import hashlib
import json
import os
import re
import threading
import urllib.parse
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from actalign import artifacts, console, files, language_model
from actalign.checkpoint import SO400M, load_tokenizer
from actalign.language_model import NoAnswer, answer_part
from actalign.own_subactions import OwnSubactions
from actalign.replies import MIN_SUBACTIONS, parse_reply, problem_of
from actalign.sentences import MULTILINGUAL, TOO_LONG, UNKNOWN, Flaws
from actalign.subactions import GeneratedFile, read_subactions

MODEL = "gpt-5.4-mini"
ATTEMPTS = 3  # questions about one option before its sample is recorded as failed
CHARACTERS_A_TOKEN, TOKENS_A_PHRASE = 4, 15  # of English, for estimates
MOST_UNUSABLE = 10  # samples in a row that gained nothing; more say that the prompt or the model is wrong
LONGEST_TEXT = 64 * CHARACTERS_A_TOKEN  # SigLIP reads 64 tokens


def generate_prompt(options, domain, min_subactions=MIN_SUBACTIONS):
    """The question about some of a sample's options. Edit at will, but keep the JSON that the answer is asked for."""
    listed = "\n".join(f"- {option}" for option in options)
    return f"""\
You know {domain} well enough to coach it. A silent video shows one of these {domain} actions:
{listed}

Describe how each of them unfolds, so that a viewer who sees one frame at a time could tell them apart.
For every action, list at least {min_subactions} sub-actions in the order in which they happen, from the set-up to the
follow-through. Each sub-action is one short phrase (at most 15 words) that says what is to be seen at that moment:
posture, limbs, equipment, direction, and other people where they matter. Name {domain} in the phrase where it would
be unclear otherwise. Do not repeat a phrase, do not number the phrases, and do not use the action's own name in them.
Dwell on the moments in which the listed actions differ.

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


def make_prompt(settings, sample, options, problems=None):
    """The prompt that the parsed arguments choose, and the {option: problem} of an earlier answer."""
    least = settings.min_subactions
    if settings.prompt == "short":  # the ablation: no context and no advice, only the question
        lines = [f"List at least {least} sub-actions of each of these {sample.domain} actions, in order:",
                 *(f"- {option}" for option in options), "", ANSWER_FORM]
    else:
        other = {} if least == MIN_SUBACTIONS else {"min_subactions": least}
        lines = [generate_prompt(list(options), sample.domain, **other)]
    if problems:
        lines += ["", "An earlier answer could not be used:"]
        lines += [f"- {option}: {problem}" for option, problem in problems.items()]
    return "\n".join(lines)


def generated_with(settings, sample):
    """What is recorded of how a sample's sub-actions come about."""
    prompt = make_prompt(settings, sample, sample.options)
    return {"model": settings.model, "temperature": settings.temp, "prompt": prompt}


@dataclass(eq=False)
class Question:
    """Samples with the same options in the same domain, asked for once; known: {option: phrases}, which grows."""

    samples: list
    known: dict

    @property
    def options(self):
        """Those still to be asked; none if other samples have all of them."""
        return [option for option in dict.fromkeys(self.samples[0].options) if option not in self.known]

    def prompt(self, settings, problems=None):
        """The text to ask with, given {option: what was wrong with an earlier answer}."""
        return make_prompt(settings, self.samples[0], self.options, problems)

    def ask(self, answer, settings, attempts):
        """Learn from what `answer`, a function of a prompt, gives until every option is known or it has no answer.

        Asks `attempts` times at most. Yields ({option: why it has no phrases}, what came that could not all be used)
        after each Answer.
        """
        told = {}  # what the model is told of its earlier answer
        while self.options and attempts:
            attempts -= 1
            try:
                reply = answer(self.prompt(settings, told))
            except NoAnswer as error:
                yield dict.fromkeys(self.options, str(error)), ""
                return
            first = self.samples[0]
            found, told = parse_reply(reply.text, first.options, first.domain, settings.min_subactions)
            told = {option: problem for option, problem in told.items() if option not in self.known}
            problems = {option: "; ".join(filter(None, [reply.text and problem, reply.flaw]))
                        for option, problem in told.items()}
            told = told if reply.text else {}
            self.known.update({**found, **self.known})
            yield problems, (reply.text or reply.raw) if problems else ""


def collect_questions(samples, generated):
    """The Questions that are left."""
    groups = defaultdict(list)
    for sample in samples:
        groups[sample.domain, frozenset(sample.options)].append(generated.subactions_of(sample))
    questions = [Question([of_sample.sample for of_sample in group if of_sample.lacking],
                          {option: texts for of_sample in group for option, texts in of_sample.known.items()})
                 for group in groups.values()]
    return [question for question in questions if question.samples]


def generate_subactions(questions, generated, model, settings):
    """Ask the questions of a LanguageModel, `settings.workers` at a time. Each reply is committed before another asks.

    settings: the parsed arguments. Raises what went wrong first, StageError if asking makes no sense any more, as after
    MOST_UNUSABLE samples in a row that gained nothing; what is in flight then is waited for, since it is paid for. An
    interrupt keeps what has come and waits for nothing.
    """
    left, errors, committing = iter(questions), [], threading.Lock()
    in_a_row = []  # samples whose questions gained nothing

    def work():
        try:
            for question in left:  # of all threads: each question goes to one
                asked = question.options
                for problems, said in question.ask(model.ask, settings, settings.attempts):
                    with committing:
                        generated.add(question.samples, question.known, problems, model.temperature)
                        generated.keep_reply(question.samples, problems, said)
                bar.update(len(question.samples))
                with committing:
                    in_a_row[:] = [*in_a_row, question.samples[0].id] if question.options == asked else []
                    if len(in_a_row) >= MOST_UNUSABLE:  # asking on would cost as much for as little
                        raise console.StageError(
                            f"what came for {len(in_a_row)} samples in a row could not be used ({in_a_row[-1]}: "
                            f"{generated.reasons[in_a_row[-1]]}){generated.where_replies_are}; change the prompt or "
                            "--model and run again")
        except BaseException as error:  # raised below, when the others have ended
            errors.append(error)
            model.stopped.set()

    # For threads of a pool the interpreter would wait, however long a request hangs.
    threads = [threading.Thread(target=work, daemon=True) for _ in range(min(settings.workers, len(questions)))]
    with console.progress(sum(len(question.samples) for question in questions), "samples") as bar:
        try:
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        finally:
            committing.acquire()  # for good: after an interrupt, nobody writes beside what ends the run
    if errors:
        raise errors[0]


def estimate(questions, settings):
    """What asking would take if the first answers can be used, and one full prompt, as lines."""
    prompts = [question.prompt(settings) for question in questions]
    asked = sum(map(len, prompts)) // CHARACTERS_A_TOKEN
    answered = sum(len(question.options) for question in questions) * settings.min_subactions * TOKENS_A_PHRASE
    return [f"{len(prompts)} requests for {sum(len(question.samples) for question in questions)} samples",
            f"about {asked} tokens asked and {answered} tokens answered", "", *"\n".join(prompts[:1]).splitlines()]


def write_batch(path, questions, settings):
    """Write the questions as a file for OpenAI's Batch API."""
    console.require_folder_of(path)
    if os.path.exists(path):
        raise console.InputError(f"--batch {path}: is there already; remove it or choose another name")
    choices = language_model.request_choices(settings.temp, SCHEMA, settings.max_tokens)
    with files.Lock(path), files.replacing(path) as file:
        for question in questions:
            body = language_model.request_body(settings.model, question.prompt(settings), choices)
            file.write(json.dumps({"custom_id": batch_id(question.samples[0], settings), "method": "POST",
                                   "url": "/v1/chat/completions", "body": body}) + "\n")


def batch_id(sample, settings):
    """The custom_id of a request: the sample's id, and what tells apart other prompts, models and temperatures."""
    how = json.dumps(generated_with(settings, sample), sort_keys=True)
    return f"{sample.id}#{hashlib.blake2b(how.encode(), digest_size=4).hexdigest()}"


def read_batch(path, questions, generated, settings):
    """Take the answers of a Batch result or error file by custom_id. Raises InputError if it answers no question."""
    asked = {batch_id(sample, settings): question for question in questions for sample in question.samples}
    is_used = False
    for line in files.read_json(path, "Batch result file", lines=True):
        if question := asked.get(str(answer_part(line, "custom_id"))):
            is_used = True
            for problems, said in question.ask(partial(batch_answer, line, settings), settings, attempts=1):
                generated.add(question.samples, question.known, problems, settings.temp)
                generated.keep_reply(question.samples, problems, said)
    if questions and not is_used:
        raise console.InputError(f"--batch_results {path}: answers none of the questions that are left; give the "
                                 "results of --batch, and the same settings")


def batch_answer(line, settings, _):
    """The Answer in a line of a Batch result file. Raises NoAnswer if there is none."""
    line = language_model.without_key(line, api_key(settings))
    status, answer = answer_part(line, "response", "status_code"), answer_part(line, "response", "body")
    error = answer_part(answer, "error") or answer_part(line, "error")
    if answer_part(error, "param") == "temperature":
        raise NoAnswer(f"the model does not take temperature {settings.temp}, try --temp 1")
    if status != 200 or error:
        said = language_model.words_of(error or answer)[:language_model.MOST_WORDS]
        raise NoAnswer(f"the batch has no answer (status {status or 'unknown'}): {said}")
    return language_model.read_answer(answer)


def check_file(path, text_model, min_subactions):
    """Lines about a generated_subactions.json: what is missing, repeated, or too long to be read whole. Yields them."""
    subactions, flaws, options, flawed, unknown = read_subactions(path), None, 0, 0, 0
    with suppress(console.InputError):
        flaws = Flaws(load_tokenizer(text_model))
    for of_sample in subactions:
        found = flaws.of(of_sample) if flaws else [[(TOO_LONG, text) for text in texts if len(text) > LONGEST_TEXT]
                                                   for texts in of_sample.texts]
        for option, texts, of_option in zip(of_sample.sample.options, of_sample.texts, found, strict=True):
            problems = [f"{kind}: {text!r}" for kind, text in of_option]
            unknown += any(kind == UNKNOWN for kind, _ in of_option)
            if problem := problem_of(texts, min_subactions):
                problems.append(problem)
            options, flawed = options + 1, flawed + bool(problems)
            yield from (f"{of_sample.sample.id}, {option}: {problem}" for problem in problems)
    if unknown:
        yield (f"{unknown} options have texts that the tokenizer of {text_model} does not know; take a multilingual "
               f"checkpoint for frames and texts, such as {MULTILINGUAL}")
    how = "by the tokenizer of" if flaws else "estimated without"
    yield f"{len(subactions)} samples with {options} options; {flawed} options to look at (lengths {how} {text_model})"


def parse_args(argv=None):
    parser = console.parser(__doc__)
    add, count = parser.add_argument, console.positive_int
    add("--input", help="processed_dataset.npy; only its index is read")
    add("--output", help="generated_subactions.json")
    add("--subactions", metavar="FILE", help="sub-actions of your own: an option's name on a line, its phases indented "
                                             "below it, or JSON; only what it lacks is asked for")
    add("--apikey", help="key of the API; better in the environment as OPENAI_API_KEY")
    add("--temp", type=console.temperature, default=0.2, help="temperature (default: %(default)s, the published one)")
    add("--model", default=MODEL, help="language model (default: %(default)s)")
    add("--base_url", default=os.environ.get("OPENAI_BASE_URL"), help="another server that speaks OpenAI's protocol")
    add("--prompt", choices=("context", "short"), default="context", help="short: the ablation without context")
    add("--min_subactions", type=count, default=MIN_SUBACTIONS, help="phrases an option needs (default: %(default)s)")
    add("--max_tokens", type=count, help="limit of one answer (default: the server's own)")
    add("--attempts", type=count, default=ATTEMPTS, help="questions about one option (default: %(default)s)")
    add("--timeout", type=console.seconds, default=120, help="s to wait for an answer (default: %(default)s)")
    add("--workers", type=console.workers, default=4, help="requests in flight (default: %(default)s)")
    add("--limit", type=count, help="ask only so many questions, such as 3 to try a prompt")
    console.add_overwrite_argument(parser)
    add("--dry_run", action="store_true", help="only say what would be asked and what it would take")
    add("--batch", metavar="FILE", help="write the requests for OpenAI's Batch API instead of asking")
    add("--batch_results", metavar="FILE", help="take the answers from a Batch result file")
    add("--check", metavar="FILE", help="only tell what is missing, repeated or too long in a file")
    add("--text_model", default=SO400M, help="checkpoint whose tokenizer --check takes")
    args = parser.parse_args(argv)
    if not args.check and not (args.input and args.output):
        parser.error("--input and --output are needed")
    return args


@console.script
def main(argv=None):
    args = parse_args(argv)
    if args.check:
        console.say(*check_file(args.check, args.text_model, args.min_subactions))
        return
    console.require_folder_of(args.output)
    samples, *_ = artifacts.read_samples(args.input)
    own = OwnSubactions(args.subactions) if args.subactions else None
    with files.Lock(args.output):
        generated = GeneratedFile(args.output, partial(generated_with, args), args.overwrite)
        generated.follow(samples)
        if own:
            own.require_used(samples)
            console.say(f"{generated.take(samples, own)} samples take their sub-actions from {args.subactions}")
        questions = collect_questions(samples, generated)
        asked = [question for question in questions if question.options][:args.limit]
        if args.dry_run:
            console.say(*estimate(asked, args))
        elif args.batch and asked:
            write_batch(args.batch, asked, args)
            console.say(f"{len(asked)} requests -> {args.batch}; have them answered and run again with --batch_results")
        else:
            answer_questions(questions, asked, samples, generated, args)


def answer_questions(questions, asked, samples, generated, args):
    """Have those of the questions answered that are to be asked, and tell what became of the samples."""
    tokens, is_done = "", False
    known = [question for question in questions if not question.options]  # other samples have the same options
    try:
        for question in known:
            generated.add(question.samples, question.known, {}, args.temp)
        if args.batch_results:
            read_batch(args.batch_results, asked, generated, args)
        elif asked:
            choices = language_model.request_choices(args.temp, SCHEMA, args.max_tokens)
            model = language_model.LanguageModel(args.model, choices, *server_of(args), args.timeout)
            generate_subactions(asked, generated, model, args)
            tokens = f"; {model.tokens_asked} tokens asked, {model.tokens_answered} answered"
        is_done = True
    finally:
        generated.finish([sample.id for sample in samples], is_done)
    todo, left = (sum(len(question.samples) for question in group) for group in (known + asked, questions))
    left -= todo
    failed = [sample.id for question in asked if question.options for sample in question.samples]
    why = (f" ({console.some_of(failed)}; {generated.missing.path} says why{generated.where_replies_are}, run again to "
           "ask again)") if failed else ""
    console.say(f"{todo - len(failed)} samples generated, {len(samples) - todo - left} were there already, "
                f"{len(failed)} failed{why}{f', {left} left' if left else ''}{tokens} -> {args.output}")
    if 0 < len(failed) == len(samples) - left:
        raise console.StageError(f"no sample got all its sub-actions ({failed[0]}: "
                                 f"{generated.reasons.get(failed[0], 'it was not answered')})")


def api_key(args):
    """The key for the server, "" if there is none."""
    return (args.apikey or os.environ.get("OPENAI_API_KEY", "")).strip()


def server_of(args):
    """(API key, address) of the server. Raises InputError if one cannot be used: HTTP libraries' own words quote it."""
    key = api_key(args)
    if not key and not (args.base_url or "").strip():
        raise console.InputError("no API key; set OPENAI_API_KEY or give --base_url of a local server, or write "
                                 "the sub-actions yourself: --subactions FILE")
    if not re.fullmatch("[!-~]*", key):
        raise console.InputError("the API key holds a space, a line break or a letter that no key has; copy it again")
    address = (args.base_url or "").strip() or language_model.OPENAI
    with suppress(ValueError, AttributeError):
        parts = urllib.parse.urlsplit(address)
        if (re.fullmatch("[!-~]+", address) and parts.scheme in ("http", "https") and parts.port != 0
                and parts.hostname.encode("idna")):  # UnicodeError is a ValueError
            return key or "none", parts._replace(path=parts.path.removesuffix("/chat/completions")).geturl()
    raise console.InputError("--base_url or OPENAI_BASE_URL: is no address of a server; give one such as "
                             "http://127.0.0.1:8000/v1")


if __name__ == "__main__":
    raise SystemExit(main())

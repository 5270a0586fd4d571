"""Stage 3: ask a language model for the ordered sub-actions of every option of every sample.

Reads the index of processed_dataset.npy, writes generated_subactions.json. To change the prompt, edit
generate_prompt(). Samples that the output holds already are not asked again.

    python generate_subactions.py --input processed_dataset.npy --output generated_subactions.json --temp 0.2
"""

import argparse
import json
import os
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from pathlib import Path

from actalign import artifacts, console, files
from actalign.dataset import require_unique_ids, sample_from_record
from actalign.subactions import Scripts, entry_of, scripts_from_entry

MODEL = "gpt-5.4-mini"
TEMPERATURE = 0.2  # the published setting
MIN_SUBACTIONS = 10  # that the prompt asks for, for each option
ATTEMPTS = 3  # questions about one sample before it is recorded as failed
TRIES = 6  # of one request that meets a rate limit, a lost connection or a server error
WORKERS = 4  # requests in flight
TIMEOUT = 120  # s for one answer


def generate_prompt(options, domain):
    """The question about one sample: its K candidate actions, and the domain they belong to. Edit at will.

    The answer must stay a JSON object that maps every action's name to its list of sub-actions.
    """
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

Answer with one JSON object and nothing else. Its keys are the actions exactly as they are written above, and each value
is that action's list of phrases."""


class UnusableReply(Exception):
    """A reply that does not give every option its sub-actions; asking again may help."""


def parse_reply(text, options):
    """K tuples of sub-actions from a model's reply, in the order of `options`.

    Accepts a JSON object by itself or among other words. Keys are matched to options without regard to case, never by
    position. Raises UnusableReply if an option is missing or a list is no list of texts.
    """
    start, end = text.find("{"), text.rfind("}")
    try:
        reply = json.loads(text[start:end + 1])
    except (json.JSONDecodeError, RecursionError):
        raise UnusableReply("the reply holds no JSON object") from None
    by_name = {" ".join(name.split()).casefold(): phrases for name, phrases in reply.items()}
    texts = []
    for option in options:
        phrases = by_name.get(" ".join(option.split()).casefold())
        if not isinstance(phrases, list) or not phrases:
            raise UnusableReply(f"the reply has no list for {option!r}")
        if not all(isinstance(phrase, str) and phrase.strip() for phrase in phrases):
            raise UnusableReply(f"the list for {option!r} holds something else than texts")
        texts.append(tuple(" ".join(phrase.split()) for phrase in phrases))
    return tuple(texts)


class LanguageModel:
    """A chat model behind the OpenAI protocol. Parameters that it rejects are left out from then on."""

    def __init__(self, model, temperature, api_key, base_url=None):
        import openai

        self.model = model
        self._client = openai.OpenAI(api_key=api_key, base_url=base_url, max_retries=0, timeout=TIMEOUT)
        self._options = {"temperature": temperature, "response_format": {"type": "json_object"}}

    def ask(self, prompt):
        """The text of the model's reply.

        Rate limits, lost connections and server errors are tried again with growing pauses.
        Raises StageError if no further question makes sense: a bad key, an unknown model, a used-up quota.
        """
        import backoff
        import openai

        passing = (openai.RateLimitError, openai.APIConnectionError, openai.InternalServerError)
        ask_once = backoff.on_exception(backoff.expo, passing, max_tries=TRIES, giveup=_is_final,
                                        jitter=backoff.full_jitter)(self._ask_once)
        try:
            return ask_once(prompt)
        except openai.APIError as error:
            if _is_final(error) or isinstance(error, openai.APIStatusError):
                raise console.StageError(f"{self.model}: {_advice(error)}; what was answered is kept") from None
            raise UnusableReply(f"no answer ({type(error).__name__})") from None

    def _ask_once(self, prompt):
        import openai

        while True:
            options = dict(self._options)
            try:
                reply = self._client.chat.completions.create(
                    model=self.model, messages=[{"role": "user", "content": prompt}], **options)
                return reply.choices[0].message.content or ""
            except openai.BadRequestError as error:
                if error.param not in options:
                    raise
                if self._options.pop(error.param, None) is not None:
                    console.warn(f"{self.model} does not take {error.param} {options[error.param]}; asking without it")


def _is_final(error):
    return getattr(error, "code", None) == "insufficient_quota"


def _advice(error):
    """What to do about an error of the server, without the server's words: those may quote the key."""
    code = getattr(error, "code", None) or getattr(error, "status_code", None) or type(error).__name__
    advice = {401: "the key is not accepted, check OPENAI_API_KEY or --apikey",
              403: "the key may not use this model, choose another --model",
              404: "there is no such model, choose another --model",
              429: "the limit or quota is used up, wait or add credit"}.get(getattr(error, "status_code", None),
                                                                          "the server refused the request")
    return f"{advice} ({code})"


def ask_for_scripts(sample, language_model):
    """The Scripts of one sample. Raises UnusableReply if ATTEMPTS questions brought no usable reply."""
    problem = None
    for _ in range(ATTEMPTS):
        try:
            reply = language_model.ask(generate_prompt(list(sample.options), sample.domain))
            return Scripts(sample, parse_reply(reply, sample.options))
        except UnusableReply as error:
            problem = error
    raise problem


class GeneratedFile:
    """generated_subactions.json while it grows: answers go to a journal one by one, the file is replaced at the end.

    entries: {id: entry} of what is answered, from the file and from the journal of a run that was killed.
    """

    def __init__(self, path):
        self.path = Path(path)
        self.entries = {}
        self._journal = files.Journal(self.path.with_name(self.path.name + ".partial"))
        entries = files.read_json(path, "list of samples") if self.path.exists() else []
        if not isinstance(entries, list):
            raise console.InputError(f"{path}: is there and is no list of samples; choose another --output")
        for entry in [*entries, *self._journal.read()]:
            self._take(entry)
        self.missing = artifacts.MissingItems(path, self.entries)

    def add(self, entry):
        """Commit one answered sample."""
        entry = {**self.entries.get(entry["id"], {}), **entry}
        self._journal.append(entry)
        self._take(entry)
        self.missing.drop(entry["id"])

    def finish(self, order):
        """Replace the file by all entries: samples in `order` (ids) first, then what else it held."""
        self._journal.close()
        if not self._journal.path.exists():
            return
        ordered = {id: self.entries[id] for id in order if id in self.entries}
        files.write_json(self.path, list({**ordered, **self.entries}.values()), indent=1)
        self._journal.remove()

    def _take(self, entry):
        self.entries[scripts_from_entry(entry, self.path).sample.id] = entry


def generate_subactions(samples, generated, language_model, workers, generated_with):
    """Ask for the samples and add each answer to `generated` as it comes; what fails goes to its missing items.

    Returns the ids of the samples that failed.
    """
    failed = []
    with ThreadPoolExecutor(workers) as pool, console.progress(len(samples), "samples") as bar:
        waiting, queue = {}, iter(samples)
        try:
            while True:
                for sample in queue:
                    waiting[pool.submit(ask_for_scripts, sample, language_model)] = sample
                    if len(waiting) >= workers:
                        break
                if not waiting:
                    return failed
                for future in wait(waiting, return_when=FIRST_COMPLETED).done:
                    sample = waiting.pop(future)
                    try:
                        generated.add({**entry_of(future.result()), "generated_with": generated_with})
                    except UnusableReply as error:
                        generated.missing.add(sample.id, error, retry=True)
                        failed.append(sample.id)
                    bar.update()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def samples_to_ask(samples, generated):
    """The samples whose options do not all have sub-actions yet.

    Raises InputError if an entry with a sample's id has other options.
    """
    todo = []
    for sample in samples:
        entry = generated.entries.get(sample.id)
        if entry is not None:
            there = scripts_from_entry(entry, generated.path)
            if sorted(there.sample.keys) != sorted(sample.keys):
                raise console.InputError(f"{generated.path}: sample {sample.id} is there with other options than in "
                                         "the dataset; move the file away or choose another --output")
            if not there.lacking:
                continue
        todo.append(sample)
    return todo


def parse_args(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0], formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="example:\n  OPENAI_API_KEY=... python generate_subactions.py --input processed_dataset.npy "
               "--output generated_subactions.json --temp 0.2")
    parser.add_argument("--input", required=True, help="processed_dataset.npy; only its index is read")
    parser.add_argument("--output", required=True, help="generated_subactions.json")
    parser.add_argument("--apikey", help="key of the API; better in the environment as OPENAI_API_KEY")
    parser.add_argument("--temp", type=float, default=TEMPERATURE, help="temperature (default: %(default)s)")
    parser.add_argument("--model", default=MODEL, help="language model (default: %(default)s)")
    parser.add_argument("--base_url", help="another server that speaks the OpenAI protocol")
    parser.add_argument("--workers", type=console.positive_int, default=WORKERS,
                        help="requests in flight (default: %(default)s)")
    return parser.parse_args(argv)


@console.script
def main(argv=None):
    args = parse_args(argv)
    console.require_folder_of(args.output)
    index = artifacts.read_index(args.input, "frames")
    samples = [sample_from_record(item, artifacts.index_path(args.input)) for item in index["items"]]
    require_unique_ids(samples, args.input)
    generated = GeneratedFile(args.output)
    todo = samples_to_ask(samples, generated)
    kept = len(samples) - len(todo)
    failed = []
    try:
        if todo:
            api_key = args.apikey or os.environ.get("OPENAI_API_KEY") or ("none" if args.base_url else None)
            if api_key is None:
                raise console.InputError(f"no API key for {len(todo)} samples; set OPENAI_API_KEY, or give --base_url "
                                         "of a local server")
            language_model = LanguageModel(args.model, args.temp, api_key, args.base_url)
            failed = generate_subactions(todo, generated, language_model, args.workers,
                                         {"model": args.model, "temperature": args.temp})
    finally:
        generated.finish([sample.id for sample in samples])
    if failed:
        print(f"{len(failed)} samples got no usable reply ({console.some_of(failed)}); "
              f"{artifacts.missing_path(args.output)} says why, run again to ask again")
    print(f"{len(todo) - len(failed)} samples generated, {kept} were there already, {len(failed)} failed "
          f"-> {args.output}")
    if failed and not kept and len(failed) == len(todo):
        raise console.StageError("the model gave no usable reply")


if __name__ == "__main__":
    raise SystemExit(main())

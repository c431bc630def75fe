#!/usr/bin/env python3
"""Needle prompts: long made-up text, one fact somewhere in it, and a question about that fact at the end.

  needle.py make [options] > PROMPTS.jsonl        one JSON object a line: id, messages or prompt, answer, depth
  needle.py score RESULTS PROMPTS                 right answers of one result file of `restkv run`
  needle.py compare PROMPTS RESULTS RESULTS...    answers and cache sizes side by side

The same options and seed give the same prompts. Only Python's standard library is used.
"""

import argparse
import json
import random
import sys

# Filler: each sentence is drawn from these parts, so that a long text repeats words but hardly ever a sentence.
TIMES = ("Early in the morning", "Shortly after noon", "On a rainy afternoon", "Late in the evening", "Before the first snow",
         "During the long winter", "On the way home", "After the market had closed", "At the end of the week",
         "While the kettle was warming", "In the second half of spring", "When the wind turned", "Once the road was dry",
         "Just before the bells rang", "In the middle of the harvest", "On the warmest day of the year")
PEOPLE = ("the old baker", "a young carpenter", "the teacher", "two neighbours", "the woman from the post office",
          "a group of cyclists", "the gardener", "my grandmother", "the captain of the ferry", "three students",
          "the owner of the bookshop", "a tired musician", "the doctor", "some children", "the night watchman",
          "a visitor from the coast")
ACTIONS = ("walked slowly past", "stopped to look at", "talked for a long time about", "painted a small picture of",
           "remembered a story about", "swept the leaves in front of", "waited quietly beside", "argued gently about",
           "took a photograph of", "planted flowers next to", "wrote a letter about", "had lunch near", "searched for a hat near",
           "sang an old song about", "repaired a bench behind", "bought a map of")
PLACES = ("the stone bridge", "the empty mill", "the wooden church", "the apple orchard", "the railway station",
          "the library on the hill", "the fountain", "the narrow lane", "the potter's workshop", "the willow trees",
          "the weekly market", "the boathouse", "the school garden", "the tall chimney", "the clock tower",
          "the meadow by the river")
ENDINGS = ("and nobody was in a hurry", "while a dog slept in the sun", "although the sky was grey",
           "because there was nothing else to do", "and the air smelled of fresh bread", "until the lamps were lit",
           "and everyone agreed that it was beautiful", "but the conversation soon turned to the weather",
           "as if the summer would never end", "and a light rain began to fall", "without saying very much",
           "and later they all drank tea together", "while the geese flew over the fields",
           "but the gate was still locked", "and the path was covered with moss", "so the day passed quietly")
SHORT = ("The fields were green and still.", "Nothing unusual happened for a while.", "It was a good day to be outside.",
         "The clouds moved slowly to the east.", "Somebody closed a window.", "The river was higher than usual.",
         "A cart rolled by and disappeared.", "Everything was calm again by nightfall.")

# What a needle can be about. Codes have four digits, none of them zero in front.
COLOURS = ("blue", "green", "silver", "golden", "red", "white", "purple", "orange", "black", "yellow")
THINGS = ("harbour", "castle", "garden", "tower", "island", "museum", "forest", "valley", "lantern", "palace")

# The default is a text to continue: a small model completes a sentence far more reliably than it answers a question.
# "the number": without it the small model now and then begins to quote something instead of naming the code.
NEEDLE = "The special code of the {colour} {thing} is the number {code}."
QUESTION = "Question: What is the special code of the {colour} {thing}?"
LEAD_IN = "Answer: The special code of the {colour} {thing} is the number"
TOKENS_PER_CHARACTER = 0.214  # of this filler with the SmolLM2 tokenizer


def sentence(rng):
    if rng.random() < 0.12:
        return rng.choice(SHORT)
    person, action, place = rng.choice(PEOPLE), rng.choice(ACTIONS), rng.choice(PLACES)
    if rng.random() < 0.5:
        return f"{rng.choice(TIMES)}, {person} {action} {place}."
    return f"{person[0].upper()}{person[1:]} {action} {place}, {rng.choice(ENDINGS)}."


def filler(rng, characters):
    """Sentences of about so many characters together."""
    sentences, length = [], 0
    while length < characters:
        sentences.append(sentence(rng))
        length += len(sentences[-1]) + 1
    return sentences


def paragraphs(rng, sentences):
    text, start = [], 0
    while start < len(sentences):
        end = start + rng.randint(4, 8)
        text.append(" ".join(sentences[start:end]))
        start = end
    return "\n\n".join(text)


def make_prompt(options, number):
    rng = random.Random(f"{options.seed}/{number}")
    fact = {"colour": rng.choice(COLOURS), "thing": rng.choice(THINGS), "code": str(rng.randint(1000, 9999))}
    depth = rng.uniform(0.05, 0.95) if options.depth is None else options.depth
    needle, question = options.needle.format(**fact), options.question.format(**fact)
    around = len(options.introduction) + len(needle) + len(question)
    sentences = filler(rng, max(0, options.tokens / TOKENS_PER_CHARACTER - around))
    sentences.insert(round(depth * len(sentences)), needle)
    parts = [options.introduction, paragraphs(rng, sentences), question]
    text = "\n\n".join(part for part in parts if part)
    prompt = {"id": f"needle-{options.seed}-{number}", "answer": fact["code"], "depth": round(depth, 3)}
    if options.format == "plain":
        prompt["prompt"] = text + "\n" + options.lead_in.format(**fact)
    else:
        prompt["messages"] = [{"role": "user", "content": text}]
    return prompt


def read_jsonl(path):
    with open(path, encoding="utf-8") as f:
        return [json.loads(line) for line in f if line.strip()]


def is_right(result, prompt):
    return prompt["answer"] in result["text"].replace(",", "")


def paired(results_path, prompts_path):
    """(result, prompt) for each prompt, the last result of its id; an error when one is missing."""
    results = {result.get("id"): result for result in read_jsonl(results_path)}
    pairs = [(results.get(prompt["id"]), prompt) for prompt in read_jsonl(prompts_path)]
    missing = [prompt["id"] for result, prompt in pairs if result is None]
    if missing:
        sys.exit(f"needle.py: {results_path} has no result for {', '.join(missing)}")
    return pairs


def make(options):
    for number in range(options.count):
        print(json.dumps(make_prompt(options, number)))


def score(options):
    pairs = paired(options.results, options.prompts)
    for result, prompt in pairs:
        mark = "right" if is_right(result, prompt) else "WRONG"
        print(f"{mark}  {prompt['id']}  depth {prompt['depth']:.2f}  expected {prompt['answer']}: {result['text'].strip()!r}")
    right = sum(is_right(result, prompt) for result, prompt in pairs)
    print(f"{right} of {len(pairs)} right")


def mebibytes(count):
    return f"{count / 2**20:.1f} MiB"


def milliseconds(value):
    return "-" if value is None else f"{value:.1f} ms"  # no step when the first token ended the text


def compare(options):
    columns = [paired(path, options.prompts) for path in options.results]
    prompts = [prompt for _, prompt in columns[0]]
    for row, prompt in enumerate(prompts):
        results = [column[row][0] for column in columns]
        print(f"{prompt['id']}: {results[0]['prompt_tokens']} tokens, the answer is {prompt['answer']}")
        table = [["cache"] + [r["policy"] for r in results],
                 ["answer"] + [" ".join(r["text"].split()) for r in results],
                 ["right"] + ["yes" if is_right(r, prompt) else "no" for r in results],
                 ["cache size"] + [mebibytes(r["cache_bytes"]) for r in results],
                 ["of the full cache"] + [f"{100 * r['cache_bytes'] / r['full_cache_bytes']:.1f} %" for r in results],
                 ["prefill"] + [f"{r['prefill_s']:.2f} s" for r in results],
                 ["eviction"] + [f"{r['evict_s']:.2f} s" for r in results],
                 ["decode, per token"] + [milliseconds(r["decode_ms_per_token"]) for r in results]]
        widths = [max(len(line[i]) for line in table) for i in range(len(table[0]))]
        for line in table:
            print("  " + "   ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip())


def parse(arguments):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    p = commands.add_parser("make", help="print prompts", formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    p.add_argument("--tokens", type=int, default=6000, help="length of a prompt, about")
    p.add_argument("--count", type=int, default=1, help="number of prompts")
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--depth", type=float, help="place of the needle, 0 (start) to 1 (end); default: drawn anew for each")
    p.add_argument("--format", choices=("plain", "chat"), default="plain",
                   help="plain: text that the model continues; chat: a user message")
    p.add_argument("--needle", default=NEEDLE, help="may name {colour}, {thing} and {code}")
    p.add_argument("--question", default=QUESTION, help="may name {colour} and {thing}")
    p.add_argument("--introduction", default="", help="first paragraph")
    p.add_argument("--lead-in", default=LEAD_IN, help="start of the answer; not part of a chat message")
    p.set_defaults(run=make)
    p = commands.add_parser("score", help="count right answers")
    p.add_argument("results")
    p.add_argument("prompts")
    p.set_defaults(run=score)
    p = commands.add_parser("compare", help="answers and cache sizes side by side")
    p.add_argument("prompts")
    p.add_argument("results", nargs="+")
    p.set_defaults(run=compare)
    options = parser.parse_args(arguments)
    if options.command == "make" and options.depth is not None and not 0 <= options.depth <= 1:
        parser.error(f"--depth is {options.depth}; allowed: 0 to 1")
    return options


if __name__ == "__main__":
    chosen = parse(sys.argv[1:])
    chosen.run(chosen)

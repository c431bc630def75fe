#!/usr/bin/env python3
"""Makes the tokenizer fixtures of this folder with the reference implementation (pip package `tokenizers`).

  make_fixtures.py [--smollm2 SmolLM2-135M-Instruct.Q4_1.gguf]

Writes strings.json, NAME/tokenizer.json with NAME/tokenizer_config.json and NAME.ids for small trained tokenizers,
plain.ids (special tokens not parsed), variants.json (other pre-tokenizer steps), and with --smollm2 (needs the package
`gguf`) smollm2.ids. An .ids file has one line per string: the ids, separated by spaces.
"""
import argparse
import json
import os

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

import made_up_text

HERE = os.path.dirname(os.path.abspath(__file__))
COUNT = 2000
VOCABULARY = 1000
LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
          r"|\s+(?!\S)|\s+")
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


def byte_level(use_regex):
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=use_regex)


def split(pattern):
    return pre_tokenizers.Split(Regex(pattern), behavior="isolated", invert=False)


STYLES = {
    "gpt2": byte_level(True),
    "smollm": pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), byte_level(True)]),
    "llama3": pre_tokenizers.Sequence([split(LLAMA3), byte_level(False)]),
    "qwen2": pre_tokenizers.Sequence([split(QWEN2), byte_level(False)]),
}


def train(name):
    tokenizer = Tokenizer(models.BPE(ignore_merges=name == "llama3"))
    tokenizer.pre_tokenizer = STYLES[name]
    tokenizer.decoder = decoders.ByteLevel()
    if name == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
    # smollm has no entry for bytes that its training text lacks, like the model it is named after.
    alphabet = [] if name == "smollm" else pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=SPECIAL, initial_alphabet=alphabet,
                                  show_progress=False)
    tokenizer.train_from_iterator(made_up_text.training_text(1), trainer)
    if name == "gpt2":
        tokenizer.add_tokens([AddedToken("<mask>", lstrip=True, special=True, normalized=False),
                              AddedToken("wordy", single_word=True, normalized=False),
                              AddedToken("<tool>", lstrip=True, rstrip=True, normalized=False)])
    if name == "qwen2":
        tokenizer.add_tokens([AddedToken("ñandú", normalized=True), AddedToken("<pad>", normalized=False)])
    bos = "<|endoftext|>" if name == "llama3" else None
    if bos:
        tokenizer.post_processor = processors.Sequence([
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(single=f"{bos} $A", special_tokens=[(bos, tokenizer.token_to_id(bos))])])
    else:
        tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    folder = os.path.join(HERE, name)
    os.makedirs(folder, exist_ok=True)
    tokenizer.save(os.path.join(folder, "tokenizer.json"), pretty=False)
    with open(os.path.join(folder, "tokenizer_config.json"), "w") as out:
        json.dump({"bos_token": bos, "eos_token": {"content": "<|im_end|>", "special": True}}, out)
        out.write("\n")
    return tokenizer


def smollm2(path):
    from gguf import GGUFReader
    fields = GGUFReader(path).fields
    tokens = fields["tokenizer.ggml.tokens"].contents()
    types = fields["tokenizer.ggml.token_type"].contents()
    merges = [tuple(rule.split(" ")) for rule in fields["tokenizer.ggml.merges"].contents()]
    tokenizer = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=merges))
    tokenizer.pre_tokenizer = STYLES["smollm"]
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False)
                                  for token, kind in zip(tokens, types) if kind == 3])
    return tokenizer


def write_ids(name, rows):
    with open(os.path.join(HERE, name + ".ids"), "w") as out:
        for row in rows:
            out.write(" ".join(map(str, row)) + "\n")


def encode(tokenizer, strings):
    return [tokenizer.encode(text, add_special_tokens=False).ids for text in strings]


def variants(tokenizer, strings):
    """ids of the gpt2 tokenizer with other pre-tokenizers."""
    out = []
    steps = [pre_tokenizers.ByteLevel(add_prefix_space=True, use_regex=True),
             pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=False),
                                      pre_tokenizers.ByteLevel(add_prefix_space=True, use_regex=False)])]
    for behavior in ["isolated", "removed", "merged_with_previous", "merged_with_next", "contiguous"]:
        for pattern in [Regex(r"\s"), Regex(r"\p{L}+|\d"), " ", "("]:
            for invert in [False, True]:
                steps.append(pre_tokenizers.Sequence([pre_tokenizers.Split(pattern, behavior, invert), byte_level(False)]))
    for step in steps:
        tokenizer.pre_tokenizer = step
        out.append({"pre_tokenizer": json.loads(tokenizer.to_str())["pre_tokenizer"], "ids": encode(tokenizer, strings)})
    return out


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smollm2", help="the GGUF file of SmolLM2-135M-Instruct")
    arguments = parser.parse_args()
    strings = made_up_text.strings(COUNT, 2)
    with open(os.path.join(HERE, "strings.json"), "w") as out:
        json.dump(strings, out, ensure_ascii=False, separators=(",\n", ":"))
    trained = {name: train(name) for name in STYLES}
    for name, tokenizer in trained.items():
        write_ids(name, encode(tokenizer, strings))
    trained["gpt2"].encode_special_tokens = True
    write_ids("plain", encode(trained["gpt2"], [text for text in strings if "<" in text]))
    trained["gpt2"].encode_special_tokens = False
    chosen = [text for text in strings if 5 < len(text) < 30 and (" " in text or "(" in text)][:40]
    with open(os.path.join(HERE, "variants.json"), "w") as out:
        json.dump({"strings": chosen, "variants": variants(trained["gpt2"], chosen)}, out, ensure_ascii=False,
                  separators=(",", ":"))
    if arguments.smollm2:
        write_ids("smollm2", encode(smollm2(arguments.smollm2), strings))


if __name__ == "__main__":
    main()

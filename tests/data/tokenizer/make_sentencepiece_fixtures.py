#!/usr/bin/env python3
"""Makes the fixtures of tokenizers over characters with byte fallback, and what random ids decode to.

Needs the pip packages `sentencepiece` and `tokenizers`, which are also the references:
  NAME/tokenizer.model   a small model that sentencepiece trains on made-up text
  NAME/tokenizer.json    the same as a BPE with the pipeline that the family's tokenizer.json has
  NAME.ids               what `tokenizers` gives for pieces.json with tokenizer.json, special tokens parsed
  NAME.plain.ids         what `sentencepiece` gives with tokenizer.model (special tokens are text to it), where it differs
  NAME.decoded.json      rows [ids, text without special tokens, text with them] by `tokenizers`
  piece_variants.json    ids and texts of the llama2 tokenizer with other normalizers, pre-tokenizers and decoders
Run make_fixtures.py first: the rows for its llama3 and qwen2 are made here too.
"""
import io
import json
import os
import random

import sentencepiece
from tokenizers import Tokenizer

import made_up_text

HERE = os.path.dirname(os.path.abspath(__file__))
COUNT = 2000
DECODED = 600
SPACE = "\u2581"
INSTRUCTIONS = ["[INST]", "[/INST]", "[TOOL_CALLS]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]"]
TURNS = ["<mask>", "<start_of_turn>", "<end_of_turn>", "\n\n", "\n\n\n"]
LLAMA_IDS = dict(unk_id=0, bos_id=1, eos_id=2, pad_id=-1)
TRAINING = {
    "llama2": dict(LLAMA_IDS, model_type="bpe", vocab_size=900),
    "mistral3": dict(LLAMA_IDS, model_type="bpe", vocab_size=800, control_symbols=INSTRUCTIONS),
    "gemma": dict(pad_id=0, eos_id=1, bos_id=2, unk_id=3, bos_piece="<bos>", eos_piece="<eos>", model_type="bpe", vocab_size=800,
                  add_dummy_prefix=False, user_defined_symbols=TURNS),
    "unigram": dict(LLAMA_IDS, model_type="unigram", vocab_size=500),
}
CHARACTERS = dict(byte_fallback=True, normalization_rule_name="identity", remove_extra_whitespaces=False, split_digits=True,
                  allow_whitespace_only_pieces=True, character_coverage=0.99)


def train(name):
    """The model and the library's own reading of it."""
    settings = dict(TRAINING[name])
    # unigram has the library's defaults: compatibility normalization, white space made single, no bytes.
    settings.update(CHARACTERS if name != "unigram" else dict(character_coverage=0.99))
    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=made_up_text.training_text(1), model_writer=out, num_threads=1,
                                             minloglevel=2, **settings)
    os.makedirs(os.path.join(HERE, name), exist_ok=True)
    with open(os.path.join(HERE, name, "tokenizer.model"), "wb") as file:
        file.write(out.getvalue())
    return sentencepiece.SentencePieceProcessor(model_proto=out.getvalue())


def merges_of(vocabulary):
    """Every way to put a piece together from two, best piece first: the rules that make a BPE of the scores' order."""
    rules = []
    for piece in vocabulary:
        pairs = [(piece[:i], piece[i:]) for i in range(1, len(piece)) if piece[:i] in vocabulary and piece[i:] in vocabulary]
        rules += sorted(pairs, key=lambda pair: (vocabulary[pair[0]], vocabulary[pair[1]]))
    return rules


PREPEND = {"type": "Prepend", "prepend": SPACE}
REPLACE = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
DECODERS = [{"type": "Replace", "pattern": {"String": SPACE}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"}]
STRIP = {"type": "Strip", "content": " ", "start": 1, "stop": 0}


def sequence(key, *members):
    return {"type": "Sequence", key: list(members)}


def metaspace(scheme, split):
    return {"type": "Metaspace", "replacement": SPACE, "prepend_scheme": scheme, "split": split}


PIPELINES = {
    "llama2": {"normalizer": sequence("normalizers", PREPEND, REPLACE), "pre_tokenizer": None,
               "decoder": sequence("decoders", *DECODERS, STRIP)},
    "mistral3": {"normalizer": None, "pre_tokenizer": metaspace("first", False), "decoder": sequence("decoders", *DECODERS, STRIP)},
    "gemma": {"normalizer": REPLACE,
              "pre_tokenizer": {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False},
              "decoder": sequence("decoders", *DECODERS)},
}


def tokenizer_json(name, processor):
    count = processor.get_piece_size()
    vocabulary = {processor.id_to_piece(i): i for i in range(count)}
    special = [i for i in range(count) if processor.is_control(i) or processor.is_unknown(i)]
    own = [vocabulary[piece] for piece in TRAINING[name].get("user_defined_symbols", [])]
    apart = set(special) | set(own)
    words = {piece: i for piece, i in vocabulary.items() if i not in apart and not processor.is_byte(i)}
    bos = processor.id_to_piece(processor.bos_id())
    document = {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [{"id": i, "content": processor.id_to_piece(i), "single_word": False, "lstrip": False, "rstrip": False,
                          "normalized": False, "special": i in special} for i in sorted(apart)],
        **PIPELINES[name],
        "post_processor": {"type": "TemplateProcessing",
                           "single": [{"SpecialToken": {"id": bos, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
                           "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
                           "special_tokens": {bos: {"id": bos, "ids": [processor.bos_id()], "tokens": [bos]}}},
        "model": {"type": "BPE", "dropout": None, "unk_token": processor.id_to_piece(processor.unk_id()),
                  "continuing_subword_prefix": None, "end_of_word_suffix": None, "fuse_unk": True, "byte_fallback": True,
                  "ignore_merges": False, "vocab": vocabulary, "merges": merges_of(words)},
    }
    folder = os.path.join(HERE, name)
    with open(os.path.join(folder, "tokenizer.json"), "w") as out:
        json.dump(document, out, ensure_ascii=False, separators=(",", ":"))
    with open(os.path.join(folder, "tokenizer_config.json"), "w") as out:
        flags = {"lstrip": False, "rstrip": False, "normalized": False, "single_word": False, "special": True}
        json.dump({"add_bos_token": True, "add_eos_token": False, "bos_token": {"__type": "AddedToken", "content": bos, **flags},
                   "eos_token": processor.id_to_piece(processor.eos_id())}, out)
        out.write("\n")
    return document


def write_ids(name, rows):
    with open(os.path.join(HERE, name + ".ids"), "w") as out:
        for row in rows:
            out.write(" ".join(map(str, row)) + "\n")


def random_rows(tokenizer, seed, left_out):
    """Ids of no text: random ones, bytes of characters with some missing, parts of encoded strings."""
    rng = random.Random(seed)
    count = tokenizer.get_vocab_size()
    strings = made_up_text.strings(COUNT, 2)
    rows = []
    while len(rows) < DECODED:
        kind = rng.random()
        if kind < 0.4:
            row = [rng.randrange(count) for _ in range(rng.randint(0, 12))]
        elif kind < 0.7:
            data = "".join(made_up_text.any_character(rng) for _ in range(rng.randint(1, 4))).encode()
            row = [tokenizer.token_to_id(f"<0x{byte:02X}>") for byte in data if rng.random() < 0.95]
            row = [rng.randrange(count) if i is None else i for i in row]
            for _ in range(rng.randint(0, 2)):
                row.insert(rng.randint(0, len(row)), rng.randrange(count))
        else:
            row = tokenizer.encode(rng.choice(strings), add_special_tokens=False).ids[:30]
            row = row[rng.randint(0, 2):] + [count + 5]
        rows.append([i for i in row if i not in left_out])
    return rows


def decoded(name, tokenizer, left_out=()):
    left_out = {tokenizer.token_to_id(text) for text in left_out}
    rows = [[row, tokenizer.decode(row, skip_special_tokens=True), tokenizer.decode(row, skip_special_tokens=False)]
            for row in random_rows(tokenizer, 3, left_out)]
    with open(os.path.join(HERE, name + ".decoded.json"), "w") as out:
        json.dump(rows, out, ensure_ascii=False, separators=(",", ":"))


def variants(document, strings):
    """Changes of the llama2 tokenizer.json: [JSON pointer, value] pairs (null takes a token away), with the ids of the strings and their texts."""
    nfc = {"type": "NFC"}
    split = {"type": "Split", "pattern": {"String": SPACE}, "behavior": "MergedWithNext", "invert": False}
    base = [["/normalizer", None]]
    changes = [base + [["/pre_tokenizer", metaspace(scheme, cut)]] for scheme in ["never", "first", "always"] for cut in [False, True]]
    changes += [[["/model/byte_fallback", False]], [["/model/byte_fallback", False], ["/model/fuse_unk", False]],
                [["/model/byte_fallback", False], ["/model/unk_token", None]], [["/model/ignore_merges", True], ["/pre_tokenizer", split]],
                [["/normalizer", sequence("normalizers", nfc, REPLACE, PREPEND)]], [["/normalizer", REPLACE]], [["/normalizer", None]],
                [["/pre_tokenizer", sequence("pretokenizers", {"type": "Digits", "individual_digits": True}, split)]],
                base + [["/pre_tokenizer", sequence("pretokenizers", {"type": "Split", "pattern": {"Regex": "\\d+|\\n"}, "behavior": "Isolated",
                                                                         "invert": False}, metaspace("first", True))]],
                [[f"/added_tokens/{i}/normalized", True] for i in range(3)],
                [["/added_tokens/1/lstrip", True], ["/added_tokens/2/rstrip", True]],
                [["/model/vocab/<0xE2>", None], ["/model/vocab/<0x81>", None], ["/normalizer", REPLACE]],
                [["/model/vocab/<0xE2>", None], ["/model/fuse_unk", False]],
                [["/decoder", sequence("decoders", DECODERS[0], DECODERS[1])]], [["/decoder", DECODERS[0]]],
                [["/decoder", sequence("decoders", DECODERS[0], DECODERS[2], dict(STRIP, start=3))]]]
    out = []
    for change in changes:
        changed = json.loads(json.dumps(document))
        for pointer, value in change:
            at = changed
            *way, last = pointer[1:].split("/")
            for key in way:
                at = at[int(key) if isinstance(at, list) else key]
            if value is None and pointer.startswith("/model/vocab/"):
                del at[last]
            else:
                at[last] = value
        tokenizer = Tokenizer.from_str(json.dumps(changed))
        ids = [tokenizer.encode(text, add_special_tokens=False).ids for text in strings]
        # The reference does not know its special tokens again in decoding when their texts were normalized.
        texts = [] if "normalized" in change[0][0] else [tokenizer.decode(row, skip_special_tokens=True) for row in ids]
        out.append({"change": change, "ids": ids, "texts": texts})
    return out


def main():
    strings = made_up_text.strings(COUNT, 4, made_up_text.PIECES)
    with open(os.path.join(HERE, "pieces.json"), "w") as out:
        json.dump(strings, out, ensure_ascii=False, separators=(",\n", ":"))
    for name in TRAINING:
        processor = train(name)
        plain = [processor.encode(text) for text in strings]
        if name == "unigram":
            write_ids(name, plain)
            continue
        document = tokenizer_json(name, processor)
        tokenizer = Tokenizer.from_file(os.path.join(HERE, name, "tokenizer.json"))
        ids = [tokenizer.encode(text, add_special_tokens=False).ids for text in strings]
        write_ids(name, ids)
        write_ids(name + ".plain", [own if own != other else [] for own, other in zip(plain, ids)])
        print(name, sum(own != other for own, other in zip(plain, ids)), "strings differ where special tokens are parsed")
        decoded(name, tokenizer)
        if name == "llama2":
            chosen = [text for text in strings if 2 < len(text) < 25][:100] + ["", " a", "a", "<s>a</s> b", "a <s> b", "  \u2581a", "caf\u00e9 e\u0301 12"]
            with open(os.path.join(HERE, "piece_variants.json"), "w") as out:
                json.dump({"strings": chosen, "variants": variants(document, chosen)}, out, ensure_ascii=False, separators=(",", ":"))
    # The reference takes the letters of added tokens for bytes, too; ours keeps such a token's text.
    for name, left_out in [("llama3", []), ("qwen2", ["\u00f1and\u00fa"])]:
        decoded(name, Tokenizer.from_file(os.path.join(HERE, name, "tokenizer.json")), left_out)


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Writes tokenizer.json: a byte-level BPE of 256 tokens, for the small models of the golden data, whose vocabulary is
256. A token per byte in the order of the bytes, except that 0xFF, which no UTF-8 text holds, gives its place to the one
merge ("t", "h")."""
import json
import pathlib

printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
letters, extra = {}, 0
for byte in range(256):
    if byte in printable:
        letters[byte] = chr(byte)
    else:
        letters[byte], extra = chr(256 + extra), extra + 1
vocab = {letters[byte]: byte for byte in range(255)}
vocab["th"] = 255
tokenizer = {
    "version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None,
    "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
    "post_processor": None,
    "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
    "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
              "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
              "vocab": vocab, "merges": [["t", "h"]]},
}
pathlib.Path(__file__).with_name("tokenizer.json").write_text(json.dumps(tokenizer, ensure_ascii=False, indent=0) + "\n")

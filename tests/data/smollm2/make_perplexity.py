#!/usr/bin/env python3
"""Writes perplexity.json: what Hugging Face transformers computes for text.txt with SmolLM2-135M-Instruct.

Usage: make_perplexity.py MODEL.gguf      (needs torch, transformers, accelerate and gguf; made with the versions
that the file names)

transformers dequantises the GGUF weights to float32 and runs them on the CPU. Keys:
  text            the text, tokenized without any special token
  ids             [L] its tokens, by the tokenizer that transformers builds from the GGUF metadata
  nll             [L-1] negative log-likelihood (natural) of token i+1 given tokens 0..i
  nll_sum         their sum;  perplexity = exp(nll_sum / (L-1))
  top_ids, top_logits   the 20 largest logits of the last row, in descending order
  greedy          [32] the argmax continuation of the text
"""

import json
import os
import sys

import tokenizers
import torch
import transformers


def main(model_path):
    here = os.path.dirname(os.path.abspath(__file__))
    with open(os.path.join(here, "text.txt"), encoding="utf-8") as f:
        text = f.read()
    folder, name = os.path.split(os.path.abspath(model_path))
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, gguf_file=name)
    # The metadata says tokenizer.ggml.pre = smollm: every digit on its own, then byte-level. transformers omits the first.
    tokenizer.backend_tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Sequence([
        tokenizers.pre_tokenizers.Digits(individual_digits=True),
        tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)])
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, gguf_file=name, dtype=torch.float32, attn_implementation="eager").eval()
    ids = tokenizer(text, return_tensors="pt", add_special_tokens=False).input_ids
    with torch.no_grad():
        logits = model(ids).logits[0].double()
        greedy = model.generate(ids, max_new_tokens=32, do_sample=False, eos_token_id=None)[0, ids.shape[1]:]
    nll = -torch.log_softmax(logits[:-1], dim=-1).gather(1, ids[0, 1:, None])[:, 0]
    top = logits[-1].topk(20)
    result = {
        "made_with": f"transformers {transformers.__version__}, torch {torch.__version__.split('+')[0]}, float32",
        "model": name,
        "text": text,
        "ids": ids[0].tolist(),
        "nll": [round(x, 6) for x in nll.tolist()],
        "nll_sum": nll.sum().item(),
        "perplexity": nll.mean().exp().item(),
        "top_ids": top.indices.tolist(),
        "top_logits": [round(x, 5) for x in top.values.tolist()],
        "greedy": greedy.tolist(),
    }
    with open(os.path.join(here, "perplexity.json"), "w", encoding="utf-8") as f:
        json.dump(result, f)
        f.write("\n")
    print(len(result["ids"]), "tokens, perplexity", result["perplexity"])
    print(repr(tokenizer.decode(greedy)))


if __name__ == "__main__":
    main(sys.argv[1])

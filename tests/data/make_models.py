#!/usr/bin/env python3
"""Writes small checkpoints with random weights under tests/data/models, and what Hugging Face transformers makes of them.

    python3 tests/data/make_models.py [NAME ...]        # needs torch, transformers 5 and safetensors; not run by the tests

Every directory holds config.json, model.safetensors (bf16 or fp16) and golden.safetensors: results in float32 of the
weights as stored, eager attention, on a CPU:
    ids_N     [N] int32                prompts of N random tokens
    rows_N    [r] int32                rows of which there are logits
    logits_N  [r, vocab] float32
    greedy_N  [16] int32               the argmax continuation, cached keys as the library caches them
Those with a tokenizer (one of tests/data/tokenizer, trained on made-up text) also hold generation_config.json, whose
second stop token is one that the model writes, and golden.json: a conversation, its ids through a template of
tests/data/chat, the ids of a raw text, and what generate() answers.
The weights are drawn large, so that attention is not flat. The models of that folder that are not in MODELS came before
this script."""
import json
import pathlib
import sys

import torch
import transformers
from safetensors.torch import save_file
from transformers import PreTrainedTokenizerFast

HERE = pathlib.Path(__file__).resolve().parent
COMMON = dict(bos_token_id=1, eos_token_id=2, pad_token_id=0, num_hidden_layers=2, rms_norm_eps=1e-5,
              attn_implementation="eager")
# name: (classes, dtype on disk, spelling of the rotary settings, tokenizer and template or None, prompts, settings)
MODELS = {
    # Llama 3.2: tied embeddings, frequencies scaled by 32, heads that are not hidden / heads wide.
    "llama32": ("Llama", torch.bfloat16, "old", ("llama3", "chatml"), (1, 17, 300, 2000),
                dict(vocab_size=1000, hidden_size=72, intermediate_size=176, num_attention_heads=6, num_key_value_heads=2,
                     head_dim=32, max_position_embeddings=4096, tie_word_embeddings=True,
                     rope_parameters=dict(rope_type="llama3", rope_theta=500000.0, factor=32.0, low_freq_factor=1.0,
                                          high_freq_factor=4.0, original_max_position_embeddings=256))),
    # Qwen2.5 0.5B: tied, biases, 14 query heads on 2 KV heads.
    "qwen25": ("Qwen2", torch.bfloat16, "old", ("qwen2", "chatml"), (1, 17, 300, 2000),
               dict(vocab_size=1008, hidden_size=64, intermediate_size=176, num_attention_heads=14, num_key_value_heads=2,
                    head_dim=16, max_position_embeddings=4096, tie_word_embeddings=True, sliding_window=None,
                    rope_parameters=dict(rope_type="default", rope_theta=1000000.0))),
    # Mistral v0.3: no window; fp16 on disk.
    "mistral3": ("Mistral", torch.float16, "old", ("mistral3", "brackets"), (1, 17, 300, 2000),
                 dict(vocab_size=800, hidden_size=64, intermediate_size=176, num_attention_heads=8, num_key_value_heads=2,
                      head_dim=16, max_position_embeddings=4096, tie_word_embeddings=False, sliding_window=None,
                      rope_parameters=dict(rope_type="default", rope_theta=1000000.0))),
    # Gemma 2B: one KV head, head size 256.
    "gemma_2b": ("Gemma", torch.bfloat16, "new", ("gemma", "turns"), (1, 17, 300, 2000),
                 dict(vocab_size=800, hidden_size=48, intermediate_size=128, num_attention_heads=4, num_key_value_heads=1,
                      head_dim=256, max_position_embeddings=4096, bos_token_id=2, eos_token_id=1,
                      rope_parameters=dict(rope_type="default", rope_theta=10000.0))),
    # Past the original 512 positions. The prompt of 505 tokens grows past them while it is continued.
    "llama_linear": ("Llama", torch.bfloat16, "old", None, (1, 17, 505, 2000),
                     dict(vocab_size=256, hidden_size=64, intermediate_size=128, num_attention_heads=4,
                          num_key_value_heads=4, head_dim=16, max_position_embeddings=512, tie_word_embeddings=True,
                          rope_parameters=dict(rope_type="linear", rope_theta=10000.0, factor=4.0))),
    "llama_dynamic": ("Llama", torch.bfloat16, "new", None, (1, 17, 505, 2000),
                      dict(vocab_size=256, hidden_size=64, intermediate_size=128, num_attention_heads=4,
                           num_key_value_heads=2, head_dim=16, max_position_embeddings=512, tie_word_embeddings=False,
                           rope_parameters=dict(rope_type="dynamic", rope_theta=10000.0, factor=4.0))),
}
CONVERSATION = [{"role": "user", "content": "Which river is near the old bridge?"},
                {"role": "assistant", "content": "The strange one, 42 of them."},
                {"role": "user", "content": "naïve straße — 東京 😀 in  two spaces"}]
RAW = "The window of the engine, naïve 東京 😀 and 1234"
NEW_TOKENS, STEPS = 24, 16


def draw(model, seed):
    generator = torch.Generator().manual_seed(seed)
    gemma = "Gemma" in type(model).__name__
    for name, p in model.named_parameters():
        normal = torch.randn(p.shape, generator=generator)
        if name.endswith("bias"):
            p.data = 0.2 * normal
        elif p.dim() == 1:
            p.data = (0.0 if gemma else 1.0) + 0.1 * normal
        elif "embed_tokens" in name:
            p.data = normal * (p.shape[1] ** -0.5 if gemma else 1.0)
        else:
            p.data = normal * 1.7 * p.shape[1] ** -0.5
    model.tie_weights()


def greedy(model, ids, steps):
    out, cache, token = [], None, ids
    for _ in range(steps):
        result = model(token, past_key_values=cache, use_cache=True)
        cache, token = result.past_key_values, result.logits[:, -1:].argmax(-1)
        out.append(token.item())
    return out


def golden(model, prompts, vocab, seed):
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for n in prompts:
        ids = torch.randint(0, vocab, (1, n), generator=generator)
        rows = sorted({0, n // 3, n // 2, n - 2, n - 1} & set(range(n)))
        tensors |= {f"ids_{n}": ids[0].int(), f"rows_{n}": torch.tensor(rows, dtype=torch.int32),
                    f"logits_{n}": model(ids).logits[0, rows].float().contiguous(),
                    f"greedy_{n}": torch.tensor(greedy(model, ids, STEPS), dtype=torch.int32)}
    return tensors


def write_text(directory, model, tokenizer_name, template):
    """generation_config.json and golden.json; False when these weights answer nothing that serves."""
    source = HERE / "tokenizer" / tokenizer_name
    settings = json.loads((source / "tokenizer_config.json").read_text())
    names = {key: value["content"] if isinstance(value, dict) else value
             for key in ("bos_token", "eos_token") if (value := settings.get(key))}
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(source / "tokenizer.json"), **names)
    tokenizer.chat_template = (HERE / "chat" / f"{template}.jinja").read_text()
    ids = tokenizer.apply_chat_template(CONVERSATION, add_generation_prompt=True, return_tensors="pt", return_dict=False)
    written = greedy(model, ids, NEW_TOKENS)
    # The first token after the ninth that did not come before stops.
    stop = next((t for i, t in enumerate(written) if 8 < i and t not in written[:i] + tokenizer.all_special_ids), None)
    if stop is None or written.index(stop) > NEW_TOKENS - 3:
        return False
    stops = [model.config.eos_token_id, stop]
    answer = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=NEW_TOKENS,
                            eos_token_id=stops)[0, ids.shape[1]:].tolist()
    assert answer[-1] == stop
    text = tokenizer.decode(answer[:-1], skip_special_tokens=True, clean_up_tokenization_spaces=False)
    if "\ufffd" in text:  # a stream shows the whole characters of a run of bytes that turns out invalid, the library none
        return False
    (directory / "generation_config.json").write_text(json.dumps({"eos_token_id": stops}) + "\n")
    (directory / "golden.json").write_text(json.dumps({
        "tokenizer": tokenizer_name, "template": template, "messages": CONVERSATION, "chat_ids": ids[0].tolist(),
        "raw": RAW, "raw_ids": tokenizer(RAW)["input_ids"], "answer_ids": answer, "answer": text},
        ensure_ascii=False) + "\n")
    return True


def old_spelling(path):
    """rope_theta and rope_scaling, as configurations had them before rope_parameters."""
    config = json.loads(path.read_text())
    rope = config.pop("rope_parameters")
    config["rope_theta"] = rope.pop("rope_theta")
    kind = rope.pop("rope_type")
    config["rope_scaling"] = None if kind == "default" else {"rope_type" if kind == "llama3" else "type": kind} | rope
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


@torch.no_grad()
def make(name, seed):
    family, dtype, spelling, text, prompts, settings = MODELS[name]
    config = getattr(transformers, family + "Config")(**COMMON | settings)
    model = getattr(transformers, family + "ForCausalLM")(config)
    draw(model, seed)
    directory = HERE / "models" / name
    directory.mkdir(parents=True, exist_ok=True)
    model.to(dtype).save_pretrained(directory)
    (directory / "generation_config.json").unlink(missing_ok=True)
    if spelling == "old":
        old_spelling(directory / "config.json")
    # Read again: to(dtype) rounded the rotary frequencies and the scale of Gemma's embeddings too.
    model = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32, attn_implementation="eager")
    if text and not write_text(directory, model, *text):
        return make(name, seed + 1000)
    save_file(golden(model, prompts, settings["vocab_size"], seed + 1), directory / "golden.safetensors")


if __name__ == "__main__":
    transformers.set_seed(0)
    torch.set_num_threads(1)
    for index, name in enumerate(MODELS):
        if len(sys.argv) == 1 or name in sys.argv[1:]:
            make(name, 100 + 10 * index)
            print(name, sum(f.stat().st_size for f in (HERE / "models" / name).iterdir()) // 1024, "KiB")

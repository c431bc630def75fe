#!/usr/bin/env python3
"""Writes the fixtures of the weight readers: gguf/TYPE.gguf and the tiny model tiny_llama/ + gguf/tiny_llama.gguf.

Needs numpy and the package gguf (pip install gguf), whose gguf.quants is the independent reference for every decoded
value. Run in any directory; it writes next to itself, the same bytes each time.
"""
import json
import pathlib
import struct

import gguf
import numpy as np
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType as T

HERE = pathlib.Path(__file__).resolve().parent
ROWS, COLS = 5, 768


def half(x):
    return np.asarray(x, dtype=np.float16).view(np.uint8)


def stored_values(kind, rng):
    """One tensor of ROWS x COLS in the given encoding, as bytes [ROWS, bytes per row]."""
    values = rng.standard_normal((ROWS, COLS)).astype(np.float32)
    values[1] *= 1e-6  # scales that are subnormal halves
    values[2, :256] = 0.0
    values[3] *= 300.0
    if kind == T.F32:
        return values.view(np.uint8)
    if kind == T.F16:
        values[4, :8] = [np.inf, -np.inf, 65504.0, -65504.0, 6e-8, -6e-8, 0.0, -0.0]
        return values.astype(np.float16).view(np.uint8)
    if kind not in (T.Q4_K, T.Q5_K, T.Q6_K):
        return gguf.quants.quantize(values, kind)
    # The package decodes these but does not make them: random bits, with scales of ordinary size in every block.
    block, size = GGML_QUANT_SIZES[kind]
    blocks = rng.integers(0, 256, (ROWS * COLS // block, size), dtype=np.uint8)
    for b in blocks:
        if kind == T.Q6_K:
            b[208:210] = half([rng.normal() * 1e-3])
        else:
            b[0:4] = half(rng.normal(size=2) * 1e-2)
    return blocks.reshape(ROWS, -1)


def write_type(kind, rng):
    data = stored_values(kind, rng)
    expected = gguf.quants.dequantize(data, kind).astype(np.float32).reshape(ROWS, COLS)
    writer = gguf.GGUFWriter(HERE / "gguf" / f"{kind.name}.gguf", "test")
    writer.add_tensor("x", data, raw_dtype=kind)
    writer.add_tensor("expected", expected)
    finish(writer)


def finish(writer):
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


TINY = dict(hidden=32, heads=4, kv_heads=2, head=8, mlp=48, vocab=24, layers=2)


def tiny_weights(rng):
    """(Hugging Face name, GGUF name, values that bf16 holds exactly, heads when GGUF permutes the rows)"""
    h, q, kv = TINY["hidden"], TINY["heads"] * TINY["head"], TINY["kv_heads"] * TINY["head"]

    def draw(*shape):
        bits = rng.standard_normal(shape).astype(np.float32).view(np.uint32) & 0xFFFF0000
        return bits.view(np.float32)

    yield "model.embed_tokens.weight", "token_embd.weight", draw(TINY["vocab"], h), 0
    for i in range(TINY["layers"]):
        hf, g = f"model.layers.{i}.", f"blk.{i}."
        yield hf + "input_layernorm.weight", g + "attn_norm.weight", draw(h), 0
        yield hf + "self_attn.q_proj.weight", g + "attn_q.weight", draw(q, h), TINY["heads"]
        yield hf + "self_attn.k_proj.weight", g + "attn_k.weight", draw(kv, h), TINY["kv_heads"]
        yield hf + "self_attn.v_proj.weight", g + "attn_v.weight", draw(kv, h), 0
        yield hf + "self_attn.o_proj.weight", g + "attn_output.weight", draw(h, q), 0
        yield hf + "post_attention_layernorm.weight", g + "ffn_norm.weight", draw(h), 0
        yield hf + "mlp.gate_proj.weight", g + "ffn_gate.weight", draw(TINY["mlp"], h), 0
        yield hf + "mlp.up_proj.weight", g + "ffn_up.weight", draw(TINY["mlp"], h), 0
        yield hf + "mlp.down_proj.weight", g + "ffn_down.weight", draw(h, TINY["mlp"]), 0
    yield "model.norm.weight", "output_norm.weight", draw(h), 0
    yield "lm_head.weight", "output.weight", draw(TINY["vocab"], h), 0


def interleave(values, heads):
    """The row order that GGUF converters give q and k of this architecture."""
    half_head = values.shape[0] // heads // 2
    return values.reshape(heads, 2, half_head, -1).swapaxes(1, 2).reshape(values.shape)


def write_safetensors(path, tensors):
    header, data = {"__metadata__": {"format": "pt"}}, b""
    for name, values in tensors:
        bits = (np.ascontiguousarray(values).view(np.uint32) >> 16).astype(np.uint16).tobytes()
        header[name] = {"dtype": "BF16", "shape": list(values.shape), "data_offsets": [len(data), len(data) + len(bits)]}
        data += bits
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def write_json(path, value):
    path.write_text(json.dumps(value, indent=2) + "\n")


def write_tiny_model(rng):
    weights = list(tiny_weights(rng))
    directory = HERE / "tiny_llama"
    directory.mkdir(exist_ok=True)
    shards = {"model-00001-of-00002.safetensors": weights[:7], "model-00002-of-00002.safetensors": weights[7:]}
    for shard, part in shards.items():
        write_safetensors(directory / shard, [(name, values) for name, _, values, _ in part])
    write_json(directory / "model.safetensors.index.json",
               {"metadata": {}, "weight_map": {w[0]: shard for shard, part in shards.items() for w in part}})
    write_json(directory / "config.json", {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": TINY["hidden"],
        "intermediate_size": TINY["mlp"], "num_attention_heads": TINY["heads"],
        "num_key_value_heads": TINY["kv_heads"], "num_hidden_layers": TINY["layers"], "vocab_size": TINY["vocab"],
        "max_position_embeddings": 256, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "rope_scaling": None,
        "tie_word_embeddings": False, "hidden_act": "silu", "sliding_window": None, "eos_token_id": 2})
    write_json(directory / "generation_config.json", {"eos_token_id": [2, 5]})
    write_json(directory / "tokenizer_config.json", {"chat_template": [
        {"name": "tool_use", "template": "tools"}, {"name": "default", "template": "{{ messages[0]['content'] }}"}]})

    writer = gguf.GGUFWriter(HERE / "gguf" / "tiny_llama.gguf", "llama")
    writer.add_block_count(TINY["layers"])
    writer.add_context_length(256)
    writer.add_embedding_length(TINY["hidden"])
    writer.add_feed_forward_length(TINY["mlp"])
    writer.add_head_count(TINY["heads"])
    writer.add_head_count_kv(TINY["kv_heads"])
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(TINY["head"])
    writer.add_vocab_size(TINY["vocab"])
    writer.add_eos_token_id(2)
    writer.add_chat_template("{{ messages[0]['content'] }}")
    writer.add_array("general.languages", ["en", "fr"])
    for _, name, values, heads in weights:
        writer.add_tensor(name, np.ascontiguousarray(interleave(values, heads) if heads else values))
    finish(writer)


def main():
    (HERE / "gguf").mkdir(exist_ok=True)
    for kind in (T.F32, T.F16, T.BF16, T.Q8_0, T.Q4_0, T.Q4_1, T.Q5_0, T.Q5_1, T.Q4_K, T.Q5_K, T.Q6_K):
        write_type(kind, np.random.default_rng(100 + kind.value))
    write_tiny_model(np.random.default_rng(7))


if __name__ == "__main__":
    main()

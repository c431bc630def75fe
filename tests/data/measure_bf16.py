#!/usr/bin/env python3
"""How far Hugging Face transformers' own bf16 forward is from its float32 logits on the checkpoints of tests/data/models.

    python3 tests/data/measure_bf16.py [NAME ...]         # needs torch, transformers 5 and safetensors; not run by the tests

Of every row of golden.safetensors: the largest difference of a logit over the row's largest logit. The tolerances of
bf16 in tests/tolerances.h and tests/model/families_gpu_test.cc refer to what it prints: mean and maximum over the rows."""
import pathlib
import sys

import torch
import transformers
from safetensors.torch import load_file

MODELS = pathlib.Path(__file__).resolve().parent / "models"


@torch.no_grad()
def differences(directory):
    model = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.bfloat16, attn_implementation="eager")
    golden = load_file(directory / "golden.safetensors")
    for name in sorted(golden):
        if not name.startswith("ids_"):
            continue
        rows, want = golden["rows" + name[3:]].long(), golden["logits" + name[3:]]
        got = model(golden[name].long()[None]).logits[0, rows].float()
        yield from ((got - want).abs().amax(1) / want.abs().amax(1)).tolist()


if __name__ == "__main__":
    torch.set_num_threads(4)
    for directory in sorted(MODELS.iterdir()):
        if len(sys.argv) == 1 or directory.name in sys.argv[1:]:
            found = list(differences(directory))
            print(f"{directory.name}: {len(found)} rows, mean {sum(found) / len(found):.4f}, maximum {max(found):.4f}", flush=True)

#!/usr/bin/env python3
"""Every policy on needle prompts: right answers, cache bytes, prefill and decode time over budgets; a table and a plot.

  policy_table.py --out results/policies [options]

For every length it makes prompts (needle.py), for every configuration of configs/policies and every budget it calls
`restkv run`, and at the end it writes FOLDER/table.md, FOLDER/table.jsonl and, with matplotlib, FOLDER/table.png.
Started again it goes on where it stopped. Of a configuration only the section `cache` is taken; budget, prompts and
model are this script's. Policies that do not evict run once per length.
"""

import argparse
import json
import os
import re
import shlex
import statistics
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, os.path.join(ROOT, "launch"))
import needle  # noqa: E402  (lies beside this file)

PANELS = (("right answers", lambda r: r["right"] / r["prompts"]), ("cache, MiB", lambda r: r["cache_bytes"] / 2**20),
          ("prefill, s", lambda r: r["prefill_s"]), ("decode, ms per token", lambda r: r["decode_ms"]))


def fail(text):
    print(f"policy_table.py: error: {text}", file=sys.stderr)
    sys.exit(2)


def cache_section(path):
    """The lines of the section `cache` but for the budget, and its keys."""
    with open(path, encoding="utf-8") as f:
        match = re.search(r"^cache:\n((?:[ ]+.*\n?)+)", f.read(), re.M)
    if match is None:
        fail(f"{path}: found no section cache")
    lines = [line for line in match.group(1).splitlines() if not line.strip().startswith("budget:")]
    return lines, dict(line.strip().split(": ", 1) for line in lines)


def configurations(folder, wanted):
    """{name: (cache lines, cache keys)} of every file that says what is kept of a prompt."""
    found = {}
    for file in sorted(os.listdir(folder)):
        path, name = os.path.join(folder, file), os.path.splitext(file)[0]
        with open(path, encoding="utf-8") as f:
            about_decoding = re.search(r"^decode:", f.read(), re.M)
        if file.endswith(".yaml") and not about_decoding and (not wanted or name in wanted):
            found[name] = cache_section(path)
    for name in set(wanted) - set(found):
        fail(f"--policies: found {name}, allowed: the names of files in {folder}")
    return found


def write(path, text):
    with open(path, "w", encoding="utf-8") as f:
        f.write(text)


def make_prompts(options, tokens):
    path = os.path.join(options.out, f"prompts-{tokens}.jsonl")
    make = needle.parse(["make", "--tokens", str(tokens), "--count", str(options.count), "--seed", str(options.seed)])
    write(path, "".join(json.dumps(needle.make_prompt(make, i)) + "\n" for i in range(options.count)))
    return path


def run(options, name, section, tokens, budget, prompts):
    """The row of one configuration, budget and length."""
    lines, keys = section
    if keys["policy"] == "h2o":  # half of the budget is the most recent tokens
        lines = [f"  window: {budget // 2}" if line.strip().startswith("window:") else line for line in lines]
    stem = os.path.join(options.out, f"{name}-{tokens}" + (f"-{budget}" if budget else ""))
    if not os.path.exists(stem + ".jsonl"):
        text = [f"model:\n  path: {options.model}", "cache:", *lines, *([f"  budget: {budget}"] if budget else []),
                f"prompt:\n  jsonl: {prompts}\n  chat: none", f"generate:\n  max_new_tokens: {options.new_tokens}",
                f"output:\n  file: {stem}.part\n  stream: false\n  progress: false"]
        write(stem + ".yaml", "\n".join(text) + "\n")
        command = shlex.split(options.restkv) + ["run", stem + ".yaml"] + [f"--set={s}" for s in options.set]
        done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False)
        if done.returncode != 0:
            why = done.stderr.strip().splitlines() or [f"{command[0]} ended with {done.returncode} and said nothing"]
            print(f"{name}, {tokens} tokens, budget {budget}: {why[-1]}", file=sys.stderr)
            return None
        os.rename(stem + ".part", stem + ".jsonl")
    pairs = needle.paired(stem + ".jsonl", prompts)
    results = [r for r, _ in pairs]
    steps = [r["decode_ms_per_token"] for r in results if r["decode_ms_per_token"] is not None]
    mean = lambda key: statistics.mean(r[key] for r in results)
    median = lambda key: statistics.median(r[key] for r in results)  # a run's first prompt pays for its start
    return {"policy": name, "tokens": tokens, "budget": budget, "prompts": len(pairs), "prompt_tokens": mean("prompt_tokens"),
            "right": sum(needle.is_right(r, p) for r, p in pairs), "cache_bytes": mean("cache_bytes"),
            "full_cache_bytes": mean("full_cache_bytes"), "prefill_s": median("prefill_s"), "evict_s": median("evict_s"),
            "decode_ms": statistics.median(steps) if steps else None}


def table(rows):
    text = ["| policy | prompt | budget | right | cache MiB | of full | prefill s | eviction s | decode ms |", "|---" * 9 + "|"]
    for r in rows:
        decode = "-" if r["decode_ms"] is None else f"{r['decode_ms']:.2f}"
        text.append(f"| {r['policy']} | {r['prompt_tokens']:.0f} | {r['budget'] or '-'} | {r['right']} of {r['prompts']} | "
                    f"{r['cache_bytes'] / 2**20:.2f} | {100 * r['cache_bytes'] / r['full_cache_bytes']:.1f} % | "
                    f"{r['prefill_s']:.3f} | {r['evict_s']:.4f} | {decode} |")
    return "\n".join(text) + "\n"


def draw(rows, path):
    try:
        import matplotlib
    except ImportError:
        print("policy_table.py: no plot: matplotlib is not installed (Debian: python3-matplotlib)", file=sys.stderr)
        return
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    lengths, names = sorted({r["tokens"] for r in rows}), sorted({r["policy"] for r in rows})
    budgets = sorted({r["budget"] for r in rows if r["budget"]})
    figure, axes = plt.subplots(len(PANELS), len(lengths), figsize=(5.5 * len(lengths), 14), squeeze=False)
    for column, tokens in enumerate(lengths):
        for panel, (title, value) in zip(axes[:, column], PANELS):
            for i, name in enumerate(names):
                line = [(r["budget"], value(r)) for r in rows if r["policy"] == name and r["tokens"] == tokens]
                line = [(b, y) for b, y in line if y is not None]
                if any(b is None for b, _ in line):  # no budget: a level
                    line = [(b, line[0][1]) for b in budgets]
                panel.plot(*zip(*sorted(line)) if line else ([], []), marker="o", markersize=3, color=f"C{i % 10}",
                           linestyle=("-", "--", ":", "-.")[i // 10 % 4], label=name)
            panel.set_title(f"{title}, prompts of {tokens} tokens", fontsize=9)
            panel.set_xlabel("budget, tokens")
            if budgets:
                panel.set_xscale("log", base=2)
                panel.set_xticks(budgets, [str(b) for b in budgets])
                panel.minorticks_off()
            panel.grid(True, alpha=0.3)
    handles, labels = axes.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncols=min(6, len(labels)), fontsize=8)
    figure.tight_layout(rect=(0, 0.03 + 0.012 * ((len(labels) + 5) // 6), 1, 1))
    figure.savefig(path, dpi=120)
    print(path)


def integers(text):
    return [int(part) for part in text.split(",")]


def parse(arguments):
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    p.add_argument("--out", required=True, help="folder of results")
    p.add_argument("--restkv", default="build/release/launch/restkv", help="how to start it, with mpirun where wanted")
    p.add_argument("--model", default="models/SmolLM2-135M-Instruct.Q4_1.gguf")
    p.add_argument("--configs", default=os.path.join(ROOT, "configs", "policies"))
    p.add_argument("--policies", type=lambda text: text.split(","), default=[], help="names of files there; all")
    p.add_argument("--lengths", type=integers, default=[2000, 4000, 7900], help="prompt tokens, about")
    p.add_argument("--budgets", type=integers, default=[64, 128, 256, 512, 1024])
    p.add_argument("--count", type=int, default=20, help="prompts per length")
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--new-tokens", type=int, default=16)
    p.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="passed on to restkv")
    return p.parse_args(arguments)


def main():
    options = parse(sys.argv[1:])
    os.makedirs(options.out, exist_ok=True)
    found = configurations(options.configs, options.policies)
    rows = []
    for tokens in options.lengths:
        prompts = make_prompts(options, tokens)
        for name, section in found.items():
            for budget in [None] if section[1]["policy"] == "full" else options.budgets:
                row = run(options, name, section, tokens, budget, prompts)
                if row is not None:
                    rows.append(row)
                    print(table([row]).splitlines()[-1], flush=True)
    if not rows:
        fail("no run came to an end")
    write(os.path.join(options.out, "table.md"), table(rows))
    write(os.path.join(options.out, "table.jsonl"), "".join(json.dumps(row) + "\n" for row in rows))
    draw(rows, os.path.join(options.out, "table.png"))


if __name__ == "__main__":
    main()
